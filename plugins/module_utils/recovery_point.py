# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Recovery points: one complete, verified backup in a folder that appears whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Iterator, Mapping

from .durable_files import make_private_folder, sync_folder, write_new_file
from .semantic_version import VersionError, parse_version
from .sqlite_files import ProgressReport, utc_stamp
from .sqlite_snapshot import Snapshot, create_snapshot
from .sqlite_verify import VerificationError, verify_database

MANIFEST_VERSION = 1
DATABASE_NAME = "opstage.db"
MANIFEST_NAME = "manifest.json"
PROJECT_FOLDER = "project"
REASONS = ("manual", "pre-upgrade", "pre-restore", "pre-rollback")
_PARTIAL_PREFIX = ".partial-"
_IDENTIFIER = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d{6}Z-[a-z-]+")
_NEEDED = (("database", "sha256"), ("opstage", "version"))
"""What the parts of a manifest must have for a restore."""
_FREE_SPACE_RESERVE = 64 << 20
"""Bytes left free on the disk beside a new recovery point: the project's files, the manifest, and room to act."""


class RecoveryPointError(Exception):
    """A recovery point cannot be made, found, read or used."""


@dataclass(frozen=True)
class RecoveryPoint:
    """One recovery point on its host; `manifest` is what its manifest.json holds."""

    path: str
    manifest: dict[str, Any]

    @property
    def database(self) -> str:
        """Absolute path of the copy of the database."""
        return os.path.join(self.path, DATABASE_NAME)


def project_root(root: str, project: str) -> str:
    """Return the folder that holds the recovery points of a project."""
    if not project or "/" in project or project in (".", ".."):
        raise RecoveryPointError(f"{project!r} cannot be a project's name: expected one folder name.")
    return os.path.join(root, project)


def create_recovery_point(
    deployment: Mapping[str, Any],
    root: str,
    reason: str,
    method: str,
    collection_version: str,
    progress: ProgressReport | None = None,
) -> RecoveryPoint:
    """Copy the database and the project's files of `deployment` into a new folder below `root`.

    deployment: the fields of deployment.Deployment. method: `online` or `offline`, as it is recorded. The folder gets
    its name last, after everything in it is verified and on disk; on any failure nothing is left of it. `progress` is
    called now and then.
    Raises RecoveryPointError, SnapshotError, PrivateFolderError, OSError.
    """
    began = time.monotonic()
    created = datetime.now(timezone.utc)
    parent = project_root(root, deployment["project"])
    make_private_folder(parent)
    with _alone(parent):
        _remove_partial_folders(parent)
        _require_space(parent, deployment["database"])
        identifier = f"{utc_stamp()}-{reason}"
        partial = os.path.join(parent, _PARTIAL_PREFIX + identifier)
        os.mkdir(partial, 0o700)
        try:
            copy = os.path.join(partial, DATABASE_NAME)
            snapshot = create_snapshot(deployment["database"], copy, progress=progress)
            files = _copy_project_files(deployment, os.path.join(partial, PROJECT_FOLDER))
            manifest = _describe(deployment, identifier, created, reason, method, snapshot, files, collection_version)
            manifest["duration_seconds"] = round(time.monotonic() - began, 3)
            write_new_file(
                os.path.join(partial, MANIFEST_NAME), json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"
            )
            sync_folder(partial)
            final = os.path.join(parent, identifier)
            os.rename(partial, final)
            sync_folder(parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return RecoveryPoint(final, manifest)


@contextmanager
def _alone(parent: str) -> Iterator[None]:
    """Hold the folder for one writer; the kernel lets go when the process ends, however it ends."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise RecoveryPointError(f"Another backup is writing to {parent}: wait until it has ended.") from error
        raise
    try:
        yield
    finally:
        os.close(descriptor)


def _remove_partial_folders(parent: str) -> None:
    """Remove what a killed backup left; nobody else writes here while the folder is held."""
    for name in os.listdir(parent):
        if name.startswith(_PARTIAL_PREFIX):
            shutil.rmtree(os.path.join(parent, name))


def _require_space(parent: str, database: str) -> None:
    """Raise RecoveryPointError unless the copy fits; its size is at most the database's and its log's together."""
    needed = _FREE_SPACE_RESERVE
    for path in (database, database + "-wal"):
        if os.path.lexists(path):
            needed += os.lstat(path).st_size
    state = os.statvfs(parent)
    free = state.f_bavail * state.f_frsize
    if free < needed:
        raise RecoveryPointError(
            f"Too little room for a recovery point in {parent}: {free} bytes are free, {needed} are needed "
            f"(database, its log, and {_FREE_SPACE_RESERVE} to spare). {needed - free} bytes are missing."
        )


def _copy_project_files(deployment: Mapping[str, Any], folder: str) -> list[dict[str, str]]:
    """Copy the Compose files and the files of variables; return what came from where, in the order of Compose."""
    os.mkdir(folder, 0o700)
    sources = list(deployment["config_files"])
    default = os.path.join(deployment["project_dir"], ".env")
    sources += deployment["environment_files"] or ([default] if os.path.isfile(default) else [])
    copied: dict[str, str] = {}
    for source in sources:
        name = os.path.basename(source)
        if copied.get(name, source) != source:
            raise RecoveryPointError(f"Two files of the project have the name {name}: {copied[name]} and {source}.")
        if name not in copied:
            with open(source, "rb") as stream:
                write_new_file(os.path.join(folder, name), stream.read())
            copied[name] = source
    sync_folder(folder)
    return [{"name": name, "source": source} for name, source in copied.items()]


def _describe(
    deployment: Mapping[str, Any],
    identifier: str,
    created: datetime,
    reason: str,
    method: str,
    snapshot: Snapshot,
    files: list[dict[str, str]],
    collection_version: str,
) -> dict[str, Any]:
    return {
        "manifest_version": MANIFEST_VERSION,
        "id": identifier,
        "created": created.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reason": reason,
        "method": method,
        "host": socket.gethostname(),
        "project": deployment["project"],
        "service": deployment["service"],
        "image": {name: deployment[name] for name in ("image", "tag", "digest", "image_id")},
        "opstage": {name: deployment[name] for name in ("version", "version_source", "edition")},
        "database": {
            "name": DATABASE_NAME,
            "size": snapshot.size,
            "sha256": snapshot.sha256,
            "page_size": snapshot.page_size,
            "page_count": snapshot.page_count,
            "user_version": snapshot.user_version,
            "application_id": snapshot.application_id,
            "source_journal_mode": snapshot.source_journal_mode,
            "copied_by": snapshot.method,
            "integrity": snapshot.integrity,
        },
        "project_files": files,
        "collection_version": collection_version,
    }


def list_recovery_points(root: str, project: str) -> list[str]:
    """Return the folders of the project's recovery points, oldest first; raises RecoveryPointError."""
    parent = project_root(root, project)
    try:
        names = os.listdir(parent)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecoveryPointError(f"{parent} cannot be read: {error}") from error
    names = [name for name in names if _IDENTIFIER.fullmatch(name)]
    return [os.path.join(parent, name) for name in sorted(names)]


def find_recovery_point(root: str, project: str, wanted: str) -> RecoveryPoint:
    """Return the recovery point that `wanted` names: `latest`, an id, or the path of its folder.

    Raises RecoveryPointError when there is none, or its manifest cannot be read.
    """
    if os.path.isabs(wanted):
        return read_recovery_point(wanted)
    points = list_recovery_points(root, project)
    if wanted == "latest":
        if not points:
            raise RecoveryPointError(f"{project_root(root, project)} holds no recovery point yet.")
        return read_recovery_point(points[-1])
    for path in points:
        if os.path.basename(path) == wanted:
            return read_recovery_point(path)
    newest = ", ".join(os.path.basename(path) for path in points[-3:]) or "none"
    raise RecoveryPointError(
        f"{project_root(root, project)} holds no recovery point {wanted!r}. Expected `latest`, an id or an absolute "
        f"path; the newest of {len(points)}: {newest}."
    )


def read_recovery_point(path: str) -> RecoveryPoint:
    """Return the recovery point in the folder `path`; raises RecoveryPointError when it is not whole."""
    manifest_path = os.path.join(path, MANIFEST_NAME)
    try:
        with open(manifest_path, encoding="utf-8") as stream:
            manifest = json.load(stream)
    except FileNotFoundError as error:
        raise RecoveryPointError(f"{path} is no recovery point: it has no {MANIFEST_NAME}.") from error
    except (OSError, ValueError) as error:
        raise RecoveryPointError(f"{manifest_path} cannot be read: {error}") from error
    found = manifest.get("manifest_version") if isinstance(manifest, dict) else None
    if found != MANIFEST_VERSION:
        raise RecoveryPointError(
            f"{manifest_path} has manifest version {found}, expected {MANIFEST_VERSION}: "
            "it was made by another version of this collection, or damaged."
        )
    missing = [name for name in ("id", "database", "opstage", "image", "project") if name not in manifest]
    missing = missing or [f"{part}.{name}" for part, name in _NEEDED if not _has(manifest[part], name)]
    if missing:
        raise RecoveryPointError(f"{manifest_path} is not whole: it lacks {', '.join(missing)}.")
    if not os.path.isfile(os.path.join(path, DATABASE_NAME)):
        raise RecoveryPointError(f"{path} is not whole: it has no {DATABASE_NAME}.")
    return RecoveryPoint(path, manifest)


def _has(part: object, name: str) -> bool:
    return isinstance(part, dict) and name in part


def require_same_or_newer(manifest: Mapping[str, Any], version: str | None) -> None:
    """Raise RecoveryPointError when a database of the manifest's version would come under an older Opstage.

    `version` is the Opstage that would open it. Opstage itself does not refuse a newer database, it serves on it.
    """
    made_by = manifest["opstage"]["version"]
    try:
        point, target = parse_version(made_by or ""), parse_version(version or "")
    except VersionError as error:
        raise RecoveryPointError(
            f"The versions cannot be compared: the recovery point is from {made_by!r}, "
            f"Opstage here is {version!r}. {error}"
        ) from error
    if point > target:
        raise RecoveryPointError(
            f"The recovery point is from Opstage {point}, newer than {target}, which would have to open it. "
            f"Upgrade to {point} first, or choose an older recovery point."
        )


def verify_recovery_point(point: RecoveryPoint, progress: ProgressReport | None = None) -> None:
    """Raise RecoveryPointError unless the copy is byte for byte what the manifest says, and a sound database.

    `progress` is called now and then.
    """
    expected = point.manifest["database"]["sha256"]
    try:
        facts = verify_database(point.database, "full", progress=progress)
    except VerificationError as error:
        raise RecoveryPointError(f"The recovery point {point.path} is damaged: {error}") from error
    if facts.sha256 != expected:
        raise RecoveryPointError(
            f"The recovery point {point.path} is damaged: {DATABASE_NAME} has SHA-256 {facts.sha256}, its manifest "
            f"says {expected}. Choose another recovery point."
        )
