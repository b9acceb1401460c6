# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import (
    recovery_point,
    recovery_point_creation,
    sqlite_contents,
)
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    NewerRecoveryPointError,
    RecoveryPoint,
    RecoveryPointError,
    examine_recovery_points,
    find_recovery_point,
    list_recovery_points,
    read_recovery_point,
    require_plain,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import (
    create_recovery_point,
    decrypt_recovery_point,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_verification import verify_recovery_point
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
    kept = {name: value for name, value in manifest.items() if value is not None or name not in changes}
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
        assert (manifest["database"]["verify"], manifest["database"]["foreign_key_violations"]) == ("full", 0)
        assert manifest["database"]["tables"] == {"entries": {"columns": ["number", "text"], "rows": 20}}
        assert re.fullmatch("[0-9a-f]{64}", manifest["database"]["schema_sha256"])
        assert manifest["database"]["source_journal_mode"] == "wal"
        assert before <= manifest["created"] <= datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        expected = {
            "manifest_version": 2,
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
            {"name": "compose.yml", "source": f"{project}/compose.yml", "kind": "compose"},
            {"name": ".env", "source": f"{project}/.env", "kind": "environment"},
        ]
        assert manifest["project_dir"] == project
        data = Path(deployment["database"])
        for name, status in (("access", data.stat()), ("folder_access", data.parent.stat())):
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            assert manifest["database"][name] == {"uid": status.st_uid, "gid": status.st_gid, "mode": mode}
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

    def test_rows_whose_parent_is_missing_are_counted(self, deployment: dict[str, Any], root: Path) -> None:
        with closing(sqlite3.connect(deployment["database"], isolation_level=None)) as connection:
            connection.execute("CREATE TABLE children (parent REFERENCES entries (number))")
            connection.execute("INSERT INTO children VALUES (1), (999), (1000)")
        database = create(deployment, root).manifest["database"]
        assert database["foreign_key_violations"] == 2
        assert database["tables"]["children"] == {"columns": ["parent"], "rows": 3}

    def test_the_schema_hash_tells_a_migration(self, deployment: dict[str, Any], root: Path) -> None:
        def schema() -> str:
            return str(create(deployment, root, "scheduled").manifest["database"]["schema_sha256"])

        before = schema()
        with closing(sqlite3.connect(deployment["database"], isolation_level=None)) as connection:
            connection.execute("INSERT INTO entries VALUES (1000, 'more')")
        assert schema() == before
        with closing(sqlite3.connect(deployment["database"], isolation_level=None)) as connection:
            connection.execute("ALTER TABLE entries ADD COLUMN added")
        assert schema() != before

    def test_what_only_the_application_can_read_is_no_failure(self, deployment: dict[str, Any], root: Path) -> None:
        with closing(sqlite3.connect(deployment["database"], isolation_level=None)) as connection:
            connection.create_collation("own", lambda one, other: (one > other) - (one < other))
            connection.execute("CREATE TABLE keyed (key TEXT COLLATE own PRIMARY KEY) WITHOUT ROWID")
            connection.execute("INSERT INTO keyed VALUES ('a')")
        database = create(deployment, root).manifest["database"]
        assert database["integrity"] == "partly checked"
        assert database["tables"]["keyed"] == {"columns": ["key"], "rows": None}
        assert database["tables"]["entries"]["rows"] == 20

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

    def test_of_a_name_that_is_not_on_the_disk(
        self, deployment: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(folder: str) -> None:
            if folder == str(root / "opstage"):
                raise OSError(5, "Input/output error")

        monkeypatch.setattr(recovery_point_creation, "sync_folder", fail)
        with pytest.raises(OSError, match="Input/output error"):
            create(deployment, root)

    @pytest.mark.parametrize("image", ["user:hunter2@registry.example/opstage:0.2.0", "https://a:hunter2@b/c"])
    def test_of_an_image_with_a_password(self, deployment: dict[str, Any], root: Path, image: str) -> None:
        with pytest.raises(RecoveryPointError, match=r"manifest\.json is not valid: image\.image: found ") as caught:
            create({**deployment, "image": image}, root)
        assert "hunter2" not in str(caught.value)

    def test_of_contents_that_cannot_be_read(
        self, deployment: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_contents, "_MOST_CHARACTERS", 10)
        with pytest.raises(RecoveryPointError, match=r"reading the contents of .*opstage\.db: the names of its tables"):
            create(deployment, root)

    @pytest.mark.parametrize("step", ["write_new_file", "sync_folder", "describe_recovery_point"])
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

        monkeypatch.setattr(recovery_point_creation, step, fail)
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
        describe = recovery_point_creation.describe_recovery_point

        def meanwhile(*arguments: Any) -> dict[str, Any]:
            with pytest.raises(RecoveryPointError, match=f"Another run is at work on {root}/opstage") as caught:
                create(deployment, root)
            refusals.append(caught.value)
            return describe(*arguments)

        monkeypatch.setattr(recovery_point_creation, "describe_recovery_point", meanwhile)
        verify_recovery_point(create(deployment, root))
        assert len(refusals) == 1
        monkeypatch.undo()
        verify_recovery_point(create(deployment, root))
        assert len(ids(root)) == 2

    def test_another_project_does_not_wait(
        self, deployment: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        describe = recovery_point_creation.describe_recovery_point

        def meanwhile(*arguments: Any) -> dict[str, Any]:
            monkeypatch.undo()
            create({**deployment, "project": "other"}, root)
            return describe(*arguments)

        monkeypatch.setattr(recovery_point_creation, "describe_recovery_point", meanwhile)
        create(deployment, root)
        assert names_in(root) == ["opstage", "other"]

    def test_the_folder_is_free_after_a_failure(self, deployment: dict[str, Any], root: Path) -> None:
        with pytest.raises(SnapshotError):
            create({**deployment, "database": "/nowhere/opstage.db"}, root)
        create(deployment, root)


def move_in_time(point: RecoveryPoint, moment: datetime) -> RecoveryPoint:
    """Let a recovery point have been made at another time: its folder, its id and its manifest."""
    name = moment.strftime("%Y-%m-%dT%H-%M-%S-%fZ-") + point.manifest["reason"]
    change_manifest(point, id=name, created=moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    path = os.path.join(os.path.dirname(point.path), name)
    os.rename(point.path, path)
    return read_recovery_point(path)


def first_version(point: RecoveryPoint) -> None:
    """Let the manifest be as it was written before version 2."""
    added = ("verify", "foreign_key_violations", "schema_sha256", "tables", "access", "folder_access")
    database = {name: value for name, value in point.manifest["database"].items() if name not in added}
    files = [{name: file[name] for name in ("name", "source")} for file in point.manifest["project_files"]]
    removed = {"project_dir": None, "encryption": None}
    change_manifest(point, manifest_version=1, database=database, project_files=files, **removed)


class TestFind:
    @pytest.fixture
    def points(self, deployment: dict[str, Any], root: Path) -> list[RecoveryPoint]:
        points = [create(deployment, root, reason) for reason in ("pre-upgrade", "manual", "pre-restore")]
        for name in (".partial-2099-01-01T00-00-00-000000Z-manual", "zzz", "2099-01-01T00-00-00-000000Z-manual.old"):
            (root / "opstage" / name).mkdir()
        return points

    def latest(self, root: Path) -> tuple[RecoveryPoint, list[str]]:
        """The latest, and the warnings."""
        warnings: list[str] = []
        return find_recovery_point(str(root), "opstage", "latest", warnings.append), warnings

    def test_the_list_is_oldest_first(self, points: list[RecoveryPoint], root: Path) -> None:
        assert list_recovery_points(str(root), "opstage") == [point.path for point in points]

    def test_by_name(self, points: list[RecoveryPoint], root: Path) -> None:
        assert self.latest(root) == (points[2], [])
        for point in points:
            assert find_recovery_point(str(root), "opstage", os.path.basename(point.path)) == point
            assert find_recovery_point("/nowhere", "other", point.path) == point

    @pytest.mark.parametrize("wanted", ["Latest", "", "2026", "../opstage", "zzz", "."])
    def test_no_such_name(self, points: list[RecoveryPoint], root: Path, wanted: str) -> None:
        with pytest.raises(RecoveryPointError, match="holds no recovery point") as caught:
            find_recovery_point(str(root), "opstage", wanted)
        assert f"the newest of 3: {', '.join(ids(root))}." in str(caught.value)

    def test_none_yet(self, root: Path) -> None:
        assert list_recovery_points(str(root), "opstage") == []
        with pytest.raises(RecoveryPointError, match=f"{root}/opstage holds no recovery point that can be used\\.$"):
            find_recovery_point(str(root), "opstage", "latest")
        with pytest.raises(RecoveryPointError, match="the newest of 0: none"):
            find_recovery_point(str(root), "opstage", "2026-11-22T02-15-00-000000Z-manual")

    def test_a_folder_that_cannot_be_listed(self, root: Path, tmp_path: Path) -> None:
        root.mkdir()
        (root / "opstage").write_bytes(b"")
        with pytest.raises(RecoveryPointError, match=f"{root}/opstage cannot be read"):
            find_recovery_point(str(root), "opstage", "latest")
        os.unlink(root / "opstage")
        (root / "opstage").symlink_to(tmp_path)
        with pytest.raises(RecoveryPointError, match=f"{root}/opstage cannot be read: .* is a symbolic link"):
            find_recovery_point(str(root), "opstage", "latest")

    def test_the_latest_is_not_the_one_with_the_greatest_name(self, points: list[RecoveryPoint], root: Path) -> None:
        change_manifest(
            points[0], created=points[2].manifest["created"].replace("Z", "").rpartition(".")[0] + ".999999Z"
        )
        latest, warnings = self.latest(root)
        assert (latest.path, warnings) == (points[0].path, [])

    def test_of_several_at_one_time_the_one_with_the_greatest_id(self, points: list[RecoveryPoint], root: Path) -> None:
        for point in points:
            change_manifest(point, created="2026-11-22T02:15:00.000000Z")
        assert self.latest(root)[0].path == points[2].path

    def test_what_cannot_be_read_is_passed_over_with_a_warning(self, points: list[RecoveryPoint], root: Path) -> None:
        os.unlink(f"{points[0].path}/manifest.json")
        assert self.latest(root) == (points[2], [])
        os.unlink(points[2].database)
        assert self.latest(root) == (
            points[1],
            [f"Passed over for `latest`: {points[2].path} is not whole: it has no opstage.db."],
        )
        change_manifest(points[1], manifest_version=3, collection_version="9.8.7")
        with pytest.raises(RecoveryPointError, match="holds no recovery point that can be used") as caught:
            self.latest(root)
        for point in points:
            assert point.path in str(caught.value)
        assert "made by a newer collection (9.8.7)" in str(caught.value)

    def test_one_from_another_collection_is_passed_over(self, points: list[RecoveryPoint], root: Path) -> None:
        change_manifest(points[2], manifest_version=3, collection_version="9.8.7")
        latest, warnings = self.latest(root)
        assert latest == points[1]
        assert [warning for warning in warnings if "newer collection (9.8.7)" in warning] == warnings != []

    def test_one_from_the_future_is_passed_over_with_a_warning(self, points: list[RecoveryPoint], root: Path) -> None:
        future = move_in_time(points[0], datetime.now(UTC) + timedelta(minutes=61))
        latest, warnings = self.latest(root)
        assert latest == points[2]
        assert warnings == [
            f"Passed over for `latest`: {future.path} was made at {future.manifest['created']}, which is in the "
            "future; a clock was wrong then, or is now. Name its id to use it."
        ]
        assert find_recovery_point(str(root), "opstage", os.path.basename(future.path)) == future

    def test_a_clock_that_differs_a_little_is_no_matter(self, points: list[RecoveryPoint], root: Path) -> None:
        ahead = move_in_time(points[0], datetime.now(UTC) + timedelta(minutes=59))
        assert self.latest(root) == (ahead, [])

    def test_where_all_are_from_the_future_the_newest(self, points: list[RecoveryPoint], root: Path) -> None:
        now = datetime.now(UTC)
        moved = [move_in_time(point, now + timedelta(days=days)) for point, days in zip(points, (2, 3, 1), strict=True)]
        latest, warnings = self.latest(root)
        assert latest == moved[1]
        assert len(warnings) == 1
        assert "Look at the clock of this host" in warnings[0]

    @pytest.mark.parametrize(
        ("change", "words"), [({"project": "other"}, "has the project 'other'"), ({}, "has the id ")]
    )
    def test_one_that_was_put_there_is_not_taken(
        self, points: list[RecoveryPoint], root: Path, change: dict[str, str], words: str
    ) -> None:
        name = points[2].manifest["id"] if change else "2026-12-24T00-00-00-000000Z-manual"
        change_manifest(points[2], **change)
        put = root / "opstage" / name
        os.rename(points[2].path, put)
        latest, warnings = self.latest(root)
        assert latest == points[1]
        assert words in warnings[0]
        with pytest.raises(RecoveryPointError, match=f"{put} was not made here: its manifest {words}"):
            find_recovery_point(str(root), "opstage", name)
        assert find_recovery_point(str(root), "opstage", str(put)).path == str(put)


class TestExamine:
    def test_all_that_is_there(self, deployment: dict[str, Any], root: Path, tmp_path: Path) -> None:
        whole, older = create(deployment, root), create(deployment, root)
        first_version(older)
        newer, damaged, without, linked = (create(deployment, root) for _number in range(4))
        change_manifest(newer, manifest_version=3)
        change_manifest(damaged, database={**damaged.manifest["database"], "sha256": "x"})
        os.unlink(f"{without.path}/manifest.json")
        os.rename(linked.path, tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", linked.path)
        folder = root / "opstage"
        (folder / ".partial-2026-11-22T02-15-00-000000Z-manual").mkdir()
        (folder / ".removed-2026-11-22T02-15-00-000000Z-manual").mkdir()
        (folder / "dump.db").write_bytes(b"")
        (folder / "2026-11-22T02-15-00-000000Z-manual").write_bytes(b"")
        (folder / "old").mkdir()
        os.mkfifo(folder / "pipe")
        entries = examine_recovery_points(str(root), "opstage")
        assert [entry.name for entry in entries] == names_in(folder)
        found = {entry.name: entry for entry in entries}
        assert {name: entry.state for name, entry in found.items()} == {
            os.path.basename(whole.path): "whole",
            os.path.basename(older.path): "whole",
            os.path.basename(newer.path): "newer",
            os.path.basename(damaged.path): "damaged",
            os.path.basename(without.path): "damaged",
            os.path.basename(linked.path): "stray",
            ".partial-2026-11-22T02-15-00-000000Z-manual": "partial",
            ".removed-2026-11-22T02-15-00-000000Z-manual": "removed",
            "dump.db": "stray",
            "2026-11-22T02-15-00-000000Z-manual": "stray",
            "old": "stray",
            "pipe": "stray",
        }
        assert found[os.path.basename(whole.path)].point == whole
        assert [entry.name for entry in entries if (entry.point is None) != bool(entry.reason)] == []
        assert all(str(folder / entry.name) in entry.reason for entry in entries if entry.state != "whole")
        assert "database.sha256: found" in found[os.path.basename(damaged.path)].reason
        assert "has no manifest.json" in found[os.path.basename(without.path)].reason
        assert "is a symbolic link that" in found[os.path.basename(linked.path)].reason
        assert "is a file that" in found["dump.db"].reason
        assert "is a folder that" in found["old"].reason
        assert "is a FIFO that" in found["pipe"].reason

    def test_nothing_there(self, root: Path) -> None:
        assert examine_recovery_points(str(root), "opstage") == []

    def test_one_that_disappears_meanwhile_is_left_out(
        self, deployment: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = create(deployment, root), create(deployment, root)
        read = recovery_point.read_recovery_point

        def removed(path: str) -> RecoveryPoint:
            if path == first.path:
                shutil.rmtree(path)
            return read(path)

        monkeypatch.setattr(recovery_point, "read_recovery_point", removed)
        assert [entry.path for entry in examine_recovery_points(str(root), "opstage")] == [second.path]


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

    def test_one_of_an_older_collection(self, point: RecoveryPoint) -> None:
        first_version(point)
        old = read_recovery_point(point.path)
        assert "tables" not in old.manifest["database"]
        verify_recovery_point(old)

    def test_one_of_a_newer_collection(self, point: RecoveryPoint) -> None:
        change_manifest(point, manifest_version=3, collection_version="1.2.3", database=None)
        assert f"{point.path} was made by a newer collection (1.2.3)" in self.refusal(point)
        with pytest.raises(NewerRecoveryPointError):
            read_recovery_point(point.path)

    def test_no_manifest(self, point: RecoveryPoint) -> None:
        os.unlink(f"{point.path}/manifest.json")
        assert "is no recovery point, or not whole: it has no manifest.json" in self.refusal(point)

    def test_no_folder(self, point: RecoveryPoint) -> None:
        shutil.rmtree(point.path)
        assert f"there is no folder {point.path}" in self.refusal(point)
        Path(point.path).write_bytes(b"")
        assert "a folder is expected" in self.refusal(point)

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"manifest_version": 1', b"[" * 100_000])
    def test_no_json(self, point: RecoveryPoint, content: bytes) -> None:
        (Path(point.path) / "manifest.json").write_bytes(content)
        assert "is damaged: its manifest.json is no JSON" in self.refusal(point)

    @pytest.mark.parametrize("content", ["[]", "null", '"text"', "{}", '{"manifest_version": null}'])
    def test_no_manifest_in_it(self, point: RecoveryPoint, content: str) -> None:
        (Path(point.path) / "manifest.json").write_text(content)
        assert "is damaged: its manifest.json is not valid: " in self.refusal(point)

    def test_a_value_that_cannot_be(self, point: RecoveryPoint) -> None:
        change_manifest(point, opstage={**point.manifest["opstage"], "version": 2})
        assert "is not valid: opstage.version: found 2, expected string or null" in self.refusal(point)

    def test_a_manifest_without_end(self, point: RecoveryPoint) -> None:
        with open(f"{point.path}/manifest.json", "ab") as stream:
            stream.truncate((16 << 20) + 1)
        assert "manifest.json has 16777217 bytes, expected are at most 16777216" in self.refusal(point)

    @pytest.mark.parametrize("name", ["manifest.json", "opstage.db"])
    def test_a_link_is_not_followed(self, point: RecoveryPoint, tmp_path: Path, name: str) -> None:
        os.rename(f"{point.path}/{name}", tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", f"{point.path}/{name}")
        assert f"{name} is a symbolic link" in self.refusal(point)

    def test_a_folder_that_is_a_link_is_not_followed(self, point: RecoveryPoint, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(point.path)
        with pytest.raises(RecoveryPointError, match=f"is a symbolic link; .*name the folder itself, .*{point.path}"):
            read_recovery_point(str(tmp_path / "link"))

    @pytest.mark.parametrize("name", ["manifest.json", "opstage.db"])
    def test_a_fifo_does_not_hang_it(self, point: RecoveryPoint, name: str) -> None:
        os.unlink(f"{point.path}/{name}")
        os.mkfifo(f"{point.path}/{name}")
        assert f"{name} is a FIFO" in self.refusal(point)

    def test_no_database(self, point: RecoveryPoint) -> None:
        os.unlink(point.database)
        assert "is not whole: it has no opstage.db" in self.refusal(point)

    @pytest.mark.parametrize("size", [0, 8191, 8193])
    def test_a_database_of_another_size(self, point: RecoveryPoint, size: int) -> None:
        assert point.manifest["database"]["size"] == 8192
        os.truncate(point.database, size)
        assert f"is damaged: its opstage.db has {size} bytes, its manifest says 8192" in self.refusal(point)


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


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str]:
    """A public and a private key of age."""
    subprocess.run(["age-keygen", "-o", str(tmp_path / "key")], check=True, capture_output=True)
    private = (tmp_path / "key").read_text()
    return re.findall(r"public key: (age1\w+)", private)[0], private


class TestEncrypted:
    @pytest.fixture
    def point(self, deployment: dict[str, Any], root: Path, keys: tuple[str, str]) -> RecoveryPoint:
        return create_recovery_point(deployment, str(root), "manual", "online", "0.1.0", recipients=[keys[0]])

    def test_nothing_of_it_can_be_read(self, point: RecoveryPoint, keys: tuple[str, str]) -> None:
        folder = Path(point.path)
        assert names_in(folder) == ["manifest.json", "opstage.db.age", "project"]
        assert names_in(folder / "project") == [".env.age", "compose.yml.age"]
        for file in (folder / "opstage.db.age", *(folder / "project").iterdir()):
            assert file.read_bytes().startswith(b"age-encryption.org/v1\n")
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert b"hunter2" not in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        assert keys[1].splitlines()[-1] not in (folder / "manifest.json").read_text()

    def test_it_is_found_and_verified_without_the_key(self, point: RecoveryPoint, root: Path) -> None:
        found = find_recovery_point(str(root), "opstage", "latest")
        assert (found, found.is_encrypted) == (point, True)
        with pytest.raises(RecoveryPointError, match="is encrypted: restore it with opstage_encryption_identity_file"):
            require_plain(found)
        verify_recovery_point(found)
        content = Path(found.database).read_bytes()
        Path(found.database).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(RecoveryPointError, match=r"is damaged: opstage\.db\.age has SHA-256"):
            verify_recovery_point(found)

    @pytest.mark.parametrize("missing", ["cut", "gone"])
    def test_one_that_is_not_whole(self, point: RecoveryPoint, missing: str) -> None:
        file = Path(point.database)
        content = file.read_bytes()
        file.unlink()
        if missing == "cut":
            file.write_bytes(content[:-1])
        with pytest.raises(RecoveryPointError, match=r"opstage\.db\.age has \d+ bytes|it has no opstage\.db\.age"):
            read_recovery_point(point.path)

    def test_decrypted_it_is_what_it_was(
        self, point: RecoveryPoint, keys: tuple[str, str], deployment: dict[str, Any], tmp_path: Path
    ) -> None:
        plain = decrypt_recovery_point(point, str(tmp_path / "staged" / "decrypted"), keys[1])
        assert plain == read_recovery_point(plain.path)
        require_plain(plain)
        verify_recovery_point(plain)
        assert numbers_in(Path(plain.database)) == list(range(1, 21))
        assert (Path(plain.path) / "project" / ".env").read_bytes() == SECRETS
        assert names_in(Path(plain.path)) == ["manifest.json", "opstage.db", "project"]

    def test_another_key(self, point: RecoveryPoint, tmp_path: Path) -> None:
        subprocess.run(["age-keygen", "-o", str(tmp_path / "other")], check=True, capture_output=True)
        with pytest.raises(RecoveryPointError, match=r"opstage\.db\.age"):
            decrypt_recovery_point(point, str(tmp_path / "decrypted"), (tmp_path / "other").read_text())
        assert not (tmp_path / "decrypted").exists()

    def test_one_that_is_not_encrypted(
        self, deployment: dict[str, Any], root: Path, keys: tuple[str, str], tmp_path: Path
    ) -> None:
        with pytest.raises(RecoveryPointError, match="is not encrypted: restore it without a private key"):
            decrypt_recovery_point(create(deployment, root), str(tmp_path / "decrypted"), keys[1])

    @pytest.mark.parametrize("recipient", ["age1wrong", "AGE-SECRET-KEY-1"])
    def test_a_recipient_that_is_none_is_told_before_any_work(
        self, deployment: dict[str, Any], root: Path, recipient: str
    ) -> None:
        with pytest.raises(RecoveryPointError, match="Recipient 1 of 1 is"):
            create_recovery_point(deployment, str(root), "manual", "online", "0.1.0", recipients=[recipient])
        assert not root.exists()

    def test_a_host_without_age(
        self, deployment: dict[str, Any], root: Path, keys: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(root))
        with pytest.raises(RecoveryPointError, match="The age command was not found on this host"):
            create_recovery_point(deployment, str(root), "manual", "online", "0.1.0", recipients=[keys[0]])
        assert not root.exists()
