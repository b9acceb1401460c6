# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that hold SQLite databases: opened without following links, staged, published durably."""

from __future__ import annotations

import contextlib
import datetime
import enum
import errno
import fcntl
import hashlib
import os
import re
import secrets
import sqlite3
import stat
import time
import urllib.parse
from dataclasses import dataclass
from types import TracebackType
from typing import Callable, Iterator

BLOCK_BYTES = 1 << 20
LOG_SUFFIXES = ("-wal", "-journal")
SIDECAR_SUFFIXES = ("-wal", "-shm", "-journal")

_STAGED_NAME = re.compile(r"(\.sqlite-[0-9a-f]{16}\.staged)(-wal|-shm|-journal)?")

_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")

_FILE_TYPES = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)

VERIFY_LEVELS = ("full", "quick", "none")
"""How thoroughly a copy of a database is checked."""

NOT_CHECKED = "not checked"
PARTLY_CHECKED = "partly checked"
"""What is said of one that was not, or not all of which could be."""


class Reason(enum.Enum):
    """Why an operation on a database file ended without a result."""

    MISSING = "missing"
    NOT_A_DATABASE = "not a database"
    DAMAGED_SOURCE = "damaged source"
    DAMAGED_COPY = "damaged copy"
    LOCKED = "locked"
    IN_USE = "in use"
    EXISTS = "exists"
    NO_SPACE = "no space"
    TIMEOUT = "timeout"
    REFUSED = "refused for safety"
    SYSTEM = "system error"


DAMAGE = (Reason.MISSING, Reason.NOT_A_DATABASE, Reason.DAMAGED_SOURCE)
"""Of a database of which no sound copy can be made; a restore is needed most then."""


@dataclass(frozen=True)
class Progress:
    """How far an operation has come.

    ``phase`` is ``waiting`` (for a lock that somebody else holds), ``copying`` or ``verifying``; ``done`` and ``total``
    count its bytes, ``total`` is 0 while unknown; ``seconds`` is how long the phase has lasted.
    """

    phase: str
    done: int
    total: int
    seconds: float

    @property
    def percent(self) -> float | None:
        """How much of the phase is done, from 0 to 100; None while unknown."""
        return min(100.0, 100.0 * self.done / self.total) if self.total else None

    @property
    def bytes_per_second(self) -> float | None:
        """The phase's mean rate; None at its beginning."""
        return self.done / self.seconds if self.done and self.seconds else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the phase is done, at its mean rate; None while unknown."""
        rate = self.bytes_per_second
        return max(0, self.total - self.done) / rate if rate and self.total else None


ProgressReport = Callable[[Progress], None]


class DatabaseFileError(Exception):
    """An operation on a database file could not be done; ``reason`` is for programs, the text for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Deadline:
    """A moment after which work is given up; ``seconds`` of ``None`` means never."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def remaining(self, at_most: float) -> float:
        """Seconds left, never negative, never more than ``at_most``."""
        return at_most if self._end is None else max(0.0, min(at_most, self._end - time.monotonic()))

    def expired(self) -> bool:
        """Whether the moment has passed."""
        return self._end is not None and time.monotonic() >= self._end

    def check(self) -> None:
        """Raise DatabaseFileError once the moment has passed."""
        if self.expired():
            raise DatabaseFileError(
                Reason.TIMEOUT, f"not finished within the timeout of {self.seconds} s; allow more seconds"
            )


# The texts of sqlite3_errstr(); sqlite3.Error carries the code only from Python 3.11 on.
_SQLITE_REASONS: tuple[tuple[str, Reason, str], ...] = (
    ("disk is full", Reason.NO_SPACE, "free some space on the destination's file system"),
    ("is locked", Reason.LOCKED, "another process holds a lock; try again when it has ended its transaction"),
    ("malformed", Reason.DAMAGED_SOURCE, "the database is damaged; restore it from a verified copy"),
    ("not a database", Reason.NOT_A_DATABASE, "name a file that SQLite has written, unencrypted"),
    ("unable to open", Reason.SYSTEM, "run as the database's owner or as root, on a writable file system"),
    ("readonly database", Reason.SYSTEM, "run as the database's owner or as root, on a writable file system"),
)


def explain_sqlite_error(error: sqlite3.Error) -> tuple[Reason, str]:
    """What kind of failure SQLite reported, and its text with what to do next."""
    text = str(error)
    for fragment, reason, advice in _SQLITE_REASONS:
        if fragment in text:
            return reason, f"SQLite says: {text}; {advice}"
    return Reason.SYSTEM, f"SQLite says: {text}"


def explain_os_error(error: OSError) -> tuple[Reason, str]:
    """What kind of failure the operating system reported, and its text."""
    reasons: dict[int | None, Reason] = {
        errno.ENOSPC: Reason.NO_SPACE,
        errno.EDQUOT: Reason.NO_SPACE,
        errno.ENOENT: Reason.MISSING,
        errno.EEXIST: Reason.EXISTS,
        errno.ELOOP: Reason.REFUSED,
        errno.ENOTDIR: Reason.REFUSED,
    }
    text = str(error)
    if isinstance(error, PermissionError):
        text += f" (user id {os.geteuid()}); run this as root, or as the owner of the file and its folder"
    return reasons.get(error.errno, Reason.SYSTEM), text


@contextlib.contextmanager
def errors_raised_as(kind: type[DatabaseFileError], doing: str) -> Iterator[None]:
    """Raise every failure inside as ``kind``, its text beginning with ``doing``."""
    try:
        yield
    except DatabaseFileError as error:
        raise kind(error.reason, f"{doing}: {error}") from error
    except sqlite3.Error as error:
        reason, text = explain_sqlite_error(error)
        raise kind(reason, f"{doing}: {text}") from error
    except OSError as error:
        reason, text = explain_os_error(error)
        raise kind(reason, f"{doing}: {text}") from error


def database_uri(path: str, **parameters: str) -> str:
    """The ``file:`` URI of ``path`` (https://sqlite.org/uri.html): any byte is allowed in its name."""
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"file://{urllib.parse.quote(os.fsencode(os.path.abspath(path)))}?{query}"


def utc_stamp() -> str:
    """The time in UTC as part of a file's name: sorts by time, no colon (``2026-11-22T17-14-14-633120Z``)."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H-%M-%S-%fZ")


def found_status(path: str) -> os.stat_result | None:
    """``lstat`` of ``path``, or None where there is nothing."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def require_plain_file(path: str, status: os.stat_result) -> None:
    """Raise DatabaseFileError unless ``status`` is that of a plain file."""
    if stat.S_ISREG(status.st_mode):
        return
    raise DatabaseFileError(
        Reason.REFUSED, f"{path} is {file_type(status)}; a plain file is expected: name the file itself"
    )


def file_type(status: os.stat_result) -> str:
    """What something that is no plain file is, with its article."""
    return next((name for test, name in _FILE_TYPES if test(status.st_mode)), "no plain file")


def has_content(path: str) -> bool:
    """Whether there is anything but an empty file at ``path``."""
    status = found_status(path)
    return status is not None and (status.st_size > 0 or not stat.S_ISREG(status.st_mode))


def logs_with_content(path: str) -> tuple[str, ...]:
    """The logs beside the database at ``path`` which SQLite would replay into it.

    A journal that begins with a zero byte is one that was used up (https://sqlite.org/pragma.html#pragma_journal_mode,
    PERSIST).
    """
    logs = [path + suffix for suffix in LOG_SUFFIXES if has_content(path + suffix)]
    return tuple(log for log in logs if not (log.endswith("-journal") and _begins_with_zero(log)))


def _begins_with_zero(path: str) -> bool:
    """Whether the first byte of a plain file is zero; False for anything else."""
    status = found_status(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return False
    with opened_plain_file(path) as descriptor:
        return os.pread(descriptor, 1, 0) == b"\x00"


def require_no_super_journal(path: str) -> None:
    """Raise DatabaseFileError when the rollback journal at ``path`` belongs to a transaction over several databases.

    Its end then names a file which SQLite reads and may delete, wherever that is, and without which it takes the
    journal for a stale one (https://sqlite.org/fileformat2.html#the_rollback_journal, pager.c, readSuperJournal).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        require_plain_file(path, status)
        end = os.pread(descriptor, len(_JOURNAL_MAGIC), max(0, status.st_size - len(_JOURNAL_MAGIC)))
    finally:
        os.close(descriptor)
    if end == _JOURNAL_MAGIC:
        raise DatabaseFileError(
            Reason.REFUSED,
            f"{path} was left by a transaction over several databases that was cut off; only their application can end "
            "it: start it once, or open the database as its owner, then try again",
        )


def identity(status: os.stat_result) -> tuple[int, int]:
    """Device and inode: what a file is, whatever its name."""
    return status.st_dev, status.st_ino


class LockListing:
    """The POSIX locks for reading or writing that a process has now, from /proc/locks (proc(5)).

    To take one makes the kernel wait for all its cores, a few milliseconds.
    """

    def __init__(self, process: int) -> None:
        with open("/proc/locks", encoding="ascii") as file:
            locks = [line.split() for line in file]
        self._starts = [
            (place.rpartition(":")[2], int(start))
            for _number, kind, _advisory, _mode, owner, place, start, _end in (lock for lock in locks if len(lock) == 8)
            if kind == "POSIX" and owner == str(process)
        ]

    def has(self, inode: int, first: int = 0, last: int | None = None) -> bool:
        """Whether one of the locks is on this file and begins in these bytes.

        Locks side by side are listed as one. Some file systems show another device number there than stat() does,
        hence the inode.
        """
        return any(
            place == str(inode) and first <= start and (last is None or start <= last) for place, start in self._starts
        )


def require_not_in_use_here(path: str, descriptor: int) -> None:
    """Raise DatabaseFileError when this very process has a lock on the file, as a connection of SQLite has.

    Closing ``descriptor`` would drop the lock, and SQLite in a forked child would take it for its own.
    """
    if LockListing(os.getpid()).has(os.fstat(descriptor).st_ino):
        raise DatabaseFileError(Reason.IN_USE, f"{path} is in use by a connection of this very process; close it first")


@contextlib.contextmanager
def opened_folder(path: str) -> Iterator[int]:
    """A descriptor of the folder at ``path``, for names relative to it; the last part of ``path`` is no link."""
    status = found_status(path)
    if status is None:
        raise DatabaseFileError(Reason.MISSING, f"there is no folder {path}; create it first")
    if not stat.S_ISDIR(status.st_mode):
        link = f", perhaps {os.path.realpath(path)}" if stat.S_ISLNK(status.st_mode) else ""
        raise DatabaseFileError(
            Reason.REFUSED, f"{path} is {file_type(status)}; a folder is expected: name the folder itself{link}"
        )
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened_plain_file(path: str, folder: int | None = None) -> Iterator[int]:
    """A descriptor for reading the plain file at ``path``, relative to the descriptor ``folder`` if that is given.

    Links are not followed; a FIFO does not hang it and a device is not touched, whoever swaps them in: what is
    opened for reading is what was looked at (O_PATH, open(2)). Closing any descriptor of a database drops the POSIX
    locks which this process has on it (https://sqlite.org/howtocorrupt.html, 2.2): connect and close connections
    inside this context only.
    """
    try:
        located = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError as error:
        raise DatabaseFileError(Reason.MISSING, f"there is no file at {path}") from error
    try:
        require_plain_file(path, os.fstat(located))
        descriptor = os.open(f"/proc/self/fd/{located}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(located)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def require_unmoved(path: str, descriptor: int) -> None:
    """Raise DatabaseFileError unless ``path`` still names the file which ``descriptor`` has open."""
    status = found_status(path)
    if status is None or identity(status) != identity(os.fstat(descriptor)):
        raise DatabaseFileError(Reason.REFUSED, f"{path} was moved or replaced meanwhile; try again")


def blocks_of(descriptor: int) -> Iterator[bytes]:
    """The bytes of an open file from its beginning, whatever its offset, in blocks of BLOCK_BYTES."""
    offset = 0
    while True:
        block = os.pread(descriptor, BLOCK_BYTES, offset)
        if not block:
            return
        yield block
        offset += len(block)


def sha256_of(descriptor: int, deadline: Deadline) -> str:
    """SHA-256 of an open file's bytes, in hexadecimal. Raises DatabaseFileError at the deadline."""
    digest = hashlib.sha256()
    for block in blocks_of(descriptor):
        digest.update(block)
        deadline.check()
    return digest.hexdigest()


@contextlib.contextmanager
def read_errors_named(descriptor: int, path: str, deadline: Deadline) -> Iterator[None]:
    """Raise OSError, not that it is damaged, where the disk cannot give a byte of the open database.

    SQLite calls that "malformed" too (os_unix.c, SQLITE_IOERR_CORRUPTFS).
    """
    try:
        yield
    except DatabaseFileError as error:
        if error.reason is Reason.DAMAGED_SOURCE:
            require_readable(descriptor, path, deadline)
        raise


def require_readable(descriptor: int, path: str, deadline: Deadline) -> None:
    """Raise OSError where the disk cannot give a byte of an open file; gives up looking at the deadline."""
    try:
        for _block in blocks_of(descriptor):
            if deadline.expired():
                break
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def require_space(folder: str, needed: int) -> None:
    """Raise DatabaseFileError when the file system of ``folder`` has not ``needed`` bytes for this process.

    One of 0 blocks does not know its size: a tmpfs without a limit, some in user space (statvfs(3)).
    """
    status = os.statvfs(folder)
    available = (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
    if status.f_blocks and available < needed:
        raise DatabaseFileError(
            Reason.NO_SPACE,
            f"no space in {folder}: {needed} bytes are needed, {available} are free; "
            "free some or choose another folder",
        )


class StagedFile:
    """A file in ``folder`` that is not known by its final name yet, and the logs beside it while it has some.

    Created 0600 under a random name, never through a link. Without ``publish`` it is gone at the end of the
    context. Those which a killed process left in the folder are removed first: a living one holds its lock.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.name = ""
        self.descriptor = -1
        self.folder_descriptor = -1
        self._named = False
        self._opened = contextlib.ExitStack()

    @property
    def path(self) -> str:
        """Where the file lies until it is published."""
        return os.path.join(self.folder, self.name)

    def __enter__(self) -> StagedFile:
        with contextlib.ExitStack() as opened:
            self.folder_descriptor = opened.enter_context(opened_folder(self.folder))
            self._remove_abandoned()
            while not self._created():
                os.close(self.descriptor)
            opened.callback(os.close, self.descriptor)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._opened:
            if self._named:
                self._unlink(self.name)
                self.remove_logs()

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.folder_descriptor)

    def _created(self) -> bool:
        """Create and lock the file; False when somebody removed it before the lock was held."""
        self.name = f".sqlite-{secrets.token_hex(8)}.staged"
        self.descriptor = self._open_new(self.name)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        self._named = os.fstat(self.descriptor).st_nlink == 1
        return self._named

    def _open_new(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(name, flags, 0o600, dir_fd=self.folder_descriptor)
        except OSError as error:
            error.filename = os.path.realpath(self.folder)
            raise

    @contextlib.contextmanager
    def new_log(self, suffix: str) -> Iterator[int]:
        """A descriptor for writing a new file beside the staged one, of the same name with ``suffix``."""
        descriptor = self._open_new(self.name + suffix)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def logs_size(self) -> int:
        """Bytes of the logs beside the staged file."""
        found = [found_status(self.path + suffix) for suffix in LOG_SUFFIXES]
        return sum(status.st_size for status in found if status is not None)

    def remove_logs(self) -> None:
        """Remove the logs beside the staged file."""
        for suffix in SIDECAR_SUFFIXES:
            self._unlink(self.name + suffix)

    def _remove_abandoned(self) -> None:
        """A log goes with its file; one without a file was left between the removal of the two."""
        found = [match for match in map(_STAGED_NAME.fullmatch, os.listdir(self.folder_descriptor)) if match]
        for name in sorted({match.group(1) for match in found}):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
                with contextlib.suppress(FileNotFoundError):
                    descriptor = os.open(name, flags, dir_fd=self.folder_descriptor)
                    opened.callback(os.close, descriptor)
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for suffix in ("", *SIDECAR_SUFFIXES):
                    self._unlink(name + suffix)

    def sync_folder(self) -> None:
        """Make the folder's names durable."""
        os.fsync(self.folder_descriptor)

    def publish(self, name: str, replace: bool) -> None:
        """Give the synced file its final ``name`` in the folder, durably.

        Raises FileExistsError when the name is taken and ``replace`` is false: link() decides that atomically.
        """
        descriptor = self.folder_descriptor
        self.remove_logs()
        if replace:
            os.rename(self.name, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
            self._named = False
            self.sync_folder()
            return
        os.link(self.name, name, src_dir_fd=descriptor, dst_dir_fd=descriptor, follow_symlinks=False)
        try:
            os.unlink(self.name, dir_fd=descriptor)
            self._named = False
            self.sync_folder()
        except OSError:
            self._unlink(name)
            raise
