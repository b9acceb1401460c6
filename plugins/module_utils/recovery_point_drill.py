# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A recovery point, started in a throw-away container of the image that made it, to prove that it restores."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable, ContextManager, Iterator, Mapping

from .deployment import DEFAULT_DATABASE_URL
from .docker_command import PULL_TIMEOUT, DockerError, container_logs, inspect, run_docker
from .durable_files import PrivateFolderError, make_private_folder, replace_file, write_new_file
from .host_resources import available_memory, used_memory
from .image_reference import parse_image_reference
from .manifest import FAILED, PASSED, TIME_FORMAT, format_manifest
from .readiness import LOG_LINES, NotReadyError, Readiness, wait_until_ready
from .recovery_point import (
    DATABASE_NAME,
    MANIFEST_NAME,
    RecoveryPoint,
    RecoveryPointError,
    find_recovery_point,
    held_for_writing,
    project_root,
    require_plain,
)
from .recovery_point_creation import decrypt_recovery_point, users_of_database
from .recovery_point_verification import verify_recovery_point
from .rehearsal_containers import isolated_container, limits_of, mount_of, remove_rehearsals
from .rehearsal_data import copy_database, scratch_folder
from .sqlite_changes import Change, compare_databases, describe_changes
from .sqlite_contents import read_contents
from .sqlite_files import DatabaseFileError, ProgressReport
from .sqlite_snapshot import create_snapshot

_PURPOSE = "drill"
_DATA_FOLDER = os.path.dirname(DEFAULT_DATABASE_URL[len("file:") :])
_TABLES_IN_A_MESSAGE = 5
_NO_TABLE = "no table"


class DrillError(Exception):
    """The recovery point did not pass, or it could not be recorded. `logs` has its container's last lines."""

    def __init__(self, message: str, logs: list[str] | None = None) -> None:
        super().__init__(message)
        self.logs = logs or []


@dataclass(frozen=True)
class Drill:
    """A recovery point that passed: `seconds` in all, `ready_seconds` of them from its start until it was healthy.

    ``changes``: what the start itself changed in the data, by table; see sqlite_changes.Comparison.
    """

    version: str
    seconds: float
    ready_seconds: float
    changes: dict[str, Change | None]

    @property
    def summary(self) -> str:
        """How it went, in words."""
        return (
            f"Opstage {self.version} was healthy {self.ready_seconds:.1f} s after its start on a copy, which had all "
            f"rows of the manifest and was sound before and after. The start changed: "
            f"{describe_changes(self.changes)}. It took {self.seconds:.1f} s."
        )


def find_drilled(
    root: str, project: str, wanted: str, has_identity: bool, warn: Callable[[str], None] | None = None
) -> RecoveryPoint:
    """Return the recovery point that `wanted` names, see find_recovery_point; raises RecoveryPointError.

    An encrypted one is refused where there is no private key.
    """
    point = find_recovery_point(root, project, wanted, warn)
    if not has_identity:
        require_plain(point)
    return point


def drill(
    deployment: Mapping[str, Any],
    root: str,
    point: RecoveryPoint,
    timeout: float,
    identity: str | None = None,
    progress: ProgressReport | None = None,
) -> Drill:
    """Prove the recovery point, start the image that made it on a copy, look at what that serves and leaves.

    It has the limits and the user of the deployment's container, no network, and none of its variables. It must be
    healthy within `timeout` seconds, report the version of the manifest, keep every row and leave a sound database.
    Container and copy, which lies in the folder of the project's recovery points below `root`, are removed in any case,
    and before that those of a drill that was killed. How it ended is recorded in the point's manifest.
    deployment: the fields of deployment.Deployment, whose lock the caller holds. identity: the text of a private key,
    for an encrypted point. Raises DrillError, and RecoveryPointError where another run is at work on that folder, or
    PrivateFolderError, OSError where that cannot be used; then nothing is recorded.
    """
    parent = project_root(root, deployment["project"])
    make_private_folder(parent)
    with held_for_writing(parent):
        began = time.monotonic()
        try:
            readiness, changes = _try(deployment, parent, point, timeout, identity, progress)
        except (DrillError, RecoveryPointError, PrivateFolderError, DatabaseFileError, DockerError, OSError) as error:
            problem = _record(point, began, point.manifest["opstage"]["version"], str(error))
            logs = error.logs if isinstance(error, DrillError) else []
            raise DrillError(f"The drill of {point.path} failed: {error}{problem}", logs) from error
        drilled = Drill(readiness.version, time.monotonic() - began, readiness.elapsed, changes)
        problem = _record(point, began, drilled.version)
        if problem:
            raise DrillError(f"The drill of {point.path} passed.{problem}")
    return drilled


def _record(point: RecoveryPoint, began: float, version: str | None, error: str | None = None) -> str:
    """Write into the manifest how the drill ended; returns the end of a sentence that says why it could not be."""
    ended: dict[str, Any] = {
        "time": datetime.now(timezone.utc).strftime(TIME_FORMAT),
        "seconds": round(time.monotonic() - began, 3),
        "version": version,
        "outcome": PASSED if error is None else FAILED,
    }
    if error is not None:
        ended["error"] = error
    path = os.path.join(point.path, MANIFEST_NAME)
    try:
        replace_file(path, format_manifest({**point.manifest, "drill": ended}))
    except OSError as problem:
        return f" This could not be recorded in {path}: {problem}"
    return ""


def _try(
    deployment: Mapping[str, Any],
    parent: str,
    point: RecoveryPoint,
    timeout: float,
    identity: str | None,
    progress: ProgressReport | None,
) -> tuple[Readiness, dict[str, Change | None]]:
    """Do what drill says, but for the record, in a private folder in `parent`."""
    remove_rehearsals(deployment["project"])
    # What is started, a copy of what that leaves, and what was decrypted.
    copies = 3 if point.is_encrypted else 2
    with scratch_folder(parent, _PURPOSE, copies * int(point.manifest["database"]["size"])) as folder:
        plain = _proven(point, folder, identity, progress)
        copy = os.path.join(folder, "data", DATABASE_NAME)
        recorded = plain.manifest["database"]
        copy_database(plain, copy, recorded if "access" in recorded else users_of_database(deployment["database"]))
        _require_recorded_rows(plain, copy)
        with _image(plain.manifest["image"]) as image, _running(deployment, image, folder) as container:
            try:
                readiness = wait_until_ready(
                    "", plain.manifest["opstage"]["version"], timeout, container, isolated=True
                )
            except NotReadyError as error:
                raise DrillError(str(error), error.logs) from error
            logs = container_logs(container, LOG_LINES)
        try:
            changes = _changes(plain, copy, os.path.join(folder, "served.db"), progress)
        except (DrillError, DatabaseFileError) as error:
            raise DrillError(str(error), logs) from error
    return readiness, changes


def _proven(point: RecoveryPoint, folder: str, identity: str | None, progress: ProgressReport | None) -> RecoveryPoint:
    """The recovery point, decrypted where it is encrypted, once its bytes are the manifest's and a sound database."""
    verify_recovery_point(point, progress)
    if identity is None or not point.is_encrypted:
        require_plain(point)
        return point
    decrypted = decrypt_recovery_point(point, os.path.join(folder, "decrypted"), identity)
    verify_recovery_point(decrypted, progress)
    return decrypted


def _require_recorded_rows(point: RecoveryPoint, copy: str) -> None:
    """Raise DrillError unless each table of the copy has the rows that the manifest says, where it says any."""
    recorded = point.manifest["database"].get("tables")
    if recorded is None:
        return
    expected = {name: table["rows"] for name, table in recorded.items()}
    found = {name: table["rows"] for name, table in read_contents(copy).tables.items()}
    differing = [
        f"{name}: found {found.get(name, _NO_TABLE)}, expected {expected.get(name, _NO_TABLE)}"
        for name in sorted({**expected, **found})
        if found.get(name, _NO_TABLE) != expected.get(name, _NO_TABLE)
    ]
    if differing:
        raise DrillError(
            f"{point.path} has not the rows that its manifest says: {', '.join(differing[:_TABLES_IN_A_MESSAGE])}. "
            "Choose another recovery point."
        )


@contextmanager
def _image(made_by: Mapping[str, Any]) -> Iterator[str]:
    """A name for the image of the manifest on this host; one that had to be pulled is removed at the end."""
    digest = made_by["digest"]
    by_digest = None if digest is None else f"{parse_image_reference(made_by['image']).repository}@{digest}"
    for name in (made_by["image_id"], by_digest):
        if name is not None and _is_here(name):
            yield name
            return
    if by_digest is None:
        raise DrillError(
            f"The image that made it, {made_by['image']} with the id {made_by['image_id']}, is not on this host, and "
            "no registry is known to have it. Bring it here with docker load, and try again."
        )
    try:
        run_docker(["pull", "--quiet", by_digest], PULL_TIMEOUT)
    except DockerError as error:
        raise DrillError(
            f"The image that made it, {by_digest}, is not on this host and cannot be pulled: {error}"
        ) from error
    try:
        yield by_digest
    finally:
        with suppress(DockerError):
            run_docker(["image", "rm", by_digest])


def _is_here(image: str) -> bool:
    try:
        return bool(inspect("image", [image]))
    except DockerError:
        return False


def _running(deployment: Mapping[str, Any], image: str, folder: str) -> ContextManager[str]:
    """A container of the image on the copy in `folder`; gives its name."""
    present = inspect("container", [deployment["container"]])[0]
    default = inspect("image", [present["Image"]])[0]
    _require_memory(present["State"]["Pid"])
    variables = os.path.join(folder, "environment")
    secret = secrets.token_hex(32)
    write_new_file(variables, f"DATABASE_URL={DEFAULT_DATABASE_URL}\nOPSTAGE_SESSION_SECRET={secret}\n".encode())
    options = [*limits_of(present, default), *mount_of(os.path.join(folder, "data"), _DATA_FOLDER)]
    return isolated_container(deployment["project"], _PURPOSE, [*options, "--env-file", variables], image)


def _require_memory(pid: int) -> None:
    """Raise DrillError where there is too little memory for a second Opstage like that of the process `pid`.

    Nothing where it is not known what that uses, or what is available; 0 stands for a container that does not run.
    """
    used, available = used_memory(pid), available_memory()
    if used is not None and available is not None and used > available:
        raise DrillError(
            f"There is too little memory for it beside the service: {available} bytes are available on this host, the "
            f"service uses {used}. {used - available} bytes are missing."
        )


def _changes(point: RecoveryPoint, served: str, copy: str, progress: ProgressReport | None) -> dict[str, Change | None]:
    """Compare the database that was served with the recovery point's, by means of a self-contained `copy`.

    Raises DrillError where something is missing, SnapshotError where it is not sound.
    """
    snapshot = create_snapshot(served, copy, progress=progress)
    violations = point.manifest["database"].get("foreign_key_violations")
    if violations is not None and (snapshot.foreign_key_violations or 0) > violations:
        raise DrillError(
            f"After it has served, the parent of {snapshot.foreign_key_violations} rows is missing; the manifest says "
            f"{violations}."
        )
    comparison = compare_databases(point.database, copy)
    if comparison.missing:
        raise DrillError(f"After it has served, these are missing: {', '.join(comparison.missing)}.")
    lost = {name: change for name, change in comparison.tables.items() if change is not None and change["removed"]}
    if lost:
        raise DrillError(f"After it has served, rows are missing: {describe_changes(lost)}.")
    return comparison.tables
