# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin around changelogs: what it returns and what it keeps to itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible.utils.display import Display
from ansible_collections.capsule.opstage.plugins.action.upgrade_changelog import ActionModule
from ansible_collections.capsule.opstage.plugins.modules import upgrade_changelog
from opstage_testing import serving, unused_url

Run = Callable[..., "dict[str, Any]"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the action plugin in this process and return what it answers."""
    monkeypatch.setenv("no_proxy", "*")

    def run_action(check_mode: bool = False, **options: object) -> dict[str, Any]:
        task = SimpleNamespace(args=options, check_mode=check_mode, async_val=0, action="upgrade_changelog", diff=False)
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/nowhere"))
        action = ActionModule(task, connection, SimpleNamespace(), None, None, None)
        return action.run(None, {})

    return run_action


def test_it_is_none_for_a_host(capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args({"versions": []}), pytest.raises(SystemExit):
        upgrade_changelog.main()
    assert "runs on the controller" in json.loads(capsys.readouterr().out)["msg"]


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


def test_secrets_are_nowhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(Display, "display", lambda _display, text, *_more, **_named: shown.append(text))
    with serving({"/0.3.0?token=hush": (200, {}, b"three")}) as service:
        source = f"{service.url.replace('//', '//user:secret@')}/{{version}}?token=hush"
        results = [run(versions=["0.3.0"], source=source), run(versions=["0.4.0"], source=source)]
    assert [len(result["missing"]) for result in results] == [0, 1]
    unreachable = unused_url().replace("//", "//user:secret@")
    results += [run(versions=["0.3.0"], source=f"{unreachable}/{{version}}?token=hush")]
    results += [run(versions=["0.3.0"], source="http://user:secret/hush@127.0.0.1/")]
    assert [bool(result.get("failed")) for result in results] == [False, False, True, True]
    everything = json.dumps(results) + "".join(shown)
    assert "secret" not in everything
    assert "hush" not in everything
