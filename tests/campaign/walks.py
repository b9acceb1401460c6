# SPDX-License-Identifier: GPL-3.0-or-later
"""Walks along the system calls of an operation, with a kill or an error at each in its turn."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from campaign.execution import Outcome, Scope, Strike, count_calls
from campaign.scenarios import (
    RESTORES,
    SNAPSHOTS,
    Expectation,
    Scenario,
    Snapshot,
    Templates,
    Verdict,
    prepared,
    run_trial,
)
from campaign.settings import Settings

NAMING = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat")
WRITING = ("write", "pwrite64", "writev", "pwritev", "copy_file_range", "sendfile", "ftruncate", "fallocate", "ioctl")
SYNCING = ("fsync", "fdatasync", "sync_file_range", "syncfs", "msync")
MARKING = ("chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat", "lchown", "setxattr", "fsetxattr", "utimensat")
STARTING = ("clone", "clone3", "fork", "vfork", "chroot", "flock", "exit_group")
READING = ("read", "pread64", "copy_file_range")
CHANGING = (*NAMING, *WRITING, *SYNCING, *MARKING)

DENSE = 12
"""Up to this number every call is struck, then ever fewer of them."""
LAST = 1000

PATH = re.compile(r'<(/[^>]*)>|"([^"]+)"')

CAUSES = {
    "EIO": ("input/output error", "disk i/o error"),
    "ENOSPC": ("no space left", "disk is full"),
    "EROFS": ("read-only file system", "readonly", "disk i/o error"),
    "EAGAIN": ("temporarily unavailable",),
    "SIGKILL": ("kill", "signal 9"),
}
"""What an error's text says, in lower case, by the fault: the system's words or SQLite's."""


@dataclass(frozen=True)
class Report:
    """One trial, with the key that repeats it."""

    key: str
    verdict: Verdict


@dataclass(frozen=True)
class Campaign:
    """What walks are made with. A trial is made if its key ends with ``only`` and is drawn, one of ``one_in``."""

    settings: Settings
    templates: Templates
    one_in: int = 1
    only: str = ""

    def wants(self, key: str) -> bool:
        """Whether the trial is to be made."""
        return (not self.only or key == self.only) and zlib.crc32(key.encode()) % self.one_in == 0


class Walk(Protocol):
    """Trials of one fault in one place: a line of the table."""

    @property
    def fault(self) -> str:
        """What is done."""

    @property
    def where(self) -> str:
        """To what."""

    def trials(self, campaign: Campaign) -> Iterator[Report]:
        """Make the trials that the campaign wants."""


@dataclass(frozen=True)
class Aim:
    """What is struck in turn: a name for it, the strike at its call of a number, and how many are made undisturbed."""

    name: str
    strike_at: Callable[[int], Strike]
    count: int


def numbers() -> Iterator[int]:
    """Which calls are struck, in ascending order."""
    number = 1
    while number <= LAST:
        yield number
        number += 1 if number < DENSE else number // 6


def place_of(scenario: Scenario) -> str:
    """The scenario's operation and name."""
    return f"{'snapshot' if isinstance(scenario, Snapshot) else 'restore'}, {scenario.name}"


def calls_made(campaign: Campaign, scenario: Scenario, names: Sequence[str], scope: Scope) -> dict[str, int]:
    """Which of the calls an undisturbed operation makes, in alphabetical order, and how often."""
    with prepared(campaign.settings, campaign.templates, scenario) as stage:
        counts = count_calls(campaign.settings, stage.request, names, scope)
        return {name: counts[name] for name in sorted(counts)}


def strike_in_turn(
    campaign: Campaign,
    walk: Walk,
    scenario: Scenario,
    aims: Sequence[Aim],
    expect: Callable[[Strike, Outcome], Expectation],
) -> Iterator[Report]:
    """Strike at the first, second, ... call of each aim until the operation ends by itself.

    A sample leaves out that last trial, in which nothing is struck.
    """
    for aim in aims:
        for number in numbers():
            key = f"{walk.fault}: {walk.where}: {aim.name} {number}"
            if not campaign.wants(key):
                continue
            if campaign.one_in > 1 and number > aim.count:
                break
            strike = aim.strike_at(number)
            with prepared(campaign.settings, campaign.templates, scenario) as stage:
                verdict = run_trial(stage, scenario, functools.partial(expect, strike), strike)
            yield Report(key, verdict)
            if not verdict.struck:
                break


@dataclass(frozen=True)
class KillWalk:
    """SIGKILL at each call that changes something: for the first process alone, or for each and all in turn."""

    scenario: Scenario
    parent_only: bool

    @property
    def fault(self) -> str:
        """What is done."""
        return f"SIGKILL, {'first process' if self.parent_only else 'any process, all'}"

    @property
    def where(self) -> str:
        """To what."""
        return place_of(self.scenario)

    def trials(self, campaign: Campaign) -> Iterator[Report]:
        """Make the trials that the campaign wants."""
        scope = Scope.PARENT if self.parent_only else Scope.ANY
        made = calls_made(campaign, self.scenario, (*CHANGING, *STARTING), scope)
        aims = [Aim(name, functools.partial(self._strike, name), count) for name, count in made.items()]
        yield from strike_in_turn(campaign, self, self.scenario, aims, expect_after_kill)

    def _strike(self, name: str, number: int) -> Strike:
        if self.parent_only:
            return Strike((name,), number, "signal=SIGKILL", Scope.PARENT)
        if number % 2:
            return Strike((name,), number, "signal=SIGSTOP", Scope.ALL)
        return Strike((name,), number, "signal=SIGKILL", Scope.ANY)


def expect_after_kill(strike: Strike, outcome: Outcome) -> Expectation:
    """Where a child alone was killed, its parent says so or does without it."""
    if not outcome.calls:
        return Expectation(succeeds=True)
    return Expectation(causes=CAUSES["SIGKILL"], replaced_in_error=True)


@dataclass(frozen=True)
class ErrorWalk:
    """One call after the other fails, once or from then on; ``together``: all calls of the names from then on."""

    scenario: Scenario
    error: str
    names: tuple[str, ...]
    lasting: bool = False
    together: bool = False

    @property
    def fault(self) -> str:
        """What is done."""
        return f"{self.error} {'from then on' if self.lasting else 'once'}"

    @property
    def where(self) -> str:
        """To what."""
        return f"{place_of(self.scenario)}: {'read' if self.names == READING else 'change'}"

    def trials(self, campaign: Campaign) -> Iterator[Report]:
        """Make the trials that the campaign wants."""
        made = calls_made(campaign, self.scenario, self.names, Scope.ANY)
        if self.together:
            aims = [Aim("all", functools.partial(self._strike, tuple(made)), max(made.values()))]
        else:
            aims = [Aim(name, functools.partial(self._strike, (name,)), count) for name, count in made.items()]
        yield from strike_in_turn(campaign, self, self.scenario, aims, expect_after_error)

    def _strike(self, names: tuple[str, ...], number: int) -> Strike:
        return Strike(names, number, f"error={self.error}", Scope.ANY, self.lasting)


def expect_after_error(strike: Strike, outcome: Outcome) -> Expectation:
    """What an operation may do when calls of it failed."""
    if not outcome.calls:
        return Expectation(succeeds=True)
    error = strike.effect.partition("=")[2]
    synced = [call for call in outcome.calls if "fsync(" in call and (".staged" in call or is_folder_of_trial(call))]
    unnamed = any(call.partition("(")[0].endswith(("unlink", "unlinkat")) for call in outcome.calls)
    return Expectation(
        causes=causes_of(error, strike, outcome.calls),
        fails=f"this was never made durable: {synced[0]}" if synced else "",
        leaves_staged=unnamed,
        replaced_in_error=bool(synced),
    )


def is_folder_of_trial(call: str) -> bool:
    """Whether a line of strace's log is about the folder of the databases or of the copies itself."""
    return any(path.endswith(("/data", "/copies")) for path in paths_in(call))


def paths_in(call: str) -> list[str]:
    """The paths which a line of strace's log names."""
    return [first or second for first, second in PATH.findall(call)]


def causes_of(error: str, strike: Strike, calls: Sequence[str]) -> tuple[str, ...]:
    """The words for an error that came at these calls.

    SQLite says "disk I/O error" for whatever fails but a write to the database, and takes a page that cannot be read
    for a damaged one; nobody can tell while others can read it. Where the pipe between two processes of the engine
    failed, any words will do.
    """
    if not any("/" in path for call in calls for path in paths_in(call)):
        return ()
    words = CAUSES[error]
    if error == "ENOSPC" and not all(call.split("(")[0].endswith(WRITING[:6]) and "-shm" not in call for call in calls):
        words = (*words, "disk i/o error")
    if strike.calls == ("pread64",):
        words = (*words, "malformed", "is damaged", "get the page", "get page", "failed to read")
    return words


def kill_walks() -> list[Walk]:
    """All walks that kill."""
    return [KillWalk(scenario, alone) for scenario in (*SNAPSHOTS, *RESTORES) for alone in (True, False)]


def error_walks() -> list[Walk]:
    """All walks along failing calls."""
    snapshots = [scenario for scenario in SNAPSHOTS if not scenario.writer and scenario.dest != "folder"]
    walks: list[Walk] = []
    scenarios: list[Scenario] = [*snapshots, *RESTORES[:4], RESTORES[5]]
    for scenario in scenarios:
        walks += [
            ErrorWalk(scenario, "EIO", READING),
            ErrorWalk(scenario, "EIO", CHANGING),
            ErrorWalk(scenario, "ENOSPC", (*WRITING, *NAMING), lasting=True),
            ErrorWalk(scenario, "EROFS", (*NAMING, *WRITING, *MARKING), lasting=True, together=True),
        ]
    walks += [
        ErrorWalk(scenario, "EAGAIN", ("clone", "clone3", "fork", "vfork")) for scenario in (SNAPSHOTS[1], RESTORES[3])
    ]
    return walks
