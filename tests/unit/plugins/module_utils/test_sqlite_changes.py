# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_changes import (
    ChangesError,
    compare_databases,
    describe_changes,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import Reason
from sqlite_testing import fingerprint, make_database, names_in

SCHEMA = (
    "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT)",
    "CREATE TABLE pairs (one INTEGER, two INTEGER, note TEXT, PRIMARY KEY (one, two)) WITHOUT ROWID",
    'CREATE TABLE "odd "" name" (text TEXT)',
    "INSERT INTO users VALUES ('a', 'Anna'), ('b', 'Berta'), ('c', NULL)",
    "INSERT INTO pairs VALUES (1, 1, 'x'), (1, 2, 'y')",
    "INSERT INTO \"odd \"\" name\" VALUES ('same'), ('same')",
)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return make_database(tmp_path / "before.db", 10, "DELETE", *SCHEMA)


def changed(before: Path, *statements: str) -> Path:
    after = Path(shutil.copyfile(before, before.parent / "after.db"))
    with closing(sqlite3.connect(after, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return after


def test_nothing(before: Path) -> None:
    found = compare_databases(str(before), str(changed(before))).tables
    assert (found, describe_changes(found)) == ({}, "nothing")


def test_rows_that_are_new_different_and_gone(before: Path) -> None:
    after = changed(
        before,
        "INSERT INTO users VALUES ('d', NULL), ('e', 'Emil')",
        "UPDATE users SET name = 'Bert' WHERE id = 'b'",
        "UPDATE users SET name = 'Carl' WHERE name IS NULL AND id = 'c'",
        "DELETE FROM users WHERE id = 'a'",
        "DELETE FROM pairs WHERE two = 2",
        'INSERT INTO "odd "" name" VALUES (\'same\')',
    )
    prints = fingerprint(before), fingerprint(after)
    found = compare_databases(str(before), str(after)).tables
    assert found == {
        'odd " name': {"added": 1, "changed": 0, "removed": 0},
        "pairs": {"added": 0, "changed": 0, "removed": 1},
        "users": {"added": 2, "changed": 2, "removed": 1},
    }
    text = describe_changes(found)
    assert text == 'users: 2 added, 2 changed, 1 removed; odd " name: 1 added; pairs: 1 removed'
    assert (fingerprint(before), fingerprint(after)) == prints
    assert names_in(before.parent) == ["after.db", "before.db"]


def test_what_a_migration_does_to_the_schema(before: Path) -> None:
    after = changed(
        before,
        "ALTER TABLE users ADD COLUMN role TEXT DEFAULT 'viewer'",
        "UPDATE users SET role = 'owner' WHERE id = 'a'",
        "CREATE TABLE events (id TEXT PRIMARY KEY)",
        "INSERT INTO events VALUES ('1'), ('2')",
        "DROP TABLE pairs",
    )
    comparison = compare_databases(str(before), str(after))
    assert comparison.tables == {
        "events": {"added": 2, "changed": 0, "removed": 0},
        "pairs": {"added": 0, "changed": 0, "removed": 2},
    }
    assert comparison.missing == ["pairs"]
    assert compare_databases(str(after), str(before)).missing == ["events", "users.role"]


def test_what_cannot_be_compared(before: Path) -> None:
    """A virtual table, and one whose key was another."""
    after = changed(
        before,
        "CREATE VIRTUAL TABLE found USING fts5 (text)",
        "DROP TABLE users",
        "CREATE TABLE users (number INTEGER PRIMARY KEY, id TEXT, name TEXT)",
    )
    found = compare_databases(str(before), str(after)).tables
    assert (found["found"], found["users"]) == (None, None)
    assert "users: not known" in describe_changes(found)


def test_what_is_no_database(before: Path) -> None:
    (before.parent / "after.db").write_bytes(b"x" * 5000)
    with pytest.raises(ChangesError, match="is not an SQLite database") as caught:
        compare_databases(str(before), str(before.parent / "after.db"))
    assert caught.value.reason is Reason.NOT_A_DATABASE
