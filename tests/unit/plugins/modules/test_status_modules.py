# SPDX-License-Identifier: GPL-3.0-or-later
"""What deployment_status finds on a host, and the playbook that makes one report of what it returns for each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.capsule.opstage.plugins.module_utils import host_status, journal
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import find_process, take_lock
from ansible_collections.capsule.opstage.plugins.module_utils.host_status import find_room, parse_timer
from ansible_collections.capsule.opstage.plugins.module_utils.journal import append_entry, journal_path
from ansible_collections.capsule.opstage.plugins.module_utils.manifest import TIME_FORMAT
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.modules import deployment_status, fleet_report
from opstage_testing import RecordedDocker, answers, recorded_container, recorded_image, serving, unused_url
from sqlite_testing import make_database, names_in

Run = Callable[..., "dict[str, Any]"]

PROJECT = "opstage-status-test"
SECRET = "hunter2-hunter2-hunter2-hunter2-hunter2"


def described(folder: Path, url: str) -> dict[str, Any]:
    """Docker's description of a running container whose project and data lie in `folder`."""
    container = recorded_container("published")
    data = folder / "data"
    data.mkdir(parents=True)
    make_database(data / "opstage.db", 20, "WAL")
    (folder / "compose.yml").write_text("services: {}\n")
    container["Mounts"][0]["Source"] = str(data)
    container["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"] = url.rpartition(":")[2]
    container["State"].update(Status="running")
    container["Config"]["Env"].append(f"OPSTAGE_SESSION_SECRET={SECRET}")
    container["Config"]["Labels"].update(
        {
            "com.docker.compose.project": PROJECT,
            "com.docker.compose.project.working_dir": str(folder),
            "com.docker.compose.project.config_files": str(folder / "compose.yml"),
        }
    )
    return container


def make_point(folder: Path, root: Path, **ago: float) -> Path:
    """A recovery point as create_recovery_point makes it, that says to be so old."""
    deployment = {
        "project": PROJECT,
        "project_dir": str(folder),
        "config_files": [str(folder / "compose.yml")],
        "environment_files": [],
        "service": "web",
        "image": "repo:0.2.0",
        "tag": "0.2.0",
        "digest": None,
        "image_id": "sha256:" + "1" * 64,
        "version": "0.2.0",
        "version_source": "api",
        "edition": "ce",
        "database": str(folder / "data" / "opstage.db"),
    }
    made = Path(create_recovery_point(deployment, str(root), "manual", "online", "0.1.0").path)
    created = (datetime.now(UTC) - timedelta(**ago)).strftime(TIME_FORMAT)
    name = f"{created.replace(':', '-').replace('.', '-')}-manual"
    change_manifest(made, id=name, created=created)
    return made.rename(made.with_name(name))


def change_manifest(point: Path, **fields: Any) -> None:
    path = point / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the module's main() in this process and return what it answers."""
    monkeypatch.setattr(journal, "STATE_ROOT", str(tmp_path / "state"))
    monkeypatch.setattr(host_status, "SYSTEMD_FOLDER", str(tmp_path / "no-systemd"))

    def run_module(**options: object) -> dict[str, Any]:
        given = {"root": str(tmp_path / "backups"), **options}
        with patch_module_args(given), pytest.raises(SystemExit) as ended:
            deployment_status.main()
        output = capsys.readouterr().out
        assert SECRET not in output
        result: dict[str, Any] = json.loads(output)
        assert bool(result.get("failed")) == bool(ended.value.code)
        return result

    return run_module


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
    return RecordedDocker(tmp_path / "docker", monkeypatch)


@pytest.fixture
def host(tmp_path: Path, docker: RecordedDocker) -> Path:
    """The folder of a deployment whose service does not answer."""
    folder = tmp_path / "project"
    container = described(folder, unused_url())
    docker.has_containers([container])
    docker.says("image-inspect", json.dumps([recorded_image(container["Image"])]))
    return folder


def kinds(result: dict[str, Any]) -> list[str]:
    return [found["kind"] for found in result["problems"]]


def test_a_host_that_is_well(tmp_path: Path, docker: RecordedDocker, run: Run) -> None:
    with serving(answers("0.2.0")) as service:
        container = described(tmp_path / "project", service.url)
        docker.has_containers([container])
        docker.says("image-inspect", json.dumps([recorded_image(container["Image"])]))
        point = make_point(tmp_path / "project", tmp_path / "backups", hours=3)
        before = names_in(tmp_path)
        found = run()
    assert (found["changed"], found["problems"]) == (False, [])
    assert found["summary"] == f"{PROJECT}: Opstage 0.2.0, UP; newest recovery point {point.name}, 3 hours old"
    assert (found["deployment"]["version"], found["deployment"]["status"]) == ("0.2.0", "UP")
    assert found["deployment"]["digest"].startswith("sha256:")
    assert found["newest_verified"]["id"] == point.name
    assert 3 * 3600 <= found["newest_verified"]["age_seconds"] < 3 * 3600 + 60
    (listed,) = found["recovery_points"]
    assert (listed["id"], listed["verified"], listed["flaw"], listed["encrypted"]) == (point.name, True, None, False)
    assert listed["size"] == listed["stored_size"] == (point / "opstage.db").stat().st_size
    assert found["room"]["free"] > 0
    assert found["room"]["fit"] == (found["room"]["free"] - (64 << 20)) // listed["size"]
    assert found["timer"] == {"state": "absent", "next": None}
    assert (found["lock"], found["unfinished_operation"], found["last_scheduled_backup"]) == (None, None, None)
    assert names_in(tmp_path) == before
    assert len(docker.calls) == 3


def test_points_of_every_kind(tmp_path: Path, host: Path, run: Run) -> None:
    root = tmp_path / "backups"
    whole = make_point(host, root, days=2)
    drill = {"time": "2026-11-22T03:00:00.000000Z", "seconds": 1.5, "version": "0.2.0", "outcome": "passed"}
    change_manifest(whole, drill=drill)
    unchecked, damaged = make_point(host, root, hours=3), make_point(host, root, hours=2)
    database = json.loads((unchecked / "manifest.json").read_text())["database"]
    change_manifest(unchecked, database={**database, "integrity": "not checked"})
    (damaged / "manifest.json").write_text("{")
    (root / PROJECT / ".partial-2026-11-22T02-15-00-000000Z-manual").mkdir()
    found = run()
    assert [point["id"] for point in found["recovery_points"]] == [whole.name, unchecked.name, damaged.name]
    assert [point["verified"] for point in found["recovery_points"]] == [True, False, False]
    assert found["recovery_points"][0]["drill"] == drill
    assert "was not checked" in found["recovery_points"][1]["flaw"]
    assert found["recovery_points"][2]["flaw"].startswith("is damaged: its manifest.json is no JSON")
    assert found["recovery_points"][2]["created"] is None
    assert found["newest_verified"]["id"] == whole.name
    # The line for people names the newest that there is, as that of deployment_info does.
    assert unchecked.name in found["summary"]
    assert kinds(found) == ["health", "backup", "verification"]


def test_a_point_of_the_future_is_not_the_newest(tmp_path: Path, host: Path, run: Run) -> None:
    old = make_point(host, tmp_path / "backups", hours=3)
    make_point(host, tmp_path / "backups", hours=-2)
    found = run()
    assert found["newest_verified"]["id"] == old.name
    assert kinds(found) == ["health", "clock"]
    shutil.rmtree(old)
    found = run()
    assert found["newest_verified"] is None
    assert kinds(found) == ["health", "backup", "clock"]


def test_limits(tmp_path: Path, host: Path, run: Run) -> None:
    make_point(host, tmp_path / "backups", hours=3)
    assert kinds(run()) == ["health"]
    found = run(max_backup_age="2h", min_points_that_fit=10**12, require_timer=True)
    assert kinds(found) == ["health", "backup", "room", "timer"]
    assert run(max_backup_age="often")["msg"].startswith("opstage_max_backup_age: 'often'")
    assert run(min_points_that_fit=-1)["msg"].startswith("opstage_min_points_that_fit is -1;")


def test_an_operation_that_is_under_way_then_cut_off(host: Path, run: Run) -> None:
    folder = journal.state_folder(PROJECT)
    process = find_process(os.getpid())
    assert process is not None
    take_lock(folder, "upgrade", "ada", "here", process)
    append_entry(journal_path(PROJECT), "upgrade", "started", "1", {"left": None, "password": SECRET})
    found = run()
    assert found["unfinished_operation"]["operation"] == "upgrade"
    assert set(found["unfinished_operation"]) == {"operation", "time"}
    assert (found["lock"]["user"], found["lock"]["alive"]) == ("ada", True)
    assert kinds(found) == ["backup", "busy"]
    lock = Path(folder) / "lock.json"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "process": {**asdict(process), "started": 1}}))
    found = run()
    assert found["lock"]["alive"] is False
    assert kinds(found) == ["unfinished", "health", "backup"]
    assert "CUT OFF" in found["summary"]


def test_the_last_scheduled_backup(host: Path, run: Run) -> None:
    folder = Path(journal.state_folder(PROJECT))
    folder.mkdir(parents=True)
    record = {
        "last_attempt": "2026-11-22T02:15:00.000000Z",
        "last_success": None,
        "outcome": "failure",
        "error": "no room",
        "duration_seconds": 0.5,
        "recovery_point": None,
        "size": None,
    }
    (folder / "backup-status.json").write_text(json.dumps({**record, "unknown": SECRET}))
    found = run()
    assert found["last_scheduled_backup"] == record
    assert "schedule" in kinds(found)
    (folder / "backup-status.json").write_text("{")
    assert run()["last_scheduled_backup"] is None


def test_what_cannot_be_read_is_a_problem_beside_the_rest(tmp_path: Path, host: Path, run: Run) -> None:
    folder = Path(journal.state_folder(PROJECT))
    folder.mkdir(parents=True)
    (folder / "lock.json").write_text("{")
    (folder / "journal.jsonl").mkdir()
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / PROJECT).write_text("")
    found = run()
    assert kinds(found) == ["unknown"] * 3 + ["health"]
    assert found["deployment"]["version"] == "0.2.0"
    assert (found["recovery_points"], found["newest_verified"]) == (None, None)


def test_a_host_without_opstage_is_a_row(docker: RecordedDocker, run: Run) -> None:
    docker.has_containers([])
    found = run()
    assert kinds(found) == ["unknown"]
    assert "No container of Opstage was found" in found["summary"]
    assert found["deployment"] is None


def test_a_deployment_whose_data_the_host_cannot_see(
    tmp_path: Path, host: Path, docker: RecordedDocker, run: Run
) -> None:
    point = make_point(host, tmp_path / "backups", hours=3)
    docker.has_containers([{**described(tmp_path / "other", unused_url()), "Mounts": []}])
    found = run()
    assert kinds(found) == ["health"]
    assert (found["deployment"]["database_size"], found["newest_verified"]["id"]) == (None, point.name)


def test_a_host_without_docker_is_a_row(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = run()
    assert "The docker command was not found" in found["problems"][0]["text"]


class TestTimer:
    @pytest.mark.parametrize(
        ("said", "state", "following"),
        [
            ("LoadState=not-found\nActiveState=inactive\nNextElapseUSecRealtime=\n", "absent", None),
            ("LoadState=loaded\nActiveState=inactive\nNextElapseUSecRealtime=\n", "off", None),
            ("LoadState=loaded\nActiveState=failed\nNextElapseUSecRealtime=n/a\n", "off", None),
            ("LoadState=masked\nActiveState=inactive\n", "off", None),
            (
                "NextElapseUSecRealtime=Tue 2026-11-24 02:15:00 UTC\nLoadState=loaded\nActiveState=active\n",
                "on",
                "2026-11-24T02:15:00.000000Z",
            ),
            ("LoadState=loaded\nActiveState=active\nNextElapseUSecRealtime=56y 10month 3w\n", "on", None),
        ],
    )
    def test_what_systemd_says(self, said: str, state: str, following: str | None) -> None:
        assert parse_timer(said) == {"state": state, "next": following}

    def test_systemd_is_asked_for_this_project_in_utc(
        self, tmp_path: Path, host: Path, docker: RecordedDocker, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host_status, "SYSTEMD_FOLDER", str(tmp_path))
        program = docker.folder / "systemctl"
        program.write_text(
            f'#!/bin/sh\necho "$TZ $*" >"{tmp_path}/asked"\necho LoadState=loaded\necho ActiveState=active\n'
        )
        program.chmod(0o755)
        assert run()["timer"] == {"state": "on", "next": None}
        asked = (tmp_path / "asked").read_text().split()
        assert (asked[0], asked[1], asked[-1]) == ("UTC", "show", f"opstage-backup-{PROJECT}.timer")
        program.write_text("#!/bin/sh\necho Connection refused >&2\nexit 1\n")
        found = run()
        assert found["timer"] is None
        assert "Connection refused" in found["problems"][0]["text"]


def test_room_for_encrypted_points(tmp_path: Path) -> None:
    manifest = {"database": {"size": 1_000_000}, "encryption": {"size": 2000}}
    room = find_room(str(tmp_path / "none" / "yet"), RecoveryPoint("", manifest))
    assert room["fit"] == (room["free"] - (64 << 20) - 1_000_000) // 2000
    huge = RecoveryPoint("", {"database": {"size": 1 << 60}, "encryption": None})
    assert find_room(str(tmp_path), huge)["fit"] == 0
    assert find_room(str(tmp_path), None)["fit"] is None


def test_fleet_report_is_none_for_a_host(capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args({}), pytest.raises(SystemExit):
        fleet_report.main()
    assert "runs on the controller" in json.loads(capsys.readouterr().out)["msg"]


DOCKER = """#!/bin/sh
case "$1 $2" in
"ps "*) echo "{identifier}" ;;
"container inspect") cat "{folder}/container" ;;
"image inspect") cat "{folder}/image" ;;
*) exit 1 ;;
esac
"""


class Fleet:
    """One host with a deployment, one without, one that cannot run the module, and one that cannot be reached."""

    def __init__(self, folder: Path, collections: Path, url: str) -> None:
        self.folder, self.work, self.root = folder, folder / "work", folder / "backups"
        self.work.mkdir()
        self._collections = collections
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts: dict[str, Any] = {
            "gone": {"ansible_host": "127.0.0.1", "ansible_port": int(unused_url().rpartition(":")[2])},
            "web": local,
            "empty": {**local, "opstage_service": "none"},
            "strange": {**local, "ansible_python_interpreter": str(folder / "no-python")},
        }
        (folder / "inventory.json").write_text(json.dumps({"opstage": {"hosts": hosts}}))
        (folder / "ansible.cfg").write_text("[defaults]\n[ssh_connection]\nretries=0\n")
        programs = folder / "programs"
        container = described(programs, url)
        (programs / "container").write_text(json.dumps([container]))
        (programs / "image").write_text(json.dumps([recorded_image(container["Image"])]))
        (programs / "docker").write_text(DOCKER.format(identifier=container["Id"], folder=programs))
        (programs / "docker").chmod(0o755)

    def run(self, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        given = {"ansible_become": False, "opstage_backup_root": str(self.root), **variables}
        return subprocess.run(
            [program, "-i", "../inventory.json", "-e", json.dumps(given), *arguments, "capsule.opstage.status"],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(self._collections),
                "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
                "PATH": f"{self.folder / 'programs'}{os.pathsep}{os.environ['PATH']}",
                "no_proxy": "*",
            },
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def test_the_playbook(tmp_path: Path, collections_root: Path) -> None:
    files = {"opstage_status_json": "status.json", "opstage_status_html": str(tmp_path / "status.html")}
    with serving(answers("0.2.0")) as service:
        fleet = Fleet(tmp_path, collections_root, service.url)
        make_point(tmp_path / "programs", fleet.root, hours=3)
        checked = fleet.run("--check", "--limit", "web", **files)
        names = [*names_in(fleet.work), *(path.name for path in tmp_path.glob("status*"))]
        whole = fleet.run(**files)
        one = fleet.run("--limit", "web")
        late = fleet.run("--limit", "web", opstage_max_backup_age="2h")
        none = fleet.run("--limit", "gone", opstage_status_json="gone.json")
    assert (checked.returncode, names) == (0, []), checked.stdout
    assert "changed=1" in checked.stdout

    # Those of which nothing is known make it red, when the report is there.
    assert whole.returncode == 2, whole.stdout
    assert "4 hosts: 3 critical, 1 ok. Look at gone, empty, strange." in whole.stdout
    for file in (fleet.work / "status.json", tmp_path / "status.html"):
        assert file.stat().st_mode & 0o777 == 0o644
    report = json.loads((fleet.work / "status.json").read_text())
    rows = {row["host"]: [found["kind"] for found in row["problems"]] for row in report["hosts"]}
    assert rows == {"gone": ["unreachable"], "empty": ["unknown"], "strange": ["unknown"], "web": []}
    assert report["hosts"][-1]["deployment"]["version"] == "0.2.0"
    assert "It cannot be reached" in (tmp_path / "status.html").read_text()
    assert SECRET not in whole.stdout + (fleet.work / "status.json").read_text()

    assert one.returncode == 0, one.stdout
    assert f"web: {PROJECT}: Opstage 0.2.0, UP; newest recovery point " in one.stdout
    assert late.returncode == 2
    assert "web: critical: The newest verified recovery point is 3 hours old, the limit is 2h: run" in late.stdout
    assert none.returncode == 2
    assert "1 host: 1 critical. Look at gone." in none.stdout
    assert json.loads((fleet.work / "gone.json").read_text())["counts"] == {"critical": 1, "warning": 0, "ok": 0}


def test_a_report_that_cannot_be_written(tmp_path: Path, collections_root: Path) -> None:
    with serving(answers("0.2.0")) as service:
        fleet = Fleet(tmp_path, collections_root, service.url)
        make_point(tmp_path / "programs", fleet.root, hours=3)
        failed = fleet.run("--limit", "web", opstage_status_html=str(tmp_path / "none" / "status.html"))
    assert failed.returncode == 2
    assert "The report could not be written: " in failed.stdout
    assert "UP; newest recovery point" in failed.stdout
