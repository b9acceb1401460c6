# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures how long clients are without service during an upgrade, by hand and by playbook: ``make bench``.

On a host of the testbed, which is gone at the end, also when it is interrupted.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import downtime
from bench.program import run_program, write
from bench.report import as_markdown, as_text, goal_rows
from bench.results import Results

ROUNDS = 5


def measure(options: argparse.Namespace) -> Results:
    """Measure what was asked for. Raises TestbedError."""
    started = time.monotonic()

    def say(text: str) -> None:
        write(f"[{time.monotonic() - started:5.0f} s] {text}")

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    results = Results()
    results.facts["machine"] = f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}"
    results.facts["rounds"] = f"{options.rounds}"
    downtime.measure_downtime(results, options.sizes, options.rounds, say)
    results.facts["took"] = f"{time.monotonic() - started:.0f} s"
    return results


def document(results: Results, command: str) -> str:
    """The page for the documentation."""
    parts = (
        "# Downtime of an upgrade",
        INTRODUCTION.format(command=command, probes=downtime.PROBES_PER_SECOND).strip(),
        "\n".join(f"- {name}: {value}" for name, value in results.facts.items()),
        "## Goals",
        as_markdown(goal_rows(downtime.goals(results)), "---"),
        "## Measured",
        "\n".join(f"- {way}: {text}" for way, text in downtime.DESCRIPTIONS.items()),
        as_markdown(downtime.rows(results)),
    )
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """
Every number on this page was made by one run of

```
{command}
```

which writes this page. Trust the differences: another machine has other seconds.

The downtime is from the last answer that a client gets before the upgrade to the first one after it. The client asks
{probes} times a second, from outside the host, so up to two of its intervals are in it. Each way begins with the same
data, the old version serving it and writing to it; the image of the new one has been pulled before.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="upgrades.py", description="Measure the downtime of an upgrade.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each way and size (%(default)s)")
    parser.add_argument(
        "--sizes",
        type=lambda text: sorted({int(size) for size in text.split(",")}),
        default=list(downtime.SIZES),
        metavar="MB,MB",
        help=f"of the databases in megabytes ({','.join(map(str, downtime.SIZES))})",
    )
    parser.add_argument("--document", type=Path, metavar="FILE", help="write the page docs/downtime.md to FILE")
    options = parser.parse_args(arguments)
    if min(options.rounds, *options.sizes) < 1:
        parser.error("at least 1 round and 1 MB")
    return options


def bench(options: argparse.Namespace) -> None:
    """Measure and report."""
    results = measure(options)
    write(f"\n{as_text(downtime.rows(results))}\n\n" + "\n".join(map(str, downtime.goals(results))))
    if options.document:
        command = f"make bench BENCH_UPGRADES={shlex.quote(shlex.join(sys.argv[1:]))}"
        options.document.write_text(document(results, command), encoding="utf-8")


def main() -> int:
    """Run the command line."""
    options = parse(sys.argv[1:])
    return run_program("upgrades", lambda: bench(options))


if __name__ == "__main__":
    sys.exit(main())
