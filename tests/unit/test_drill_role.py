# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts of a play the role drills; what it does there is replaced by a word."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROLE = Path(__file__).resolve().parents[2] / "roles" / "drill"
HOSTS = ["a", "b", "c", "d"]


@pytest.fixture
def playbook(tmp_path: Path) -> Path:
    shutil.copytree(ROLE, tmp_path / "roles" / "drill")
    drilled = '- ansible.builtin.debug: {msg: "drilled {{ inventory_hostname }}"}\n'
    (tmp_path / "roles" / "drill" / "tasks" / "drill.yml").write_text(drilled)
    playbook = tmp_path / "playbook.yml"
    playbook.write_text("- {hosts: all, gather_facts: false, roles: [drill]}\n")
    return playbook


def run(playbook: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("ansible-playbook")
    return subprocess.run(
        [program, "--inventory", ",".join(HOSTS), "--connection", "local", *options, playbook],
        capture_output=True,
        text=True,
        check=False,
        cwd=playbook.parent,
        env={**os.environ, "ANSIBLE_LOCAL_TEMP": str(playbook.parent / "local")},
    )


def drilled(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(re.findall(r"drilled (\w)", done.stdout))


def test_all_where_no_sample_is_asked_for(playbook: Path) -> None:
    assert drilled(run(playbook)) == HOSTS


def test_a_sample_is_one_for_all_hosts(playbook: Path) -> None:
    assert len(drilled(run(playbook, "--extra-vars", "opstage_drill_sample=2"))) == 2


@pytest.mark.parametrize("size", [0, -1])
def test_what_is_no_sample(playbook: Path, size: int) -> None:
    failed = run(playbook, "--extra-vars", json.dumps({"opstage_drill_sample": size}))
    assert failed.returncode != 0
    assert f"opstage_drill_sample must be 1 or more, found {size}." in failed.stdout
