# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.manifest import TIME_FORMAT
from ansible_collections.capsule.opstage.plugins.module_utils.status_limits import (
    KINDS,
    LimitError,
    find_problems,
    parse_limits,
)
from fleet_testing import NOW, at, damaged_point, deployment, lock, point, status, unknown

UNFINISHED = {"operation": "upgrade", "time": at(hours=2)}
ROOM = {"folder": "/var/backups/opstage", "free": 3_000_000, "fit": 1}


def problems(host: dict[str, Any], age: str = "26h", fit: int = 2, timer: bool = False) -> dict[str, str]:
    """The texts by kind, in their order."""
    found = find_problems(host, parse_limits(age, fit, timer))
    assert {one["severity"] for one in found} <= {KINDS[one["kind"]] for one in found}
    assert all(one["text"].endswith(".") for one in found)
    by_kind = {one["kind"]: one["text"] for one in found}
    assert len(by_kind) == len(found)
    return by_kind


def newest_of(seconds: int) -> dict[str, Any]:
    return {"newest_verified": {"id": "id", "created": at(seconds=seconds), "age_seconds": seconds}}


def test_nothing_is_wrong() -> None:
    assert problems(status()) == {}


@pytest.mark.parametrize(("limit", "hours"), [("26h", 26), ("7d", 7 * 24), ("1d2h", 26), ("1m", 31 * 24)])
def test_age_at_the_edge(limit: str, hours: int) -> None:
    assert problems(status(**newest_of(hours * 3600)), age=limit) == {}
    text = problems(status(**newest_of(hours * 3600 + 1)), age=limit)["backup"]
    assert f"the limit is {limit}: run the backup playbook" in text


def test_no_limit_of_age_still_wants_a_recovery_point() -> None:
    assert problems(status(**newest_of(10**8)), age="0h") == {}
    assert problems(status([]), age="0h") == {"backup": "There is no recovery point: run the backup playbook now."}


def test_only_what_is_verified_counts() -> None:
    found = problems(status([damaged_point(hours=1)]))
    assert list(found) == ["backup", "verification"]
    assert found["backup"].startswith("No recovery point can be relied on")
    old_and_damaged = problems(status([point(days=3), damaged_point(hours=1)]))
    assert "is 3 days old" in old_and_damaged["backup"]


def test_a_folder_that_cannot_be_read_is_not_said_to_be_empty() -> None:
    host = status(recovery_points=None, newest_verified=None, room=None, failures=["it cannot be read."])
    assert list(problems(host)) == ["unknown"]


@pytest.mark.parametrize(("fit", "limit", "wrong"), [(2, 2, False), (1, 2, True), (0, 0, False), (0, 1, True)])
def test_room_at_the_edge(fit: int, limit: int, wrong: bool) -> None:
    assert ("room" in problems(status(room={**ROOM, "fit": fit}), fit=limit)) == wrong


def test_room_says_what_there_is() -> None:
    text = problems(status(room=ROOM))["room"]
    assert text.startswith("/var/backups/opstage has room for 1 more recovery point of the newest one's size (3.0 MB")
    assert problems(status(room={**ROOM, "fit": None})) == {}


@pytest.mark.parametrize(
    ("state", "required", "wrong"),
    [("on", True, False), ("absent", False, False), ("absent", True, True), ("off", False, True), ("off", True, True)],
)
def test_timer(state: str, required: bool, wrong: bool) -> None:
    found = problems(status(timer={"state": state, "next": None}), timer=required)
    assert list(found) == (["timer"] if wrong else [])
    assert all("opstage-backup-opstage.timer" in text for text in found.values())


@pytest.mark.parametrize("said", ["DOWN", "DEGRADED"])
def test_unhealthy(said: str) -> None:
    assert problems(status(deployment=deployment(status=said))) == {
        "health": f"Opstage says that it is {said}: look at `docker logs opstage-opstage-1`."
    }


def test_no_answer() -> None:
    silent = problems(status(deployment=deployment(status=None)))["health"]
    assert silent.endswith("its container is running: look at `docker logs opstage-opstage-1`.")
    stopped = problems(status(deployment=deployment(status=None, container_status="exited")))["health"]
    assert stopped.endswith("its container is exited: start it with `docker compose up --detach` in /opt/opstage.")


@pytest.mark.parametrize("holder", [None, lock(alive=False)], ids=["no lock", "lock of the dead"])
def test_an_operation_that_was_cut_off(holder: dict[str, Any] | None) -> None:
    found = problems(status(unfinished_operation=UNFINISHED, lock=holder))
    assert list(found) == ["unfinished"]
    assert found["unfinished"].startswith("The upgrade that began at 2026-11-23 07:30:00 UTC was cut off: run ")


def test_an_operation_that_is_under_way() -> None:
    assert problems(status(unfinished_operation=UNFINISHED, lock=lock())) == {}
    stopped = deployment(status=None, container_status="exited")
    found = problems(status(unfinished_operation=UNFINISHED, lock=lock(), deployment=stopped))
    assert list(found) == ["busy"]
    assert "ada works on it (upgrade): look again" in found["busy"]


def test_a_scheduled_backup_that_failed() -> None:
    record = {**status()["last_scheduled_backup"], "outcome": "failure", "error": "no room"}
    text = problems(status(last_scheduled_backup=record))["schedule"]
    assert text.startswith("The scheduled backup of 2026-11-23 02:30:00 UTC failed: no room. ")
    assert "opstage-backup-opstage.service" in text
    assert problems(status(last_scheduled_backup=record, lock=lock())) == {}
    assert problems(status(last_scheduled_backup=None)) == {}


def test_only_the_latest_drill_counts() -> None:
    passed = {"time": at(days=2), "seconds": 1.5, "version": "0.3.0", "outcome": "passed"}
    failed = {"time": at(days=1), "seconds": 1.5, "version": None, "outcome": "failed", "error": "it did not start"}
    points = [point(days=3, drill=failed), point(hours=1, drill=passed)]
    text = problems(status(points))["drill"]
    assert text.startswith(f"The drill of {points[0]['id']} at 2026-11-22 09:30:00 UTC failed: it did not start. ")
    assert problems(status([point(days=3, drill=passed), point(hours=1)])) == {}
    assert problems(status([point(days=3, drill={**failed, "time": at(days=4)}), point(hours=1, drill=passed)])) == {}


def test_a_point_that_is_not_verified() -> None:
    one = problems(status([damaged_point(days=1), point(hours=1)]))["verification"]
    name = "2026-11-22T09-30-00-000000Z-scheduled"
    assert one == f"The recovery point {name} is damaged: its manifest.json is no JSON. Remove what nobody needs."
    two = problems(status([damaged_point(days=2), damaged_point(days=1), point(hours=1)]))["verification"]
    assert two.startswith(f"2 recovery points cannot be relied on. The newest of them, {name}, is damaged: its ")


def test_a_point_of_the_future_at_the_edge() -> None:
    def found(ahead: timedelta) -> dict[str, str]:
        early = point(hours=0, created=(NOW + ahead).strftime(TIME_FORMAT))
        return problems(status(**newest_of(60), points=[point(hours=1), early]))

    assert found(timedelta(hours=1)) == {}
    assert list(found(timedelta(hours=1, seconds=1))) == ["clock"]


def test_the_worst_is_said_first() -> None:
    host = status(
        [damaged_point(days=1)],
        deployment=deployment(status="DOWN"),
        unfinished_operation=UNFINISHED,
        room=ROOM,
        timer={"state": "off", "next": None},
        failures=["the lock cannot be read."],
    )
    assert list(problems(host)) == ["unknown", "unfinished", "health", "backup", "room", "timer", "verification"]


def test_where_there_is_no_deployment_that_is_all_there_is_to_say() -> None:
    assert problems(unknown("No container of Opstage was found.")) == {"unknown": "No container of Opstage was found."}


@pytest.mark.parametrize(
    ("age", "fit", "said"), [("26 hours", 2, "26 hours"), ("-1h", 2, "-1h"), ("26h", -1, "is -1;")]
)
def test_limits_that_are_none(age: str, fit: int, said: str) -> None:
    with pytest.raises(LimitError, match=said):
        parse_limits(age, fit, require_timer=False)
