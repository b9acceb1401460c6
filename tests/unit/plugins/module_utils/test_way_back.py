# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollback, and the end of an operation that was cut off: what is recorded before each step, and what each leaves.

Databases, recovery points, journal and lock are real; molecule has real containers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import journal, way_back
from ansible_collections.capsule.opstage.plugins.module_utils.deployment import Deployment, DiscoveryError
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import DeploymentLockError, take_lock
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.host_rollback import (
    HostRollback,
    NothingToUndoError,
    Undone,
    undo_upgrade,
)
from ansible_collections.capsule.opstage.plugins.module_utils.journal import (
    CONFIRMED,
    append_entry,
    find_unfinished,
    read_entries,
)
from ansible_collections.capsule.opstage.plugins.module_utils.operation_record import OperationRecord
from ansible_collections.capsule.opstage.plugins.module_utils.operation_resumption import Resumption, resume_operation
from ansible_collections.capsule.opstage.plugins.module_utils.readiness import NotReadyError, Readiness
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint, list_recovery_points
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_at_stop import RecoveryPointAtStop
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError, Reason
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_rollback import (
    Rollback,
    RollbackError,
    roll_back,
)
from sqlite_testing import make_database, names_in, numbers_in

OLD = {"version": "0.2.0", "tag": "0.2.0", "digest": None, "image_id": "sha256:1", "image_digest": "sha256:d1"}
NEW = {"version": "0.3.0", "tag": "0.3.0", "digest": "sha256:" + "3" * 64, "image_id": None, "image_digest": None}
PIN_OLD = "pin 0.2.0 None"
PIN_NEW = f"pin 0.3.0 {NEW['digest']}"


class Host:
    """A deployment with a real database, in the place of Docker what was asked of it; `does` happens at a step."""

    def __init__(self, folder: Path) -> None:
        self.root = str(folder / "backups")
        project, data = folder / "project", folder / "data"
        project.mkdir()
        data.mkdir()
        (project / "compose.yml").write_text("services: {web: {image: 'repo:0.3.0'}}\n")
        self.database = Path(make_database(data / "opstage.db", 20, "WAL"))
        self.deployment: dict[str, Any] = {
            **{"project": "opstage", "project_dir": str(project), "config_files": [str(project / "compose.yml")]},
            **{"environment_files": [], "service": "web", "container": "opstage-web-1", "container_status": "running"},
            **{"image": "repo:0.3.0", "repository": "repo", "tag": "0.3.0", "digest": None},
            **{"image_id": "sha256:" + "3" * 64, "version": "0.3.0", "version_source": "api", "edition": "ce"},
            **{"database": str(self.database), "url": "http://127.0.0.1:8080", "ca_file": None},
        }
        self.asked: list[str] = []
        self.known: list[int] = []
        """Before which of these the host was told of the container."""
        self.does: dict[str, Callable[[], object]] = {}
        self.lock = take_lock(journal.state_folder("opstage"), "rollback", "root", "here", None)[0].token

    def step(self, name: str) -> None:
        self.asked.append(name)
        self.does.get(name, lambda: None)()

    def healthy(self, version: str | None) -> Readiness:
        self.step(f"healthy {version}")
        return Readiness("UP", version or "0.0.0", "ce", 0.1)

    def write(self, *numbers: int) -> None:
        with contextlib.closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            connection.executemany("INSERT INTO entries VALUES (?, 'later')", [(number,) for number in numbers])

    def point(self, reason: str = "pre-upgrade") -> RecoveryPoint:
        return create_recovery_point(self.deployment, self.root, reason, "offline", "0.1.0")

    @property
    def numbers(self) -> list[int]:
        return numbers_in(self.database)

    @property
    def points(self) -> list[str]:
        return [name[28:] for name in names_in(Path(self.root, "opstage"))]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(journal, "STATE_ROOT", str(tmp_path / "state"))
    made = Host(tmp_path)

    class Pinned:
        image = "repo:pinned"

    def pin(_project: object, _service: str, tag: str, digest: str | None) -> type[Pinned]:
        made.step(f"pin {tag} {digest}")
        return Pinned

    replacements: dict[str, Any] = {
        "find_container": lambda *_names: "opstage-web-1",
        "describe_container": lambda *_names: {"Name": "/opstage-web-1"},
        "make_known": lambda _container: made.known.append(len(made.asked)),
        "stop_service": lambda deployment: made.step(f"stop {deployment['container']}"),
        "pin_image": pin,
        "give_tag_back": lambda image, image_id, digest: made.step(f"tag {image} {image_id} {digest}"),
        "start_service": lambda _deployment, pull: made.step(f"start, pull {pull}"),
        "wait_until_ready": lambda _url, version, _timeout, _container, ca_file: made.healthy(version),
    }
    for name, function in replacements.items():
        monkeypatch.setattr(way_back, name, function)
    return made


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def entries() -> list[dict[str, Any]]:
    return read_entries(journal.journal_path("opstage"))


STOP, START = "stop opstage-web-1", "start, pull missing"
WAY = [STOP, STOP, PIN_OLD, "tag repo:pinned sha256:1 sha256:d1", START, "healthy 0.2.0"]


class TestRollback:
    @pytest.fixture
    def wanted(self, host: Host) -> Rollback:
        """To the database of twenty rows; five more were written since."""
        point = host.point()
        host.write(*range(21, 26))
        return Rollback(
            host.deployment, point.path, point.database, point.sha256, OLD, host.lock, host.root, 30, "0.1.0"
        )

    def test_back(self, host: Host, wanted: Rollback) -> None:
        done = roll_back(wanted)
        assert host.asked == WAY
        assert [host.asked[number] for number in host.known] == ["healthy 0.2.0"]
        assert (done.version, done.kept.dropped) == ("0.2.0", "entries: 5 added")
        assert host.numbers == list(range(1, 21))
        assert host.points == ["pre-upgrade", "pre-rollback"]
        assert done.kept.path is not None
        assert numbers_in(Path(done.kept.path, "opstage.db")) == list(range(1, 26))
        assert [entry["status"] for entry in entries()] == ["started", "step", "step", "finished"]
        last = entries()[-1]
        assert (last["recovery_point"], last["present"]) == (wanted.point, done.kept.path)
        assert (last["source"]["version"], last["target"]) == ("0.3.0", OLD)

    def test_what_is_left_is_recorded_before_each_step(self, host: Host, wanted: Rollback) -> None:
        seen: list[dict[str, Any]] = []
        for step in (STOP, PIN_OLD):
            host.does[step] = lambda: seen.append(entries()[-1]["left"])
        roll_back(wanted)
        assert seen[0] == {"action": "start", "serve": {"version": "0.3.0"}, "outcome": "failed"}
        assert seen[1] == {
            **{"action": "replace", "database": wanted.database, "sha256": wanted.sha256, "keep_damaged": False},
            **{"serve": OLD, "outcome": "finished"},
        }
        assert seen[2] == {**seen[1], "action": "start"}

    def test_a_damaged_database_is_kept_as_it_is(self, host: Host, wanted: Rollback) -> None:
        for name in (host.database, Path(f"{host.database}-wal")):
            if name.exists():
                name.write_bytes(b"damaged" * 1000)
        done = roll_back(wanted)
        assert (done.kept.path, done.kept.damage is not None) == (None, True)
        assert host.numbers == list(range(1, 21))
        assert any(name.endswith("~") for name in names_in(host.database.parent))

    @pytest.mark.parametrize("status", ["running", "exited"])
    def test_where_it_cannot_begin_what_ran_is_started_again(self, host: Host, wanted: Rollback, status: str) -> None:
        host.deployment["container_status"] = status
        host.does[STOP] = raising(DockerError("it does not stop"))
        with pytest.raises(RollbackError, match="it does not stop") as caught:
            roll_back(wanted)
        assert caught.value.left == "nothing"
        assert host.asked[1:] == ([START, "healthy 0.3.0"] if status == "running" else [])
        assert (entries()[-1]["status"], entries()[-1]["cause"]) == ("failed", "it does not stop")
        assert host.numbers == list(range(1, 26))

    def test_without_room_for_the_old_database_nothing_is_replaced(
        self, host: Host, wanted: Rollback, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        full = DatabaseFileError(Reason.NO_SPACE, "no room")
        monkeypatch.setattr(way_back, "restore_database", lambda *_arguments, **_options: raising(full)())
        with pytest.raises(RollbackError, match="no room") as caught:
            roll_back(wanted)
        assert (caught.value.left, host.asked[-2:]) == ("nothing", [START, "healthy 0.3.0"])
        assert caught.value.kept is not None
        assert entries()[-1]["present"] == caught.value.kept
        assert find_unfinished(entries()) is None

    @pytest.mark.parametrize("step", [PIN_OLD, START, "healthy 0.2.0"])
    def test_what_is_left_is_for_the_next_run(self, host: Host, wanted: Rollback, step: str) -> None:
        host.does[step] = raising(NotReadyError("not yet", []))
        with pytest.raises(RollbackError, match="not yet") as caught:
            roll_back(wanted)
        assert caught.value.left == "later"
        unfinished = find_unfinished(entries())
        assert unfinished is not None
        assert (unfinished["left"]["action"], unfinished["left"]["outcome"]) == ("start", "finished")

    def test_who_lost_the_lock_changes_nothing_more(self, host: Host, wanted: Rollback) -> None:
        host.does[STOP] = lambda: take_lock(
            journal.state_folder("opstage"), "restore", "other", "elsewhere", None, gone=host.lock
        )
        with pytest.raises(RollbackError, match="does not hold the lock") as caught:
            roll_back(wanted)
        assert caught.value.left == "later"
        assert host.numbers == list(range(1, 26))


class TestResumption:
    def resume(self, host: Host, left: dict[str, Any], copy_first: bool = False, operation: str = "upgrade") -> Any:
        record = OperationRecord("opstage", operation, "the run", host.lock, {"target": NEW})
        record.write("started", left)
        unfinished = {**(find_unfinished(entries()) or {}), "copy_first": copy_first}
        return resume_operation(Resumption(host.deployment, unfinished, host.lock, host.root, 30, "0.1.0"))

    def test_the_old_database_is_put_back(self, host: Host) -> None:
        point = host.point()
        host.write(21)
        left = {
            **{"action": "replace", "database": point.database, "sha256": point.sha256, "keep_damaged": True},
            **{"serve": OLD, "outcome": "failed"},
        }
        resumed = self.resume(host, left)
        assert host.asked == WAY[1:]
        assert (resumed.outcome, resumed.version, resumed.kept, resumed.dropped) == ("failed", "0.2.0", None, None)
        assert host.numbers == list(range(1, 21))
        last = entries()[-1]
        assert (last["status"], last["run"], last["target"]) == ("failed", "the run", NEW)
        assert last["cause"] == "It was cut off, and the next run ended it."
        assert any(name.endswith("~") for name in names_in(host.database.parent))

    def test_what_clients_wrote_since_is_kept_first(self, host: Host) -> None:
        point = host.point()
        host.write(21, 22)
        left = {
            **{"action": "replace", "database": point.database, "sha256": point.sha256},
            **{"serve": OLD, "outcome": "finished"},
        }
        resumed = self.resume(host, left, copy_first=True, operation="rollback")
        assert (resumed.dropped, host.points) == ("entries: 2 added", ["pre-upgrade", "pre-rollback"])
        assert numbers_in(Path(resumed.kept, "opstage.db")) == list(range(1, 23))
        assert (entries()[-1]["status"], entries()[-1]["present"]) == ("finished", resumed.kept)

    def test_only_the_service_is_started(self, host: Host) -> None:
        resumed = self.resume(host, {"action": "start", "serve": {"version": "0.3.0"}, "outcome": "failed"})
        assert host.asked == [START, "healthy 0.3.0"]
        assert (resumed.outcome, Path(host.root).exists()) == ("failed", False)

    @pytest.mark.parametrize(
        ("action", "serve", "outcome", "kept"), [("replace", OLD, "failed", 20), ("start", NEW, "finished", 21)]
    )
    def test_a_recovery_point_that_was_begun_is_completed(
        self, host: Host, action: str, serve: dict[str, Any], outcome: str, kept: int
    ) -> None:
        with RecoveryPointAtStop(host.deployment, host.root, "pre-upgrade", None) as begun:
            begun.keep_project_files()
            begun.take()
        host.write(21)
        resumed = self.resume(host, {"action": action, "complete": begun.folder, "serve": serve, "outcome": outcome})
        assert (resumed.outcome, len(host.numbers)) == (outcome, kept)
        assert host.points == ["pre-upgrade"]
        assert entries()[-1]["recovery_point"].endswith("-pre-upgrade")

    def test_a_failure_leaves_it_for_the_next_run(self, host: Host) -> None:
        point = host.point()
        host.write(21)
        host.does[START] = raising(DockerError("the port is taken"))
        left = {
            **{"action": "replace", "database": point.database, "sha256": point.sha256},
            **{"serve": OLD, "outcome": "failed"},
        }
        with pytest.raises(DockerError):
            self.resume(host, left)
        unfinished = find_unfinished(entries())
        assert unfinished is not None
        assert (unfinished["run"], unfinished["left"]["action"]) == ("the run", "start")
        del host.does[START]
        resumed = resume_operation(
            Resumption(host.deployment, {**unfinished, "copy_first": False}, host.lock, host.root, 30, "0.1.0")
        )
        assert (resumed.outcome, find_unfinished(entries())) == ("failed", None)

    def test_who_lost_the_lock_records_nothing(self, host: Host) -> None:
        token, host.lock = host.lock, "another"
        with pytest.raises(DeploymentLockError):
            self.resume(host, {"action": "start", "serve": OLD, "outcome": "failed"})
        assert (host.asked, token != host.lock) == ([], True)


class TestHostRollback:
    """What `opstage-ops rollback` does, by hand and when nobody has confirmed an upgrade."""

    @pytest.fixture
    def upgraded(self, host: Host) -> str:
        """The run of an upgrade from 0.2.0, since which five rows were written."""
        before = {**host.deployment, "image": "repo:0.2.0", "tag": "0.2.0", "version": "0.2.0"}
        point = create_recovery_point(before, host.root, "pre-upgrade", "offline", "0.1.0")
        for status in ("started", "finished"):
            append_entry(journal.journal_path("opstage"), "upgrade", status, "up", {"recovery_point": point.path})
        host.write(*range(21, 26))
        return "up"

    def undo(self, host: Host, run: str | None = None) -> Undone:
        fields: dict[str, Any] = {one.name: host.deployment.get(one.name) for one in dataclasses.fields(Deployment)}
        found = Deployment(**fields)
        found = dataclasses.replace(found, isolated=False, container_started="2026-11-22T02:15:00Z")
        return undo_upgrade(HostRollback(lambda: found, host.root, host.lock, 30, run))

    @pytest.mark.parametrize("named", [True, False])
    def test_the_last_upgrade(self, host: Host, upgraded: str, named: bool) -> None:
        undone = self.undo(host, upgraded if named else None)
        assert (undone.version, host.numbers) == ("0.2.0", list(range(1, 21)))
        assert undone.rolled_back is not None
        assert undone.rolled_back.kept.dropped == "entries: 5 added"
        assert "pin 0.2.0 None" in host.asked
        with pytest.raises(NothingToUndoError, match="that has not been undone"):
            self.undo(host)

    def test_a_confirmed_one_stays(self, host: Host, upgraded: str) -> None:
        append_entry(journal.journal_path("opstage"), "upgrade", CONFIRMED, upgraded, {})
        with pytest.raises(NothingToUndoError, match="was confirmed"):
            self.undo(host, upgraded)
        assert (host.asked, len(host.numbers)) == ([], 25)
        assert self.undo(host).version == "0.2.0"

    def test_a_newer_upgrade_is_not_the_one_that_was_not_confirmed(self, host: Host, upgraded: str) -> None:
        for status in ("started", "finished"):
            append_entry(journal.journal_path("opstage"), "upgrade", status, "newer", {"recovery_point": "/nowhere"})
        with pytest.raises(NothingToUndoError, match="no such upgrade"):
            self.undo(host, upgraded)
        assert host.asked == []

    @pytest.mark.parametrize(("outcome", "rolled_back"), [("failed", False), ("finished", True)])
    def test_one_that_was_cut_off_is_ended_first(
        self, host: Host, upgraded: str, outcome: str, rolled_back: bool
    ) -> None:
        (path,) = list_recovery_points(host.root, "opstage")
        left = {"action": "start", "serve": OLD if outcome == "failed" else NEW, "outcome": outcome}
        append_entry(
            journal.journal_path("opstage"), "upgrade", "started", "cut", {"left": left, "recovery_point": path}
        )
        undone = self.undo(host, "cut")
        assert (undone.version, undone.rolled_back is not None) == ("0.2.0", rolled_back)
        assert len(host.numbers) == (20 if rolled_back else 25)
        assert find_unfinished(entries()) is None

    def test_another_operation_that_was_cut_off_is_left_alone(self, host: Host, upgraded: str) -> None:
        left = {"action": "start", "serve": OLD, "outcome": "failed"}
        append_entry(journal.journal_path("opstage"), "restore", "started", "other", {"left": left})
        with pytest.raises(NothingToUndoError, match="Another restore began since"):
            self.undo(host, upgraded)
        assert host.asked == []

    def test_an_image_of_another_repository_is_not_pinned(self, host: Host, upgraded: str) -> None:
        host.deployment["repository"] = "another"
        with pytest.raises(DiscoveryError, match="made with an image of repo, here runs one of another"):
            self.undo(host)
        assert host.asked == []
