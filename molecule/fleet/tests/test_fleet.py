# SPDX-License-Identifier: GPL-3.0-or-later
"""What the runs over the fleet have left on each host, and what the status says of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
PLACE = CHECKOUT / ".testbed" / os.environ["TESTBED_NAME"]
LOGIN, LOGOUT = "POST /api/admin/auth/login", "POST /api/admin/auth/logout"
BACKUP = "POST /api/admin/backup/sqlite"
REASONS = ("manual", "pre-upgrade", "pre-restore")


@pytest.fixture
def reported():
    """What the status said of each host, once one was cut off."""
    report = json.loads((PLACE / "status.json").read_text(encoding="utf-8"))
    assert "molecule-fleet-3" in (PLACE / "status.html").read_text(encoding="utf-8")
    assert report["hosts"][0]["host"] == "molecule-fleet-3"
    return {row["host"]: row for row in report["hosts"]}


def test_every_host_has_the_version(opstage):
    assert opstage.get("/api/system/version")["version"] == "0.3.0"


def test_only_the_canary_saw_the_version_that_does_not_start(opstage):
    upgrades = [entry for entry in opstage.journal() if entry["operation"] == "upgrade" and entry["status"] == "failed"]
    assert upgrades == []
    attempts = len(opstage.points("pre-upgrade", "online"))
    assert attempts == (2 if opstage.name == "molecule-fleet-1" else 1)


def test_the_service_made_the_backup_where_there_was_room(opstage):
    """The first host's came back from the restic repository on the second."""
    points = opstage.points("manual", "api")
    assert len(points) == (0 if opstage.name == "molecule-fleet-3" else 1)
    assert [opstage.query(f"{point}/opstage.db", "pragma integrity_check") for point in points] == ["ok"] * len(points)
    assert opstage.output(f"find {opstage.data_folder}/backups -name '*.db'") == ""


def test_the_restored_data_is_that_of_the_backup(opstage):
    if opstage.name == "molecule-fleet-1":
        assert opstage.query(opstage.database, "select username from users") == "owner"
        assert len(opstage.points("pre-restore")) == 1
    assert opstage.host.file("/srv/restic/config").exists is (opstage.name == "molecule-fleet-2")


def test_every_session_that_began_has_ended(opstage):
    """As the proxy saw it: over TLS a password that is wrong begins none, and a viewer's is ended after the refusal."""
    asked = opstage.output("cat /var/log/tls-proxy.log").splitlines()
    admin = [line for line in asked if "/api/admin/" in line and "/diagnostics/" not in line]
    begun, ended = asked.count(f"{LOGIN} 200"), asked.count(f"{LOGOUT} 200")
    assert begun == ended
    last = {
        "molecule-fleet-1": [f"{LOGIN} 200", f"{BACKUP} 200", f"{LOGOUT} 200"],
        "molecule-fleet-2": [f"{LOGIN} 401"],
        "molecule-fleet-3": [f"{LOGIN} 200", f"{BACKUP} 403", f"{LOGOUT} 200"],
    }
    assert admin[-3:] == last[opstage.name]
    assert "GET /api/system/health 200" in asked


def test_the_status_says_how_each_host_is(opstage, reported):
    digests = json.loads((PLACE / "digests.json").read_text(encoding="utf-8"))
    before = {row["host"]: row for row in digests["hosts"]}[opstage.name]
    another = opstage.name == "molecule-fleet-2"
    assert (before["severity"], before["deployment"]["version"]) == ("warning" if another else "ok", "0.3.0")
    assert [one["kind"] for one in before["problems"]] == (["digest"] if another else [])
    if opstage.name == "molecule-fleet-3":
        row = reported[opstage.name]
        assert (row["severity"], row["problems"][0]["kind"]) == ("critical", "unreachable")


def test_drills_are_recorded(opstage):
    manifests = [opstage.manifest(path) for reason in REASONS for path in opstage.points(reason)]
    for manifest in manifests:
        drill = manifest.get("drill")
        if drill is not None:
            assert (drill["outcome"], drill["version"]) == ("passed", manifest["opstage"]["version"])
    assert opstage.output("docker ps --all --quiet --filter label=capsule.opstage.rehearsal=opstage") == ""
