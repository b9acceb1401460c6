# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rehearsal's container is given, and what is said of the data that it leaves; molecule has real ones."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import upgrade_rehearsal
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint, create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.rehearsal_containers import remove_rehearsals
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_rehearsal import RehearsalError
from opstage_testing import RecordedDocker
from sqlite_testing import make_database, names_in

SCHEMA = (
    "CREATE TABLE users (id TEXT PRIMARY KEY)",
    "INSERT INTO users VALUES ('a'), ('b')",
    "CREATE TABLE audit_events (id INTEGER PRIMARY KEY, actor TEXT REFERENCES users)",
    "INSERT INTO audit_events VALUES (1, 'a'), (2, 'a'), (3, 'b')",
)


@pytest.fixture
def point(tmp_path: Path) -> RecoveryPoint:
    (tmp_path / "compose.yml").write_text("services: {}\n")
    deployment = {
        **{"project": "opstage", "project_dir": str(tmp_path), "config_files": [str(tmp_path / "compose.yml")]},
        **{"environment_files": [], "service": "web", "image": "repo:0.2.0", "tag": "0.2.0", "digest": None},
        **{"image_id": "1" * 64, "version": "0.2.0", "version_source": "api", "edition": "ce"},
        "database": str(make_database(tmp_path / "opstage.db", 5, "WAL", *SCHEMA)),
    }
    return create_recovery_point(deployment, str(tmp_path / "backups"), "pre-upgrade", "online", "0.1.0")


def judged(point: RecoveryPoint, tmp_path: Path, *statements: str, drops: tuple[str, ...] = ()) -> Any:
    """What is said of a copy on which a version has run these statements, and was killed."""
    data = tmp_path / "rehearsal" / "data"
    data.mkdir(parents=True)
    (data / "opstage.db").write_bytes(Path(point.database).read_bytes())
    with closing(sqlite3.connect(data / "opstage.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return upgrade_rehearsal._judged(point, str(tmp_path / "rehearsal"), "opstage.db", drops)


class TestJudgement:
    def test_rows_that_are_new_and_changed(self, point: RecoveryPoint, tmp_path: Path) -> None:
        changes = judged(
            point,
            tmp_path,
            "CREATE TABLE bus_events (id TEXT)",
            "INSERT INTO users VALUES ('c')",
            "UPDATE audit_events SET actor = 'b' WHERE id = 1",
        )
        assert changes == {
            "audit_events": {"added": 0, "changed": 1, "removed": 0},
            "users": {"added": 1, "changed": 0, "removed": 0},
        }

    @pytest.mark.parametrize("statement", ["DELETE FROM audit_events WHERE id > 1", "DROP TABLE audit_events"])
    def test_rows_that_are_gone(self, point: RecoveryPoint, tmp_path: Path, statement: str) -> None:
        with pytest.raises(RehearsalError, match=r"drop rows: audit_events: [23] removed\. If the changelog says so"):
            judged(point, tmp_path, statement)

    def test_rows_that_are_said_to_go(self, point: RecoveryPoint, tmp_path: Path) -> None:
        changes = judged(point, tmp_path, "DELETE FROM audit_events", drops=("audit_events",))
        assert changes == {"audit_events": {"added": 0, "changed": 0, "removed": 3}}

    def test_rows_without_a_parent(self, point: RecoveryPoint, tmp_path: Path) -> None:
        with pytest.raises(RehearsalError, match="leave 1 rows whose parent is missing, before there were 0"):
            judged(point, tmp_path, "UPDATE users SET id = 'z' WHERE id = 'b'", drops=("users",))

    def test_no_sound_database(self, point: RecoveryPoint, tmp_path: Path) -> None:
        with pytest.raises(RehearsalError, match="What the migrations leave is no sound database"):
            judged(
                point,
                tmp_path,
                "PRAGMA writable_schema=ON",
                "UPDATE sqlite_master SET rootpage = 9999 WHERE name = 'users'",
            )


DEFAULT = {"Config": {"Env": ["PATH=/bin", "NODE_VERSION=22"], "Cmd": ["node"], "User": "100"}}


class TestContainer:
    def options(self, **changes: Any) -> list[str]:
        present: dict[str, Any] = {"Config": {}, "HostConfig": {}, "Mounts": [], **changes}
        return upgrade_rehearsal._options(present, DEFAULT, "/data", "/copy")

    def test_variables_are_no_options(self, tmp_path: Path) -> None:
        own = ["PATH=/bin", "SECRET=hunter2", "KEY=-----BEGIN\nhunter3\n", "EMPTY=", "DOCKER_HOST=tcp://away"]
        path = tmp_path / "environment"
        given, handed_on = upgrade_rehearsal._environment({"Config": {"Env": own}}, DEFAULT, str(path))
        assert given == ["--env-file", str(path), "--env", "KEY"]
        assert handed_on == {"KEY": "-----BEGIN\nhunter3\n"}
        assert path.read_text() == "SECRET=hunter2\nEMPTY=\nDOCKER_HOST=tcp://away\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_limits(self) -> None:
        assert self.options() == []
        assert self.options(HostConfig={"Memory": 134217728}) == ["--memory", "134217728b"]
        assert self.options(Config={"User": "100"}) == []
        assert self.options(Config={"User": "7:7"}) == ["--user", "7:7"]
        assert self.options(HostConfig={"ReadonlyRootfs": True, "Tmpfs": {"/tmp": "size=1m"}}) == [
            *("--read-only", "--tmpfs", "/tmp")
        ]

    def test_the_copy_is_in_the_place_of_the_data_and_all_else_read_only(self) -> None:
        mounts = [
            {"Type": "volume", "Name": "opstage-data", "Source": "/data", "Destination": "/app/data"},
            {"Type": "bind", "Source": "/etc/ssl", "Destination": "/certificates"},
            {"Type": "volume", "Name": "other", "Source": "/volumes/other", "Destination": "/other"},
            {"Type": "tmpfs", "Source": "", "Destination": "/tmp"},
        ]
        assert self.options(Mounts=mounts) == [
            *("--mount", "type=bind,source=/copy,destination=/app/data"),
            *("--mount", "type=bind,source=/etc/ssl,destination=/certificates,readonly"),
            *("--mount", "type=volume,source=other,destination=/other,readonly"),
        ]

    def test_a_command_of_the_project(self) -> None:
        command = upgrade_rehearsal._command
        assert command({"Config": {"Cmd": ["node"]}}, DEFAULT) == []
        assert command({"Config": {"Cmd": ["node", "--debug"]}}, DEFAULT) == ["node", "--debug"]


def test_what_was_killed_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = RecordedDocker(tmp_path / "docker", monkeypatch)
    docker.says("ps", "")
    remove_rehearsals("opstage")
    docker.says("ps", "one\ntwo\n")
    docker.says("rm", "")
    remove_rehearsals("opstage")
    listing = "ps --all --quiet --filter label=capsule.opstage.rehearsal=opstage"
    assert docker.calls == [listing, listing, "rm --force --volumes one two"]


def test_a_killed_rehearsal_s_copy_is_removed_by_the_next_backup(point: RecoveryPoint, tmp_path: Path) -> None:
    parent = Path(point.path).parent
    (parent / upgrade_rehearsal._FOLDER / "data").mkdir(parents=True)
    deployment = {
        **point.manifest,
        "config_files": [],
        "environment_files": [],
        "database": str(tmp_path / "opstage.db"),
    }
    deployment.update({**point.manifest["image"], **point.manifest["opstage"]})
    create_recovery_point(deployment, str(parent.parent), "manual", "online", "0.1.0")
    assert [name for name in names_in(parent) if name.startswith(".")] == []
