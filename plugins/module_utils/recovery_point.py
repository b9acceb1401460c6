# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Recovery points: one complete, verified backup in a folder that appears whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Iterator, Mapping

from .encryption import (
    ENCRYPTED_SUFFIX,
)
from .manifest import (
    TIME_FORMAT,
    ManifestError,
    NewerManifestError,
    parse_manifest,
)
from .sqlite_files import (
    NOT_CHECKED,
    DatabaseFileError,
    file_type,
    found_status,
    opened_folder,
    opened_plain_file,
    require_space,
)

DATABASE_NAME = "opstage.db"
MANIFEST_NAME = "manifest.json"
PROJECT_FOLDER = "project"
CLOCK_TOLERANCE = timedelta(hours=1)
"""How far ahead of the clock a recovery point may lie before a clock is taken to be, or to have been, wrong."""

REMOVED_PREFIX = ".removed-"
"""How a recovery point's name begins while it is removed."""

PARTIAL_PREFIX = ".partial-"
UNFINISHED_PREFIX = ".unfinished-"
"""How the folder of a recovery point is called that was begun and can be completed: see recovery_point_at_stop."""

IDENTIFIER = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d{6}Z-[a-z-]+", re.ASCII)
_LARGEST_MANIFEST = 16 << 20
_FREE_SPACE_RESERVE = 64 << 20
"""Bytes left free on the disk beside a new recovery point: the project's files, the manifest, and room to act."""


class RecoveryPointError(Exception):
    """A recovery point cannot be made, found, read or used."""


class NewerRecoveryPointError(RecoveryPointError):
    """A recovery point was made by a newer collection, whose manifest this one cannot read."""


@dataclass(frozen=True)
class RecoveryPoint:
    """One recovery point on its host; `manifest` is what its manifest.json holds."""

    path: str
    manifest: dict[str, Any]

    @property
    def created(self) -> datetime:
        """When it was begun, in UTC."""
        return datetime.strptime(self.manifest["created"], TIME_FORMAT).replace(tzinfo=timezone.utc)

    @property
    def is_verified(self) -> bool:
        """Whether its manifest says that the database was checked."""
        return bool(self.manifest["database"]["integrity"] != NOT_CHECKED)

    @property
    def is_encrypted(self) -> bool:
        """Whether its files are encrypted; then each has `.age` behind its name."""
        return self.manifest.get("encryption") is not None

    @property
    def database(self) -> str:
        """Absolute path of the copy of the database, encrypted or not."""
        return os.path.join(self.path, stored_name(DATABASE_NAME, self.manifest))

    @property
    def sha256(self) -> str:
        """SHA-256 of that file."""
        return str((self.manifest.get("encryption") or self.manifest["database"])["sha256"])


@dataclass(frozen=True)
class FolderEntry:
    """What has a name in the folder of a project's recovery points.

    ``state``:

    - ``whole``: a recovery point of the project, with its ``point``; the bytes of its database are not looked at
    - ``damaged``: it has the name of a recovery point, and is not whole
    - ``newer``: a recovery point that only a newer collection can read
    - ``partial``: left by a backup or an upgrade that was cut off, or being made by one; the next one removes it, or
      completes it where the journal says so
    - ``removed``: left by a removal that was cut off
    - ``stray``: nothing of this collection

    ``reason`` is a sentence that says why it has that state; empty when it is whole.
    """

    path: str
    state: str
    reason: str = ""
    point: RecoveryPoint | None = None

    @property
    def name(self) -> str:
        """Its name in the folder; the id of a recovery point."""
        return os.path.basename(self.path)


def stored_name(name: str, manifest: Mapping[str, Any]) -> str:
    """Return the name that a file of a recovery point has in its folder."""
    return name if manifest.get("encryption") is None else f"{name}{ENCRYPTED_SUFFIX}"


def project_root(root: str, project: str) -> str:
    """Return the folder that holds the recovery points of a project."""
    if not project or "/" in project or project in (".", ".."):
        raise RecoveryPointError(f"{project!r} cannot be a project's name: expected one folder name.")
    return os.path.join(root, project)


@contextmanager
def held_for_writing(parent: str) -> Iterator[None]:
    """Hold the folder for one writer; the kernel lets go when the process ends, however it ends."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise RecoveryPointError(f"Another run is at work on {parent}: wait until it has ended.") from error
        raise
    try:
        yield
    finally:
        os.close(descriptor)


def remove_partial_folders(parent: str) -> None:
    """Remove what a killed backup left; nobody else writes here while the folder is held."""
    for name in os.listdir(parent):
        if name.startswith(PARTIAL_PREFIX):
            shutil.rmtree(os.path.join(parent, name))


def require_room(parent: str, database: str, copies: int) -> None:
    """Raise RecoveryPointError unless so many copies of a database on this host fit."""
    require_free(parent, largest_copy(database) * copies)


def largest_copy(database: str) -> int:
    """Bytes that a copy has at most: those of the database and its log together."""
    paths = (database, database + "-wal")
    return sum(os.lstat(path).st_size for path in paths if os.path.lexists(path))


def require_free(parent: str, size: int) -> None:
    """Raise RecoveryPointError unless `size` bytes more fit there, and some to spare."""
    needed = size + _FREE_SPACE_RESERVE
    state = os.statvfs(parent)
    free = state.f_bavail * state.f_frsize
    if free < needed:
        raise RecoveryPointError(
            f"Too little room for a recovery point in {parent}: {free} bytes are free, {needed} are needed "
            f"(database, its log, and {_FREE_SPACE_RESERVE} to spare). {needed - free} bytes are missing."
        )


def require_way_back(database: str, size: int) -> None:
    """Raise RecoveryPointError unless `size` bytes fit beside the database: the old one is put there before it gets its
    name.
    """
    try:
        require_space(os.path.dirname(database), size)
    except DatabaseFileError as error:
        raise RecoveryPointError(f"What is there now could not be put back later: {error}.") from error


def list_recovery_points(root: str, project: str) -> list[str]:
    """Return what has the name of a recovery point of the project, as paths in the order of the names, which begin
    with the time; raises RecoveryPointError.
    """
    parent = project_root(root, project)
    return [os.path.join(parent, name) for name in _names_in(parent) if IDENTIFIER.fullmatch(name)]


def _names_in(parent: str) -> list[str]:
    try:
        with opened_folder(parent) as folder:
            return sorted(os.listdir(folder))
    except (DatabaseFileError, OSError) as error:
        if not os.path.lexists(parent):
            return []
        raise RecoveryPointError(f"{parent} cannot be read: {error}") from error


def examine_recovery_points(root: str, project: str) -> list[FolderEntry]:
    """Return all that lies in the folder of the project's recovery points, in the order of the names.

    What cannot be read is an entry that says so. No link is followed, and what disappears meanwhile is left out.
    Raises RecoveryPointError when the folder itself cannot be read.
    """
    parent = project_root(root, project)
    entries = [_examine(os.path.join(parent, name), project) for name in _names_in(parent)]
    return [entry for entry in entries if entry is not None]


def _examine(path: str, project: str) -> FolderEntry | None:
    """Say what there is at `path`; None when there is nothing (any more)."""
    try:
        name = os.path.basename(path)
        status = found_status(path)
        if status is None:
            return None
        if name.startswith(PARTIAL_PREFIX):
            return FolderEntry(
                path, "partial", f"{path} was left by a backup that was cut off, or one is making it now."
            )
        if name.startswith(UNFINISHED_PREFIX):
            return FolderEntry(path, "partial", f"{path} is to be completed by the upgrade that began it.")
        if name.startswith(REMOVED_PREFIX):
            return FolderEntry(path, "removed", f"{path} was left by a removal that was cut off.")
        if not IDENTIFIER.fullmatch(name) or not stat.S_ISDIR(status.st_mode):
            kind = "a file" if stat.S_ISREG(status.st_mode) else file_type(status)
            return FolderEntry(path, "stray", f"{path} is {kind} that no backup made: move it elsewhere.")
        point = read_recovery_point(path)
        _require_own(point, project)
    except NewerRecoveryPointError as error:
        return FolderEntry(path, "newer", str(error))
    except (RecoveryPointError, OSError) as error:
        return FolderEntry(path, "damaged", str(error)) if os.path.lexists(path) else None
    return FolderEntry(path, "whole", point=point)


def _require_own(point: RecoveryPoint, project: str) -> None:
    """Raise RecoveryPointError when a recovery point in a project's folder was made elsewhere or has another name."""
    for name, expected in (("project", project), ("id", os.path.basename(point.path))):
        found = point.manifest[name]
        if found != expected:
            raise RecoveryPointError(
                f"{point.path} was not made here: its manifest has the {name} {found!r}, expected {expected!r}. "
                "Move it elsewhere, and name its path where it is to be used."
            )


def find_newest(root: str, project: str) -> RecoveryPoint | None:
    """Return what `latest` names, see find_recovery_point; None where there is none. Raises RecoveryPointError."""
    entries = examine_recovery_points(root, project)
    if all(entry.point is None for entry in entries):
        return None
    return _latest(project_root(root, project), entries, _ignore)


def find_recovery_point(
    root: str, project: str, wanted: str, warn: Callable[[str], None] | None = None
) -> RecoveryPoint:
    """Return the recovery point that `wanted` names: `latest`, an id, or the absolute path of its folder.

    `latest` is the whole one with the newest time in its manifest, of several with one time that with the greatest id.
    One more than CLOCK_TOLERANCE in the future counts only where there is no other: a clock was wrong when it was
    made, or is now. `warn` is told of each that was passed over and seems newer, and why.
    Raises RecoveryPointError when there is none, or it is not whole.
    """
    if os.path.isabs(wanted):
        return read_recovery_point(wanted)
    parent = project_root(root, project)
    if wanted == "latest":
        return _latest(parent, examine_recovery_points(root, project), warn or _ignore)
    entry = _examine(os.path.join(parent, wanted), project) if IDENTIFIER.fullmatch(wanted) else None
    if entry is None:
        points = list_recovery_points(root, project)
        newest = ", ".join(os.path.basename(path) for path in points[-3:]) or "none"
        raise RecoveryPointError(
            f"{parent} holds no recovery point {wanted!r}. Expected `latest`, an id or an absolute path; the newest of "
            f"{len(points)}: {newest}."
        )
    if entry.point is None:
        raise RecoveryPointError(entry.reason)
    return entry.point


def _ignore(_warning: str) -> None:
    """Warn nobody."""


def _latest(parent: str, entries: list[FolderEntry], warn: Callable[[str], None]) -> RecoveryPoint:
    points = sorted(
        (entry.point for entry in entries if entry.point is not None),
        key=lambda point: (point.manifest["created"], point.manifest["id"]),
    )
    unusable = [entry for entry in entries if entry.state in ("damaged", "newer")]
    if not points:
        reasons = " ".join(entry.reason for entry in unusable[-3:])
        raise RecoveryPointError(f"{parent} holds no recovery point that can be used. {reasons}".rstrip())
    bound = (datetime.now(timezone.utc) + CLOCK_TOLERANCE).strftime(TIME_FORMAT)
    present = [point for point in points if point.manifest["created"] <= bound]
    chosen = (present or points)[-1]
    for entry in unusable:
        if entry.name > chosen.manifest["id"]:
            warn(f"Passed over for `latest`: {entry.reason}")
    for point in points[len(present) :]:
        made = f"{point.path} was made at {point.manifest['created']}, which is in the future"
        if present:
            warn(f"Passed over for `latest`: {made}; a clock was wrong then, or is now. Name its id to use it.")
        elif point is chosen:
            warn(f"Taken as `latest`: {made}, as all recovery points here are. Look at the clock of this host.")
    return chosen


def read_recovery_point(path: str) -> RecoveryPoint:
    """Return the recovery point in the folder `path`; raises RecoveryPointError when it is not whole.

    It is whole when its manifest is valid and its database has the size that the manifest says; its bytes are for
    verify_recovery_point. No link is followed from the last part of `path` on.
    """
    try:
        with opened_folder(path) as folder:
            manifest = _read_manifest(path, folder)
            _require_database(path, folder, manifest)
    except NewerManifestError as error:
        raise NewerRecoveryPointError(f"{path} {error}") from error
    except ManifestError as error:
        raise RecoveryPointError(f"{path} is damaged: its {MANIFEST_NAME} {error}") from error
    except (DatabaseFileError, OSError) as error:
        raise RecoveryPointError(f"{path} cannot be read as a recovery point: {error}") from error
    return RecoveryPoint(path, manifest)


def _read_manifest(path: str, folder: int) -> dict[str, Any]:
    if MANIFEST_NAME not in os.listdir(folder):
        raise RecoveryPointError(f"{path} is no recovery point, or not whole: it has no {MANIFEST_NAME}.")
    with opened_plain_file(MANIFEST_NAME, folder) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > _LARGEST_MANIFEST:
            raise ManifestError(f"has {size} bytes, expected are at most {_LARGEST_MANIFEST}")
        with open(descriptor, "rb", closefd=False) as stream:
            return parse_manifest(stream.read(_LARGEST_MANIFEST))


def _require_database(path: str, folder: int, manifest: Mapping[str, Any]) -> None:
    name = stored_name(DATABASE_NAME, manifest)
    expected = (manifest.get("encryption") or manifest["database"])["size"]
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError as error:
        raise RecoveryPointError(f"{path} is not whole: it has no {name}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise RecoveryPointError(f"{path} is damaged: its {name} is {file_type(status)}, expected a file.")
    if status.st_size != expected:
        raise RecoveryPointError(
            f"{path} is damaged: its {name} has {status.st_size} bytes, its manifest says {expected}. "
            "Choose another recovery point."
        )


def require_plain(point: RecoveryPoint) -> None:
    """Raise RecoveryPointError when the files of a recovery point are encrypted."""
    if point.is_encrypted:
        raise RecoveryPointError(
            f"{point.path} is encrypted: restore it with opstage_encryption_identity_file, which names the file of a "
            "private key on the controller."
        )
