# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take a consistent, verified copy of an SQLite database while others write to it.

Rules followed here, all from https://sqlite.org/backup.html, wal.html, howtocorrupt.html and measurements:
a stepped backup begins again at every foreign commit unless its connection holds a read transaction; a database
opened read-only is neither checkpointed nor relieved of its log; ``immutable`` ignores a log.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from dataclasses import dataclass
from typing import Iterator

from .sqlite_files import (
    SIDECAR_SUFFIXES,
    DatabaseFileError,
    Deadline,
    Progress,
    ProgressReport,
    Reason,
    StagedFile,
    database_uri,
    errors_raised_as,
    found_status,
    has_content,
    identity,
    logs_with_content,
    opened_plain_file,
    require_plain_file,
    require_space,
    require_unmoved,
    utc_stamp,
)
from .sqlite_holders import describe_holders, find_holders
from .sqlite_verify import VERIFY_LEVELS, DatabaseFacts, count_tables, read_header, verify_database

PAGES_PER_STEP = 1000
BUSY_SECONDS = 30.0
PAUSE_WHEN_BUSY_SECONDS = 0.01
RESTARTS_ALLOWED = 3

# Results of sqlite3_backup_step(); the sqlite3 module names them only from Python 3.11 on.
_SQLITE_OK = 0
_SQLITE_BUSY = 5
_SQLITE_LOCKED = 6
_SQLITE_DONE = 101


class SnapshotError(DatabaseFileError):
    """No snapshot was made, and nothing was left where it would have been."""


@dataclass(frozen=True)
class Snapshot:
    """A published, self-contained copy of a database.

    ``size`` in bytes, ``elapsed`` in seconds. ``source_journal_mode`` is ``wal`` or ``delete`` (any rollback
    journal). ``integrity`` is ``ok`` or ``not checked``. ``method`` is ``held`` (one read transaction from the
    first page to the last), ``stepped`` (rollback journal: writers had their turn between the steps) or
    ``immutable`` (read-only file system). ``foreign_key_violations``: see DatabaseFacts.
    """

    dest: str
    size: int
    sha256: str
    page_size: int
    page_count: int
    source_journal_mode: str
    user_version: int
    application_id: int
    integrity: str
    method: str
    elapsed: float
    foreign_key_violations: int | None


@dataclass(frozen=True)
class _Source:
    """The live database, open for reading in this process."""

    path: str
    descriptor: int
    connection: sqlite3.Connection
    immutable: bool
    journal_mode: str
    page_size: int
    page_count: int
    tables: int


class _StarvedError(DatabaseFileError):
    """Writers made the copy begin again too often."""

    def __init__(self) -> None:
        super().__init__(Reason.LOCKED, "others write too often for a copy in steps; try again when they write less")


class _PageCounter:
    """The callback of Connection.backup: reports pages done, ends a copy that is late, blocked or starved."""

    def __init__(self, deadline: Deadline, report: ProgressReport | None, restarts_allowed: int) -> None:
        self.total = 0
        self._deadline = deadline
        self._report = report
        self._restarts_left = restarts_allowed
        self._remaining: int | None = None
        self._started = self._moved = time.monotonic()

    def __call__(self, status: int, remaining: int, total: int) -> None:
        self._deadline.check()
        if status in (_SQLITE_BUSY, _SQLITE_LOCKED) and time.monotonic() - self._moved > BUSY_SECONDS:
            raise DatabaseFileError(
                Reason.LOCKED, f"the source stayed locked for {BUSY_SECONDS:g} s; try again when its writer has ended"
            )
        if status not in (_SQLITE_OK, _SQLITE_DONE):
            return
        self._moved = time.monotonic()
        self._count_restarts(remaining)
        self.total = total
        if self._report is not None:
            self._report(Progress("copying", total - remaining, total, self._moved - self._started))

    def _count_restarts(self, remaining: int) -> None:
        """A step that leaves no fewer pages than the one before it has begun again at the first page."""
        if self._remaining is not None and remaining >= self._remaining:
            if self._restarts_left == 0:
                raise _StarvedError()
            self._restarts_left -= 1
        self._remaining = remaining


def create_snapshot(
    source: str,
    dest: str,
    *,
    overwrite: bool = False,
    verify: str = "full",
    timeout: float | None = None,
    mode: int = 0o600,
    progress: ProgressReport | None = None,
) -> Snapshot:
    """Copy the live database ``source`` to the file ``dest``, or into the folder ``dest``.

    ``verify`` is one of VERIFY_LEVELS, ``timeout`` seconds for everything, ``mode`` the copy's permissions;
    ``progress`` is called now and then. The source's journal mode, log and data stay as they
    are. Raises SnapshotError; then nothing has the name ``dest`` that had it not before.
    """
    started = time.monotonic()
    deadline = Deadline(timeout)
    with errors_raised_as(SnapshotError, f"snapshot of {source} to {dest}"):
        final = plan_snapshot(source, dest, overwrite=overwrite, verify=verify)
        with opened_plain_file(source) as descriptor, StagedFile(os.path.dirname(final)) as staged:
            with _opened_source(source, descriptor, deadline) as opened:
                method = _copy(opened, staged, deadline, progress)
                facts = _proven(opened, staged, verify, deadline)
            os.fchmod(staged.descriptor, mode)
            os.fsync(staged.descriptor)
            deadline.check()
            final = _publish(staged, source, dest, final, overwrite)
    return Snapshot(
        dest=final,
        size=facts.size,
        sha256=facts.sha256,
        page_size=facts.page_size,
        page_count=facts.page_count,
        source_journal_mode=opened.journal_mode,
        user_version=facts.user_version,
        application_id=facts.application_id,
        integrity=facts.integrity,
        method=method,
        elapsed=round(time.monotonic() - started, 3),
        foreign_key_violations=facts.foreign_key_violations,
    )


def plan_snapshot(source: str, dest: str, *, overwrite: bool, verify: str) -> str:
    """The path at which a snapshot would be published now. Raises DatabaseFileError when it is bound to fail."""
    if verify not in VERIFY_LEVELS:
        raise ValueError(f"verify must be one of {', '.join(VERIFY_LEVELS)}, not {verify}")
    with opened_plain_file(source) as descriptor:
        read_header(descriptor, source)
        source_identity = identity(os.fstat(descriptor))
    final = _final_path(source, dest)
    status = found_status(final)
    if status is not None:
        require_plain_file(final, status)
        if identity(status) == source_identity:
            raise DatabaseFileError(Reason.REFUSED, f"{final} is the source itself; choose another destination")
        _require_replaceable(final, overwrite)
    logs = logs_with_content(final)
    if logs:
        raise DatabaseFileError(
            Reason.REFUSED,
            f"{', '.join(logs)} belongs to another database and would be replayed into the copy; move it away first",
        )
    return final


def _require_replaceable(final: str, overwrite: bool) -> None:
    if not overwrite:
        raise DatabaseFileError(Reason.EXISTS, f"{final} exists; choose another name, or overwrite it")
    holders = find_holders(final)
    if holders:
        raise DatabaseFileError(
            Reason.IN_USE, f"{final} cannot be overwritten while in use: {describe_holders(holders)}; end them first"
        )


def _final_path(source: str, dest: str) -> str:
    """``dest`` itself, or a name with the time in it when ``dest`` is a folder."""
    status = found_status(dest)
    if status is not None and stat.S_ISDIR(status.st_mode):
        stem = os.path.splitext(os.path.basename(source))[0]
        return os.path.join(os.path.abspath(dest), f"{stem}-{utc_stamp()}.db")
    final = os.path.abspath(dest)
    folder = os.path.dirname(final)
    if not os.path.isdir(folder):
        raise DatabaseFileError(Reason.MISSING, f"there is no folder {folder} for the copy; create it first")
    return final


def _publish(staged: StagedFile, source: str, dest: str, final: str, overwrite: bool) -> str:
    """Name the staged file; in a folder, with a new time as long as somebody else takes the name first."""
    while True:
        try:
            staged.publish(os.path.basename(final), overwrite)
            return final
        except FileExistsError:
            following = _final_path(source, dest)
            if following == final:
                raise
            final = following


@contextlib.contextmanager
def _opened_source(path: str, descriptor: int, deadline: Deadline) -> Iterator[_Source]:
    """Open the source inside a read transaction; its -wal and -shm, if they must be made, belong to its owner."""
    header = read_header(descriptor, path)
    for suffix in SIDECAR_SUFFIXES:
        status = found_status(path + suffix)
        if status is not None:
            require_plain_file(path + suffix, status)
    read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    if header.write_ahead_log and not read_only:
        _require_right_owner_for_sidecars(path, os.fstat(descriptor))
    immutable = header.write_ahead_log and read_only
    if immutable and has_content(path + "-wal"):
        raise DatabaseFileError(
            Reason.REFUSED,
            f"{path}-wal holds changes, and SQLite cannot read it on a read-only file system; "
            f"copy {path} and {path}-wal side by side to a writable folder and take the snapshot there",
        )
    with contextlib.closing(_connect(path, immutable, deadline)) as connection:
        require_unmoved(path, descriptor)
        (journal_mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        yield _Source(
            path=path,
            descriptor=descriptor,
            connection=connection,
            immutable=immutable,
            journal_mode="wal" if immutable else journal_mode,
            page_size=connection.execute("PRAGMA page_size").fetchone()[0],
            page_count=connection.execute("PRAGMA page_count").fetchone()[0],
            tables=count_tables(connection),
        )


def _connect(path: str, immutable: bool, deadline: Deadline) -> sqlite3.Connection:
    try:
        return _connect_reading(path, "ro", immutable, deadline)
    except sqlite3.OperationalError as error:
        # SQLITE_READONLY_ROLLBACK: a killed writer's journal must be rolled back, as any next reader would.
        if "readonly" not in str(error) or not has_content(path + "-journal"):
            raise
    _connect_reading(path, "rw", False, deadline).close()
    return _connect_reading(path, "ro", False, deadline)


def _connect_reading(path: str, mode: str, immutable: bool, deadline: Deadline) -> sqlite3.Connection:
    """Open and hold a read transaction: BEGIN alone takes no lock and no mark in the log, a first read does."""
    parameters = {"mode": mode, "immutable": "1"} if immutable else {"mode": mode}
    connection = sqlite3.connect(
        database_uri(path, **parameters), uri=True, isolation_level=None, timeout=deadline.remaining(BUSY_SECONDS)
    )
    try:
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("BEGIN")
        connection.execute("PRAGMA schema_version").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _require_right_owner_for_sidecars(path: str, status: os.stat_result) -> None:
    """Raise DatabaseFileError where SQLite would make a -wal or -shm here that the owner could not write to."""
    missing = [path + suffix for suffix in ("-wal", "-shm") if found_status(path + suffix) is None]
    user = os.geteuid()
    if missing and user != status.st_uid and not (user == 0 and _may_change_owners()):
        raise DatabaseFileError(
            Reason.REFUSED,
            f"reading it would create {' and '.join(missing)} owned by uid {user}, which its owner, uid "
            f"{status.st_uid}, could not write to; run as uid {status.st_uid}, or as root with CAP_CHOWN",
        )


def _may_change_owners() -> bool:
    """Whether this process has CAP_CHOWN, bit 0 of its effective capabilities (capabilities(7))."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next(line.split()[1] for line in file if line.startswith("CapEff:"))
    return bool(int(effective, 16) & 1)


def _copy(source: _Source, staged: StagedFile, deadline: Deadline, report: ProgressReport | None) -> str:
    """Copy all pages into the staged file and return the method that did it.

    Under a held transaction a WAL writer goes on, but one with a rollback journal must wait: there the steps
    are first tried without it, and held only after writers made them begin again too often.
    """
    require_space(staged.folder, source.page_size * source.page_count)
    if source.journal_mode == "wal":
        _copy_pages(source, staged, _PageCounter(deadline, report, 0))
        return "immutable" if source.immutable else "held"
    source.connection.execute("COMMIT")
    try:
        _copy_pages(source, staged, _PageCounter(deadline, report, RESTARTS_ALLOWED))
        return "stepped"
    except _StarvedError:
        source.connection.execute("BEGIN")
        source.connection.execute("PRAGMA schema_version").fetchone()
    _copy_pages(source, staged, _PageCounter(deadline, report, 0))
    return "held"


def _copy_pages(source: _Source, staged: StagedFile, counter: _PageCounter) -> None:
    """Copy into the emptied staged file, without a journal and without syncs, as one self-contained file.

    The copy's header would say WAL where the source's does; bytes 18 and 19 of 1 make it open without sidecars
    and on read-only media (https://sqlite.org/fileformat2.html#file_format_version_numbers).
    """
    os.ftruncate(staged.descriptor, 0)
    source_size = os.fstat(source.descriptor).st_size
    with contextlib.closing(
        sqlite3.connect(database_uri(staged.path, mode="rw"), uri=True, isolation_level=None)
    ) as target:
        target.execute("PRAGMA journal_mode=OFF")
        target.execute("PRAGMA synchronous=OFF")
        source.connection.backup(target, pages=PAGES_PER_STEP, progress=counter, sleep=PAUSE_WHEN_BUSY_SECONDS)
    size = os.fstat(staged.descriptor).st_size
    if size != source.page_size * counter.total:
        raise DatabaseFileError(
            Reason.DAMAGED_SOURCE,
            f"the copy has {size} bytes, the source has {counter.total} pages of {source.page_size} bytes; try again",
        )
    os.pwrite(staged.descriptor, b"\x01\x01", 18)
    _require_whole_source(source, min(source_size, size))


def _require_whole_source(source: _Source, least_size: int) -> None:
    """Raise DatabaseFileError when the source is not what it was: SQLite itself reads what was cut off as zeros."""
    require_unmoved(source.path, source.descriptor)
    if os.fstat(source.descriptor).st_size < least_size:
        raise DatabaseFileError(Reason.DAMAGED_SOURCE, f"{source.path} was truncated while it was copied")
    if source.immutable and has_content(source.path + "-wal"):
        raise DatabaseFileError(Reason.REFUSED, f"{source.path} was written to while it was copied as immutable")


def _proven(source: _Source, staged: StagedFile, level: str, deadline: Deadline) -> DatabaseFacts:
    """Verify the staged copy by itself and against the source."""
    with errors_raised_as(DatabaseFileError, "the copy is not sound, and its source may not be either"):
        facts = verify_database(staged.path, level, deadline)
    if source.tables and not facts.tables:
        raise DatabaseFileError(
            Reason.DAMAGED_SOURCE, f"the copy has no table, the source has {source.tables}; try again"
        )
    return facts
