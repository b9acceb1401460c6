# SPDX-License-Identifier: GPL-3.0-or-later
"""The application that writes while its database is copied, in a process of its own; it times every commit.

    writer.py DATABASE MODE RATE RECORD

MODE is ``wal`` (synchronous NORMAL) or ``delete`` (synchronous FULL, SQLite's default there), RATE commits a second,
``0`` or ``inf``. Says ``ready`` after its first commits, ends when its standard input is closed, and leaves in RECORD
pairs of 64-bit integers: when a commit began (monotonic clock) and how long it took, in nanoseconds.
"""

from __future__ import annotations

import array
import math
import random
import secrets
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.database import USERS

WARM_UP_COMMITS = 20
SECONDS_TO_END = 120
BUSY_SECONDS = 60
"""How long the writer waits for a lock: long enough that every wait is measured and none refused."""


class WriterError(Exception):
    """The writer ended by itself; the message is what it said."""


class Application:
    """Adds an audit event, touches a session and drops the oldest event in each transaction."""

    def __init__(self, connection: sqlite3.Connection, mode: str) -> None:
        synchronous = {"wal": "NORMAL", "delete": "FULL"}[mode]
        for pragma in (f"journal_mode={mode}", f"synchronous={synchronous}", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        self.execute = connection.execute
        self.oldest: int = self.execute("SELECT min(rowid) FROM audit_events").fetchone()[0]
        self.sessions: int = self.execute("SELECT max(rowid) FROM sessions").fetchone()[0]

    def commit(self) -> None:
        """One transaction."""
        now = time.time_ns() // 1_000_000
        event = (f"aud_{secrets.token_hex(12)}", f"usr_{random.randrange(USERS):06d}", secrets.token_hex(80), now)
        self.execute("BEGIN IMMEDIATE")
        self.execute("INSERT INTO audit_events VALUES (?, ?, 'session.touch', 'SUCCESS', ?, ?)", event)
        self.execute("UPDATE sessions SET lastSeenAt = ? WHERE rowid = ?", (now, random.randint(1, self.sessions)))
        self.execute("DELETE FROM audit_events WHERE rowid = ?", (self.oldest,))
        self.execute("COMMIT")
        self.oldest += 1


def write_until(stopped: threading.Event, application: Application, rate: float, record: array.array[int]) -> None:
    """Commit ``rate`` times a second and time it; what a wait made late is left out, not made up for in a burst."""
    due = time.monotonic()
    while not stopped.wait(max(0.0, due - time.monotonic()) if rate else None):
        began = time.monotonic_ns()
        application.commit()
        record.extend((began, time.monotonic_ns() - began))
        due = 0.0 if rate == math.inf else max(due + 1 / rate, time.monotonic())


def stop_at_end_of_input(stopped: threading.Event) -> None:
    """Set ``stopped`` once whoever measures has closed standard input, or is gone."""
    sys.stdin.read()
    stopped.set()


def main(path: str, mode: str, rate: str, target: str) -> None:
    """Write until standard input ends."""
    record = array.array("q")
    stopped = threading.Event()
    with closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)) as connection:
        application = Application(connection, mode)
        for _number in range(WARM_UP_COMMITS):
            application.commit()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        threading.Thread(target=stop_at_end_of_input, args=(stopped,), daemon=True).start()
        write_until(stopped, application, float(rate), record)
    with open(target, "wb") as stream:
        record.tofile(stream)


class Writer:
    """A running writer, seen from the program that measures."""

    def __init__(self, database: Path, mode: str, rate: float, record: Path) -> None:
        self.record = record
        command = [sys.executable, str(Path(__file__).resolve()), str(database), mode, str(rate), str(record)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)

    def wait_until_ready(self) -> None:
        """Return once its first commits are done. Raises WriterError where it ends instead."""
        assert self.process.stdout
        if self.process.stdout.readline() != b"ready\n":
            self.end()

    def end(self) -> list[tuple[int, int]]:
        """End it; returns when each commit began and how long it took, in nanoseconds. Raises WriterError."""
        _said, problem = self.process.communicate(timeout=SECONDS_TO_END)
        if self.process.returncode:
            raise WriterError(f"the writer ended: {problem.decode(errors='replace').strip().splitlines()[-1:]}")
        record = array.array("q", self.record.read_bytes())
        return list(zip(record[::2], record[1::2], strict=True))


@contextmanager
def writing(database: Path, mode: str, rate: float, record: Path) -> Iterator[Writer]:
    """A writer that is at work; killed at the end unless it has been ended."""
    writer = Writer(database, mode, rate, record)
    try:
        writer.wait_until_ready()
        yield writer
    finally:
        writer.process.kill()
        writer.process.communicate()


if __name__ == "__main__":
    main(*sys.argv[1:])
