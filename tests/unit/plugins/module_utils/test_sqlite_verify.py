# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import sqlite_verify
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import Reason
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_verify import VerificationError, verify_database
from sqlite_testing import fingerprint, killed_deployment, make_database, names_in


def changed(path: Path, offset: int, content: bytes) -> Path:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)
    return path


def error_of(path: Path, level: str = "full") -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verify_database(str(path), level)
    return caught.value


def wrong_index(path: Path) -> Path:
    """A database whose index has other content than its table."""
    make_database(path, 50)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE INDEX by_text ON entries (text)")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = 'CREATE INDEX by_text ON entries (number)' WHERE name = 'by_text'"
        )
    return path


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("level", ["full", "quick", "none"])
def test_sound_database_gives_facts_and_leaves_nothing(tmp_path: Path, journal_mode: str, level: str) -> None:
    path = make_database(tmp_path / "sound.db", 50, journal_mode, "PRAGMA user_version=7", "PRAGMA application_id=9")
    before = fingerprint(path)
    facts = verify_database(str(path), level)
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts.size, facts.page_size * facts.page_count) == (path.stat().st_size, path.stat().st_size)
    assert (facts.user_version, facts.application_id, facts.tables) == (7, 9, 1)
    assert facts.integrity == ("not checked" if level == "none" else "ok")
    assert facts.foreign_key_violations == (None if level == "none" else 0)
    assert names_in(tmp_path) == ["sound.db"]
    assert fingerprint(path) == before


def test_index_that_differs_from_its_table_is_found_by_the_full_check_only(tmp_path: Path) -> None:
    path = wrong_index(tmp_path / "index.db")
    error = error_of(path)
    assert error.reason is Reason.DAMAGED_SOURCE
    assert "by_text" in str(error)
    assert verify_database(str(path), "quick").integrity == "ok"


def test_changed_payload_is_found_by_the_checksum_only(tmp_path: Path) -> None:
    path = make_database(tmp_path / "payload.db", 50)
    sound = verify_database(str(path), "full")
    changed(path, path.read_bytes().index(b"row 30") + 4, b"9")
    assert verify_database(str(path), "full").sha256 != sound.sha256


@pytest.mark.parametrize("level", ["full", "quick"])
def test_damaged_page(tmp_path: Path, level: str) -> None:
    path = changed(make_database(tmp_path / "damaged.db", 500), 4096 * 3, b"\xff" * 4096)
    assert error_of(path, level).reason is Reason.DAMAGED_SOURCE


@pytest.mark.parametrize("bytes_more", [-4096, -1, 1, 4096])
def test_size_that_is_not_the_headers(tmp_path: Path, bytes_more: int) -> None:
    path = make_database(tmp_path / "size.db", 500)
    os.truncate(path, path.stat().st_size + bytes_more)
    error = error_of(path, "none")
    assert error.reason is Reason.DAMAGED_SOURCE
    assert "pages of 4096 bytes" in str(error)


def test_impossible_page_size(tmp_path: Path) -> None:
    path = changed(make_database(tmp_path / "size.db", 5), 16, b"\x03\xe8")
    assert "a page size of 1000" in str(error_of(path))


def test_file_with_a_log_is_not_self_contained(tmp_path: Path) -> None:
    killed_deployment(tmp_path / "live.db")
    before = names_in(tmp_path)
    error = error_of(tmp_path / "live.db")
    assert error.reason is Reason.REFUSED
    assert "live.db-wal" in str(error)
    assert names_in(tmp_path) == before


def test_foreign_keys_that_cannot_be_checked(tmp_path: Path) -> None:
    path = make_database(
        tmp_path / "mismatch.db",
        5,
        "DELETE",
        "CREATE TABLE parents (id INTEGER)",
        "CREATE TABLE children (parent INTEGER REFERENCES parents (id))",
        "INSERT INTO children VALUES (1)",
    )
    assert verify_database(str(path), "full").foreign_key_violations is None


FAMILIES = (
    "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
    "CREATE TABLE children (parent INTEGER REFERENCES parents (id), mother INTEGER REFERENCES parents (id))",
    'CREATE TABLE "with "" quote" (parent INTEGER REFERENCES parents (id))',
    "CREATE TABLE größe (name TEXT PRIMARY KEY, parent INTEGER REFERENCES parents (id)) WITHOUT ROWID",
    "CREATE TABLE childless (id INTEGER REFERENCES parents (id))",
    "CREATE TABLE without_references (id INTEGER)",
    "INSERT INTO parents VALUES (1)",
    "INSERT INTO children VALUES (1, 7), (7, 8), (NULL, 1)",
    'INSERT INTO "with "" quote" VALUES (1), (2)',
    "INSERT INTO größe VALUES ('a', 1), ('b', 9), ('c', 9)",
)


@pytest.mark.parametrize("level", ["full", "quick"])
def test_foreign_keys_of_all_tables_are_counted(tmp_path: Path, level: str) -> None:
    path = make_database(tmp_path / "families.db", 5, "DELETE", *FAMILIES)
    assert violations(path) == 6
    assert verify_database(str(path), level).foreign_key_violations == 6


def test_table_that_is_listed_under_another_name_is_checked_or_damaged(tmp_path: Path) -> None:
    path = make_database(tmp_path / "families.db", 5, "DELETE", *FAMILIES)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET name = 'others', tbl_name = 'others' WHERE name = 'children'")
    try:
        expected = violations(path)
    except sqlite3.DatabaseError:
        assert error_of(path, "quick").reason is Reason.DAMAGED_SOURCE
    else:
        assert verify_database(str(path), "quick").foreign_key_violations == expected == 6


def violations(path: Path) -> int:
    """What SQLite itself counts."""
    with closing(sqlite3.connect(path)) as connection:
        return len(connection.execute("PRAGMA foreign_key_check").fetchall())


def test_rows_of_an_estimate_that_is_far_off_are_checked_as_well(tmp_path: Path) -> None:
    path = make_database(
        tmp_path / "many.db",
        5,
        "DELETE",
        "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
        "CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parents (id)) WITHOUT ROWID",
        "INSERT INTO children WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers"
        " LIMIT 25000) SELECT number, 1 FROM numbers",
    )
    assert verify_database(str(path), "quick").foreign_key_violations == 25_000


def test_what_was_said_to_be_done_stays_so(tmp_path: Path) -> None:
    """How many rows and entries there are to look at becomes known on the way."""
    database = make_database(tmp_path / "some.db", 500)
    done: list[int] = []
    with ExitStack() as opened:
        descriptor = opened.enter_context(database.open("rb")).fileno()
        examiners = opened.enter_context(sqlite_verify._Examiners(str(database), descriptor, "none", None))
        examiners._known = [sqlite_verify._Task("sha256", 100, done=1.0)]
        examiners._tell(lambda state: done.append(state.done))
        examiners._known.append(sqlite_verify._Task("tables", 900))
        examiners._tell(lambda state: done.append(state.done))
    size = database.stat().st_size
    assert done == [size, size]
