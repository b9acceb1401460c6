# SPDX-License-Identifier: GPL-3.0-or-later
"""The module deployment_backup: on the host, and where the service makes the copy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.capsule.opstage.plugins.module_utils import journal
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import (
    find_holder,
    find_process,
    release_lock,
    take_lock,
)
from ansible_collections.capsule.opstage.plugins.modules import deployment_backup
from console_testing import PASSWORD, USERNAME, Console, PrivateAuthority, serving_console
from opstage_testing import RecordedDocker, recorded_container, recorded_image, stopped_deployment
from sqlite_testing import make_database, names_in, numbers_in

Run = Callable[..., "dict[str, Any]"]

PROCESS = find_process(os.getpid())
CLAIMANT = {"user": "somebody", "host": "here", "process": asdict(PROCESS), "token": "0123456789abcdef"}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the module keeps what it remembers of the project."""
    monkeypatch.setattr(journal, "STATE_ROOT", str(tmp_path / "state"))
    return tmp_path / "state" / "opstage"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
    return RecordedDocker(tmp_path / "docker", monkeypatch)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the module warns of."""
    texts: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: texts.append(text))
    return texts


@pytest.fixture
def run(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    usual = {"root": str(tmp_path / "backups"), "claimant": CLAIMANT}

    def run_module(check_mode: bool = False, **options: object) -> dict[str, Any]:
        given = {name: value for name, value in {**usual, **options}.items() if value is not None}
        with patch_module_args({**given, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
            deployment_backup.main()
        output = capsys.readouterr()
        assert PASSWORD not in output.out + output.err
        result: dict[str, Any] = json.loads(output.out)
        return result

    return run_module


@pytest.fixture
def on_host(docker: RecordedDocker, tmp_path: Path) -> Path:
    """A deployment with a database of twenty rows that the host sees; its data folder."""
    return stopped_deployment(docker, tmp_path)


@pytest.mark.usefixtures("on_host")
class TestOnTheHost:
    def test_a_recovery_point(self, run: Run, state: Path) -> None:
        made = run()
        assert (made["changed"], made["unfinished"], made["removed"]) == (True, False, [])
        assert numbers_in(Path(made["database"])) == list(range(1, 21))
        assert (made["manifest"]["method"], made["manifest"]["reason"]) == ("online", "manual")
        assert find_holder(str(state)) is None

    def test_retention(self, run: Run, warnings: list[str], tmp_path: Path) -> None:
        first = Path(run()["path"])
        second = Path(run(retention={"last": 2})["path"])
        planned = run(check_mode=True, retention={"last": 1})
        assert [removed["id"] for removed in planned["removed"]] == [first.name]
        assert first.is_dir()
        made = run(retention={"last": 1, "daily": None})
        assert [removed["id"] for removed in made["removed"]] == [second.name, first.name]
        assert made["diff"]["after"].splitlines()[0].startswith(Path(made["path"]).name)
        assert names_in(tmp_path / "backups" / "opstage") == [Path(made["path"]).name]
        assert warnings == []

    def test_retention_of_the_copies_of_the_console(self, run: Run, on_host: Path, warnings: list[str]) -> None:
        folder = on_host / "backups"
        folder.mkdir()
        copies = [f"opstage-2026-01-0{day}T00-00-00-000Z.db" for day in (1, 2)]
        for name in copies:
            make_database(folder / name, 1, "DELETE")
        assert run(retention={"last": 1})["removed"] == []
        made = run(retention={"last": 2}, prune_console_copies=True)
        assert made["removed"] == []
        made = run(retention={"last": 1}, prune_console_copies=True)
        assert [removed["id"] for removed in made["removed"] if removed["id"].startswith("opstage-")] == copies[:1]
        assert names_in(folder) == copies[1:]
        assert warnings == []

    def test_a_policy_that_cannot_be_followed_is_known_beforehand(self, run: Run, tmp_path: Path) -> None:
        assert "The policy is empty" in run(retention={"last": 0})["msg"]
        assert not (tmp_path / "backups").exists()

    def test_check_mode_makes_nothing(self, run: Run, state: Path, tmp_path: Path) -> None:
        assert run(check_mode=True)["changed"]
        assert not (tmp_path / "backups").exists()
        assert not state.exists()

    @pytest.mark.parametrize("check_mode", [True, False])
    def test_somebody_else_is_at_work(self, run: Run, state: Path, tmp_path: Path, check_mode: bool) -> None:
        take_lock(str(state), "upgrade", "other", "elsewhere", None)
        said = run(check_mode=check_mode)
        assert "upgrade by other from elsewhere" in said["msg"]
        assert said["holder"]["operation"] == "upgrade"
        assert not (tmp_path / "backups").exists()

    def test_a_lock_that_is_taken_over(
        self, run: Run, state: Path, docker: RecordedDocker, warnings: list[str]
    ) -> None:
        lost, _nobody = take_lock(str(state), "upgrade", "other", "elsewhere", None)
        assert run(take_over=lost.token)["changed"]
        assert "taken over from an operation that has ended: upgrade by other" in warnings[0]

    def test_the_lock_has_the_token_that_the_controller_gave(
        self, run: Run, state: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str] = []

        def release(folder: str, token: str) -> bool:
            holder = find_holder(folder)
            seen.append(holder.token if holder is not None else "")
            return release_lock(folder, token)

        monkeypatch.setattr(deployment_backup, "release_lock", release)
        run()
        assert seen == [CLAIMANT["token"]]

    @pytest.mark.parametrize("check_mode", [True, False])
    def test_an_operation_that_was_cut_off(self, run: Run, state: Path, tmp_path: Path, check_mode: bool) -> None:
        left = {"action": "start", "serve": {"version": "0.2.0"}, "outcome": "failed"}
        journal.append_entry(str(state / "journal.jsonl"), "upgrade", "started", "1", {"left": left})
        found = run(check_mode=check_mode)
        assert (found["changed"], found["unfinished"]) == (False, True)
        assert not (tmp_path / "backups").exists()
        assert find_holder(str(state)) is None

    def test_a_failure_leaves_neither_lock_nor_recovery_point(self, run: Run, on_host: Path, state: Path) -> None:
        (on_host / "opstage.db").write_bytes(b"no database" * 1000)
        assert run()["msg"].startswith("No recovery point was made, and nothing is left of it: ")
        assert find_holder(str(state)) is None

    def test_a_recovery_point_stays_where_the_retention_fails(
        self, run: Run, state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        entries = journal.read_entries
        looks: list[str] = []

        def read(path: str) -> list[dict[str, Any]]:
            looks.append(path)
            if len(looks) > 1:
                raise journal.JournalError("The journal is gone.")
            return entries(path)

        for module in ("host_backup", "retention"):
            name = f"ansible_collections.capsule.opstage.plugins.module_utils.{module}.read_entries"
            monkeypatch.setattr(name, read)
        said = run(retention={"last": 1})["msg"]
        (made,) = names_in(tmp_path / "backups" / "opstage")
        assert f"{made} was made, but not all was removed" in said
        assert "The journal is gone." in said


@pytest.fixture
def authority(tmp_path: Path) -> PrivateAuthority:
    return PrivateAuthority(tmp_path)


@pytest.fixture
def console(docker: RecordedDocker, authority: PrivateAuthority, tmp_path: Path) -> Iterator[Console]:
    """Behind a proxy with a certificate of a private CA, on a host that does not see its data."""
    (tmp_path / "compose.yml").write_text("services: {}\n")
    container = recorded_container("in-memory")
    labels = container["Config"]["Labels"]
    labels["com.docker.compose.project.working_dir"] = str(tmp_path)
    labels["com.docker.compose.project.config_files"] = str(tmp_path / "compose.yml")
    docker.has_containers([container])
    docker.says("image-inspect", json.dumps([recorded_image(container["Image"])]))
    content = make_database(tmp_path / "sent.db", 20, "WAL").read_bytes()
    with serving_console(Console(content), authority.certificate()) as console:
        yield console
    assert console.sessions == 0


class TestByTheService:
    @pytest.fixture
    def usual(self, console: Console, authority: PrivateAuthority) -> dict[str, Any]:
        account = {"username": USERNAME, "password": PASSWORD}
        return {"method": "api", "url": console.url, "ca_file": str(authority.file), **account}

    def test_a_recovery_point(self, run: Run, usual: dict[str, Any], warnings: list[str]) -> None:
        made = run(**usual)
        assert made["changed"]
        assert numbers_in(Path(made["database"])) == list(range(1, 21))
        assert made["manifest"]["method"] == "api"
        (warning,) = warnings
        assert "lies in no mount: the host cannot see it" in warning

    def test_check_mode_asks_for_no_copy(
        self, run: Run, usual: dict[str, Any], console: Console, tmp_path: Path
    ) -> None:
        assert run(check_mode=True, **usual)["changed"]
        assert not [asked for asked in console.asked if "backup" in str(asked) or "auth" in str(asked)]
        assert not (tmp_path / "backups").exists()

    def test_a_failure_shows_what_it_says(self, run: Run, usual: dict[str, Any], tmp_path: Path) -> None:
        said = run(**{**usual, "password": "another-password"})["msg"]
        assert said.startswith("No recovery point was made, and nothing is left of it: https://127.0.0.1:")
        assert "the user name 'admin' or the password is wrong" in said
        assert "that this host does not trust" in run(**{**usual, "ca_file": None})["msg"]
        assert names_in(tmp_path / "backups" / "opstage") == []

    @pytest.mark.parametrize("missing", [{"username": None}, {"password": None}, {"username": ""}, {"password": ""}])
    @pytest.mark.parametrize("check_mode", [True, False])
    def test_an_account_is_needed(
        self, run: Run, usual: dict[str, Any], console: Console, missing: dict[str, Any], check_mode: bool
    ) -> None:
        said = run(check_mode=check_mode, **{**usual, **missing})
        assert said["msg"].endswith("set opstage_admin_username and opstage_admin_password.")
        assert console.asked == []

    def test_online_needs_a_database_on_the_host(self, run: Run, usual: dict[str, Any]) -> None:
        assert "where opstage_backup_method is api" in run(**{**usual, "method": "online"})["msg"]
