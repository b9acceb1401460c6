# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How the Opstage of this host is, as plain values: service, recovery points, room, timer. Nothing is changed."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from typing import Any, Callable, Mapping, Sequence, TypeVar

from .backup_record import read_record
from .command import CommandTimeoutError, run_command
from .deployment import DiscoveryError, discover_deployment
from .deployment_lock import DeploymentLockError, Holder, LockHeldError, find_holder, require_free
from .deployment_status import describe_status
from .docker_command import DockerError
from .host_resources import existing_folder
from .journal import JournalError, find_unfinished, journal_path, read_entries, state_folder
from .manifest import TIME_FORMAT
from .recovery_point import (
    _FREE_SPACE_RESERVE,
    CLOCK_TOLERANCE,
    FolderEntry,
    RecoveryPoint,
    RecoveryPointError,
    examine_recovery_points,
    project_root,
)

SYSTEMD_FOLDER = "/run/systemd/system"
"""There where systemd is in charge (sd_booted(3))."""

SYSTEMD_SECONDS = 20.0
"""Within which systemd is to answer."""

_DEPLOYMENT_FIELDS = (
    "project",
    "project_dir",
    "container",
    "container_status",
    "repository",
    "tag",
    "digest",
    "version",
    "status",
    "database_size",
)
_RECORD_FIELDS = ("last_attempt", "last_success", "outcome", "error", "duration_seconds", "recovery_point", "size")
_TIME_OF_SYSTEMD = "%Y-%m-%d %H:%M:%S UTC"

_Found = TypeVar("_Found")


def collect_status(
    project_dir: str | None, service: str | None, url: str | None, root: str, ca_file: str | None = None
) -> dict[str, Any]:
    """Return what there is to know of the deployment on this host, as JSON can hold it. No secret is in it.

    The arguments are those of discover_deployment, and the folder of all recovery points. Times are UTC, sizes bytes.

    - ``time``: now, by this host's clock
    - ``summary``: one line for people
    - ``failures``: what could not be found out, and why, as sentences; what belongs there is None
    - ``deployment``: of deployment.Deployment what is said in status; None where none was found
    - ``unfinished_operation``: ``operation``, ``time``; None where there is none
    - ``lock``: ``operation``, ``user``, ``host``, ``since``, ``seen``, and whether its holder is ``alive``; or None
    - ``recovery_points``: as describe_point returns them, the oldest first; None for unknown
    - ``newest_verified``: ``id``, ``created``, ``age_seconds`` of the newest that is verified and not of the future
    - ``room``: ``folder``, ``free``, and how many more of the newest point's size ``fit``, None for unknown
    - ``timer``: ``state`` (`absent`, `off`, `on`), and when it is ``next``, None for unknown
    - ``last_scheduled_backup``: what scheduled_backup recorded last; None where there is nothing
    """
    now = datetime.now(timezone.utc)
    failures: list[str] = []
    status: dict[str, Any] = {
        "time": now.strftime(TIME_FORMAT),
        "failures": failures,
        "deployment": None,
        "unfinished_operation": None,
        "lock": None,
        "recovery_points": None,
        "newest_verified": None,
        "room": None,
        "timer": None,
        "last_scheduled_backup": None,
    }
    try:
        fields = discover_deployment(project_dir, service, url, require_data=False, ca_file=ca_file).as_dict()
    except (DiscoveryError, DockerError, JournalError) as error:
        failures.append(str(error))
        return {**status, "summary": str(error)}
    project = fields["project"]
    folder = state_folder(project)
    listed = _found(failures, lambda: _list_points(root, project), None)
    entries = listed or []
    points = [entry.point for entry in entries if entry.point is not None]
    unfinished = _found(failures, lambda: find_unfinished(read_entries(journal_path(project))), None)
    holder = _found(failures, lambda: find_holder(folder), None)
    alive = _found(failures, lambda: _is_held(folder), False)
    return {
        **status,
        "summary": describe_status(fields, _newest(points, now), unfinished, holder if alive else None, now),
        "deployment": {name: fields[name] for name in _DEPLOYMENT_FIELDS},
        "unfinished_operation": unfinished and {name: unfinished[name] for name in ("operation", "time")},
        "lock": holder and _describe_holder(holder, alive),
        "recovery_points": None if listed is None else [describe_point(entry) for entry in listed],
        "newest_verified": newest_verified(entries, now),
        "room": _found(failures, lambda: find_room(project_root(root, project), _newest(points, now)), None),
        "timer": _found(failures, lambda: find_timer(project), None),
        "last_scheduled_backup": _found(failures, lambda: _last_record(project), None),
    }


def _list_points(root: str, project: str) -> list[FolderEntry] | None:
    """What is a recovery point, or was one. Raises RecoveryPointError."""
    entries = examine_recovery_points(root, project)
    return [entry for entry in entries if entry.state in ("whole", "damaged", "newer")]


def _found(failures: list[str], find: Callable[[], _Found], otherwise: _Found) -> _Found:
    """What `find` returns; `otherwise` where it cannot tell, and then `failures` says why."""
    try:
        return find()
    except (JournalError, DeploymentLockError, RecoveryPointError, CommandTimeoutError, OSError) as error:
        if str(error) not in failures:
            failures.append(str(error))
        return otherwise


def _is_held(folder: str) -> bool:
    """Whether somebody who may be at work holds the lock. Raises DeploymentLockError."""
    try:
        require_free(folder, None)
    except LockHeldError:
        return True
    return False


def _describe_holder(holder: Holder, alive: bool) -> dict[str, Any]:
    said = {name: getattr(holder, name) for name in ("operation", "user", "host", "since", "seen")}
    return {**said, "alive": alive}


def describe_point(entry: FolderEntry) -> dict[str, Any]:
    """Return a recovery point's ``id``, whether it is ``verified``, else its ``flaw``, and what its manifest says.

    The flaw is a sentence about it, without the subject. The manifest says when it was ``created``, the ``reason``, the
    ``size`` of the database, the ``stored_size`` of its file, whether it is ``encrypted``, and the record of its latest
    ``drill``, None where there was none; all are None where it cannot be read.
    """
    verified = entry.point is not None and entry.point.is_verified
    manifest: Mapping[str, Any] = entry.point.manifest if entry.point is not None else {}
    named = f"{entry.path} "
    flaw = entry.reason[len(named) :] if entry.reason.startswith(named) else entry.reason
    return {
        "id": entry.name,
        "verified": verified,
        "flaw": None if verified else flaw or "has a manifest that says that its database was not checked.",
        "created": manifest.get("created"),
        "reason": manifest.get("reason"),
        "size": manifest["database"]["size"] if manifest else None,
        "stored_size": _stored_size(entry.point) if entry.point is not None else None,
        "encrypted": entry.point.is_encrypted if entry.point is not None else None,
        "drill": manifest.get("drill"),
    }


def _stored_size(point: RecoveryPoint) -> int:
    """Bytes of the file that holds the database."""
    return int((point.manifest.get("encryption") or point.manifest["database"])["size"])


def newest_verified(entries: Sequence[FolderEntry], now: datetime) -> dict[str, Any] | None:
    """Return the newest that is verified, without any that is more than CLOCK_TOLERANCE ahead of `now`."""
    verified = [entry.point for entry in entries if entry.point is not None and entry.point.is_verified]
    newest = _newest([point for point in verified if point.created <= now + CLOCK_TOLERANCE], now)
    if newest is None:
        return None
    age = max(0, int((now - newest.created).total_seconds()))
    return {"id": newest.manifest["id"], "created": newest.manifest["created"], "age_seconds": age}


def _newest(points: Sequence[RecoveryPoint], now: datetime) -> RecoveryPoint | None:
    """The newest; one that is more than CLOCK_TOLERANCE ahead of `now` only where there is no other."""
    present = [point for point in points if point.created <= now + CLOCK_TOLERANCE]
    return max(present or points, key=lambda point: (point.created, point.manifest["id"]), default=None)


def find_room(folder: str, newest: RecoveryPoint | None) -> dict[str, Any]:
    """Return what is free for recovery points in `folder`, and how many more of the size of `newest` fit.

    A backup leaves _FREE_SPACE_RESERVE free, and needs the database once more while it is encrypted. Bytes that are
    kept for root do not count; a file system of 0 blocks does not know its size (statvfs(3)). Raises OSError.
    """
    present = existing_folder(folder)
    state = os.statvfs(present)
    free = state.f_bavail * state.f_frsize if state.f_blocks else None
    fit = None
    if free is not None and newest is not None:
        meanwhile = newest.manifest["database"]["size"] if newest.is_encrypted else 0
        fit = max(0, (free - _FREE_SPACE_RESERVE - meanwhile) // _stored_size(newest))
    return {"folder": folder, "free": free, "fit": fit}


def timer_unit(project: str) -> str:
    """Name of the systemd timer that backs `project` up."""
    return f"opstage-backup-{project}.timer"


def find_timer(project: str) -> dict[str, Any]:
    """Return whether this host's systemd backs `project` up, and when next. Raises CommandTimeoutError, OSError."""
    if not os.path.isdir(SYSTEMD_FOLDER):
        return {"state": "absent", "next": None}
    command = ["systemctl", "show", "--property=LoadState,ActiveState,NextElapseUSecRealtime", timer_unit(project)]
    answer = run_command(command, SYSTEMD_SECONDS, environment={**os.environ, "TZ": "UTC"})
    if answer.status != 0:
        words = answer.stderr.decode(errors="replace").strip()
        raise OSError(f"Whether there is a timer is not known: `{' '.join(command)}` failed: {words}")
    return parse_timer(answer.stdout.decode(errors="replace"))


def parse_timer(text: str) -> dict[str, Any]:
    """Return what `systemctl show` says of a timer, with the times in UTC, see find_timer."""
    said = dict(line.partition("=")[::2] for line in text.splitlines())
    if said.get("LoadState") == "not-found":
        return {"state": "absent", "next": None}
    active = said.get("ActiveState") == "active"
    return {"state": "on" if active else "off", "next": _time_of(said.get("NextElapseUSecRealtime", ""))}


def _time_of(text: str) -> str | None:
    """The time in what systemd writes, `Tue 2026-11-24 02:15:00 UTC`; None for anything else."""
    try:
        return datetime.strptime(text.partition(" ")[2], _TIME_OF_SYSTEMD).strftime(TIME_FORMAT)
    except ValueError:
        return None


def _last_record(project: str) -> dict[str, Any] | None:
    record = read_record(project)
    return None if record is None else {name: record.get(name) for name in _RECORD_FIELDS}
