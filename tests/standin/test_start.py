# SPDX-License-Identifier: GPL-3.0-or-later
"""Start and stop: the variables that are required, read and not read; the time that both take."""

from __future__ import annotations

import time

import pytest
from standin.container import PASSWORD, UNREACHABLE, Container, Laboratory, docker


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"OPSTAGE_SESSION_SECRET": ""}, "OPSTAGE_SESSION_SECRET: 0 characters"),
        ({"OPSTAGE_SESSION_SECRET": "x" * 31}, "OPSTAGE_SESSION_SECRET: 31 characters"),
        ({"OPSTAGE_ADMIN_PASSWORD": "x" * 11}, "OPSTAGE_ADMIN_PASSWORD: 11 characters"),
        ({"OPSTAGE_ADMIN_USERNAME": ""}, "the database has no user"),
        ({"OPSTAGE_ADMIN_PASSWORD": ""}, "the database has no user"),
        ({"DATABASE_URL": "/app/data/opstage.db"}, "DATABASE_URL"),
    ],
)
def test_start_fails_without_what_is_required(
    laboratory: Laboratory, environment: dict[str, str], complaint: str
) -> None:
    container = laboratory.run("0.3.0", environment=environment, options=UNREACHABLE)
    assert container.wait_for_end() == 1
    assert complaint in container.logs()


def test_administrator_is_used_once_and_not_needed_again(laboratory: Laboratory) -> None:
    volume = laboratory.volume()
    first = laboratory.run("0.3.0", volume)
    first.wait_for_answer()
    docker("stop", first.name)
    without = laboratory.run("0.3.0", volume, {"OPSTAGE_ADMIN_USERNAME": "", "OPSTAGE_ADMIN_PASSWORD": ""})
    assert without.wait_for_answer().login().status == 200
    docker("stop", without.name)
    other = laboratory.run("0.3.0", volume, {"OPSTAGE_ADMIN_PASSWORD": "another-password"})
    client = other.wait_for_answer()
    assert client.login(password="another-password").status == 401
    assert client.login(password=PASSWORD).data["user"]["role"] == "owner"


def test_stop_takes_effect_at_once_and_start_takes_about_a_second(laboratory: Laboratory) -> None:
    container = laboratory.run("0.3.0")
    container.wait_for_answer()
    begin = time.monotonic()
    docker("stop", container.name)
    stopped = time.monotonic()
    assert stopped - begin < 2
    assert container.state()["ExitCode"] == 143
    docker("start", container.name)
    container.wait_for_answer()
    assert time.monotonic() - stopped < 3


def test_sessions_end_with_a_restart(laboratory: Laboratory) -> None:
    container = laboratory.run("0.3.0")
    client = container.wait_for_answer()
    client.login()
    assert client.get("/api/admin/diagnostics/runtime").status == 200
    docker("restart", container.name)
    client.port = container.wait_for_answer().port
    assert client.get("/api/admin/diagnostics/runtime").error == (401, "UNAUTHORIZED")


def test_database_url_and_backup_dir_are_read_and_data_dir_is_not(laboratory: Laboratory) -> None:
    container = laboratory.run(
        "0.3.0",
        environment={
            "DATABASE_URL": "file:/app/data/elsewhere/other.db",
            "OPSTAGE_BACKUP_DIR": "/app/data/copies",
            "OPSTAGE_DATA_DIR": "/app/data/ignored",
        },
    )
    client = container.wait_for_answer()
    client.login()
    assert client.request("POST", "/api/admin/backup/sqlite").status == 200
    assert sorted(container.execute("ls", "/app/data").split()) == ["copies", "elsewhere"]
    assert "other.db" in container.execute("ls", "/app/data/elsewhere").split()
    assert len(container.execute("ls", "/app/data/copies").split()) == 1
    settings = client.get("/api/admin/diagnostics/runtime").data["config"]
    assert settings["databaseUrl"] == "file:/app/data/elsewhere/other.db"
    assert settings["backupDir"] == "/app/data/copies"


def test_default_paths_are_the_documented_ones(serving: Container) -> None:
    client = serving.client()
    client.login()
    settings = client.get("/api/admin/diagnostics/runtime").data["config"]
    assert settings["databaseUrl"] == "file:/app/data/opstage.db"
    assert settings["backupDir"] == "./data/backups"
