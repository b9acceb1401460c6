# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of real hosts that are reached over SSH, each with an Opstage of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed.command import down, stop, up
from testbed.engine import answers, exists
from testbed.inventory import folder_of
from testbed.machine import CACHE, CHECKOUT
from testbed.process import run_logged
from testbed.registry import CONTAINER

NAME = "fleet"
OLD, NEW = "0.2.0", "0.3.0"
ANSIBLE_PLAYBOOK = str(CHECKOUT / ".venv" / "bin" / "ansible-playbook")
BACKUP, STATUS, UPGRADE, ROLLBACK = "backup.yml", "status.yml", "upgrade.yml", "rollback.yml"
VARIABLES: dict[str, dict[str, Any]] = {
    # One wave, as with the others: waves would wait for each other.
    UPGRADE: {"opstage_version": NEW, "opstage_upgrade_acknowledge": NEW, "opstage_serial": "100%"},
}


@contextmanager
def real_hosts(count: int) -> Iterator[Path]:
    """Have so many hosts with an Opstage for the block; yields their inventory. Afterwards they are gone.

    So is the rest of the testbed, registry and Engine, where it was not there before.
    """
    was_there = answers() and exists("container", CONTAINER)
    try:
        up(NAME, count, OLD)
        inventory = folder_of(NAME) / "inventory.yml"
        variables = json.dumps({"testbed_fresh": True, "testbed_version": OLD})
        deploy = [ANSIBLE_PLAYBOOK, "-i", str(inventory), "tests/testbed/deploy.yml", "-e", variables]
        run_logged(deploy, CACHE / "fleet-deploy.log")
        yield inventory
    finally:
        down(NAME)
        if not was_there:
            stop()


def playbook(inventory: Path, path: Path, forks: int, limit: str) -> list[str]:
    """The command that runs a playbook on the hosts that `limit` names."""
    variables = json.dumps(VARIABLES.get(path.name, {}))
    return [
        *(ANSIBLE_PLAYBOOK, "-i", str(inventory), "--forks", str(forks), "--limit", limit),
        *(str(path), "-e", variables),
    ]
