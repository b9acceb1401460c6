# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Recovery points away from their host: sent to a restic repository and proven there, and brought back."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, Iterator, Mapping, Sequence

from .durable_files import make_private_folder, new_file, sync_folder
from .manifest import TIME_FORMAT, ManifestError, parse_manifest
from .recovery_point import (
    DATABASE_NAME,
    IDENTIFIER,
    MANIFEST_NAME,
    PROJECT_FOLDER,
    RecoveryPoint,
    RecoveryPointError,
    held_for_writing,
    project_root,
    read_recovery_point,
    remove_partial_folders,
    require_free,
    stored_name,
)
from .recovery_point_creation import named_last
from .recovery_point_verification import verify_recovery_point
from .restic import ResticError, ResticRepository, Snapshot
from .retention_policy import Policy
from .sqlite_files import DatabaseFileError, Deadline, opened_plain_file, sha256_of

LATEST = "latest"

_TAG = "opstage"
_PROJECT_TAG = "project:"
_POINT_TAG = "id:"
_TIME_OF_SNAPSHOT = "%Y-%m-%d %H:%M:%S.%f"
_PROJECT_FILE = re.compile(re.escape(PROJECT_FOLDER) + "/[^/]+")
_LARGEST_MANIFEST = 16 << 20
_PIECE_BYTES = 1 << 20


class SendingError(Exception):
    """A recovery point was not sent, or its repository not pruned; the text says how the point is on this host."""


@dataclass(frozen=True)
class PointFile:
    """One file of a recovery point: its path in the folder, bytes, and SHA-256 as 64 hexadecimal digits."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class SentPoint:
    """A recovery point in a repository; `snapshots` are all that were made of it, the last one first."""

    id: str
    project: str
    host: str
    snapshots: tuple[str, ...]


@dataclass(frozen=True)
class Sending:
    """Where a recovery point lies in the repository, and whether that was so before."""

    snapshot: str
    changed: bool


def files_of(point: RecoveryPoint) -> list[PointFile]:
    """Return the files of a recovery point, the manifest last; raises RecoveryPointError.

    The SHA-256 of the database is what the manifest says: the file itself is not read.
    """
    files = [PointFile(stored_name(DATABASE_NAME, point.manifest), os.stat(point.database).st_size, point.sha256)]
    return files + [_describe(point, name) for name in [*_project_files(point.manifest), MANIFEST_NAME]]


def _describe(point: RecoveryPoint, name: str) -> PointFile:
    path = os.path.join(point.path, name)
    try:
        with opened_plain_file(path) as descriptor:
            return PointFile(name, os.fstat(descriptor).st_size, sha256_of(descriptor, Deadline(None)))
    except (DatabaseFileError, OSError) as error:
        raise RecoveryPointError(f"{point.path} is not whole: {error}. Choose another recovery point.") from error


def _project_files(manifest: Mapping[str, Any]) -> list[str]:
    return [f"{PROJECT_FOLDER}/{stored_name(file['name'], manifest)}" for file in manifest["project_files"]]


def send_recovery_point(point: RecoveryPoint, repository: ResticRepository, initialize: bool = False) -> Sending:
    """Send a recovery point unless the repository has it, and read it back whole, to compare.

    `initialize`: make the repository where there is none. Raises ResticError, RecoveryPointError.
    """
    expected = {file.name: file.sha256 for file in files_of(point)}
    if repository.require(initialize):
        for snapshot in _snapshots_of(point, repository):
            try:
                fault = _find_fault(point, expected, repository, snapshot)
            except ResticError:
                # What cannot be read is sent again; should that not help, it is said then.
                continue
            if fault is None:
                return Sending(snapshot, False)
    moment = datetime.strptime(point.manifest["created"], TIME_FORMAT).strftime(_TIME_OF_SNAPSHOT)
    snapshot = repository.send(point.path, list(expected), point.manifest["host"], _tags_of(point), moment)
    fault = _find_fault(point, expected, repository, snapshot)
    if fault is not None:
        repository.remove(snapshot)
        raise ResticError(
            f"What was sent to {repository.shown} is not what {point.path} has: {fault}. Verify that with `opstage-ops "
            "verify`, and the repository with `restic check --read-data`."
        )
    return Sending(snapshot, True)


def send_and_prune(
    point: RecoveryPoint, repository: ResticRepository, initialize: bool, policy: Policy | None
) -> Sending:
    """Send a recovery point as send_recovery_point does, then follow the policy. Raises SendingError."""
    try:
        sending = send_recovery_point(point, repository, initialize)
    except (ResticError, RecoveryPointError, OSError) as error:
        raise SendingError(f"The recovery point {point.path} was not sent: {error} {_look_at(point)}") from error
    if policy is not None:
        try:
            apply_policy(point, repository, policy)
        except ResticError as error:
            raise SendingError(f"The recovery point {point.path} was sent and verified, but: {error}") from error
    return sending


def _look_at(point: RecoveryPoint) -> str:
    """Return how a recovery point is on this host, and what to do once the cause of a failure is mended."""
    try:
        verify_recovery_point(point)
    except RecoveryPointError as error:
        return str(error)
    return "It is whole on this host: once the cause is mended, send it with the module recovery_point_restic."


def is_sent(point: RecoveryPoint, repository: ResticRepository, initialize: bool = False) -> bool:
    """Whether the repository has a snapshot of the point, which is not read. Raises ResticError."""
    return repository.require(initialize) and bool(_snapshots_of(point, repository))


def apply_policy(point: RecoveryPoint, repository: ResticRepository, policy: Policy) -> None:
    """Remove from the repository what the policy does not keep of the points of this one's host and project."""
    repository.forget(point.manifest["host"], _tags_of(point)[:2], policy)


def _tags_of(point: RecoveryPoint) -> list[str]:
    return [_TAG, f"{_PROJECT_TAG}{point.manifest['project']}", f"{_POINT_TAG}{point.manifest['id']}"]


def _snapshots_of(point: RecoveryPoint, repository: ResticRepository) -> Sequence[str]:
    manifest = point.manifest
    for sent in list_sent(repository):
        if (sent.id, sent.project, sent.host) == (manifest["id"], manifest["project"], manifest["host"]):
            return sent.snapshots
    return ()


def _find_fault(
    point: RecoveryPoint, expected: Mapping[str, str], repository: ResticRepository, snapshot: str
) -> str | None:
    """Read a snapshot and return the first difference to the point; None where they are the same."""
    found: dict[str, str] = {}
    manifests: list[bytes] = []

    def receive(name: str, content: IO[bytes]) -> None:
        digest = hashlib.sha256()
        if name == MANIFEST_NAME:
            manifests.append(content.read(_LARGEST_MANIFEST))
            digest.update(manifests[-1])
        for piece in _pieces(content):
            digest.update(piece)
        found[name] = digest.hexdigest()

    repository.read(snapshot, receive)
    for name, sha256 in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != sha256 and not (name == MANIFEST_NAME and _says_the_same(manifests[-1], point.manifest)):
            return f"{name} has SHA-256 {found[name]}, expected is {sha256}"
    return None


def _says_the_same(content: bytes, manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is this one, apart from a drill, which is recorded later."""
    try:
        found = parse_manifest(content)
    except ManifestError:
        return False
    return {**found, "drill": None} == {**manifest, "drill": None}


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    while True:
        piece = content.read(_PIECE_BYTES)
        if not piece:
            return
        yield piece


def list_sent(repository: ResticRepository) -> list[SentPoint]:
    """Return the recovery points in a repository, in the order of their ids. Raises ResticError."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for snapshot in repository.snapshots(_TAG):
        identifier, project = _tagged(snapshot, _POINT_TAG), _tagged(snapshot, _PROJECT_TAG)
        if IDENTIFIER.fullmatch(identifier) and project:
            found.setdefault((identifier, project, snapshot.host), []).insert(0, snapshot.id)
    return [SentPoint(*key, tuple(snapshots)) for key, snapshots in sorted(found.items())]


def _tagged(snapshot: Snapshot, beginning: str) -> str:
    return next((tag[len(beginning) :] for tag in snapshot.tags if tag.startswith(beginning)), "")


def find_sent(repository: ResticRepository, wanted: str, project: str | None, host: str | None) -> SentPoint:
    """Return the recovery point that `wanted` names: `latest`, or an id. Raises ResticError, RecoveryPointError.

    project: None for any. host: the one that it was made on; where None, this one for `latest`, any for an id.
    """
    if wanted == LATEST:
        host = host or socket.gethostname()
    elif not IDENTIFIER.fullmatch(wanted):
        raise RecoveryPointError(f"{wanted!r} is no recovery point in a repository: expected `latest` or an id.")
    known = list_sent(repository)
    matching = [point for point in known if project in (None, point.project) and host in (None, point.host)]
    named = [point for point in matching if wanted in (LATEST, point.id)]
    origin = (
        f"{'' if project is None else f' of the project {project}'}{'' if host is None else f' from the host {host}'}"
    )
    if not named:
        newest = ", ".join(f"{point.id} ({point.host}, {point.project})" for point in known[-3:]) or "none"
        raise RecoveryPointError(
            f"{repository.shown} holds no recovery point {wanted!r}{origin}. The newest of all {len(known)}: {newest}. "
            "One from another host is chosen with opstage_restic_host."
        )
    origins = sorted({f"{point.host}, {point.project}" for point in named})
    if len(origins) > 1:
        raise RecoveryPointError(
            f"{repository.shown} holds several recovery points {wanted!r}{origin}, from host and project: "
            f"{'; '.join(origins)}. Name the host with opstage_restic_host."
        )
    return named[-1]


def fetch_recovery_point(sent: SentPoint, repository: ResticRepository, root: str) -> tuple[RecoveryPoint, bool]:
    """Bring a recovery point to the folder of its project below `root`, verified; returns whether it was not there.

    What is there is verified and left alone. Raises ResticError, RecoveryPointError, PrivateFolderError, OSError; then
    nothing new is there.
    """
    parent = project_root(root, sent.project)
    make_private_folder(parent)
    path = os.path.join(parent, sent.id)
    with held_for_writing(parent):
        remove_partial_folders(parent)
        if os.path.lexists(path):
            return _require_same(path, sent), False
        for number, snapshot in enumerate(sent.snapshots, 1):
            try:
                with named_last(parent, sent.id) as folder:
                    _receive_point(sent, repository, snapshot, parent, folder)
                break
            except (ResticError, RecoveryPointError):
                if number == len(sent.snapshots):
                    raise
    return read_recovery_point(path), True


def _require_same(path: str, sent: SentPoint) -> RecoveryPoint:
    try:
        point = read_recovery_point(path)
        verify_recovery_point(point)
    except RecoveryPointError as error:
        raise RecoveryPointError(
            f"{error} To have it from the repository, move that folder elsewhere first."
        ) from error
    if point.manifest["host"] != sent.host:
        raise RecoveryPointError(
            f"{path} is there, from the host {point.manifest['host']}, expected {sent.host}. Move it elsewhere first."
        )
    return point


def _receive_point(sent: SentPoint, repository: ResticRepository, snapshot: str, parent: str, folder: str) -> None:
    """Write a snapshot's files, of which just the names are trusted that a recovery point has, and prove them."""
    project_folder = os.path.join(folder, PROJECT_FOLDER)
    os.mkdir(project_folder, 0o700)
    names: set[str] = set()

    def receive(name: str, content: IO[bytes]) -> None:
        database = name in (DATABASE_NAME, stored_name(DATABASE_NAME, {"encryption": {}}))
        if not (database or name == MANIFEST_NAME or _PROJECT_FILE.fullmatch(name)):
            raise RecoveryPointError(f"{repository.shown} holds no recovery point as {snapshot}: it has {name!r}.")
        names.add(name)
        with new_file(os.path.join(folder, name)) as stream:
            for piece in _pieces(content):
                require_free(parent, len(piece))
                stream.write(piece)

    repository.read(snapshot, receive)
    sync_folder(project_folder)
    point = read_recovery_point(folder)
    found = (point.manifest["id"], point.manifest["project"])
    if found != (sent.id, sent.project):
        raise RecoveryPointError(
            f"{repository.shown} has as {sent.id} of {sent.project} what its manifest calls {found[0]} of {found[1]}."
        )
    missing = sorted(set(_project_files(point.manifest)) - names)
    if missing:
        raise RecoveryPointError(f"{sent.id} is not whole in {repository.shown}: it has no {', '.join(missing)}.")
    verify_recovery_point(point)
