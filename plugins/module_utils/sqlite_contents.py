# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a database file holds: its tables, their columns and rows, and the versions of Opstage that it fits."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import sqlite3
from dataclasses import dataclass
from typing import Any, Mapping, TypedDict

from .sqlite_files import (
    DatabaseFileError,
    Deadline,
    Reason,
    errors_raised_as,
    logs_with_content,
    opened_plain_file,
    read_errors_named,
    require_unmoved,
)
from .sqlite_verify import connect_immutable, is_text, needs_application, quoted, read_header
from .sqlite_worker import Channel, Child

TABLES_ADDED = {
    "0.1.0": (
        "workspaces",
        "users",
        "audit_events",
        "system_settings",
        "registration_tokens",
        "agents",
        "agent_tokens",
        "capsule_services",
        "health_reports",
        "config_items",
        "action_definitions",
        "commands",
        "command_results",
    ),
    "0.2.0": (),
    "0.3.0": (),
    "0.4.0": ("bus_events", "bus_routes"),
}
"""The known versions of Opstage, oldest first, and the tables that each added; none has removed one."""

_STEPS_BETWEEN_CHECKS = 100_000
_CHARACTERS_OF_PART = 24_000
_MOST_CHARACTERS = 8 << 20
_HIDDEN_COLUMN = 1
_WHITE_SPACE = re.compile("[ \t\n\f\r]+")


class ContentsError(DatabaseFileError):
    """The contents of a database cannot be read."""


class Table(TypedDict):
    """One table.

    ``columns`` are their names in their order, ``rows`` is how many there are. Both are None for a virtual table, which
    is not opened: it runs code of its own on what the file holds, and its rows lie in ordinary tables. They are also
    None where SQLite lacks a collation, function or module of the application, and where the name of the table is none
    that a statement can have. ``rows`` is None where they were not to be counted.
    """

    columns: list[str] | None
    rows: int | None


@dataclass(frozen=True)
class Contents:
    """What a database holds; tables by name, without SQLite's own (https://sqlite.org/fileformat2.html#intschema).

    ``schema_sha256``: see manifest.SCHEMA. It is the same for the same statements in whatever order and with whatever
    white space they were made.
    """

    schema_sha256: str
    tables: dict[str, Table]


@dataclass(frozen=True)
class VersionGuess:
    """Which of the known versions of Opstage have just the tables of a database, oldest first; none: ``explanation``.

    ``unknown_tables`` are in none of them, so the database is from a newer one; ``missing_tables`` are in all of them,
    so it is no database of Opstage.
    """

    versions: tuple[str, ...]
    unknown_tables: tuple[str, ...]
    missing_tables: tuple[str, ...]
    explanation: str


def read_contents(path: str, count_rows: bool = True, deadline: Deadline | None = None) -> Contents:
    """Read what the self-contained database file at ``path`` holds, in a child process, without a write beside it.

    Raises ContentsError, also when a log that belongs to the file lies beside it.
    """
    deadline = deadline or Deadline(None)
    with errors_raised_as(ContentsError, f"reading the contents of {path}"), opened_plain_file(path) as descriptor:
        logs = logs_with_content(path)
        if logs:
            raise DatabaseFileError(
                Reason.REFUSED, f"{', '.join(logs)} has a part of them; make one file of it with sqlite_backup"
            )
        read_header(descriptor, path)
        work = functools.partial(_read, path, count_rows)
        with read_errors_named(descriptor, path, deadline), Child(work, "looking into it") as child:
            found = _received(child, deadline)
        require_unmoved(path, descriptor)
    return Contents(**found)


def _received(child: Child, deadline: Deadline) -> dict[str, Any]:
    """What the child says, put together from its messages."""
    text = ""
    while True:
        message = child.answer(deadline)
        if "part" not in message:
            found: dict[str, Any] = json.loads(text)
            return found
        text += message["part"]


def _read(path: str, count_rows: bool, channel: Channel) -> None:
    """What the child does; it ends when nobody waits for it any more."""
    parent = os.getppid()
    with contextlib.closing(connect_immutable(path, 1)) as connection:
        connection.set_progress_handler(lambda: int(os.getppid() != parent), _STEPS_BETWEEN_CHECKS)
        found = {"schema_sha256": _hash_schema(connection), "tables": _tables(connection, count_rows)}
    text = json.dumps(found)
    if len(text) > _MOST_CHARACTERS:
        raise DatabaseFileError(
            Reason.REFUSED,
            f"the names of its tables and columns have {len(text)} characters, expected are at most "
            f"{_MOST_CHARACTERS}, as of any application; look into its schema",
        )
    for start in range(0, len(text), _CHARACTERS_OF_PART):
        channel.send({"part": text[start : start + _CHARACTERS_OF_PART]})


def _hash_schema(connection: sqlite3.Connection) -> str:
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
    lines = sorted(
        json.dumps([kind, name, table, _WHITE_SPACE.sub(" ", statement or "")]) + "\n"
        for kind, name, table, statement in rows
        if not _is_internal(name)
    )
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def _tables(connection: sqlite3.Connection, count_rows: bool) -> dict[str, Table]:
    listed = connection.execute(
        "SELECT name, ifnull(rootpage, 0) FROM sqlite_master WHERE type = 'table' ORDER BY name"
    ).fetchall()
    return {
        _printable(name): _table(connection, name, count_rows)
        if root and is_text(name)
        else Table(columns=None, rows=None)
        for name, root in listed
        if not _is_internal(name)
    }


def _table(connection: sqlite3.Connection, name: str, count_rows: bool) -> Table:
    table = Table(columns=None, rows=None)
    try:
        columns = connection.execute(f"PRAGMA table_xinfo({quoted(name)})").fetchall()
        table["columns"] = [_printable(column[1]) for column in columns if column[6] != _HIDDEN_COLUMN]
        if count_rows:
            table["rows"] = connection.execute(f"SELECT count(*) FROM {quoted(name)}").fetchone()[0]
    except sqlite3.OperationalError as error:
        if not needs_application(error):
            raise
    return table


def _is_internal(name: str) -> bool:
    """Whether a name is one that only SQLite itself gives."""
    return name.lower().startswith("sqlite_")


def _printable(name: str) -> str:
    """A name with a backslash and a number for each byte that is no UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def missing_in(running: Mapping[str, Table], point: Mapping[str, Table]) -> list[str]:
    """Return what ``point`` has and ``running`` has not: tables, and columns as ``table.column``.

    Both are tables by name, of Contents or of a manifest's ``database.tables``. SQLite's names differ by more than
    capitals. Columns of a table are compared where both are known.
    """
    present = {name.lower(): table["columns"] for name, table in running.items()}
    missing = []
    for name, table in point.items():
        if name.lower() not in present:
            missing.append(name)
            continue
        there = present[name.lower()]
        if there is not None and table["columns"] is not None:
            known = {column.lower() for column in there}
            missing += [f"{name}.{column}" for column in table["columns"] if column.lower() not in known]
    return missing


def guess_version(database: str) -> VersionGuess:
    """Tell by its tables which versions of Opstage the self-contained file ``database``, without a manifest, fits.

    Versions with the same tables cannot be told apart: use the oldest for what must not be older than the file, and
    take care, since a version newer than the known ones may have added none. Raises ContentsError.
    """
    found = {name.lower(): name for name in read_contents(database, count_rows=False).tables}
    known: set[str] = set()
    versions = []
    for version, added in TABLES_ADDED.items():
        known.update(added)
        if known == found.keys():
            versions.append(version)
    missing = tuple(table for table in TABLES_ADDED["0.1.0"] if table not in found)
    unknown = tuple(name for lowered, name in found.items() if lowered not in known)
    if missing:
        explanation = f"{database} is no database of Opstage: it lacks the tables {', '.join(missing)}."
    elif unknown:
        explanation = f"{database} is newer than is known: no Opstage up to {version} has {', '.join(unknown)}."
    elif not versions:
        explanation = f"{database} has some of the tables that Opstage {version} added, and not all of them."
    else:
        explanation = f"{database} has the tables of Opstage {', '.join(versions)}."
    return VersionGuess(tuple(versions), unknown, missing, explanation)
