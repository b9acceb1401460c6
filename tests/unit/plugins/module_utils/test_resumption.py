# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.resumption import plan_resumption

NEVER = "0001-01-01T00:00:00Z"
BEFORE = "2026-11-22T02:14:59.999999999Z"
RECORDED = "2026-11-22T02:15:00.000001Z"
AFTER = "2026-11-22T02:15:00.1Z"


def planned(
    operation: str = "restore", action: str = "replace", started: str = AFTER, **changes: Any
) -> tuple[str, bool]:
    """What is left to do then, and whether a copy is made first."""
    left = {"action": action, "serve": {"version": "0.2.0"}, "outcome": "failed"}
    unfinished = {"operation": operation, "recorded": RECORDED, "left": left}
    plan = plan_resumption(unfinished, {"container_started": started, "isolated": False, "version": "0.2.0", **changes})
    assert {**plan, "left": None, "copy_first": None} == {**unfinished, "left": None, "copy_first": None}
    assert {**plan["left"], "action": None} == {**left, "action": None}
    assert left["action"] == action
    return plan["left"]["action"], plan["copy_first"]


@pytest.mark.parametrize("operation", ["restore", "rollback", "upgrade"])
@pytest.mark.parametrize("started", [NEVER, BEFORE, "2026-11-22T02:15:00Z", RECORDED])
def test_a_service_that_did_not_run_since(operation: str, started: str) -> None:
    assert planned(operation, started=started) == ("replace", False)


@pytest.mark.parametrize("operation", ["restore", "rollback", "upgrade"])
def test_a_service_that_no_client_reached(operation: str) -> None:
    assert planned(operation, isolated=True) == ("replace", False)


@pytest.mark.parametrize("operation", ["restore", "rollback"])
@pytest.mark.parametrize("version", ["0.2.0", "0.3.0"])
def test_what_clients_wrote_is_kept_before_it_is_replaced(operation: str, version: str) -> None:
    assert planned(operation, version=version) == ("replace", True)


def test_the_old_version_of_an_upgrade_that_serves_its_own_data_keeps_it() -> None:
    assert planned("upgrade") == ("start", False)


def test_what_clients_wrote_to_the_new_version_of_an_upgrade_is_kept() -> None:
    assert planned("upgrade", version="0.3.0") == ("replace", True)


@pytest.mark.parametrize("operation", ["backup", "restore", "rollback", "upgrade"])
def test_where_nothing_is_replaced(operation: str) -> None:
    assert planned(operation, "start") == ("start", False)


def test_an_entry_that_says_nothing_of_it() -> None:
    unfinished = {"operation": "upgrade", "recorded": RECORDED, "left": None}
    plan = plan_resumption(unfinished, {"container_started": AFTER, "isolated": False, "version": "0.2.0"})
    assert plan == {**unfinished, "copy_first": False}


def test_what_is_no_time() -> None:
    with pytest.raises(ValueError, match="'yesterday' is no time in UTC"):
        planned(started="yesterday")
