# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases in every state in which an operation finds them, and what the deployment sees in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Row = tuple[int, str, str]

LOG_SUFFIXES = ("-wal", "-journal")
SUFFIXES = ("", "-wal", "-shm", "-journal")

SCHEMA = """
CREATE TABLE entries (number INTEGER PRIMARY KEY, tag TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX entries_by_tag ON entries (tag);
"""

# Makes a database as its arguments say, with free pages; kills itself where it is to be a killed application's.
MAKER = """
import os, signal, sqlite3, sys
sys.path.insert(0, sys.argv[1])
from campaign.databases import SCHEMA, insert, rows
path, state, label, page_size, before, after = *sys.argv[2:5], *map(int, sys.argv[5:8])
connection = sqlite3.connect(path, isolation_level=None)
connection.execute(f"PRAGMA page_size={page_size}")
connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
connection.execute(f"PRAGMA journal_mode={'WAL' if state.startswith('wal') else 'DELETE'}")
connection.execute("PRAGMA wal_autocheckpoint=0")
connection.executescript(SCHEMA)
insert(connection, rows(label, after + 60))
connection.execute("DELETE FROM entries WHERE number > ?", (before,))
connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
insert(connection, rows(label, after)[before:])
if state.endswith("killed"):
    connection.execute("PRAGMA cache_size=2")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE entries SET tag = 'half done', text = 'half done' || text")
    os.kill(os.getpid(), signal.SIGKILL)
connection.close()
"""

# Writes a numbered row a transaction, and its number into a file once it is committed.
WRITER = """
import sqlite3, sys, time
sys.path.insert(0, sys.argv[1])
from campaign.databases import insert, row
path, label, acknowledged = sys.argv[2:5]
connection = sqlite3.connect(path, isolation_level=None, timeout=60)
connection.execute("PRAGMA synchronous=NORMAL")
connection.execute("PRAGMA wal_autocheckpoint=20")
number = connection.execute("SELECT max(number) FROM entries").fetchone()[0]
with open(acknowledged, "w", encoding="ascii") as file:
    while True:
        print(number, file=file, flush=True)
        number += 1
        insert(connection, [row(label, number)])
        time.sleep(0.002)
"""


@dataclass(frozen=True)
class Template:
    """A database as an application left it: ``state`` is ``wal`` or ``rollback``, or either with ``-killed``.

    One that was killed has committed changes in its -wal, or a hot -journal of a transaction half done.
    """

    name: str
    state: str
    label: str
    count: int = 120
    page_size: int = 1024

    @property
    def content(self) -> Content:
        """The rows that were acknowledged."""
        return Content(self.label, self.count, self.count)

    def make(self, path: Path) -> None:
        """Make the database, and its logs where it has any."""
        arguments = [self.state, self.label, str(self.page_size), str(self.count // 2), str(self.count)]
        command = [sys.executable, "-c", MAKER, str(Path(__file__).parents[1]), str(path), *arguments]
        status = subprocess.run(command, check=False).returncode
        assert status == (-signal.SIGKILL if self.state.endswith("killed") else 0), status
        log = Path(f"{path}{'-wal' if self.state.startswith('wal') else '-journal'}")
        assert log.exists() == self.state.endswith("killed"), log


@dataclass(frozen=True)
class Content:
    """The first rows of a label, any number of them from ``least`` to ``most``."""

    label: str
    least: int
    most: int

    def is_that_of(self, found: list[Row]) -> bool:
        """Whether rows that were found are exactly these."""
        return self.least <= len(found) <= self.most and found == rows(self.label, len(found))


class DamagedError(Exception):
    """SQLite does not find a whole database with the campaign's table."""


def row(label: str, number: int) -> Row:
    """The row of a number: its content follows from label and number; every twentieth needs overflow pages."""
    text = f"{label} {number} " * (400 if number % 20 == 0 else 10)
    return number, f"{label} {number % 7}", text


def rows(label: str, count: int) -> list[Row]:
    """The first rows."""
    return [row(label, number) for number in range(1, count + 1)]


def insert(connection: sqlite3.Connection, new: list[Row]) -> None:
    """Commit rows in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO entries VALUES (?, ?, ?)", new)
    connection.execute("COMMIT")


def copy_files(source: Path, dest: Path) -> None:
    """Copy a database with what lies beside it, as it is."""
    for suffix in SUFFIXES:
        if os.path.lexists(f"{source}{suffix}"):
            shutil.copy2(f"{source}{suffix}", f"{dest}{suffix}")


def read_rows(path: Path) -> list[Row]:
    """The rows that the deployment would see, read from a copy of the database and its logs.

    Raises DamagedError unless SQLite finds the copy sound.
    """
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as folder:
        copy = Path(folder, "copy.db")
        for suffix in ("", *LOG_SUFFIXES):
            if os.path.exists(f"{path}{suffix}"):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        return read_sound(copy)


def read_sound(path: Path) -> list[Row]:
    """The rows of a database, after a full check. Raises DamagedError."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            problems = connection.execute("PRAGMA integrity_check").fetchall()
            if problems != [("ok",)]:
                raise DamagedError(f"{path.name}: {problems[:3]}")
            return connection.execute("SELECT number, tag, text FROM entries ORDER BY number").fetchall()
    except sqlite3.Error as error:
        raise DamagedError(f"{path.name}: {error}") from error


def fingerprint(path: Path, suffixes: tuple[str, ...] = ("", *LOG_SUFFIXES)) -> dict[str, str]:
    """SHA-256 of a database's files, without those that are absent or empty."""
    found = {}
    for suffix in suffixes:
        file = Path(f"{path}{suffix}")
        if file.exists() and file.stat().st_size:
            found[suffix] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


class Writer:
    """A running application that writes; what it acknowledged is known."""

    def __init__(self, path: Path, label: str, acknowledged: Path) -> None:
        self._acknowledged = acknowledged
        acknowledged.write_text("", encoding="ascii")
        command = [sys.executable, "-c", WRITER, str(Path(__file__).parents[1]), str(path), label, str(acknowledged)]
        self._process = subprocess.Popen(command)

    @property
    def acknowledged(self) -> int:
        """The number of the last row that was acknowledged."""
        text = self._acknowledged.read_text(encoding="ascii")
        complete = text[: text.rfind("\n") + 1].split()
        return int(complete[-1]) if complete else 0

    @property
    def alive(self) -> bool:
        """Whether it has not failed."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it as the world does."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def writing(path: Path, label: str, acknowledged: Path) -> Iterator[Writer]:
    """A writer; killed at the end."""
    writer = Writer(path, label, acknowledged)
    try:
        yield writer
    finally:
        writer.kill()
