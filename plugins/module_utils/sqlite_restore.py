# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Put a verified copy in the place of an SQLite database that nobody has open.

A log is bound to its database by its name only: an old one beside a new file is replayed into it, or damages it.
The order that leaves the old database or the new one when killed anywhere: stage the new file, fold the old log
into the old database, remove what is left of the logs, rename, sync the folder.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from dataclasses import dataclass

from .sqlite_files import (
    SIDECAR_SUFFIXES,
    DatabaseFileError,
    Deadline,
    Progress,
    ProgressReport,
    Reason,
    StagedFile,
    blocks_of,
    database_uri,
    errors_raised_as,
    explain_sqlite_error,
    found_status,
    identity,
    logs_with_content,
    opened_plain_file,
    require_plain_file,
    require_space,
    sha256_of,
    utc_stamp,
)
from .sqlite_holders import Holder, describe_holders, find_holders
from .sqlite_verify import DatabaseFacts, read_header, verify_database

__all__ = ("Holder", "Restoration", "RestoreError", "find_holders", "restore_database")

FOLD_BUSY_SECONDS = 5.0


class RestoreError(DatabaseFileError):
    """The database was not replaced; what was there is whole, its log perhaps folded into it."""


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


@dataclass(frozen=True)
class _Attributes:
    uid: int
    gid: int
    mode: int


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
    with errors_raised_as(RestoreError, f"restore of {source} to {dest}"):
        previous = _found_previous(source, dest)
        facts = _verified_source(source, expected_sha256, deadline, progress)
        attributes = _wanted_attributes(dest, previous, uid, gid, mode)
        same_content = previous is not None and _has_content_of(dest, facts, deadline)
        changed = not same_content or previous is None or _attributes_of(previous) != attributes
        backup_file = None
        if not check and not same_content:
            with StagedFile(os.path.dirname(dest)) as staged:
                _require_no_holders(dest)
                _stage(source, staged, facts, deadline, progress)
                _apply(staged.descriptor, attributes)
                os.fsync(staged.descriptor)
                deadline.check()
                backup_file = _replace(dest, staged, keep_previous)
        elif not check and changed:
            _set_attributes(dest, attributes)
    return Restoration(dest, changed, backup_file, facts.size, facts.sha256)


def _found_previous(source: str, dest: str) -> os.stat_result | None:
    """Status of what is at ``dest``. Raises DatabaseFileError when it cannot be replaced by ``source``."""
    folder = os.path.dirname(dest)
    if not os.path.isdir(folder):
        raise DatabaseFileError(Reason.MISSING, f"there is no folder {folder} to restore into; create it first")
    status = found_status(dest)
    if status is not None:
        require_plain_file(dest, status)
        origin = found_status(source)
        if origin is not None and identity(origin) == identity(status):
            raise DatabaseFileError(Reason.REFUSED, "both are the same file; name the copy to restore from")
    return status


def _verified_source(
    source: str, expected_sha256: str | None, deadline: Deadline, progress: ProgressReport | None
) -> DatabaseFacts:
    facts = verify_database(source, "full", deadline, progress)
    if expected_sha256 is not None and facts.sha256 != expected_sha256.lower():
        raise DatabaseFileError(
            Reason.DAMAGED_SOURCE,
            f"{source} has the SHA-256 {facts.sha256}, expected is {expected_sha256}; choose another copy",
        )
    return facts


def _attributes_of(status: os.stat_result) -> _Attributes:
    return _Attributes(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


def _wanted_attributes(
    dest: str, previous: os.stat_result | None, uid: int | None, gid: int | None, mode: int | None
) -> _Attributes:
    if previous is not None:
        usual = _attributes_of(previous)
    else:
        folder = os.stat(os.path.dirname(dest))
        usual = _Attributes(folder.st_uid, folder.st_gid, 0o600)
    return _Attributes(
        usual.uid if uid is None else uid, usual.gid if gid is None else gid, usual.mode if mode is None else mode
    )


def _has_content_of(dest: str, facts: DatabaseFacts, deadline: Deadline) -> bool:
    """Whether ``dest`` is byte for byte the verified source, with no log that would change it."""
    if logs_with_content(dest):
        return False
    with opened_plain_file(dest) as descriptor:
        return os.fstat(descriptor).st_size == facts.size and sha256_of(descriptor, deadline) == facts.sha256


def _set_attributes(dest: str, attributes: _Attributes) -> None:
    with opened_plain_file(dest) as descriptor:
        _apply(descriptor, attributes)


def _apply(descriptor: int, attributes: _Attributes) -> None:
    """Owner first: changing it clears bits of the mode (chown(2))."""
    os.fchown(descriptor, attributes.uid, attributes.gid)
    os.fchmod(descriptor, attributes.mode)


def _replace(dest: str, staged: StagedFile, keep_previous: bool) -> str | None:
    """The order of steps explained at the top of this file. Returns the name under which the old one is kept."""
    _remove_aliases(dest)
    _fold_log(dest)
    try:
        backup_file = _keep(dest) if keep_previous else None
        _require_no_holders(dest)
        _remove_sidecars(dest)
        staged.sync_folder()
        staged.publish(os.path.basename(dest), replace=True)
    except BaseException:
        _remove_aliases(dest)
        raise
    return backup_file


def _remove_sidecars(dest: str) -> None:
    for suffix in SIDECAR_SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(dest + suffix)


def _require_no_holders(dest: str) -> None:
    holders = find_holders(dest)
    if holders:
        raise DatabaseFileError(
            Reason.IN_USE, f"{describe_holders(holders)}; stop what uses the database, then restore again"
        )


def _stage(
    source: str, staged: StagedFile, facts: DatabaseFacts, deadline: Deadline, progress: ProgressReport | None
) -> None:
    """Copy the bytes that were verified, and prove that it is those."""
    require_space(staged.folder, facts.size)
    started, done = time.monotonic(), 0
    with opened_plain_file(source) as descriptor:
        for block in blocks_of(descriptor):
            done += _write(staged.descriptor, block)
            deadline.check()
            if progress is not None:
                progress(Progress("copying", done, facts.size, time.monotonic() - started))
    copied = sha256_of(staged.descriptor, deadline)
    if copied != facts.sha256:
        raise DatabaseFileError(
            Reason.DAMAGED_SOURCE,
            f"{source} had the SHA-256 {facts.sha256} when it was verified, its copy has {copied}; try again",
        )


def _write(descriptor: int, block: bytes) -> int:
    remaining = memoryview(block)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]
    return len(block)


def _fold_log(dest: str) -> None:
    """Bring what the old database's logs hold into its file, so that it is whole without them.

    A database too damaged to be read stays byte for byte as it is: that is when a restore is needed most.
    Raises DatabaseFileError or sqlite3.Error when the log of a sound one cannot be folded, as it is locked or
    the space does not suffice.
    """
    if found_status(dest) is None or not logs_with_content(dest):
        return
    with opened_plain_file(dest) as descriptor:
        if _is_readable(dest, descriptor):
            _fold(dest)


def _fold(dest: str) -> None:
    try:
        with contextlib.closing(_connect(dest, "rw")) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (journal_mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    except sqlite3.Error as error:
        if explain_sqlite_error(error)[0] in (Reason.LOCKED, Reason.NO_SPACE):
            raise
        return
    if journal_mode != "delete":
        raise DatabaseFileError(Reason.LOCKED, f"{dest} is locked; stop what uses it, then restore again")


def _is_readable(dest: str, descriptor: int) -> bool:
    """Whether SQLite can read the schema; asked read-only, since a writer folds the log even when it cannot."""
    try:
        read_header(descriptor, dest)
        with contextlib.closing(_connect(dest, "ro")) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except DatabaseFileError:
        return False
    except sqlite3.Error as error:
        hot_journal = "readonly" in str(error)
        return hot_journal or explain_sqlite_error(error)[0] is Reason.LOCKED
    return True


def _connect(dest: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(database_uri(dest, mode=mode), uri=True, isolation_level=None, timeout=FOLD_BUSY_SECONDS)


def _keep(dest: str) -> str | None:
    """Give the old database, and a log that could not be folded into it, a second name; it takes no space."""
    kept = [path for path in (dest, *logs_with_content(dest)) if found_status(path) is not None]
    if not kept:
        return None
    backup_file = f"{dest}.{utc_stamp()}~"
    for path in kept:
        os.link(path, backup_file + path[len(dest) :], follow_symlinks=False)
    return backup_file


def _remove_aliases(dest: str) -> None:
    """Remove the second names which a restore that did not come to its end gave to the database still in place.

    They would change with it. One with a log beside it is a damaged database's, kept whole, and stays.
    """
    status = found_status(dest)
    if status is None or status.st_nlink == 1:
        return
    folder, name = os.path.split(dest)
    for other in os.listdir(folder):
        path = os.path.join(folder, other)
        if other.startswith(f"{name}.") and other.endswith("~") and not logs_with_content(path):
            alias = found_status(path)
            if alias is not None and identity(alias) == identity(status):
                os.unlink(path)
