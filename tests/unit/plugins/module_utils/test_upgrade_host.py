# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import compose_command
import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import upgrade_host
from ansible_collections.capsule.opstage.plugins.module_utils.host_resources import Need
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_host import (
    RESERVE,
    container_problems,
    data_needs,
    database_problems,
    pin_problems,
)
from opstage_testing import RecordedDocker, recorded_container
from sqlite_testing import fingerprint, make_database, names_in, writing

DIGEST = "sha256:" + "0" * 64
SECRET = "hunter2-hunter2-hunter2-hunter2-hunter2"


class TestNeeds:
    @pytest.fixture
    def deployment(self, tmp_path: Path) -> dict[str, Any]:
        (tmp_path / "opstage.db").write_bytes(b"x" * 300)
        (tmp_path / "opstage.db-wal").write_bytes(b"x" * 700)
        return {"project": "web", "database": str(tmp_path / "opstage.db")}

    @pytest.mark.parametrize(
        ("rehearse", "steps", "points", "checked"), [(True, 1, 2, 2), (False, 1, 2, 1), (True, 3, 6, 2)]
    )
    def test_copies_of_database_and_log(
        self, deployment: dict[str, Any], tmp_path: Path, rehearse: bool, steps: int, points: int, checked: int
    ) -> None:
        needs = data_needs(deployment, "/backups", rehearse, steps)
        assert needs == [
            Need("/backups/web", points * 1000 + RESERVE, "recovery points"),
            Need("/backups/web", checked * 1000, "rehearsal" if rehearse else "check of the migrated data"),
            Need(str(tmp_path), 1000, "migrations"),
            Need(str(tmp_path), 1000, "way back"),
        ]

    def test_no_log(self, deployment: dict[str, Any]) -> None:
        os.unlink(f"{deployment['database']}-wal")
        assert data_needs(deployment, "/backups", True, 1)[-1].size == 300


class TestDatabase:
    @pytest.mark.parametrize("mode", ["WAL", "DELETE"])
    def test_sound(self, tmp_path: Path, mode: str) -> None:
        database = make_database(tmp_path / "opstage.db", 100, mode)
        before = fingerprint(database)
        assert database_problems(str(database)) == []
        assert fingerprint(database) == before

    def test_while_it_is_written_to(self, tmp_path: Path) -> None:
        database = make_database(tmp_path / "opstage.db", 100, "WAL")
        with writing(database):
            assert database_problems(str(database)) == []

    def test_damaged(self, tmp_path: Path) -> None:
        database = make_database(tmp_path / "opstage.db", 2000)
        with database.open("r+b") as file:
            file.seek(4096 * 3)
            file.write(b"\xff" * 4096)
        (problem,) = database_problems(str(database))
        assert problem.startswith(f"The database {database} is damaged: PRAGMA quick_check")
        assert problem.endswith("Restore it from a verified recovery point first.")

    def test_damaged_in_the_log_only(self, tmp_path: Path) -> None:
        """The file alone would pass."""
        database = make_database(tmp_path / "opstage.db", 2000, "WAL")
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_master SET rootpage = 3 WHERE type = 'table'")
            connection.commit()
            (problem,) = database_problems(str(database))
        assert f"The database {database}" in problem

    @pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
    def test_no_database(self, tmp_path: Path, content: bytes) -> None:
        database = tmp_path / "opstage.db"
        database.write_bytes(content)
        (problem,) = database_problems(str(database))
        assert problem.startswith(f"The database {database} cannot be checked: ")

    def test_missing(self, tmp_path: Path) -> None:
        (problem,) = database_problems(str(tmp_path / "opstage.db"))
        assert "cannot be checked" in problem


class TestContainer:
    @pytest.fixture
    def docker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
        monkeypatch.setattr(upgrade_host, "memory_problems", lambda pid: [f"memory of {pid}"])
        return RecordedDocker(tmp_path / "docker", monkeypatch)

    def with_secret(self, docker: RecordedDocker, secret: str | None) -> None:
        container = recorded_container("published")
        names = [entry for entry in container["Config"]["Env"] if not entry.startswith("OPSTAGE_SESSION_SECRET=")]
        container["Config"]["Env"] = names if secret is None else [*names, f"OPSTAGE_SESSION_SECRET={secret}"]
        docker.has_containers([container])

    @pytest.mark.parametrize("secret", [SECRET, "x" * 32, "=" * 32])
    def test_a_secret_that_is_long_enough(self, docker: RecordedDocker, secret: str) -> None:
        self.with_secret(docker, secret)
        assert container_problems("opstage-published-1", rehearse=False) == []
        assert docker.calls == ["container inspect opstage-published-1"]

    @pytest.mark.parametrize("secret", ["", "hunter2", SECRET[:31]])
    def test_a_secret_that_is_too_short(self, docker: RecordedDocker, secret: str) -> None:
        self.with_secret(docker, secret)
        (problem,) = container_problems("opstage-published-1", rehearse=False)
        assert f"opstage-published-1 has an OPSTAGE_SESSION_SECRET of {len(secret)} characters, expected 32" in problem
        assert "hunter2" not in problem

    def test_no_secret(self, docker: RecordedDocker) -> None:
        self.with_secret(docker, None)
        (problem,) = container_problems("opstage-published-1", rehearse=False)
        assert "opstage-published-1 has no OPSTAGE_SESSION_SECRET" in problem

    def test_memory_is_looked_at_for_a_rehearsal(self, docker: RecordedDocker) -> None:
        docker.has_containers([recorded_container("published")])
        assert container_problems("opstage-published-1", rehearse=True) == ["memory of 28122"]

    @pytest.mark.parametrize("answer", [None, "[]"])
    def test_a_container_that_is_gone(self, docker: RecordedDocker, answer: str | None) -> None:
        if answer is not None:
            docker.says("container-inspect", answer)
        (problem,) = container_problems("opstage-published-1", rehearse=True)
        assert problem.startswith("The container opstage-published-1 could not be looked at")


class TestPin:
    @pytest.fixture
    def deployment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.setenv("PATH", compose_command.search_path())
        (tmp_path / "compose.yml").write_text("services:\n  web:\n    image: repo:${TAG}\n")
        (tmp_path / ".env").write_text("TAG=0.2.0\n")
        return {
            "project": "web",
            "project_dir": str(tmp_path),
            "config_files": [str(tmp_path / "compose.yml")],
            "environment_files": [],
            "service": "web",
        }

    def test_nothing_is_changed(self, deployment: dict[str, Any], tmp_path: Path) -> None:
        before = fingerprint(tmp_path / "compose.yml", tmp_path / ".env")
        assert pin_problems(deployment, "0.3.0", DIGEST) == []
        assert pin_problems(deployment, "0.3.0", None) == []
        assert fingerprint(tmp_path / "compose.yml", tmp_path / ".env") == before
        assert names_in(tmp_path) == [".env", "compose.yml"]

    @pytest.mark.parametrize(
        "text",
        [
            "services: [\n",
            "services:\n  other:\n    image: repo:1\n",
            "x: &i repo:0.2.0\nservices:\n  web:\n    image: *i\n",
        ],
    )
    def test_a_project_that_cannot_be_pinned(self, deployment: dict[str, Any], tmp_path: Path, text: str) -> None:
        (tmp_path / "compose.yml").write_text(text)
        (problem,) = pin_problems(deployment, "0.3.0", DIGEST)
        assert problem.startswith("The image of web cannot be pinned: ")

    def test_an_environment_file_that_is_gone(self, deployment: dict[str, Any], tmp_path: Path) -> None:
        (problem,) = pin_problems({**deployment, "environment_files": [str(tmp_path / "gone")]}, "0.3.0", DIGEST)
        assert "gone cannot be read" in problem
