# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases on each other's databases, and what is wrong with each faulty one."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest
from standin.container import REPOSITORY, UNREACHABLE, Container, Laboratory, docker, wait_for


def leave_database(laboratory: Laboratory, tag: str) -> str:
    """A volume with the database of a release that has written three rows and was stopped."""
    volume = laboratory.volume()
    container = laboratory.run(tag, volume)
    client = container.wait_for_answer()
    for _row in range(3):
        client.request("POST", "/standin/writes")
    docker("stop", container.name)
    return volume


def test_each_release_migrates_the_one_before_and_keeps_the_data(laboratory: Laboratory) -> None:
    volume = leave_database(laboratory, "0.1.0")
    for tag in ("0.2.0", "0.3.0", "0.4.0", "0.5.0"):
        container = laboratory.run(tag, volume)
        client = container.wait_for_answer()
        assert client.get("/api/system/version").data["version"] == tag
        assert client.get("/standin/writes").data["count"] == 3
        assert client.login().status == 200
        docker("stop", container.name)


def test_older_release_does_not_refuse_a_newer_database(laboratory: Laboratory) -> None:
    client = laboratory.run("0.1.0", leave_database(laboratory, "0.4.0")).wait_for_answer()
    assert client.get("/api/system/health").data["status"] == "UP"
    assert client.get("/standin/writes").data["count"] == 3
    assert client.login().status == 200


@pytest.mark.parametrize("older", ["0.1.0", "0.4.0"])
def test_older_release_fails_after_the_irreversible_migration(laboratory: Laboratory, older: str) -> None:
    container = laboratory.run(older, leave_database(laboratory, "0.5.0"), options=UNREACHABLE)
    assert container.wait_for_end() == 1
    assert "no such column" in container.logs()


def test_irreversible_migration_starts_again_on_its_own_database(laboratory: Laboratory) -> None:
    client = laboratory.run("0.5.0", leave_database(laboratory, "0.5.0")).wait_for_answer()
    assert client.get("/api/system/health").data["status"] == "UP"


def test_exits_ends_at_start_with_a_log_line(laboratory: Laboratory) -> None:
    volume = leave_database(laboratory, "0.2.0")
    container = laboratory.run("0.3.1-exits", volume, options=UNREACHABLE)
    assert container.wait_for_end() == 1
    assert "cannot load module" in container.logs()
    assert laboratory.run("0.2.0", volume).wait_for_answer().get("/standin/writes").data["count"] == 3


def test_unhealthy_serves_but_is_never_up(laboratory: Laboratory) -> None:
    container = laboratory.run("0.3.2-unhealthy")
    client = container.wait_for_answer()
    assert client.get("/api/system/health").status == 200
    assert client.get("/api/system/health").data["status"] == "DOWN"
    assert client.get("/health").data["status"] == "DOWN"
    assert client.get("/api/system/version").data["version"] == "0.3.2-unhealthy"


def test_mislabelled_reports_another_version_than_its_tag(laboratory: Laboratory) -> None:
    client = laboratory.run("0.3.3-mislabelled").wait_for_answer()
    assert client.get("/api/system/version").data["version"] == "0.3.0"
    assert client.get("/api/system/health").data["version"] == "0.3.0"
    labels = json.loads(docker("image", "inspect", f"{REPOSITORY}:0.3.3-mislabelled"))[0]["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == "0.3.3-mislabelled"


def test_slow_migrates_once_before_it_listens(laboratory: Laboratory) -> None:
    volume = leave_database(laboratory, "0.2.0")
    container = laboratory.run("0.3.4-slow", volume, {"OPSTAGE_STANDIN_MIGRATION_SECONDS": "2"})
    time.sleep(1)
    assert container.health() is None
    client = container.wait_for_answer()
    assert client.get("/api/system/version").data["version"] == "0.3.4-slow"
    assert client.get("/standin/writes").data["count"] == 3
    docker("restart", container.name)
    container.wait_for_answer(1.8)


def test_slow_killed_in_its_migration_leaves_the_database_as_it_was(laboratory: Laboratory) -> None:
    volume = leave_database(laboratory, "0.2.0")
    container = laboratory.run("0.3.4-slow", volume, options=UNREACHABLE)
    wait_for(lambda: container.log_times("migration: indexing audit_events"), 10, "begin of the migration")
    docker("kill", container.name)
    previous = laboratory.run("0.2.0", volume)
    previous.wait_for_answer()
    assert previous.sql("select name from sqlite_schema where name = 'audit_events_targetId'") == []


def test_halfway_fails_and_what_it_committed_breaks_the_older_release(laboratory: Laboratory) -> None:
    volume = leave_database(laboratory, "0.2.0")
    halfway = laboratory.run("0.3.5-halfway", volume, options=UNREACHABLE)
    assert halfway.wait_for_end() == 1
    assert "NOT NULL constraint failed" in halfway.logs()
    docker("start", halfway.name)
    assert halfway.wait_for_end() == 1
    previous = laboratory.run("0.2.0", volume)
    assert previous.wait_for_end() == 1
    assert "no such column: passwordHash" in previous.logs()


def test_hungry_is_killed_by_a_memory_limit(laboratory: Laboratory) -> None:
    container = laboratory.run("0.3.6-hungry", options=[*UNREACHABLE, "--memory", "128m"])
    assert container.wait_for_end() == 137
    assert container.state()["OOMKilled"] is True


def test_hungry_without_a_limit_stops_at_600_mebibytes_and_serves(laboratory: Laboratory) -> None:
    client = laboratory.run("0.3.6-hungry").wait_for_answer()
    assert client.get("/api/system/health").data["status"] == "UP"
    client.login()
    memory = client.get("/api/admin/diagnostics/runtime").data["memory"]
    assert 600 <= memory["rss"] / 2**20 < 900


def test_sound_release_lives_within_the_limit_that_kills_the_hungry_one(laboratory: Laboratory) -> None:
    client = laboratory.run("0.3.0", options=["--memory", "128m"]).wait_for_answer()
    assert client.get("/api/system/health").data["status"] == "UP"


def test_slow_takes_thirty_seconds_by_itself(slow: Container) -> None:
    slow.wait_for_answer(45)
    begin, end = (datetime.fromisoformat(slow.log_times(message)[0]) for message in ("starting", "listening"))
    assert 30 <= (end - begin).total_seconds() < 33
