# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import Reason
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import SnapshotError, create_snapshot
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_tail import HeldCopy
from sqlite_testing import (
    HOLDER,
    REPEATER,
    content_of,
    fingerprint,
    killed_deployment,
    make_database,
    names_in,
    numbers_in,
    running,
    wait_until,
    writing,
)

# Rolls back to a savepoint after pages were written to the log: with SQLite 3.11 to 3.49, these frames and those after
# them have no checksums, so only the log's index knows of them.
SAVEPOINT_WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA wal_autocheckpoint=0")
connection.execute("PRAGMA cache_size=2")
print("ready", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("BEGIN")
connection.execute("SAVEPOINT here")
connection.execute("UPDATE entries SET text = text || 'c'")
connection.execute("ROLLBACK TO here")
connection.execute("INSERT INTO entries SELECT number + 1000000, text FROM entries")
connection.execute("COMMIT")
print("committed", flush=True)
time.sleep(600)
"""


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder / "copy.db"


def merged(dest: Path) -> Path:
    """Copy and log as one file."""
    whole = dest.parent.parent / "whole.db"
    create_snapshot(str(dest), str(whole))
    return whole


@pytest.mark.parametrize("checkpoint", [0, 1, 20, 1000])
def test_has_every_acknowledged_write_whatever_becomes_of_the_log(tmp_path: Path, dest: Path, checkpoint: int) -> None:
    source = make_database(tmp_path / "live.db", 20_000, "WAL")
    with contextlib.ExitStack() as stopped:
        writer = stopped.enter_context(writing(source, rate=2000, checkpoint=checkpoint, rows=30))
        with HeldCopy(str(source), str(dest)) as copy:
            copied = len(numbers_in(dest))
            wait_until(lambda: int(writer.lines[-1]) > copied + 300)
            stopped.close()
            assert copy.add_tail()
    whole = merged(dest)
    assert len(numbers_in(whole)) >= int(writer.lines[-1]) > copied
    assert content_of(whole) == content_of(source)


def test_checkpoints_all_the_while(tmp_path: Path, dest: Path) -> None:
    source = make_database(tmp_path / "live.db", 20_000, "WAL")
    with contextlib.ExitStack() as stopped:
        writer = stopped.enter_context(writing(source, rate=1000, checkpoint=0, rows=30))
        stopped.enter_context(running(REPEATER, str(source), "PRAGMA wal_checkpoint(PASSIVE)"))
        with HeldCopy(str(source), str(dest)) as copy:
            copied = len(numbers_in(dest))
            wait_until(lambda: int(writer.lines[-1]) > copied + 300)
            stopped.close()
            assert copy.add_tail()
    assert content_of(merged(dest)) == content_of(source)


def test_a_writer_that_closes_the_database_in_good_order(tmp_path: Path, dest: Path) -> None:
    source = make_database(tmp_path / "live.db", 500, "WAL")
    with HeldCopy(str(source), str(dest)) as copy:
        with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as connection:
            connection.execute("INSERT INTO entries VALUES (501, 'the last one')")
        assert copy.add_tail()
    assert numbers_in(merged(dest)) == list(range(1, 502))


def test_a_killed_deployment_that_nobody_writes(tmp_path: Path, dest: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    source = folder / "opstage.db"
    committed = killed_deployment(source)
    before = fingerprint(source, Path(f"{source}-wal"))
    with HeldCopy(str(source), str(dest)) as copy:
        assert copy.add_tail()
    assert len(numbers_in(merged(dest))) == committed
    assert fingerprint(source, Path(f"{source}-wal")) == before


def test_only_the_log_is_copied_at_the_end(tmp_path: Path, dest: Path) -> None:
    source = make_database(tmp_path / "live.db", 20_000, "WAL")
    with HeldCopy(str(source), str(dest)) as copy:
        size, inode = dest.stat().st_size, dest.stat().st_ino
        with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as connection:
            connection.execute("UPDATE entries SET text = 'changed' WHERE number = 7")
        assert copy.add_tail()
        assert (dest.stat().st_size, dest.stat().st_ino) == (size, inode)
        assert 0 < Path(f"{dest}-wal").stat().st_size < size / 10
    assert names_in(dest.parent) == ["copy.db", "copy.db-wal"]
    assert (dest.stat().st_mode & 0o777, Path(f"{dest}-wal").stat().st_mode & 0o777) == (0o600, 0o600)


def test_a_rollback_journal_has_no_tail_and_keeps_nobody_waiting(tmp_path: Path, dest: Path) -> None:
    source = make_database(tmp_path / "live.db", 500)
    with HeldCopy(str(source), str(dest)) as copy:
        with contextlib.closing(sqlite3.connect(source, timeout=1, isolation_level=None)) as connection:
            connection.execute("INSERT INTO entries VALUES (501, 'the last one')")
        assert not copy.add_tail()
    assert numbers_in(dest) == list(range(1, 501))


def test_frames_without_checksums_are_noticed(tmp_path: Path, dest: Path) -> None:
    source = make_database(tmp_path / "live.db", 300, "WAL")
    with contextlib.ExitStack() as stopped:
        writer = stopped.enter_context(running(SAVEPOINT_WRITER, str(source), "0.5"))
        with HeldCopy(str(source), str(dest)) as copy:
            wait_until(lambda: len(writer.lines) == 2)
            with contextlib.closing(sqlite3.connect(source)) as connection:
                wanted = connection.execute("SELECT count(*) FROM entries").fetchone()[0]
            stopped.close()
            is_whole = copy.add_tail()
            if not is_whole:
                assert names_in(dest.parent) == ["copy.db"]
                assert numbers_in(dest) == list(range(1, 301))
    assert wanted == 600
    if is_whole:
        assert len(numbers_in(merged(dest))) == wanted
    assert is_whole == (not (3, 11) <= sqlite3.sqlite_version_info < (3, 50))


def test_a_process_that_still_has_it_open_is_named(tmp_path: Path, dest: Path) -> None:
    source = make_database(tmp_path / "live.db", 500, "WAL")
    with running(HOLDER, str(source), "SELECT * FROM entries") as holder, HeldCopy(str(source), str(dest)) as copy:
        with pytest.raises(SnapshotError) as caught:
            copy.add_tail()
        assert caught.value.reason is Reason.IN_USE
        assert f"process {holder.pid} " in str(caught.value)


def test_a_damaged_database_leaves_no_copy(tmp_path: Path, dest: Path) -> None:
    source = make_database(tmp_path / "live.db", 5_000, "WAL")
    with source.open("r+b") as stream:
        stream.seek(3 * 4096)
        stream.write(os.urandom(4096))
    with pytest.raises(SnapshotError) as caught, HeldCopy(str(source), str(dest)):
        raise AssertionError("it was copied")
    assert caught.value.reason is Reason.DAMAGED_SOURCE
    assert names_in(dest.parent) == []
