# SPDX-License-Identifier: GPL-3.0-or-later
"""The module as Ansible runs it; what it can and cannot change is tested with its core."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_command
import pytest

COMPOSE = b"services:\r\n  opstage:\r\n    image: 'repo:${OPSTAGE_TAG:-0.1.0}' # hunter2\r\n    env_file: .env\r\n"
ENVIRONMENT = b"PASSWORD=hunter2\r\nOPSTAGE_TAG=0.2.0 # hunter2\r\n"
DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "compose.yml").write_bytes(COMPOSE)
    (folder / ".env").write_bytes(ENVIRONMENT)
    return folder


def run_module(collections_root: Path, folder: Path, *flags: str, **options: object) -> tuple[dict[str, Any], str]:
    """Return the module's result, and everything that Ansible wrote."""
    arguments = {"project_dir": str(folder), "service": "opstage", "tag": "0.3.0", **options}
    ansible = [
        str(Path(sys.executable).parent / "ansible"),
        "localhost",
        "--module-name",
        "capsule.opstage.compose_image",
    ]
    environment = {
        **compose_command.environment(),
        "ANSIBLE_COLLECTIONS_PATH": str(collections_root),
        "ANSIBLE_HOME": str(folder.parent / "ansible"),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    completed = subprocess.run(
        [*ansible, "--args", json.dumps(arguments), *flags],
        cwd=folder.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(completed.stdout[completed.stdout.index("{") :])
    return document["plays"][0]["tasks"][0]["hosts"]["localhost"], completed.stdout + completed.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_check_then_real_then_again(collections_root: Path, folder: Path) -> None:
    predicted, output = run_module(collections_root, folder, "--check", "--diff")
    assert contents(folder) == {"compose.yml": COMPOSE, ".env": ENVIRONMENT}
    assert "hunter2" not in output
    real, output = run_module(collections_root, folder, "--diff")
    assert contents(folder) == {"compose.yml": COMPOSE, ".env": ENVIRONMENT.replace(b"0.2.0", b"0.3.0")}
    assert "hunter2" not in output
    assert predicted == real
    header = f"{folder}/.env:2"
    assert real["diff"] == {
        "before_header": header,
        "after_header": header,
        "before": "OPSTAGE_TAG=0.2.0\n",
        "after": "OPSTAGE_TAG=0.3.0\n",
    }
    expected = {
        "changed": True,
        "image": "repo:0.3.0",
        "previous_image": "repo:0.2.0",
        "tag": "0.3.0",
        "previous_tag": "0.2.0",
        "previous_digest": None,
        "file": f"{folder}/.env",
        "line": 2,
        "variable": "OPSTAGE_TAG",
    }
    assert {name: real[name] for name in expected} == expected
    again, _output = run_module(collections_root, folder, "--diff")
    assert (again["changed"], again["diff"]["before"]) == (False, again["diff"]["after"])


def test_all_options(collections_root: Path, folder: Path) -> None:
    (folder / "live.env").write_bytes(b"OPSTAGE_TAG=0.2.0\n")
    chosen = {"files": ["compose.yml"], "env_files": ["live.env"], "project_name": "live", "digest": DIGEST}
    result, _output = run_module(collections_root, folder, **chosen)
    assert (result["image"], result["file"]) == (f"repo:0.3.0@{DIGEST}", f"{folder}/live.env")
    assert contents(folder) == {
        "compose.yml": COMPOSE,
        ".env": ENVIRONMENT,
        "live.env": f"OPSTAGE_TAG=0.3.0@{DIGEST}\n".encode(),
    }


def test_a_refusal_fails_with_one_message_and_changes_nothing(collections_root: Path, folder: Path) -> None:
    (folder / "compose.yml").write_bytes(COMPOSE + b"    labels: {version: 'hunter2-${OPSTAGE_TAG}'}\r\n")
    before = contents(folder)
    result, output = run_module(collections_root, folder)
    assert result["failed"] is True
    assert result["msg"].startswith(f"{folder}/.env:2: changing the variable OPSTAGE_TAG here would also change")
    assert "services.opstage.labels.version" in result["msg"]
    assert "hunter2" not in output
    assert contents(folder) == before
