# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bench measures with: its databases, its writer, its clock, its scales and its verdicts."""

from __future__ import annotations

import math
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from bench.cells import LARGE_MEGABYTES, plan
from bench.database import MEGABYTE, make_database
from bench.goals import goals
from bench.large import PAGE_BYTES, PAGES, describe, fill, make_large_database
from bench.memory import peak_memory
from bench.programs import run_within
from bench.report import document
from bench.results import Cell, Results, Sample, percentile, summarize
from bench.tools import COPY, CP, QUICK, SHELL, VACUUM
from bench.verification import FOREIGN_KEYS, HASHLIB, PART, QUICK_CHECK
from bench.writer import writing


def findings(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return [*connection.execute("PRAGMA integrity_check"), *connection.execute("PRAGMA foreign_key_check")]


def test_the_database_is_sound_and_as_large_as_was_asked_for(tmp_path: Path) -> None:
    make_database(tmp_path / "made.db", 10)
    assert (tmp_path / "made.db").stat().st_size == pytest.approx(10 * MEGABYTE, rel=0.1)
    assert findings(tmp_path / "made.db") == [("ok",)]


def test_the_large_database_is_sound_and_takes_next_to_no_room(tmp_path: Path) -> None:
    path = tmp_path / "large.db"
    make_large_database(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        fill(connection)
        assert describe(connection)["pages"] == PAGES
    assert path.stat().st_size == PAGES * PAGE_BYTES > 1 << 32
    assert path.stat().st_blocks * 512 < 20 * MEGABYTE
    assert findings(path) == [("ok",)]


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_writer_times_what_it_commits_and_does_not_make_the_database_grow(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "live.db"
    make_database(path, 10)
    with writing(path, mode, 50.0, tmp_path / "commits") as writer:
        began = time.monotonic_ns()
        time.sleep(0.5)
        commits = writer.end()
    assert 0 < len([start for start, _lasted in commits if start >= began]) <= 50
    assert all(lasted > 0 for _start, lasted in commits)
    assert findings(path) == [("ok",)]
    assert path.stat().st_size < 11 * MEGABYTE


def test_a_program_that_does_not_finish_is_ended() -> None:
    assert run_within(0.1, [["sleep", "600"]]).problem == "not finished"


def test_a_program_that_fails_is_known_by_its_last_words() -> None:
    assert run_within(10, [[sys.executable, "-c", "raise SystemExit('no database')"]]).problem == "no database"


def test_memory_of_children_counts_and_what_is_shared_counts_once() -> None:
    script = "import os, time; held = b'x' * 40_000_000; os.fork(); mine = b'y' * 20_000_000; time.sleep(0.5)"
    assert 80 * MEGABYTE < peak_memory([sys.executable, "-c", script]).private < 110 * MEGABYTE


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert percentile(range(1, 201), 99) == 198
    assert percentile([7.0], 50) == 7.0
    assert math.isnan(percentile([], 99))


def test_a_tool_that_once_did_not_finish_has_no_time() -> None:
    figures = summarize([Sample(1.0), Sample(10.0, problem="not finished")])
    assert figures.seconds is None
    assert figures.problem == "not finished"


def test_goals_are_judged_by_medians_and_those_without_figures_are_not_judged() -> None:
    results = Results()
    idle, loaded = Cell(1000, "wal", 0.0), Cell(1000, "wal", 50.0)
    for seconds in (1.0, 1.1, 9.0):
        results.add(idle, COPY, Sample(seconds))
    results.add(idle, CP, Sample(1.0))
    results.add(loaded, QUICK, Sample(2.0))
    results.add(loaded, VACUUM, Sample(3.0))
    verdicts = {goal.measure: goal.reached for goal in goals(results)}
    assert verdicts[f"{COPY}, {idle}"] == "reached"
    assert verdicts[f"{QUICK}, {loaded}"] == "NOT reached"
    assert verdicts[f"{QUICK}, 200 MB, WAL, 50/s"] == "not measured"


def test_the_page_shows_every_tool_of_every_cell_and_the_command_that_made_it() -> None:
    results = Results()
    results.add(Cell(100, "wal", 500.0), SHELL, Sample(10.0, problem="not finished"))
    page = document(results, "make bench")
    assert "make bench" in page
    assert "### 100 MB, WAL, 500/s" in page
    assert "| .backup | ✗ not finished |" in page


def test_the_page_says_what_no_snapshot_can_do_without() -> None:
    results = Results()
    results.add(Cell(1000, "wal", 0.0), COPY, Sample(0.5))
    parts = ((HASHLIB, 0.7), (QUICK_CHECK, 1.1), (FOREIGN_KEYS, 1.2))
    for check, seconds in parts[:2]:
        results.add_time(PART, check, seconds)
    assert "Limit" not in document(results, "make bench")
    results.add_time(PART, *parts[2])
    assert "at least 1.90 s" in document(results, "make bench")


@pytest.mark.parametrize("megabytes", [100, 200, LARGE_MEGABYTES])
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_every_plan_begins_idle_which_bounds_the_rest(megabytes: int, mode: str) -> None:
    (first, _tools), *others = plan(megabytes, mode)
    assert first.rate == 0
    assert all(cell.rate > 0 for cell, _tools in others)
