# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd is asked for around an upgrade that is to be confirmed; molecule has a real timer that fires."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import journal
from ansible_collections.capsule.opstage.plugins.module_utils.journal import append_entry, journal_path, read_entries
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_confirmation import (
    Confirmation,
    ConfirmationError,
    cancel,
    confirm,
    set_timer,
)

PROGRAM = """#!/bin/sh
echo "${0##*/} $*" >>'{folder}/calls'
cat '{folder}/answer-'"$1" 2>/dev/null
test ! -e '{folder}/fails-'"${0##*/}"
"""
DEPLOYMENT = {
    "project": "opstage",
    "project_dir": "/opt/my opstage",
    "service": "web",
    "url": "http://127.0.0.1:8080",
    "ca_file": None,
}


class Systemd:
    """`systemctl` and `systemd-run` that note what they are asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("systemctl", "systemd-run"):
            (folder / name).write_text(PROGRAM.replace("{folder}", str(folder)))
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        self.says("is-active", "inactive")

    def says(self, verb: str, answer: str) -> None:
        (self.folder / f"answer-{verb}").write_text(answer + "\n")

    def fails(self, program: str) -> None:
        (self.folder / f"fails-{program}").write_text("")

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setattr(journal, "STATE_ROOT", str(tmp_path / "state"))
    (tmp_path / "state" / "opstage").mkdir(parents=True, mode=0o700)
    return Systemd(tmp_path / "bin", monkeypatch)


@pytest.fixture
def command(tmp_path: Path) -> Path:
    return tmp_path / "state" / "opstage" / "opstage-ops"


def wanted() -> Confirmation:
    return Confirmation(DEPLOYMENT, "the-run", 10, "/backups", 60, sys.executable)


def finished(operation: str = "upgrade", run: str = "the-run") -> None:
    append_entry(journal_path("opstage"), operation, "finished", run, {})


def test_the_timer(systemd: Systemd, command: Path) -> None:
    set_timer(wanted())
    assert systemd.calls[:2] == [
        "systemctl stop opstage-confirm-opstage.timer",
        "systemctl reset-failed opstage-confirm-opstage.service",
    ]
    setting = systemd.calls[2]
    assert setting.startswith("systemd-run --unit=opstage-confirm-opstage --on-active=10min ")
    assert setting.endswith(
        f"-- {sys.executable} -I {command} rollback --unless-confirmed the-run --project opstage "
        "--project-dir /opt/my opstage --service web --url http://127.0.0.1:8080 --root /backups --health-timeout 60"
    )
    assert os.access(command, os.X_OK)
    set_timer(replace(wanted(), deployment={**DEPLOYMENT, "ca_file": "/etc/ca.pem"}))
    assert systemd.calls[-1].endswith(" --health-timeout 60 --ca-file /etc/ca.pem")


def test_without_a_timer_there_is_no_upgrade(systemd: Systemd, command: Path) -> None:
    systemd.fails("systemd-run")
    with pytest.raises(ConfirmationError, match="No timer could be set"):
        set_timer(wanted())
    assert not command.exists()


def test_without_systemd_there_is_no_upgrade(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfirmationError, match="The host needs systemd"):
        set_timer(wanted())


def test_confirmed(systemd: Systemd, command: Path) -> None:
    set_timer(wanted())
    finished()
    confirm("opstage", "the-run")
    assert systemd.calls[-2:] == [
        "systemctl stop opstage-confirm-opstage.timer",
        "systemctl is-active opstage-confirm-opstage.service",
    ]
    entry = read_entries(journal_path("opstage"))[-1]
    assert (entry["operation"], entry["status"], entry["run"]) == ("upgrade", "confirmed", "the-run")
    assert not command.exists()


def test_too_late_while_it_is_undone(systemd: Systemd) -> None:
    finished()
    systemd.says("is-active", "activating")
    with pytest.raises(ConfirmationError, match="the host undoes it at this moment"):
        confirm("opstage", "the-run")
    with pytest.raises(ConfirmationError, match="the host undoes it at this moment"):
        cancel("opstage")


@pytest.mark.parametrize("last", [("rollback", "another"), ("upgrade", "another")])
def test_too_late_when_it_was_undone(systemd: Systemd, last: tuple[str, str]) -> None:
    finished()
    finished(*last)
    with pytest.raises(ConfirmationError, match="the host has undone it"):
        confirm("opstage", "the-run")
    assert read_entries(journal_path("opstage"))[-1]["status"] == "finished"


def test_cancelled(systemd: Systemd, command: Path) -> None:
    set_timer(wanted())
    cancel("opstage")
    assert systemd.calls[-1] == "systemctl is-active opstage-confirm-opstage.service"
    assert not command.exists()
