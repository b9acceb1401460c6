# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Put a verified copy in the place of an SQLite database that nobody has open.

A log is bound to its database by its name only: an old one beside a new file is replayed into it, or damages it.
Hence this order, of which every step is on the disk before the next one begins:

1. The new file is staged in the same folder, read back from the disk, given its owner and permissions, and synced.
2. SQLite folds the old log into the old database, syncs that, and removes the log. Cut off here, the database has all
   of its changes: in itself, in its log, or in both.
3. What is left of the logs is removed, and the folder synced. Cut off here, the old database is whole without them.
   One too damaged to be folded has got a second name before, its logs beside it: whole under that name.
4. The new file is renamed over the old one, and the folder synced: the old database or the new one, no log beside it.

Nothing follows a link that somebody plants in the folder. It is held open, names are relative to that descriptor, and
SQLite, which knows paths only, opens the old database in a child whose root is the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import resource
import sqlite3
from dataclasses import dataclass
from typing import ContextManager, Iterator, NamedTuple, Sequence

from .byte_copy import ByteCopier, clone
from .file_access import FileAccess, access_of, give_access
from .sqlite_files import (
    LOG_SUFFIXES,
    SIDECAR_SUFFIXES,
    DatabaseFileError,
    Deadline,
    ProgressReport,
    Reason,
    StagedFile,
    database_uri,
    errors_raised_as,
    explain_sqlite_error,
    found_status,
    identity,
    opened_folder,
    opened_plain_file,
    require_no_super_journal,
    require_plain_file,
    require_space,
    sha256_of,
    utc_stamp,
)
from .sqlite_holders import FileIdentity, Holder, describe_holders, find_holders, holders_of
from .sqlite_verify import DatabaseFacts, read_header, verify_database
from .sqlite_worker import Channel, Child, enter_folder, limit_heap

__all__ = ("Holder", "Restoration", "RestoreError", "find_holders", "restore_database")

FOLD_BUSY_SECONDS = 5.0

# A log of some gigabytes takes minutes on a slow disk; one that takes longer hangs.
FOLD_SECONDS = 600.0

# A kept database's name; only until the restore is done where nobody asked to keep it.
_PASSING = ".replaced"
_KEPT_NAME = re.compile(rf"\.\d{{4}}-\d\d-\d\dT\d\d-\d\d-\d\d-\d{{6}}Z(?:{re.escape(_PASSING)})?~")
_KEPT_LOG = re.compile(f"({_KEPT_NAME.pattern})(?:{'|'.join(LOG_SUFFIXES)})")

# Where SQLite locks a database: PENDING_BYTE, RESERVED_BYTE and 510 bytes from SHARED_FIRST on (os.h of its sources).
_LOCKED_FROM, _LOCKED_BYTES = 0x40000000, 512
_CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RestoreError(DatabaseFileError):
    """The database was not replaced; what was there is whole, its log perhaps folded into it.

    Three errors come after the replacement: the folder could not be synced, somebody put another file there, or opened
    the old one in that very moment.
    """


@dataclass(frozen=True)
class Restoration:
    """What lies at ``dest`` now, or would (check mode).

    ``changed`` is false when the same content, with the same owner and mode, was in place already.
    ``backup_file`` is what was there before, when that was to be kept. ``size`` in bytes.
    """

    dest: str
    changed: bool
    backup_file: str | None
    size: int
    sha256: str


class _Previous(NamedTuple):
    """The file that is to be replaced."""

    file: FileIdentity
    access: FileAccess


@dataclass(frozen=True)
class _Place:
    """Where the database lies: a path, and the descriptor of its folder, to which all names are relative."""

    path: str
    folder: int

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def status(self, suffix: str = "") -> os.stat_result | None:
        try:
            return os.stat(self.name + suffix, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def file(self) -> FileIdentity | None:
        status = self.status()
        return None if status is None else identity(status)

    def opened(self, suffix: str = "") -> ContextManager[int]:
        return opened_plain_file(self.name + suffix, self.folder)

    def link(self, name: str, new_name: str) -> None:
        os.link(name, new_name, src_dir_fd=self.folder, dst_dir_fd=self.folder, follow_symlinks=False)

    def unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.folder)

    def logs(self) -> tuple[str, ...]:
        """The suffixes of the logs that SQLite would replay into the database; see logs_with_content."""
        return tuple(suffix for suffix in LOG_SUFFIXES if self._has_content(suffix))

    def _has_content(self, suffix: str) -> bool:
        status = self.status(suffix)
        if status is None or status.st_size == 0:
            return False
        try:
            with self.opened(suffix) as descriptor:
                return suffix != "-journal" or os.pread(descriptor, 1, 0) != b"\x00"
        except DatabaseFileError as error:
            # Another restore, or SQLite itself, has folded and removed it in this moment.
            if error.reason is Reason.MISSING:
                return False
            raise


def restore_database(
    source: str,
    dest: str,
    *,
    expected_sha256: str | None = None,
    keep_previous: bool = False,
    uid: int | None = None,
    gid: int | None = None,
    mode: int | None = None,
    check: bool = False,
    timeout: float | None = None,
    progress: ProgressReport | None = None,
) -> Restoration:
    """Replace the database ``dest`` by a copy of the self-contained database file ``source``.

    ``uid``, ``gid``, ``mode`` default to those of what was there; where nothing was, to the folder's owner and
    group and 0600. ``keep_previous`` keeps what was there under a new name. ``check`` only says what would happen;
    then it does not matter who has the database open. ``timeout`` in seconds bounds everything, ``progress`` is
    called now and then. Raises RestoreError.
    """
    deadline = Deadline(timeout)
    source, dest = os.path.abspath(source), os.path.abspath(dest)
    doing = errors_raised_as(RestoreError, f"restore of {source} to {dest}")
    with doing, opened_folder(os.path.dirname(dest)) as folder:
        place = _Place(dest, folder)
        previous = _found_previous(place, source)
        facts = _verified_source(source, expected_sha256, deadline, progress)
        access = _wanted_access(place, previous, uid, gid, mode)
        same_content = previous is not None and _has_content_of(place, facts, deadline)
        changed = not same_content or previous is None or previous.access != access
        backup_file = None
        if not check:
            _remove_orphans(place, locked=False)
        if not same_content:
            _require_writable(place, facts)
        if not same_content and not check:
            with _staged(place, source, facts, access, deadline, progress) as staged:
                backup_file = _replace(place, staged, previous, keep_previous, deadline)
        elif changed and not check:
            _give_access_in_place(place, access)
    return Restoration(dest, changed, backup_file, facts.size, facts.sha256)


def _found_previous(place: _Place, source: str) -> _Previous | None:
    """What is there. Raises DatabaseFileError when it, or what lies beside it, cannot be replaced by ``source``."""
    for suffix in ("", *SIDECAR_SUFFIXES):
        status = place.status(suffix)
        if status is not None:
            require_plain_file(place.path + suffix, status)
    if place.status() is None:
        return None
    with place.opened() as descriptor:
        if _mount_of(descriptor) != _mount_of(place.folder):
            raise DatabaseFileError(
                Reason.REFUSED,
                f"{place.path} is a mount of its own and cannot be replaced; restore in the folder that it comes from",
            )
        file, access = identity(os.fstat(descriptor)), access_of(descriptor)
    origin = found_status(source)
    if origin is not None and identity(origin) == file:
        raise DatabaseFileError(Reason.REFUSED, "both are the same file; name the copy to restore from")
    return _Previous(file, access)


def _mount_of(descriptor: int) -> str:
    """The id of the mount through which a file is open (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        return next(line.split()[1] for line in file if line.startswith("mnt_id:"))


def _verified_source(
    source: str, expected_sha256: str | None, deadline: Deadline, progress: ProgressReport | None
) -> DatabaseFacts:
    if expected_sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", expected_sha256):
        raise DatabaseFileError(
            Reason.REFUSED, f"{expected_sha256!r} is no SHA-256; 64 hexadecimal digits are expected, as sha256sum says"
        )
    facts = verify_database(source, "full", deadline, progress)
    if expected_sha256 is not None and facts.sha256 != expected_sha256.lower():
        raise DatabaseFileError(
            Reason.DAMAGED_SOURCE,
            f"{source} has the SHA-256 {facts.sha256}, expected is {expected_sha256}; choose another copy",
        )
    return facts


def _wanted_access(
    place: _Place, previous: _Previous | None, uid: int | None, gid: int | None, mode: int | None
) -> FileAccess:
    if previous is not None:
        usual = previous.access
    else:
        folder = os.fstat(place.folder)
        usual = FileAccess(folder.st_uid, folder.st_gid, 0o600, None)
    return FileAccess(
        usual.uid if uid is None else uid,
        usual.gid if gid is None else gid,
        usual.mode if mode is None else mode,
        usual.extended,
    )


def _has_content_of(place: _Place, facts: DatabaseFacts, deadline: Deadline) -> bool:
    """Whether the verified source is there byte for byte, with no log that would change it."""
    if place.logs():
        return False
    with place.opened() as descriptor:
        return os.fstat(descriptor).st_size == facts.size and sha256_of(descriptor, deadline) == facts.sha256


def _require_writable(place: _Place, facts: DatabaseFacts) -> None:
    folder = os.path.dirname(place.path)
    if os.fstatvfs(place.folder).f_flag & os.ST_RDONLY:
        raise DatabaseFileError(Reason.SYSTEM, f"{folder} is on a read-only file system; make it writable first")
    require_space(folder, facts.size)


def _give_access_in_place(place: _Place, access: FileAccess) -> None:
    with place.opened() as descriptor:
        give_access(descriptor, access)


@contextlib.contextmanager
def _staged(
    place: _Place,
    source: str,
    facts: DatabaseFacts,
    access: FileAccess,
    deadline: Deadline,
    progress: ProgressReport | None,
) -> Iterator[StagedFile]:
    """A copy of the bytes that were verified, proven on the disk to be those, ready to get its name.

    Until it is proven only this user can write to it.
    """
    _require_no_holders(place)
    # The folder that is open, whatever its path names by now.
    with StagedFile(f"/proc/self/fd/{place.folder}/.") as staged:
        with opened_plain_file(source) as original:
            if not clone(original, staged.descriptor):
                ByteCopier(original, staged.descriptor, facts.size, deadline, progress).copy(0, facts.size)
        os.fdatasync(staged.descriptor)
        os.posix_fadvise(staged.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        written = sha256_of(staged.descriptor, deadline)
        if written != facts.sha256:
            raise DatabaseFileError(
                Reason.DAMAGED_COPY,
                f"{source} had the SHA-256 {facts.sha256} when it was verified, what was written has {written}; "
                "it was changed meanwhile, or the disk does not keep what is written: look into that, then try again",
            )
        give_access(staged.descriptor, access)
        os.fsync(staged.descriptor)
        yield staged


def _replace(
    place: _Place, staged: StagedFile, previous: _Previous | None, keep_previous: bool, deadline: Deadline
) -> str | None:
    """Steps 2 to 4 of the order at the top of this file. Returns the name under which the old database is kept."""
    file = None if previous is None else previous.file
    _require_no_holders(place)
    unfolded = _fold_logs(place, deadline)
    with _locked(place, file):
        _require_no_holders(place)
        if place.logs() != unfolded:
            raise DatabaseFileError(Reason.IN_USE, f"{place.path} was written to meanwhile; find out by whom")
        _remove_aliases(place)
        _remove_orphans(place, locked=True)
        kept = None
        if unfolded or (keep_previous and file is not None):
            kept = f"{place.name}.{utc_stamp()}{'' if keep_previous else _PASSING}~"
        try:
            if kept is not None:
                _keep(place, staged, kept, unfolded)
            for suffix in SIDECAR_SUFFIXES:
                place.unlink(place.name + suffix)
            staged.sync_folder()
            staged.publish(place.name, replace=True)
        except BaseException:
            if kept is not None and place.file() == file:
                _put_back(place, kept, unfolded)
            raise
        if place.file() != identity(os.fstat(staged.descriptor)):
            raise DatabaseFileError(Reason.REFUSED, f"{place.path} was replaced by another file meanwhile; try again")
        _require_not_opened_meanwhile(place, file)
    if kept is not None and not keep_previous:
        _remove_kept(place, kept, unfolded)
    return None if kept is None or not keep_previous else os.path.join(os.path.dirname(place.path), kept)


def _require_no_holders(place: _Place) -> None:
    holders = find_holders(place.path, place.folder)
    if holders:
        raise DatabaseFileError(
            Reason.IN_USE, f"{describe_holders(holders)}; stop what uses the database, then restore again"
        )


def _require_not_opened_meanwhile(place: _Place, file: FileIdentity | None) -> None:
    """Raise DatabaseFileError when somebody opened the old file in the moment in which it was replaced."""
    holders = [] if file is None else holders_of({file: place.path})
    if holders:
        raise DatabaseFileError(
            Reason.IN_USE,
            f"{describe_holders(holders)} as it was in the moment before it was replaced, and what is written so "
            "damages the new one; stop what uses the database, then restore again",
        )


@contextlib.contextmanager
def _locked(place: _Place, file: FileIdentity | None) -> Iterator[None]:
    """Keep SQLite in other processes out of the old database; nothing else may open and close it here meanwhile.

    That finds users who are not to be seen in /proc, too: a connection has a lock for as long as a transaction lasts,
    one in WAL mode always (https://sqlite.org/lockingv3.html). Raises DatabaseFileError.
    """
    if file is None:
        yield
        return
    with place.opened() as descriptor, contextlib.ExitStack() as opened:
        writable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        opened.callback(os.close, writable)
        try:
            fcntl.lockf(writable, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCKED_BYTES, _LOCKED_FROM)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _locked_by_another(place) from error
            if error.errno not in _CANNOT_LOCK:
                raise
        if not identity(os.fstat(writable)) == file == place.file():
            raise DatabaseFileError(Reason.REFUSED, f"{place.path} was moved or replaced meanwhile; try again")
        yield


def _locked_by_another(place: _Place) -> DatabaseFileError:
    return DatabaseFileError(
        Reason.LOCKED, f"a process locks {place.path}; stop what uses the database, then restore again"
    )


def _fold_logs(place: _Place, deadline: Deadline) -> tuple[str, ...]:
    """Bring what the old database's logs hold into its file, so that it is whole without them.

    Returns the suffixes of those that could not be, as the database is gone or too damaged to be read: it stays byte
    for byte as it is, since that is when a restore is needed most. Raises DatabaseFileError when a sound one cannot
    be folded.
    """
    logs = place.logs()
    if not logs or place.status() is None:
        return logs
    advice = f"nothing was changed; move {' and '.join(place.path + suffix for suffix in logs)} away to go on without"
    limit = Deadline(deadline.remaining(FOLD_SECONDS))
    try:
        with Child(functools.partial(_fold, place, logs), "folding the log into the old database") as child:
            folded = child.answer(limit)["result"]
    except DatabaseFileError as error:
        deadline.check()
        if error.reason is not Reason.TIMEOUT:
            raise DatabaseFileError(error.reason, f"{error}; {advice}") from error
        raise DatabaseFileError(
            Reason.SYSTEM, f"folding the log into the old database took longer than {FOLD_SECONDS:g} s; {advice}"
        ) from error
    return () if folded else logs


def _fold(place: _Place, logs: Sequence[str], channel: Channel) -> bool:
    """What the child does: False when the database cannot be read, which it then has not changed.

    Exclusive locking keeps the log's index out of the ``-shm``, in which anything may be. Nothing grows larger than a
    true log could make it.
    """
    with place.opened() as descriptor:
        sizes = [status.st_size for status in map(place.status, ("", *logs)) if status is not None]
        bound = sum(sizes) + (1 << 20)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bound, bound))
        path = enter_folder(place.folder, place.path)
        if "-journal" in logs:
            require_no_super_journal(path + "-journal")
        try:
            read_header(descriptor, path)
        except DatabaseFileError:
            return False
        with contextlib.closing(_connect(path)) as connection:
            if not _is_readable(connection):
                # Closing the connection would fold the log all the same.
                channel.send({"result": False})
                os._exit(0)
            if not _merge(connection):
                return False
            # SQLite does not say that it could not remove a log. Nobody else can have made one: the lock is still held.
            for suffix in logs:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path + suffix)
            return True


def _connect(path: str) -> sqlite3.Connection:
    uri = database_uri(path, mode="rw")
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=FOLD_BUSY_SECONDS)
    limit_heap(connection)
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    return connection


def _is_readable(connection: sqlite3.Connection) -> bool:
    """Whether SQLite can read the schema."""
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except (sqlite3.Error, MemoryError) as error:
        _raise_if_passing(error)
        return False
    return True


def _merge(connection: sqlite3.Connection) -> bool:
    """SQLite syncs the database before it removes the log, with ``synchronous=FULL`` (https://sqlite.org/wal.html)."""
    try:
        connection.execute("PRAGMA synchronous=FULL")
        (journal_mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    except (sqlite3.Error, MemoryError) as error:
        _raise_if_passing(error)
        return False
    return bool(journal_mode == "delete")


def _raise_if_passing(error: BaseException) -> None:
    """Raise what says nothing about the database: a lock, no space, a disk that cannot write or sync.

    What a disk cannot read, SQLite calls malformed.
    """
    if isinstance(error, sqlite3.Error):
        passing = explain_sqlite_error(error)[0] in (Reason.LOCKED, Reason.NO_SPACE)
        if passing or "disk I/O error" in str(error):
            raise error


def _keep(place: _Place, staged: StagedFile, kept: str, unfolded: Sequence[str]) -> None:
    """Give the old database, and logs that could not be folded into it, second names; that takes no space.

    These names are on the disk before the logs lose their first ones. The database gets its own last, so that it has
    it with its logs or not at all.
    """
    for suffix in (*unfolded, ""):
        if place.status(suffix) is not None:
            place.link(place.name + suffix, kept + suffix)
    if unfolded:
        staged.sync_folder()


def _put_back(place: _Place, kept: str, unfolded: Sequence[str]) -> None:
    """Undo _keep, and the removal of the logs."""
    for suffix in unfolded:
        if place.status(suffix) is None:
            place.link(kept + suffix, place.name + suffix)
    _remove_kept(place, kept, unfolded)


def _remove_kept(place: _Place, kept: str, unfolded: Sequence[str]) -> None:
    for suffix in ("", *unfolded):
        place.unlink(kept + suffix)


def _remove_aliases(place: _Place) -> None:
    """Remove the second names which a restore that was killed gave to the database still in place.

    They would change with it. One with a log beside it is a damaged database's, kept whole, and stays.
    """
    status = place.status()
    if status is None or status.st_nlink == 1:
        return
    names = set(os.listdir(place.folder))
    for other in names:
        if not other.startswith(place.name) or not _KEPT_NAME.fullmatch(other[len(place.name) :]):
            continue
        alias = _Place(os.path.join(os.path.dirname(place.path), other), place.folder)
        if alias.file() == identity(status) and not names & {other + suffix for suffix in LOG_SUFFIXES}:
            place.unlink(other)


def _remove_orphans(place: _Place, locked: bool) -> None:
    """Remove kept logs whose kept database is not there, as a restore that was killed left them.

    One that has its first name still may be another restore's, which runs now, unless the database is ``locked``. One
    that has not stays where somebody asked to keep it, and has moved the database.
    """
    for other in os.listdir(place.folder):
        match = _KEPT_LOG.fullmatch(other[len(place.name) :]) if other.startswith(place.name) else None
        if match is not None and place.status(match.group(1)) is None:
            status = place.status(match.group(0))
            passing = _PASSING in match.group(1)
            if status is not None and (passing if status.st_nlink == 1 else locked):
                place.unlink(other)
