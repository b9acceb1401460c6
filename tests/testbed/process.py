# SPDX-License-Identifier: GPL-3.0-or-later
"""Running commands, awaiting conditions, telling the person at the terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class TestbedError(Exception):
    """The testbed cannot go on. The message is one line: what was found, and what to do."""

    __test__ = False


class CommandError(TestbedError):
    """A command ended with a status other than 0. ``output`` is all that it wrote."""

    def __init__(self, command: Sequence[str], status: int, output: str) -> None:
        self.status = status
        self.output = output
        last_line = output.strip().splitlines()[-1] if output.strip() else "no output"
        super().__init__(f"'{' '.join(command[:6])}' ended with status {status}: {last_line}")


def say(message: str) -> None:
    """Write one line of progress to standard error, at once."""
    sys.stderr.write(f"testbed: {message}\n")
    sys.stderr.flush()


def run(command: Sequence[str], *, stdin: bytes | None = None, timeout: float = 120) -> str:
    """Run ``command`` and return its standard output, without the white space at its end.

    ``timeout`` is in seconds. Raises CommandError where it fails, is not there or takes too long.
    """
    try:
        completed = subprocess.run(list(command), input=stdin, capture_output=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise CommandError(command, 127, f"{command[0]}: no such command") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(command, 124, f"not finished after {timeout:.0f} s") from error
    output = completed.stdout.decode(errors="replace").rstrip()
    if completed.returncode:
        raise CommandError(command, completed.returncode, f"{output}\n{completed.stderr.decode(errors='replace')}")
    return output


def run_logged(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a long ``command`` with all its output appended to ``log``. Raises CommandError where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        start = stream.tell()
        status = subprocess.run(
            list(command), stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=environment, check=False
        ).returncode
    if status:
        output = log.read_bytes()[start:].decode(errors="replace")
        raise CommandError(command, status, f"{output.rstrip()} (all of it: {log})")


def succeeds(command: Sequence[str], timeout: float = 120) -> bool:
    """Whether ``command`` ends with status 0 within ``timeout`` seconds."""
    try:
        run(command, timeout=timeout)
    except CommandError:
        return False
    return True


def wait_for(
    condition: Callable[[], bool], what: str, *, seconds: float, last_words: Callable[[], str], interval: float = 0.1
) -> None:
    """Ask ``condition`` every ``interval`` seconds until it holds.

    Raises TestbedError after ``seconds``, naming ``what`` was awaited, with what ``last_words`` returns.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TestbedError(f"{what}: not so after {seconds:.0f} s; {last_words()}")
        time.sleep(interval)
