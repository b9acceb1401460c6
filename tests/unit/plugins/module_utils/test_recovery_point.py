# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    RecoveryPoint,
    RecoveryPointError,
    create_recovery_point,
    find_recovery_point,
    list_recovery_points,
    read_recovery_point,
    require_same_or_newer,
    verify_recovery_point,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import Progress, Reason
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import SnapshotError
from sqlite_testing import fingerprint, killed_deployment, make_database, names_in, numbers_in, writing

COMPOSE = b"services:\r\n  opstage:\r\n    image: repo:0.2.0 # kept as it is\r\n"
SECRETS = b"OPSTAGE_SESSION_SECRET=hunter2\n"


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Let nothing be private by chance."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def deployment(tmp_path: Path) -> dict[str, Any]:
    """A deployment whose database has twenty rows."""
    project, data = tmp_path / "project", tmp_path / "data"
    project.mkdir()
    data.mkdir()
    (project / "compose.yml").write_bytes(COMPOSE)
    (project / ".env").write_bytes(SECRETS)
    return {
        "project": "opstage",
        "project_dir": str(project),
        "config_files": [str(project / "compose.yml")],
        "environment_files": [],
        "service": "web",
        "image": "repo:0.2.0",
        "tag": "0.2.0",
        "digest": "sha256:" + "0" * 64,
        "image_id": "sha256:" + "1" * 64,
        "version": "0.2.0",
        "version_source": "api",
        "edition": "ce",
        "database": str(make_database(data / "opstage.db", 20, "WAL")),
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def create(deployment: dict[str, Any], root: Path, reason: str = "manual", method: str = "online") -> RecoveryPoint:
    return create_recovery_point(deployment, str(root), reason, method, "0.1.0")


def ids(root: Path) -> list[str]:
    return [os.path.basename(path) for path in list_recovery_points(str(root), "opstage")]


def change_manifest(point: RecoveryPoint, **changes: Any) -> None:
    """Write the manifest anew; a value of None takes the key away."""
    manifest = {**point.manifest, **changes}
    kept = {name: value for name, value in manifest.items() if value is not None}
    (Path(point.path) / "manifest.json").write_text(json.dumps(kept))


class TestCreate:
    def test_whole(self, deployment: dict[str, Any], root: Path) -> None:
        before = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        point = create(deployment, root, "pre-upgrade", "offline")
        folder = Path(point.path)
        assert names_in(root) == ["opstage"]
        assert names_in(root / "opstage") == [folder.name]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d{6}Z-pre-upgrade", folder.name)
        assert names_in(folder) == ["manifest.json", "opstage.db", "project"]
        assert (folder / "project" / "compose.yml").read_bytes() == COMPOSE
        assert (folder / "project" / ".env").read_bytes() == SECRETS
        assert point.database == str(folder / "opstage.db")
        assert numbers_in(folder / "opstage.db") == list(range(1, 21))
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest == point.manifest
        digest, _time, _owner, _group, _mode = fingerprint(folder / "opstage.db")["opstage.db"]
        size = (folder / "opstage.db").stat().st_size
        assert (manifest["database"]["sha256"], manifest["database"]["size"]) == (digest, size)
        assert manifest["database"]["integrity"] == "ok"
        assert manifest["database"]["source_journal_mode"] == "wal"
        assert before <= manifest["created"] <= datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        expected = {
            "manifest_version": 1,
            "id": folder.name,
            "reason": "pre-upgrade",
            "method": "offline",
            "host": socket.gethostname(),
            "project": "opstage",
            "service": "web",
            "image": {name: deployment[name] for name in ("image", "tag", "digest", "image_id")},
            "opstage": {"version": "0.2.0", "version_source": "api", "edition": "ce"},
            "collection_version": "0.1.0",
        }
        assert {name: manifest[name] for name in expected} == expected
        project = deployment["project_dir"]
        assert manifest["project_files"] == [
            {"name": "compose.yml", "source": f"{project}/compose.yml"},
            {"name": ".env", "source": f"{project}/.env"},
        ]
        assert "hunter2" not in json.dumps(manifest)
        verify_recovery_point(point)

    def test_progress(self, deployment: dict[str, Any], root: Path) -> None:
        reports: list[Progress] = []
        point = create_recovery_point(deployment, str(root), "manual", "online", "0.1.0", progress=reports.append)
        assert {"copying", "verifying"} <= {report.phase for report in reports}
        reports.clear()
        verify_recovery_point(point, reports.append)
        assert {report.phase for report in reports} == {"verifying"}
        assert reports[-1].total == Path(point.database).stat().st_size

    def test_everything_is_private(self, deployment: dict[str, Any], root: Path) -> None:
        point = create(deployment, root)
        for folder, _folders, files in os.walk(root):
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700, folder
            for name in files:
                assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600, name
        assert len(list(Path(point.path).rglob("*"))) == 5

    def test_while_somebody_writes(self, deployment: dict[str, Any], root: Path, tmp_path: Path) -> None:
        path = tmp_path / "busy.db"
        with writing(path, rate=500, rows=50) as writer:
            acknowledged = int(writer.lines[-1])
            point = create({**deployment, "database": str(path)}, root)
        numbers = numbers_in(Path(point.database))
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= acknowledged

    def test_of_a_stopped_service_with_everything_in_its_log(
        self, deployment: dict[str, Any], root: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "killed.db"
        written = killed_deployment(path)
        point = create({**deployment, "database": str(path)}, root, method="offline")
        assert numbers_in(Path(point.database)) == list(range(1, written + 1))

    def test_named_files_of_variables_instead_of_the_usual_one(self, deployment: dict[str, Any], root: Path) -> None:
        live = Path(deployment["project_dir"]) / "live.env"
        live.write_bytes(b"A=1\n")
        point = create({**deployment, "environment_files": [str(live)]}, root)
        assert names_in(Path(point.path) / "project") == ["compose.yml", "live.env"]

    def test_no_file_of_variables(self, deployment: dict[str, Any], root: Path) -> None:
        (Path(deployment["project_dir"]) / ".env").unlink()
        assert names_in(Path(create(deployment, root).path) / "project") == ["compose.yml"]

    def test_a_file_that_is_named_twice_is_copied_once(self, deployment: dict[str, Any], root: Path) -> None:
        files = deployment["config_files"] * 2
        point = create({**deployment, "config_files": files}, root)
        assert [file["name"] for file in point.manifest["project_files"]] == ["compose.yml", ".env"]


class TestNothingIsLeft:
    """A recovery point appears whole or not at all."""

    @pytest.fixture(autouse=True)
    def nothing_left(self, root: Path) -> Iterator[None]:
        yield
        assert not root.exists() or [names_in(folder) for folder in root.iterdir()] in ([], [[]])

    def test_of_a_missing_database(self, deployment: dict[str, Any], root: Path) -> None:
        os.unlink(deployment["database"])
        with pytest.raises(SnapshotError) as caught:
            create(deployment, root)
        assert caught.value.reason is Reason.MISSING

    def test_of_a_damaged_database(self, deployment: dict[str, Any], root: Path) -> None:
        with open(deployment["database"], "r+b") as stream:
            stream.seek(4096)
            stream.write(b"\xff" * 4096)
        with pytest.raises(SnapshotError) as caught:
            create(deployment, root)
        assert caught.value.reason is Reason.DAMAGED_SOURCE

    def test_of_a_compose_file_that_cannot_be_read(self, deployment: dict[str, Any], root: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"missing\.yml"):
            create({**deployment, "config_files": [deployment["config_files"][0], "/nowhere/missing.yml"]}, root)

    def test_of_two_files_with_one_name(self, deployment: dict[str, Any], root: Path, tmp_path: Path) -> None:
        other = tmp_path / "compose.yml"
        other.write_bytes(COMPOSE)
        files = [*deployment["config_files"], str(other)]
        with pytest.raises(RecoveryPointError, match=r"Two files of the project have the name compose\.yml"):
            create({**deployment, "config_files": files}, root)

    @pytest.mark.parametrize("step", ["write_new_file", "sync_folder", "_describe"])
    @pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    def test_of_a_failure_on_the_way(
        self,
        deployment: dict[str, Any],
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        step: str,
        failure: BaseException,
    ) -> None:
        def fail(*_arguments: object) -> None:
            raise failure

        monkeypatch.setattr(recovery_point, step, fail)
        with pytest.raises(type(failure)):
            create(deployment, root)

    @pytest.mark.parametrize(("missing", "enough"), [(1, False), (0, True)])
    def test_of_too_little_room(
        self, deployment: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch, missing: int, enough: bool
    ) -> None:
        with open(f"{deployment['database']}-wal", "wb") as stream:
            stream.truncate(10_000_000)
        needed = os.path.getsize(deployment["database"]) + 10_000_000 + (64 << 20)
        fields = list(os.statvfs("/"))
        fields[1], fields[3], fields[4] = 1, needed, needed - missing
        monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(fields))
        if enough:
            shutil.rmtree(create(deployment, root).path)
            return
        words = f"{needed - 1} bytes are free, {needed} are needed .*1 bytes are missing"
        with pytest.raises(RecoveryPointError, match=words):
            create(deployment, root)

    @pytest.mark.parametrize("project", ["", ".", "..", "a/b", "/etc"])
    def test_of_a_project_that_is_no_name(self, deployment: dict[str, Any], root: Path, project: str) -> None:
        with pytest.raises(RecoveryPointError, match="cannot be a project's name"):
            create({**deployment, "project": project}, root)

    def test_in_a_folder_that_is_a_link(self, deployment: dict[str, Any], root: Path, tmp_path: Path) -> None:
        root.mkdir()
        (tmp_path / "elsewhere").mkdir()
        (root / "opstage").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(PrivateFolderError):
            create(deployment, root)
        assert names_in(tmp_path / "elsewhere") == []


class TestOneAtATime:
    def test_what_a_killed_backup_left_is_removed(self, deployment: dict[str, Any], root: Path) -> None:
        stale = root / "opstage" / ".partial-2026-11-22T02-15-00-000000Z-manual"
        (stale / "project").mkdir(parents=True)
        (stale / "opstage.db").write_bytes(b"half")
        point = create(deployment, root)
        assert names_in(root / "opstage") == [os.path.basename(point.path)]

    def test_a_second_one_is_refused_and_disturbs_nothing(
        self, deployment: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refusals = []
        describe = recovery_point._describe

        def meanwhile(*arguments: Any) -> dict[str, Any]:
            with pytest.raises(RecoveryPointError, match=f"Another backup is writing to {root}/opstage") as caught:
                create(deployment, root)
            refusals.append(caught.value)
            return describe(*arguments)

        monkeypatch.setattr(recovery_point, "_describe", meanwhile)
        verify_recovery_point(create(deployment, root))
        assert len(refusals) == 1
        monkeypatch.undo()
        verify_recovery_point(create(deployment, root))
        assert len(ids(root)) == 2

    def test_another_project_does_not_wait(
        self, deployment: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        describe = recovery_point._describe

        def meanwhile(*arguments: Any) -> dict[str, Any]:
            monkeypatch.undo()
            create({**deployment, "project": "other"}, root)
            return describe(*arguments)

        monkeypatch.setattr(recovery_point, "_describe", meanwhile)
        create(deployment, root)
        assert names_in(root) == ["opstage", "other"]

    def test_the_folder_is_free_after_a_failure(self, deployment: dict[str, Any], root: Path) -> None:
        with pytest.raises(SnapshotError):
            create({**deployment, "database": "/nowhere/opstage.db"}, root)
        create(deployment, root)


class TestFind:
    @pytest.fixture
    def points(self, deployment: dict[str, Any], root: Path) -> list[RecoveryPoint]:
        points = [create(deployment, root, reason) for reason in ("pre-upgrade", "manual", "pre-restore")]
        for name in (".partial-2099-01-01T00-00-00-000000Z-manual", "zzz", "2099-01-01T00-00-00-000000Z-manual.old"):
            (root / "opstage" / name).mkdir()
        return points

    def test_the_list_is_oldest_first(self, points: list[RecoveryPoint], root: Path) -> None:
        assert list_recovery_points(str(root), "opstage") == [point.path for point in points]

    def test_by_name(self, points: list[RecoveryPoint], root: Path) -> None:
        assert find_recovery_point(str(root), "opstage", "latest") == points[2]
        for point in points:
            assert find_recovery_point(str(root), "opstage", os.path.basename(point.path)) == point
            assert find_recovery_point("/nowhere", "other", point.path) == point

    @pytest.mark.parametrize("wanted", ["Latest", "", "2026", "../opstage", "zzz"])
    def test_no_such_name(self, points: list[RecoveryPoint], root: Path, wanted: str) -> None:
        with pytest.raises(RecoveryPointError, match="holds no recovery point") as caught:
            find_recovery_point(str(root), "opstage", wanted)
        assert f"the newest of 3: {', '.join(ids(root))}." in str(caught.value)

    def test_none_yet(self, root: Path) -> None:
        assert list_recovery_points(str(root), "opstage") == []
        with pytest.raises(RecoveryPointError, match=f"{root}/opstage holds no recovery point yet"):
            find_recovery_point(str(root), "opstage", "latest")
        with pytest.raises(RecoveryPointError, match="the newest of 0: none"):
            find_recovery_point(str(root), "opstage", "2026-11-22T02-15-00-000000Z-manual")

    def test_a_folder_that_cannot_be_listed(self, root: Path) -> None:
        root.mkdir()
        (root / "opstage").write_bytes(b"")
        with pytest.raises(RecoveryPointError, match=f"{root}/opstage cannot be read"):
            find_recovery_point(str(root), "opstage", "latest")


class TestRead:
    @pytest.fixture
    def point(self, deployment: dict[str, Any], root: Path) -> RecoveryPoint:
        return create(deployment, root)

    def refusal(self, point: RecoveryPoint) -> str:
        with pytest.raises(RecoveryPointError) as caught:
            read_recovery_point(point.path)
        assert point.path in str(caught.value)
        return str(caught.value)

    def test_back(self, point: RecoveryPoint) -> None:
        assert read_recovery_point(point.path) == point

    def test_no_manifest(self, point: RecoveryPoint) -> None:
        os.unlink(f"{point.path}/manifest.json")
        assert "is no recovery point: it has no manifest.json" in self.refusal(point)

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"manifest_version": 1'])
    def test_no_json(self, point: RecoveryPoint, content: bytes) -> None:
        (Path(point.path) / "manifest.json").write_bytes(content)
        assert "manifest.json cannot be read" in self.refusal(point)

    @pytest.mark.parametrize("content", ["[]", "null", '"text"', "{}", '{"manifest_version": null}'])
    def test_no_manifest_in_it(self, point: RecoveryPoint, content: str) -> None:
        (Path(point.path) / "manifest.json").write_text(content)
        assert "has manifest version None, expected 1" in self.refusal(point)

    @pytest.mark.parametrize("version", [0, 2, "1"])
    def test_another_version(self, point: RecoveryPoint, version: object) -> None:
        change_manifest(point, manifest_version=version)
        assert f"has manifest version {version}, expected 1" in self.refusal(point)

    @pytest.mark.parametrize("name", ["id", "database", "opstage", "image", "project"])
    def test_a_key_is_missing(self, point: RecoveryPoint, name: str) -> None:
        change_manifest(point, **{name: None})
        assert f"manifest.json is not whole: it lacks {name}." in self.refusal(point)

    @pytest.mark.parametrize("value", [{}, [], "sha256", 1])
    @pytest.mark.parametrize(("name", "lacking"), [("database", "database.sha256"), ("opstage", "opstage.version")])
    def test_a_part_is_not_what_it_should_be(
        self, point: RecoveryPoint, name: str, lacking: str, value: object
    ) -> None:
        change_manifest(point, **{name: value})
        assert f"manifest.json is not whole: it lacks {lacking}." in self.refusal(point)

    def test_no_database(self, point: RecoveryPoint) -> None:
        os.unlink(point.database)
        assert "is not whole: it has no opstage.db" in self.refusal(point)


class TestVerify:
    @pytest.fixture
    def point(self, deployment: dict[str, Any], root: Path) -> RecoveryPoint:
        return create(deployment, root)

    def test_a_damaged_byte_in_a_row_that_sqlite_does_not_see(self, point: RecoveryPoint) -> None:
        path = Path(point.database)
        content = path.read_bytes()
        path.write_bytes(content.replace(b" 7 ", b" 8 ", 1))
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        with pytest.raises(RecoveryPointError, match=r"is damaged: opstage\.db has SHA-256 .* Choose another"):
            verify_recovery_point(point)

    @pytest.mark.parametrize("keep", [0, 100, 4096, -1])
    def test_a_database_that_was_cut(self, point: RecoveryPoint, keep: int) -> None:
        path = Path(point.database)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(RecoveryPointError, match=f"The recovery point {point.path} is damaged"):
            verify_recovery_point(point)

    def test_a_manifest_for_another_file(self, point: RecoveryPoint) -> None:
        change_manifest(point, database={**point.manifest["database"], "sha256": "0" * 64})
        with pytest.raises(RecoveryPointError, match=f"its manifest says {'0' * 64}"):
            verify_recovery_point(read_recovery_point(point.path))


class TestVersionGuard:
    @pytest.mark.parametrize(
        ("made_by", "here"),
        [
            ("0.2.0", "0.2.0"),
            ("0.2.0", "0.3.0"),
            ("0.9.0", "0.10.0"),
            ("0.3.0-rc.1", "0.3.0"),
            ("0.3.0-rc.1", "0.3.0-rc.2"),
            ("0.3.0", "0.3.1-rc.1"),
        ],
    )
    def test_the_same_or_a_newer_one_may_open_it(self, made_by: str, here: str) -> None:
        require_same_or_newer({"opstage": {"version": made_by}}, here)

    @pytest.mark.parametrize(
        ("made_by", "here"),
        [("0.3.0", "0.2.0"), ("0.10.0", "0.9.0"), ("0.3.0", "0.3.0-rc.1"), ("0.3.1-rc.1", "0.3.0"), ("1.0.0", "0.9.9")],
    )
    def test_an_older_one_may_not(self, made_by: str, here: str) -> None:
        with pytest.raises(RecoveryPointError, match=f"is from Opstage {made_by}, newer than {here}, which would"):
            require_same_or_newer({"opstage": {"version": made_by}}, here)

    @pytest.mark.parametrize(
        ("made_by", "here"), [(None, "0.2.0"), ("0.2.0", None), ("", "0.2.0"), ("0.2", "0.2.0"), ("0.2.0", "edge")]
    )
    def test_what_cannot_be_compared_is_refused(self, made_by: str | None, here: str | None) -> None:
        with pytest.raises(RecoveryPointError, match="The versions cannot be compared"):
            require_same_or_newer({"opstage": {"version": made_by}}, here)
