# SPDX-License-Identifier: GPL-3.0-or-later
"""A fixed sample of the fault campaign loses nothing; and the campaign does see what is lost."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from campaign.execution import Scope, Strike, execute
from campaign.faults import FAMILIES, run_walks
from campaign.scenarios import (
    RESTORES,
    SNAPSHOTS,
    Expectation,
    Flaw,
    Scenario,
    Stage,
    Templates,
    prepared,
)
from campaign.settings import Settings
from campaign.walks import Campaign

# Of each family every so many walks, and in these one of so many trials.
SAMPLE = {
    "kills": (5, 8),
    "errors": (7, 8),
    "filesystems": (4, 6),
    "changes": (4, 10),
    "together": (3, 8),
    "flips": (4, 5),
}
LEAST_TRIALS = 10
JOBS = 2

STAGED = ".sqlite-0123456789abcdef.staged"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """For trials in a folder of the test's own."""
    return Settings(tmp_path, sys.executable, seed=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_lost(family: str, settings: Settings) -> None:
    """The sample is drawn by the names of the trials, so it is the same each time."""
    walks, trials = SAMPLE[family]
    campaign = Campaign(settings, Templates(settings.scratch / "made"), trials)
    reports = [report for line in run_walks(campaign, FAMILIES[family]()[::walks], JOBS) for report in line.reports]
    assert len(reports) >= LEAST_TRIALS
    assert [(report.key, problem) for report in reports for problem in report.verdict.problems] == []


@contextlib.contextmanager
def staged(settings: Settings, scenario: Scenario) -> Iterator[Stage]:
    with prepared(settings, Templates(settings.scratch / "made"), scenario) as stage:
        yield stage


def remove_a_row(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM entries WHERE number = 7")


def leave_staged(path: Path) -> None:
    path.with_name(STAGED).mkdir()


def cut_in_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("scenario", "harm", "place", "flaw"),
    [
        (SNAPSHOTS[5], remove_a_row, "live", Flaw.LOST),
        (SNAPSHOTS[5], remove_a_row, "final", Flaw.PARTIAL),
        (SNAPSHOTS[5], cut_in_half, "final", Flaw.PARTIAL),
        (SNAPSHOTS[5], leave_staged, "final", Flaw.STRAY),
        (SNAPSHOTS[5], leave_staged, "live", Flaw.STRAY),
        (RESTORES[6], remove_a_row, "live", Flaw.LOST),
        (RESTORES[6], cut_in_half, "live", Flaw.LOST),
        (RESTORES[6], leave_staged, "live", Flaw.STRAY),
    ],
)
def test_a_loss_is_seen(
    scenario: Scenario, harm: Callable[[Path], None], place: str, flaw: Flaw, settings: Settings
) -> None:
    """What is done here after a success is what a faulty engine would do."""
    with staged(settings, scenario) as stage:
        outcome = execute(settings, stage.request)
        harm(getattr(stage, place))
        problems = scenario.judge(stage, outcome, Expectation())
    assert flaw in {kind for kind, _text in problems}


def test_a_kept_database_that_lost_a_row_is_seen(settings: Settings) -> None:
    with staged(settings, RESTORES[6]) as stage:
        outcome = execute(settings, stage.request)
        assert outcome.result is not None
        remove_a_row(Path(outcome.result["backup_file"]))
        problems = RESTORES[6].judge(stage, outcome, Expectation())
    assert Flaw.PARTIAL in {kind for kind, _text in problems}


def test_an_error_without_its_cause_is_seen(settings: Settings) -> None:
    with staged(settings, SNAPSHOTS[5]) as stage:
        outcome = execute(settings, stage.request, Strike(("fsync",), 1, "error=EIO", Scope.ANY))
        assert outcome.error is not None
        problems = SNAPSHOTS[5].judge(stage, outcome, Expectation(causes=("no space left",)))
    assert [kind for kind, _text in problems] == [Flaw.OTHER]


@pytest.mark.parametrize("scope", Scope)
def test_a_kill_comes(scope: Scope, settings: Settings) -> None:
    effect = "signal=SIGSTOP" if scope is Scope.ALL else "signal=SIGKILL"
    with staged(settings, SNAPSHOTS[1]) as stage:
        outcome = execute(settings, stage.request, Strike(("linkat",), 1, effect, scope))
    assert outcome.calls
    assert outcome.answer is None
    assert outcome.status == -9
