# SPDX-License-Identifier: GPL-3.0-or-later
"""A fixed sample of the differential campaign finds no bad copy; and it does find those that are made badly."""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import create_snapshot
from campaign.differential import CHECKSUMS_WRITTEN_SINCE, Guard, run_histories

SEED = 2026
HISTORIES = 40
CONTROLS = 200
JOBS = 4
SECONDS_TO_WRITE = 30.0


def test_raw_copy_is_that_of_the_interface() -> None:
    outcomes = list(run_histories(SEED, range(HISTORIES), Guard.ALL, JOBS))
    assert [(outcome.number, problem) for outcome in outcomes for problem in outcome.bad] == []
    for seen in ("copies", "markless", "newer", "restarts", "checkpoints", "kills", "vacuums"):
        assert sum(getattr(outcome, seen) for outcome in outcomes) > 0, seen


@pytest.mark.parametrize("guard", [Guard.HOLD, Guard.MARK])
def test_copy_without_one_part_of_the_method_is_found_bad(guard: Guard) -> None:
    with contextlib.closing(run_histories(SEED, range(CONTROLS), guard, JOBS)) as outcomes:
        assert any(outcome.bad for outcome in outcomes)


def write_frames_without_checksums(path: Path, checkpoint: bool, written: Event) -> None:
    """SQLite before 3.50: the log's frames from the rollback on have none, though they are committed."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("page_size=1024", "journal_mode=WAL", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, body BLOB)")
    connection.executemany("INSERT INTO entries VALUES (?, zeroblob(900))", ((number,) for number in range(60)))
    connection.execute("PRAGMA cache_size=2")
    connection.execute("BEGIN")
    connection.execute("SAVEPOINT undone")
    connection.execute("UPDATE entries SET body = zeroblob(901) WHERE number < 20")
    for size in (902, 903, 904):
        connection.execute("UPDATE entries SET body = zeroblob(?) WHERE number >= 20", (size,))
    connection.execute("ROLLBACK TO undone")
    connection.execute("INSERT INTO entries VALUES (1000, 'acknowledged')")
    connection.execute("COMMIT")
    if checkpoint:
        connection.execute("PRAGMA wal_checkpoint").fetchone()
    written.set()
    time.sleep(600)


def use_three_marks(path: Path, ready: Event) -> None:
    """Readers that see different states: whoever reads the newest one has the last of the four marks."""
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY)")
    readers = []
    for number in range(61):
        writer.execute("INSERT INTO entries VALUES (?)", (number,))
        if number < 3:
            readers.append(sqlite3.connect(path, isolation_level=None))
            readers[-1].execute("BEGIN")
            readers[-1].execute("SELECT count(*) FROM entries").fetchone()
    ready.set()
    time.sleep(600)


@contextlib.contextmanager
def running_application(work: Callable[..., None], *arguments: object) -> Iterator[None]:
    """``work`` in a process of its own, from the moment on at which it sets the event that is its last argument."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    application = context.Process(target=work, args=(*arguments, ready))
    application.start()
    try:
        assert ready.wait(SECONDS_TO_WRITE)
        yield
    finally:
        application.kill()
        application.join()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_committed_frames_without_checksums_are_not_lost(tmp_path: Path, checkpoint: bool) -> None:
    with running_application(write_frames_without_checksums, tmp_path / "live.db", checkpoint):
        snapshot = create_snapshot(str(tmp_path / "live.db"), str(tmp_path / "copy.db"))
    replayed_in_part = sqlite3.sqlite_version_info < CHECKSUMS_WRITTEN_SINCE and not checkpoint
    assert snapshot.method in (("api",) if replayed_in_part else ("raw", "reflink"))
    assert entries_in(tmp_path / "copy.db") == 61


def test_lock_of_the_last_mark_is_seen(tmp_path: Path) -> None:
    with running_application(use_three_marks, tmp_path / "live.db"):
        snapshot = create_snapshot(str(tmp_path / "live.db"), str(tmp_path / "copy.db"))
    assert snapshot.method in ("raw", "reflink")
    assert entries_in(tmp_path / "copy.db") == 61


def entries_in(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])
