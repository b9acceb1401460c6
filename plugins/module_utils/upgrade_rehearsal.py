# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The target version, started on a copy of the data where nobody reaches it, before anything is touched."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Sequence

from .docker_command import DockerError, inspect, run_docker
from .durable_files import make_private_folder, write_new_file
from .readiness import NotReadyError, wait_until_ready
from .recovery_point import RecoveryPoint
from .rehearsal_containers import rehearsal_label, remove_rehearsals
from .sqlite_changes import Change, describe_changes
from .sqlite_files import require_space
from .upgrade_checks import MigrationError, check_migrated

_FOLDER = ".partial-rehearsal"
"""In the folder of the project's recovery points; a backup removes what a killed rehearsal left, by this beginning."""


class RehearsalError(Exception):
    """The target version did not pass; nothing was changed. `logs` has its container's last lines."""

    def __init__(self, message: str, logs: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.logs = list(logs)


@dataclass(frozen=True)
class Rehearsal:
    """A target version that passed: `seconds` from its start until it was healthy, its migrations done.

    ``changes``: what it changed in the data, by table; see sqlite_changes.Comparison.
    """

    version: str
    seconds: float
    changes: dict[str, Change | None]

    @property
    def summary(self) -> str:
        """The changes as one line of text."""
        return describe_changes(self.changes)


def rehearse(
    deployment: Mapping[str, Any],
    point: RecoveryPoint,
    image: str,
    version: str | None,
    timeout: float,
    drops: Sequence[str] = (),
) -> Rehearsal:
    """Start `image` on a copy of the recovery point's database, as the deployment's container is started.

    It has that container's environment, memory limit, user and other mounts (read-only), and no network at all. It must
    be healthy within `timeout` seconds, report `version` (any when None), leave a sound database, and keep all rows but
    those of the tables `drops`. Container and copy are removed in any case, and before that those of a rehearsal that
    was killed.
    deployment: the fields of deployment.Deployment. Raises RehearsalError, DockerError, DatabaseFileError, OSError.
    """
    project = deployment["project"]
    remove_rehearsals(project)
    with _copied(point, deployment) as folder:
        with _running(deployment, image, folder) as container:
            try:
                readiness = wait_until_ready("", version, timeout, container, isolated=True)
            except NotReadyError as error:
                raise RehearsalError(str(error), error.logs) from error
        relative = os.path.relpath(deployment["database"], deployment["data_dir"])
        try:
            changes = check_migrated(point, os.path.join(folder, "data", relative), drops)
        except MigrationError as error:
            raise RehearsalError(str(error)) from error
    return Rehearsal(readiness.version, readiness.elapsed, changes)


@contextmanager
def _copied(point: RecoveryPoint, deployment: Mapping[str, Any]) -> Iterator[str]:
    """A private folder whose `data` is as the deployment's data folder, with a copy of the database in it."""
    folder = os.path.join(os.path.dirname(point.path), _FOLDER)
    make_private_folder(os.path.dirname(folder))
    shutil.rmtree(folder, ignore_errors=True)
    # The copy, and that of what the migrations make of it.
    require_space(os.path.dirname(folder), 2 * int(point.manifest["database"]["size"]))
    database = point.manifest["database"]
    os.mkdir(folder, 0o700)
    try:
        relative = os.path.relpath(deployment["database"], deployment["data_dir"])
        copy = os.path.join(folder, "data", relative)
        os.makedirs(os.path.dirname(copy))
        shutil.copyfile(point.database, copy)
        for path, access in ((copy, database["access"]), (os.path.dirname(copy), database["folder_access"])):
            os.chown(path, access["uid"], access["gid"])
            os.chmod(path, int(access["mode"], 8))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(deployment: Mapping[str, Any], image: str, folder: str) -> Iterator[str]:
    """A container of `image` that is set up as the deployment's own, on the copy; gives its name."""
    name = f"{deployment['project']}-rehearsal-{secrets.token_hex(4)}"
    present = inspect("container", [deployment["container"]])[0]
    default = inspect("image", [present["Image"]])[0]
    arguments = _options(present, default, deployment["data_dir"], os.path.join(folder, "data"))
    given, environment = _environment(present, default, os.path.join(folder, "environment"))
    labels = ["--label", rehearsal_label(deployment["project"])]
    start = ["run", "--detach", "--pull", "never", "--restart", "no", "--network", "none", "--name", name, *labels]
    try:
        run_docker([*start, *arguments, *given, image, *_command(present, default)], environment=environment)
        yield name
    finally:
        with suppress(DockerError):
            run_docker(["rm", "--force", "--volumes", name])


def _environment(present: Mapping[str, Any], default: Mapping[str, Any], path: str) -> tuple[list[str], dict[str, str]]:
    """Options of `docker run` that give the container's own variables, none of whose values is an option.

    They are written to the new file `path`; one of several lines, which such a file cannot hold, is in the environment
    that is returned, for `docker run` to hand on.
    """
    inherited = set(default["Config"].get("Env") or [])
    own = [entry for entry in present["Config"].get("Env") or [] if entry not in inherited]
    lines = [entry for entry in own if "\n" not in entry]
    write_new_file(path, "".join(f"{entry}\n" for entry in lines).encode())
    others = dict(entry.split("=", 1) for entry in own if "\n" in entry)
    return ["--env-file", path, *(argument for name in others for argument in ("--env", name))], others


def _options(present: Mapping[str, Any], default: Mapping[str, Any], data: str, copy: str) -> list[str]:
    """Options of `docker run`: limits, user and mounts."""
    own, host = present["Config"], present["HostConfig"]
    arguments: list[str] = []
    if host.get("Memory"):
        arguments += ["--memory", f"{host['Memory']}b"]
    if own.get("User") and own["User"] != default["Config"].get("User"):
        arguments += ["--user", own["User"]]
    if host.get("ReadonlyRootfs"):
        arguments += ["--read-only"]
    for path in host.get("Tmpfs") or {}:
        arguments += ["--tmpfs", path]
    for mount in present.get("Mounts") or []:
        arguments += _mount(mount, data, copy)
    return arguments


def _mount(mount: Mapping[str, Any], data: str, copy: str) -> list[str]:
    """The copy in the place of the data; everything else read-only."""
    if mount["Type"] not in ("bind", "volume"):
        return []
    if os.path.realpath(mount["Source"]) == data:
        return ["--mount", f"type=bind,source={copy},destination={mount['Destination']}"]
    source = mount["Name"] if mount["Type"] == "volume" else mount["Source"]
    return ["--mount", f"type={mount['Type']},source={source},destination={mount['Destination']},readonly"]


def _command(present: Mapping[str, Any], default: Mapping[str, Any]) -> list[str]:
    """The command, where the project gives another one than the image."""
    command = present["Config"].get("Cmd")
    return list(command) if command and command != default["Config"].get("Cmd") else []
