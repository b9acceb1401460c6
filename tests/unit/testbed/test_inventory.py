# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of testbeds, and what is written for Ansible."""

from __future__ import annotations

import io
import json
import stat
import tarfile
from pathlib import Path

import pytest
from testbed import inventory
from testbed.hosts import Host, authorized_keys, check_name
from testbed.process import TestbedError


@pytest.mark.parametrize("name", ["", "../x", "A", "1", "a b", "a" * 21, "-a"])
def test_a_name_that_cannot_be_part_of_a_path_is_refused(name: str) -> None:
    with pytest.raises(TestbedError, match="is no name for a testbed"):
        check_name(name)


def test_a_usual_name_is_taken() -> None:
    check_name("molecule-faulty")


def test_the_inventory_leads_to_the_hosts_and_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "STATE", tmp_path)
    (tmp_path / "x").mkdir()
    keys = {Host("x", number, f"192.0.2.{number}"): f"ssh-ed25519 key-of-{number}" for number in (2, 1)}
    path = inventory.write_inventory("x", keys, "0.4.0")
    content = json.loads("".join(line for line in path.read_text().splitlines(True) if not line.startswith("#")))
    assert content["opstage"]["hosts"] == {"x-1": {"ansible_host": "192.0.2.1"}, "x-2": {"ansible_host": "192.0.2.2"}}
    assert content["opstage"]["vars"]["testbed_version"] == "0.4.0"
    known = (tmp_path / "x" / "known_hosts").read_text()
    assert known == "192.0.2.1 ssh-ed25519 key-of-1\n192.0.2.2 ssh-ed25519 key-of-2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_control_sockets_have_short_paths() -> None:
    option = next(option for option in inventory.ssh_options("a" * 20) if option.startswith("ControlPath="))
    longest = option.removeprefix("ControlPath=").replace("%C", "0" * 40) + ".0123456789abcdef"
    assert len(longest) < 100


def test_the_authorized_keys_have_the_modes_that_sshd_asks_for() -> None:
    with tarfile.open(fileobj=io.BytesIO(authorized_keys("ssh-ed25519 AAAA\n"))) as archive:
        entries = {entry.name: (oct(entry.mode), entry.uid) for entry in archive}
    assert entries == {".ssh": ("0o700", 0), ".ssh/authorized_keys": ("0o600", 0)}
