# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of the data that a version's migrations leave."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import upgrade_checks
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError, Reason
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_checks import MigrationError, check_migrated
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


def judged(point: RecoveryPoint, tmp_path: Path, *statements: str, drops: tuple[str, ...] | None = ()) -> Any:
    """What is said of a copy on which a version has run these statements, and was killed."""
    data = tmp_path / "rehearsal" / "data"
    data.mkdir(parents=True)
    (data / "opstage.db").write_bytes(Path(point.database).read_bytes())
    with closing(sqlite3.connect(data / "opstage.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return check_migrated(point, str(data / "opstage.db"), drops)


class TestJudgement:
    def test_nothing_is_left_of_the_check(self, point: RecoveryPoint, tmp_path: Path) -> None:
        assert judged(point, tmp_path) == {}
        with pytest.raises(MigrationError):
            check_migrated(point, str(tmp_path / "compose.yml"))
        assert names_in(Path(point.path).parent) == [Path(point.path).name]

    def test_a_check_that_cannot_be_made_says_nothing_of_the_data(
        self, point: RecoveryPoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_arguments: Any) -> None:
            raise DatabaseFileError(Reason.NO_SPACE, "no space in it")

        monkeypatch.setattr(upgrade_checks, "create_snapshot", refuse)
        with pytest.raises(DatabaseFileError, match=r"^no space in it$"):
            judged(point, tmp_path)
        assert names_in(Path(point.path).parent) == [Path(point.path).name]

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
        with pytest.raises(MigrationError, match=r"drop rows: audit_events: [23] removed\. If the changelog says so"):
            judged(point, tmp_path, statement)

    def test_rows_that_anybody_may_have_deleted(self, point: RecoveryPoint, tmp_path: Path) -> None:
        changes = judged(point, tmp_path, "DELETE FROM audit_events", drops=None)
        assert changes == {"audit_events": {"added": 0, "changed": 0, "removed": 3}}

    def test_rows_that_are_said_to_go(self, point: RecoveryPoint, tmp_path: Path) -> None:
        changes = judged(point, tmp_path, "DELETE FROM audit_events", drops=("audit_events",))
        assert changes == {"audit_events": {"added": 0, "changed": 0, "removed": 3}}

    def test_rows_without_a_parent(self, point: RecoveryPoint, tmp_path: Path) -> None:
        with pytest.raises(MigrationError, match="leave 1 rows whose parent is missing, before there were 0"):
            judged(point, tmp_path, "UPDATE users SET id = 'z' WHERE id = 'b'", drops=("users",))

    def test_no_sound_database(self, point: RecoveryPoint, tmp_path: Path) -> None:
        with pytest.raises(MigrationError, match="What the migrations leave is no sound database"):
            judged(
                point,
                tmp_path,
                "PRAGMA writable_schema=ON",
                "UPDATE sqlite_master SET rootpage = 9999 WHERE name = 'users'",
            )
