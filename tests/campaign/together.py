# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots and restores that work on one database at once, interleaved call by call or as it comes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.changes import CALLS, NUMBERS
from campaign.databases import Content
from campaign.execution import Outcome, Scope, Strike, execute, execute_together
from campaign.scenarios import (
    NEW,
    RESTORES,
    SNAPSHOTS,
    Expectation,
    Flaw,
    Problem,
    Scenario,
    Snapshot,
    Stage,
    Verdict,
    common_problems,
    content_problems,
    ending_of,
    prepared,
    run_trial,
    staged_names,
    succeeded_problems,
    unexpected_names,
    writer_problems,
)
from campaign.walks import Campaign, Report, Walk, calls_made, place_of

OLD = Content("old", 120, 120)
PATIENCE_SECONDS = 2
"""How long the second operation waits for the first one, which stands still."""

REFUSALS = ("IN_USE", "LOCKED", "TIMEOUT", "REFUSED", "EXISTS", "MISSING")
"""Reasons for which one operation may leave the place to another."""

ROUNDS = 25


@dataclass(frozen=True)
class NestedWalk:
    """While one operation is stopped at one of its calls, another one on the same database runs."""

    scenario: Scenario
    other: str

    @property
    def fault(self) -> str:
        """What is done."""
        return f"{self.other} during"

    @property
    def where(self) -> str:
        """To what."""
        return place_of(self.scenario)

    def trials(self, campaign: Campaign) -> Iterator[Report]:
        """Make the trials that the campaign wants."""
        for name, count in calls_made(campaign, self.scenario, (*CALLS, "renameat"), Scope.ANY).items():
            for number in NUMBERS:
                key = f"{self.fault}: {self.where}: {name} {number}"
                if number <= count and campaign.wants(key):
                    yield Report(key, self._trial(campaign, Strike((name,), number, "signal=SIGSTOP", Scope.ANY)))

    def _trial(self, campaign: Campaign, strike: Strike) -> Verdict:
        outcomes: list[Outcome] = []
        with prepared(campaign.settings, campaign.templates, self.scenario) as stage:
            copy = stage.data.parent / "made" / "copy.db"
            copy.parent.mkdir()
            if self.other == "restore":
                campaign.templates.put("copy", copy)
                request = restore_of(copy, stage.live)
                request["arguments"]["keep_previous"] = self.scenario in RESTORES
            else:
                request = snapshot_of(stage.live, copy)
            request["arguments"]["timeout"] = PATIENCE_SECONDS
            nested = campaign.settings.nested("other")
            verdict = run_trial(
                stage,
                self.scenario,
                functools.partial(expect_with_other, outcomes),
                strike,
                lambda: outcomes.append(execute(nested, request)),
            )
            problems = [problem for outcome in outcomes for problem in self._other_problems(copy, outcome)]
        return Verdict(verdict.ended, verdict.struck, (*verdict.problems, *problems), verdict.detail)

    def _other_problems(self, copy: Path, outcome: Outcome) -> list[Problem]:
        problems = common_problems(outcome, Expectation(reasons=REFUSALS))
        if self.other == "snapshot" and outcome.result is not None:
            problems += content_problems(copy, [OLD, NEW], "the other's copy", Flaw.PARTIAL)
        problems += [(Flaw.STRAY, f"the other's {name}") for name in staged_names(copy.parent)]
        return problems


def expect_with_other(outcomes: list[Outcome], _outcome: Outcome) -> Expectation:
    """The first operation gives up, or takes the database as it is before or after the other one."""
    if outcomes and outcomes[0].result is not None and "changed" in outcomes[0].result:
        return Expectation(reasons=REFUSALS, source=NEW, copy=(NEW,), replaced_in_error=True)
    return Expectation(reasons=REFUSALS, source=OLD)


@dataclass(frozen=True)
class CrowdWalk:
    """Two snapshots and a restore of one database at once, in every order of their start."""

    scenario: Snapshot

    @property
    def fault(self) -> str:
        """What is done."""
        return "two snapshots and a restore"

    @property
    def where(self) -> str:
        """To what."""
        return place_of(self.scenario)

    def trials(self, campaign: Campaign) -> Iterator[Report]:
        """Make the trials that the campaign wants."""
        for number in range(1, ROUNDS + 1):
            key = f"{self.fault}: {self.where}: round {number}"
            if campaign.wants(key):
                with prepared(campaign.settings, campaign.templates, self.scenario) as stage:
                    copy = stage.data.parent / "other.db"
                    campaign.templates.put("copy", copy)
                    yield Report(key, self._trial(stage, copy, number))

    def _trial(self, stage: Stage, copy: Path, number: int) -> Verdict:
        requests = [
            snapshot_of(stage.live, stage.copies / "copy.db"),
            snapshot_of(stage.live, stage.copies / "copy.db"),
            restore_of(copy, stage.live),
        ]
        order = [(number + place) % 3 for place in range(3)]
        shuffled = execute_together(stage.settings, [requests[place] for place in order])
        outcomes = [shuffled[order.index(place)] for place in range(3)]
        problems = self._problems(stage, outcomes)
        ended = "succeeded" if any(outcome.result for outcome in outcomes) else ending_of(outcomes[0])
        return Verdict(ended, True, tuple(problems), "; ".join(outcome.error or "ok" for outcome in outcomes))

    def _problems(self, stage: Stage, outcomes: Sequence[Outcome]) -> list[Problem]:
        problems = [
            problem for outcome in outcomes for problem in common_problems(outcome, Expectation(reasons=REFUSALS))
        ]
        old = OLD
        if stage.writer is not None:
            problems += writer_problems(stage.writer)
            stage.writer.kill()
            old = Content("old", OLD.least, stage.writer.acknowledged + 1)
            if outcomes[2].result is not None:
                problems.append((Flaw.LOST, "the database was replaced under its writer"))
        restored = outcomes[2].result is not None
        last = old if stage.writer is None else Content("old", stage.writer.acknowledged, stage.writer.acknowledged + 1)
        problems += content_problems(stage.live, [NEW if restored else last], "the database")
        made = [outcome for outcome in outcomes[:2] if outcome.result is not None]
        if len(made) == 2:
            problems.append((Flaw.OTHER, "both snapshots were given one name"))
        if made:
            problems += content_problems(stage.copies / "copy.db", [old, NEW], "the copy", Flaw.PARTIAL)
        problems += unexpected_names(stage.copies, ["copy.db"] if made else [])
        return problems + self._next_run_problems(stage)

    def _next_run_problems(self, stage: Stage) -> list[Problem]:
        problems = succeeded_problems(stage.clean_run(dest=str(stage.copies / "next.db")))
        copy = str(stage.copies / "next.db")
        problems += succeeded_problems(execute(stage.settings, restore_of(Path(copy), stage.live)))
        return problems + [(Flaw.STRAY, name) for name in staged_names(stage.copies) + staged_names(stage.data)]


def snapshot_of(source: Path, dest: Path) -> dict[str, Any]:
    """The request for a snapshot."""
    return {
        "operation": "snapshot",
        "arguments": {"source": str(source), "dest": str(dest)},
        "stop_at_progress": 0,
    }


def restore_of(source: Path, dest: Path) -> dict[str, Any]:
    """The request for a restore."""
    return {
        "operation": "restore",
        "arguments": {"source": str(source), "dest": str(dest)},
        "stop_at_progress": 0,
    }


def together_walks() -> list[Walk]:
    """All walks with several operations."""
    return [
        NestedWalk(SNAPSHOTS[1], "restore"),
        NestedWalk(SNAPSHOTS[5], "restore"),
        NestedWalk(RESTORES[3], "snapshot"),
        NestedWalk(RESTORES[5], "snapshot"),
        NestedWalk(SNAPSHOTS[1], "snapshot"),
        NestedWalk(RESTORES[3], "restore"),
        CrowdWalk(SNAPSHOTS[1]),
        CrowdWalk(SNAPSHOTS[4]),
        CrowdWalk(SNAPSHOTS[5]),
        CrowdWalk(SNAPSHOTS[7]),
    ]
