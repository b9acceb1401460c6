# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes that change in every kind of page, in a source before its snapshot and in a copy before its restore.

A payload byte of a live database cannot be told from what the application wrote: SQLite has no checksums there. Such
a flip is carried over into the copy, which then must have exactly what SQLite reads in the source.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.databases import copy_files, fingerprint
from campaign.execution import execute
from campaign.scenarios import (
    RESTORES,
    SNAPSHOTS,
    Expectation,
    Flaw,
    Problem,
    Stage,
    Verdict,
    common_problems,
    prepared,
    published_names,
    staged_names,
)
from campaign.walks import Campaign, Report, Walk

FLIPS_OF_KIND = 14

TREE_KINDS = {2: "interior index", 5: "interior table", 10: "leaf index", 13: "leaf table"}
KINDS = ("header", *TREE_KINDS.values(), "overflow", "freelist trunk", "freelist leaf", "pointer map")
LOG_KINDS = ("log header", "frame header", "frame body")
REASONS = ("DAMAGED_SOURCE", "NOT_A_DATABASE", "REFUSED")

HEADER_BYTES = 100
LOG_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
POINTER_MAP_ENTRY_BYTES = 5

APPLICATION = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM entries").fetchone()
print("open", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class SourceFlipWalk:
    """A byte of the source is another one before a snapshot is taken.

    ``live``: while an application has it open, which reads its log by the index in memory and checks no checksums.
    """

    kind: str
    live: bool = False

    @property
    def fault(self) -> str:
        """What is done."""
        return "byte flipped in the source"

    @property
    def where(self) -> str:
        """To what."""
        return f"snapshot, {self.kind}{' of a live log' if self.live else ''}"

    def trials(self, campaign: Campaign) -> Iterator[Report]:
        """Make the trials that the campaign wants."""
        logged = self.kind in LOG_KINDS
        for key, chance in draws(campaign, self):
            with contextlib.ExitStack() as opened:
                snapshot = SNAPSHOTS[1 if logged else 5]
                stage = opened.enter_context(prepared(campaign.settings, campaign.templates, snapshot))
                if self.live:
                    opened.enter_context(application(stage.live))
                flip(Path(f"{stage.live}{'-wal' if logged else ''}"), self.kind, chance)
                yield Report(key, self._trial(stage))

    def _trial(self, stage: Stage) -> Verdict:
        before, seen = fingerprint(stage.live), read_all(stage.live) if self.live else contents(stage.live)
        outcome = execute(stage.settings, stage.request)
        problems = common_problems(outcome, Expectation(reasons=REASONS))
        if fingerprint(stage.live) != before:
            problems.append((Flaw.OTHER, "the source was touched"))
        if outcome.result is not None and contents(stage.final) != seen:
            problems.append((Flaw.LOST, "the copy has not what SQLite reads in the source"))
        if outcome.result is None and published_names(stage.copies):
            problems.append((Flaw.PARTIAL, f"it failed, but there is {published_names(stage.copies)}"))
        problems += [(Flaw.STRAY, name) for name in staged_names(stage.copies) + staged_names(stage.data)]
        return Verdict("carried over" if outcome.result else "failed", True, tuple(problems), outcome.error or "")


@dataclass(frozen=True)
class CopyFlipWalk:
    """A byte of the copy is another one before it is restored, its checksum known or not."""

    kind: str
    checksum: bool

    @property
    def fault(self) -> str:
        """What is done."""
        return f"byte flipped in the copy, {'' if self.checksum else 'no '}checksum"

    @property
    def where(self) -> str:
        """To what."""
        return f"restore, {self.kind}"

    def trials(self, campaign: Campaign) -> Iterator[Report]:
        """Make the trials that the campaign wants."""
        for key, chance in draws(campaign, self):
            with prepared(campaign.settings, campaign.templates, RESTORES[2]) as stage:
                flip(stage.final, self.kind, chance)
                if not self.checksum:
                    del stage.request["arguments"]["expected_sha256"]
                yield Report(key, self._trial(stage))

    def _trial(self, stage: Stage) -> Verdict:
        outcome = execute(stage.settings, stage.request)
        fails = "a byte of the copy was another one" if self.checksum else ""
        problems: list[Problem] = common_problems(outcome, Expectation(reasons=REASONS, fails=fails))
        if outcome.result is None and fingerprint(stage.live) != stage.before:
            problems.append((Flaw.LOST, "it failed, but the database was touched"))
        if outcome.result is not None and contents(stage.live) != contents(stage.final):
            problems.append((Flaw.LOST, "the database has not what SQLite reads in the copy"))
        problems += [(Flaw.STRAY, name) for name in staged_names(stage.data)]
        return Verdict("carried over" if outcome.result else "failed", True, tuple(problems), outcome.error or "")


def draws(campaign: Campaign, walk: Walk) -> Iterator[tuple[str, random.Random]]:
    """The keys of a walk's trials, and what chooses the byte."""
    for number in range(1, FLIPS_OF_KIND + 1):
        key = f"{walk.fault}: {walk.where}: flip {number} of seed {campaign.settings.seed}"
        if campaign.wants(key):
            yield key, random.Random(key)


def flip(path: Path, kind: str, chance: random.Random) -> None:
    """Change one byte of a part of that kind."""
    content = path.read_bytes()
    start, end = chance.choice(log_parts(content, kind) if kind in LOG_KINDS else pages(content)[kind])
    place = chance.randrange(start, end)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([content[place] ^ chance.randrange(1, 256)]))


def log_parts(content: bytes, kind: str) -> list[tuple[int, int]]:
    """Where parts of a -wal of a kind begin and end."""
    if kind == "log header":
        return [(0, LOG_HEADER_BYTES)]
    page_size = int.from_bytes(content[8:12], "big")
    frames = range(LOG_HEADER_BYTES, len(content), FRAME_HEADER_BYTES + page_size)
    if kind == "frame header":
        return [(start, start + FRAME_HEADER_BYTES) for start in frames]
    return [(start + FRAME_HEADER_BYTES, start + FRAME_HEADER_BYTES + page_size) for start in frames]


def pages(content: bytes) -> dict[str, list[tuple[int, int]]]:
    """Where the pages of each kind begin and end in a small database with auto-vacuum."""
    page_size = int.from_bytes(content[16:18], "big")
    kinds = freelist(content, page_size)
    found: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    found["header"].append((0, HEADER_BYTES))
    for number in range(1, len(content) // page_size + 1):
        start, end = (number - 1) * page_size, number * page_size
        first = HEADER_BYTES if number == 1 else start
        if (number - 2) % (page_size // POINTER_MAP_ENTRY_BYTES + 1) == 0:
            kind = "pointer map"
        else:
            kind = kinds.get(number) or TREE_KINDS.get(content[first], "overflow")
        found[kind].append((first, end))
    return found


def freelist(content: bytes, page_size: int) -> dict[int, str]:
    """The numbers of the unused pages, and which kind each is."""
    kinds: dict[int, str] = {}
    trunk = int.from_bytes(content[32:36], "big")
    while trunk:
        kinds[trunk] = "freelist trunk"
        words = [
            int.from_bytes(content[place : place + 4], "big")
            for place in range((trunk - 1) * page_size, trunk * page_size, 4)
        ]
        kinds |= dict.fromkeys(words[2 : 2 + words[1]], "freelist leaf")
        trunk = words[0]
    return kinds


@contextlib.contextmanager
def application(path: Path) -> Iterator[None]:
    """An application that has the database open, and has read its log."""
    command = [sys.executable, "-c", APPLICATION, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"open\n":
            raise RuntimeError(f"{path} could not be opened")
        try:
            yield
        finally:
            process.kill()


def contents(path: Path) -> list[Any]:
    """All that SQLite reads in a database and its log, byte by byte; where it finds damage, its words for that."""
    copy = path.parent.parent / "seen" / "copy.db"
    copy.parent.mkdir(exist_ok=True)
    for file in copy.parent.iterdir():
        file.unlink()
    copy_files(path, copy)
    Path(f"{copy}-shm").unlink(missing_ok=True)
    return read_all(copy)


def read_all(path: Path) -> list[Any]:
    """All that SQLite reads in a database, in this process."""
    found: list[Any] = []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        try:
            for query in ("PRAGMA user_version", "PRAGMA application_id", "PRAGMA encoding"):
                found += connection.execute(query)
            found += connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2")
            found += connection.execute("SELECT * FROM entries NOT INDEXED ORDER BY rowid")
        except sqlite3.Error as error:
            found.append(str(error))
    return found


def flip_walks() -> list[Walk]:
    """All walks with changed bytes."""
    return [
        *(SourceFlipWalk(kind) for kind in (*KINDS, *LOG_KINDS)),
        *(SourceFlipWalk(kind, live=True) for kind in LOG_KINDS),
        *(CopyFlipWalk(kind, checksum) for kind in KINDS for checksum in (True, False)),
    ]
