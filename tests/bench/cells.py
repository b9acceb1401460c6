# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures every tool in every cell: interleaved, each run with a fresh writer, on a settled disk."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bench.database import MEGABYTE
from bench.programs import NANOSECONDS, run_within
from bench.results import Cell, Results, Sample
from bench.tools import API, COPY, CP, FULL, NODE, NOTHING, QUICK, SHELL, UNCHECKED, VACUUM, Tools
from bench.writer import writing

SECONDS_BEFORE = 0.2
SECONDS_AFTER = 0.3
"""How long the writer is watched after a copy: its first checkpoint, which the copy held back, comes then."""
LEAST_BOUND = 8.0
COMMITS_THAT_FILL_A_LOG = 500
IDLE_TIMES_ALLOWED = 4
IDLE_BOUND = 300.0

PEERS = (API, SHELL, VACUUM, NODE, CP)
LOADS = (50.0, math.inf, 500.0)
MEDIUM_MEGABYTES = 200
LARGE_MEGABYTES = 1000


def plan(megabytes: int, mode: str) -> list[tuple[Cell, Sequence[str]]]:
    """What is measured on one database, idle first; larger ones are spared what says little there."""
    idle: Sequence[str] = (COPY, UNCHECKED, QUICK, FULL, *PEERS)
    loaded: Sequence[str] = (NOTHING, QUICK, FULL, *PEERS)
    loads: Sequence[float] = LOADS
    if megabytes >= LARGE_MEGABYTES:
        idle, loaded = (COPY, UNCHECKED, QUICK, *PEERS), (NOTHING, QUICK, *PEERS)
        loads = LOADS if mode == "wal" else LOADS[:2]
    elif megabytes >= MEDIUM_MEGABYTES:
        idle, loaded = (COPY, QUICK, *PEERS), (NOTHING, QUICK, *PEERS)
        loads = (50.0, 500.0) if mode == "wal" else (50.0,)
    return [(Cell(megabytes, mode, 0.0), idle), *((Cell(megabytes, mode, load), loaded) for load in loads)]


class Bench:
    """One run of the bench in its private folder."""

    def __init__(self, folder: Path, tools: Tools, rounds: int, results: Results) -> None:
        self.folder = folder
        self.tools = tools
        self.rounds = rounds
        self.results = results

    def is_beyond_reach(self, cell: Cell) -> bool:
        """Whether the writer was seen not to reach the cell's rate when it wrote as much as it could."""
        most = self.results.figures(replace(cell, rate=math.inf), NOTHING)
        return most is not None and 0 < most.commits_per_second < cell.rate < math.inf

    def measure_cell(self, cell: Cell, tools: Sequence[str], database: Path) -> None:
        """All rounds of one cell. A tool that did not finish once is not tried again in it."""
        remaining = self.tools.available(tools)
        for number in range(self.rounds):
            shift = number % len(remaining)
            for tool in remaining[shift:] + remaining[:shift]:
                sample = self.measure(cell, tool, database)
                self.results.add(cell, tool, sample)
                if sample.problem:
                    remaining = [other for other in remaining if other != tool]

    def measure(self, cell: Cell, tool: str, database: Path) -> Sample:
        """One run of a tool beside a writer of its own, from a disk that has nothing left to write.

        The memory that a copy takes is this machine's own before: a virtual one gives back what it has not used for a
        few seconds, and asking for it again is measured otherwise, by whichever tool comes after a long wait.
        """
        dest = database.parent.parent / "copy.db"
        commands = self.tools.commands(tool, database, dest, seconds_of_nothing(cell))
        read_all(database)
        os.sync()
        try:
            fill_memory(dest, size_of(database))
            with writing(database, cell.mode, cell.rate, self.folder / "commits") as writer:
                time.sleep(SECONDS_BEFORE if cell.rate else 0)
                dest.unlink()
                run = run_within(self.bound(cell, tool), commands)
                log_bytes = size_of(Path(f"{database}-wal"))
                time.sleep(SECONDS_AFTER if cell.rate else 0)
                commits = writer.end()
            problem = run.problem or ("" if tool == NOTHING else find_fault(dest, database))
        finally:
            remove_database(dest)
        until = run.ended + int(SECONDS_AFTER * NANOSECONDS)
        return Sample(
            seconds=run.seconds,
            problem=problem,
            result=run.result,
            waits=tuple(lasted for began, lasted in commits if began + lasted > run.began and began < run.ended),
            worst=max((lasted for began, lasted in commits if began + lasted > run.began and began < until), default=0),
            log_bytes=log_bytes,
        )

    def bound(self, cell: Cell, tool: str) -> float:
        """Seconds after which a tool counts as not finishing."""
        idle = self.results.figures(Cell(cell.megabytes, cell.mode, 0.0), tool)
        if cell.rate == 0 or idle is None or idle.seconds is None:
            return IDLE_BOUND
        return max(LEAST_BOUND, IDLE_TIMES_ALLOWED * idle.seconds)


def read_all(path: Path) -> None:
    """Bring a file into the system's cache, which may have let go what was not used for some seconds."""
    with path.open("rb", buffering=0) as file:
        while file.read(MEGABYTE):
            pass


def fill_memory(path: Path, size: int) -> None:
    """A file of so many bytes in the system's cache, whose memory is free for others once it is removed."""
    block = bytes(MEGABYTE)
    with path.open("wb", buffering=0) as file:
        for _number in range(-(-size // MEGABYTE)):
            file.write(block)


def seconds_of_nothing(cell: Cell) -> float:
    """How long the writer is watched without a copy: about as long as a copy takes, and a second at least.

    A slow one for as long as it takes to fill a log, so that its checkpoint is seen too.
    """
    filling = COMMITS_THAT_FILL_A_LOG / cell.rate if cell.rate else 0.0
    return max(1.0, 2 * cell.megabytes / LARGE_MEGABYTES, filling)


def find_fault(copy: Path, source: Path) -> str:
    """Why a copy is none; empty where it looks whole: none of the tools may leave out a tenth."""
    size, expected = size_of(copy), size_of(source)
    return "" if size > 0.9 * expected else f"a copy of {size} bytes where the source has {expected}"


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def remove_database(path: Path) -> None:
    """Remove a database with what lies beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")


def place_database(base: Path, folder: Path) -> Path:
    """A copy of the database in a new folder of its own, as an application's."""
    folder.mkdir()
    shutil.copyfile(base, folder / "live.db")
    return folder / "live.db"
