# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a person has to do about a deployment: its status, held against limits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Iterator, Mapping, Sequence

from .deployment_status import counted, format_age
from .host_status import timer_unit
from .manifest import FAILED, TIME_FORMAT
from .progress_display import format_bytes
from .recovery_point import CLOCK_TOLERANCE
from .retention_policy import Duration, RetentionError, parse_duration

SEVERITIES = ("critical", "warning")
"""From the worst on. `critical`: the service is in danger, or what would save it; `warning`: it will be."""

KINDS = {
    "unreachable": "critical",
    "unknown": "critical",
    "unfinished": "critical",
    "health": "critical",
    "backup": "critical",
    "schedule": "warning",
    "drill": "warning",
    "room": "warning",
    "timer": "warning",
    "verification": "warning",
    "clock": "warning",
    "digest": "warning",
    "busy": "warning",
}
"""The kinds of problems in the order in which they need a person, and how severe each is."""


class LimitError(ValueError):
    """A limit is not what it should be."""


@dataclass(frozen=True)
class Limits:
    """What is still well. max_backup_age: of the newest verified recovery point, None for any; see parse_limits."""

    max_backup_age: Duration | None
    min_points_that_fit: int
    require_timer: bool


def parse_limits(max_backup_age: str, min_points_that_fit: int, require_timer: bool) -> Limits:
    """Return the limits; the age as retention.parse_duration takes it, no limit where it is 0. Raises LimitError."""
    try:
        age = parse_duration(max_backup_age)
    except RetentionError as error:
        raise LimitError(f"opstage_max_backup_age: {error}") from error
    if min_points_that_fit < 0:
        raise LimitError(f"opstage_min_points_that_fit is {min_points_that_fit}; expected is 0 or more.")
    return Limits(age, min_points_that_fit, require_timer)


def problem(kind: str, text: str) -> dict[str, str]:
    """Return a problem of one of the KINDS; `text` says what is wrong and what to do."""
    return {"kind": kind, "severity": KINDS[kind], "text": text}


def urgency(problems: list[dict[str, str]]) -> list[int]:
    """Return what sorts by who needs a person first: the kinds of the problems, the worst first."""
    order = list(KINDS)
    return sorted(order.index(found["kind"]) for found in problems) or [len(order)]


def find_problems(status: Mapping[str, Any], limits: Limits) -> list[dict[str, str]]:
    """Return what is wrong with a host, what needs a person first before the rest.

    status: as host_status.collect_status returns it. A limit is passed beyond it, not at it.
    """
    found = [problem("unknown", text) for text in status["failures"]]
    if status["deployment"] is not None:
        for find in (_unfinished, _unhealthy, _old, _failed_schedule, _failed_drill, _full, _idle, _unverified, _early):
            found += [problem(kind, text) for kind, text in find(status, limits)]
    return sorted(found, key=lambda one: urgency([one]))


_Problems = Iterator["tuple[str, str]"]


def _is_busy(status: Mapping[str, Any]) -> bool:
    return status["lock"] is not None and bool(status["lock"]["alive"])


def _unfinished(status: Mapping[str, Any], _limits: Limits) -> _Problems:
    unfinished = status["unfinished_operation"]
    if unfinished is not None and not _is_busy(status):
        yield (
            "unfinished",
            f"The {unfinished['operation']} that began at {_shown(unfinished['time'])} was cut off: run its playbook "
            "again, or that for a backup, which ends it first.",
        )


def _unhealthy(status: Mapping[str, Any], _limits: Limits) -> _Problems:
    deployment, lock = status["deployment"], status["lock"]
    if deployment["status"] == "UP":
        return
    container = deployment["container"]
    if deployment["status"] is not None:
        said = f"Opstage says that it is {deployment['status']}"
    else:
        said = f"Opstage does not answer, its container is {deployment['container_status']}"
    if _is_busy(status):
        yield "busy", f"{said}, and {lock['user']} works on it ({lock['operation']}): look again when that has ended."
    elif deployment["status"] is None and deployment["container_status"] != "running":
        yield "health", f"{said}: start it with `docker compose up --detach` in {deployment['project_dir']}."
    else:
        yield "health", f"{said}: look at `docker logs {container}`."


def _old(status: Mapping[str, Any], limits: Limits) -> _Problems:
    newest, points = status["newest_verified"], status["recovery_points"]
    if points is None:
        return
    if newest is None:
        which = "No recovery point can be relied on" if points else "There is no recovery point"
        yield "backup", f"{which}: run the backup playbook now."
    elif limits.max_backup_age is not None:
        now = _parsed(status["time"])
        if newest["age_seconds"] > (now - limits.max_backup_age.before(now)).total_seconds():
            yield (
                "backup",
                f"The newest verified recovery point is {format_age(newest['age_seconds'])} old, the limit is "
                f"{limits.max_backup_age}: run the backup playbook now, and see why nothing else made one.",
            )


def _failed_schedule(status: Mapping[str, Any], _limits: Limits) -> _Problems:
    record = status["last_scheduled_backup"]
    if record is not None and record["outcome"] == "failure" and not _is_busy(status):
        service = timer_unit(status["deployment"]["project"]).replace(".timer", ".service")
        yield (
            "schedule",
            f"The scheduled backup of {_shown(record['last_attempt'])} failed: {record['error']}. Mend that, see "
            f"`journalctl --unit {service}`, then run `systemctl start {service}`.",
        )


def latest_drill(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the recovery point whose `drill` is the latest of all, None where there was none."""
    drilled = [point for point in points if point["drill"] is not None]
    return max(drilled, key=lambda point: str(point["drill"]["time"]), default=None)


def _failed_drill(status: Mapping[str, Any], _limits: Limits) -> _Problems:
    point = latest_drill(status["recovery_points"] or [])
    if point is not None and point["drill"]["outcome"] == FAILED:
        drill = point["drill"]
        yield (
            "drill",
            f"The drill of {point['id']} at {_shown(drill['time'])} failed: {drill.get('error', 'nobody knows why')}. "
            "Mend that, then run the drill playbook again.",
        )


def _full(status: Mapping[str, Any], limits: Limits) -> _Problems:
    room = status["room"]
    if room is not None and room["fit"] is not None and room["fit"] < limits.min_points_that_fit:
        yield (
            "room",
            f"{room['folder']} has room for {counted(room['fit'], 'more recovery point')} of the newest one's size "
            f"({format_bytes(room['free'])} free), the limit is {limits.min_points_that_fit}: free some, or keep fewer "
            "with opstage_retention.",
        )


def _idle(status: Mapping[str, Any], limits: Limits) -> _Problems:
    state = status["timer"]["state"] if status["timer"] is not None else None
    unit = timer_unit(status["deployment"]["project"])
    if state == "off":
        yield "timer", f"{unit} is off: run `systemctl enable --now {unit}`, or the schedule playbook."
    elif state == "absent" and limits.require_timer:
        yield "timer", f"There is no {unit}: run the schedule playbook."


def _unverified(status: Mapping[str, Any], _limits: Limits) -> _Problems:
    flawed = [point for point in status["recovery_points"] or [] if not point["verified"]]
    if flawed:
        newest = flawed[-1]
        which = "" if len(flawed) == 1 else f"{len(flawed)} recovery points cannot be relied on. The newest of them, "
        named = f"The recovery point {newest['id']}" if len(flawed) == 1 else f"{newest['id']},"
        yield "verification", f"{which}{named} {newest['flaw']} Remove what nobody needs."


def _early(status: Mapping[str, Any], _limits: Limits) -> _Problems:
    horizon = _parsed(status["time"]) + CLOCK_TOLERANCE
    dated = [point for point in status["recovery_points"] or [] if point["created"] is not None]
    early = [point for point in dated if _parsed(point["created"]) > horizon]
    if early:
        yield (
            "clock",
            f"{early[-1]['id']} was made in the future: see whether the clock of this host is right. What was made "
            "while it was wrong does not count as new.",
        )


def _parsed(text: str) -> datetime:
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=timezone.utc)


def _shown(text: str | None) -> str:
    """A time for people: to the second. What is none is shown as it is."""
    try:
        return _parsed(str(text)).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return str(text)
