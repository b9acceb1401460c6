# SPDX-License-Identifier: GPL-3.0-or-later
"""The host on which upgrades are timed: an Opstage with a database of a given size, put back before each upgrade."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.database import MEGABYTE
from testbed import hosts, inventory
from testbed.command import down, up
from testbed.demo import BACKGROUND_WRITES_PER_SECOND, DATABASE, FROM, TO
from testbed.engine import data_folder, docker, ensure_engine
from testbed.machine import CHECKOUT, require_root, require_space
from testbed.process import TestbedError, run, run_logged

NAME = "downtime"
LOG = CHECKOUT / ".cache" / "logs" / "downtime.log"
SEED_ROWS = 1000
COPIES_AT_ONCE = 7
"""Room asked for, in databases: the live one and the one that is put back, and what the playbook keeps of it."""
SECONDS_FOR_A_SCRIPT = 600

PROJECT = "/opt/opstage"
JOURNAL = "/var/lib/opstage/opstage/journal.jsonl"
DATA = Path(DATABASE).parent
SAVED = "/var/cache/opstage-downtime"
KEPT_BY_HAND = "/var/backups/by-hand"

COMPOSE = f"docker compose --project-directory {PROJECT}"
CHANGE_TAG = f"sed -i 's/^OPSTAGE_TAG=.*/OPSTAGE_TAG={TO}/' {PROJECT}/.env"
SAVE = f"""
set -e
{COMPOSE} stop
mkdir -p {SAVED}
cp -a {PROJECT} {SAVED}/project
cp -a {DATA} {SAVED}/data
OPSTAGE_TAG={TO} {COMPOSE} pull
"""
BYTES_PER_ROW = 1_133
"""Measured: what one of the rows takes, with its entries in the indexes."""
FILL = f"""
set -e
sqlite3 -batch {SAVED}/data/opstage.db <<SQL
pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -300000;
begin;
with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n <
    ($0 - (select page_count from pragma_page_count) * (select page_size from pragma_page_size)) / {BYTES_PER_ROW})
insert into audit_events (id, workspaceId, actorType, action, targetType, targetId, result, metadata, createdAt)
    select 'aud_' || lower(hex(randomblob(12))), (select id from workspaces), 'AGENT', 'service.reported',
        'capsule_service', 'svc_' || (n % 20), 'SUCCESS', json_object('number', n, 'note', hex(randomblob(400))),
        strftime('%Y-%m-%dT%H:%M:%fZ', 'now') from numbers;
commit;
pragma journal_mode = wal;
SQL
chown 100:101 {SAVED}/data/opstage.db*
"""
PUT_BACK = f"""
set -e
docker ps --all --quiet --filter label=com.docker.compose.project=opstage | xargs --no-run-if-empty docker rm --force
rm -rf {PROJECT} {DATA} {KEPT_BY_HAND} /var/lib/opstage /var/backups/opstage
cp -a {SAVED}/project {PROJECT}
cp -a {SAVED}/data {DATA}
{COMPOSE} up --detach --pull never
sync
"""
UP = f"""
set -e
{CHANGE_TAG}
{COMPOSE} up -d
"""
STOP_COPY_PULL_UP = f"""
set -e
{COMPOSE} stop
mkdir {KEPT_BY_HAND}
cp -a {DATABASE} {DATABASE}-wal {KEPT_BY_HAND}/
sync {KEPT_BY_HAND}/*
{CHANGE_TAG}
{COMPOSE} pull
{COMPOSE} up -d
"""


class BenchHost:
    """The host of the testbed NAME, which must be up, with an Opstage in version FROM and the image of TO."""

    def __init__(self) -> None:
        (self.host,) = hosts.existing(NAME)
        self.url = f"http://{self.host.address}:8080"
        variables = {
            "testbed_fresh": True,
            "testbed_version": FROM,
            "testbed_seed_rows": SEED_ROWS,
            "testbed_writes_per_second": BACKGROUND_WRITES_PER_SECOND,
        }
        self.play("tests/testbed/deploy.yml", variables)
        self.run_script(SAVE)

    def play(self, playbook: str, variables: dict[str, object]) -> None:
        """Run a playbook. Raises TestbedError where it ends red."""
        path = str(inventory.folder_of(NAME) / "inventory.yml")
        command = [ansible_playbook(), "-i", path, str(CHECKOUT / playbook), "-e", json.dumps(variables)]
        run_logged(command, LOG, {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")})

    def run_script(self, script: str, *arguments: str) -> str:
        """What a script on the host prints. Raises CommandError."""
        return docker("exec", self.host.container, "sh", "-c", script, *arguments, timeout=SECONDS_FOR_A_SCRIPT)

    def fill(self, megabytes: int) -> None:
        """Let the database that is put back grow to this size."""
        self.run_script(FILL, str(megabytes * MEGABYTE))

    def put_back(self) -> None:
        """Have the old version serve the old data again, with nothing left of an upgrade or to be written to disk."""
        self.run_script(PUT_BACK)

    def upgrade_plainly(self) -> None:
        """Change the tag, and no more than is needed."""
        self.run_script(UP)

    def upgrade_by_hand(self) -> None:
        """Follow the documented procedure."""
        self.run_script(STOP_COPY_PULL_UP)

    def upgrade_by_playbook(self) -> None:
        """Run the collection's playbook."""
        self.play("playbooks/upgrade.yml", {"opstage_version": TO, "opstage_upgrade_acknowledge": TO})

    def recorded_downtime(self) -> float:
        """The seconds of downtime that the journal says of the last upgrade."""
        entries = [json.loads(line) for line in self.run_script(f"cat {JOURNAL}").splitlines()]
        found = [entry["downtime_seconds"] for entry in entries if "downtime_seconds" in entry]
        if not found:
            raise TestbedError(f"{JOURNAL} says no downtime: {[entry['status'] for entry in entries]}; see {LOG}")
        return float(found[-1])

    def versions(self) -> str:
        """What the times depend on."""
        engine = self.run_script("docker version --format '{{.Server.Version}}'")
        compose = self.run_script("docker compose version --short")
        core = run([ansible_playbook(), "--version"]).splitlines()[0].rpartition("[")[2].rstrip("]")
        return f"{FROM} to {TO}, Docker Engine {engine}, Compose {compose}, ansible-{core}"


def ansible_playbook() -> str:
    """The command that runs playbooks."""
    return str(CHECKOUT / ".venv" / "bin" / "ansible-playbook")


@contextmanager
def bench_host(megabytes: int) -> Iterator[BenchHost]:
    """The host with an Opstage, for databases of up to so many megabytes; gone at the end. Raises TestbedError."""
    require_root()
    ensure_engine()
    require_space(data_folder(), COPIES_AT_ONCE * megabytes * MEGABYTE)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.unlink(missing_ok=True)
    down(NAME)
    try:
        up(NAME, 1, FROM)
        yield BenchHost()
    finally:
        down(NAME)
