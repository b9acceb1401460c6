# SPDX-License-Identifier: GPL-3.0-or-later
"""Real databases, real writer processes and what can be seen of them from outside, for the tests of the SQLite core."""

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
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shutil import which
from typing import Any

PYTHONS = [f"python3.{minor}" for minor in range(8, 14)]

# Writes one numbered row a transaction and prints its number once it is committed.
WRITER = """
import sqlite3, sys, time
path, journal_mode, rate, checkpoint = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
connection = sqlite3.connect(path, isolation_level=None, timeout=60)
connection.execute(f"PRAGMA journal_mode={journal_mode}")
connection.execute(f"PRAGMA wal_autocheckpoint={checkpoint}")
connection.execute("PRAGMA synchronous=NORMAL")
connection.execute("CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, text TEXT NOT NULL)")
number = connection.execute("SELECT coalesce(max(number), 0) FROM entries").fetchone()[0]
started = time.monotonic()
written = 0
print(number, flush=True)
while True:
    number += 1
    connection.execute("INSERT INTO entries VALUES (?, ?)", (number, "x" * 200))
    print(number, flush=True)
    written += 1
    time.sleep(max(0.0, started + written / rate - time.monotonic()))
"""

# Changes every row in one transaction which does not fit its cache, tells so, and waits to be killed.
HALF_DONE_WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=2")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE entries SET text = 'half done' || text")
print("half done", flush=True)
time.sleep(600)
"""

# Holds a lock, or merely a file, open until it is killed.
HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("ready", flush=True)
time.sleep(600)
"""

# Runs the statements again and again, as fast as others let it, and prints a line after each round.
REPEATER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
while True:
    for statement in sys.argv[2:]:
        try:
            connection.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            assert "locked" in str(error), error
    print("round", flush=True)
"""


class Process:
    """A Python process running one of the scripts above; its lines of output are collected."""

    def __init__(self, script: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.strip())

    def kill(self) -> list[str]:
        """SIGKILL the process; every line that it wrote before that."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self.lines


@contextlib.contextmanager
def running(script: str, *arguments: str, lines: int = 1) -> Iterator[Process]:
    """Run a script from its first ``lines`` lines of output on; killed at the end."""
    process = Process(script, *arguments)
    try:
        wait_until(lambda: len(process.lines) >= lines)
        yield process
    finally:
        process.kill()


def writing(
    path: Path, journal_mode: str = "WAL", rate: float = 200, checkpoint: int = 1000, rows: int = 1
) -> contextlib.AbstractContextManager[Process]:
    """Run the writer; ``rate`` in transactions a second, entered once ``rows`` rows are committed."""
    return running(WRITER, str(path), journal_mode, str(rate), str(checkpoint), lines=rows + 1)


def killed_deployment(path: Path, rows: int = 50) -> int:
    """A database as SIGKILL leaves it, everything in its -wal; returns how many rows it has.

    All that were acknowledged, and perhaps one that was committed when the kill came before its acknowledgement.
    """
    with writing(path, rate=5000, checkpoint=0, rows=rows) as writer:
        pass
    committed = len(numbers_in(path))
    assert committed - int(writer.lines[-1]) in (0, 1)
    return committed


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Return once ``condition`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.002)


def make_database(path: Path, rows: int = 100, journal_mode: str = "DELETE", *setup: str, text: str = "row") -> Path:
    """A closed database with the table ``entries``."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in setup:
            connection.execute(statement)
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        connection.executemany(
            "INSERT INTO entries VALUES (?, ?)", ((number, f"{text} {number} " * 20) for number in range(1, rows + 1))
        )
        connection.execute("COMMIT")
    return path


def numbers_in(path: Path) -> list[int]:
    """The rows of a database, read from a copy of it and its logs, after a check of its integrity."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal", "-journal"):
            if os.path.exists(f"{path}{suffix}"):
                shutil.copyfile(f"{path}{suffix}", f"{folder}/copy.db{suffix}")
        with contextlib.closing(sqlite3.connect(f"{folder}/copy.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return [row[0] for row in connection.execute("SELECT number FROM entries ORDER BY number")]


def fingerprint(*paths: Path) -> dict[str, tuple[str, int, int, int, int]]:
    """Content, time of change, owner, group and mode of files."""
    found = {}
    for path in paths:
        status = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.name] = (digest, status.st_mtime_ns, status.st_uid, status.st_gid, status.st_mode)
    return found


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@contextlib.contextmanager
def mounted_tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own in ``folder``."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def mounted_read_only(folder: Path) -> Iterator[Path]:
    """The folder as read-only media would show it: mounted a second time, for reading only."""
    media = folder.with_name(f"{folder.name} read-only")
    media.mkdir()
    try:
        subprocess.run(["mount", "--bind", "-o", "ro", str(folder), str(media)], check=True)
        try:
            yield media
        finally:
            subprocess.run(["umount", str(media)], check=True)
    finally:
        media.rmdir()


@contextlib.contextmanager
def private_copy(path: Path) -> Iterator[Path]:
    """A copy of a database and of the logs beside it, to be opened in whatever way."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal", "-journal"):
            if os.path.exists(f"{path}{suffix}"):
                shutil.copyfile(f"{path}{suffix}", f"{folder}/copy.db{suffix}")
        yield Path(folder, "copy.db")


def leave_as_it_is(connection: sqlite3.Connection) -> None:
    """Give the connection no function or collation of an application."""


def content_of(path: Path, prepare: Callable[[sqlite3.Connection], None] = leave_as_it_is) -> dict[str, Any]:
    """What the application set, the schema, and every row of every table; text as its bytes.

    ``prepare`` is called with the connection, to give it the functions and collations which the schema names.
    """
    with private_copy(path) as copy, contextlib.closing(sqlite3.connect(copy)) as connection:
        prepare(connection)
        settings = ("user_version", "application_id", "encoding", "page_size", "auto_vacuum", "freelist_count")
        found: dict[str, Any] = {name: connection.execute(f"PRAGMA {name}").fetchone() for name in settings}
        tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        connection.text_factory = bytes
        found["schema"] = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        for name, statement in tables:
            if not statement.startswith("CREATE VIRTUAL"):
                quoted = name.replace('"', '""')
                found[f"table {name}"] = connection.execute(f'SELECT * FROM "{quoted}"').fetchall()
        return found


def pages_of(path: Path) -> bytes:
    """The bytes of a database with its logs folded in, but for those that every writer sets anew.

    These are the versions of the file format, the counters of changes to the file and to the schema, and the version
    of the last writer (https://sqlite.org/fileformat2.html#the_database_header).
    """
    with private_copy(path) as copy:
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        pages = bytearray(copy.read_bytes())
    for start, end in ((18, 20), (24, 28), (40, 44), (92, 100)):
        pages[start:end] = bytes(end - start)
    return bytes(pages)


def interpreters(names: Sequence[str]) -> Sequence[str]:
    """Those Pythons which run on this machine, on the path or among those of pyenv, whose own shims may not run."""
    folders = [*sorted(Path("~/.pyenv/versions").expanduser().glob("*/bin")), *os.get_exec_path()]
    candidates = {name: [which(name, path=str(folder)) for folder in folders] for name in names}
    working = [next(filter(runs, filter(None, found)), None) for found in candidates.values()]
    return [python for python in working if python is not None]


def runs(python: str) -> bool:
    """Whether it is a Python that can be started."""
    return subprocess.run([python, "-I", "-c", ""], stderr=subprocess.DEVNULL, check=False).returncode == 0
