# SPDX-License-Identifier: GPL-3.0-or-later
"""The thin module around retention: what it returns and shows, what check mode does, how a failure ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import compose_command
import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.capsule.opstage.plugins.module_utils import journal
from ansible_collections.capsule.opstage.plugins.modules import recovery_point_retention
from sqlite_testing import make_database, names_in

Run = Callable[..., "dict[str, Any]"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the module's main() in this process and return what it answers."""
    monkeypatch.setattr(journal, "STATE_ROOT", str(tmp_path / "state"))
    defaults = {"project": "opstage", "root": str(tmp_path / "backups"), "console_copies": str(tmp_path / "copies")}

    def run_module(check_mode: bool = False, **options: object) -> dict[str, Any]:
        with (
            patch_module_args({**defaults, **options, "_ansible_check_mode": check_mode}),
            pytest.raises(SystemExit) as ended,
        ):
            recovery_point_retention.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(result.get("failed")) == bool(ended.value.code)
        return result

    return run_module


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The module's own warnings; Ansible's list of them is one for the whole process."""
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    return warnings


@pytest.fixture
def copies(tmp_path: Path) -> list[Path]:
    """Copies that the console left, of now and a day, and two and three days ago, the newest first."""
    (tmp_path / "copies").mkdir()
    return [
        make_database(tmp_path / "copies" / f"opstage-{stamp(timedelta(days=days))}.db", 1) for days in (0, 1, 2, 3)
    ]


def stamp(ago: timedelta) -> str:
    return (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H-%M-%S-000Z")


def test_check_then_real_then_again(run: Run, copies: list[Path], warned: list[str]) -> None:
    policy = {"last": 1, "within": "36h"}
    size = sum(path.lstat().st_blocks * 512 for path in copies[2:])
    predicted = run(check_mode=True, policy=policy)
    assert names_in(copies[0].parent) == sorted(path.name for path in copies)
    real = run(policy=policy)
    assert names_in(copies[0].parent) == sorted(path.name for path in copies[:2])
    assert real == predicted
    assert (real["changed"], real["freed"]) == (True, size)
    assert real["kept"] == [
        {
            "id": copies[0].name,
            "reasons": ["the newest that is verified", "last 1", "within 36h of the newest"],
        },
        {"id": copies[1].name, "reasons": ["within 36h of the newest"]},
    ]
    assert real["removed"] == [
        {"id": path.name, "reasons": ["kept by no rule: last 1, within 36h"]} for path in copies[2:]
    ]
    assert warned == []
    again = run(policy=policy)
    assert (again["changed"], again["removed"], again["freed"], again["kept"]) == (False, [], 0, real["kept"])
    assert again["diff"]["before"] == again["diff"]["after"]


def test_the_plan_is_shown(collections_root: Path, tmp_path: Path, copies: list[Path]) -> None:
    """By Ansible itself, to who asks for --check --diff."""
    arguments = {
        "project": "opstage",
        "root": str(tmp_path / "backups"),
        "policy": {"last": 2},
        "console_copies": str(copies[0].parent),
    }
    completed = subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible"),
            "localhost",
            "--module-name=capsule.opstage.recovery_point_retention",
            f"--args={json.dumps(arguments)}",
            "--check",
            "--diff",
        ],
        cwd=tmp_path,
        env={
            **compose_command.environment(),
            "ANSIBLE_COLLECTIONS_PATH": str(collections_root),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    for line in (
        f"\n {copies[0].name}: the newest that is verified, last 2\n",
        f"\n {copies[1].name}: last 2\n",
        f"\n-{copies[2].name}: kept by no rule: last 2\n",
        f"\n-{copies[3].name}: kept by no rule: last 2\n",
    ):
        assert line in completed.stdout
    assert len(names_in(copies[0].parent)) == 4


def test_what_is_not_counted_is_warned_of(run: Run, copies: list[Path], warned: list[str]) -> None:
    future = make_database(copies[0].with_name(f"opstage-{stamp(timedelta(days=-400))}.db"), 1)
    copies[1].write_bytes(b"")
    result = run(policy={"last": 1})
    assert [entry["id"] for entry in result["kept"]] == [future.name, copies[0].name, copies[1].name]
    assert len(warned) == 2
    assert warned[0].startswith(f"{future.name} is kept, but not counted: from the future: made at ")
    assert warned[1].startswith(f"{copies[1].name} is kept, but not counted: not verified: ")


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({}, "The policy is empty"),
        ({"last": 0}, "The policy is empty"),
        ({"daily": -7}, "The policy's daily is -7"),
        ({"within": "1w"}, "'1w' is no span of time"),
    ],
)
def test_a_policy_that_cannot_be_meant(run: Run, copies: list[Path], policy: dict[str, Any], words: str) -> None:
    for check_mode in (True, False):
        failed = run(check_mode=check_mode, policy=policy)["msg"]
        assert failed.startswith(words)
        assert failed.endswith(" Nothing was removed.")
    assert len(names_in(copies[0].parent)) == 4


def test_a_misspelt_rule(run: Run, copies: list[Path]) -> None:
    assert "dayly" in run(policy={"last": 1, "dayly": 7})["msg"]
    assert len(names_in(copies[0].parent)) == 4


def test_a_journal_that_cannot_be_read(run: Run, copies: list[Path], tmp_path: Path) -> None:
    (tmp_path / "backups" / "opstage").mkdir(parents=True)
    (tmp_path / "state" / "opstage" / "journal.jsonl").mkdir(parents=True)
    failed = run(policy={"last": 1})["msg"]
    assert "cannot be read" in failed
    assert failed.endswith(" Nothing was removed.")
    assert len(names_in(copies[0].parent)) == 4


def test_a_removal_that_is_cut_off(run: Run, copies: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: str, dir_fd: int | None = None) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("os.unlink", fail)
        failed = run(policy={"last": 1})["msg"]
    assert failed.startswith("The removal was cut off: ")
    assert "Nothing was removed" not in failed
