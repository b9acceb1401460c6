# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks of the roles that send a recovery point away and bring it back, on this host, with the real restic."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from sqlite_testing import make_database

CHECKOUT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse"
SECRET = "SECRET_OF_THE_PROJECT"
HOST = "web1"

# In the place of ssh: runs the command, its last argument, here.
SSH = """#!/bin/sh
for command; do :; done
exec sh -c "$command"
"""


@pytest.fixture
def point(tmp_path: Path) -> RecoveryPoint:
    """Its database is larger than a piece."""
    (tmp_path / "compose.yml").write_text("services: {}\n")
    (tmp_path / "project.env").write_text(f"KEY={SECRET}\n")
    database = make_database(tmp_path / "opstage.db", 30_000, "WAL")
    assert database.stat().st_size > 5 << 20
    deployment = {
        "project": "opstage",
        "project_dir": str(tmp_path),
        "config_files": [str(tmp_path / "compose.yml")],
        "environment_files": [str(tmp_path / "project.env")],
        "service": "web",
        "image": "repo:0.2.0",
        "tag": "0.2.0",
        "digest": None,
        "image_id": "sha256:" + "1" * 64,
        "version": "0.2.0",
        "version_source": "label",
        "edition": None,
        "database": str(database),
    }
    return create_recovery_point(deployment, str(tmp_path / "backups"), "manual", "online", "0.1.0")


def play(
    folder: Path, role: str, tasks: str, variables: dict[str, Any], *options: str, connection: str = "local"
) -> subprocess.CompletedProcess[str]:
    task = {"ansible.builtin.include_role": {"name": f"capsule.opstage.{role}", "tasks_from": tasks}}
    plays = [{"hosts": "all", "gather_facts": False, "become": True, "vars": variables, "tasks": [task]}]
    (folder / "playbook.yml").write_text(yaml.safe_dump(plays))
    (folder / "ssh").write_text(SSH)
    (folder / "ssh").chmod(0o755)
    program = Path(sys.executable).with_name("ansible-playbook")
    environment = {
        "ANSIBLE_SSH_EXECUTABLE": str(folder / "ssh"),
        "ANSIBLE_PIPELINING": "true",
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".collections"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "local"),
        "ANSIBLE_BECOME_METHOD": "su",
        "ANSIBLE_BECOME_ALLOW_SAME_USER": "true",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    command = [str(program), "-vvv", "--inventory", f"{HOST},", "--connection", connection, *options]
    return subprocess.run(
        [*command, str(folder / "playbook.yml")],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )


def send(
    folder: Path, point: RecoveryPoint, *options: str, connection: str = "local", **variables: Any
) -> subprocess.CompletedProcess[str]:
    skipped = {"skipped": True}
    made = {"backup_running": {"path": point.path}, "backup_point": skipped}
    return play(folder, "backup", "send", {**made, **variables}, *options, connection=connection)


def content_of(folder: str | Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [Path(folder), *Path(folder).rglob("*")]
    }


class TestController:
    def test_nothing_of_it_is_shown_on_the_way(self, point: RecoveryPoint, tmp_path: Path) -> None:
        """The connection of ssh shows what a command writes, to whoever asks for so many words."""
        folder = tmp_path / "controller"
        done = send(tmp_path, point, connection="ssh", opstage_fetch_to=str(folder))
        assert done.returncode == 0, done.stdout
        assert content_of(folder / HOST / "opstage" / point.manifest["id"]) == content_of(point.path)
        assert "ESTABLISH SSH CONNECTION" in done.stdout
        for path in Path(point.path).rglob("*.*"):
            assert base64.b64encode(path.read_bytes()[:30]).decode() not in done.stdout, path

    def test_brought(self, point: RecoveryPoint, tmp_path: Path) -> None:
        folder = tmp_path / "controller"
        before = send(tmp_path, point, "--check", opstage_fetch_to=str(folder))
        assert ("changed=1" in before.stdout, folder.exists()) == (True, False), before.stdout
        done = send(tmp_path, point, opstage_fetch_to=str(folder))
        assert done.returncode == 0, done.stdout
        copy = folder / HOST / "opstage" / point.manifest["id"]
        assert content_of(copy) == content_of(point.path)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert os.listdir(copy.parent) == [copy.name]
        assert SECRET not in done.stdout
        again = send(tmp_path, point, opstage_fetch_to=str(folder))
        assert (again.returncode, "changed=0" in again.stdout) == (0, True), again.stdout

    def test_whole_or_not_at_all(self, point: RecoveryPoint, tmp_path: Path) -> None:
        with open(point.database, "r+b") as stream:
            stream.seek(4 << 20)
            stream.write(b"damage")
        folder = tmp_path / "controller"
        failed = send(tmp_path, point, opstage_fetch_to=str(folder))
        assert failed.returncode == 2
        assert "opstage.db came with SHA-256" in failed.stdout
        assert f"{point.path} is as it was on the host" in failed.stdout
        assert os.listdir(folder / HOST / "opstage") == []

    def test_another_one_there_stays(self, point: RecoveryPoint, tmp_path: Path) -> None:
        folder = tmp_path / "controller"
        copy = shutil.copytree(point.path, folder / HOST / "opstage" / point.manifest["id"])
        (Path(copy) / "manifest.json").write_text("{}")
        failed = send(tmp_path, point, opstage_fetch_to=str(folder))
        assert failed.returncode == 2
        assert "is there already, and its manifest.json has SHA-256" in failed.stdout
        assert (Path(copy) / "manifest.json").read_text() == "{}"

    def test_a_relative_folder(self, point: RecoveryPoint, tmp_path: Path) -> None:
        failed = send(tmp_path, point, opstage_fetch_to="controller")
        assert (failed.returncode, "no absolute path" in failed.stdout) == (2, True), failed.stdout


class TestRestic:
    def test_there_and_back(self, point: RecoveryPoint, tmp_path: Path) -> None:
        original = content_of(point.path)
        repository = {
            "opstage_restic_repository": str(tmp_path / "repository"),
            "opstage_restic_password": PASSWORD,
            "opstage_restic_environment": {"RESTIC_PACK_SIZE": "16"},
        }
        sent = send(tmp_path, point, opstage_restic_initialize=True, opstage_restic_retention={"last": 2}, **repository)
        assert sent.returncode == 0, sent.stdout
        shutil.rmtree(tmp_path / "backups")
        back = play(
            tmp_path,
            "restore",
            "stage",
            {
                **repository,
                "opstage_recovery_point": "restic:latest",
                "opstage_backup_root": str(tmp_path / "elsewhere"),
                "restore_creates": True,
                "deployment_discovery": {"deployment": None},
            },
        )
        assert back.returncode == 0, back.stdout
        assert content_of(tmp_path / "elsewhere" / "opstage" / point.manifest["id"]) == original
        assert os.listdir(tmp_path / "elsewhere") == ["opstage"]
        assert PASSWORD not in sent.stdout + sent.stderr + back.stdout + back.stderr

    def test_a_failure_is_loud(self, point: RecoveryPoint, tmp_path: Path) -> None:
        original = content_of(point.path)
        address = "rest:http://keeper:hidden@127.0.0.1:1/"
        failed = send(tmp_path, point, opstage_restic_repository=address, opstage_restic_password=PASSWORD)
        assert failed.returncode == 2
        text = failed.stdout + failed.stderr
        assert f"The recovery point {point.path} was not sent" in text
        assert "It is whole on this host" in text
        assert [secret for secret in (PASSWORD, "hidden", SECRET) if secret in text] == []
        assert content_of(point.path) == original


def test_the_rest_of_a_restore_takes_what_was_brought(tmp_path: Path) -> None:
    variables = {
        "opstage_recovery_point": "restic:latest",
        "restore_from_repository": {"path": "/var/backups/opstage/opstage/x"},
        "restore_creates": False,
        "deployment_discovery": {"deployment": {"project": "opstage"}},
    }
    role = yaml.safe_load((CHECKOUT / "roles" / "restore" / "vars" / "main.yml").read_text())
    defaults = yaml.safe_load((CHECKOUT / "roles" / "restore" / "defaults" / "main.yml").read_text())
    expected = ["restore_wanted == restore_from_repository.path", "restore_is_prepared", "not restore_is_staged"]
    plays = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {**defaults, **role, **variables},
            "tasks": [{"ansible.builtin.assert": {"that": expected}}],
        }
    ]
    (tmp_path / "playbook.yml").write_text(yaml.safe_dump(plays))
    program = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run([program, tmp_path / "playbook.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
