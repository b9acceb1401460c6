# SPDX-License-Identifier: GPL-3.0-or-later
"""The target version serves, and every write that was acknowledged on the way is there."""

from __future__ import annotations

import re

from testbed import traffic


def test_target_version_serves(opstage):
    assert opstage.get("/api/system/version")["version"] == opstage.variables["opstage_version"]
    assert opstage.get("/api/system/health")["status"] == "UP"


def versions(opstage):
    """What it went through, in order."""
    stops = sorted(opstage.variables.get("opstage_upgrade_stops", []))
    return [opstage.variables.get("testbed_version", "0.2.0"), *stops, opstage.variables["opstage_version"]]


def test_only_tag_and_digest_were_changed(opstage, changed_lines):
    point = opstage.points("pre-upgrade", "offline")[-1]
    before, after = changed_lines(point)
    old, new = versions(opstage)[-2:]
    digest = opstage.journal()[-1]["target"]["digest"]
    replaced, count = re.subn(rf"{re.escape(old)}(@sha256:[0-9a-f]{{64}})?", f"{new}@{digest}", before)
    assert count == 1
    assert after == replaced.replace("<", ">", 1)


def test_every_acknowledged_write_is_there(opstage, capsys):
    summary = traffic.stop(opstage.traffic)
    with capsys.disabled():
        print(f"\n{opstage.name}: {summary['downtime_seconds']:.2f} s of downtime, {summary['acknowledged']} writes")
    assert opstage.lost_writes(opstage.database) == []
    assert summary["versions_seen"][-1] == opstage.variables["opstage_version"]


def test_second_run_made_no_recovery_point(opstage):
    made = [opstage.manifest(point) for point in opstage.points("pre-upgrade")]
    expected = [(version, method) for version in versions(opstage)[:-1] for method in ("online", "offline")]
    assert [(manifest["opstage"]["version"], manifest["method"]) for manifest in made] == expected


def test_journal_records_the_upgrade(opstage):
    entries = opstage.journal()
    steps = len(versions(opstage)) - 1
    assert [entry["status"] for entry in entries] == ["started", "step", "step", "finished"] * steps
    finished = entries[-1]
    assert finished["recovery_point"] == opstage.points("pre-upgrade", "offline")[-1]
    assert finished["target"]["version"] == opstage.variables["opstage_version"]


def test_database_belongs_to_opstage(opstage):
    assert opstage.output(f"stat -c '%u:%g %a' {opstage.database}").strip() == "100:101 644"


def test_nobody_holds_the_lock(opstage):
    assert not opstage.host.file("/var/lib/opstage/opstage/lock.json").exists
