# SPDX-License-Identifier: GPL-3.0-or-later
"""The results as text for a terminal, as Markdown for the documentation, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from bench import large, verification
from bench.cells import IDLE_TIMES_ALLOWED, LEAST_BOUND, SECONDS_AFTER
from bench.database import MEGABYTE
from bench.goals import LARGE, Goal, goals, seconds
from bench.results import Cell, Figures, Results, Sample, describe_size, summarize
from bench.tools import COPY, CP, DESCRIPTIONS, NOTHING

HEADINGS = ("tool", "seconds", f"times {CP}", "p50, ms", "p99, ms", "worst, ms", "commits/s", "-wal, MB")


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """A table of aligned columns, the first to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_markdown(rows: Sequence[Sequence[str]], aligned: str = "---:") -> str:
    """The same as a table of Markdown."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|---|" + f"{aligned}|" * (len(rows[0]) - 1), *body])


def cell_rows(results: Results, cell: Cell) -> list[Sequence[str]]:
    """The table of one cell."""
    limit = results.figures(cell, CP)
    rows: list[Sequence[str]] = [HEADINGS]
    for tool in results.tools(cell):
        figures = results.figures(cell, tool)
        if figures:
            rows.append((tool, *times(figures, limit, tool), *waits(figures, cell), log_size(figures, cell)))
    return rows


def times(figures: Figures, limit: Figures | None, tool: str) -> tuple[str, str]:
    """Seconds, and the ratio to the limit; what was wrong where there is no time."""
    if tool == NOTHING:
        return "", ""
    if figures.seconds is None:
        return f"✗ {figures.problem}", ""
    ratio = f"{figures.seconds / limit.seconds:.2f}" if limit and limit.seconds else ""
    return f"{figures.seconds:.3f}", ratio


def waits(figures: Figures, cell: Cell) -> tuple[str, str, str, str]:
    """The writer's figures; empty where none wrote."""
    if cell.rate == 0:
        return "", "", "", ""
    if not figures.commits:
        return "", "", f"{figures.worst:.0f}", "0"
    return f"{figures.p50:.2f}", f"{figures.p99:.2f}", f"{figures.worst:.0f}", f"{figures.commits_per_second:.0f}"


def log_size(figures: Figures, cell: Cell) -> str:
    """The largest log; empty in a mode without one."""
    return f"{figures.log_bytes / MEGABYTE:.1f}" if cell.mode == "wal" else ""


def goal_rows(found: Iterable[Goal]) -> list[Sequence[str]]:
    """One line a goal."""
    rows = ((goal.measure, f"{goal.limit:g} {goal.unit}", goal.value, goal.reached) for goal in found)
    return [("measure", "goal: at most", "measured", ""), *rows]


def memory_rows(results: Results) -> list[Sequence[str]]:
    """Peak memory of each tool."""
    rows: list[Sequence[str]] = [("tool", "database", "private, MB", "resident, MB")]
    for (megabytes, tool), peak in results.memory.items():
        size = describe_size(megabytes) if megabytes else "none"
        rows.append((tool, size, f"{peak.private / MEGABYTE:.1f}", f"{peak.resident / MEGABYTE:.1f}"))
    return rows


def verification_rows(results: Results) -> list[Sequence[str]]:
    """The checks one by one."""
    steps = (
        verification.INTEGRITY,
        verification.PAIR,
        verification.QUICK_CHECK,
        verification.FOREIGN_KEYS,
        verification.SHA256SUM,
        verification.HASHLIB,
    )
    found = [(step, results.time(verification.PART, step)) for step in steps]
    return [("check of the finished copy", "seconds"), *((step, f"{time:.2f}") for step, time in found if time)]


def other_tables(results: Results) -> Iterator[tuple[str, list[Sequence[str]]]]:
    """Title and rows of the tables that are neither of a cell nor of the goals."""
    if len(rows := verification_rows(results)) > 1:
        yield "Checks one after the other", rows
    if len(rows := memory_rows(results)) > 1:
        yield "Peak memory", rows


def other_lines(results: Results) -> Iterator[str]:
    """What is no table: the large database, and what could not be measured."""
    if large.PART in results.facts:
        found = results.time(large.PART, "seconds") or 0.0
        yield f"Database of 4.5 GiB, sparse: {results.facts[large.PART]}, {found:.1f} s"
    yield from limits(results)
    for part, reason in results.absent.items():
        yield f"Not measured: {part}: {reason}"


def limits(results: Results) -> Iterator[str]:
    """What keeps the checks from being faster here: what has to wait for what, and the memory that all cores share."""
    checks = (verification.HASHLIB, verification.QUICK_CHECK, verification.FOREIGN_KEYS)
    copy = seconds(results, Cell(LARGE, "wal", 0.0), COPY)
    hashing, quick, keys = (results.time(verification.PART, check) for check in checks)
    if copy and hashing and quick and keys:
        first, then = max(copy, hashing), max(quick, keys)
        yield (
            f"Limit: a quick snapshot of {describe_size(LARGE)} takes at least {first + then:.2f} s on any number of "
            f"cores: {first:.2f} s for {COPY} and {verification.HASHLIB} at once, and {then:.2f} s for "
            f"{verification.QUICK_CHECK} and {verification.FOREIGN_KEYS} at once, which need the whole copy"
        )
    one, two = (results.time(verification.PART, what) for what in (verification.INTEGRITY, verification.PAIR))
    if one and two:
        yield (
            f"Limit: two {verification.INTEGRITY} at once, each on a core of its own, take {two / one:.2f} times as "
            "long as one; what is above 1 they wait for the same memory"
        )


def document(results: Results, command: str) -> str:
    """The page for the documentation."""
    facts = [f"- {name}: {value}" for name, value in results.facts.items() if name != large.PART]
    tools = [f"- {tool}: {text}" for tool, text in DESCRIPTIONS.items()]
    cells = ((str(cell), cell_rows(results, cell)) for cell in results.cells())
    tables = [f"### {title}\n\n{as_markdown(rows)}" for title, rows in (*cells, *other_tables(results))]
    others = [f"- {line}" for line in other_lines(results)]
    parts = (
        "# Performance",
        INTRODUCTION.format(command=command).strip(),
        "\n".join(facts),
        "## Goals",
        as_markdown(goal_rows(goals(results)), "---"),
        "## Tools",
        "\n".join(tools),
        "## Measured",
        READING.format(after=SECONDS_AFTER, times=IDLE_TIMES_ALLOWED, bound=LEAST_BOUND).strip(),
        *tables,
        *(["\n".join(others)] if others else []),
    )
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """
Every number on this page was made by one run of

```
{command}
```

which writes this page. Trust the ratios: they are of medians of interleaved runs on one machine; another machine has
other seconds.
"""

READING = """
Seconds are medians. The start of Python and of Node.js is not in them, that of `sqlite3` and `cp` is (a few
milliseconds). The source is in the system's cache, the disk is settled before each run, the memory that a copy takes
has just been used (a virtual machine may have to ask its host for memory that was idle, which costs every tool time),
and an application has the database open throughout, also when it is idle. It is a process of its own which writes an
audit log, touches sessions and times every commit: in WAL mode with synchronous NORMAL, in rollback-journal mode with
FULL. Its p50 and p99 are of the commits that fell into the copies, all runs together; its worst wait is looked for
until {after:g} s after them as well, when a checkpoint that was held back is made up for. ✗: not finished within
{times} times what the tool takes when idle, {bound:g} s at least, or failed with the message given.

`backup()` is called from a process of its own, as a tool beside the application would. A backup on the connection
that also writes does not begin again.
"""


def as_json(results: Results) -> str:
    """Everything that was measured, for programs; no figure, null, where there is none."""
    content = {
        "facts": results.facts,
        "cells": [cell_content(cell, tool, samples) for (cell, tool), samples in results.samples.items()],
        "times": [{"part": part, "what": what, "seconds": found} for (part, what), found in results.times.items()],
        "memory": [{"megabytes": size, "tool": tool, **asdict(peak)} for (size, tool), peak in results.memory.items()],
        "goals": [{**asdict(goal), "verdict": goal.reached} for goal in goals(results)],
        "absent": results.absent,
    }
    return json.dumps(content, indent=2, allow_nan=False)


def cell_content(cell: Cell, tool: str, samples: Sequence[Sample]) -> dict[str, object]:
    """One tool in one cell."""
    figures = asdict(summarize(samples))
    return {
        **asdict(cell),
        "rate": cell.load,
        "tool": tool,
        "all_seconds": [sample.seconds for sample in samples if not sample.problem],
        **{name: None if isinstance(value, float) and math.isnan(value) else value for name, value in figures.items()},
    }
