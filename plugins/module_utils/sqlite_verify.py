# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prove that one file is a whole SQLite database, without writing anything beside it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import re
import sqlite3
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Iterable, Sequence

from .sqlite_files import (
    NOT_CHECKED,
    PARTLY_CHECKED,
    DatabaseFileError,
    Deadline,
    Progress,
    ProgressReport,
    Reason,
    blocks_of,
    database_uri,
    errors_raised_as,
    explain_sqlite_error,
    logs_with_content,
    opened_plain_file,
    read_errors_named,
    require_unmoved,
)
from .sqlite_worker import TICK_SECONDS, Channel, Child, Message, limit_heap, messages_from
from .write_back import WriteBack

MAGIC = b"SQLite format 3\x00"
HEADER_BYTES = 100

_REPORTED_PROBLEMS = 5
_REPORTED_CHARACTERS = 200
_STEPS_BETWEEN_CHECKS = 100_000
_GROUPS = 16

# Of all processes together. Twice 8 MiB instead of 2 make integrity_check a fifth faster.
_CACHE_KIBIBYTES = 16 << 10

_MISSING_COLLATION = re.compile(r"no such collation sequence: (\w+)", re.ASCII)
_NEEDS_APPLICATION = ("no such collation sequence", "no such function", "unknown function", "no such module")
_BYTES_OF_SMALL_ROW = 32
_BYTES_OF_ROW = 128

# Whether each table has the name under which it is listed; virtual ones have no foreign keys.
_ALL_NAMED = """
    SELECT count(*) = 0 FROM sqlite_master AS listed
    WHERE type = 'table' AND rootpage > 0 AND NOT EXISTS (SELECT 1 FROM pragma_table_info(listed.name))
"""
_FOREIGN_KEYS = """
    SELECT listed.name, count(DISTINCT keys.id)
    FROM sqlite_master AS listed, pragma_foreign_key_list(listed.name) AS keys
    WHERE type = 'table' GROUP BY 1
"""
_ROWS_SOON_COUNTED = 20_000

# What was measured in the time that it takes to hash a byte: 2.3 million rows with 2 indexes took 14 s to check, a
# million references 0.11 to 0.22 s, 1 GB 1.1 s for quick_check and 0.7 s to hash.
_COST_OF_ENTRY = 3000.0
_COST_OF_REFERENCE = 250.0
_COST_OF_STRUCTURE = 1.6


class VerificationError(DatabaseFileError):
    """A file is not a whole, self-contained database."""


@dataclass(frozen=True)
class DatabaseFacts:
    """What was found in a database file.

    ``integrity`` is ``ok``; ``not checked`` at level ``none``; or ``partly checked`` where an index needs a collation
    or a function that only the application has: then all else is sound. ``foreign_key_violations`` counts rows whose
    parent is missing: the application's own data, faithfully copied, hence no error; None where it was not or, for a
    mistake in the schema, could not be counted.
    """

    size: int
    sha256: str
    page_size: int
    page_count: int
    user_version: int
    application_id: int
    integrity: str
    tables: int
    foreign_key_violations: int | None


@dataclass(frozen=True)
class Header:
    """Fields of a database's first 100 bytes (https://sqlite.org/fileformat2.html#the_database_header).

    ``page_count`` is None where the header's own count is not valid.
    """

    page_size: int
    page_count: int | None
    write_ahead_log: bool


def read_header(descriptor: int, path: str) -> Header:
    """Read the header of an open file. Raises DatabaseFileError when it is not that of a database."""
    header = os.pread(descriptor, HEADER_BYTES, 0)
    if not header:
        raise DatabaseFileError(Reason.NOT_A_DATABASE, f"{path} is empty (0 bytes); an SQLite database is expected")
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise DatabaseFileError(
            Reason.NOT_A_DATABASE,
            f"{path} is not an SQLite database: it begins with {header[:16]!r}, expected is {MAGIC!r}",
        )
    stored = int.from_bytes(header[16:18], "big")
    page_size = 65536 if stored == 1 else stored
    if page_size < 512 or page_size & (page_size - 1):
        raise DatabaseFileError(
            Reason.DAMAGED_SOURCE,
            f"{path} claims a page size of {page_size}; a power of two from 512 to 65536 is expected",
        )
    counted = header[24:28] == header[92:96]
    page_count = int.from_bytes(header[28:32], "big")
    return Header(page_size, page_count if counted and page_count else None, header[18] == 2)


def verify_database(
    path: str,
    level: str,
    deadline: Deadline | None = None,
    progress: ProgressReport | None = None,
    write_back: WriteBack | None = None,
) -> DatabaseFacts:
    """Check the self-contained database file at ``path`` and take its facts.

    ``level`` is ``full`` (integrity_check), ``quick`` (quick_check) or ``none`` (header and size only); ``write_back``
    brings the file to the disk meanwhile. The file must not be written meanwhile. The parts run side by side, in
    processes of their own. Raises VerificationError, also when a log that belongs to it lies beside it.
    """
    deadline = deadline or Deadline(None)
    with errors_raised_as(VerificationError, f"verifying {path}"), opened_plain_file(path) as descriptor:
        logs = logs_with_content(path)
        if logs:
            raise DatabaseFileError(
                Reason.REFUSED,
                f"{', '.join(logs)} holds changes that are not in the file itself; "
                "make one self-contained file of them with sqlite_backup",
            )
        before = os.fstat(descriptor)
        header = read_header(descriptor, path)
        page_count = require_whole(header, before.st_size)
        with read_errors_named(descriptor, path, deadline), _Examiners(
            path, descriptor, level, write_back
        ) as examiners:
            found = examiners.results(deadline, progress)
        require_unmoved(path, descriptor)
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DatabaseFileError(Reason.REFUSED, "it was written to meanwhile; verify a copy that nobody writes to")
    return DatabaseFacts(
        size=before.st_size,
        page_size=header.page_size,
        page_count=page_count,
        **found,
    )


def require_whole(header: Header, size: int) -> int:
    """The number of pages. Raises DatabaseFileError when the file has not the size which its header says."""
    page_count = header.page_count or size // header.page_size
    if size != header.page_size * page_count:
        raise DatabaseFileError(
            Reason.DAMAGED_SOURCE,
            f"its size is {size} bytes, its header says {page_count} pages of {header.page_size} bytes "
            f"({header.page_size * page_count} bytes)",
        )
    return page_count


@dataclass
class _Task:
    """One part of a verification, ``cost`` in bytes that could be hashed in its time.

    ``steps`` is how many instructions of SQLite's virtual machine it will take, as far as is known, ``done`` the part
    of it that is done, from 0 to 1. Both are for the order of the tasks and for the progress only.
    """

    kind: str
    cost: float
    group: int = 0
    steps: float = 0
    done: float = 0


class _Examiners:
    """Child processes that share the parts of one verification, as many as there are cores, 4 at the most."""

    def __init__(self, path: str, descriptor: int, level: str, write_back: WriteBack | None) -> None:
        self._size = os.fstat(descriptor).st_size
        self._level = level
        self._started = time.monotonic()
        self._told = 0
        self._tasks = [_Task("facts", math.inf), _Task("sha256", self._size)]
        if level != "none":
            self._tasks.append(_Task("structure", _COST_OF_STRUCTURE * self._size))
        self._known = list(self._tasks)
        self._running: dict[int, _Task] = {}
        self._children: list[Child] = []
        self._write_back = write_back
        self._open = contextlib.ExitStack()
        count = min(len(os.sched_getaffinity(0)), 4)
        work = functools.partial(_examine, path, level, descriptor, count)
        with contextlib.ExitStack() as opened:
            for _number in range(count):
                self._children.append(opened.enter_context(Child(work, "examining it")))
            self._open = opened.pop_all()

    def __enter__(self) -> _Examiners:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def results(self, deadline: Deadline, report: ProgressReport | None) -> dict[str, Any]:
        """All that was found. Raises DatabaseFileError at the first thing that is wrong, and at the deadline."""
        found: dict[str, Any] = {
            "foreign_key_violations": None if self._level == "none" else 0,
            "integrity": NOT_CHECKED if self._level == "none" else "ok",
        }
        self._give()
        children = list(self._children)
        if self._write_back is not None:
            self._write_back.begin_last()
            children.append(self._write_back.child)
            self._running[self._write_back.child.pid] = _Task("sync", math.inf)
        answers = messages_from(children, deadline, lambda: self._tell(report))
        while self._running:
            child = next(answers)
            message = child.received()
            task = self._running[child.pid]
            if "steps" in message:
                task.done = min(0.99, message["steps"] / task.steps) if task.steps else 0
            elif "part" in message:
                task.done = message["part"]
            else:
                task.done = 1
                del self._running[child.pid]
                self._take(found, message)
                self._give()
            self._tell(report)
        return found

    def _take(self, found: dict[str, Any], message: dict[str, Any]) -> None:
        """Note what a task has found; the first one says which groups of tables there are to check."""
        result = message["result"]
        counts = [found["foreign_key_violations"], result.pop("foreign_key_violations", 0)]
        found.update(result, foreign_key_violations=None if None in counts else sum(counts))
        for task in self._known:
            if "rows" in message and task.kind == "structure":
                task.steps = 7 * message["rows"]
        added = [
            _Task("tables", _COST_OF_ENTRY * (rows + entries), number, 2.5 * rows + 4 * entries)
            for number, (rows, entries) in enumerate(message.get("tables", []))
        ]
        added += [
            _Task("references", _COST_OF_REFERENCE * references, number, 5 * references)
            for number, (_rows, references) in enumerate(message.get("references", []))
        ]
        self._tasks += added
        self._known += added

    def _give(self) -> None:
        """Each idle child the longest task that is left."""
        for child in self._children:
            if child.pid not in self._running and self._tasks:
                task = max(self._tasks, key=lambda task: task.cost)
                self._tasks.remove(task)
                self._running[child.pid] = task
                child.send({"kind": task.kind, "group": task.group})

    def _tell(self, report: ProgressReport | None) -> None:
        """What was said to be done stays so: how much there is to do becomes known on the way only."""
        if report is not None:
            costs = [(task.cost, task.done) for task in self._known if task.cost < math.inf]
            done = sum(cost * part for cost, part in costs) / sum(cost for cost, _part in costs)
            self._told = max(self._told, int(done * self._size))
            report(Progress("verifying", self._told, self._size, time.monotonic() - self._started))


def _examine(path: str, level: str, descriptor: int, children: int, channel: Channel) -> None:
    """What each of so many children does: one task after the other, until the parent is gone."""
    with contextlib.closing(connect_immutable(path, children)) as connection:
        examiner = _Examiner(connection, level, descriptor, channel)
        while True:
            request = channel.receive()
            if request is None:
                return
            channel.send(examiner.answer(request["kind"], request["group"]))


class _Examiner:
    """Does the tasks of one child, and tells how far it has come."""

    def __init__(self, connection: sqlite3.Connection, level: str, descriptor: int, channel: Channel) -> None:
        self._connection = connection
        self._level = level
        self._descriptor = descriptor
        self._channel = channel
        self._parent = os.getppid()
        self._steps = 0
        self._told = time.monotonic()

    def answer(self, kind: str, group: int) -> Message:
        """Do one task. Raises DatabaseFileError, sqlite3.Error and OSError."""
        self._steps = 0
        self._connection.set_progress_handler(self._stepped, _STEPS_BETWEEN_CHECKS)
        if kind == "facts":
            return {"result": self._facts(), **self._plan()}
        if kind == "sha256":
            return {"result": {"sha256": self._sha256()}}
        if kind == "references":
            return {"result": {"foreign_key_violations": self._count_violations(self._reference_groups[group])}}
        if kind == "structure":
            return {"result": self._check_structure()}
        return {"result": self._check_tables("integrity_check", self._groups[group].tables)}

    def _plan(self) -> Message:
        """The size of all groups of tables that are to be checked, and how many rows there are in all."""
        if self._level == "none":
            return {}
        plan: Message = {
            "rows": sum(group.rows for group in self._groups),
            "references": [group.size for group in self._reference_groups],
        }
        if self._level == "full" and self._checks_one_table:
            plan["tables"] = [group.size for group in self._groups]
        return plan

    def _count_violations(self, group: _Group) -> int | None:
        """Rows whose parent is missing; see DatabaseFacts."""
        checks = [f"foreign_key_check({quoted(table)})" for table in group.tables] or ["foreign_key_check"]
        try:
            return sum(1 for check in checks for _row in self._connection.execute(f"PRAGMA {check}"))
        except sqlite3.OperationalError as error:
            if "foreign key mismatch" in str(error) or needs_application(error):
                return None
            raise

    def _check_structure(self) -> Message:
        """Pages, cells, free list, and all the rest where that cannot be checked table by table."""
        result: Message = {}
        if self._level == "full" and not self._checks_one_table:
            result = self._check("integrity_check")
            if not result:
                return result
        quick = self._check("quick_check")
        if quick and self._checks_one_table:
            self._check_tables("quick_check", [table for table, _root in self._tables])
        return {**result, **quick}

    def _check_tables(self, check: str, tables: Sequence[str]) -> Message:
        result: Message = {}
        for table in tables:
            result.update(self._check(f"{check}({quoted(table)})"))
        return result

    def _check(self, check: str) -> Message:
        """Raises DatabaseFileError when something is wrong; ``integrity`` says when not all could be looked at."""
        try:
            problems = problems_found(self._connection, check)
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                text = f"its schema has a table under another name than it defines: PRAGMA {check}: {error}"
                raise DatabaseFileError(Reason.DAMAGED_SOURCE, text) from error
            if not needs_application(error):
                raise
            return {"integrity": PARTLY_CHECKED}
        if problems:
            raise DatabaseFileError(Reason.DAMAGED_SOURCE, describe_problems(check, problems))
        return {}

    def _stepped(self) -> int:
        """Called by SQLite; 1 interrupts it, since nobody waits for the result any more."""
        self._steps += _STEPS_BETWEEN_CHECKS
        if self._is_time():
            self._channel.send({"steps": self._steps})
        return int(os.getppid() != self._parent)

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._told < TICK_SECONDS:
            return False
        self._told = now
        return True

    def _sha256(self) -> str:
        size = os.fstat(self._descriptor).st_size
        digest = hashlib.sha256()
        done = 0
        for block in blocks_of(self._descriptor):
            digest.update(block)
            done += len(block)
            if self._is_time():
                self._channel.send({"part": done / size})
        return digest.hexdigest()

    def _facts(self) -> Message:
        return {
            "user_version": _value(self._connection, "PRAGMA user_version"),
            "application_id": _value(self._connection, "PRAGMA application_id"),
            "tables": _value(self._connection, "SELECT count(*) FROM sqlite_master WHERE type = 'table'"),
        }

    @functools.cached_property
    def _checks_one_table(self) -> bool:
        """Whether integrity_check takes a table's name, as since 3.33.0 (https://sqlite.org/changes.html), and each has
        one that can be said: SQLite keeps any bytes, statements are made of UTF-8.
        """
        return sqlite3.sqlite_version_info >= (3, 33, 0) and all(map(is_text, dict(self._tables)))

    @functools.cached_property
    def _tables(self) -> list[tuple[str, int]]:
        """Name and root page of all tables; virtual ones have none, and check themselves since 3.44.0."""
        return self._connection.execute(
            "SELECT name, ifnull(rootpage, 0) FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()

    @functools.cached_property
    def _groups(self) -> list[_Group]:
        """All tables with their entries, which are those in the table itself and in its indexes."""
        indexes: dict[str, int] = dict(
            self._connection.execute("SELECT tbl_name, count(*) FROM sqlite_master WHERE type = 'index' GROUP BY 1")
        )
        return _spread((table, rows, rows * (1 + indexes.get(table, 0))) for table, rows in self._rows.items())

    @functools.cached_property
    def _reference_groups(self) -> list[_Group]:
        """Tables with foreign keys, and how many references they have; one group without a table, for a check of all
        at once, where not every one can be named.
        """
        try:
            named = self._connection.execute(_ALL_NAMED).fetchone()[0] and all(map(is_text, self._rows))
            keys: dict[str, int] = dict(self._connection.execute(_FOREIGN_KEYS) if named else ())
        except sqlite3.OperationalError:
            named = False
        if not named:
            return [_Group([], sum(self._rows.values()), sum(self._rows.values()))]
        return _spread((table, rows, rows * keys[table]) for table, rows in self._rows.items() if table in keys)

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        """About how many rows each table has."""
        return {table: self._count_rows(table) if root and is_text(table) else 0 for table, root in self._tables}

    def _count_rows(self, table: str) -> int:
        """About how many rows there are: the highest number of a row, if that can be, or what is soon counted."""
        size = os.fstat(self._descriptor).st_size
        # The second is for WITHOUT ROWID; where the application has the order of its key, neither can be done.
        for query in ("max(rowid) FROM {}", f"count(*) FROM (SELECT 1 FROM {{}} LIMIT {_ROWS_SOON_COUNTED})"):
            with contextlib.suppress(sqlite3.OperationalError):
                rows = self._connection.execute("SELECT " + query.format(quoted(table))).fetchone()[0]
                if not isinstance(rows, int):
                    return 0
                if rows == _ROWS_SOON_COUNTED:
                    rows = size // _BYTES_OF_ROW
                return max(0, min(size // _BYTES_OF_SMALL_ROW, rows))
        return 0


@dataclass
class _Group:
    """Tables that are checked in one go, and how many rows and entries they have."""

    tables: list[str] = field(default_factory=list)
    rows: int = 0
    entries: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.rows, self.entries

    def add(self, table: str, rows: int, entries: int) -> None:
        self.tables.append(table)
        self.rows += rows
        self.entries += entries


def _spread(tables: Iterable[tuple[str, int, int]]) -> list[_Group]:
    """Tables, with their rows and entries, in groups of about the same size; the same in each child."""
    groups = [_Group() for _number in range(_GROUPS)]
    for table in sorted(tables, key=lambda table: (-table[2], table[0])):
        min(groups, key=lambda group: group.entries).add(*table)
    return [group for group in groups if group.tables]


def is_text(name: str) -> bool:
    """Whether a name can be part of a statement."""
    return "\0" not in name and not any("\ud800" <= character <= "\udfff" for character in name)


def quoted(identifier: str) -> str:
    """An identifier as SQL has it."""
    return '"' + identifier.replace('"', '""') + '"'


def connect_immutable(path: str, processes: int) -> sqlite3.Connection:
    """Open without locks, sidecars or any write (immutable); nothing in the schema is trusted."""
    connection = sqlite3.connect(database_uri(path, mode="ro", immutable="1"), uri=True, isolation_level=None)
    connection.text_factory = decoded
    limit_heap(connection, processes)
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIBIBYTES // processes}")
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    return connection


def decoded(text: bytes) -> str:
    """What SQLite calls text; it does not look whether it is UTF-8."""
    return text.decode("utf-8", "surrogateescape")


def _value(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def problems_found(connection: sqlite3.Connection, check: str) -> list[str]:
    """What the pragma ``check`` (integrity_check, quick_check) finds wrong; empty when all is well.

    quick_check wants the collations that only the application has, but compares nothing: any order will do there.
    """
    stand_ins: set[str] = set()
    try:
        while True:
            try:
                return _problems_found(connection, check)
            except sqlite3.OperationalError as error:
                missing = _MISSING_COLLATION.fullmatch(str(error))
                if not missing or not check.startswith("quick_check") or missing.group(1) in stand_ins:
                    raise
                stand_ins.add(missing.group(1))
                connection.create_collation(missing.group(1), lambda _one, _other: 0)
    finally:
        for name in stand_ins:
            connection.create_collation(name, None)


def _problems_found(connection: sqlite3.Connection, check: str) -> list[str]:
    try:
        problems: list[str] = [row[0] for row in connection.execute(f"PRAGMA {check}")]
    except sqlite3.DatabaseError as error:
        if explain_sqlite_error(error)[0] is not Reason.DAMAGED_SOURCE:
            raise
        problems = [str(error)]
    if problems == ["ok"]:
        return []
    text = "\n".join(problems).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.splitlines()


def needs_application(error: sqlite3.OperationalError) -> bool:
    """Whether SQLite lacks a collation, function or virtual table which only the application has."""
    return any(text in str(error) for text in _NEEDS_APPLICATION)


def describe_problems(check: str, problems: Sequence[str]) -> str:
    """The first few of them as one line, however long the names in them are."""
    more = f" and {len(problems) - _REPORTED_PROBLEMS} more" if len(problems) > _REPORTED_PROBLEMS else ""
    first = "; ".join(problem[:_REPORTED_CHARACTERS] for problem in problems[:_REPORTED_PROBLEMS])
    return f"PRAGMA {check} expects ok and found: {first}{more}"
