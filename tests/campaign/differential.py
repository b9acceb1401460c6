# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the held raw copy with the copy by SQLite's own interface, over random histories.

    python tests/campaign/differential.py [--histories N] [--controls N] [--jobs N] [--seed N] [--only N] [--keep DIR]

In each history processes write, checkpoint and vacuum one database and are killed, while the engine copies it, as fast
as it does or slowly and in random order. Under the very same read transaction the same database is copied once more by
Connection.backup. Then the raw copy must be whole, hold what its own ledger says and every transaction that was
acknowledged before it began; and folded up to the commit at which the other copy stands it must be that copy, page by
page. The argument that this shows is in docs/raw-copy.md.

The controls are the same histories with one part of the method left out: they must find bad copies, or the campaign
could not.

Prints a table; the exit status is 1 when a copy was bad, or a control found none.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import enum
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest.mock import patch

if __name__ == "__main__":
    sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / ".collections")]

from ansible_collections.capsule.opstage.plugins.module_utils import sqlite_copy
from ansible_collections.capsule.opstage.plugins.module_utils.byte_copy import ByteCopier
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import (
    DatabaseFileError,
    Deadline,
    LockListing,
    Reason,
    StagedFile,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_hold import LISTINGS_ALLOWED, Hold, View
from campaign.histories import (
    KILLS,
    VACUUMS,
    Counters,
    Ledger,
    Plan,
    UnsoundError,
    going_on,
    ledger_of,
    make_database,
    make_plan,
)

HISTORIES = 1000
CONTROLS = 40
SECONDS_PER_COPY = 60.0
ALL_IN_ONE_STEP = 1 << 40

LOG_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
FIRST_READ_MARK_LOCK = 123
"""Offset of WAL_READ_LOCK(0), whose holder reads nothing of the log (https://sqlite.org/walformat.html#wal_locks)."""

CHECKSUMS_WRITTEN_SINCE = (3, 50, 0)
"""Older versions may leave committed frames without checksums, see docs/raw-copy.md."""

VARYING = ((18, 20), (24, 28), (40, 44), (92, 100))
"""Fields of the database's header which folding a log, or the interface, sets anew: the versions of the format, the
counters of changes to the file and to the schema, and the version of the last writer."""


class Guard(enum.Enum):
    """What is left out, as a control."""

    ALL = "nothing left out"
    HOLD = "without the read transaction"
    MARK = "with the log also where the reader has no mark in it"
    COUNT = "with a log that is replayed in part"


@dataclass(frozen=True)
class LogIndex:
    """What the shared memory says of the log (https://sqlite.org/walformat.html#the_wal_index_file_format)."""

    salts: bytes
    backfilled: int
    marks: tuple[int, ...]

    @classmethod
    def read(cls, path: str) -> LogIndex:
        """This process has no lock on the file that closing it could drop."""
        data = Path(f"{path}-shm").read_bytes()[:136]
        backfilled, *marks = struct.unpack_from("=6I", data, 96)
        return cls(data[32:40], backfilled, tuple(marks))


@dataclass
class Evidence:
    """One copy: the engine's ``result``, what it was made of, and the other copy; what happened meanwhile.

    ``mark`` is a frame of the log that the reader does not stand before; 0 where it needs nothing of the log.
    """

    folder: Path
    guard: Guard
    acknowledged: int
    journal_mode: str = ""
    mark: int = 0
    before: LogIndex | None = None
    by_interface: bool = False
    restarted: bool = False
    checkpointed: bool = False

    @property
    def result(self) -> Path:
        """The engine's copy."""
        return self.folder / "result.db"

    @property
    def interface(self) -> Path:
        """The copy by Connection.backup."""
        return self.folder / "interface.db"

    @property
    def file(self) -> Path:
        """The bytes of the database file, before anything was folded into it."""
        return self.folder / "file"

    @property
    def log(self) -> Path:
        """The bytes of the log that were copied with it; there may be none."""
        return self.folder / "log"


@dataclass
class Outcome:
    """What one history has shown."""

    number: int
    guard: Guard
    journal_mode: str
    copies: int = 0
    markless: int = 0
    newer: int = 0
    restarts: int = 0
    checkpoints: int = 0
    by_interface: int = 0
    kills: int = 0
    vacuums: int = 0
    lost: int = 0
    refused: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


class ObservedHold(Hold):
    """The engine's hold, whose end is put off until the other copy is made under the same read transaction."""

    def __init__(self, evidence: Evidence, *arguments: Any, target: str, **options: Any) -> None:
        evidence.interface.touch()
        self._evidence = evidence
        self._engine_target = target
        super().__init__(*arguments, target=str(evidence.interface), **options)

    def begin(self) -> View:
        """Note where the log stands."""
        view = super().begin()
        self._evidence.journal_mode = view.journal_mode
        self._evidence.before = LogIndex.read(self.path) if view.journal_mode == "wal" else None
        return view

    def frames_needed(self, memory: int) -> int:
        """Note where in the log the reader stands."""
        frames = super().frames_needed(memory)
        if frames:
            self._evidence.mark = self._mark(os.fstat(memory).st_ino)
        return max(1, frames) if self._evidence.guard is Guard.MARK else frames

    def _mark(self, memory: int) -> int:
        marks = LogIndex.read(self.path).marks
        for _attempt in range(LISTINGS_ALLOWED):
            listing = LockListing(self._child.pid)
            for number, lock in enumerate(range(FIRST_READ_MARK_LOCK, FIRST_READ_MARK_LOCK + len(marks))):
                if listing.has(memory, lock, lock):
                    return marks[number]
        raise UnsoundError("the holder has none of the five locks of the read marks")

    def copy(self, restarts_allowed: int) -> int:
        """The engine gives up the raw copy: this is its result."""
        size = super().copy(restarts_allowed)
        shutil.copyfile(self._evidence.interface, self._engine_target)
        self._evidence.by_interface = True
        return size

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._note_changes()
                if not self._evidence.by_interface:
                    super().copy(0)
        finally:
            super().__exit__(kind, error, traceback)

    def _note_changes(self) -> None:
        before = self._evidence.before
        if before is not None:
            after = LogIndex.read(self.path)
            self._evidence.restarted = after.salts != before.salts
            self._evidence.checkpointed = self._evidence.restarted or after.backfilled > before.backfilled


class NoHold(ObservedHold):
    """Lets go at once of what it has taken, and says that it holds it."""

    def begin(self) -> View:
        """Take the read transaction and end it."""
        view = Hold.begin(self)
        self._evidence.journal_mode = view.journal_mode
        super().end()
        return view

    def end(self) -> None:
        """It has ended."""

    def is_proven(self, journal_mode: str) -> bool:
        """Pretend."""
        return True

    def frames_needed(self, memory: int) -> int:
        """Copy the log too."""
        return 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        Hold.__exit__(self, kind, error, traceback)


@dataclass(frozen=True)
class Pace:
    """How a file is copied: in so many pieces, in order or scattered, in so many seconds, within the kernel or not."""

    pieces: int
    seconds: float
    scattered: bool
    in_kernel: bool
    seed: str

    @classmethod
    def draw(cls, draw: random.Random) -> Pace:
        """A random one."""
        seconds = draw.choice((0.0, 0.005, 0.02, 0.05))
        pieces = draw.choice((2, 3, 8, 40))
        return cls(pieces, seconds, draw.random() < 0.5, draw.random() < 0.5, str(draw.random()))


class PacedCopier(ByteCopier):
    """The engine's copier at another pace."""

    def __init__(self, file_pace: Pace, log_pace: Pace, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._is_log = os.readlink(f"/proc/self/fd/{self._source}").endswith("-wal")
        self._pace = log_pace if self._is_log else file_pace
        self._in_kernel = self._in_kernel and self._pace.in_kernel

    def copy(self, start: int, end: int) -> int:
        """Copy piece by piece; returns the lowest offset at which there was nothing."""
        draw = random.Random(self._pace.seed)
        length = max(1, (end - start) // self._pace.pieces)
        pieces = list(range(start, end, length))
        if self._pace.scattered:
            draw.shuffle(pieces)
        reached = end
        for piece in pieces:
            reached = min(reached, self._copy_piece(piece, min(piece + length, end)))
            time.sleep(self._pace.seconds / len(pieces))
        self.tell(reached)
        return reached

    def _copy_piece(self, offset: int, end: int) -> int:
        """Where the source ended, or no less than the whole."""
        while offset < end:
            copied = self._chunk(offset, end - offset)
            if copied == 0:
                return offset
            offset += copied
        return sys.maxsize


class HesitantCopier(PacedCopier):
    """Copies a third of a log, and the rest once that is overwritten, or nobody does so within half a second."""

    def copy(self, start: int, end: int) -> int:
        """Copy; returns the lowest offset at which there was nothing."""
        if not self._is_log:
            return super().copy(start, end)
        middle = start + (end - start) // 3
        reached = self._copy_piece(start, middle)
        rest, until = self._rest(middle), time.monotonic() + 0.5
        while self._rest(middle) == rest and time.monotonic() < until:
            time.sleep(0.002)
        return min(reached, self._copy_piece(middle, end), end)

    def _rest(self, start: int) -> bytes:
        return os.pread(self._source, 1 << 16, start)


@contextlib.contextmanager
def observed_engine(evidence: Evidence, draw: random.Random) -> Iterator[None]:
    """The engine as it is, but for its pace, what is noted of it, and what a control leaves out."""
    replay = sqlite_copy._replay_log

    def keep_and_replay(staged: StagedFile, *arguments: Any) -> int:
        shutil.copyfile(staged.path, evidence.file)
        shutil.copyfile(f"{staged.path}-wal", evidence.log)
        frames = replay(staged, *arguments)
        return frames if evidence.guard is Guard.ALL else sys.maxsize

    no_hold = evidence.guard is Guard.HOLD
    replaced: dict[str, Any] = {
        "Hold": partial(NoHold if no_hold else ObservedHold, evidence),
        "_replay_log": keep_and_replay,
        "STEP_BYTES": ALL_IN_ONE_STEP if no_hold else draw.choice((20_000, 100_000, 1 << 24)),
    }
    if evidence.guard is not Guard.ALL or draw.random() < 0.8:
        copier = HesitantCopier if evidence.guard is Guard.MARK else PacedCopier
        replaced["ByteCopier"] = partial(copier, Pace.draw(draw), Pace.draw(draw))
    if evidence.guard is not Guard.ALL:
        replaced["_LOG_HEADER_BYTES"] = 0
    with contextlib.ExitStack() as patches:
        for name, value in replaced.items():
            patches.enter_context(patch.object(sqlite_copy, name, value))
        yield


def take_copy(path: Path, folder: Path, counters: Counters, draw: random.Random, guard: Guard) -> Evidence:
    """Let the engine copy the live database. Raises DatabaseFileError."""
    folder.mkdir()
    evidence = Evidence(folder, guard, counters.acknowledged)
    with observed_engine(evidence, draw), StagedFile(str(folder)) as staged:
        with sqlite_copy.opened_source(str(path)) as source:
            sqlite_copy.copy_database(source, staged, Deadline(SECONDS_PER_COPY))
        shutil.copyfile(staged.path, evidence.result)
    if not evidence.file.exists():
        shutil.copyfile(evidence.result, evidence.file)
    return evidence


def planned(seed: int, number: int, guard: Guard) -> Plan:
    """A random history; for a control one in which what it does without is needed often."""
    plan = make_plan(seed, number)
    if guard is Guard.HOLD:
        mode = "wal" if number % 4 else "delete"
        return replace(plan, journal_mode=mode, wal_autocheckpoint=10, savepoints=0.0)
    calm = replace(plan, journal_mode="wal", synchronous="OFF", kills_per_second=0, checkpoints=(), copies=4)
    if guard is Guard.MARK:
        small = replace(calm, page_size=1024, rows=100, wal_autocheckpoint=40, journal_size_limit=0, savepoints=0.0)
        return replace(small, writers=1, readers=0, pause=0.02)
    if guard is Guard.COUNT:
        small = replace(calm, page_size=1024, rows=100, wal_autocheckpoint=0, cache_size=2, savepoints=0.8)
        return replace(small, readers=1, pause=0.0)
    return plan


def run_history(seed: int, number: int, guard: Guard, folder: Path) -> Outcome:
    """Let one history happen and judge the copies that were taken of it."""
    plan = planned(seed, number, guard)
    outcome = Outcome(number, guard, plan.journal_mode)
    path = folder / "live" / "live.db"
    path.parent.mkdir(parents=True)
    make_database(path, plan)
    counters = Counters()
    taken: list[Evidence] = []
    try:
        with going_on(path, plan, counters):
            _take_copies(plan, path, folder, counters, outcome, taken)
        outcome.kills, outcome.vacuums = counters.total(KILLS), counters.total(VACUUMS)
        may_lose = plan.savepoints > 0 and sqlite3.sqlite_version_info < CHECKSUMS_WRITTEN_SINCE
        _judge(taken, path, counters.acknowledged, may_lose, outcome)
    except UnsoundError as error:
        outcome.bad.append(f"the live database: {error}")
    return outcome


def _take_copies(
    plan: Plan, path: Path, folder: Path, counters: Counters, outcome: Outcome, taken: list[Evidence]
) -> None:
    draw = random.Random(f"{plan.seed}:copies")
    for number in range(plan.copies):
        time.sleep(draw.uniform(0.005, 0.06))
        outcome.copies += 1
        try:
            taken.append(take_copy(path, folder / f"copy {number}", counters, draw, outcome.guard))
        except DatabaseFileError as error:
            text = f"copy {number}: {error.reason.value}: {error}"
            allowed = (Reason.LOCKED,) if outcome.guard is Guard.ALL else (Reason.LOCKED, Reason.REFUSED)
            (outcome.refused if error.reason in allowed else outcome.bad).append(text)


def _judge(taken: Sequence[Evidence], path: Path, acknowledged: int, may_lose: bool, outcome: Outcome) -> None:
    """Against each other, against themselves, and against what came of the live database in the end.

    ``may_lose``: this SQLite itself loses transactions of this history, see CHECKSUMS_WRITTEN_SINCE.
    """
    final = _final_ledger(path, acknowledged, may_lose, outcome)
    for evidence in taken:
        outcome.markless += evidence.journal_mode == "wal" and not evidence.mark
        outcome.restarts += evidence.restarted
        outcome.checkpoints += evidence.checkpointed
        outcome.by_interface += evidence.by_interface
        try:
            ledger = _ledger_of_file(evidence.result)
            serial = max(ledger) if outcome.guard is Guard.HOLD else _compared(evidence, max(ledger))
            outcome.newer += max(ledger) > serial
            outcome.lost += _has_lost(evidence, max(ledger), may_lose)
            _require_history(ledger, final or ledger, outcome.kills > 0, may_lose)
        except UnsoundError as error:
            if may_lose and not _is_sound(evidence.interface):
                outcome.lost += 1
            else:
                outcome.bad.append(f"{evidence.folder.name}: {error}")


def _final_ledger(path: Path, acknowledged: int, may_lose: bool, outcome: Outcome) -> Ledger | None:
    """What the live database holds in the end; None where it was damaged. Raises UnsoundError where that cannot be."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            final = ledger_of(connection)
        if max(final) < acknowledged:
            raise UnsoundError(f"it ends with {max(final)}, and {acknowledged} was acknowledged")
    except UnsoundError:
        if not may_lose:
            raise
        outcome.lost += 1
        return None
    return final


def _is_sound(path: Path) -> bool:
    try:
        return bool(_ledger_of_file(path))
    except UnsoundError:
        return False


def _has_lost(evidence: Evidence, newest: int, may_lose: bool) -> bool:
    """Whether the live database had lost what it acknowledged. Raises UnsoundError where that cannot be."""
    if newest < evidence.acknowledged and not may_lose:
        raise UnsoundError(f"it ends with {newest}, and {evidence.acknowledged} was acknowledged before it was begun")
    return newest < evidence.acknowledged


def _require_history(ledger: Ledger, final: Ledger, killed: bool, may_lose: bool) -> None:
    """Raise UnsoundError unless the live database went through what the copy's ledger says.

    A process that is killed between writing its commit into the log and telling of it in the shared memory leaves a
    transaction that the next writer overwrites: the newest of a copy may have another successor in the end.
    """
    strangers = [serial for serial, chain in ledger.items() if final.get(serial) != chain]
    allowed = (killed and strangers == [max(ledger)]) or (may_lose and strangers[-1:] == [max(ledger)])
    if strangers and not allowed:
        raise UnsoundError(f"the live database never had its transactions {strangers}")


def _compared(evidence: Evidence, newest: int) -> int:
    """Compare with the other copy, and return the serial number of that. Raises UnsoundError when they differ."""
    stepped = evidence.journal_mode != "wal"
    expected = pages_of(evidence.interface, stepped)
    serial = max(_ledger_of_file(evidence.interface))
    if evidence.by_interface:
        return serial
    if newest < serial:
        raise UnsoundError(f"it ends with {newest}, the other copy with {serial}")
    tried = []
    for frames in frames_to_try(evidence):
        if pages_of(folded(evidence, frames), stepped) == expected:
            return serial
        tried.append(frames)
        if _serial_of(evidence.folder / "folded.db") > serial:
            break
    raise UnsoundError(f"folded up to frame {tried} it is not the other copy, which ends with {serial}")


def frames_to_try(evidence: Evidence) -> Iterator[int]:
    """Where the reader may stand in the log that was copied: at its mark or, all marks being in use, further on.

    0 is the file alone: that of a reader without a mark, and of a rollback journal.
    """
    if not evidence.mark:
        yield 0
        return
    with evidence.log.open("rb") as log:
        page_size = struct.unpack(">I", log.read(LOG_HEADER_BYTES)[8:12])[0]
        frame = 0
        while header := log.read(FRAME_HEADER_BYTES):
            log.seek(page_size, os.SEEK_CUR)
            frame += 1
            if frame >= evidence.mark and header[4:8] != bytes(4):
                yield frame


def folded(evidence: Evidence, frames: int) -> Path:
    """The file with the first frames of the log folded in by SQLite."""
    path = evidence.folder / "folded.db"
    shutil.copyfile(evidence.file, path)
    if frames:
        with evidence.log.open("rb") as log:
            header = log.read(LOG_HEADER_BYTES)
            frame_bytes = FRAME_HEADER_BYTES + struct.unpack(">I", header[8:12])[0]
            Path(f"{path}-wal").write_bytes(header + log.read(frames * frame_bytes))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    return path


def pages_of(path: Path, stepped: bool) -> bytes:
    """The bytes of a database without a log, but for those that vary; the file gets the header of one without a log.

    ``stepped``: it may have been copied in steps. A transaction does not journal the free pages that it takes, so they
    have other bytes after it was rolled back between two steps; nobody reads them before they are written again.
    """
    pages = bytearray(path.read_bytes())
    pages[18:20] = b"\x01\x01"
    path.write_bytes(pages)
    page_size = int.from_bytes(pages[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    for page in free_pages(bytes(pages), page_size) if stepped else ():
        pages[(page - 1) * page_size : page * page_size] = bytes(page_size)
    for start, end in VARYING:
        pages[start:end] = bytes(end - start)
    return bytes(pages)


def free_pages(pages: bytes, page_size: int) -> list[int]:
    """The leaves of the list of free pages (https://sqlite.org/fileformat2.html#the_freelist)."""
    found: list[int] = []
    trunk = int.from_bytes(pages[32:36], "big")
    while trunk:
        following, count = struct.unpack_from(">2I", pages, (trunk - 1) * page_size)
        found.extend(struct.unpack_from(f">{count}I", pages, (trunk - 1) * page_size + 8))
        trunk = following
    return found


def _ledger_of_file(path: Path) -> Ledger:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as connection:
        return ledger_of(connection)


def _serial_of(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as connection:
        return int(connection.execute("SELECT max(serial) FROM ledger").fetchone()[0])


def _run_one(seed: int, guard: Guard, number: int, keep: Path | None) -> Outcome:
    """One history in a folder of its own, which is kept where it is wanted and something was bad."""
    with tempfile.TemporaryDirectory(prefix="differential-") as folder:
        outcome = run_history(seed, number, guard, Path(folder))
        if outcome.bad and keep is not None:
            shutil.copytree(folder, keep / f"{guard.name} {number}", dirs_exist_ok=True)
        return outcome


def run_histories(
    seed: int, numbers: Iterable[int], guard: Guard, jobs: int, keep: Path | None = None
) -> Generator[Outcome, None, None]:
    """Let histories happen, ``jobs`` at a time; none is begun any more once the iteration ends."""
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_parent)
    try:
        futures = [pool.submit(_run_one, seed, guard, number, keep) for number in numbers]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let the kernel kill this process when the one that made it ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


COLUMNS = {
    "copies": "copies",
    "markless": "no mark",
    "newer": "newer",
    "restarts": "log restarted",
    "checkpoints": "checkpointed",
    "by_interface": "interface",
    "kills": "kills",
    "vacuums": "vacuums",
    "lost": "lost by SQLite",
    "refused": "refused",
    "bad": "bad",
}


def table_of(outcomes: Sequence[Outcome]) -> str:
    """One line for each journal mode, and one for all."""
    present = {outcome.journal_mode for outcome in outcomes}
    rows = [("journal mode", "histories", *COLUMNS.values())]
    for name in (*(mode for mode in ("wal", "delete", "truncate", "persist") if mode in present), "all"):
        those = [outcome for outcome in outcomes if name in (outcome.journal_mode, "all")]
        rows.append((name, str(len(those)), *(str(sum(_number(o, column) for o in those)) for column in COLUMNS)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def _number(outcome: Outcome, column: str) -> int:
    value: int | list[str] = getattr(outcome, column)
    return value if isinstance(value, int) else len(value)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--histories", type=int, default=HISTORIES)
    parser.add_argument("--controls", type=int, default=CONTROLS, help="histories of each control")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), help="histories at a time")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--only", type=int, help="the number of the one history to run")
    parser.add_argument("--keep", type=Path, help="folder for the files of histories in which something was bad")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign and print what came of it; returns the exit status."""
    options = _arguments(arguments)
    numbers = range(options.histories) if options.only is None else [options.only]
    started = time.monotonic()
    print(f"seed {options.seed}, SQLite {sqlite3.sqlite_version}, Python {sys.version.split()[0]}", flush=True)
    outcomes = []
    for outcome in run_histories(options.seed, numbers, Guard.ALL, options.jobs, options.keep):
        outcomes.append(outcome)
        for text in outcome.bad + outcome.refused:
            print(f"history {outcome.number}: {text}", file=sys.stderr, flush=True)
    print(table_of(outcomes), flush=True)
    failed = any(outcome.bad for outcome in outcomes)
    for guard in (Guard.HOLD, Guard.MARK, Guard.COUNT) if options.only is None else ():
        controls = list(run_histories(options.seed, range(options.controls), guard, options.jobs))
        found, copies = (sum(_number(outcome, column) for outcome in controls) for column in ("bad", "copies"))
        needless = guard is Guard.COUNT and sqlite3.sqlite_version_info >= CHECKSUMS_WRITTEN_SINCE
        print(f"control, {guard.value}: {found} of {copies} copies bad", flush=True)
        failed = failed or not (found or needless)
    print(f"{time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
