# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures the collection's snapshot against the tools that users have: ``make bench``.

Copies databases of several sizes while nobody and while somebody writes, in both journal modes, all tools by turns, and
says of each goal whether it was reached. Everything lies in a private folder (in TMPDIR, else in the checkout) that
is gone at the end, also when it is interrupted.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import shlex
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import report
from bench.better_sqlite3 import VERSION, sqlite_version
from bench.cells import Bench, place_database, plan
from bench.database import MEGABYTE, make_database
from bench.goals import XFS, goals
from bench.large import PAGE_BYTES, PAGES, measure_large
from bench.memory import peak_memory
from bench.program import run_program, write
from bench.reflink import mounted_xfs
from bench.results import Cell, Results, describe_size
from bench.tools import API, COPY, CP, FULL, IDLE_PYTHON, NODE, QUICK, SHELL, UNCHECKED, VACUUM, Tools
from bench.verification import measure_verification
from bench.writer import writing
from testbed.machine import CHECKOUT, require_space
from testbed.opstage.build import NODE_VERSION
from testbed.process import TestbedError, run, succeeds

PARTS = ("wal", "rollback", "verification", "memory", "reflink", "large")
OF_COPIES = {"wal", "rollback", "verification", "memory", "reflink"}
"""The parts that copy databases of ``--sizes``."""
MODES_OF_PARTS = {"wal": "wal", "rollback": "delete"}
SIZES = (100, 200, 1000)
ROUNDS = 5
COPIES_AT_ONCE = 6
"""Room asked for: what lies side by side of the largest database, with what writers add to it and its log."""
FOLDER_PREFIX = "opstage-bench-"
OWN_MOUNTS = "OPSTAGE_BENCH_OWN_MOUNTS"


class Session:
    """What one run of the program does, in order."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.parts: set[str] = set(options.only or PARTS)
        self.sizes: list[int] = sorted(options.sizes or SIZES)
        self.started = time.monotonic()
        self.tools = Tools()
        self.results = Results(absent=dict(self.tools.missing))
        self.bench = Bench(folder, self.tools, options.rounds, self.results)

    def say(self, text: str) -> None:
        """Write a line at once, with the seconds since the start."""
        write(f"[{time.monotonic() - self.started:5.0f} s] {text}")

    def measure(self) -> Results:
        """Measure what was asked for."""
        self.results.facts.update(facts(self.folder, self.tools, self.bench.rounds))
        for megabytes in self.sizes if self.parts & OF_COPIES else ():
            self.say(f"make a database of {describe_size(megabytes)}")
            base = self.folder / "base.db"
            make_database(base, megabytes)
            self.measure_size(base, megabytes)
            base.unlink()
        if "large" in self.parts:
            self.say("copy a sparse database of 4.5 GiB")
            measure_large(self.bench)
        self.results.facts["took"] = f"{time.monotonic() - self.started:.0f} s"
        return self.results

    def measure_size(self, base: Path, megabytes: int) -> None:
        """All parts that are measured on a database of this size."""
        for part, mode in MODES_OF_PARTS.items():
            if part in self.parts:
                with self.live_database(base) as database:
                    for cell, tools in plan(megabytes, mode):
                        self.measure_cell(cell, tools, database)
        if {"verification", "memory"} & self.parts:
            with self.live_database(base) as database:
                if "verification" in self.parts and megabytes == self.sizes[-1]:
                    self.say(f"{describe_size(megabytes)}: verify, {self.bench.rounds} rounds")
                    measure_verification(self.bench, database, megabytes)
                if "memory" in self.parts:
                    self.measure_memory(database, megabytes)
        if "reflink" in self.parts and megabytes == self.sizes[-1]:
            self.measure_reflinks(base, megabytes)

    @contextmanager
    def live_database(self, base: Path, place: Path | None = None) -> Iterator[Path]:
        """A copy of the database for an application, in a folder of its own."""
        folder = (place or self.folder) / "data"
        try:
            yield place_database(base, folder)
        finally:
            shutil.rmtree(folder)

    def measure_cell(self, cell: Cell, tools: Sequence[str], database: Path) -> None:
        """Measure a cell and show it, unless the writer cannot write that often here."""
        if self.bench.is_beyond_reach(cell):
            self.results.absent[str(cell)] = (
                "the writer does not reach this rate here, with nothing being copied either"
            )
            self.say(f"{cell}: {self.results.absent[str(cell)]}")
            return
        self.say(f"{cell}: {len(self.tools.available(tools))} tools, {self.bench.rounds} rounds")
        self.bench.measure_cell(cell, tools, database)
        write(report.as_text(report.cell_rows(self.results, cell)))

    def measure_memory(self, database: Path, megabytes: int) -> None:
        """Peak memory of each tool, in runs of their own that are not timed; once with a writer as well."""
        self.say(f"{describe_size(megabytes)}: memory")
        if (0, IDLE_PYTHON) not in self.results.memory:
            idle = [sys.executable, "-c", "import time; time.sleep(0.3)"]
            self.results.memory[(0, IDLE_PYTHON)] = peak_memory(idle)
        for tool in self.tools.available((COPY, QUICK, FULL, API, SHELL, VACUUM, NODE)):
            self.measure_memory_of(tool, 0.0, database, (megabytes, tool))
        self.measure_memory_of(FULL, 500.0, database, (megabytes, f"{FULL}, writer at 500/s"))

    def measure_memory_of(self, tool: str, rate: float, database: Path, key: tuple[int, str]) -> None:
        """Peak memory of one tool."""
        copy = self.folder / "copy.db"
        with writing(database, "wal", rate, self.folder / "commits") as writer:
            self.results.memory[key] = peak_memory(self.tools.commands(tool, database, copy)[0])
            writer.end()
        copy.unlink()

    def measure_reflinks(self, base: Path, megabytes: int) -> None:
        """The idle cell on a file system with reflinks, where this machine can mount one."""
        try:
            with mounted_xfs(self.folder, COPIES_AT_ONCE * megabytes) as place, self.live_database(base, place) as live:
                self.measure_cell(Cell(megabytes, "wal", 0.0, XFS), (COPY, UNCHECKED, QUICK, CP), live)
        except TestbedError as error:
            self.results.absent[XFS] = str(error)


def facts(folder: Path, tools: Tools, rounds: int) -> dict[str, str]:
    """What the numbers depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    file_system = run(["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(folder)])
    found = {
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, {file_system}",
        "snapshot, Connection.backup": f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        "sqlite3": f"SQLite {run(['sqlite3', '-version']).split()[0]}",
        "rounds": f"{rounds}",
    }
    if NODE not in tools.missing:
        version = sqlite_version(tools.node, tools.module)
        found[NODE] = f"better-sqlite3 {VERSION}, SQLite {version}, Node.js {NODE_VERSION}"
    return found


@contextmanager
def private_folder(sizes: Sequence[int], parts: Sequence[str]) -> Iterator[Path]:
    """A folder that only we can enter, gone at the end. Raises TestbedError where there is too little room."""
    parent = Path(os.environ.get("TMPDIR") or CHECKOUT / ".cache")
    parent.mkdir(parents=True, exist_ok=True)
    needed = max(
        COPIES_AT_ONCE * max(sizes) * MEGABYTE if OF_COPIES.intersection(parts) else 0,
        PAGES * PAGE_BYTES if "large" in parts else 0,
    )
    require_space(parent, needed)
    remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
    os.environ["TMPDIR"] = os.environ["SQLITE_TMPDIR"] = str(folder)
    try:
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of runs that were killed: a living one holds its lock."""
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        with suppress(BlockingIOError, FileNotFoundError), locked(folder):
            shutil.rmtree(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises BlockingIOError where somebody else does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def keep_mounts_to_ourselves() -> None:
    """Run this program again with mounts of its own, which are gone when it ends, however it ends."""
    if OWN_MOUNTS not in os.environ and succeeds(["unshare", "--mount", "true"]):
        os.environ[OWN_MOUNTS] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.py", description="Measure the snapshot against other tools.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each cell (%(default)s)")
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(size) for size in text.split(",")],
        metavar="MB,MB",
        help=f"of the databases in megabytes ({','.join(map(str, SIZES))})",
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="this part only; may be given several times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    parser.add_argument("--document", type=Path, metavar="FILE", help="write the page docs/performance.md to FILE")
    options = parser.parse_args(arguments)
    least = 10 if OF_COPIES.intersection(options.only or PARTS) else 1
    if options.rounds < 1 or min(options.sizes or SIZES) < least:
        parser.error(f"at least 1 round and {least} MB")
    return options


def bench(options: argparse.Namespace) -> None:
    """Measure and report."""
    with private_folder(options.sizes or SIZES, options.only or PARTS) as folder:
        results = Session(folder, options).measure()
    for title, rows in report.other_tables(results):
        write(f"\n{title}\n{report.as_text(rows)}")
    write("\n" + "\n".join([*report.other_lines(results), "", *map(str, goals(results))]))
    if options.json:
        options.json.write_text(report.as_json(results) + "\n", encoding="utf-8")
    if options.document:
        command = f"make bench BENCH={shlex.quote(shlex.join(sys.argv[1:]))}"
        options.document.write_text(report.document(results, command), encoding="utf-8")


def main() -> int:
    """Run the command line."""
    options = parse(sys.argv[1:])
    keep_mounts_to_ourselves()
    return run_program("bench", lambda: bench(options))


if __name__ == "__main__":
    sys.exit(main())
