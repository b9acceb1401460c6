# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring a live database into a staged file: byte by byte under a held read transaction, or by SQLite's own interface.

Why the bytes are right is argued in docs/raw-copy.md. In short: while a read transaction is held, all pages that
change in the database file are in the log that was copied before it, and in rollback-journal mode none changes.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sqlite3
import time
from dataclasses import dataclass
from typing import Iterator

from .byte_copy import ByteCopier, clone
from .sqlite_files import (
    LOG_SUFFIXES,
    SIDECAR_SUFFIXES,
    DatabaseFileError,
    Deadline,
    ProgressReport,
    Reason,
    StagedFile,
    database_uri,
    found_status,
    logs_with_content,
    opened_folder,
    opened_plain_file,
    read_errors_named,
    require_no_super_journal,
    require_not_in_use_here,
    require_plain_file,
    require_readable,
    require_space,
    require_unmoved,
)
from .sqlite_hold import Hold, StarvedError, View
from .sqlite_holders import describe_holders, find_foreign_logs
from .sqlite_verify import Header, read_header
from .sqlite_worker import Channel, Child, limit_heap
from .write_back import WriteBack

RESTARTS_ALLOWED = 3
STEP_BYTES = 16 << 20

# Those whose locks and mapped memory one kernel keeps for all of its processes. Any other gets SQLite's own interface.
LOCAL_FILE_SYSTEMS = ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs", "zfs")

_LOG_HEADER_BYTES = 32


@dataclass(frozen=True)
class Source:
    """The live database as this process has it open: its file, its folder, and what its first page says."""

    path: str
    descriptor: int
    folder: int
    header: Header
    read_only: bool

    @property
    def size(self) -> int:
        """Bytes of the file now."""
        return os.fstat(self.descriptor).st_size

    @property
    def logs_size(self) -> int:
        """Bytes of the logs beside it now."""
        found = [found_status(self.path + suffix) for suffix in LOG_SUFFIXES]
        return sum(status.st_size for status in found if status is not None)

    @contextlib.contextmanager
    def opened_log(self, suffix: str) -> Iterator[int]:
        """A descriptor of the log with this suffix. Raises DatabaseFileError."""
        with opened_plain_file(os.path.basename(self.path) + suffix, self.folder) as descriptor:
            yield descriptor


@dataclass(frozen=True)
class Copied:
    """How the staged file was filled (Snapshot.method), and what the source was."""

    method: str
    journal_mode: str
    tables: int


@contextlib.contextmanager
def opened_source(path: str) -> Iterator[Source]:
    """Open a live database without following a link. Raises DatabaseFileError where reading could do or suffer harm."""
    path = os.path.abspath(path)
    with opened_folder(os.path.dirname(path)) as folder, opened_plain_file(path) as descriptor:
        require_unmoved(path, descriptor)
        require_not_in_use_here(path, descriptor)
        for suffix in SIDECAR_SUFFIXES:
            status = found_status(path + suffix)
            if status is not None:
                require_plain_file(path + suffix, status)
        header = read_header(descriptor, path)
        read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
        if header.write_ahead_log:
            _require_log_here(path)
            if not read_only:
                _require_right_owner_for_sidecars(path, os.fstat(descriptor))
        yield Source(path, descriptor, folder, header, read_only)


def copy_database(
    source: Source,
    staged: StagedFile,
    deadline: Deadline,
    report: ProgressReport | None = None,
    write_back: WriteBack | None = None,
) -> Copied:
    """Fill the staged file with the database as it is at one moment, as one self-contained file.

    With ``write_back`` the disk has its part of the work meanwhile, unless writers wait for the copy.
    Raises DatabaseFileError, OSError.
    """
    with Hold(source.path, source.descriptor, source.folder, deadline, target=staged.path, report=report) as hold:
        return copy_under(hold, source, staged, deadline, report, write_back)


def copy_under(
    hold: Hold,
    source: Source,
    staged: StagedFile,
    deadline: Deadline,
    report: ProgressReport | None = None,
    write_back: WriteBack | None = None,
) -> Copied:
    """Do what copy_database does, under a transaction of ``hold`` that is still held afterwards."""
    copied = _Copy(source, staged, hold, deadline, report, write_back).copy()
    normalize(staged)
    return copied


class _Copy:
    """One copy, under a transaction that ``hold`` takes."""

    def __init__(
        self,
        source: Source,
        staged: StagedFile,
        hold: Hold,
        deadline: Deadline,
        report: ProgressReport | None,
        write_back: WriteBack | None,
    ) -> None:
        self._source = source
        self._staged = staged
        self._hold = hold
        self._deadline = deadline
        self._report = report
        self._write_back = write_back

    def copy(self) -> Copied:
        """Choose the method and copy."""
        try:
            with read_errors_named(self._source.descriptor, self._source.path, self._deadline):
                view = self._hold.begin()
        except DatabaseFileError as error:
            if error.reason is Reason.DAMAGED_SOURCE:
                self._require_logs_readable()
            if not self._source.read_only or error.reason is not Reason.SYSTEM:
                raise
            return self._copy_at_rest()
        require_space(self._staged.folder, view.size + self._source.logs_size)
        raw = is_on_local_file_system(self._source.path) and self._hold.is_proven(view.journal_mode)
        if view.journal_mode == "wal":
            method = self._copy_with_log(view) if raw else self._copy_by_interface(0)
        else:
            method = self._copy_in_steps(view) if raw else self._copy_by_interface_in_steps()
        require_unmoved(self._source.path, self._source.descriptor)
        return Copied(method, view.journal_mode, view.tables)

    def _require_logs_readable(self) -> None:
        """Raise OSError where the disk cannot give a byte of a log; see read_errors_named."""
        for log in logs_with_content(self._source.path):
            suffix = log[len(self._source.path) :]
            with contextlib.suppress(DatabaseFileError), self._source.opened_log(suffix) as descriptor:
                require_readable(descriptor, log, self._deadline)

    def _copy_with_log(self, view: View) -> str:
        """The log before the file: a page that changes in the file from now on is in the log as it is now.

        SQLite 3.11 to 3.49 may leave committed frames without their checksums (a rollback to a savepoint, after pages
        were written before the commit): it reads on past them by its index, while a replay ends there.
        """
        frames = self._frames_needed()
        if frames:
            self._copy_log()
        method = self._copy_file(view)
        self._require_held(view)
        return method if not frames or self._is_replayed(frames) else self._copy_by_interface(0)

    def _is_replayed(self, frames: int) -> bool:
        """Whether all of so many frames were; a part of them over a newer file can look like any damage."""
        try:
            return _replay_log(self._staged, self._deadline) >= frames
        except DatabaseFileError as error:
            if error.reason not in (Reason.DAMAGED_SOURCE, Reason.DAMAGED_COPY):
                raise
            self._staged.remove_logs()
            return False

    def _frames_needed(self) -> int:
        with self._source.opened_log("-shm") as memory:
            self._hold.require_opened(memory, self._source.path + "-shm")
            return self._hold.frames_needed(memory)

    def _copy_log(self) -> None:
        """Copy the -wal, of which the reader keeps others from beginning it anew: that would change its header."""
        with self._source.opened_log("-wal") as descriptor, self._staged.new_log("-wal") as log:
            self._hold.require_opened(descriptor, self._source.path + "-wal")
            header = os.pread(descriptor, _LOG_HEADER_BYTES, 0)
            size = os.fstat(descriptor).st_size
            ByteCopier(descriptor, log, size, self._deadline).copy(0, size)
            if os.pread(descriptor, _LOG_HEADER_BYTES, 0) != header:
                raise DatabaseFileError(
                    Reason.REFUSED,
                    f"{self._source.path}-wal was begun anew under a read transaction that needs it, against the rules "
                    "of SQLite; look for what else writes to it",
                )

    def _copy_file(self, view: View) -> str:
        """Copy the database file in one go, and return the method."""
        size = self._source.size
        copier = ByteCopier(
            self._source.descriptor, self._staged.descriptor, size, self._deadline, self._report, self._write_back
        )
        if clone(self._source.descriptor, self._staged.descriptor):
            copier.tell(size)
            method, copied = "reflink", size
        else:
            method, copied = "raw", copier.copy(0, size)
        # A checkpoint may cut off pages that no reader needs, but none of this reader's.
        if min(copied, self._source.size) < min(size, view.size):
            raise self._truncated()
        self._cut(copied)
        return method

    def _cut(self, size: int) -> None:
        """Remove what an earlier attempt has copied of a longer file."""
        if os.fstat(self._staged.descriptor).st_size > size:
            os.ftruncate(self._staged.descriptor, size)

    def _truncated(self) -> DatabaseFileError:
        return DatabaseFileError(Reason.DAMAGED_SOURCE, f"{self._source.path} was truncated while it was copied")

    def _copy_in_steps(self, view: View) -> str:
        """Rollback journal: writers have their turn between steps, and at last wait for one pass over the file.

        The 16 bytes at offset 24 change with every transaction, as SQLite itself has it (pager.c, dbFileVers). What a
        step has copied is written over by the next attempt: a file cut to nothing is flushed when it is closed (ext4).
        """
        for _attempt in range(1 + RESTARTS_ALLOWED):
            size = self._source.size
            copier = ByteCopier(self._source.descriptor, self._staged.descriptor, size, self._deadline, self._report)
            version, offset = self._version(), 0
            while self._version() == version:
                end = min(offset + STEP_BYTES, size)
                offset = copier.copy(offset, end)
                if offset < end or self._source.size < size:
                    raise self._truncated()
                if offset == size:
                    self._require_held(view)
                    self._cut(size)
                    return "raw-stepped"
                self._hold.end()
                view = self._begin_again(view)
        started = time.monotonic()
        method = self._copy_file(view)
        self._require_held(view)
        if self._write_back is not None:
            self._write_back.let_others_first(time.monotonic() - started)
        return method

    def _version(self) -> bytes:
        return os.pread(self._source.descriptor, 16, 24)

    def _begin_again(self, before: View) -> View:
        view = self._hold.begin()
        if view.journal_mode != before.journal_mode:
            raise DatabaseFileError(
                Reason.LOCKED,
                f"the journal mode was changed from {before.journal_mode} to {view.journal_mode} meanwhile; try again",
            )
        return view

    def _copy_by_interface(self, restarts_allowed: int) -> str:
        """SQLite says success also when the source was truncated meanwhile: count."""
        os.ftruncate(self._staged.descriptor, 0)
        size = self._source.size
        copied = self._hold.copy(restarts_allowed)
        staged_size = os.fstat(self._staged.descriptor).st_size
        if staged_size != copied or self._source.size < min(size, copied):
            raise self._truncated()
        return "api"

    def _copy_by_interface_in_steps(self) -> str:
        self._hold.end()
        try:
            return self._copy_by_interface(RESTARTS_ALLOWED) + "-stepped"
        except StarvedError:
            self._hold.begin()
            return self._copy_by_interface(0)

    def _require_held(self, view: View) -> None:
        if not self._hold.is_proven(view.journal_mode):
            raise DatabaseFileError(
                Reason.REFUSED, f"the lock on {self._source.path} was lost while it was copied; try again"
            )

    def _copy_at_rest(self) -> Copied:
        """On a read-only file system, where SQLite cannot open it: with whatever log lies beside it."""
        before = self._states()
        require_space(self._staged.folder, self._source.size + self._source.logs_size)
        for log in logs_with_content(self._source.path):
            suffix = log[len(self._source.path) :]
            if suffix == "-journal":
                require_no_super_journal(log)
            with self._source.opened_log(suffix) as descriptor, self._staged.new_log(suffix) as target:
                size = os.fstat(descriptor).st_size
                ByteCopier(descriptor, target, size, self._deadline).copy(0, size)
        size = self._source.size
        ByteCopier(self._source.descriptor, self._staged.descriptor, size, self._deadline, self._report).copy(0, size)
        if self._states() != before:
            raise DatabaseFileError(
                Reason.REFUSED,
                f"{self._source.path} was written to while it was copied, though its file system is "
                "read-only here; take the snapshot where it can be written to",
            )
        _replay_log(self._staged, self._deadline)
        return Copied("at-rest", "wal" if self._source.header.write_ahead_log else "delete", 0)

    def _states(self) -> list[tuple[int, int, int, int] | None]:
        """What shows that a file was written to."""
        found = [found_status(self._source.path + suffix) for suffix in ("", *LOG_SUFFIXES)]
        return [
            None if status is None else (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            for status in found
        ]


def is_on_local_file_system(path: str) -> bool:
    """Whether ``path`` lies in a file system of this kernel alone, and is not itself mounted as a single file."""
    path = os.path.realpath(path)
    kind, longest = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            mount_point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), fields[4])
            above = path == mount_point or path.startswith(mount_point.rstrip("/") + "/")
            # Of several mounts on one point, the last one is seen.
            if above and len(mount_point) >= len(longest):
                longest, kind = mount_point, fields[fields.index("-") + 1]
    return longest != path and kind in LOCAL_FILE_SYSTEMS


def _replay_log(staged: StagedFile, deadline: Deadline) -> int:
    """Bring the log beside the staged file into it, as its next user would, in a child with bounds.

    Returns the number of its frames up to the last commit that could be replayed.
    """
    bound = os.fstat(staged.descriptor).st_size + staged.logs_size()

    def replay(_channel: Channel) -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bound, bound))
        uri = database_uri(staged.path, mode="rw")
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            limit_heap(connection)
            # Nobody else knows the file: no shared memory, no sync.
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA trusted_schema=OFF")
            busy, logged, moved = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            if busy or logged != moved:
                raise DatabaseFileError(
                    Reason.DAMAGED_COPY, f"only {moved} of {logged} frames of the log were replayed"
                )
            return int(logged)

    with Child(replay, "replaying the log into the copy") as child:
        frames: int = child.answer(deadline)["result"]
    if staged.logs_size():
        raise DatabaseFileError(Reason.DAMAGED_COPY, "the log was not replayed into the copy; try again")
    return frames


def normalize(staged: StagedFile) -> None:
    """Make it open without sidecars, on read-only media, and not longer than its header says.

    Bytes 18 and 19 of 1 mean no log (https://sqlite.org/fileformat2.html#file_format_version_numbers).
    """
    header = read_header(staged.descriptor, "the copy")
    os.pwrite(staged.descriptor, b"\x01\x01", 18)
    if header.page_count is not None:
        expected = header.page_count * header.page_size
        if os.fstat(staged.descriptor).st_size > expected:
            os.ftruncate(staged.descriptor, expected)


def _require_log_here(path: str) -> None:
    """Raise DatabaseFileError when a process that writes the database has its log elsewhere: nobody can see both.

    One that opens the database just now, and makes a new log meanwhile, is not seen a second time.
    """
    elsewhere = find_foreign_logs(path)
    if elsewhere:
        elsewhere = [holder for holder in find_foreign_logs(path) if holder in elsewhere]
    if elsewhere:
        raise DatabaseFileError(
            Reason.REFUSED,
            f"the newest changes are not in {path}-wal but in another file, since the database alone is mounted or "
            f"linked there: {describe_holders(elsewhere)}; mount its whole folder, or stop the process first",
        )


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
