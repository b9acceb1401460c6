# SPDX-License-Identifier: GPL-3.0-or-later
"""Made-up hosts, as the module deployment_status tells of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ansible_collections.capsule.opstage.plugins.module_utils.manifest import TIME_FORMAT
from ansible_collections.capsule.opstage.plugins.module_utils.status_limits import find_problems, parse_limits

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
REPOSITORY = "ghcr.io/xtrape-com/xtrape-capsule-ce"
DIGEST = "sha256:" + "45b23dee08af" + "0" * 52
OTHER_DIGEST = "sha256:" + "9e107d9d372b" + "0" * 52


def at(**ago: float) -> str:
    """A time so long ago, as manifests write it."""
    return (NOW - timedelta(**ago)).strftime(TIME_FORMAT)


def point(reason: str = "scheduled", size: int = 40_000_000, **more: Any) -> dict[str, Any]:
    """A recovery point as host_status.describe_point returns it; `days` or `hours` say how old it is."""
    ago = {unit: more.pop(unit) for unit in ("days", "hours") if unit in more}
    created = at(**ago)
    return {
        "id": f"{created.replace(':', '-').replace('.', '-')}-{reason}",
        "verified": True,
        "flaw": None,
        "created": created,
        "reason": reason,
        "size": size,
        "stored_size": size,
        "encrypted": False,
        "drill": None,
        **more,
    }


def damaged_point(**ago: Any) -> dict[str, Any]:
    """A recovery point whose manifest cannot be read."""
    known = point(**ago)
    flaw = "is damaged: its manifest.json is no JSON."
    return {**dict.fromkeys(known), "id": known["id"], "verified": False, "flaw": flaw}


def deployment(**more: Any) -> dict[str, Any]:
    return {
        "project": "opstage",
        "project_dir": "/opt/opstage",
        "container": "opstage-opstage-1",
        "container_status": "running",
        "repository": REPOSITORY,
        "tag": "0.3.0",
        "digest": DIGEST,
        "version": "0.3.0",
        "status": "UP",
        "database_size": 40_000_000,
        **more,
    }


def lock(alive: bool = True) -> dict[str, Any]:
    said = {"operation": "upgrade", "user": "ada", "host": "controller", "since": at(hours=1), "seen": at(hours=0.1)}
    return {**said, "alive": alive}


def status(points: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """A host as host_status.collect_status returns it: well, but for what is given."""
    if points is None:
        points = [point(days=days, hours=7) for days in range(13, -1, -1)]
    verified = [one for one in points if one["verified"]]
    newest = verified[-1] if verified else None
    age = NOW - datetime.strptime(newest["created"], TIME_FORMAT).replace(tzinfo=UTC) if newest else timedelta()
    return {
        "time": at(),
        "failures": [],
        "summary": "opstage: Opstage 0.3.0, UP",
        "deployment": deployment(),
        "unfinished_operation": None,
        "lock": None,
        "recovery_points": points,
        "newest_verified": newest
        and {"id": newest["id"], "created": newest["created"], "age_seconds": int(age.total_seconds())},
        "room": {"folder": "/var/backups/opstage/opstage", "free": 21_000_000_000, "fit": 523},
        "timer": {"state": "on", "next": at(hours=-17)},
        "last_scheduled_backup": {
            "last_attempt": at(hours=7),
            "last_success": at(hours=7),
            "outcome": "success",
            "error": None,
            "duration_seconds": 2.5,
            "recovery_point": newest and newest["id"],
            "size": 40_000_000,
        },
        **more,
    }


def unknown(failure: str) -> dict[str, Any]:
    """A host on which no deployment was found."""
    return {**dict.fromkeys(status()), "time": at(), "failures": [failure], "summary": failure}


def result(
    host_status: dict[str, Any] | None = None, age: str = "26h", fit: int = 2, timer: bool = False
) -> dict[str, Any]:
    """What the module returns, with those limits."""
    found = dict(status() if host_status is None else host_status)
    problems = find_problems(found, parse_limits(age, fit, timer))
    del found["failures"]
    return {"changed": False, "problems": problems, **found}


def unreachable(words: str = "ssh: connect to host web7 port 22: No route to host") -> dict[str, Any]:
    return {"changed": False, "unreachable": True, "msg": f"Failed to connect to the host via ssh: {words}"}


def fleet() -> dict[str, Any]:
    """Twelve hosts, with every severity."""
    growing = [point(days=days, hours=7, size=10_000_000 + (29 - days) * 1_500_000) for days in range(29, -1, -1)]
    drill = {"time": at(days=2), "seconds": 12.5, "version": "0.3.0", "outcome": "passed"}
    drilled = [*growing[:-3], {**growing[-3], "drill": drill}, *growing[-2:]]
    weekly = [point(days=days, hours=7, encrypted=True) for days in range(24, 2, -7)]
    flawed = [point(days=3, hours=7), damaged_point(days=1, hours=7), point(days=0, hours=7)]
    flawed[0].update(verified=False, flaw="has a manifest that says that its database was not checked.")
    before_upgrade = [*growing[-9:], point("pre-upgrade", days=4, size=52_000_000), point(hours=7, size=53_500_000)]
    failed = {**status()["last_scheduled_backup"], "outcome": "failure", "error": "the database is locked"}
    return {
        "berlin-1": result(status(growing)),
        "berlin-2": result(status(drilled)),
        "berlin-3": result(status(before_upgrade)),
        "lyon-1": result(status(weekly, timer={"state": "absent", "next": None})),
        "lyon-2": result(status(growing[-10:], room={"folder": "/var/backups/opstage", "free": 138_000_000, "fit": 1})),
        "lyon-3": result(status(growing, deployment=deployment(digest=OTHER_DIGEST))),
        "oslo-1": unreachable("ssh: connect to host oslo-1 port 22: No route to host"),
        "oslo-2": result(
            status(
                growing[-20:],
                unfinished_operation={"operation": "upgrade", "time": at(hours=2)},
                deployment=deployment(status=None, container_status="exited", version="0.2.0", tag="0.2.0"),
            )
        ),
        "oslo-3": result(status(flawed, timer={"state": "off", "next": None})),
        "porto-1": result(status(growing[-12:], last_scheduled_backup=failed)),
        "porto-2": result(unknown("No container of Opstage was found among 3 containers of Compose services.")),
        "porto-3": result(status(growing)),
    }
