# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import recovery_point_at_stop
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    RecoveryPointError,
    examine_recovery_points,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_at_stop import (
    RecoveryPointAtStop,
    complete_recovery_point,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_verification import verify_recovery_point
from sqlite_testing import make_database, mounted_tmpfs, names_in, numbers_in

COMPOSE = "services: {opstage: {image: 'repo:0.2.0'}}\n"


@pytest.fixture
def deployment(tmp_path: Path) -> dict[str, Any]:
    """A deployment whose database has twenty rows."""
    project, data = tmp_path / "project", tmp_path / "data"
    project.mkdir()
    data.mkdir(mode=0o750)
    (project / "compose.yml").write_text(COMPOSE)
    return {
        **{"project": "opstage", "project_dir": str(project), "config_files": [str(project / "compose.yml")]},
        **{"environment_files": [], "service": "web", "image": "repo:0.2.0", "tag": "0.2.0", "digest": None},
        **{"image_id": "sha256:" + "1" * 64, "version": "0.2.0", "version_source": "api", "edition": "ce"},
        "database": str(make_database(data / "opstage.db", 20, "WAL")),
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def write(deployment: dict[str, Any], number: int) -> None:
    """A row, by a process that closes the database in good order."""
    with contextlib.closing(sqlite3.connect(deployment["database"], isolation_level=None)) as connection:
        connection.execute("INSERT OR REPLACE INTO entries VALUES (?, 'later')", (number,))


def taken(deployment: dict[str, Any], root: Path) -> str:
    """The folder of one that was taken with 21 rows, after which the project names another image."""
    with RecoveryPointAtStop(deployment, str(root), "pre-upgrade") as point:
        point.keep_project_files()
        Path(deployment["config_files"][0]).write_text(COMPOSE.replace("0.2.0", "0.3.0"))
        write(deployment, 21)
        point.take()
    write(deployment, 22)
    return point.folder


def test_whole(deployment: dict[str, Any], root: Path) -> None:
    before = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    folder = taken(deployment, root)
    after = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert [entry.state for entry in examine_recovery_points(str(root), "opstage")] == ["partial"]
    point = complete_recovery_point(folder, "0.1.0")
    verify_recovery_point(point)
    assert numbers_in(Path(point.database)) == list(range(1, 22))
    assert (Path(point.path) / "project" / "compose.yml").read_text() == COMPOSE
    assert names_in(Path(point.path)) == ["manifest.json", "opstage.db", "project"]
    assert names_in(root / "opstage") == [os.path.basename(point.path)]
    assert [entry.state for entry in examine_recovery_points(str(root), "opstage")] == ["whole"]
    assert before <= point.manifest["created"] <= after
    assert {(path.stat().st_mode & 0o777) for path in Path(point.path).glob("**/*")} == {0o600, 0o700}
    ordinary = create_recovery_point(deployment, str(root), "pre-upgrade", "offline", "0.1.0").manifest
    same = {name for name in ordinary if name not in ("id", "created", "duration_seconds", "database")}
    assert {name: point.manifest[name] for name in same} == {name: ordinary[name] for name in same}
    assert point.manifest.keys() == ordinary.keys()
    assert point.manifest["database"].keys() == ordinary["database"].keys()
    assert point.manifest["database"]["folder_access"]["mode"] == "0750"


def test_complete_already(deployment: dict[str, Any], root: Path) -> None:
    folder = taken(deployment, root)
    point = complete_recovery_point(folder, "0.1.0")
    assert complete_recovery_point(folder, "0.1.0") == point


@pytest.mark.parametrize("step", ["create_snapshot", "read_contents", "write_new_file", "shutil.rmtree", "os.rename"])
def test_cut_off_anywhere_it_can_be_completed(
    deployment: dict[str, Any], root: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = taken(deployment, root)
    holder = recovery_point_at_stop
    *modules, name = step.split(".")
    for module in modules:
        holder = getattr(holder, module)
    real = getattr(holder, name)

    def killed(*arguments: Any, **options: Any) -> Any:
        real(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(holder, name, killed)
        with pytest.raises(KeyboardInterrupt):
            complete_recovery_point(folder, "0.1.0")
    point = complete_recovery_point(folder, "0.1.0")
    verify_recovery_point(point)
    assert numbers_in(Path(point.database)) == list(range(1, 22))
    assert names_in(Path(point.path)) == ["manifest.json", "opstage.db", "project"]
    assert names_in(root / "opstage") == [os.path.basename(point.path)]


def test_nothing_is_left_of_one_that_was_not_taken(deployment: dict[str, Any], root: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), RecoveryPointAtStop(deployment, str(root), "pre-upgrade") as point:
        point.keep_project_files()
        assert names_in(Path(point.folder)) == ["project", "reserve", "taken"]
        raise ZeroDivisionError
    assert names_in(root / "opstage") == []


def test_those_of_killed_runs_are_removed(deployment: dict[str, Any], root: Path) -> None:
    abandoned = taken(deployment, root)
    assert taken(deployment, root) != abandoned
    assert not os.path.lexists(abandoned)


def test_a_rollback_journal_is_copied_at_the_stop(deployment: dict[str, Any], root: Path) -> None:
    with contextlib.closing(sqlite3.connect(deployment["database"])) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    point = complete_recovery_point(taken(deployment, root), "0.1.0")
    assert numbers_in(Path(point.database)) == list(range(1, 22))


def test_one_that_was_not_taken_cannot_be_completed(deployment: dict[str, Any], root: Path) -> None:
    folder = taken(deployment, root)
    os.unlink(os.path.join(folder, "begun.json"))
    with pytest.raises(RecoveryPointError, match=r"neither begun\.json nor manifest\.json"):
        complete_recovery_point(folder, "0.1.0")
    with pytest.raises(RecoveryPointError, match="is no recovery point that was begun"):
        complete_recovery_point(str(root), "0.1.0")


def test_no_room_for_the_way_back(deployment: dict[str, Any], root: Path, tmp_path: Path) -> None:
    large = make_database(tmp_path / "large.db", 3000, "WAL")
    with mounted_tmpfs(tmp_path / "small", "1m") as small:
        deployment["database"] = str(shutil.copy(large, small / "opstage.db"))
        with pytest.raises(RecoveryPointError, match="could not be put back"):
            RecoveryPointAtStop(deployment, str(root), "pre-upgrade").__enter__()
    assert names_in(root / "opstage") == []


def test_room_for_the_way_back_that_is_gone_once_the_service_is_stopped(
    deployment: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    with mounted_tmpfs(tmp_path / "small", "1m") as small:
        deployment["database"] = str(shutil.copy(deployment["database"], small / "opstage.db"))
        with RecoveryPointAtStop(deployment, str(root), "pre-upgrade") as point:
            status = os.statvfs(small)
            (small / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize))
            with pytest.raises(RecoveryPointError, match="could not be put back"):
                point.take()
    assert names_in(root / "opstage") == []


def test_a_disk_that_becomes_full_in_the_middle(deployment: dict[str, Any], tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "backups", "100m") as root:
        with RecoveryPointAtStop(deployment, str(root), "pre-upgrade") as point:
            point.keep_project_files()
            status = os.statvfs(root)
            (root / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize))
            write(deployment, 21)
            point.take()
        whole = complete_recovery_point(point.folder, "0.1.0")
        assert numbers_in(Path(whole.database)) == list(range(1, 22))
        assert names_in(Path(whole.path)) == ["manifest.json", "opstage.db", "project"]
        (root / "filler").unlink()


def test_a_description_holds_no_content_of_files(deployment: dict[str, Any], root: Path) -> None:
    Path(deployment["project_dir"], ".env").write_text("SECRET=hunter2\n")
    folder = taken(deployment, root)
    description = Path(folder, "begun.json").read_text()
    assert "hunter2" not in description
    assert json.loads(description)["reason"] == "pre-upgrade"
