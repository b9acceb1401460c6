# SPDX-License-Identifier: GPL-3.0-or-later
"""After a failed upgrade the old version serves the old data, every acknowledged write included."""

from __future__ import annotations

from testbed import traffic


def test_old_version_serves(opstage):
    assert opstage.get("/api/system/version")["version"] == "0.2.0"
    assert opstage.get("/api/system/health")["status"] == "UP"


def test_every_acknowledged_write_is_there(opstage, capsys):
    summary = traffic.stop(opstage.traffic)
    with capsys.disabled():
        print(f"\n{opstage.name}: {summary['downtime_seconds']:.2f} s of downtime, {summary['acknowledged']} writes")
    assert opstage.lost_writes(opstage.database) == []
    assert summary["versions_seen"][-1] == "0.2.0"


def test_schema_is_the_old_one(opstage):
    point = opstage.points("pre-upgrade", "offline")[0]
    assert opstage.query(opstage.database, ".schema") == opstage.query(f"{point}/opstage.db", ".schema")
    assert opstage.query(opstage.database, "pragma integrity_check") == "ok"


def test_no_row_was_lost(opstage):
    point = opstage.points("pre-upgrade", "offline")[0]
    for table in opstage.query(opstage.database, "select name from sqlite_master where type = 'table'").split():
        count = f"select count(*) from {table}"
        assert int(opstage.query(opstage.database, count)) >= int(opstage.query(f"{point}/opstage.db", count))


def test_project_is_as_it_was(opstage, changed_lines):
    assert changed_lines(opstage.points("pre-upgrade", "offline")[0]) == []


def test_journal_records_the_failure_and_its_cause(opstage):
    entries = opstage.journal()
    assert (entries[0]["status"], {entry["status"] for entry in entries[1:-1]}) == ("started", {"step"})
    failed = entries[-1]
    assert failed["status"] == "failed"
    assert opstage.variables["faulty_cause"] in failed["cause"]
    assert failed["container_logs"]


def test_database_belongs_to_opstage(opstage):
    assert opstage.output(f"stat -c '%u:%g %a' {opstage.database}").strip() == "100:101 644"


def test_nobody_holds_the_lock(opstage):
    assert not opstage.host.file("/var/lib/opstage/opstage/lock.json").exists
