# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Have the host undo an upgrade by itself unless its controller comes back to confirm it: a transient systemd timer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Mapping

from .command import CommandTimeoutError, run_command
from .journal import CONFIRMED, append_entry, find_last_upgrade, journal_path, read_entries, state_folder
from .operations_archive import build_archive, install_archive, remove_archive

OPERATION = "upgrade"
SYSTEMD_TIMEOUT = 30.0

_COMMAND_NAME = "opstage-ops"
_RUNNING = ("active", "activating", "deactivating", "reloading")


class ConfirmationError(Exception):
    """The timer cannot be set, or the time to confirm is over."""


@dataclass(frozen=True)
class Confirmation:
    """What is to happen unless it is confirmed.

    deployment: the fields of deployment.Deployment. ``run`` is the token of the upgrade's lock. ``minutes``: how long
    the host waits. ``root``: where recovery points lie. ``timeout``: seconds within which the old version must be
    healthy again. ``interpreter``: absolute path of the Python that runs it.
    """

    deployment: Mapping[str, Any]
    run: str
    minutes: int
    root: str
    timeout: int
    interpreter: str


def unit_name(project: str) -> str:
    """The name of timer and service, without what is behind the dot."""
    return f"opstage-confirm-{project}"


def set_timer(wanted: Confirmation) -> None:
    """Begin to wait. Raises ConfirmationError where the host has no systemd that could, OSError."""
    deployment = wanted.deployment
    project = deployment["project"]
    path = _command_path(project)
    install_archive(path, build_archive(wanted.interpreter))
    unit = unit_name(project)
    # What an earlier upgrade has left: a service that failed keeps its name.
    _systemctl("stop", f"{unit}.timer")
    _systemctl("reset-failed", f"{unit}.service")
    command = [wanted.interpreter, "-I", path, "rollback", "--unless-confirmed", wanted.run, "--project", project]
    command += ["--project-dir", deployment["project_dir"], "--service", deployment["service"]]
    command += ["--url", deployment["url"], "--root", wanted.root, "--health-timeout", str(wanted.timeout)]
    if deployment["ca_file"] is not None:
        command += ["--ca-file", deployment["ca_file"]]
    setting = ["systemd-run", f"--unit={unit}", f"--on-active={wanted.minutes}min", "--timer-property=AccuracySec=1s"]
    setting += [f"--property=ExecStopPost=/bin/rm -f {path}"]
    setting += [f"--description=Undo the upgrade of {project}, which nobody has confirmed", "--", *command]
    status, said = _run(setting)
    if status != 0:
        remove_archive(path)
        raise ConfirmationError(f"No timer could be set that would undo the upgrade: {said}. Nothing was changed.")


def confirm(project: str, run: str) -> None:
    """Let the upgrade stay, and record that. Raises ConfirmationError where it is too late, JournalError."""
    _end_timer(project)
    upgrade = find_last_upgrade(read_entries(journal_path(project)))
    if upgrade is None or upgrade["run"] != run:
        raise ConfirmationError(f"The time to confirm the upgrade of {project} was over: the host has undone it.")
    append_entry(journal_path(project), OPERATION, CONFIRMED, run, {})
    remove_archive(_command_path(project))


def cancel(project: str) -> None:
    """Wait no more: the upgrade has failed, and nothing of it is left to undo. Raises ConfirmationError."""
    _end_timer(project)
    remove_archive(_command_path(project))


def _end_timer(project: str) -> None:
    unit = unit_name(project)
    _systemctl("stop", f"{unit}.timer")
    _status, state = _systemctl("is-active", f"{unit}.service")
    if state in _RUNNING:
        raise ConfirmationError(
            f"The time to confirm the upgrade of {project} is over: the host undoes it at this moment. See with "
            f"`journalctl --unit {unit}` how that goes."
        )


def _command_path(project: str) -> str:
    return os.path.join(state_folder(project), _COMMAND_NAME)


def _systemctl(*arguments: str) -> tuple[int, str]:
    return _run(["systemctl", *arguments])


def _run(command: list[str]) -> tuple[int, str]:
    """Exit status of a command, and what it said."""
    try:
        ended = run_command(command, SYSTEMD_TIMEOUT, merge_errors=True)
    except (OSError, CommandTimeoutError) as error:
        raise ConfirmationError(f"`{command[0]}` cannot be run: {error}. The host needs systemd for this.") from error
    return ended.status, ended.stdout.decode(errors="replace").strip()
