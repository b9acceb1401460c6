# SPDX-License-Identifier: GPL-3.0-or-later
"""Only what Engine and registry answer is made up; test_docker_registry and test_host_registry have what they say."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import compose_command
import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import journal, upgrade_preflight
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.docker_registry import (
    EngineSettings,
    RemoteImage,
    RemoteImageMissingError,
)
from ansible_collections.capsule.opstage.plugins.module_utils.host_registry import RegistryQuestionError
from ansible_collections.capsule.opstage.plugins.module_utils.image_reference import ImageReferenceError
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_session import Account
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_preflight import (
    UpgradePlan,
    UpgradeRequest,
    examine,
    plan_upgrade,
    try_account,
)
from console_testing import LOGOUT, PASSWORD, USERNAME, Console, refusal, serving_console
from opstage_testing import recorded_container
from sqlite_testing import fingerprint, make_database, mounted_tmpfs, names_in

REPOSITORY = "registry:5000/opstage"
PRESENT, TARGET, OTHER = ("sha256:" + digit * 64 for digit in "012")
IMAGE_ID = "sha256:" + "9" * 64
DEPLOYMENT: dict[str, Any] = {
    "project": "web",
    "version": "0.2.0",
    "tag": "0.2.0",
    "digest": PRESENT,
    "image": f"{REPOSITORY}:0.2.0",
    "image_id": IMAGE_ID,
    "repository": REPOSITORY,
    "service": "web",
    "container": "web-web-1",
    "container_status": "running",
    "status": "UP",
    "url": "http://127.0.0.1:8080",
    "ca_file": None,
    "database": "/opstage.db",
    "database_size": 4096,
    "environment_files": [],
}
NOW = datetime(2026, 11, 22, 2, 30, tzinfo=UTC)
"""A Sunday."""


def plan(target: str = "0.3.0", unfinished: dict[str, Any] | None = None, **changes: Any) -> UpgradePlan:
    request = UpgradeRequest(target, acknowledge=(target,))
    return plan_upgrade({**DEPLOYMENT, **changes}, request, unfinished)


def only_problem(target: str = "0.3.0", **changes: Any) -> str:
    found = plan(target, **changes)
    assert found.needed
    (problem,) = found.problems
    return problem


class TestPlan:
    def test_nothing_in_the_way(self) -> None:
        found = plan()
        assert (found.needed, found.problems) == (True, [])
        assert found.source == {
            "version": "0.2.0",
            "tag": "0.2.0",
            "digest": PRESENT,
            "image": f"{REPOSITORY}:0.2.0",
            "image_id": IMAGE_ID,
            "url": "http://127.0.0.1:8080",
            "pinned_digest": None,
        }
        assert found.target == {
            "version": "0.3.0",
            "tag": "0.3.0",
            "digest": None,
            "image": f"{REPOSITORY}:0.3.0",
        }

    def test_a_digest_in_the_project_s_files_is_what_a_rollback_pins_again(self) -> None:
        assert plan(image=f"{REPOSITORY}:0.2.0@{OTHER}").source["pinned_digest"] == OTHER

    @pytest.mark.parametrize(
        ("target", "current", "tag", "needed"),
        [
            ("0.2.0", "0.2.0", "0.2.0", False),
            ("0.3.0", "0.2.0", "0.2.0", True),
            ("0.2.0", "0.2.0", "0.2", True),
            ("0.2.0", "0.2.0", None, True),
            ("0.3.0", "0.2.0", "0.3.0", True),
            ("edge", "edge", "edge", True),
        ],
    )
    def test_needed(self, target: str, current: str, tag: str | None, needed: bool) -> None:
        """Also where the version is right and a moving tag is named, or the tag is right and something else serves."""
        found = plan(target, version=current, tag=tag)
        assert (found.needed, found.problems) == (needed, [])
        assert bool(found.path) == needed

    @pytest.mark.parametrize("current", [None, "", "edge"])
    def test_what_runs_is_not_known(self, current: str | None) -> None:
        assert only_problem(version=current).startswith("The version that runs is not known")

    def test_what_the_path_says_is_said(self) -> None:
        request = UpgradeRequest("0.3.0", stops=["0.3"])
        changelog, stop = plan_upgrade(DEPLOYMENT, request, None).problems
        assert "set opstage_upgrade_acknowledge to '0.3.0'" in changelog
        assert "'0.3' is no version" in stop

    @pytest.mark.parametrize("state", ["exited", "restarting", "created", "paused"])
    def test_a_container_that_does_not_run(self, state: str) -> None:
        problem = only_problem(container_status=state, status=None)
        assert problem.startswith(f"The container web-web-1 is {state}, expected running")

    @pytest.mark.parametrize(("status", "words"), [(None, "nothing"), ("DEGRADED", "DEGRADED"), ("DOWN", "DOWN")])
    def test_a_service_that_is_not_healthy(self, status: str | None, words: str) -> None:
        assert only_problem(status=status).startswith(f"http://127.0.0.1:8080 reports {words}, expected UP")

    def test_no_database(self) -> None:
        assert only_problem(database_size=None) == "There is no database at /opstage.db."

    @pytest.mark.parametrize("operation", ["upgrade", "rollback", "restore"])
    @pytest.mark.parametrize("target", ["0.2.0", "0.3.0"])
    def test_an_operation_that_was_cut_off(self, operation: str, target: str) -> None:
        """Also when the target seems to run already."""
        problem = only_problem(target, unfinished={"operation": operation, "time": "2026-11-22T02:15:00.000000Z"})
        assert f"was cut off: {operation}, started 2026-11-22T02:15:00.000000Z. " in problem
        assert "A run that is not in check mode brings it to its end first." in problem

    def test_everything_is_told_at_once(self) -> None:
        found = plan("0.1.0", status="DOWN", database_size=None)
        assert len(set(found.problems)) == 3

    def test_after_an_operation_that_was_cut_off_nothing_else_can_be_judged(self) -> None:
        unfinished = {"operation": "upgrade", "time": "2026-11-22T02:15:00.000000Z"}
        found = plan("0.1.0", unfinished, status="DOWN", database_size=None)
        assert len(found.problems) == 1

    def test_an_image_that_is_none(self) -> None:
        with pytest.raises(ImageReferenceError):
            plan(image="Not an image")


class FakeRegistry:
    """Lists `listed`, None for no list; every image has `size` bytes of layers, None for unknown."""

    listed: list[str] | None
    size: int | None

    def __init__(self, repository: str, _engine: EngineSettings) -> None:
        assert repository == REPOSITORY

    def tags(self) -> list[str]:
        if FakeRegistry.listed is None:
            raise RegistryQuestionError("no list")
        return FakeRegistry.listed

    def layers_size(self, _digest: str, platform: str) -> int:
        assert platform == "linux/amd64"
        if FakeRegistry.size is None:
            raise RegistryQuestionError("no size")
        return FakeRegistry.size


class Base:
    @pytest.fixture(autouse=True)
    def world(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: dict[str, RemoteImage | Exception] = {
            f"{REPOSITORY}:{tag}": RemoteImage(digest, ["linux/amd64"])
            for tag, digest in (("0.3.0", TARGET), ("0.2.5", OTHER), ("edge", OTHER), ("0.4.0", OTHER))
        }
        self.asked: list[str] = []
        self.here: dict[str, int] = {}
        FakeRegistry.listed = ["0.2.0", "0.2.5", "0.3.0", "0.3", "edge", "0.4.0"]
        FakeRegistry.size = 1000
        settings = EngineSettings(str(tmp_path / "images"), frozenset(), (), "", "", "")
        monkeypatch.setattr(upgrade_preflight, "Registry", FakeRegistry)
        monkeypatch.setattr(upgrade_preflight, "find_remote_image", self.answer)
        monkeypatch.setattr(upgrade_preflight, "host_platform", lambda: "linux/amd64")
        monkeypatch.setattr(upgrade_preflight, "get_engine_settings", lambda: settings)
        monkeypatch.setattr(upgrade_preflight, "local_image_size", self.here.get)
        monkeypatch.setattr(journal, "STATE_ROOT", str(tmp_path / "state"))
        monkeypatch.setenv("PATH", f"{self.docker(tmp_path)}:{compose_command.search_path()}")
        self.root = tmp_path / "backups"
        self.project = tmp_path / "project"
        self.project.mkdir()
        (self.project / "compose.yml").write_text(f"services:\n  web:\n    image: {REPOSITORY}:0.2.0\n")
        self.database = make_database(tmp_path / "opstage.db", 20, "WAL")

    def docker(self, folder: Path) -> Path:
        """A `docker` that knows the container, and Compose."""
        container = recorded_container("published")
        container["State"]["Pid"] = 0
        (folder / "bin").mkdir()
        (folder / "bin" / "container.json").write_text(json.dumps([container]))
        program = folder / "bin" / "docker"
        program.write_text(
            f'#!/bin/sh\n[ "$1" = container ] && exec cat {folder}/bin/container.json\n'
            f'PATH={compose_command.search_path()} exec docker "$@"\n'
        )
        program.chmod(0o755)
        return folder / "bin"

    def answer(self, reference: str) -> RemoteImage:
        self.asked.append(reference)
        found = self.found.get(reference, RemoteImageMissingError(f"{reference} is not in its registry."))
        if isinstance(found, Exception):
            raise found
        return found

    def examined(
        self, target: str = "0.3.0", *, window: str | None = None, changes: dict[str, Any] | None = None, **options: Any
    ) -> UpgradePlan:
        deployment = {
            **DEPLOYMENT,
            "project_dir": str(self.project),
            "config_files": [str(self.project / "compose.yml")],
            "database": str(self.database),
            **(changes or {}),
        }
        request = UpgradeRequest(
            target, **{"acknowledge": (target,), "window": window, "root": str(self.root), "rehearse": True, **options}
        )
        return examine(plan_upgrade(deployment, request, None), deployment, request, NOW)

    def problem(self, target: str = "0.3.0", **options: Any) -> str:
        (problem,) = self.examined(target, **options).problems
        return problem


class TestTarget(Base):
    def test_what_was_examined_is_what_is_run(self) -> None:
        examined = self.examined()
        assert examined.problems == []
        assert examined.target == {
            "version": "0.3.0",
            "tag": "0.3.0",
            "digest": TARGET,
            "image": f"{REPOSITORY}:0.3.0@{TARGET}",
        }
        assert examined.path == [examined.target]
        assert self.asked == [f"{REPOSITORY}:0.3.0"]
        assert (examined.versions, examined.versions_complete) == (["0.2.5", "0.3.0"], True)
        assert examined.predicted_seconds is None

    def test_nothing_is_changed(self, tmp_path: Path) -> None:
        before = names_in(tmp_path), names_in(self.project), fingerprint(self.project / "compose.yml", self.database)
        self.examined()
        after = names_in(tmp_path), names_in(self.project), fingerprint(self.project / "compose.yml", self.database)
        assert after[1:] == before[1:]
        assert set(after[0]) - set(before[0]) <= {"opstage.db-shm", "opstage.db-wal"}

    def test_nothing_is_asked_where_nothing_is_to_be_done(self) -> None:
        examined = self.examined("0.2.0", window="Mon 01:00-02:00 UTC")
        assert (examined.needed, examined.problems, examined.path, examined.versions) == (False, [], [], [])
        assert self.asked == []

    def test_everything_that_stands_in_the_way_is_said_at_once(self) -> None:
        (self.project / "compose.yml").write_text("services: {}\n")
        self.database.write_bytes(b"")
        examined = self.examined(
            "0.9.0", window="Mon 01:00-02:00 UTC", changes={"status": "DOWN"}, acknowledge=(), stops=["next"]
        )
        assert examined.target["digest"] is None
        unhealthy, changelog, stop, missing, closed, database, project = examined.problems
        assert "expected UP" in unhealthy
        assert "read the changelogs" in changelog
        assert "'next' is no version" in stop
        assert missing == f"{REPOSITORY}:0.9.0 is not in its registry."
        assert closed == "The maintenance window Mon 01:00-02:00 UTC is closed: it opens at 2026-11-23T01:00:00Z."
        assert "cannot be checked" in database
        assert "cannot be pinned" in project

    def test_a_database_that_is_missing_is_not_checked(self) -> None:
        self.database.unlink()
        assert self.problem(changes={"database_size": None}) == f"There is no database at {self.database}."

    def test_another_platform(self) -> None:
        self.found[f"{REPOSITORY}:0.3.0"] = RemoteImage(TARGET, ["linux/arm64"])
        assert self.problem() == f"{REPOSITORY}:0.3.0 is for linux/arm64; this host is linux/amd64."
        self.found[f"{REPOSITORY}:0.3.0"] = RemoteImage(TARGET, [])
        assert self.examined().problems == []

    def test_an_engine_that_does_not_answer_is_told_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_arguments: object) -> None:
            raise DockerError("No Engine.")

        for name in ("get_engine_settings", "find_remote_image", "local_image_size", "host_platform"):
            monkeypatch.setattr(upgrade_preflight, name, fail)
        assert self.problem() == "No Engine."

    def test_a_registry_that_lists_no_tags(self) -> None:
        FakeRegistry.listed = None
        examined = self.examined()
        assert (examined.problems, examined.versions, examined.versions_complete) == ([], ["0.3.0"], False)

    @pytest.mark.parametrize("running", ["0.2.0", "edge", None])
    def test_a_moving_tag_that_is_acknowledged(self, running: str | None) -> None:
        examined = self.examined("edge", changes={"version": running})
        assert (examined.needed, examined.problems) == (True, [])
        assert examined.target == {
            "version": None,
            "tag": "edge",
            "digest": OTHER,
            "image": f"{REPOSITORY}:edge@{OTHER}",
        }
        assert (examined.path, examined.versions) == ([examined.target], [])
        assert not examined.versions_complete

    def test_a_moving_tag_whose_image_runs(self) -> None:
        self.record("finished", target={"tag": "edge", "digest": PRESENT, "image": f"{REPOSITORY}:edge"})
        examined = self.examined("edge", changes={"tag": "edge", "digest": OTHER}, window="Mon 01:00-02:00 UTC")
        assert (examined.needed, examined.problems, examined.path) == (False, [], [])
        assert self.examined("edge", changes={"tag": "edge"}).problems == []

    def test_a_moving_tag_that_is_not_acknowledged(self) -> None:
        for tag in ("0.2.0", "edge"):
            assert "'edge' is no version" in self.problem("edge", acknowledge=("0.3.0",), changes={"tag": tag})

    def test_an_alias_names_its_versions(self) -> None:
        assert self.problem("0.3").endswith("The registry has of 0.3: 0.3.0.")
        assert self.asked == []

    def test_what_cannot_be_a_tag_is_not_asked_for(self) -> None:
        assert "'a b' is no version" in self.problem("a b")
        assert self.asked == []

    def record(self, status: str, minute: int = 0, **details: Any) -> None:
        path = Path(journal.journal_path("web"))
        path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"time": f"2026-11-22T01:{minute:02}:00.000000Z", "operation": "upgrade", "status": status, "run": "r1"}
        with path.open("a") as file:
            file.write(json.dumps({**entry, **details}) + "\n")

    def test_a_tag_that_has_moved(self) -> None:
        seen = {"tag": "0.3.0", "digest": PRESENT, "image": f"{REPOSITORY}:0.3.0"}
        self.record("failed", target=seen)
        problem = self.problem()
        assert problem.startswith(f"{REPOSITORY}:0.3.0 has moved: it was {PRESENT}")
        assert self.examined(acknowledge=("0.3.0", TARGET)).problems == []

    def test_a_journal_that_cannot_be_read(self) -> None:
        Path(journal.journal_path("web")).mkdir(parents=True)
        assert self.problem().startswith("Whether a tag has moved is not known: ")

    def test_the_last_upgrade_tells_how_long_the_next_one_takes(self) -> None:
        self.record("started")
        self.record("finished", 50)
        examined = self.examined(window="Sun 02:00-04:00 UTC")
        assert (examined.predicted_seconds, examined.problems) == (3000.0, [])
        problem = self.problem(window="Sun 02:00-03:00 UTC")
        assert "Sun 02:00-03:00 UTC is open for 1800 s more, the upgrade may take 3000 s" in problem

    def test_a_window_that_is_none(self) -> None:
        assert self.problem(window="at night").startswith("opstage_maintenance_window: ")


class TestStops(Base):
    def test_they_are_gone_through(self) -> None:
        examined = self.examined("0.4.0", stops=["0.3.0", "0.2.5", "0.2.0"])
        assert examined.problems == []
        assert [(step["version"], step["digest"]) for step in examined.path] == [
            ("0.2.5", OTHER),
            ("0.3.0", TARGET),
            ("0.4.0", OTHER),
        ]
        assert examined.target == examined.path[-1]
        assert examined.versions == ["0.2.5", "0.3.0", "0.4.0"]

    def test_each_must_be_in_the_registry(self) -> None:
        assert self.problem("0.4.0", stops=["0.3.9"]) == f"{REPOSITORY}:0.3.9 is not in its registry."

    def test_each_takes_its_time(self) -> None:
        path = Path(journal.journal_path("web"))
        path.parent.mkdir(parents=True)
        common = {"operation": "upgrade", "run": "r1"}
        begun = {**common, "status": "started", "time": "2026-11-22T01:00:00.000000Z"}
        ended = {**common, "status": "finished", "time": "2026-11-22T01:00:20.000000Z"}
        path.write_text(f"{json.dumps(begun)}\n{json.dumps(ended)}\n")
        assert self.examined("0.4.0", stops=["0.3.0"]).predicted_seconds == 40.0

    def test_without_a_list_the_path_is_all_that_is_known(self) -> None:
        FakeRegistry.listed = None
        assert self.examined("0.4.0", stops=["0.3.0"]).versions == ["0.3.0", "0.4.0"]


class TestRoom(Base):
    def test_image_and_recovery_points_add_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        FakeRegistry.size = 10 << 20
        with mounted_tmpfs(tmp_path / "small", "90m") as small:
            settings = EngineSettings(str(small / "images"), frozenset(), (), "", "", "")
            monkeypatch.setattr(upgrade_preflight, "get_engine_settings", lambda: settings)
            assert self.examined().problems == []
            self.root = small / "backups"
            problem = self.problem()
            assert f"{40 << 20} for the image 0.3.0 in {small}/images" in problem
            assert f"for the recovery points in {small}/backups/web" in problem
            assert "bytes are missing" in problem
            self.here[f"{REPOSITORY}@{TARGET}"] = 20 << 20
            assert self.examined().problems == []

    def test_each_image_of_the_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        FakeRegistry.size = 1 << 20
        with mounted_tmpfs(tmp_path / "small", "5m") as small:
            settings = EngineSettings(str(small), frozenset(), (), "", "", "")
            monkeypatch.setattr(upgrade_preflight, "get_engine_settings", lambda: settings)
            assert self.examined("0.4.0").problems == []
            assert "for the image 0.3.0" in self.problem("0.4.0", stops=["0.3.0"])

    def test_a_registry_that_does_not_tell(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        FakeRegistry.size = None
        assert self.problem().startswith("How much room the image 0.3.0 needs is not known: no size")
        self.here[IMAGE_ID] = 3 << 20
        with mounted_tmpfs(tmp_path / "small", "2m") as small:
            settings = EngineSettings(str(small), frozenset(), (), "", "", "")
            monkeypatch.setattr(upgrade_preflight, "get_engine_settings", lambda: settings)
            assert f"{4 << 20} for the image 0.3.0" in self.problem()

    def test_way_back_beside_the_database(self, tmp_path: Path) -> None:
        with mounted_tmpfs(tmp_path / "small", "1m") as small:
            self.database = make_database(small / "opstage.db", 20)
            assert self.examined().problems == []
            size = self.database.stat().st_size
            free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
            (small / "filler").write_bytes(b"x" * (free - size * 3 // 2))
            problem = self.problem()
        assert f"{size} for the migrations in {small}, {size} for the way back in {small}" in problem


class TestAccount:
    """Whether Diagnostics can be seen with it, now."""

    def tried(self, console: Console, password: str = PASSWORD, **changes: Any) -> tuple[list[str], list[str]]:
        """The problems, and the warnings."""
        deployment = {**DEPLOYMENT, "url": console.url, **changes}
        request = UpgradeRequest("0.3.0", acknowledge=("0.3.0",))
        warnings: list[str] = []
        account = Account(USERNAME, password)
        found = try_account(plan_upgrade(deployment, request, None), deployment, account, warnings.append)
        assert console.sessions <= len(warnings)
        return found.problems, warnings

    @pytest.mark.parametrize("role", ["owner", "operator"])
    def test_one_that_can(self, role: str) -> None:
        with serving_console(Console(role=role)) as console:
            assert self.tried(console) == ([], [])

    def test_one_that_cannot(self) -> None:
        with serving_console(Console(role="viewer")) as console:
            (problem,), _warnings = self.tried(console)
            assert problem.startswith(
                f"Diagnostics cannot be seen: {console.url}/api/admin/diagnostics/runtime answered"
            )
            assert "has the role viewer, needed is operator or owner" in problem
            (problem,), _warnings = self.tried(console, "another-password")
            assert "or the password is wrong" in problem

    def test_a_session_that_does_not_end(self) -> None:
        with serving_console(Console(instead={LOGOUT: refusal(500, "INTERNAL_ERROR")})) as console:
            problems, warnings = self.tried(console)
            assert (problems, len(warnings)) == ([], 1)

    @pytest.mark.parametrize("changes", [{"status": None}, {"version": "0.3.0", "tag": "0.3.0"}])
    def test_nobody_is_asked_in_vain(self, changes: dict[str, Any]) -> None:
        with serving_console(Console()) as console:
            self.tried(console, **changes)
            assert console.asked == []
