# SPDX-License-Identifier: GPL-3.0-or-later
"""The snapshot with full verification against the checks that it replaces, one after the other on the finished copy."""

from __future__ import annotations

import os
from pathlib import Path

from bench.cells import IDLE_BOUND, Bench, read_all, remove_database
from bench.programs import Run, run_within
from bench.results import Cell, Sample
from bench.tools import FULL, python
from bench.writer import writing
from testbed.process import TestbedError

PART = "verification"
INTEGRITY = "integrity_check"
PAIR = "integrity_check, two at once"
QUICK_CHECK = "quick_check"
FOREIGN_KEYS = "foreign_key_check"
SHA256SUM = "sha256sum"
HASHLIB = "hashlib"


def measure_verification(bench: Bench, database: Path, megabytes: int) -> None:
    """Snapshot and checks by turns; the snapshot is the full one of the idle cell. Raises TestbedError."""
    copy = database.parent.parent / "copy.db"
    cell = Cell(megabytes, "wal", 0.0)
    for _round in range(bench.rounds):
        read_all(database)
        os.sync()
        try:
            with writing(database, "wal", 0.0, bench.folder / "commits"):
                run = checked(FULL, bench.tools.commands(FULL, database, copy))
            bench.results.add(cell, FULL, Sample(run.seconds, result=run.result))
            for what, command in checks_of(copy).items():
                read_all(copy)
                bench.results.add_time(PART, what, checked(what, [command]).seconds)
        finally:
            remove_database(copy)


def checks_of(copy: Path) -> dict[str, list[str]]:
    """The command of each check."""
    return {
        INTEGRITY: ["sqlite3", str(copy), "PRAGMA integrity_check"],
        PAIR: ["sh", "-c", 'sqlite3 "$0" "$1" & sqlite3 "$0" "$1"; wait', str(copy), "PRAGMA integrity_check"],
        QUICK_CHECK: ["sqlite3", str(copy), "PRAGMA quick_check"],
        FOREIGN_KEYS: ["sqlite3", str(copy), "PRAGMA foreign_key_check"],
        SHA256SUM: ["sha256sum", str(copy)],
        HASHLIB: python("sha256", copy),
    }


def checked(what: str, commands: list[list[str]]) -> Run:
    """The run of commands that must not fail. Raises TestbedError."""
    run = run_within(IDLE_BOUND, commands)
    if run.problem:
        raise TestbedError(f"{what}: {run.problem}")
    return run
