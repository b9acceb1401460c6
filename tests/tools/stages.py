# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the given targets one after the other, and say at the end how long each took.

    stages.py TARGET ...

Stops at the first that fails; the exit status is that target's. What the targets' tests shared is stopped at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TESTBED = Path(__file__).resolve().parents[1] / "testbed" / "testbed.py"


@dataclass(frozen=True)
class Stage:
    """One target that was made: its exit status, and how long it took in seconds."""

    target: str
    status: int
    seconds: float


def main(targets: Sequence[str]) -> int:
    """Make the targets and write the table; returns the exit status."""
    done: list[Stage] = []
    try:
        for target in targets:
            write(f"==> make {target}")
            done.append(make(target))
            if done[-1].status:
                break
    finally:
        subprocess.run([sys.executable, str(TESTBED), "stop"], stdin=subprocess.DEVNULL, check=False)
    write(summarize(done, targets))
    return done[-1].status if done else 0


def make(target: str) -> Stage:
    """Make one target, with its output going where this program's goes."""
    started = time.monotonic()
    command = [os.environ.get("MAKE", "make"), "--no-print-directory", target]
    status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    return Stage(target, status, time.monotonic() - started)


def summarize(done: Sequence[Stage], targets: Sequence[str]) -> str:
    """Return the table of the stages, those that were not reached included."""
    lines = ["==> seconds"]
    lines += [f"{stage.target:12} {stage.seconds:7.1f}  {'FAILED' if stage.status else 'ok'}" for stage in done]
    lines += [f"{target:12} {'-':>7}  not reached" for target in targets[len(done) :]]
    lines.append(f"{'total':12} {sum(stage.seconds for stage in done):7.1f}")
    return "\n".join(lines)


def write(text: str) -> None:
    """Write the text at once, so that it stands between what the targets write."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
