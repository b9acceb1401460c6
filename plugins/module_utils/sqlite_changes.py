# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was written between two copies of a database, counted by table."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from dataclasses import dataclass
from typing import Mapping, TypedDict

from .sqlite_contents import Table, missing_in, read_contents
from .sqlite_files import DatabaseFileError, Deadline, database_uri, errors_raised_as
from .sqlite_verify import connect_immutable, needs_application, quoted
from .sqlite_worker import Channel, Child

_STEPS_BETWEEN_CHECKS = 100_000
_TABLES_IN_A_MESSAGE = 100
_ROW_NUMBER = "rowid"


class ChangesError(DatabaseFileError):
    """Two databases cannot be compared."""


class Change(TypedDict):
    """Rows of one table: new ones, those with another content under the same key, and those that are gone."""

    added: int
    changed: int
    removed: int


@dataclass(frozen=True)
class Comparison:
    """What is different in the newer of two databases.

    ``tables``: the changes by table, the names in their order, without those that do not differ. None stands for one
    that cannot be compared: a virtual table, or one that needs a function or collation which only the application has.
    ``missing``: what only the older one has, tables, and columns as ``table.column``.
    """

    tables: dict[str, Change | None]
    missing: list[str]


def compare_databases(before: str, after: str, deadline: Deadline | None = None) -> Comparison:
    """Count what is different in the database file ``after``.

    Rows belong together by the primary key, where it has none by their number (rowid). Columns that only one of the two
    has are not compared. Both files are read only, in a child process. Raises ChangesError.
    """
    deadline = deadline or Deadline(None)
    with errors_raised_as(ChangesError, f"comparing {before} with {after}"):
        old = read_contents(before, count_rows=False, deadline=deadline).tables
        new = read_contents(after, count_rows=False, deadline=deadline).tables
        work = functools.partial(_compare, before, after, old, new)
        counted: dict[str, Change | None] = {}
        with Child(work, "comparing them") as child:
            while True:
                message = child.answer(deadline)
                if "result" in message:
                    break
                counted.update(message["tables"])
    differing = {name: change for name, change in sorted(counted.items()) if change is None or any(_counts(change))}
    return Comparison(differing, missing_in(new, old))


def describe_changes(changes: Mapping[str, Change | None]) -> str:
    """The counts as one line of text, the largest first."""
    known = {name: change for name, change in changes.items() if change is not None}
    parts = [
        f"{name}: " + ", ".join(f"{count} {word}" for word, count in change.items() if count)
        for name, change in sorted(known.items(), key=lambda item: (-sum(_counts(item[1])), item[0]))
    ]
    parts += [f"{name}: not known" for name, change in changes.items() if change is None]
    return "; ".join(parts) or "nothing"


def _counts(change: Change) -> list[int]:
    return [change["added"], change["changed"], change["removed"]]


def _compare(before: str, after: str, old: Mapping[str, Table], new: Mapping[str, Table], channel: Channel) -> None:
    """What the child does; it ends when nobody waits for it any more."""
    parent = os.getppid()
    with contextlib.closing(connect_immutable(after, 1)) as connection:
        connection.execute("ATTACH ? AS old", (database_uri(before, mode="ro", immutable="1"),))
        connection.set_progress_handler(lambda: int(os.getppid() != parent), _STEPS_BETWEEN_CHECKS)
        names = sorted(old.keys() | new.keys())
        for start in range(0, len(names), _TABLES_IN_A_MESSAGE):
            some = names[start : start + _TABLES_IN_A_MESSAGE]
            channel.send({"tables": {name: _change(connection, name, old.get(name), new.get(name)) for name in some}})


def _change(connection: sqlite3.Connection, name: str, old: Table | None, new: Table | None) -> Change | None:
    if any(table is not None and table["columns"] is None for table in (old, new)):
        return None
    try:
        if old is None:
            return Change(added=_value(connection, f"SELECT count(*) FROM main.{quoted(name)}"), changed=0, removed=0)
        if new is None:
            return Change(added=0, changed=0, removed=_value(connection, f"SELECT count(*) FROM old.{quoted(name)}"))
        shared = [column for column in new["columns"] or [] if column in (old["columns"] or [])]
        key = _key(connection, name)
        return _compared(connection, name, key, shared) if set(key) <= {*shared, _ROW_NUMBER} else None
    except sqlite3.OperationalError as error:
        if not needs_application(error):
            raise
        return None


def _compared(connection: sqlite3.Connection, name: str, key: list[str], shared: list[str]) -> Change:
    table = quoted(name)
    same_key = " AND ".join(f"one.{quoted(column)} IS other.{quoted(column)}" for column in key)
    same = " AND ".join(f"one.{quoted(column)} IS other.{quoted(column)}" for column in shared)
    alone = f"{table} AS other WHERE {same_key}"
    return Change(
        added=_value(
            connection, f"SELECT count(*) FROM main.{table} AS one WHERE NOT EXISTS (SELECT 1 FROM old.{alone})"
        ),
        changed=_value(
            connection,
            f"SELECT count(*) FROM main.{table} AS one JOIN old.{table} AS other ON {same_key} WHERE NOT ({same})",
        ),
        removed=_value(
            connection, f"SELECT count(*) FROM old.{table} AS one WHERE NOT EXISTS (SELECT 1 FROM main.{alone})"
        ),
    )


def _key(connection: sqlite3.Connection, name: str) -> list[str]:
    """The columns of the primary key in the new database, or the number of the row."""
    columns = connection.execute(f"PRAGMA main.table_info({quoted(name)})").fetchall()
    key = sorted((column[5], column[1]) for column in columns if column[5])
    return [column for _place, column in key] or [_ROW_NUMBER]


def _value(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])
