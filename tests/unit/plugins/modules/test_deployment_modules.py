# SPDX-License-Identifier: GPL-3.0-or-later
"""The thin modules around the core: what they return, what check mode does, how each failure ends in one message."""

from __future__ import annotations

import importlib
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.capsule.opstage.plugins.module_utils import host_registry, journal, upgrade_preflight
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import find_process
from ansible_collections.capsule.opstage.plugins.module_utils.docker_registry import EngineSettings, RemoteImage
from ansible_collections.capsule.opstage.plugins.modules import deployment_lock
from console_testing import PASSWORD, USERNAME, Console, PrivateAuthority, serving_console
from opstage_testing import (
    RecordedDocker,
    answers,
    recorded_container,
    recorded_image,
    serving,
    stopped_deployment,
    unused_url,
)
from sqlite_testing import names_in, numbers_in

Run = Callable[..., "dict[str, Any]"]

CLAIMANT = {"user": "somebody", "host": "here", "process": asdict(find_process(os.getpid()))}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the modules keep what they remember."""
    monkeypatch.setattr(journal, "STATE_ROOT", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
    docker = RecordedDocker(tmp_path / "docker", monkeypatch)
    docker.says("logs", "last words\n")
    return docker


@pytest.fixture
def run(state: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a module's main() in this process and return what it answers."""

    def run_module(module: str, check_mode: bool = False, **options: object) -> dict[str, Any]:
        imported = importlib.import_module(f"ansible_collections.capsule.opstage.plugins.modules.{module}")
        with patch_module_args({**options, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit) as ended:
            imported.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(result.get("failed")) == bool(ended.value.code)
        return result

    return run_module


@pytest.fixture
def deployment(docker: RecordedDocker, tmp_path: Path, run: Run) -> dict[str, Any]:
    """A stopped deployment with a database of twenty rows, as deployment_info finds it."""
    stopped_deployment(docker, tmp_path)
    found: dict[str, Any] = run("deployment_info")["deployment"]
    return found


def test_deployment_and_journal(deployment: dict[str, Any], run: Run, state: Path) -> None:
    assert (deployment["project"], deployment["version"]) == ("opstage", "0.2.0")
    before = run("deployment_info")
    assert (before["changed"], before["last_upgrade"], before["unfinished_operation"]) == (False, None, None)
    lock = run("deployment_lock", project="opstage", operation="upgrade", claimant=CLAIMANT)
    entry: dict[str, Any] = {
        "project": "opstage",
        "operation": "upgrade",
        "lock": lock["token"],
        "details": {"target": {"tag": "0.3.0"}},
    }
    left = {"action": "start", "serve": {"version": "0.2.0"}, "outcome": "failed"}
    planned = run("journal_entry", check_mode=True, status="started", left=left, **entry)
    assert (planned["changed"], planned["path"]) == (True, str(state / "opstage" / "journal.jsonl"))
    assert not Path(planned["path"]).exists()
    started = run("journal_entry", status="started", left=left, **entry)
    assert started["entry"]["target"] == {"tag": "0.3.0"}
    cut_off = run("deployment_info")
    assert cut_off["unfinished_operation"]["run"] == lock["token"]
    served = {"version": "0.2.0", "tag": None, "digest": None, "image_id": None, "image_digest": None}
    assert cut_off["unfinished_operation"]["left"]["serve"] == served
    assert cut_off["unfinished_operation"]["details"] == entry["details"]
    finished = run("journal_entry", status="finished", **entry)
    done = run("deployment_info")
    assert (done["unfinished_operation"], done["last_upgrade"]) == (None, finished["entry"])


def test_who_takes_the_lock_learns_what_there_is(deployment: dict[str, Any], run: Run) -> None:
    options = {"operation": "upgrade", "claimant": CLAIMANT}
    taken = run("deployment_lock", **options)
    assert taken["deployment"] == deployment
    held = run("deployment_lock", operation="backup", claimant={"user": "other", "host": "elsewhere"})
    assert held["holder"]["operation"] == "upgrade"
    run("journal_entry", project="opstage", lock=taken["token"], operation="upgrade", status="finished")
    assert run("deployment_lock", project="opstage", state="absent", token=taken["token"])["released"]
    again = run("deployment_lock", check_mode=True, **options)
    assert (again["last_upgrade"]["status"], again["token"]) == ("finished", "")


def test_who_looked_before_another_operation_ended_looks_again(
    deployment: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = deployment_lock.take

    def take_late(project: str, *arguments: object, **named: object) -> dict[str, Any]:
        journal.append_entry(journal.journal_path(project), "upgrade", "finished", "1", {"target": {"tag": "0.3.0"}})
        return dict(take(project, *arguments, **named))

    monkeypatch.setattr(deployment_lock, "take", take_late)
    assert run("deployment_lock", operation="backup")["last_upgrade"]["run"] == "1"


def test_who_cannot_look_again_does_not_keep_the_lock(
    deployment: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch, state: Path
) -> None:
    take = deployment_lock.take

    def take_late(project: str, *arguments: object, **named: object) -> dict[str, Any]:
        (state / "opstage" / "journal.jsonl").mkdir(parents=True)
        return dict(take(project, *arguments, **named))

    monkeypatch.setattr(deployment_lock, "take", take_late)
    assert "cannot be read" in run("deployment_lock", operation="backup")["msg"]
    assert not (state / "opstage" / "lock.json").exists()


@pytest.mark.parametrize("status", ["started", "step"])
def test_what_is_left_must_be_said_until_the_end(run: Run, status: str) -> None:
    said = run("journal_entry", project="opstage", lock="1", operation="upgrade", status=status)
    assert "missing: left" in said["msg"]


def test_lock_is_taken_once_and_let_go(run: Run, state: Path) -> None:
    options = {"project": "opstage", "operation": "upgrade", "claimant": CLAIMANT}
    assert run("deployment_lock", check_mode=True, **options)["token"] == ""
    assert not state.exists()
    taken = run("deployment_lock", **options)
    assert (taken["changed"], taken["taken_over"]) == (False, None)
    other = {**options, "operation": "backup", "claimant": {"user": "other", "host": "elsewhere"}}
    for check_mode in (True, False):
        refused = run("deployment_lock", check_mode=check_mode, **other)
        assert refused["failed"]
        assert refused["holder"]["operation"] == "upgrade"
        assert "upgrade by somebody from here" in refused["msg"]
        assert taken["token"] in refused["msg"]
    assert not run("deployment_lock", project="opstage", state="absent", token="another")["released"]
    assert run("deployment_lock", project="opstage", state="absent", token=taken["token"])["released"]
    assert run("deployment_lock", **other)["taken_over"] is None


def test_who_lost_the_lock_cannot_go_on(run: Run) -> None:
    lost = run("deployment_lock", project="opstage", operation="upgrade", claimant=CLAIMANT)["token"]
    taken = run("deployment_lock", project="opstage", operation="restore", take_over=lost)
    assert (taken["taken_over"]["token"], taken["taken_over"]["operation"]) == (lost, "upgrade")
    said = run("journal_entry", project="opstage", lock=lost, operation="upgrade", status="failed")
    assert "does not hold the lock" in said["msg"]
    assert "restore by unknown" in said["msg"]


def test_no_deployment(docker: RecordedDocker, run: Run) -> None:
    docker.has_containers([])
    assert run("deployment_info")["msg"].startswith("No container of Opstage was found")
    assert run("deployment_info", required=False)["deployment"] is None


def test_a_deployment_that_is_not_the_sought_one_is_an_error_in_any_case(
    deployment: dict[str, Any], run: Run, tmp_path: Path
) -> None:
    assert "No container of Opstage" in run("deployment_info", required=False, project_dir=str(tmp_path))["msg"]


def test_data_that_the_host_cannot_see(deployment: dict[str, Any], docker: RecordedDocker, run: Run) -> None:
    container = recorded_container("in-memory")
    docker.has_containers([container])
    docker.says("image-inspect", json.dumps([recorded_image(container["Image"])]))
    assert "where opstage_backup_method is api" in run("deployment_info", url=unused_url())["msg"]
    found = run("deployment_info", url=unused_url(), require_data=False)["deployment"]
    assert (found["data_dir"], found["database"], found["database_size"]) == ("", "", None)


def test_summary(deployment: dict[str, Any], run: Run, tmp_path: Path) -> None:
    root = str(tmp_path / "backups")
    found = run("deployment_info", root=root)
    assert found["summary"] == "opstage: Opstage 0.2.0, no answer, its container is running; no recovery point"
    assert (found["newest_recovery_point"], found["lock"]) == (None, None)
    made = run("recovery_point", deployment=deployment, root=root)
    lock = run("deployment_lock", project="opstage", operation="upgrade", claimant=CLAIMANT)
    left = {"action": "start", "serve": {"version": "0.2.0"}, "outcome": "failed"}
    options = {"project": "opstage", "operation": "upgrade", "lock": lock["token"]}
    started = run("journal_entry", status="started", left=left, **options)["entry"]
    found = run("deployment_info", root=root)
    assert found["newest_recovery_point"] == {
        "path": made["path"],
        "created": made["manifest"]["created"],
        "reason": "manual",
    }
    assert found["lock"]["operation"] == "upgrade"
    assert lock["token"] not in json.dumps(found["lock"])
    assert f"newest recovery point {made['manifest']['id']}, less than a minute old" in found["summary"]
    assert "; at work: upgrade by somebody from here, since " in found["summary"]
    assert found["summary"].endswith(f"; upgrade that began at {started['time']}: under way or cut off")
    run("deployment_lock", project="opstage", state="absent", token=lock["token"])
    assert run("deployment_info", root=root)["summary"].endswith(": CUT OFF, the next run of any playbook ends it")


def test_recovery_points_that_cannot_be_listed_keep_nobody_from_acting(
    deployment: dict[str, Any], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / "opstage").write_text("")
    found = run("deployment_info", root=str(tmp_path / "backups"))
    assert found["newest_recovery_point"] is None
    assert found["deployment"]["project"] == "opstage"


def test_a_journal_that_cannot_be_used(deployment: dict[str, Any], run: Run, state: Path) -> None:
    (state / "opstage" / "journal.jsonl").mkdir(parents=True)
    assert "cannot be read" in run("deployment_info")["msg"]
    lock = run("deployment_lock", project="opstage", operation="upgrade")["token"]
    said = run("journal_entry", project="opstage", lock=lock, operation="upgrade", status="finished")
    assert "cannot be written" in said["msg"]


def test_recovery_point_and_back(deployment: dict[str, Any], run: Run, tmp_path: Path) -> None:
    root = tmp_path / "backups"
    options = {"deployment": deployment, "root": str(root), "reason": "pre-upgrade", "method": "offline"}
    assert run("recovery_point", check_mode=True, **options)["changed"]
    assert not root.exists()
    made = run("recovery_point", **options)
    assert made["changed"]
    assert names_in(root / "opstage") == [Path(made["path"]).name]
    assert numbers_in(Path(made["database"])) == list(range(1, 21))
    assert (made["manifest"]["reason"], made["manifest"]["method"]) == ("pre-upgrade", "offline")
    wanted = {"project": "opstage", "recovery_point": "latest", "root": str(root)}
    found = run("recovery_point_info", version="0.2.0", **wanted)
    assert not found["changed"]
    for name in ("path", "database", "sha256", "manifest"):
        assert found[name] == made[name]
    assert "newer than 0.1.0" in run("recovery_point_info", version="0.1.0", **wanted)["msg"]
    Path(made["database"]).write_bytes(b"damaged")
    damaged = run("recovery_point_info", version="0.2.0", **wanted)["msg"]
    assert "is damaged" in damaged
    assert damaged.endswith("Nothing was changed.")


def test_what_was_written_between_two_recovery_points(deployment: dict[str, Any], run: Run, tmp_path: Path) -> None:
    options = {"deployment": deployment, "root": str(tmp_path / "backups")}
    before = run("recovery_point", **options)["database"]
    with closing(sqlite3.connect(deployment["database"], isolation_level=None)) as connection:
        connection.execute("DELETE FROM entries WHERE number <= 3")
    after = run("recovery_point", **options)["database"]
    found = run("recovery_point_changes", before=before, after=after)
    assert (found["changed"], found["text"]) == (False, "entries: 3 removed")
    assert found["tables"] == {"entries": {"added": 0, "changed": 0, "removed": 3}}
    Path(after).write_bytes(b"damaged")
    assert "It cannot be said what was written" in run("recovery_point_changes", before=before, after=after)["msg"]


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 400, None])
def test_a_damaged_database(deployment: dict[str, Any], run: Run, tmp_path: Path, damage: bytes | None) -> None:
    """It fails a backup, and not the restore that is to mend it."""
    path = Path(deployment["database"])
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    options = {"deployment": deployment, "root": str(tmp_path / "backups")}
    failed = run("recovery_point", **options)
    assert failed["msg"].startswith("No recovery point was made, and nothing is left of it: ")
    allowed = run("recovery_point", allow_damaged=True, **options)
    assert (allowed["changed"], "path" in allowed) == (False, False)
    assert allowed["damage"].rpartition("opstage.db: ")[2] in failed["msg"]
    assert names_in(tmp_path / "backups" / "opstage") == []


def test_what_is_no_damage_fails_all_the_same(deployment: dict[str, Any], run: Run, tmp_path: Path) -> None:
    (tmp_path / "backups").write_bytes(b"")
    for root, words in ((tmp_path / "backups", "Not a directory"), ("backups", "expected an absolute path")):
        failed = run("recovery_point", allow_damaged=True, deployment=deployment, root=str(root))
        assert words in failed["msg"]


def test_preflight(deployment: dict[str, Any], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EngineSettings(str(tmp_path), frozenset(), (), "", "", "")
    monkeypatch.setattr(upgrade_preflight, "find_remote_image", lambda _image: RemoteImage("sha256:" + "7" * 64, []))
    monkeypatch.setattr(upgrade_preflight, "host_platform", lambda: "linux/amd64")
    monkeypatch.setattr(upgrade_preflight, "get_engine_settings", lambda: engine)
    monkeypatch.setattr(upgrade_preflight, "local_image_size", lambda _image: 1)
    monkeypatch.setattr(upgrade_preflight, "pin_problems", lambda *_arguments: [])
    monkeypatch.setattr(host_registry.Registry, "tags", lambda _registry: ["0.2.1", "0.3.0", "edge"])
    options = {"deployment": {**deployment, "status": "UP"}, "root": str(tmp_path), "rehearse": False}
    plan = run("upgrade_preflight", version="0.3.0", acknowledge="0.3.0", stops="0.2.1", **options)
    assert (plan["changed"], plan["needed"], plan["problems"]) == (False, True, [])
    assert (plan["source"]["tag"], plan["target"]["tag"]) == ("0.2.0", "0.3.0")
    assert plan["target"]["image"].endswith(":0.3.0@sha256:" + "7" * 64)
    assert [step["version"] for step in plan["path"]] == plan["versions"] == ["0.2.1", "0.3.0"]
    assert (plan["versions_complete"], plan["predicted_seconds"]) == (True, None)
    assert not run("upgrade_preflight", version="0.2.0", **options)["needed"]


def test_preflight_leaves_it_to_the_role_to_fail(deployment: dict[str, Any], run: Run) -> None:
    cut_off = {"operation": "restore", "time": "2026-11-22T02:15:00.000000Z"}
    found = run("upgrade_preflight", deployment=deployment, version="0.1.0", unfinished_operation=cut_off)
    (problem,) = found["problems"]
    assert "was cut off: restore" in problem
    failed = run("upgrade_preflight", deployment={**deployment, "image": "No image"}, version="0.3.0")
    assert failed["msg"].startswith("The image of the deployment cannot be upgraded: ")


def test_preflight_tries_the_account(deployment: dict[str, Any], run: Run) -> None:
    with serving_console(Console(role="viewer")) as console:
        given = {**deployment, "status": "UP", "url": console.url, "ca_file": None}
        options = {"deployment": given, "version": "0.3.0"}
        account = {"username": USERNAME, "password": PASSWORD}
        run("upgrade_preflight", **options)
        run("upgrade_preflight", check_mode=True, **options, **account)
        assert console.asked == []
        found = run("upgrade_preflight", **options, **account)
        assert "has the role viewer" in found["problems"][-1]
        assert PASSWORD not in json.dumps(found)
        assert console.sessions == 0
    assert "required together" in run("upgrade_preflight", username=USERNAME, **options)["msg"]


def test_health(run: Run, docker: RecordedDocker) -> None:
    docker.has_containers([recorded_container("published")])
    with serving(answers("0.3.0")) as service:
        options = {"url": service.url, "project": "opstage", "service": "published"}
        healthy = run("deployment_health", version="0.3.0", **options)
        other = run("deployment_health", version="0.4.0", **options)
        asked = len(service.asked)
        assert run("deployment_health", check_mode=True, version="0.4.0", **options)["changed"] is False
        assert len(service.asked) == asked
        gone = run("deployment_health", **{**options, "service": "web"})
    assert gone["msg"] == "The service web of the project opstage has no container any more."
    assert (healthy["status"], healthy["version"], healthy["edition"]) == ("UP", "0.3.0", "ce")
    assert "expected 0.4.0" in other["msg"]
    assert other["container_logs"] == ["last words"]


def test_health_over_tls(docker: RecordedDocker, run: Run, tmp_path: Path) -> None:
    docker.has_containers([recorded_container("published")])
    authority = PrivateAuthority(tmp_path)
    with serving_console(Console(instead=answers("0.3.0")), authority.certificate()) as console:
        options = {"url": console.url, "project": "opstage", "service": "published", "timeout": 1}
        assert run("deployment_health", ca_file=str(authority.file), **options)["version"] == "0.3.0"
        assert "does not trust" in run("deployment_health", **options)["msg"]


def test_preparation(run: Run, state: Path, deployment: dict[str, Any], docker: RecordedDocker, tmp_path: Path) -> None:
    options = {"deployment": deployment, "image": "repo:0.3.0", "root": str(tmp_path / "backups")}
    asked = docker.calls
    planned = run("upgrade_preparation", check_mode=True, **options)
    assert planned["changed"]
    assert docker.calls == asked
    assert not state.exists()
    assert not (tmp_path / "backups").exists()
    assert run("upgrade_preparation", **options)["msg"].startswith("The image repo:0.3.0 could not be pulled, nothing")
    assert not (tmp_path / "backups").exists()
    docker.says("compose", "")
    done = run("upgrade_preparation", rehearse=False, **options)
    assert (done["changed"], done["isolation"], "version" in done) == (True, planned["isolation"], False)
    image = state / "opstage" / "target-image.yml"
    assert image.read_text() == 'services:\n  "published":\n    image: "repo:0.3.0"\n'
    assert any(call.endswith(f"--file {image} pull --quiet published") for call in docker.calls)
    # Docker here starts nothing: the recovery point is there already, and stays.
    failed = run("upgrade_preparation", **options)
    assert failed["msg"].startswith("The rehearsal of repo:0.3.0 failed, nothing was changed: ")
    assert failed["path"].endswith("-pre-upgrade")
    points = sorted(Path(made["path"]).name for made in (done, failed))
    assert sorted(names_in(tmp_path / "backups" / "opstage")) == points
    Path(deployment["database"]).write_bytes(b"no database" * 1000)
    failed = run("upgrade_preparation", **options)
    assert failed["msg"].startswith("No recovery point was made, and nothing is left of it: ")
    assert len(names_in(tmp_path / "backups" / "opstage")) == 2
    (state / "opstage").rename(state / "elsewhere")
    (state / "opstage").symlink_to("elsewhere")
    assert "cannot be written" in run("upgrade_preparation", **{**options, "image": "repo:0.4.0"})["msg"]


def test_an_image_that_is_here_by_its_digest_is_not_pulled_again(
    run: Run, state: Path, deployment: dict[str, Any], docker: RecordedDocker, tmp_path: Path
) -> None:
    options = {"deployment": deployment, "rehearse": False, "root": str(tmp_path / "backups")}
    docker.says("compose", "")
    pinned = f"repo:0.3.0@sha256:{'3' * 64}"

    def pulls(image: str) -> int:
        asked = len(docker.calls)
        assert run("upgrade_preparation", image=image, **options)["changed"]
        return sum(" pull --quiet " in call for call in docker.calls[asked:])

    assert pulls(pinned) == 0
    assert pulls("repo:0.3.0") == 1
    (docker.folder / "image-inspect").unlink()
    assert pulls(pinned) == 1
