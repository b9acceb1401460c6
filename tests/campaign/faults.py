# SPDX-License-Identifier: GPL-3.0-or-later
"""Do to snapshots and restores what the world does, and count what was lost.

    faults.py                       the whole campaign, about a quarter of an hour on two cores
    faults.py --one-in 10           a tenth of it
    faults.py --only KEY            one trial again, by the key that a fault was listed with

Needs root, strace, e2fsprogs. Exit status: 0 when nothing was lost, 1 otherwise.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from campaign.changes import change_walks
from campaign.execution import isolate, leave
from campaign.filesystems import filesystem_walks
from campaign.flips import flip_walks
from campaign.scenarios import Flaw, Templates
from campaign.settings import Settings
from campaign.together import together_walks
from campaign.walks import Campaign, Report, Walk, error_walks, kill_walks

FAMILIES: dict[str, Callable[[], list[Walk]]] = {
    "kills": kill_walks,
    "errors": error_walks,
    "filesystems": filesystem_walks,
    "changes": change_walks,
    "together": together_walks,
    "flips": flip_walks,
}
TOOLS = ("strace", "unshare", "mount", "mkfs.ext4", "losetup", "chattr")
KILLS_OF_A_WHOLE_CAMPAIGN = 500
ENDINGS = ("killed", "failed", "carried over", "succeeded")


@dataclass(frozen=True)
class Line:
    """The reports of one walk."""

    fault: str
    where: str
    reports: tuple[Report, ...]
    seconds: float

    @property
    def struck(self) -> tuple[Report, ...]:
        """Those in which the fault came; the others ran to their end undisturbed."""
        return tuple(report for report in self.reports if report.verdict.struck)

    def flaws(self, flaw: Flaw) -> int:
        """How often something went wrong that way."""
        return sum(kind is flaw for report in self.reports for kind, _text in report.verdict.problems)

    def cells(self) -> list[str]:
        """The line of the table."""
        counts = [sum(report.verdict.ended == ending for report in self.reports) for ending in ENDINGS]
        return [self.fault, self.where, *map(str, (len(self.reports), *counts, *map(self.flaws, Flaw)))]


def main() -> int:
    """Run the command line."""
    options = parse_options()
    signal.signal(signal.SIGTERM, leave)
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        write(f"error: {'must run as root' if os.geteuid() else 'missing: ' + ' '.join(missing)}")
        return 2
    with tempfile.TemporaryDirectory(prefix="opstage-campaign-") as folder:
        settings = Settings(Path(folder), options.python, options.seed)
        campaign = Campaign(settings, Templates(settings.scratch / "templates"), options.one_in, options.only)
        walks = [walk for family in options.family or FAMILIES for walk in FAMILIES[family]()]
        write(f"seed {options.seed}, {len(walks)} walks, engine under {options.python}")
        lines = list(run_walks(campaign, walks, options.jobs))
    write("\n".join(table(lines)))
    whole = options.one_in == 1 and not options.only and not options.family
    return summarize(lines, KILLS_OF_A_WHOLE_CAMPAIGN if whole else 0)


def parse_options() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description="Do to snapshots and restores what the world does.")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="only these faults; may be given again")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="how many at once")
    parser.add_argument("--one-in", type=int, default=1, metavar="N", help="draw one trial of so many")
    parser.add_argument("--only", default="", metavar="KEY", help="make one trial only")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the engine")
    parser.add_argument("--seed", type=int, default=1, help="of what is chosen at random")
    return parser.parse_args()


def run_walks(campaign: Campaign, walks: Sequence[Walk], jobs: int) -> Iterator[Line]:
    """Make the walks, several at once, each in a process of its own; their lines come in the walks' order."""
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(jobs, context, isolate)
    try:
        for number, line in enumerate(pool.map(make_walk, [campaign] * len(walks), walks, range(len(walks)))):
            problems = sum(len(report.verdict.problems) for report in line.reports)
            done = f"{number + 1}/{len(walks)}, {time.monotonic() - started:.0f} s"
            write(f"[{done}] {line.fault}: {line.where}: {len(line.reports)} trials, {problems} faults")
            yield line
    finally:
        pool.shutdown(cancel_futures=True)


def make_walk(campaign: Campaign, walk: Walk, number: int) -> Line:
    """Make one walk in a scratch folder of its own."""
    started = time.monotonic()
    scratch = campaign.settings.scratch / f"walk-{number}"
    scratch.mkdir()
    own = replace(campaign, settings=replace(campaign.settings, scratch=scratch), templates=Templates(scratch / "made"))
    try:
        reports = tuple(walk.trials(own))
    finally:
        shutil.rmtree(scratch)
    return Line(walk.fault, walk.where, reports, time.monotonic() - started)


def table(lines: Sequence[Line]) -> list[str]:
    """The table of what was tried and what was lost."""
    head = ["fault", "where", "trials", *ENDINGS, *(flaw.value for flaw in Flaw)]
    cells = [line.cells() for line in lines]
    sums = [str(sum(int(row[column]) for row in cells)) for column in range(2, len(head))]
    rows = [head, *cells, ["all", "", *sums]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]


def summarize(lines: Sequence[Line], least_kills: int) -> int:
    """List every trial that went wrong, and how to repeat it; returns the exit status."""
    bad = [report for line in lines for report in line.reports if report.verdict.problems]
    for report in bad:
        write(f"\nFAULT  repeat with: faults.py --only {report.key!r}   ({report.verdict.ended})")
        for flaw, text in report.verdict.problems:
            write(f"  {flaw.value}: {text}")
    kills = sum(len(line.struck) for line in lines if line.fault.startswith("SIGKILL"))
    trials = sum(len(line.reports) for line in lines)
    seconds = sum(line.seconds for line in lines)
    write(f"\n{kills} kills in {trials} trials, {len(bad)} of them with faults, {seconds:.0f} s of one core")
    if kills < least_kills:
        write(f"error: fewer than {least_kills} kills")
    return int(bool(bad) or kills < least_kills)


def write(text: str) -> None:
    """Write the text at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
