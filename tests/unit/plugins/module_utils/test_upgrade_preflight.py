# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import upgrade_preflight
from ansible_collections.capsule.opstage.plugins.module_utils.docker_registry import (
    RemoteImage,
    RemoteImageError,
    RemoteImageMissingError,
)
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_preflight import (
    UpgradePlan,
    examine_target,
    plan_upgrade,
)
from sqlite_testing import mounted_tmpfs

DIGEST = "sha256:" + "0" * 64
DEPLOYMENT: dict[str, Any] = {
    "version": "0.2.0",
    "tag": "0.2.0",
    "digest": DIGEST,
    "image": "registry:5000/opstage:0.2.0",
    "image_id": "sha256:" + "1" * 64,
    "repository": "registry:5000/opstage",
    "container": "opstage-web-1",
    "container_status": "running",
    "status": "UP",
    "url": "http://127.0.0.1:8080",
    "database": "/opstage.db",
    "database_size": 4096,
}


def plan(target: str = "0.3.0", unfinished: dict[str, Any] | None = None, **changes: Any) -> UpgradePlan:
    return plan_upgrade({**DEPLOYMENT, **changes}, target, unfinished)


def only_problem(target: str = "0.3.0", **changes: Any) -> str:
    found = plan(target, **changes)
    assert found.needed
    (problem,) = found.problems
    return problem


def test_nothing_in_the_way() -> None:
    found = plan()
    assert (found.needed, found.problems) == (True, [])
    assert found.source == {
        "version": "0.2.0",
        "tag": "0.2.0",
        "digest": DIGEST,
        "image": "registry:5000/opstage:0.2.0",
        "image_id": "sha256:" + "1" * 64,
        "url": "http://127.0.0.1:8080",
        "pinned_digest": None,
    }
    assert found.target == {"version": "0.3.0", "tag": "0.3.0", "image": "registry:5000/opstage:0.3.0"}


def test_a_digest_in_the_project_s_files_is_what_a_rollback_pins_again() -> None:
    pinned = "sha256:" + "a" * 64
    assert plan(image=f"registry:5000/opstage:0.2.0@{pinned}").source["pinned_digest"] == pinned


@pytest.mark.parametrize(
    ("target", "current", "tag", "needed"),
    [
        ("0.2.0", "0.2.0", "0.2.0", False),
        ("0.3.0", "0.2.0", "0.2.0", True),
        ("0.2.0", "0.2.0", "0.2", True),
        ("0.2.0", "0.2.0", None, True),
        ("0.3.0", "0.2.0", "0.3.0", True),
    ],
)
def test_needed(target: str, current: str, tag: str | None, needed: bool) -> None:
    """Also where the version is right and a moving tag is named, or the tag is right and something else serves."""
    found = plan(target, version=current, tag=tag)
    assert (found.needed, found.problems) == (needed, [])


@pytest.mark.parametrize("target", ["0.3", "edge", "", "v0.3.0", "latest"])
def test_a_target_that_is_no_version(target: str) -> None:
    assert only_problem(target).startswith(f"opstage_version: {target!r} is no version of Opstage")


@pytest.mark.parametrize("current", [None, "", "edge"])
def test_what_runs_is_not_known(current: str | None) -> None:
    assert only_problem(version=current).startswith("The version that runs is not known")


@pytest.mark.parametrize(("target", "current"), [("0.1.0", "0.2.0"), ("0.9.0", "0.10.0"), ("0.3.0-rc.1", "0.3.0")])
def test_a_downgrade(target: str, current: str) -> None:
    found = plan(target, version=current, tag=current)
    (problem,) = found.problems
    assert problem.startswith(f"opstage_version {target} is older than {current}, which runs")


@pytest.mark.parametrize("state", ["exited", "restarting", "created", "paused"])
def test_a_container_that_does_not_run(state: str) -> None:
    problem = only_problem(container_status=state, status=None)
    assert problem.startswith(f"The container opstage-web-1 is {state}, expected running")


@pytest.mark.parametrize(("status", "words"), [(None, "nothing"), ("DEGRADED", "DEGRADED"), ("DOWN", "DOWN")])
def test_a_service_that_is_not_healthy(status: str | None, words: str) -> None:
    assert only_problem(status=status).startswith(f"http://127.0.0.1:8080 reports {words}, expected UP")


def test_no_database() -> None:
    assert only_problem(database_size=None) == "There is no database at /opstage.db."


def test_an_empty_database_file_is_there() -> None:
    assert plan(database_size=0).problems == []


@pytest.mark.parametrize("operation", ["upgrade", "rollback", "restore"])
@pytest.mark.parametrize("target", ["0.2.0", "0.3.0"])
def test_an_operation_that_was_cut_off(operation: str, target: str) -> None:
    """Also when the target seems to run already."""
    problem = only_problem(target, unfinished={"operation": operation, "time": "2026-11-22T02:15:00.000000Z"})
    assert f"was cut off: {operation}, started 2026-11-22T02:15:00.000000Z. " in problem
    assert "A run that is not in check mode brings it to its end first." in problem


def test_everything_is_told_at_once() -> None:
    found = plan("0.1.0", status="DOWN", database_size=None)
    assert len(set(found.problems)) == 3


def test_after_an_operation_that_was_cut_off_nothing_else_can_be_judged() -> None:
    unfinished = {"operation": "upgrade", "time": "2026-11-22T02:15:00.000000Z"}
    found = plan("0.1.0", unfinished, status="DOWN", database_size=None)
    assert len(found.problems) == 1


def test_too_little_room_to_go_back(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "small", "1m") as small:
        (small / "opstage.db").write_bytes(b"x" * 300_000)
        assert plan(database=str(small / "opstage.db")).problems == []
        (small / "opstage.db-wal").write_bytes(b"x" * 300_000)
        problem = only_problem(database=str(small / "opstage.db"))
    assert f"A rollback could not put the database back: no space in {small}: 600000 bytes are needed" in problem


NOW = datetime(2026, 11, 22, 2, 30, tzinfo=UTC)
"""A Sunday."""


class TestTarget:
    """Only the Engine's answers are made up; test_docker_registry has those of a real one."""

    @pytest.fixture(autouse=True)
    def engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: RemoteImage | RemoteImageError = RemoteImage(DIGEST, ["linux/amd64"])
        self.asked: list[str] = []

        def answer(reference: str) -> RemoteImage:
            self.asked.append(reference)
            if isinstance(self.found, RemoteImageError):
                raise self.found
            return self.found

        monkeypatch.setattr(upgrade_preflight, "find_remote_image", answer)
        monkeypatch.setattr(upgrade_preflight, "host_platform", lambda: "linux/amd64")

    def test_its_digest(self) -> None:
        examined = examine_target(plan(), None, NOW)
        assert (examined.problems, examined.target["digest"]) == ([], DIGEST)
        assert self.asked == ["registry:5000/opstage:0.3.0"]

    def test_nothing_is_asked_where_nothing_is_to_be_done(self) -> None:
        present = plan("0.2.0")
        assert examine_target(present, "Mon 01:00-02:00 UTC", NOW) == present
        assert self.asked == []

    def test_everything_that_stands_in_the_way_is_said_at_once(self) -> None:
        self.found = RemoteImageMissingError("There is no such tag.")
        examined = examine_target(plan(status="DOWN"), "Mon 01:00-02:00 UTC", NOW)
        assert examined.target["digest"] is None
        unhealthy, closed, missing = examined.problems
        assert "expected UP" in unhealthy
        assert closed == "The maintenance window Mon 01:00-02:00 UTC is closed: it opens at 2026-11-23T01:00:00Z."
        assert missing == "There is no such tag."

    def test_an_open_window(self) -> None:
        assert examine_target(plan(), "Sun 02:00-04:00 UTC", NOW).problems == []

    def test_a_window_that_is_none(self) -> None:
        (problem,) = examine_target(plan(), "at night", NOW).problems
        assert problem.startswith("opstage_maintenance_window: ")

    def test_another_platform(self) -> None:
        self.found = RemoteImage(DIGEST, ["linux/arm64"])
        (problem,) = examine_target(plan(), None, NOW).problems
        assert problem == "registry:5000/opstage:0.3.0 is for linux/arm64; this host is linux/amd64."
        self.found = RemoteImage(DIGEST, [])
        assert examine_target(plan(), None, NOW).problems == []
