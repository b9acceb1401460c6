# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of ansible-playbook costs its controller: seconds, seconds of CPU, memory of it and its forks."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.memory import Memory, read_shares
from testbed.process import TestbedError

SECONDS_BETWEEN_LOOKS = 0.5
LAST_LINES = 20
PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): what is orphaned below this process becomes its child."""
PF_FORKNOEXEC = 0x40
"""Flag of a process that was forked and runs its parent's program on (field 9 of proc(5) stat)."""


@dataclass(frozen=True)
class Run:
    """One run: seconds, seconds of CPU of all that was started, peak memory of the controller and its forks."""

    seconds: float
    cpu_seconds: float
    memory: Memory


def measure(commands: Sequence[Sequence[str]], folder: Path, log: Path) -> Run:
    """Run the commands at once in `folder`, to their end; what they leave behind is ended, too.

    What they write is appended to `log`. Raises TestbedError with the last lines of it where one fails.
    """
    watcher = subprocess.Popen(
        [sys.executable, __file__, str(log), json.dumps(commands)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output = watcher.communicate()[0]
    finally:
        if watcher.poll() is None:
            watcher.terminate()
            watcher.wait()
    if watcher.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise TestbedError("\n".join(["a run failed; its last lines:", *lines[-LAST_LINES:]]))
    found = json.loads(output)
    return Run(found["seconds"], found["cpu_seconds"], Memory(**found["memory"]))


def main() -> int:
    """Run the commands of the command line: in a process of its own, all of whose descendants are theirs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with adopting():
            run, failed = run_all(json.loads(sys.argv[2]), Path(sys.argv[1]))
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(json.dumps(asdict(run)))
    return int(failed)


def run_all(commands: Sequence[Sequence[str]], log: Path) -> tuple[Run, bool]:
    """Run the commands at once; what it took, and whether one failed."""
    with log.open("ab") as stream:
        began = time.monotonic()
        processes = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream) for command in commands
        ]
        memory = watch(processes)
        seconds = time.monotonic() - began
    # The masters of SSH connections: their work is the controller's, and the next run makes its own.
    end_children(signal.SIGTERM)
    return Run(seconds, cpu_of_children(), memory), any(process.returncode for process in processes)


@contextmanager
def adopting() -> Iterator[None]:
    """Become the parent of what the children leave behind, so that its CPU is counted; end all with the block."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    try:
        yield
    finally:
        end_children(signal.SIGKILL)


def watch(processes: Sequence[subprocess.Popen[bytes]]) -> Memory:
    """Wait for the end of all; the most memory that they and their forks had at once."""
    private = resident = 0
    while running := [process for process in processes if process.poll() is None]:
        shares = [share for process in running for pid in forks(process.pid) if (share := read_shares(pid))]
        private = max(private, sum(share.private for share in shares))
        resident = max(resident, sum(share.resident for share in shares))
        with suppress(subprocess.TimeoutExpired):
            running[0].wait(SECONDS_BETWEEN_LOOKS)
    return Memory(private, resident)


def forks(pid: int) -> Iterator[int]:
    """The process and its forks; not the programs that these start, which are the hosts' where they are simulated."""
    yield pid
    for child in children(pid):
        if is_fork(child):
            yield from forks(child)


def children(pid: int) -> list[int]:
    """The ids of a process's children, none where it has ended."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def is_fork(pid: int) -> bool:
    """Whether the process runs the program of its parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return bool(int(stat.rpartition(")")[2].split()[6]) & PF_FORKNOEXEC)


def cpu_of_children() -> float:
    """Seconds of CPU of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def end_children(number: int) -> None:
    """End all children, with those that come to us as their parents end, by this signal."""
    while ours := children(os.getpid()):
        for pid in ours:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        for pid in ours:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
