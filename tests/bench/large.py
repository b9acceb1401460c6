# SPDX-License-Identifier: GPL-3.0-or-later
"""A database larger than 4 GiB of which next to nothing is on the disk: a free list, and rows at its far end."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path

from bench.cells import IDLE_BOUND, Bench, remove_database
from bench.programs import run_within
from bench.tools import QUICK
from testbed.process import TestbedError

PART = "large"
PAGE_BYTES = 65536
PAGES = (9 << 29) // PAGE_BYTES
"""Of 4.5 GiB."""
LEAVES_PER_TRUNK = 8000
LOCK_PAGE = (1 << 30) // PAGE_BYTES + 1
"""The page with the bytes that SQLite locks holds nothing and is in no list."""
ROWS = 20_000


def measure_large(bench: Bench) -> None:
    """One snapshot, quickly checked, while its rows are in the log; compares size and content. Raises TestbedError."""
    database, copy = bench.folder / "large.db", bench.folder / "copy.db"
    try:
        make_large_database(database)
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            fill(connection)
            run = run_within(IDLE_BOUND, bench.tools.commands(QUICK, database, copy))
            if run.problem:
                raise TestbedError(f"{PART}: {run.problem}")
            expected = describe(connection)
        with closing(sqlite3.connect(copy)) as connection:
            found = describe(connection)
        size = copy.stat().st_size
        if found != expected or size != PAGES * PAGE_BYTES:
            raise TestbedError(f"{PART}: the copy has {size} bytes, {found}; expected {PAGES * PAGE_BYTES}, {expected}")
        bench.results.add_time(PART, "seconds", run.seconds)
        bench.results.facts[PART] = (
            f"{size} bytes, {found['pages']} pages, {found['rows']} rows past 4 GiB: all there, method {run.result}"
        )
    finally:
        remove_database(database)
        remove_database(copy)


def make_large_database(path: Path) -> None:
    """A table, and a free list of all other pages, the last ones first, written by the format's rules.

    https://sqlite.org/fileformat2.html#the_freelist and #the_database_header
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        used: int = connection.execute("PRAGMA page_count").fetchone()[0]
    free = [page for page in range(PAGES, used, -1) if page != LOCK_PAGE]
    groups = [free[start : start + 1 + LEAVES_PER_TRUNK] for start in range(0, len(free), 1 + LEAVES_PER_TRUNK)]
    with path.open("r+b") as stream:
        stream.truncate(PAGES * PAGE_BYTES)
        following = [group[0] for group in groups[1:]] + [0]
        for (trunk, *leaves), next_trunk in zip(groups, following, strict=True):
            stream.seek((trunk - 1) * PAGE_BYTES)
            stream.write(struct.pack(f">{2 + len(leaves)}I", next_trunk, len(leaves), *leaves))
        stream.seek(28)
        stream.write(struct.pack(">III", PAGES, groups[0][0], len(free)))


def fill(connection: sqlite3.Connection) -> None:
    """Rows that take the pages at the far end, left in the log."""
    for pragma in ("journal_mode=WAL", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute("BEGIN")
    rows = ((number, f"row {number} " * 40) for number in range(ROWS))
    connection.executemany("INSERT INTO entries VALUES (?, ?)", rows)
    connection.execute("COMMIT")


def describe(connection: sqlite3.Connection) -> dict[str, int]:
    """What must be the same in the copy."""
    rows, text = connection.execute("SELECT count(*), total(length(text)) FROM entries").fetchone()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    return {"pages": pages, "rows": rows, "characters": int(text)}
