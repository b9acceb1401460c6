# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules as a user runs them: by Ansible, on a real connection to this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlite_testing import (
    HOLDER,
    fingerprint,
    killed_deployment,
    make_database,
    names_in,
    numbers_in,
    running,
    writing,
)

Run = Callable[..., "dict[str, Any]"]

PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - capsule.opstage.{module}: {options}
"""


@pytest.fixture
def run(tmp_path: Path, collections_root: Path) -> Run:
    """Run a module as the only task of a playbook and return its result."""

    settings = tmp_path / "ansible.cfg"
    settings.write_text("[defaults]\n")

    def run_module(module: str, *arguments: str, **options: object) -> dict[str, Any]:
        playbook = tmp_path / "playbook.yml"
        playbook.write_text(PLAYBOOK.format(module=module, options=json.dumps(options)))
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        variables = json.dumps({"ansible_python_interpreter": sys.executable})
        ended = subprocess.run(
            [program, "-i", "localhost,", "-c", "local", "-e", variables, str(playbook), *arguments],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(collections_root),
                "ANSIBLE_CONFIG": str(settings),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        result = json.loads(ended.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]
        assert bool(result.get("failed")) == (ended.returncode != 0)
        return dict(result)

    return run_module


def test_backup_of_a_busy_database(tmp_path: Path, run: Run) -> None:
    (tmp_path / "backups").mkdir()
    with writing(tmp_path / "opstage.db", rate=200, rows=50) as writer:
        acknowledged = int(writer.lines[-1])
        result = run("sqlite_backup", src=str(tmp_path / "opstage.db"), dest=str(tmp_path / "backups"))
    copy = Path(result["dest"])
    assert names_in(tmp_path / "backups") == [copy.name]
    numbers = numbers_in(copy)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= acknowledged
    assert result["changed"]
    assert (result["method"], result["source_journal_mode"], result["integrity"]) == ("raw", "wal", "ok")
    assert result["size"] == result["page_size"] * result["page_count"] == copy.stat().st_size
    assert result["sha256"] == fingerprint(copy)[copy.name][0]
    assert (result["user_version"], result["application_id"], result["mode"]) == (0, 0, "0600")
    assert 0 < result["elapsed"] < 30


def test_backup_in_check_mode_says_what_would_happen(tmp_path: Path, run: Run) -> None:
    source, dest = make_database(tmp_path / "live.db"), tmp_path / "copy.db"
    planned = run("sqlite_backup", "--check", src=str(source), dest=str(dest))
    assert (planned["changed"], planned["dest"]) == (True, str(dest))
    assert not dest.exists()
    make_database(dest)
    before = fingerprint(dest)
    existing = run("sqlite_backup", "--check", src=str(source), dest=str(dest))
    assert (existing["failed"], existing["reason"]) == (True, "exists")
    assert run("sqlite_backup", "--check", src=str(source), dest=str(dest), overwrite=True)["changed"]
    assert fingerprint(dest) == before


def test_backup_with_attributes_and_a_warning(tmp_path: Path, run: Run) -> None:
    source = make_database(
        tmp_path / "live.db",
        5,
        "WAL",
        "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
        "CREATE TABLE children (parent INTEGER REFERENCES parents (id))",
        "INSERT INTO children VALUES (1)",
    )
    dest = tmp_path / "copy.db"
    result = run(
        "sqlite_backup", src=str(source), dest=str(dest), mode="0640", owner="100", group="101", verify="quick"
    )
    assert fingerprint(dest)["copy.db"][2:] == (100, 101, 0o100640)
    assert result["foreign_key_violations"] == 1
    assert any("1 rows with foreign keys" in warning for warning in result["warnings"])


def test_backup_that_fails_gives_one_clear_message(tmp_path: Path, run: Run) -> None:
    result = run("sqlite_backup", src=str(tmp_path / "none.db"), dest=str(tmp_path / "copy.db"))
    assert (result["failed"], result["reason"]) == (True, "missing")
    assert f"there is no file at {tmp_path}/none.db" in result["msg"]


def test_restore_of_a_killed_deployment(tmp_path: Path, run: Run) -> None:
    backup, path = make_database(tmp_path / "backup.db", 7), tmp_path / "opstage.db"
    written = killed_deployment(path)
    os.chown(path, 100, 101)
    options: dict[str, Any] = {"src": str(backup), "dest": str(path), "backup": True}
    before = fingerprint(path, Path(f"{path}-wal"))
    assert run("sqlite_restore", "--check", **options)["changed"]
    assert fingerprint(path, Path(f"{path}-wal")) == before
    result = run("sqlite_restore", **options, mode="0660", sha256=fingerprint(backup)["backup.db"][0])
    assert (result["changed"], result["size"]) == (True, backup.stat().st_size)
    assert numbers_in(path) == list(range(1, 8))
    assert not os.path.exists(f"{path}-wal")
    assert fingerprint(path)["opstage.db"][2:] == (100, 101, 0o100660)
    assert numbers_in(Path(result["backup_file"])) == list(range(1, written + 1))
    again = run("sqlite_restore", **options, mode="0660")
    assert (again["changed"], again["backup_file"]) == (False, None)


def test_restore_under_a_running_service(tmp_path: Path, run: Run) -> None:
    backup, path = make_database(tmp_path / "backup.db", 7), make_database(tmp_path / "opstage.db", 9, "WAL")
    with running(HOLDER, str(path), "SELECT count(*) FROM entries") as holder:
        result = run("sqlite_restore", src=str(backup), dest=str(path))
        checked = run("sqlite_restore", "--check", src=str(backup), dest=str(path))
    assert (result["failed"], result["reason"]) == (True, "in use")
    assert f"process {holder.pid}" in result["msg"]
    assert checked["changed"]
    assert f"process {holder.pid}" in checked["warnings"][0]
    assert numbers_in(path) == list(range(1, 10))


def test_restore_for_an_unknown_user(tmp_path: Path, run: Run) -> None:
    backup = make_database(tmp_path / "backup.db", 7)
    result = run("sqlite_restore", src=str(backup), dest=str(tmp_path / "opstage.db"), owner="nobody-of-that-name")
    assert (result["failed"], result["reason"]) == (True, "missing")
    assert not (tmp_path / "opstage.db").exists()
