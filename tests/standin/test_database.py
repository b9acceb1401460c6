# SPDX-License-Identifier: GPL-3.0-or-later
"""The database: what lies where after a stop, and what is in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from standin.container import Container, Laboratory, docker

TABLES = {
    "workspaces",
    "users",
    "audit_events",
    "system_settings",
    "registration_tokens",
    "agents",
    "agent_tokens",
    "capsule_services",
    "health_reports",
    "config_items",
    "action_definitions",
    "commands",
    "command_results",
}
ADDED_TABLES = {"bus_events", "bus_routes"}


def query(database: Path, sql: str) -> list[tuple[object, ...]]:
    """Rows of a copy that nobody else has open."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def stopped_data(container: Container, tmp_path: Path) -> Path:
    """Stop the container and copy its data directory out."""
    docker("stop", container.name)
    return container.copy_out("/app/data", tmp_path / "data")


def test_stop_leaves_everything_in_the_log(laboratory: Laboratory, tmp_path: Path) -> None:
    container = laboratory.run("0.3.0")
    container.wait_for_answer()
    data = stopped_data(container, tmp_path)
    alone = tmp_path / "alone.db"
    alone.write_bytes((data / "opstage.db").read_bytes())
    assert alone.stat().st_size == 4096
    assert query(alone, "select name from sqlite_schema") == []
    assert query(alone, "pragma integrity_check") == [("ok",)]
    assert (data / "opstage.db-wal").stat().st_size > 100_000
    assert query(data / "opstage.db", "select role from users") == [("owner",)]


def test_restore_beside_the_old_log_silently_does_nothing(laboratory: Laboratory, tmp_path: Path) -> None:
    container = laboratory.run("0.3.0")
    client = container.wait_for_answer()
    client.login()
    client.request("POST", "/standin/writes")
    backup = tmp_path / "opstage.db"
    backup.write_bytes(client.request("POST", "/api/admin/backup/sqlite").body)
    client.request("POST", "/standin/writes")
    docker("stop", container.name)
    docker("cp", str(backup), f"{container.name}:/app/data/opstage.db")
    docker("start", container.name)
    restored = container.wait_for_answer()
    assert restored.get("/standin/writes").data["count"] == 2
    assert container.sql("pragma integrity_check") == [{"integrity_check": "ok"}]


def test_log_is_merged_at_a_thousand_pages(busy: Container) -> None:
    assert int(busy.execute("stat", "-c", "%s", "/app/data/opstage.db")) > 4_000_000


@pytest.mark.parametrize(
    ("name", "expected"), [("serving_first", TABLES), ("serving", TABLES), ("busy", TABLES | ADDED_TABLES)]
)
def test_tables_columns_and_keys(request: pytest.FixtureRequest, name: str, expected: set[str]) -> None:
    container: Container = request.getfixturevalue(name)
    tables = {row["name"] for row in container.sql("select name from sqlite_schema where type = 'table'")}
    assert tables == expected
    columns = container.sql(
        "select m.name as 'table', c.name from sqlite_schema m, pragma_table_info(m.name) c where m.type = 'table'"
    )
    assert {row["table"] for row in columns if row["name"] == "createdAt"} == expected - {"system_settings"}
    assert [row for row in columns if "_" in row["name"]] == []
    assert container.sql("select \"table\" from pragma_foreign_key_list('agents')") == [{"table": "workspaces"}]


def test_wal_mode_is_on_and_the_user_version_is_zero(serving: Container) -> None:
    assert serving.sql("pragma journal_mode") == [{"journal_mode": "wal"}]
    assert serving.sql("pragma user_version") == [{"user_version": 0}]


def test_ids_have_a_prefix(busy: Container) -> None:
    for table, prefix in [("users", "usr"), ("workspaces", "wsp"), ("agents", "agt"), ("audit_events", "aud")]:
        ids = busy.sql(f"select id from {table} limit 100")
        assert ids
        assert all(row["id"].startswith(f"{prefix}_") for row in ids)


def test_seed_is_sown_once_and_keeps_the_foreign_keys(laboratory: Laboratory) -> None:
    container = laboratory.run("0.5.0", environment={"OPSTAGE_STANDIN_SEED_ROWS": "1000"})
    container.wait_for_answer()
    docker("restart", container.name)
    container.wait_for_answer()
    assert container.sql("select count(*) as count from audit_events") == [{"count": 1000}]
    assert container.sql("select count(*) as count from capsule_services") == [{"count": 20}]
    assert container.sql("pragma foreign_key_check") == []


def test_a_second_start_writes_nothing(laboratory: Laboratory) -> None:
    container = laboratory.run("0.4.0")
    container.wait_for_answer()
    command = ("stat", "-c", "%s", "/app/data/opstage.db", "/app/data/opstage.db-wal")
    before = container.execute(*command)
    docker("restart", container.name)
    container.wait_for_answer()
    assert container.execute(*command) == before
