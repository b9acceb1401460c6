# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules say of recovery points beside the one that is sought."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.modules import recovery_point, recovery_point_info
from sqlite_testing import make_database


@pytest.fixture
def deployment(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "compose.yml").write_text("services: {}\n")
    return {
        "project": "opstage",
        "project_dir": str(tmp_path),
        "config_files": [str(tmp_path / "compose.yml")],
        "environment_files": [],
        "service": "web",
        "image": "repo:0.2.0",
        "tag": "0.2.0",
        "digest": None,
        "image_id": "sha256:" + "1" * 64,
        "version": "0.2.0",
        "version_source": "label",
        "edition": None,
        "database": str(make_database(tmp_path / "opstage.db", 20, "WAL")),
    }


@pytest.fixture
def points(deployment: dict[str, Any], tmp_path: Path) -> list[RecoveryPoint]:
    root = str(tmp_path / "backups")
    return [create_recovery_point(deployment, root, "manual", "online", "0.1.0") for _number in range(2)]


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What modules warn of; Ansible collects that for the process, which runs many of them here."""
    texts: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: texts.append(text))
    return texts


def run(module: Any, capsys: pytest.CaptureFixture[str], **options: object) -> dict[str, Any]:
    with patch_module_args(options), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def latest(points: list[RecoveryPoint], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    root = str(Path(points[0].path).parents[1])
    return run(recovery_point_info, capsys, project="opstage", recovery_point="latest", root=root, version="0.2.0")


def test_a_scheduled_one(deployment: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"deployment": deployment, "root": str(tmp_path / "backups"), "reason": "scheduled"}
    made = run(recovery_point, capsys, **options)
    assert made["path"].endswith("Z-scheduled")
    assert made["manifest"]["database"]["tables"] == {"entries": {"columns": ["number", "text"], "rows": 20}}


def test_no_warning_where_there_is_no_reason(
    points: list[RecoveryPoint], warnings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = latest(points, capsys)
    assert (found["path"], warnings) == (points[1].path, [])


def test_what_is_passed_over_is_a_warning(
    points: list[RecoveryPoint], warnings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(points[1].path) / "manifest.json").write_text("{}")
    found = latest(points, capsys)
    assert found["path"] == points[0].path
    (warning,) = warnings
    assert f"Passed over for `latest`: {points[1].path} is damaged: its manifest.json is not valid" in warning


def test_nothing_is_changed_where_none_is_left(points: list[RecoveryPoint], capsys: pytest.CaptureFixture[str]) -> None:
    for point in points:
        (Path(point.path) / "manifest.json").unlink()
    failed = latest(points, capsys)
    assert failed["failed"]
    assert "holds no recovery point that can be used" in failed["msg"]
    assert failed["msg"].endswith("Nothing was changed.")
