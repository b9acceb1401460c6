# SPDX-License-Identifier: GPL-3.0-or-later
"""The version and the data from before the upgrade are back, and what was written since is kept."""

from __future__ import annotations


def test_previous_version_serves(opstage):
    previous = opstage.variables.get("testbed_version", "0.2.0")
    assert opstage.get("/api/system/version")["version"] == previous
    assert opstage.get("/api/system/health")["status"] == "UP"


def test_data_is_that_from_before_the_upgrade(opstage):
    point = opstage.points("pre-upgrade", "offline")[0]
    rows = opstage.written(f"{point}/opstage.db")
    assert rows
    assert opstage.written(opstage.database) == rows
    assert opstage.query(opstage.database, ".schema") == opstage.query(f"{point}/opstage.db", ".schema")


def test_what_was_written_since_is_in_a_recovery_point(opstage):
    (kept,) = opstage.points("pre-rollback")
    assert opstage.lost_writes(f"{kept}/opstage.db") == []
    assert opstage.lost_writes(opstage.database) != []


def test_project_is_as_it_was(opstage, changed_lines):
    assert changed_lines(opstage.points("pre-upgrade", "offline")[0]) == []


def test_registry_was_out_of_reach(opstage):
    assert opstage.host.run("curl --silent --max-time 5 http://registry.testbed:5000/v2/").rc != 0


def test_journal_records_the_rollback(opstage):
    assert [(entry["operation"], entry["status"]) for entry in opstage.journal()] == [
        ("upgrade", "started"),
        ("upgrade", "step"),
        ("upgrade", "step"),
        ("upgrade", "finished"),
        ("rollback", "started"),
        ("rollback", "step"),
        ("rollback", "step"),
        ("rollback", "finished"),
    ]


def test_database_belongs_to_opstage(opstage):
    assert opstage.output(f"stat -c '%u:%g %a' {opstage.database}").strip() == "100:101 644"


def test_nobody_holds_the_lock(opstage):
    assert not opstage.host.file("/var/lib/opstage/opstage/lock.json").exists
