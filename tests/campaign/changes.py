# SPDX-License-Identifier: GPL-3.0-or-later
"""A source that others change, rightly or wrongly, while a snapshot of it is stopped at one of its calls."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from campaign.databases import Content, insert, rows
from campaign.execution import Outcome, Scope, Strike
from campaign.scenarios import NEW, SNAPSHOTS, Expectation, Snapshot, Verdict, prepared, run_trial, template_of
from campaign.walks import Campaign, Report, Walk, calls_made, place_of

CALLS = ("openat", "pread64", "copy_file_range", "pwrite64", "fcntl", "clone", "ftruncate", "unlink", "fsync", "linkat")
NUMBERS = (1, 2, 3, 4, 6, 9, 14, 21, 33, 50)
PROGRESS_REPORTS = 6
OTHER_NAME = "other.db"
ADDED_ROWS = 40
BUSY_SECONDS = 0.1


@dataclass(frozen=True)
class Change:
    """What somebody does to the source: ``do`` returns whether it came about; ``added`` rows when it did.

    ``destroys`` the source: then a snapshot may fail, and one that succeeds is of the time before it, or has the
    content which the change left.
    """

    text: str
    do: Callable[[Path], bool]
    added: int = 0
    destroys: bool = False
    left: tuple[Content, ...] = ()


@dataclass(frozen=True)
class ChangeWalk:
    """One change, at each of many moments of a snapshot."""

    scenario: Snapshot
    change: str

    @property
    def fault(self) -> str:
        """What is done."""
        return f"source {CHANGES[self.change].text}"

    @property
    def where(self) -> str:
        """To what."""
        return place_of(self.scenario)

    def trials(self, campaign: Campaign) -> Iterator[Report]:
        """Make the trials that the campaign wants."""
        for name, count in calls_made(campaign, self.scenario, CALLS, Scope.ANY).items():
            for number in NUMBERS:
                key = f"{self.fault}: {self.where}: {name} {number}"
                if number <= count and campaign.wants(key):
                    strike = Strike((name,), number, "signal=SIGSTOP", Scope.ANY)
                    yield Report(key, self._trial(campaign, strike, 0))
        for number in range(1, PROGRESS_REPORTS + 1):
            key = f"{self.fault}: {self.where}: progress report {number}"
            if campaign.wants(key):
                yield Report(key, self._trial(campaign, None, number))

    def _trial(self, campaign: Campaign, strike: Strike | None, stop_at_progress: int) -> Verdict:
        came_about: list[bool] = []
        with prepared(campaign.settings, campaign.templates, self.scenario) as stage:
            campaign.templates.put("copy", stage.data.parent / OTHER_NAME)
            stage.request["stop_at_progress"] = stop_at_progress
            change = CHANGES[self.change]
            expect = functools.partial(expect_after_change, self.scenario, change, came_about)
            return run_trial(stage, self.scenario, expect, strike, lambda: came_about.append(change.do(stage.live)))


def expect_after_change(scenario: Snapshot, change: Change, came_about: list[bool], _outcome: Outcome) -> Expectation:
    """Who only uses the database does no harm to a snapshot; who destroys it may end it."""
    if not came_about:
        return Expectation(succeeds=True)
    if change.destroys and came_about == [True]:
        return Expectation(source_destroyed=True, copy=change.left)
    count = template_of(scenario.template).count + (change.added if came_about == [True] else 0)
    now = Content("old", count, count)
    return Expectation(succeeds=True, source=now, copy=(now,))


def used(path: Path, *statements: str, added: int = 0) -> bool:
    """Use the database as any other process; False where it was locked all the while."""
    if is_recovered(path):
        return False
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)) as connection:
            connection.execute("PRAGMA wal_autocheckpoint=0")
            if added:
                count = connection.execute("SELECT count(*) FROM entries").fetchone()[0]
                insert(connection, rows("old", count + added)[count:])
            for statement in statements:
                connection.execute(statement).fetchall()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        return False
    return True


def is_recovered(path: Path) -> bool:
    """Whether a process was stopped in the middle of recovering the log: SQLite waits 10 s for that before it gives up.

    It has a lock for writing on the log's index then, https://sqlite.org/walformat.html#wal_locks.
    """
    index = Path(f"{path}-shm")
    if not index.exists():
        return False
    locks = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    return any("WRITE" in lock and f":{index.stat().st_ino} " in f"{' '.join(lock)} " for lock in locks)


def truncated(path: Path, suffix: str, part: float) -> bool:
    """Cut off the end of a file, keeping a part."""
    file = Path(f"{path}{suffix}")
    if not file.exists():
        return False
    os.truncate(file, int(file.stat().st_size * part))
    return True


def removed(path: Path, *suffixes: str) -> bool:
    """Remove files of the database."""
    found = [file for file in (Path(f"{path}{suffix}") for suffix in suffixes) if file.exists()]
    for file in found:
        file.unlink()
    return bool(found)


def replaced(path: Path) -> bool:
    """Put another database in its place, as a restore by hand does."""
    other = path.with_name("app.db-other")
    shutil.copyfile(path.parent.parent / OTHER_NAME, other)
    removed(path, "-wal", "-shm", "-journal")
    other.rename(path)
    return True


HALF = Content("old", 60, 60)
"""What is in the database file itself while the second half of its rows is in its log."""

CHANGES = {
    "written": Change("written to", functools.partial(used, added=ADDED_ROWS), ADDED_ROWS),
    "checkpointed": Change("checkpointed", lambda path: used(path, "PRAGMA wal_checkpoint(TRUNCATE)")),
    "restarted": Change(
        "checkpointed and written to",
        lambda path: used(path, "PRAGMA wal_checkpoint(RESTART)") and used(path, added=ADDED_ROWS),
        ADDED_ROWS,
    ),
    "vacuumed": Change("vacuumed", lambda path: used(path, "VACUUM")),
    "shrunk": Change(
        "shrunk",
        lambda path: used(
            path,
            "BEGIN IMMEDIATE",
            "CREATE TABLE large AS SELECT * FROM entries",
            "DROP TABLE large",
            "PRAGMA incremental_vacuum",
            "COMMIT",
            "PRAGMA wal_checkpoint(TRUNCATE)",
        ),
    ),
    "truncated": Change("truncated", lambda path: truncated(path, "", 0.5), destroys=True),
    "emptied": Change("emptied", lambda path: truncated(path, "", 0), destroys=True),
    "removed": Change("removed", lambda path: removed(path, ""), destroys=True),
    "replaced": Change("replaced", replaced, destroys=True, left=(NEW,)),
    "log removed": Change("robbed of its log", lambda path: removed(path, "-wal"), destroys=True, left=(HALF,)),
    "log truncated": Change(
        "robbed of half its log", lambda path: truncated(path, "-wal", 0.5), destroys=True, left=(HALF,)
    ),
    "index truncated": Change("robbed of its log's index", lambda path: truncated(path, "-shm", 0), destroys=True),
}


def change_walks() -> list[Walk]:
    """All walks with a source that changes."""
    walks: list[Walk] = [ChangeWalk(SNAPSHOTS[1], change) for change in CHANGES]
    walks += [ChangeWalk(SNAPSHOTS[5], change) for change in CHANGES if "log" not in change and "index" not in change]
    return walks
