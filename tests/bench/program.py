# SPDX-License-Identifier: GPL-3.0-or-later
"""What the programs of the bench have in common: their output, and their end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

from bench.writer import WriterError
from testbed.process import TestbedError

FAILURES = (TestbedError, WriterError, OSError, subprocess.SubprocessError)


def run_program(name: str, bench: Callable[[], None]) -> int:
    """Run it and return the exit status; an error is a few lines on standard error, and everything is cleaned up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        bench()
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted, everything removed\n")
        return 130
    except FAILURES as error:
        sys.stderr.write(f"{name}: error: {error}\n")
        return 1
    return 0


def interrupt(_number: int, _frame: object) -> None:
    """A signal that asks to end is as if a person had pressed Ctrl-C: everything is cleaned up."""
    raise KeyboardInterrupt


def write(text: str) -> None:
    """Write to standard output at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
