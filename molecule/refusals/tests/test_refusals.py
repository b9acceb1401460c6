# SPDX-License-Identifier: GPL-3.0-or-later
"""After all that was refused the same version serves, and every write that was acknowledged meanwhile is there.

Where the rollback was refused, that is the version which the upgrade before it led to.
"""

from __future__ import annotations

import pytest
from testbed import traffic


@pytest.fixture
def versions(opstage):
    """The versions that this host has served, in order."""
    upgraded = opstage.variables.get("refusal_upgraded_to")
    return ["0.2.0", *([upgraded] if upgraded else [])]


def test_same_version_serves(opstage, versions):
    assert opstage.get("/api/system/version")["version"] == versions[-1]
    assert opstage.get("/api/system/health")["status"] == "UP"


def test_every_acknowledged_write_is_there(opstage, versions, capsys):
    summary = traffic.stop(opstage.traffic)
    with capsys.disabled():
        print(f"\n{opstage.name}: {summary['downtime_seconds']:.2f} s of downtime, {summary['acknowledged']} writes")
    assert opstage.lost_writes(opstage.database) == []
    assert summary["versions_seen"] == versions


def test_database_is_sound(opstage):
    assert opstage.query(opstage.database, "pragma integrity_check") == "ok"


def test_database_belongs_to_opstage(opstage):
    assert opstage.output(f"stat -c '%u:%g %a' {opstage.database}").strip() == "100:101 644"


def test_nobody_holds_the_lock(opstage):
    assert not opstage.host.file("/var/lib/opstage/opstage/lock.json").exists
