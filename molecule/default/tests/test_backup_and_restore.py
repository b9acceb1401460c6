# SPDX-License-Identifier: GPL-3.0-or-later
"""What was backed up while clients wrote is there, and a restore gives exactly that."""

from __future__ import annotations

import pytest
from testbed.reconcile import compare

DUMP = "select number, createdAt from standin_writes order by number"


def test_recovery_points_are_whole_and_private(opstage):
    points = opstage.points("manual") + opstage.points("pre-restore")
    assert len(points) == 3
    for point in points:
        modes = opstage.output(f"stat -c %a {point} {point}/opstage.db {point}/manifest.json").split()
        assert modes == ["700", "600", "600"]
        assert sorted(opstage.output(f"ls -A {point} {point}/project").split()) == sorted(
            [f"{point}:", "manifest.json", "opstage.db", "project", f"{point}/project:", ".env", "compose.yml"]
        )
        manifest = opstage.manifest(point)
        assert manifest["database"]["sha256"] == opstage.output(f"sha256sum {point}/opstage.db").split()[0]
        assert manifest["opstage"]["version"] == "0.2.0"
        assert opstage.query(f"{point}/opstage.db", "pragma integrity_check") == "ok"
    assert opstage.output("ls -A /var/backups/opstage/opstage | grep --count partial || true").strip() == "0"


@pytest.mark.parametrize("method", ["offline", "online"])
def test_backup_has_what_was_acknowledged_before_it(opstage, method):
    (point,) = opstage.points("manual", method)
    rows = opstage.rows(f"{point}/opstage.db")
    until = [number for number in opstage.acknowledged() if number <= max(rows)]
    assert until
    assert compare(until, rows)["ok"]


def test_restore_gives_exactly_the_rows_of_the_recovery_point(opstage):
    (point,) = opstage.points("manual", "online")
    assert opstage.query(opstage.database, DUMP) == opstage.query(f"{point}/opstage.db", DUMP)


def test_restore_threw_rows_away_and_kept_them(opstage):
    """Clients went on writing after the backup until the kill: the test above could fail."""
    last = max(opstage.acknowledged())
    assert last > max(opstage.rows(opstage.database))
    (kept,) = opstage.points("pre-restore")
    assert compare(opstage.acknowledged(), opstage.rows(f"{kept}/opstage.db"))["ok"]


def test_restored_database_belongs_to_opstage(opstage):
    assert opstage.output(f"stat -c '%u:%g %a' {opstage.database}").strip() == "100:101 644"
    for name in ("opstage.db-wal", "opstage.db-shm"):
        assert opstage.output(f"stat -c %u:%g {opstage.data_folder}/{name}").strip() == "100:101"


def test_opstage_serves(opstage):
    assert opstage.get("/api/system/health")["status"] == "UP"
    assert opstage.get("/api/system/version")["version"] == "0.2.0"
    assert opstage.get("/standin/writes")["last"] > 0


def test_container_health_is_only_a_hint(opstage):
    """The published sample's health check is wrong: the container is unhealthy, the procedures went through."""
    if opstage.variables["testbed_layout"] == "inline":
        health = "docker inspect --format '{{.State.Health.Status}}' opstage-opstage-ce-1"
        assert opstage.output(health).strip() in ("unhealthy", "starting")


def test_journal_records_the_restore(opstage):
    assert [(entry["operation"], entry["status"]) for entry in opstage.journal()] == [
        ("restore", "started"),
        ("restore", "finished"),
    ]
