# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a person wants to know of a deployment first, in one line."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Mapping

from .deployment_lock import Holder
from .manifest import TIME_FORMAT
from .recovery_point import RecoveryPoint

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def describe_status(
    deployment: Mapping[str, Any],
    newest: RecoveryPoint | None,
    unfinished: Mapping[str, Any] | None,
    holder: Holder | None,
    now: datetime,
) -> str:
    """Return version, health, newest recovery point, and what needs a person.

    deployment: the fields of deployment.Deployment. unfinished: as journal.find_unfinished gives it.
    """
    parts = [f"{deployment['project']}: Opstage {deployment['version'] or 'of unknown version'}, {_health(deployment)}"]
    if newest is None:
        parts.append("no recovery point")
    else:
        created = datetime.strptime(newest.manifest["created"], TIME_FORMAT).replace(tzinfo=timezone.utc)
        parts.append(f"newest recovery point {newest.manifest['id']}, {_age(now, created)}")
    if holder is not None:
        parts.append(f"at work: {holder}")
    if unfinished is not None:
        state = "under way or cut off" if holder is not None else "CUT OFF, the next run of any playbook ends it"
        parts.append(f"{unfinished['operation']} that began at {unfinished['time']}: {state}")
    return "; ".join(parts)


def _health(deployment: Mapping[str, Any]) -> str:
    if deployment["status"] is not None:
        return str(deployment["status"])
    return f"no answer, its container is {deployment['container_status']}"


def _age(now: datetime, created: datetime) -> str:
    """How long ago."""
    seconds = int((now - created).total_seconds())
    return "which lies in the future" if seconds < 0 else f"{format_age(seconds)} old"


def format_age(seconds: int) -> str:
    """A span of time in the largest unit that fits: `1 day`, `3 hours`, `less than a minute`."""
    for name, size in _UNITS:
        if seconds >= size:
            return counted(seconds // size, name)
    return "less than a minute"


def counted(count: int, name: str) -> str:
    """A number and what it counts: `1 host`, `2 hosts`."""
    return f"{count} {name}{'' if count == 1 else 's'}"
