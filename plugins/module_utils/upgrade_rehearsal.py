# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The target version, started on a copy of the data where nobody reaches it, before anything is touched."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ContextManager, Mapping, Sequence

from .docker_command import inspect
from .durable_files import write_new_file
from .readiness import NotReadyError, wait_until_ready
from .recovery_point import RecoveryPoint
from .rehearsal_containers import isolated_container, limits_of, mount_of, remove_rehearsals
from .rehearsal_data import copy_database, scratch_folder
from .sqlite_changes import Change, describe_changes
from .upgrade_checks import MigrationError, check_migrated

_PURPOSE = "rehearsal"


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
    # The copy, and that of what the migrations make of it.
    needed = 2 * int(point.manifest["database"]["size"])
    with scratch_folder(os.path.dirname(point.path), _PURPOSE, needed) as folder:
        relative = os.path.relpath(deployment["database"], deployment["data_dir"])
        copy = os.path.join(folder, "data", relative)
        copy_database(point, copy, point.manifest["database"])
        with _running(deployment, image, folder) as container:
            try:
                readiness = wait_until_ready("", version, timeout, container, isolated=True)
            except NotReadyError as error:
                raise RehearsalError(str(error), error.logs) from error
        try:
            changes = check_migrated(point, copy, drops)
        except MigrationError as error:
            raise RehearsalError(str(error)) from error
    return Rehearsal(readiness.version, readiness.elapsed, changes)


def _running(deployment: Mapping[str, Any], image: str, folder: str) -> ContextManager[str]:
    """A container of `image` that is set up as the deployment's own, on the copy; gives its name."""
    present = inspect("container", [deployment["container"]])[0]
    default = inspect("image", [present["Image"]])[0]
    options = _options(present, default, deployment["data_dir"], os.path.join(folder, "data"))
    given, environment = _environment(present, default, os.path.join(folder, "environment"))
    command = _command(present, default)
    return isolated_container(deployment["project"], _PURPOSE, [*options, *given], image, command, environment)


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
    mounts = present.get("Mounts") or []
    return limits_of(present, default) + [option for mount in mounts for option in _mount(mount, data, copy)]


def _mount(mount: Mapping[str, Any], data: str, copy: str) -> list[str]:
    """The copy in the place of the data; everything else read-only."""
    if mount["Type"] not in ("bind", "volume"):
        return []
    if os.path.realpath(mount["Source"]) == data:
        return mount_of(copy, mount["Destination"])
    source = mount["Name"] if mount["Type"] == "volume" else mount["Source"]
    return ["--mount", f"type={mount['Type']},source={source},destination={mount['Destination']},readonly"]


def _command(present: Mapping[str, Any], default: Mapping[str, Any]) -> list[str]:
    """The command, where the project gives another one than the image."""
    command = present["Config"].get("Cmd")
    return list(command) if command and command != default["Config"].get("Cmd") else []
