# SPDX-License-Identifier: GPL-3.0-or-later
"""The goals that were set, and what was measured of each in this run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from bench import verification
from bench.database import MEGABYTE
from bench.results import Cell, Results, describe_size
from bench.tools import API, COPY, CP, FULL, IDLE_PYTHON, NOTHING, QUICK, VACUUM

SMALL, MEDIUM, LARGE = 100, 200, 1000
XFS = "XFS with reflinks"
WORST_WAIT_MILLISECONDS = 200
PRIVATE_MEGABYTES = 48


@dataclass(frozen=True)
class Goal:
    """One goal: what is measured, what it is to be at most, what it is (None: not measured in this run)."""

    measure: str
    limit: float
    unit: str
    measured: float | None
    parts: str = ""

    @property
    def reached(self) -> str:
        """The verdict in words."""
        if self.measured is None or math.isnan(self.measured):
            return "not measured"
        return "reached" if self.measured <= self.limit else "NOT reached"

    def __str__(self) -> str:
        if self.measured is None:
            return f"{self.reached}: {self.measure}"
        return f"{self.reached}: {self.measure}: {self.value}; goal: at most {self.limit:g} {self.unit}"

    @property
    def value(self) -> str:
        """What was measured, in the goal's unit, with the figures that it was made of."""
        if self.reached == "not measured":
            return "-"
        return f"{self.measured:.2f}" + (f" ({self.parts})" if self.parts else "")


def goals(results: Results) -> Iterator[Goal]:
    """All goals of this run, in the order in which they were set."""
    idle = Cell(LARGE, "wal", 0.0)
    yield compare(f"{COPY}, {idle}", 1.15, seconds(results, idle, COPY), seconds(results, idle, CP), "`cp` and `sync`")
    for megabytes in (MEDIUM, LARGE):
        cell = Cell(megabytes, "wal", 50.0)
        base = seconds(results, cell, VACUUM)
        yield compare(f"{QUICK}, {cell}", 0.65, seconds(results, cell, QUICK), base, "`VACUUM INTO`")
    for megabytes in (MEDIUM, LARGE):
        cell = Cell(megabytes, "wal", 500.0)
        base = seconds(results, Cell(megabytes, "wal", 0.0), QUICK)
        yield compare(f"{QUICK}, {cell}", 1.25, seconds(results, cell, QUICK), base, "its own time when idle")
    yield from verification_goals(results, idle)
    for load in (50.0, 500.0, math.inf):
        yield from wait_goals(results, Cell(LARGE, "wal", load))
    yield rollback_goal(results, Cell(MEDIUM, "delete", 50.0))
    reflink = Cell(LARGE, "wal", 0.0, XFS)
    copied, limit = seconds(results, reflink, COPY), seconds(results, reflink, CP)
    yield compare(f"{COPY}, {reflink}", 0.25, copied, limit, "`cp` and `sync`")
    for megabytes in (LARGE, SMALL):
        yield from memory_goals(results, megabytes)


def compare(measure: str, limit: float, ours: float | None, base: float | None, of_what: str) -> Goal:
    """A goal that is a ratio of two times in seconds."""
    ratio = ours / base if ours is not None and base is not None else None
    return Goal(measure, limit, f"times {of_what}", ratio, f"{ours:.2f} s against {base:.2f} s" if ratio else "")


def seconds(results: Results, cell: Cell, tool: str) -> float | None:
    """The median time of a tool; None where it was not measured or did not finish."""
    figures = results.figures(cell, tool)
    return figures.seconds if figures else None


def verification_goals(results: Results, idle: Cell) -> Iterator[Goal]:
    """Against the checks one after the other; with the command's checksum, and with the faster one of Python."""
    full = seconds(results, idle, FULL)
    for checksum in (verification.SHA256SUM, verification.HASHLIB):
        steps = (verification.INTEGRITY, verification.FOREIGN_KEYS, checksum)
        times = [results.time(verification.PART, step) for step in steps]
        known = [time for time in times if time is not None]
        base = sum(known) if len(known) == len(steps) else None
        yield compare(f"{FULL}, {describe_size(idle.megabytes)}", 0.6, full, base, f"{' + '.join(steps)}")


def wait_goals(results: Results, cell: Cell) -> Iterator[Goal]:
    """The writer's p99 against the same writer's without a copy, and its worst single wait."""
    during, without = results.figures(cell, QUICK), results.figures(cell, NOTHING)
    if during is None or without is None:
        yield Goal(f"writer's p99 during {QUICK}, {cell}", 1.5, "times without", None)
        yield Goal(f"writer's worst wait during {QUICK}, {cell}", WORST_WAIT_MILLISECONDS, "ms", None)
        return
    parts = f"{during.p99:.2f} ms against {without.p99:.2f} ms; {during.commits} and {without.commits} commits"
    yield Goal(f"writer's p99 during {QUICK}, {cell}", 1.5, "times without", during.p99 / without.p99, parts)
    parts = f"without a copy {without.worst:.0f} ms"
    yield Goal(f"writer's worst wait during {QUICK}, {cell}", WORST_WAIT_MILLISECONDS, "ms", during.worst, parts)


def rollback_goal(results: Results, cell: Cell) -> Goal:
    """The longest wait in a run, the median of all runs, against one pass of the interface."""
    during, one_pass = results.figures(cell, QUICK), results.figures(cell, API)
    measure = f"writer's longest wait during {QUICK}, {cell}"
    if during is None or one_pass is None:
        return Goal(measure, 0.35, "times one pass of the API", None)
    parts = f"{during.median_worst:.0f} ms against {one_pass.median_worst:.0f} ms"
    return Goal(measure, 0.35, "times one pass of the API", during.median_worst / one_pass.median_worst, parts)


def memory_goals(results: Results, megabytes: int) -> Iterator[Goal]:
    """Private memory above an idle Python's; what is resident besides is the copy's pages in the system's cache."""
    idle = results.memory.get((0, IDLE_PYTHON))
    for tool in (QUICK, FULL):
        peak = results.memory.get((megabytes, tool))
        measure = f"peak memory above an idle Python, {tool}, {describe_size(megabytes)}"
        if idle is None or peak is None:
            yield Goal(measure, PRIVATE_MEGABYTES, "MB private", None)
            continue
        resident = (peak.resident - idle.resident) / MEGABYTE
        private = (peak.private - idle.private) / MEGABYTE
        yield Goal(measure, PRIVATE_MEGABYTES, "MB private", private, f"with mapped files {resident:.0f} MB")
