# SPDX-License-Identifier: GPL-3.0-or-later
"""The target version serves, and every write that was acknowledged on the way is there."""

from __future__ import annotations

from testbed import traffic


def test_target_version_serves(opstage):
    assert opstage.get("/api/system/version")["version"] == opstage.variables["opstage_version"]
    assert opstage.get("/api/system/health")["status"] == "UP"


def test_only_tag_and_digest_were_changed(opstage, changed_lines):
    point = opstage.points("pre-upgrade", "offline")[0]
    before, after = changed_lines(point)
    old, new = opstage.variables.get("testbed_version", "0.2.0"), opstage.variables["opstage_version"]
    assert old in before
    digest = opstage.journal()[-1]["target"]["digest"]
    assert after == before.replace("<", ">", 1).replace(old, f"{new}@{digest}")


def test_every_acknowledged_write_is_there(opstage, capsys):
    summary = traffic.stop(opstage.traffic)
    with capsys.disabled():
        print(f"\n{opstage.name}: {summary['downtime_seconds']:.2f} s of downtime, {summary['acknowledged']} writes")
    assert opstage.lost_writes(opstage.database) == []
    assert summary["versions_seen"][-1] == opstage.variables["opstage_version"]


def test_second_run_made_no_recovery_point(opstage):
    assert [opstage.manifest(point)["method"] for point in opstage.points("pre-upgrade")] == ["online", "offline"]


def test_journal_records_the_upgrade(opstage):
    entries = opstage.journal()
    assert [entry["status"] for entry in entries] == ["started", "step", "step", "finished"]
    finished = entries[-1]
    assert finished["recovery_point"] == opstage.points("pre-upgrade", "offline")[0]
    assert finished["target"]["version"] == opstage.variables["opstage_version"]


def test_database_belongs_to_opstage(opstage):
    assert opstage.output(f"stat -c '%u:%g %a' {opstage.database}").strip() == "100:101 644"


def test_nobody_holds_the_lock(opstage):
    assert not opstage.host.file("/var/lib/opstage/opstage/lock.json").exists
