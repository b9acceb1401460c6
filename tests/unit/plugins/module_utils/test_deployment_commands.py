# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of `opstage-ops` that know the deployment: a real database, beside a Docker that repeats itself."""

from __future__ import annotations

import json
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import (
    deployment_commands,
    journal,
    operations_settings,
)
from ansible_collections.capsule.opstage.plugins.module_utils.backup_record import read_record
from ansible_collections.capsule.opstage.plugins.module_utils.command_line import main
from ansible_collections.capsule.opstage.plugins.module_utils.command_outcome import ExitCode
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import (
    find_holder,
    find_process,
    release_lock,
    take_lock,
)
from ansible_collections.capsule.opstage.plugins.module_utils.journal import append_entry, journal_path, state_folder
from ansible_collections.capsule.opstage.plugins.module_utils.operations_settings import (
    Settings,
    SettingsError,
    find_settings,
    parse_settings,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_away import Sending, list_sent
from ansible_collections.capsule.opstage.plugins.module_utils.restic import ResticRepository
from ansible_collections.capsule.opstage.plugins.module_utils.scheduled_backup import Attempts
from console_testing import PASSWORD, USERNAME, Console, PrivateAuthority, serving_console
from opstage_testing import RecordedDocker, answers, serving, stopped_deployment, unused_url
from sqlite_testing import make_database

SECRET = "4f1c-secret"


class Host:
    """A host with a stopped Opstage, its folders and settings, and the command on it."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.root = folder / "backups"
        self.capfd = capfd
        self.complaints = ""

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run the command; its exit code and its JSON."""
        root = ["--root", str(self.root)] if not self.settings_file.exists() else []
        code = main([*arguments, *root, "--json"])
        return code, json.loads(self.capfd.readouterr().out)

    def text(self, *arguments: str) -> list[str]:
        """Run the command as a person does; the lines of its output."""
        code = main([*arguments, "--root", str(self.root)])
        written = self.capfd.readouterr()
        assert code == ExitCode.DONE, written.err
        self.complaints = written.err
        return written.out.splitlines()

    def backup(self, *options: str) -> dict[str, Any]:
        code, result = self.run("backup", *options)
        assert code == ExitCode.DONE, result
        return result

    @property
    def settings_file(self) -> Path:
        return self.folder / "etc" / "opstage.json"

    def is_told(self, **settings: object) -> None:
        self.settings_file.parent.mkdir(exist_ok=True)
        self.settings_file.write_text(json.dumps({"root": str(self.root), **settings}))

    @property
    def points(self) -> list[str]:
        folder = self.root / "opstage"
        return sorted(os.listdir(folder)) if folder.exists() else []


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
    return RecordedDocker(tmp_path / "docker", monkeypatch)


@pytest.fixture
def host(
    docker: RecordedDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Host:
    monkeypatch.setattr(journal, "STATE_ROOT", str(tmp_path / "state"))
    monkeypatch.setattr(operations_settings, "SETTINGS_FOLDER", str(tmp_path / "etc"))
    stopped_deployment(docker, tmp_path)
    return Host(tmp_path, capfd)


def test_from_backup_to_prune(host: Host) -> None:
    first, second = host.backup(), host.backup()
    assert (first["reason"], first["version"], first["verified"], first["removed"]) == ("manual", "0.2.0", True, [])
    assert host.points == [first["id"], second["id"]]
    listed = host.text("list")
    assert listed[0].split() == ["ID", "VERSION", "SIZE", "TOOK", "METHOD", "VERIFIED", "ENCRYPTED"]
    assert [line.split()[0] for line in listed[1:]] == host.points
    assert listed[1].split()[-3:] == ["online", "yes", "no"]
    code, result = host.run("verify", "--all")
    assert (code, result["sound"]) == (ExitCode.DONE, host.points)
    assert host.text("verify")[0].startswith(f"{second['id']}: sound, sha256: {second['sha256']}")
    code, planned = host.run("prune", "--last", "1", "--check")
    assert (code, [each["id"] for each in planned["removed"]]) == (ExitCode.DONE, [first["id"]])
    assert len(host.points) == 2
    code, pruned = host.run("prune", "--last", "1")
    assert (code, pruned["removed"], host.points) == (ExitCode.DONE, planned["removed"], [second["id"]])


def test_a_policy_without_rules_removes_nothing(host: Host) -> None:
    host.backup()
    code, result = host.run("prune")
    assert (code, len(host.points)) == (ExitCode.RECOVERY_POINT, 1)
    assert "would remove all" in result["error"]


def test_settings_say_where_and_what_to_keep(host: Host) -> None:
    host.root = host.folder / "elsewhere"
    host.is_told(retention={"last": 1})
    first = host.backup()
    second = host.backup()
    assert (second["removed"], host.points) == ([first["id"]], [second["id"]])


def test_status_fails_where_there_is_no_young_recovery_point(host: Host) -> None:
    code, result = host.run("status", "--max-age", "1d")
    assert code == ExitCode.RECOVERY_POINT
    assert "no recovery point. The newest recovery point is older than 1d, or there is none." in result["error"]
    assert host.run("status", "--max-age", "0h")[0] == ExitCode.BAD_USAGE
    made = host.backup()
    code, result = host.run("status", "--max-age", "1d")
    assert (code, result["newest_recovery_point"]["id"]) == (ExitCode.DONE, made["id"])
    assert (result["deployment"]["version"], result["lock"], result["unfinished_operation"]) == ("0.2.0", None, None)


def test_a_damaged_recovery_point_is_named(host: Host) -> None:
    sound, damaged = host.backup(), host.backup()
    with open(Path(damaged["path"]) / "opstage.db", "r+b") as stream:
        stream.seek(5000)
        stream.write(b"\xff" * 100)
    code, result = host.run("verify")
    assert code == ExitCode.RECOVERY_POINT
    assert damaged["path"] in result["error"]
    code, result = host.run("verify", "--all")
    assert (code, result["error"].startswith("1 damaged, 1 sound: ")) == (ExitCode.RECOVERY_POINT, True)
    assert host.run("verify", sound["id"])[0] == ExitCode.DONE
    assert host.run("verify", sound["path"])[0] == ExitCode.DONE


def test_a_living_operation_is_left_alone_and_waited_for(host: Host) -> None:
    folder = state_folder("opstage")
    token = take_lock(folder, "upgrade", "somebody", "elsewhere", find_process(os.getppid()))[0].token
    code, result = host.run("backup")
    assert (code, host.points) == (ExitCode.BUSY, [])
    assert "upgrade by somebody from elsewhere" in result["error"]
    timer = threading.Timer(0.3, release_lock, (folder, token))
    timer.start()
    assert host.backup("--wait", "30")["reason"] == "manual"
    timer.join()
    assert find_holder(folder) is None


def test_nothing_is_made_of_what_was_cut_off(host: Host) -> None:
    append_entry(journal_path("opstage"), "upgrade", "started", "run", {"left": None})
    code, result = host.run("backup")
    assert (code, host.points) == (ExitCode.UNFINISHED, [])
    assert "The upgrade of opstage that began at" in result["error"]
    assert find_holder(state_folder("opstage")) is None
    assert host.run("status")[1]["unfinished_operation"]["operation"] == "upgrade"


def test_where_no_upgrade_is_recorded_nothing_is_rolled_back(host: Host) -> None:
    for options in ((), ("--unless-confirmed", "the-run")):
        code, result = host.run("rollback", *options)
        assert code == ExitCode.RECOVERY_POINT
        assert "There is nothing to roll back to" in result["error"]
    assert find_holder(state_folder("opstage")) is None


def test_who_did_not_confirm_is_taken_for_gone(host: Host) -> None:
    folder = state_folder("opstage")
    token = take_lock(folder, "upgrade", "somebody", "elsewhere", find_process(os.getppid()))[0].token
    assert host.run("rollback")[0] == ExitCode.BUSY
    assert host.run("rollback", "--unless-confirmed", "another")[0] == ExitCode.BUSY
    assert host.run("rollback", "--unless-confirmed", token)[0] == ExitCode.RECOVERY_POINT
    assert find_holder(folder) is None


def test_without_an_opstage(host: Host, docker: RecordedDocker) -> None:
    docker.has_containers([])
    assert host.run("backup")[0] == ExitCode.NO_DEPLOYMENT
    assert host.run("list", "--project", "opstage") == (
        ExitCode.DONE,
        {"recovery_points": [], "others": [], "warnings": []},
    )


def test_settings_of_another_project_are_not_used_for_this_one(host: Host) -> None:
    host.is_told()
    host.settings_file.rename(host.settings_file.with_name("other.json"))
    code, result = host.run("backup")
    assert (code, host.points) == (ExitCode.NO_DEPLOYMENT, [])
    assert "belongs to the project opstage, expected was other" in result["error"]


class TestSchedule:
    def test_everybody_is_told_of_a_success(self, host: Host) -> None:
        metrics = host.folder / "metrics" / "opstage.prom"
        with serving({f"/{SECRET}/{event}": (200, {}, b"OK") for event in ("start", "success")}) as monitor:
            ping = {event: f"{monitor.url}/{SECRET}/{event}" for event in ("start", "success", "failure")}
            host.is_told(metrics_file=str(metrics), ping=ping)
            made = host.backup("--scheduled")
            assert monitor.asked == [f"/{SECRET}/start", f"/{SECRET}/success"]
        assert (made["reason"], made["warnings"]) == ("scheduled", [])
        record = read_record("opstage")
        assert record is not None
        assert (record["outcome"], record["error"], record["recovery_point"]) == ("success", None, made["id"])
        assert record["last_attempt"] < record["last_success"]
        assert stat.S_IMODE(metrics.stat().st_mode) == 0o644
        values = dict(line.rsplit(" ", 1) for line in metrics.read_text().splitlines() if not line.startswith("#"))
        assert values['opstage_backup_last_attempt_success{project="opstage"}'] == "1"
        assert values['opstage_recovery_points_verified{project="opstage"}'] == "1"
        assert float(values['opstage_backup_database_bytes{project="opstage"}']) == made["size"]
        assert 0 <= float(values['opstage_recovery_point_age_seconds{project="opstage"}']) < 60
        assert len(values) == 9

    def test_a_failure_is_loud_and_keeps_the_last_success(self, host: Host) -> None:
        metrics = host.folder / "opstage.prom"
        host.is_told(metrics_file=str(metrics))
        before = host.backup("--scheduled")
        (host.folder / "data" / "opstage.db").unlink()
        with serving({}) as monitor:
            host.is_told(metrics_file=str(metrics), ping={"failure": f"{monitor.url}/{SECRET}"})
            code, result = host.run("backup", "--scheduled")
            assert monitor.asked == [f"/{SECRET}"]
        assert code == ExitCode.MISSING
        record = read_record("opstage")
        assert record is not None
        assert (record["outcome"], record["recovery_point"]) == ("failure", before["id"])
        assert record["error"] == result["error"]
        assert record["last_success"] < record["last_attempt"]
        assert 'last_attempt_success{project="opstage"} 0\n' in metrics.read_text()
        assert 'recovery_points{project="opstage"} 1\n' in metrics.read_text()

    def test_one_that_is_cut_off_is_no_success(self, host: Host) -> None:
        seen = []

        def ended() -> Any:
            seen.append(read_record("opstage"))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Attempts(Settings(project="opstage"), "opstage", seen.append).report(ended)
        assert [(record["outcome"], record["error"]) for record in [*seen, read_record("opstage")]] == [
            ("failure", "it is still at work, or was cut off"),
            ("failure", "it was ended by a signal"),
        ]

    def test_addresses_are_secret_and_hold_up_nothing(self, host: Host) -> None:
        with serving({}) as monitor:
            ping = {"start": f"{monitor.url}/{SECRET}", "success": f"{unused_url()}/{SECRET}"}
            host.is_told(ping=ping)
            made = host.backup("--scheduled")
        assert made["warnings"] == [
            "the ping for start did not reach 127.0.0.1: status 404",
            "the ping for success did not reach 127.0.0.1: URLError",
        ]
        assert SECRET not in json.dumps([made, read_record("opstage")])

    def test_reports_that_cannot_be_written_are_said(self, host: Host) -> None:
        (host.folder / "file").write_text("")
        host.is_told(metrics_file=str(host.folder / "file" / "opstage.prom"))
        made = host.backup("--scheduled")
        assert [warning[:30] for warning in made["warnings"]] == [f"the metrics in {host.folder}"[:30]]


class TestAway:
    """With the real restic."""

    def is_told(self, host: Host, address: str, **more: object) -> None:
        restic = {"address": address, "password": SECRET, "environment": {"RESTIC_PACK_SIZE": 16}, **more}
        host.is_told(restic=restic)

    def test_it_is_sent_and_what_lies_there_follows_its_own_policy(self, host: Host) -> None:
        repository = str(host.folder / "repository")
        self.is_told(host, repository, initialize=True, retention={"last": 1, "daily": None})
        first, second = host.backup("--scheduled"), host.backup()
        assert host.points == [first["id"], second["id"]]
        (sent,) = list_sent(ResticRepository(repository, SECRET))
        assert sent.id == second["id"]
        assert sent.snapshots[0].startswith(second["snapshot"])
        record = read_record("opstage")
        assert record is not None
        assert record["outcome"] == "success"

    def test_a_failure_is_loud_and_the_point_stays(self, host: Host) -> None:
        self.is_told(host, f"rest:http://keeper:{SECRET}@127.0.0.1:1/")
        code, result = host.run("backup", "--scheduled")
        (point,) = host.points
        assert code == ExitCode.SYSTEM
        assert f"The recovery point {host.root}/opstage/{point} was not sent: " in result["error"]
        assert "It is whole on this host" in result["error"]
        record = read_record("opstage")
        assert record is not None
        assert (record["outcome"], record["error"]) == ("failure", result["error"])
        assert SECRET not in json.dumps([result, record])
        assert find_holder(state_folder("opstage")) is None

    def test_without_the_program(self, host: Host) -> None:
        self.is_told(host, str(host.folder / "repository"))
        (host.folder / "docker" / "restic").symlink_to("/nowhere")
        programs = host.folder / "docker"
        for name in ("sh", "cat"):
            (programs / name).symlink_to(f"/bin/{name}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(programs))
            code, result = host.run("backup")
        assert (code, len(host.points)) == (ExitCode.SYSTEM, 1)
        assert "The restic command was not found on this host" in result["error"]
        assert result["error"].endswith("It is whole on this host.")

    def test_nobody_waits_for_it(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """The lock of the deployment is free while it is sent."""
        seen = []

        def send(*_arguments: object) -> Sending:
            seen.append(find_holder(state_folder("opstage")))
            return Sending("0" * 64, True)

        monkeypatch.setattr(deployment_commands, "send_and_prune", send)
        self.is_told(host, str(host.folder / "repository"))
        assert host.backup()["snapshot"] == "0" * 64
        assert seen == [None]


class TestByTheService:
    def test_the_service_makes_the_copy(self, host: Host, tmp_path: Path) -> None:
        authority = PrivateAuthority(tmp_path)
        content = make_database(tmp_path / "sent.db", 7, "WAL").read_bytes()
        given = Console(content, instead=answers("0.2.0"), backup_dir="/nowhere")
        with serving_console(given, authority.certificate()) as console:
            account = {"username": USERNAME, "password": PASSWORD}
            host.is_told(method="api", url=console.url, ca_file=str(authority.file), **account)
            made = host.backup("--scheduled")
            assert (made["method"], made["version"], console.sessions) == ("api", "0.2.0", 0)
            assert "lies in no mount" in made["warnings"][0]
            host.is_told(method="api", url=console.url, ca_file=str(authority.file), **{**account, "username": "no"})
            code, result = host.run("backup", "--scheduled")
            assert (code, len(host.points)) == (ExitCode.RECOVERY_POINT, 1)
            assert "the user name 'no' or the password is wrong" in result["error"]
            assert PASSWORD not in json.dumps([result, made, read_record("opstage")])

    def test_online_is_usual(self, host: Host) -> None:
        host.is_told(username=USERNAME, password=PASSWORD)
        assert host.backup()["method"] == "online"


class TestSettings:
    @pytest.mark.parametrize(
        ("found", "problem"),
        [
            ([], "expected is one JSON object"),
            ({"rot": "/x"}, "'rot' is no setting; those are project_dir,"),
            ({"root": "backups"}, "root is 'backups'; expected is an absolute path"),
            ({"root": 3}, "root is no int; expected is a text"),
            ({"ca_file": "ca.pem"}, "ca_file is 'ca.pem'; expected is an absolute path"),
            ({"recipients": "age1"}, "recipients is no str; expected is a list of texts"),
            ({"recipients": [1]}, "recipients is no list; expected is a list of texts"),
            ({"retention": {"last": -2}}, "retention: The policy's last is -2"),
            ({"retention": {"within": "week"}}, "retention: 'week' is no span of time"),
            ({"ping": {"end": "https://x"}}, "ping has 'end'; expected are start, success, failure"),
            ({"method": "offline"}, "method is 'offline'; expected is online or api"),
            ({"method": "api", "username": "admin"}, "method is api, which needs username and password"),
            ({"restic": {"adress": "/r"}}, "restic has 'adress'; expected are address, password, environment,"),
            ({"restic": {"address": f"rest:http://{SECRET}@x/"}}, "restic needs the texts address and password"),
            ({"restic": {"address": "/r", "password": "p", "environment": "A=1"}}, "environment of restic is no str"),
            ({"restic": {"address": "/r", "password": "p", "initialize": "x"}}, "initialize of restic is no str"),
            ({"restic": {"address": "/r", "password": "p", "retention": {"last": -2}}}, "retention of restic: The po"),
            ({"ping": {"start": f"file:///{SECRET}"}}, "ping has no address for start"),
        ],
    )
    def test_what_is_none(self, found: object, problem: str) -> None:
        with pytest.raises(SettingsError) as error:
            parse_settings(found)
        assert problem in str(error.value)
        assert SECRET not in str(error.value)

    def test_null_stands_for_a_default(self) -> None:
        assert parse_settings({"root": None, "ping": None, "retention": None, "ca_file": "", "url": ""}) == Settings()

    def test_of_several_projects_one_is_named(self, host: Host) -> None:
        host.is_told()
        assert find_settings(None) == replace(find_settings("opstage"))
        host.settings_file.with_name("other.json").write_text("{}")
        with pytest.raises(SettingsError, match=r"2 projects have settings.*opstage.json, other.json"):
            find_settings(None)
        assert find_settings("opstage").root == str(host.root)
        assert find_settings("third") == Settings(project="third")

    @pytest.mark.parametrize("name", ["../x", "", "A", "a/b", "-x"])
    def test_names_lead_nowhere_else(self, name: str) -> None:
        with pytest.raises(SettingsError, match="cannot be the name"):
            find_settings(name)

    def test_a_file_that_is_no_json_is_named(self, host: Host) -> None:
        host.is_told()
        host.settings_file.write_text("{")
        code, result = host.run("list")
        assert code == ExitCode.BAD_USAGE
        assert str(host.settings_file) in result["error"]


def test_every_error_of_the_core_has_an_exit_code(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.root.write_text("")
    assert host.run("backup")[0] == ExitCode.REFUSED
    (host.folder / "state").mkdir(exist_ok=True)
    (host.folder / "state" / "opstage").mkdir(exist_ok=True)
    (host.folder / "state" / "opstage" / "lock.json").write_text("{}")
    assert host.run("backup")[0] == ExitCode.SYSTEM
