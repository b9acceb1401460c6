# SPDX-License-Identifier: GPL-3.0-or-later
"""Upgrade an embedded Opstage from 0.2.0 to 0.3.0 while clients write, and say what came of it.

Leaves Opstage running on a host of the testbed, and `.demo/inventory.yml` for the other playbooks. What is there from
an earlier run, host and images, is used again; the deployment itself is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from testbed import hosts, traffic
from testbed.command import up
from testbed.inventory import STATE
from testbed.load import NUMBERED
from testbed.machine import CACHE, CHECKOUT
from testbed.process import TestbedError, run, run_logged, say

NAME = "demo"
FROM, TO = "0.2.0", "0.3.0"
FOLDER = CHECKOUT / ".demo"
INVENTORY = FOLDER / "inventory.yml"
ROWS = 20_000
WRITES_PER_SECOND = 200
BACKGROUND_WRITES_PER_SECOND = 5
DATABASE = "/var/lib/docker/volumes/opstage_opstage-data/_data/opstage.db"


def main() -> int:
    """Run the demo; returns the exit status. An error is one line on standard error."""
    try:
        demonstrate()
    except TestbedError as error:
        say(f"error: {error}")
        return 1
    return 0


def demonstrate() -> None:
    """Set everything up, run the real upgrade under real traffic, and write the summary."""
    started = time.monotonic()
    os.chdir(CHECKOUT)
    up(NAME, 1, FROM)
    FOLDER.mkdir(exist_ok=True)
    shutil.copyfile(STATE / NAME / "inventory.yml", INVENTORY)
    INVENTORY.chmod(0o600)
    (host,) = hosts.existing(NAME)
    url = f"http://{host.address}:8080"
    state = FOLDER / "traffic"
    end_traffic(state)
    deploy()
    events_before = count_audit_events(host)
    traffic.start(state, url, WRITES_PER_SECOND)
    try:
        upgrade()
    finally:
        summary = traffic.stop(state)
    lost = count_lost_writes(state, url, host, events_before, summary)
    point = newest_recovery_point(host)
    sys.stdout.write(report(summary, lost, point, url, time.monotonic() - started))
    if lost or summary["versions_seen"][-1] != TO:
        raise TestbedError(f"{lost} acknowledged writes are lost, versions seen: {summary['versions_seen']}")


def end_traffic(state: Path) -> None:
    """End the traffic of a demo that was cut off."""
    if (state / traffic.RECORD).exists():
        traffic.stop(state)


def deploy() -> None:
    """Put an Opstage of the old version with data in it on the host, anew."""
    variables = {
        "testbed_fresh": True,
        "testbed_version": FROM,
        "testbed_seed_rows": ROWS,
        "testbed_writes_per_second": BACKGROUND_WRITES_PER_SECOND,
    }
    say(f"deploy Opstage {FROM} with {ROWS} audit events")
    command = ansible_playbook("tests/testbed/deploy.yml", "-e", json.dumps(variables))
    run_logged(command, CACHE / "demo-deploy.log")


def upgrade() -> None:
    """Run the collection's own playbook, as an operator would; raises TestbedError when it ends red."""
    arguments = ["playbooks/upgrade.yml", "-e", f"opstage_version={TO}", "-e", f"opstage_upgrade_acknowledge={TO}"]
    say(f"ansible-playbook -i .demo/inventory.yml {' '.join(arguments)}")
    status = subprocess.run(ansible_playbook(*arguments), stdin=subprocess.DEVNULL, check=False).returncode
    if status:
        raise TestbedError(f"the upgrade ended with status {status}; the failed task above says why")


def ansible_playbook(*arguments: str) -> list[str]:
    """The command that runs a playbook on the demo's host, from the checkout's folder."""
    return [str(CHECKOUT / ".venv" / "bin" / "ansible-playbook"), "-i", str(INVENTORY), *arguments]


def count_audit_events(host: hosts.Host) -> int:
    """How many audit events the running Opstage has committed."""
    query = "select count(*) from audit_events"
    return int(run(["docker", "exec", host.container, "sqlite3", "-readonly", DATABASE, query]))


def count_lost_writes(state: Path, url: str, host: hosts.Host, events_before: int, summary: dict[str, Any]) -> int:
    """How many acknowledged writes are not there.

    The real image has no numbered rows: there each write is a failed login, which Opstage audits.
    """
    if summary["mode"] == NUMBERED:
        result = traffic.check(state, url=url)
        return len(result["missing"]) + len(result["reissued"])
    return max(0, events_before + int(summary["acknowledged"]) - count_audit_events(host))


def newest_recovery_point(host: hosts.Host) -> str:
    """The recovery point that a rollback would use: the last one that the upgrade made."""
    command = "ls -d /var/backups/opstage/opstage/*-pre-upgrade | tail -n 1"
    return run(["docker", "exec", host.container, "sh", "-c", command]).strip()


def report(summary: dict[str, Any], lost: int, point: str, url: str, seconds: float) -> str:
    """The summary as text."""
    lines = {
        "versions": " -> ".join(summary["versions_seen"]),
        "downtime": f"{summary['downtime_seconds']:.1f} s, as seen by a client that asks every 20 ms",
        "writes": f"{summary['acknowledged']} acknowledged, {lost} lost",
        "recovery point": point,
        "running at": url,
        "roll back": ". .venv/bin/activate; ansible-playbook -i .demo/inventory.yml playbooks/rollback.yml",
        "clean up": "make clean",
        "took": f"{seconds:.0f} s",
    }
    return "\n" + "".join(f"{name + ':':16} {text}\n" for name, text in lines.items())


if __name__ == "__main__":
    raise SystemExit(main())
