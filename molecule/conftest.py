# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scenarios' verifications share: an Opstage on a testbed host, and the traffic that it was under."""

from __future__ import annotations

import json
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed.load import ACKNOWLEDGED, MODE, NUMBERED
from testbed.reconcile import compare
from testinfra.host import Host

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = "/opt/opstage"
POINTS = "/var/backups/opstage/opstage"
JOURNAL = "/var/lib/opstage/opstage/journal.jsonl"


@dataclass(frozen=True)
class Opstage:
    """The deployment on one host of the testbed; `variables` are those that the scenario gives the host."""

    host: Host
    name: str
    address: str
    variables: dict[str, Any]

    @property
    def traffic(self) -> Path:
        """State folder of the traffic that the host is under."""
        return CHECKOUT / ".testbed" / os.environ["TESTBED_NAME"] / "traffic" / self.name

    @property
    def data_folder(self) -> str:
        inline = self.variables.get("testbed_layout") == "inline"
        return f"{PROJECT}/data" if inline else "/var/lib/docker/volumes/opstage_opstage-data/_data"

    @property
    def database(self) -> str:
        return f"{self.data_folder}/opstage.db"

    def output(self, command: str) -> str:
        """What a command on the host prints; it must end well."""
        return str(self.host.check_output(command))

    def query(self, database: str, statement: str) -> str:
        """The answer of the host's own sqlite3 command, which opens the database read-only."""
        return self.output(f'sqlite3 -readonly "{database}" "{statement}"').strip()

    def points(self, reason: str, method: str | None = None) -> list[str]:
        """Recovery points made for `reason`, oldest first."""
        found = self.output(f"find {POINTS} -maxdepth 1 -name '*-{reason}' | sort").split()
        return [path for path in found if method in (None, self.manifest(path)["method"])]

    def manifest(self, point: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(self.output(f"cat {point}/manifest.json"))
        return manifest

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output(f"cat {JOURNAL}").splitlines()]

    @property
    def written_table(self) -> str:
        """The table that clients' writes go to: the real image has no endpoint for numbered rows, but audits logins."""
        mode = (self.traffic / MODE).read_text(encoding="ascii")
        return "standin_writes" if mode == NUMBERED else "audit_events"

    def written(self, database: str) -> list[str]:
        """The rows of that table, in order."""
        return self.query(database, f"select * from {self.written_table} order by rowid").splitlines()

    def acknowledged(self) -> list[int]:
        """Numbers of the writes that this host's clients were told are there."""
        return [int(line) for line in (self.traffic / ACKNOWLEDGED).read_text(encoding="ascii").split()]

    def lost_writes(self, database: str, until: int | None = None) -> list[int]:
        """Numbers of acknowledged writes, up to `until`, that a database has not; of logins it has how many."""
        acknowledged = [number for number in self.acknowledged() if until is None or number <= until]
        rows = self.written(database)
        if self.written_table == "audit_events":
            return acknowledged[len(rows) :]
        result = compare(acknowledged, [int(row.split("|")[0]) for row in rows])
        assert acknowledged
        return sorted({*result["missing"], *result["reissued"]})

    def get(self, path: str) -> dict[str, Any]:
        """`data` of the answer to a GET, asked as a client does."""
        with urllib.request.urlopen(f"http://{self.address}:8080{path}", timeout=10) as response:
            answer = json.load(response)
        assert answer["success"] is True
        data: dict[str, Any] = answer["data"]
        return data


@pytest.fixture
def opstage(host: Host) -> Opstage:
    scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
    group = yaml.safe_load((scenario / "inventory.yml").read_text(encoding="utf-8"))["opstage"]
    standin = group.get("children", {}).get("standin", {}).get("hosts", {})
    known = host.ansible.get_variables()
    name = known["inventory_hostname"]
    own = {**group.get("hosts", {}), **standin}[name]
    return Opstage(host, name, known["ansible_host"], {**group["vars"], **own})


@pytest.fixture
def changed_lines(opstage: Opstage) -> Any:
    """A function: the lines by which the project's files differ from their copies in a recovery point."""

    def compare(point: str) -> list[str]:
        result = opstage.host.run(
            f"diff --text {point}/project/compose.yml {PROJECT}/compose.yml;"
            f" diff --text {point}/project/.env {PROJECT}/.env"
        )
        return [line.rstrip("\r") for line in result.stdout.splitlines() if line[:1] in "<>"]

    return compare
