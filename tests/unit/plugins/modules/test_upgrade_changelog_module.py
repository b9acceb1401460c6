# SPDX-License-Identifier: GPL-3.0-or-later
"""The thin module around changelogs: what it returns, logs and keeps to itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.capsule.opstage.plugins.modules import upgrade_changelog
from opstage_testing import serving, unused_url

Run = Callable[..., "dict[str, Any]"]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes to the system's log."""
    lines: list[str] = []

    def log(_module: AnsibleModule, msg: str, log_args: dict[str, Any] | None = None) -> None:
        lines.append(f"{msg} {log_args}")

    monkeypatch.setattr(AnsibleModule, "log", log)
    return lines


@pytest.fixture
def run(logged: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the module's main() in this process and return what it answers."""
    monkeypatch.setenv("no_proxy", "*")

    def run_module(check_mode: bool = False, **options: object) -> dict[str, Any]:
        with patch_module_args({**options, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit) as ended:
            upgrade_changelog.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(result.get("failed")) == bool(ended.value.code)
        return result

    return run_module


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_folder(run: Run, tmp_path: Path, check_mode: bool) -> None:
    (tmp_path / "0.3.0.md").write_text("three")
    result = run(check_mode, current="0.2.0", versions=["0.4.0", "0.2.0", "0.3.0"], source=str(tmp_path))
    assert result["changed"] is False
    assert result["changelogs"][0] == {
        "version": "0.3.0",
        "text": "three",
        "found": True,
        "source": f"{tmp_path}/0.3.0.md",
    }
    assert [changelog["found"] for changelog in result["changelogs"]] == [True, False]
    assert result["missing"] == ["0.4.0"]
    assert "three\n\nOpstage 0.4.0\n=============\n\nNo changelog of 0.4.0 was found at " in result["text"]


def test_by_default_what_was_observed(run: Run) -> None:
    result = run(versions=["0.4.0"])
    assert "bus_events" in result["text"]
    assert result["missing"] == []


def test_no_versions(run: Run) -> None:
    result = run(versions=[], current="0.4.0")
    assert (result["changelogs"], result["missing"]) == ([], [])
    assert result["text"] == "There is no newer version whose changelog is to be read."


@pytest.mark.parametrize("versions", [["edge"], ["0.3"]])
def test_what_is_no_version(run: Run, versions: list[str]) -> None:
    assert f"{versions[0]!r} is no version of Opstage" in run(versions=versions)["msg"]


def test_a_folder_that_does_not_exist(run: Run, tmp_path: Path) -> None:
    assert f"{tmp_path}/none: the folder cannot be read" in run(versions=["0.3.0"], source=f"{tmp_path}/none")["msg"]


def test_secrets_are_nowhere(run: Run, logged: list[str]) -> None:
    with serving({"/0.3.0?token=hush": (200, {}, b"three")}) as service:
        source = f"{service.url.replace('//', '//user:secret@')}/{{version}}?token=hush"
        results = [run(versions=["0.3.0"], source=source), run(versions=["0.4.0"], source=source)]
    assert [len(result["missing"]) for result in results] == [0, 1]
    unreachable = unused_url().replace("//", "//user:secret@")
    results += [run(versions=["0.3.0"], source=f"{unreachable}/{{version}}?token=hush")]
    results += [run(versions=["0.3.0"], source="http://user:secret/hush@127.0.0.1/")]
    assert [bool(result.get("failed")) for result in results] == [False, False, True, True]
    shown = json.dumps(results) + "".join(logged)
    assert "secret" not in shown
    assert "hush" not in shown
    assert any("0.3.0" in line for line in logged)
