# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs programs within a bound of time, and tells how long they took or what went wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Run:
    """One run: when it began and ended (monotonic clock, nanoseconds), and its output, or why it has no result."""

    began: int
    ended: int
    result: str = ""
    problem: str = ""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.began) / NANOSECONDS


def run_within(bound: float, commands: Sequence[Sequence[str]]) -> Run:
    """Run the commands one after the other; all are ended after ``bound`` seconds.

    The last one may print when its work began and ended, as JSON; else its process is what is timed.
    """
    began = time.monotonic_ns()
    for command in commands:
        left = bound - (time.monotonic_ns() - began) / NANOSECONDS
        output, problem = run_one(command, left)
        if problem:
            return Run(began, time.monotonic_ns(), problem=problem)
    ended = time.monotonic_ns()
    if output.startswith(b"{"):
        return Run(**json.loads(output))
    return Run(began, ended, output.decode(errors="replace").strip())


def run_one(command: Sequence[str], bound: float) -> tuple[bytes, str]:
    """Run one command; its output, and what was wrong."""
    with start(command) as process:
        try:
            output, error = process.communicate(timeout=max(0.0, bound))
        except subprocess.TimeoutExpired:
            return b"", "not finished"
        finally:
            end(process)
    if process.returncode:
        lines = error.decode(errors="replace").strip().splitlines() or [f"status {process.returncode}"]
        return b"", lines[-1]
    return output, ""


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a command as the leader of a group of processes of its own."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a command that was started here, and all that it started; nothing where it has ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
