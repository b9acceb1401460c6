# SPDX-License-Identifier: GPL-3.0-or-later
"""A lost write is found, also where its number was given away again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from testbed.process import TestbedError
from testbed.reconcile import check_database, compare


def test_all_there() -> None:
    assert compare([1, 2, 4], [1, 2, 3, 4, 9]) == {
        "ok": True,
        "acknowledged": 3,
        "missing": [],
        "reissued": [],
        "unexpected": 1,
    }


def test_a_missing_row_is_named() -> None:
    result = compare([1, 2, 3], [1, 3])
    assert (result["ok"], result["missing"]) == (False, [2])


def test_a_number_acknowledged_twice_is_a_lost_write() -> None:
    result = compare([1, 2, 3, 2, 3], [1, 2, 3])
    assert (result["ok"], result["reissued"]) == (False, [2, 3])


def test_nothing_acknowledged_proves_nothing() -> None:
    assert not compare([], [1, 2])["ok"]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database as a killed service leaves it: all of its rows are in the log."""
    live, left = tmp_path / "live.db", tmp_path / "left.db"
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table standin_writes (number integer primary key)")
        connection.execute("create table audit_events (id text)")
        connection.executemany("insert into standin_writes values (?)", [(1,), (2,), (3,)])
        connection.executemany("insert into audit_events values (?)", [("a",), ("b",), ("c",)])
        connection.commit()
        left.write_bytes(live.read_bytes())
        Path(f"{left}-wal").write_bytes(Path(f"{live}-wal").read_bytes())
    return left


def test_rows_in_the_log_count_and_the_files_stay_as_they_are(database: Path) -> None:
    before = {path.name: path.read_bytes() for path in database.parent.glob("left.db*")}
    assert check_database([1, 2, 3], database, numbered=True, rows_before=0)["ok"]
    assert {path.name: path.read_bytes() for path in database.parent.glob("left.db*")} == before


def test_without_its_log_the_rows_are_missing(database: Path) -> None:
    Path(f"{database}-wal").unlink()
    assert check_database([1, 2, 3], database, numbered=True, rows_before=0)["missing"] == [1, 2, 3]


def test_failed_logins_are_counted_by_the_growth_of_the_audit_log(database: Path) -> None:
    assert check_database([1, 2], database, numbered=False, rows_before=1)["ok"]
    short = check_database([1, 2], database, numbered=False, rows_before=2)
    assert (short["ok"], short["missing_rows"]) == (False, 1)


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(b"not a database " * 100)
    with pytest.raises(TestbedError, match="cannot be read as Opstage's database"):
        check_database([1], other, numbered=True, rows_before=0)
