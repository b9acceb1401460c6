# SPDX-License-Identifier: GPL-3.0-or-later
"""Running commands, awaiting conditions, telling the person at the terminal."""

from __future__ import annotations

import json
import os
import signal
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


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot (field 22 of proc(5) stat); None where it is gone.

    With the process id this names one process for good: ids are used again, ids with their start are not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else int(fields[19])


def record_process(path: Path, pid: int) -> None:
    """Note in ``path`` which process this is, for ``recorded_process``."""
    path.write_text(json.dumps({"pid": pid, "started": start_ticks(pid)}), encoding="utf-8")


def recorded_process(path: Path) -> int | None:
    """The id of the process that was noted in ``path``, None where none was or that very one has ended."""
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["started"] is None or start_ticks(record["pid"]) != record["started"]:
        return None
    return int(record["pid"])


def end_recorded_process(path: Path, *, seconds: float, log: Path) -> int | None:
    """Ask the process noted in ``path`` to end, and wait until it has. Returns its id, None where it ran no more.

    Raises TestbedError where it does not end within ``seconds``.
    """
    pid = recorded_process(path)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        wait_for(
            lambda: recorded_process(path) is None,
            f"process {pid} ends",
            seconds=seconds,
            last_words=lambda: f"see {log}",
            interval=0.02,
        )
    return pid
