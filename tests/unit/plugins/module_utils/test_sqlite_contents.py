# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import sqlite_contents
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_contents import (
    TABLES_ADDED,
    Contents,
    ContentsError,
    Table,
    guess_version,
    missing_in,
    read_contents,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import Reason
from sqlite_testing import fingerprint, killed_deployment, make_database, names_in

MIGRATIONS = Path(__file__).resolve().parents[3] / "testbed" / "opstage" / "app" / "src" / "migrations.mjs"


def database(path: Path, *statements: str) -> Path:
    """A database made by an application that has its own collation `backwards` and its own function `tripled`."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_collation("backwards", lambda one, other: (one < other) - (one > other))
        connection.create_function("tripled", 1, lambda value: value * 3, deterministic=True)
        for statement in statements:
            connection.execute(statement)
    return path


def contents(path: Path, count_rows: bool = True) -> Contents:
    return read_contents(str(path), count_rows)


def tables_in(path: Path) -> dict[str, Table]:
    return contents(path).tables


def schema_hash(path: Path, *statements: str) -> str:
    return contents(database(path, *statements)).schema_sha256


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
def test_tables_with_columns_and_rows_and_nothing_left(tmp_path: Path, journal_mode: str) -> None:
    path = make_database(tmp_path / "sound.db", 50, journal_mode)
    database(
        path,
        "CREATE TABLE 'a \"quoted\" näme' (one, 'two words')",
        "CREATE TABLE keyed (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
        "INSERT INTO keyed VALUES ('a', 1), ('b', 2)",
        "CREATE TABLE counted (number INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO counted VALUES (1000)",
        "CREATE VIEW seen AS SELECT * FROM keyed",
        "ANALYZE",
    )
    before = fingerprint(path)
    expected = {
        'a "quoted" näme': {"columns": ["one", "two words"], "rows": 0},
        "counted": {"columns": ["number"], "rows": 1},
        "entries": {"columns": ["number", "text"], "rows": 50},
        "keyed": {"columns": ["key", "value"], "rows": 2},
    }
    assert tables_in(path) == expected
    uncounted = contents(path, count_rows=False).tables
    assert uncounted == {name: {**table, "rows": None} for name, table in expected.items()}
    assert names_in(tmp_path) == ["sound.db"]
    assert fingerprint(path) == before


def test_no_tables(tmp_path: Path) -> None:
    assert tables_in(database(tmp_path / "empty.db", "PRAGMA user_version=1", "VACUUM")) == {}


class TestWhatOnlyTheApplicationHas:
    def test_a_collation(self, tmp_path: Path) -> None:
        path = database(
            tmp_path / "collation.db",
            "CREATE TABLE keyed (key TEXT COLLATE backwards PRIMARY KEY, value) WITHOUT ROWID",
            "INSERT INTO keyed VALUES ('a', 1)",
            "CREATE TABLE plain (value)",
        )
        found = tables_in(path)
        assert found["keyed"]["rows"] is None
        assert found["plain"] == {"columns": ["value"], "rows": 0}

    def test_a_function(self, tmp_path: Path) -> None:
        """Some SQLites count the rows of such a table, others do not get that far."""
        path = database(
            tmp_path / "function.db",
            "CREATE TABLE indexed (value)",
            "CREATE INDEX by_function ON indexed (tripled(value))",
            "INSERT INTO indexed VALUES (1)",
        )
        assert tables_in(path)["indexed"]["rows"] in (None, 1)

    @pytest.mark.parametrize("text", ["no such collation sequence: x", "unknown function: x()", "no such module: x"])
    def test_whatever_sqlite_says_of_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        def fail(_name: str) -> str:
            raise sqlite3.OperationalError(text)

        path = make_database(tmp_path / "sound.db", 5)
        monkeypatch.setattr(sqlite_contents, "quoted", fail)
        assert tables_in(path) == {"entries": {"columns": None, "rows": None}}

    def test_another_failure_is_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = make_database(tmp_path / "sound.db", 5)
        monkeypatch.setattr(sqlite_contents, "quoted", lambda _name: "(")
        with pytest.raises(ContentsError, match="syntax error"):
            contents(path)

    def test_a_virtual_table_is_not_opened_and_its_shadows_are_tables(self, tmp_path: Path) -> None:
        path = database(
            tmp_path / "virtual.db",
            "CREATE TABLE plain (value)",
            "PRAGMA writable_schema=ON",
            "INSERT INTO sqlite_master VALUES ('table', 'there', 'there', 0, 'CREATE VIRTUAL TABLE there USING gone')",
        )
        assert tables_in(path) == {
            "plain": {"columns": ["value"], "rows": 0},
            "there": {"columns": None, "rows": None},
        }

    def test_the_shadows_of_a_virtual_table(self, tmp_path: Path) -> None:
        path = tmp_path / "fts.db"
        try:
            database(path, "CREATE VIRTUAL TABLE words USING fts5(text)", "INSERT INTO words VALUES ('one')")
        except sqlite3.OperationalError:
            pytest.skip("this SQLite has no fts5")
        found = tables_in(path)
        assert found["words"] == {"columns": None, "rows": None}
        assert found["words_content"]["rows"] == 1


def test_generated_columns_count_as_columns(tmp_path: Path) -> None:
    path = database(tmp_path / "generated.db", "CREATE TABLE sums (a, b, c AS (a + b) STORED, d AS (a - b))")
    assert tables_in(path)["sums"]["columns"] == ["a", "b", "c", "d"]


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    path = database(tmp_path / "names.db", "CREATE TABLE good (badcolumn)", "CREATE TABLE badtable (value)")
    path.write_bytes(path.read_bytes().replace(b"badcolumn", b"\xffadcolumn").replace(b"badtable", b"\xffadtable"))
    assert tables_in(path) == {
        "good": {"columns": ["\\xffadcolumn"], "rows": 0},
        "\\xffadtable": {"columns": None, "rows": None},
    }


def test_more_than_one_message_holds(tmp_path: Path) -> None:
    names = [f"table_{number:04d}_{'x' * 60}" for number in range(1500)]
    statements = ["BEGIN", *(f'CREATE TABLE {name} ("a\\", "b""")' for name in names), "COMMIT"]
    found = tables_in(database(tmp_path / "many.db", *statements))
    assert list(found) == names
    assert found[names[-1]] == {"columns": ["a\\", 'b"'], "rows": 0}


def test_names_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_contents, "_MOST_CHARACTERS", 100)
    path = make_database(tmp_path / "sound.db", 5)
    with pytest.raises(ContentsError, match=r"have \d+ characters, expected are at most 100") as caught:
        contents(path)
    assert caught.value.reason is Reason.REFUSED


def test_a_log_beside_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "killed.db"
    killed_deployment(path)
    with pytest.raises(ContentsError, match=r"killed\.db-wal has a part of them") as caught:
        contents(path)
    assert caught.value.reason is Reason.REFUSED


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", Reason.NOT_A_DATABASE), (b"text" * 100, Reason.NOT_A_DATABASE), (None, Reason.MISSING)],
)
def test_what_is_no_database(tmp_path: Path, content: bytes | None, reason: Reason) -> None:
    path = tmp_path / "other.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ContentsError, match=r"reading the contents of .*other\.db") as caught:
        contents(path)
    assert caught.value.reason is reason


def test_a_damaged_table(tmp_path: Path) -> None:
    path = make_database(tmp_path / "damaged.db", 500)
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(ContentsError) as caught:
        contents(path)
    assert caught.value.reason is Reason.DAMAGED_SOURCE


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    make_database(tmp_path / "sound.db", 5)
    (tmp_path / "link.db").symlink_to("sound.db")
    with pytest.raises(ContentsError, match="is a symbolic link"):
        contents(tmp_path / "link.db")


class TestSchemaHash:
    ONE = "CREATE TABLE one (a INTEGER,\n\t b TEXT)"
    TWO = "CREATE TABLE two (c)"

    def test_is_what_the_manifest_s_schema_says(self, tmp_path: Path) -> None:
        lines = (
            '["table", "one", "one", "CREATE TABLE one (a INTEGER, b TEXT)"]\n'
            '["table", "two", "two", "CREATE TABLE two (c)"]\n'
        )
        assert schema_hash(tmp_path / "known.db", self.TWO, self.ONE) == hashlib.sha256(lines.encode()).hexdigest()

    def test_is_the_same_for_the_same_schema(self, tmp_path: Path) -> None:
        first = schema_hash(tmp_path / "first.db", self.ONE, self.TWO)
        spaced = self.ONE.replace("\n\t ", " ")
        again = schema_hash(
            tmp_path / "again.db",
            "PRAGMA page_size=1024",
            "PRAGMA encoding='UTF-16le'",
            self.TWO,
            "CREATE TABLE gone (a)",
            spaced,
            "INSERT INTO one VALUES (1, 'x')",
            "DROP TABLE gone",
            "ANALYZE",
            "VACUUM",
        )
        assert again == first

    @pytest.mark.parametrize(
        "change",
        [
            "CREATE TABLE three (d)",
            "CREATE INDEX by_a ON one (a)",
            "CREATE VIEW both AS SELECT * FROM one, two",
            "CREATE TRIGGER after_one AFTER INSERT ON one BEGIN SELECT 1; END",
            "ALTER TABLE one RENAME COLUMN a TO e",
            "ALTER TABLE one ADD COLUMN f",
            "DROP TABLE two",
        ],
    )
    def test_differs_after_a_change(self, tmp_path: Path, change: str) -> None:
        path = tmp_path / "changed.db"
        before = schema_hash(path, self.ONE, self.TWO)
        assert schema_hash(path, change) != before


class TestMissingIn:
    def columns(self, **tables: list[str] | None) -> dict[str, Table]:
        return {name: Table(columns=columns, rows=0) for name, columns in tables.items()}

    def test_nothing(self) -> None:
        running = self.columns(users=["id", "name", "added"], added=["id"])
        assert missing_in(running, self.columns(users=["name", "id"])) == []
        assert missing_in(running, running) == []
        assert missing_in(running, {}) == []

    def test_tables_and_columns(self) -> None:
        running = self.columns(users=["id"], agents=["id"])
        point = self.columns(users=["id", "passwordHash"], agents=["id", "hostname", "os"], bus_events=["id"])
        assert missing_in(running, point) == ["users.passwordHash", "agents.hostname", "agents.os", "bus_events"]

    def test_capitals_make_no_difference(self) -> None:
        assert missing_in(self.columns(Users=["ID"]), self.columns(users=["id"])) == []

    def test_columns_that_are_not_known_are_not_compared(self) -> None:
        known, unknown = self.columns(words=["text"]), self.columns(words=None)
        assert missing_in(known, unknown) == missing_in(unknown, known) == []
        assert missing_in({}, unknown) == ["words"]

    def test_of_databases(self, tmp_path: Path) -> None:
        older = database(tmp_path / "older.db", "CREATE TABLE users (id, passwordHash)")
        newer = database(tmp_path / "newer.db", "CREATE TABLE users (id, passwordDigest)", "CREATE TABLE bus (id)")
        assert missing_in(tables_in(newer), tables_in(older)) == ["users.passwordHash"]
        assert missing_in(tables_in(older), tables_in(newer)) == ["bus", "users.passwordDigest"]


def opstage(path: Path, version: str) -> Path:
    """A database as the stand-in for that version of Opstage makes it."""
    source = MIGRATIONS.read_text(encoding="utf-8")
    with closing(sqlite3.connect(path)) as connection:
        for name in ("TABLES", "ADDED_IN_0_4")[: 1 + (version == "0.4.0")]:
            (statements,) = re.findall(rf"const {name} = `(.*?)`", source, re.DOTALL)
            connection.executescript(statements)
    return path


class TestGuessVersion:
    @pytest.mark.parametrize(
        ("version", "expected"),
        [("0.1.0", ("0.1.0", "0.2.0", "0.3.0")), ("0.3.0", ("0.1.0", "0.2.0", "0.3.0")), ("0.4.0", ("0.4.0",))],
    )
    def test_a_known_one(self, tmp_path: Path, version: str, expected: tuple[str, ...]) -> None:
        path = opstage(tmp_path / "downloaded.db", version)
        guess = guess_version(str(path))
        assert (guess.versions, guess.unknown_tables, guess.missing_tables) == (expected, (), ())
        assert guess.explanation == f"{path} has the tables of Opstage {', '.join(expected)}."

    def test_a_newer_one(self, tmp_path: Path) -> None:
        path = opstage(tmp_path / "downloaded.db", "0.4.0")
        database(path, "CREATE TABLE Tenants (id)", "CREATE TABLE quotas (id)")
        guess = guess_version(str(path))
        assert (guess.versions, guess.unknown_tables, guess.missing_tables) == ((), ("Tenants", "quotas"), ())
        assert "is newer than is known: no Opstage up to 0.4.0 has Tenants, quotas." in guess.explanation

    def test_half_of_one(self, tmp_path: Path) -> None:
        path = opstage(tmp_path / "downloaded.db", "0.4.0")
        database(path, "DROP TABLE bus_routes")
        guess = guess_version(str(path))
        assert (guess.versions, guess.unknown_tables, guess.missing_tables) == ((), (), ())
        assert "has some of the tables that Opstage 0.4.0 added, and not all of them" in guess.explanation

    def test_no_opstage(self, tmp_path: Path) -> None:
        path = make_database(tmp_path / "other.db", 5)
        guess = guess_version(str(path))
        assert (guess.versions, guess.missing_tables) == ((), TABLES_ADDED["0.1.0"])
        assert guess.unknown_tables == ("entries",)
        assert "is no database of Opstage: it lacks the tables workspaces, users" in guess.explanation

    def test_a_download_keeps_write_ahead_mode_and_nothing_is_left_beside_it(self, tmp_path: Path) -> None:
        path = opstage(tmp_path / "downloaded.db", "0.4.0")
        database(path, "PRAGMA journal_mode=WAL")
        before = fingerprint(path)
        assert guess_version(str(path)).versions == ("0.4.0",)
        assert names_in(tmp_path) == ["downloaded.db"]
        assert fingerprint(path) == before


@pytest.mark.parametrize("seconds", [0.0])
def test_no_child_is_left(tmp_path: Path, seconds: float) -> None:
    path = make_database(tmp_path / "sound.db", 5)
    contents(path)
    with pytest.raises(ContentsError):
        read_contents(str(path), deadline=sqlite_contents.Deadline(seconds))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
