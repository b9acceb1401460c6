# SPDX-License-Identifier: GPL-3.0-or-later
"""What the runs over the fleet have left on each host, and what the status says of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def reported():
    """What the status said of each host."""
    place = CHECKOUT / ".testbed" / os.environ["TESTBED_NAME"]
    report = json.loads((place / "status.json").read_text(encoding="utf-8"))
    assert "molecule-fleet-3" in (place / "status.html").read_text(encoding="utf-8")
    assert report["hosts"][0]["host"] == "molecule-fleet-3"
    return {row["host"]: row for row in report["hosts"]}


def test_every_host_has_the_version(opstage):
    assert opstage.get("/api/system/version")["version"] == "0.3.0"


def test_only_the_canary_saw_the_version_that_does_not_start(opstage):
    upgrades = [entry for entry in opstage.journal() if entry["operation"] == "upgrade" and entry["status"] == "failed"]
    assert upgrades == []
    attempts = len(opstage.points("pre-upgrade", "online"))
    assert attempts == (2 if opstage.name == "molecule-fleet-1" else 1)


def test_the_service_made_the_backup(opstage):
    (point,) = opstage.points("manual", "api")
    assert opstage.query(f"{point}/opstage.db", "pragma integrity_check") == "ok"
    assert opstage.output(f"find {opstage.data_folder}/backups -name '*.db'") == ""


def test_the_status_says_how_each_host_is(opstage, reported):
    row = reported[opstage.name]
    if opstage.name == "molecule-fleet-3":
        assert (row["severity"], row["problems"][0]["kind"]) == ("critical", "unreachable")
        return
    assert (row["severity"], row["deployment"]["version"]) == ("ok", "0.3.0")


def test_drills_are_recorded(opstage):
    (point,) = opstage.points("manual", "api")
    drill = opstage.manifest(point).get("drill")
    if drill is not None:
        assert (drill["outcome"], drill["version"]) == ("passed", "0.3.0")
    assert opstage.output("docker ps --all --quiet --filter label=capsule.opstage.rehearsal=opstage") == ""
