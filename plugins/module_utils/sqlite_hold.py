# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hold a read transaction on a live database, in a child process that can reach nothing but the database's folder.

The child opens the database read-only, which neither checkpoints nor removes its log, and tells what it opened, so
that a file swapped in between is noticed. Where it may, it first makes that folder its root: a planted link leads
nowhere. Rules from https://sqlite.org/lockingv3.html, wal.html, walformat.html, howtocorrupt.html.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Callable

from .sqlite_files import (
    DatabaseFileError,
    Deadline,
    LockListing,
    Progress,
    ProgressReport,
    Reason,
    database_uri,
    has_content,
    identity,
    require_no_super_journal,
)
from .sqlite_verify import decoded, describe_problems, needs_application, problems_found
from .sqlite_worker import Channel, Child, enter_folder, limit_heap

BUSY_SECONDS = 30.0
BUSY_STEP_SECONDS = 0.25

# A killed writer's journal of some gigabytes takes minutes to be rolled back; what takes longer hangs.
BEGIN_SECONDS = 600.0

PAGES_PER_STEP = 1000
LISTINGS_ALLOWED = 20
PAUSE_WHEN_BUSY_SECONDS = 0.01

# Byte ranges of SQLite's locks: os_unix.c, https://sqlite.org/walformat.html#wal_locks.
_SHARED_FIRST, _SHARED_LAST = 0x40000002, 0x40000002 + 509
_READ_MARKS_FIRST, _READ_MARKS_LAST = 123, 127

# Where the two copies of the log's index say how many frames are committed: walformat.html#the_wal_index_header.
_COMMITTED_FRAMES_OFFSETS = (16, 48 + 16)

# Results of sqlite3_backup_step(); the sqlite3 module names them only from Python 3.11 on.
_SQLITE_OK = 0
_SQLITE_BUSY = 5
_SQLITE_LOCKED = 6
_SQLITE_DONE = 101


@dataclass(frozen=True)
class View:
    """The database as one read transaction sees it."""

    journal_mode: str
    page_size: int
    page_count: int
    tables: int

    @property
    def size(self) -> int:
        """Bytes of all pages."""
        return self.page_size * self.page_count


class StarvedError(DatabaseFileError):
    """Writers made a copy begin again too often."""

    def __init__(self) -> None:
        super().__init__(Reason.LOCKED, "others write too often for a copy in steps; try again when they write less")


class Hold:
    """A child in which SQLite has the database open, and holds a read transaction between ``begin`` and ``end``.

    ``descriptor`` is the database as this process opened it, ``folder`` that of its folder, ``target`` the path of an
    empty file which ``copy`` fills. All methods raise DatabaseFileError, also at ``deadline``.
    """

    def __init__(
        self,
        path: str,
        descriptor: int,
        folder: int,
        deadline: Deadline,
        *,
        target: str | None = None,
        report: ProgressReport | None = None,
    ) -> None:
        self.path = path
        self._deadline = deadline
        self._report = report
        self._page_size = 0
        self._opened: set[tuple[int, int]] = set()
        self._status = os.fstat(descriptor)
        server = _Server(path, folder, target, deadline.remaining(BUSY_SECONDS / 0.9) * 0.9)
        self._child = Child(server.serve, "holding a read transaction on the source")

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._child.end()

    @property
    def pid(self) -> int:
        """The id of the child."""
        return self._child.pid

    def begin(self) -> View:
        """Take the read transaction, waiting for whoever has the database to himself.

        SQLite hangs where a log was replaced by a FIFO meanwhile.
        """
        limit = Deadline(self._deadline.remaining(BEGIN_SECONDS))
        try:
            answer = self._ask({"do": "begin"}, self._tell_waiting, limit)
        except DatabaseFileError as error:
            self._deadline.check()
            if error.reason is not Reason.TIMEOUT:
                raise
            raise DatabaseFileError(
                Reason.REFUSED,
                f"{self.path} could not be opened within {BEGIN_SECONDS:g} s: look whether the logs beside it are "
                "plain files, and whether the disk answers",
            ) from error
        self._opened = set(map(tuple, answer.pop("opened")))
        view = View(**answer)
        self._page_size = view.page_size
        self._require_opened(self._status, self.path)
        for suffix in ("-wal", "-shm") if view.journal_mode == "wal" else ():
            self._require_opened(os.lstat(self.path + suffix), self.path + suffix)
        return view

    def end(self) -> None:
        """End the read transaction; it can be taken again."""
        self._ask({"do": "end"})

    def copy(self, restarts_allowed: int) -> int:
        """Fill the target by the online backup interface, and return its size in bytes.

        Under a held transaction it never begins again. Without one, ``restarts_allowed`` bounds how often writers may
        make it do so; then StarvedError.
        """
        started = time.monotonic()
        self._child.send({"do": "copy", "restarts_allowed": restarts_allowed})
        while True:
            answer = self._child.answer(self._deadline)
            if "starved" in answer:
                raise StarvedError()
            if "pages" in answer:
                return int(answer["pages"]) * self._page_size
            if self._report is not None:
                done, total = answer["done"] * self._page_size, answer["total"] * self._page_size
                self._report(Progress("copying", done, total, time.monotonic() - started))

    def problems(self, check: str) -> str:
        """What the pragma ``check`` finds wrong with the database itself, as one line; empty when it is sound."""
        found: str = self._ask({"do": "check", "check": check}, self._tell_waiting)["problems"]
        return found

    def is_proven(self, journal_mode: str) -> bool:
        """Whether the kernel lists the child's locks, on the very files which are looked at here.

        It does not for file systems that lock in their own way. Where the -shm cannot be written to, SQLite may keep
        an index of the log for itself alone (walBeginShmUnreliable() in wal.c).
        """
        expected = {(self._status.st_ino, _SHARED_FIRST, _SHARED_LAST)}
        if journal_mode == "wal":
            expected.add((os.lstat(self.path + "-shm").st_ino, _READ_MARKS_FIRST, _READ_MARKS_LAST))
            if not os.access(self.path + "-shm", os.W_OK, effective_ids=True):
                return False
        # A lock that is held all the while may be skipped by a listing during which others come and go.
        for _attempt in range(LISTINGS_ALLOWED):
            listing = LockListing(self._child.pid)
            expected = {lock for lock in expected if not listing.has(*lock)}
            if not expected:
                return True
        return False

    def frames_needed(self, memory: int) -> int:
        """How many frames of the log make the database of the file; ``memory`` is a descriptor of the -shm.

        None for a reader with the first of the locks: what it reads is all in the file, and no checkpoint writes to
        that. With another one it keeps the log from being begun anew, and all that are committed by now are needed.
        """
        inode = os.fstat(memory).st_ino
        for _attempt in range(LISTINGS_ALLOWED):
            listing = LockListing(self._child.pid)
            if listing.has(inode, _READ_MARKS_FIRST, _READ_MARKS_FIRST):
                return 0
            if listing.has(inode, _READ_MARKS_FIRST + 1, _READ_MARKS_LAST):
                return frames_committed(memory)
        raise DatabaseFileError(Reason.REFUSED, f"the lock on {self.path}-shm was lost; try again")

    def _ask(
        self,
        message: dict[str, Any],
        waiting: Callable[[float], None] | None = None,
        deadline: Deadline | None = None,
    ) -> dict[str, Any]:
        self._child.send(message)
        return self._child.answer(deadline or self._deadline, waiting)

    def _tell_waiting(self, seconds: float) -> None:
        if self._report is not None:
            self._report(Progress("waiting", 0, 0, seconds))

    def require_opened(self, descriptor: int, name: str) -> None:
        """Raise DatabaseFileError unless SQLite has the file open which ``descriptor`` has."""
        self._require_opened(os.fstat(descriptor), name)

    def _require_opened(self, status: os.stat_result, name: str) -> None:
        if identity(status) not in self._opened:
            raise DatabaseFileError(Reason.REFUSED, f"{name} was moved or replaced meanwhile; try again")


def frames_committed(memory: int) -> int:
    """How many frames of the log are committed by now; ``memory`` is a descriptor of the -shm."""
    index = os.pread(memory, 100, 0)
    return max(int.from_bytes(index[at : at + 4], sys.byteorder) for at in _COMMITTED_FRAMES_OFFSETS)


class _Server:
    """What the child does."""

    def __init__(self, path: str, folder: int, target: str | None, busy_seconds: float) -> None:
        self._path = path
        self._folder = folder
        self._target_path = target
        self._busy_seconds = busy_seconds
        self._connections = contextlib.ExitStack()

    def serve(self, channel: Channel) -> None:
        """Answer one request after the other, until the parent is gone."""
        with self._connections:
            self._target = self._connected_target()
            self._descriptors = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._inherited = self._plain_files()
            path = enter_folder(self._folder, self._path)
            self._connection = _connect(path, "ro")
            self._connections.callback(self._connection.close)
            while True:
                request = channel.receive()
                if request is None:
                    return
                channel.send(self._answer(channel, path, request))

    def _answer(self, channel: Channel, path: str, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "begin":
            self._begin(path)
            return self._view()
        if request["do"] == "copy":
            return self._copy(_StepReporter(channel, request["restarts_allowed"], self._busy_seconds))
        if request["do"] == "check":
            return {"problems": self._problems(request["check"])}
        self._connection.execute("COMMIT")
        return {}

    def _connected_target(self) -> sqlite3.Connection | None:
        """Opened while its folder can still be reached; SQLite does nothing with it before the copy."""
        if self._target_path is None:
            return None
        uri = database_uri(self._target_path, mode="rw")
        target = sqlite3.connect(uri, uri=True, isolation_level=None)
        self._connections.callback(target.close)
        return target

    def _begin(self, path: str) -> None:
        """Take the read transaction, waiting for a lock as long as is allowed and somebody wants it."""
        parent, end = os.getppid(), time.monotonic() + self._busy_seconds
        while True:
            try:
                return self._begin_or_recover(path)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() + BUSY_STEP_SECONDS > end or os.getppid() != parent:
                    raise

    def _begin_or_recover(self, path: str) -> None:
        try:
            _begin(self._connection)
        except sqlite3.OperationalError as error:
            # SQLITE_READONLY_ROLLBACK: a killed writer's journal must be rolled back, as any next reader would.
            if "readonly" not in str(error) or not has_content(path + "-journal"):
                raise
            require_no_super_journal(path + "-journal")
            with contextlib.closing(_connect(path, "rw")) as writer:
                _begin(writer)
            _begin(self._connection)

    def _view(self) -> dict[str, Any]:
        return {
            "journal_mode": self._value("PRAGMA journal_mode"),
            "page_size": self._value("PRAGMA page_size"),
            "page_count": self._value("PRAGMA page_count"),
            "tables": self._value("SELECT count(*) FROM sqlite_master WHERE type = 'table'"),
            "opened": [opened for _number, opened in self._plain_files() - self._inherited],
        }

    def _problems(self, check: str) -> str:
        """What is found wrong, without what only the application can check; empty when all is well."""
        try:
            problems = problems_found(self._connection, check)
        except sqlite3.OperationalError as error:
            if not needs_application(error):
                raise
            check = "quick_check"
            problems = problems_found(self._connection, check)
        return describe_problems(check, problems) if problems else ""

    def _value(self, query: str) -> Any:
        return self._connection.execute(query).fetchone()[0]

    def _plain_files(self) -> set[tuple[int, tuple[int, int]]]:
        """Number and identity of this process's descriptors of plain files."""
        found = set()
        for name in os.listdir(self._descriptors):
            with contextlib.suppress(OSError):
                status = os.fstat(int(name))
                if stat.S_ISREG(status.st_mode):
                    found.add((int(name), identity(status)))
        return found

    def _copy(self, reporter: _StepReporter) -> dict[str, Any]:
        """Without a journal and without syncs: nobody knows the target yet."""
        if self._target is None:
            raise ValueError("this hold was made without a target to copy into")
        self._target.execute("PRAGMA journal_mode=OFF")
        self._target.execute("PRAGMA synchronous=OFF")
        try:
            self._connection.backup(
                self._target, pages=PAGES_PER_STEP, progress=reporter, sleep=PAUSE_WHEN_BUSY_SECONDS
            )
        except StarvedError:
            return {"starved": True}
        return {"pages": reporter.total}


class _StepReporter:
    """The callback of Connection.backup: reports bytes done, ends a copy that is blocked or starved."""

    def __init__(self, channel: Channel, restarts_allowed: int, busy_seconds: float) -> None:
        self.total = 0
        self._channel = channel
        self._restarts_left = restarts_allowed
        self._busy_seconds = busy_seconds
        self._remaining: int | None = None
        self._moved = self._told = time.monotonic()

    def __call__(self, status: int, remaining: int, total: int) -> None:
        now = time.monotonic()
        if status in (_SQLITE_BUSY, _SQLITE_LOCKED) and now - self._moved > self._busy_seconds:
            raise DatabaseFileError(
                Reason.LOCKED, f"the source stayed locked for {self._busy_seconds:g} s; try again when its writer ended"
            )
        if status not in (_SQLITE_OK, _SQLITE_DONE):
            return
        self._moved = now
        self._count_restarts(remaining)
        self.total = total
        if now - self._told > 0.1 or remaining == 0:
            self._told = now
            self._channel.send({"done": total - remaining, "total": total})

    def _count_restarts(self, remaining: int) -> None:
        """A step that leaves no fewer pages than the one before it has begun again at the first page."""
        if self._remaining is not None and remaining >= self._remaining:
            if self._restarts_left == 0:
                raise StarvedError()
            self._restarts_left -= 1
        self._remaining = remaining


def _connect(path: str, mode: str) -> sqlite3.Connection:
    uri = database_uri(path, mode=mode)
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_STEP_SECONDS)
    connection.text_factory = decoded
    limit_heap(connection)
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def _begin(connection: sqlite3.Connection) -> None:
    """BEGIN alone takes no lock and no mark in the log, a first read does."""
    connection.execute("BEGIN")
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except BaseException:
        # SQLite itself has rolled back after some errors, https://sqlite.org/lang_transaction.html.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
