# SPDX-License-Identifier: GPL-3.0-or-later
"""What was backed up while clients wrote is there, and a restore gives exactly that."""

from __future__ import annotations

import pytest


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
    rows = opstage.written(f"{point}/opstage.db")
    assert rows
    if opstage.written_table == "standin_writes":
        assert opstage.lost_writes(f"{point}/opstage.db", until=int(rows[-1].split("|")[0])) == []


def test_restore_gives_exactly_the_rows_of_the_recovery_point(opstage):
    (point,) = opstage.points("manual", "online")
    restored = opstage.written(f"{point}/opstage.db")
    assert opstage.written(opstage.database)[: len(restored)] == restored
    if opstage.written_table == "standin_writes":
        assert opstage.written(opstage.database) == restored


def test_restore_threw_rows_away_and_kept_them(opstage):
    """Clients went on writing after the backup until the kill: the test above could fail."""
    (kept,) = opstage.points("pre-restore")
    assert opstage.lost_writes(opstage.database) != []
    assert opstage.lost_writes(f"{kept}/opstage.db") == []


def test_restored_database_belongs_to_opstage(opstage):
    assert opstage.output(f"stat -c '%u:%g %a' {opstage.database}").strip() == "100:101 644"
    for name in ("opstage.db-wal", "opstage.db-shm"):
        assert opstage.output(f"stat -c %u:%g {opstage.data_folder}/{name}").strip() == "100:101"


def test_opstage_serves(opstage):
    assert opstage.get("/api/system/health")["status"] == "UP"
    assert opstage.get("/api/system/version")["version"] == "0.2.0"


def test_container_health_is_only_a_hint(opstage):
    """The published sample's health check is wrong: the container is unhealthy, the procedures went through."""
    if opstage.variables["testbed_layout"] == "inline":
        health = "docker inspect --format '{{.State.Health.Status}}' opstage-opstage-ce-1"
        assert opstage.output(health).strip() in ("unhealthy", "starting")


def test_journal_records_the_restore(opstage):
    assert [(entry["operation"], entry["status"]) for entry in opstage.journal()] == [
        ("backup", "started"),
        ("backup", "finished"),
        ("restore", "started"),
        ("restore", "step"),
        ("restore", "step"),
        ("restore", "finished"),
    ]


def test_nobody_holds_the_lock(opstage):
    assert not opstage.host.file("/var/lib/opstage/opstage/lock.json").exists
