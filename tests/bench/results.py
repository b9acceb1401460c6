# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured, and the figures drawn from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.memory import Memory

MODES = {"wal": "WAL", "delete": "rollback journal"}
NANOSECONDS_PER_MILLISECOND = 1_000_000


@dataclass(frozen=True)
class Cell:
    """One condition: the database's size, its journal mode (``wal``, ``delete``), commits a second (0, inf).

    ``place`` names a file system that is not the one of the checkout.
    """

    megabytes: int
    mode: str
    rate: float
    place: str = ""

    @property
    def load(self) -> str:
        """The writer in words."""
        return {0.0: "idle", math.inf: "as many as possible"}.get(self.rate, f"{self.rate:g}/s")

    def __str__(self) -> str:
        place = f", {self.place}" if self.place else ""
        return f"{describe_size(self.megabytes)}, {MODES[self.mode]}{place}, {self.load}"


@dataclass(frozen=True)
class Sample:
    """One run of a tool: seconds, or a problem; waits of the writer in nanoseconds; bytes of the largest log.

    ``waits`` are those of the commits that fell into the run, ``worst`` looks on for a while after it, when what the
    copy held back is made up for. ``result`` is how the tool says that it copied.
    """

    seconds: float
    problem: str = ""
    result: str = ""
    waits: Sequence[int] = ()
    worst: int = 0
    log_bytes: int = 0


@dataclass(frozen=True)
class Figures:
    """Of all runs of a tool in one cell: medians in seconds, waits in milliseconds, log in bytes."""

    runs: int
    seconds: float | None
    problem: str
    result: str
    commits: int
    commits_per_second: float
    p50: float
    p99: float
    worst: float
    median_worst: float
    log_bytes: int


@dataclass
class Results:
    """Everything that was measured in one run of the bench; ``absent`` tells why a part was not."""

    samples: dict[tuple[Cell, str], list[Sample]] = field(default_factory=dict)
    times: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    memory: dict[tuple[int, str], Memory] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def add(self, cell: Cell, tool: str, sample: Sample) -> None:
        """Keep one run of a tool."""
        self.samples.setdefault((cell, tool), []).append(sample)

    def add_time(self, part: str, what: str, seconds: float) -> None:
        """Keep one time of a part that is no cell."""
        self.times.setdefault((part, what), []).append(seconds)

    def time(self, part: str, what: str) -> float | None:
        """The median of such times."""
        found = self.times.get((part, what))
        return median(found) if found else None

    def figures(self, cell: Cell, tool: str) -> Figures | None:
        """The figures of a tool in a cell; None where it was not measured."""
        samples = self.samples.get((cell, tool))
        return summarize(samples) if samples else None

    def cells(self) -> list[Cell]:
        """All cells, in the order in which they were measured."""
        return list(dict.fromkeys(cell for cell, _tool in self.samples))

    def tools(self, cell: Cell) -> list[str]:
        """The tools that were measured in a cell."""
        return [tool for measured, tool in self.samples if measured == cell]


def summarize(samples: Sequence[Sample]) -> Figures:
    """Medians and percentiles; a tool that once did not finish has no time."""
    waits = sorted(wait / NANOSECONDS_PER_MILLISECOND for sample in samples for wait in sample.waits)
    worst = [sample.worst / NANOSECONDS_PER_MILLISECOND for sample in samples]
    problem = next((sample.problem for sample in samples if sample.problem), "")
    return Figures(
        runs=len(samples),
        seconds=None if problem else median(sample.seconds for sample in samples),
        problem=problem,
        result=samples[-1].result,
        commits=len(waits),
        commits_per_second=len(waits) / sum(sample.seconds for sample in samples),
        p50=percentile(waits, 50),
        p99=percentile(waits, 99),
        worst=max(worst),
        median_worst=median(worst),
        log_bytes=max(sample.log_bytes for sample in samples),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of ordered values; not a number where there are none."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else math.nan


def describe_size(megabytes: int) -> str:
    """The size as people say it."""
    return f"{megabytes / 1000:g} GB" if megabytes >= 1000 else f"{megabytes} MB"
