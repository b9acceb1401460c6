# SPDX-License-Identifier: GPL-3.0-or-later
"""Run operation.py under strace, which strikes it at a chosen system call, and see to it that nothing lives on."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import enum
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from campaign.settings import Settings

OPERATION = Path(__file__).with_name("operation.py")
PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x20000  # unshare(2)

SECONDS_UNTIL_HUNG = 60.0
SECONDS_UNTIL_ORPHANS_END = 10.0
PAUSE_BETWEEN_LOOKS = 0.001

CALL = re.compile(r"^(?:(\d+) +)?(\w+)\(")
STOPPED = re.compile(r"^(?:(\d+) +)?--- stopped by SIGSTOP ---$", re.MULTILINE)


class Scope(enum.Enum):
    """Which processes a strike is for."""

    PARENT = "parent"
    """The calls of the operation's first process are counted, and it alone is struck."""
    ANY = "any"
    """Each process counts its own calls, and is struck by itself."""
    ALL = "all"
    """As ``any``, but all processes are killed at that moment: the first is the init of a PID namespace."""


@dataclass(frozen=True)
class Strike:
    """What strace does to a process when it makes one of ``calls`` for the ``number``-th time.

    ``effect`` is strace's: ``signal=SIGKILL``, ``signal=SIGSTOP``, ``error=EIO``, or empty to only watch the calls;
    ``lasting`` means from then on.
    """

    calls: tuple[str, ...]
    number: int
    effect: str
    scope: Scope
    lasting: bool = False

    @property
    def stops(self) -> bool:
        """Whether it only stops the process, for something else to be done meanwhile."""
        return self.effect == "signal=SIGSTOP"

    def options(self) -> list[str]:
        """The options of strace."""
        names = ",".join(self.calls)
        when = f"{self.number}{'+' if self.lasting else ''}"
        follow = [] if self.scope is Scope.PARENT else ["-f"]
        inject = ["-e", f"inject={names}:{self.effect}:when={when}"] if self.effect else []
        return [*follow, "-e", f"trace={names}", *inject]


@dataclass(frozen=True)
class Outcome:
    """How an operation ended.

    ``answer`` is None when it gave none; ``calls`` are the calls which the strike hit, as strace writes them;
    ``orphans`` are processes of it that lived on and had to be killed; ``hung`` when the operation itself had to be.
    """

    status: int
    answer: dict[str, Any] | None
    errors: str
    log: str
    calls: tuple[str, ...]
    orphans: tuple[str, ...]
    hung: bool

    @property
    def result(self) -> dict[str, Any] | None:
        """What the operation returned."""
        return self.answer.get("result") if self.answer else None

    @property
    def error(self) -> str | None:
        """What the operation raised."""
        return self.answer.get("error") if self.answer else None

    @property
    def reason(self) -> str | None:
        """Why, as programs are told."""
        return self.answer.get("reason") if self.answer else None


def isolate() -> None:
    """Make this process one that works for its parent, and ends in good order when that does.

    Processes whose parent was killed become its children; what it mounts vanishes with it.
    """
    signal.signal(signal.SIGTERM, leave)
    library = ctypes.CDLL(None, use_errno=True)
    failed = (
        library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        or library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        or library.unshare(CLONE_NEWNS)
    )
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, f"{os.strerror(code)}: prctl, unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def leave(number: int, _frame: object) -> NoReturn:
    """Unwind at a signal."""
    sys.exit(f"ended by {signal.Signals(number).name}")


def execute(
    settings: Settings,
    request: dict[str, Any],
    strike: Strike | None = None,
    during_stop: Callable[[], None] | None = None,
) -> Outcome:
    """Run one operation to its end. ``during_stop`` runs while it is stopped, by the strike or at a progress report."""
    known = children_of(os.getpid())
    with started(settings, strike) as running:
        running.go(request)
        hung = not running.await_end(during_stop)
        answer = running.answer()
    return running.outcome(answer, await_orphans(known), hung)


def execute_together(settings: Settings, requests: Sequence[dict[str, Any]]) -> list[Outcome]:
    """Run several operations at once; all of them wait for their requests when the first one gets its own."""
    known = children_of(os.getpid())
    with contextlib.ExitStack() as stack:
        all_running = [stack.enter_context(started(settings.nested(str(number)))) for number in range(len(requests))]
        for running, request in zip(all_running, requests, strict=True):
            running.go(request)
        ended = [running.await_end(None) for running in all_running]
        answers = [running.answer() for running in all_running]
    orphans = await_orphans(known)
    return [
        running.outcome(answer, orphans, not in_time)
        for running, answer, in_time in zip(all_running, answers, ended, strict=True)
    ]


class Running:
    """An operation that waits for its request, or runs."""

    def __init__(self, settings: Settings, strike: Strike | None) -> None:
        self.strike = strike
        self.log = settings.scratch / "strace.log"
        self.errors = settings.scratch / "errors.log"
        self.status = 0
        self._killed = False
        self._tracer: subprocess.Popen[str] | None = None
        self._connection, theirs = socket.socketpair()
        command = [settings.python, "-I", "-S", str(OPERATION)]
        self._in_namespace = strike is not None and strike.scope is Scope.ALL
        if self._in_namespace:
            command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *command]
        with theirs, self.errors.open("w") as errors:
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=errors, stderr=errors)
        self.pid = self._process.pid

    def prepare(self) -> None:
        """Wait until the operation waits for its request, and let strace watch it from there on."""
        self._connection.settimeout(SECONDS_UNTIL_HUNG)
        if self._connection.recv(6) != b"ready\n":
            raise RuntimeError(f"{OPERATION.name} did not start: {self.errors.read_text(errors='replace')}")
        if self._in_namespace:
            (self.pid,) = children_of(self._process.pid)
        if self.strike is not None:
            self._attach(self.strike)

    def _attach(self, strike: Strike) -> None:
        command = ["strace", "-y", "-s", "0", "-o", str(self.log), *strike.options(), "-p", str(self.pid)]
        self._tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._tracer.stderr is not None
        line = self._tracer.stderr.readline()
        if not line.endswith("attached\n"):
            raise RuntimeError(f"strace could not attach: {line}{self._tracer.stderr.read()}")

    def go(self, request: dict[str, Any]) -> None:
        """Send the request."""
        self._connection.sendall(json.dumps(request).encode() + b"\n")

    def await_end(self, during_stop: Callable[[], None] | None) -> bool:
        """Return once the operation has ended; False where it had to be killed because it would not."""
        end = time.monotonic() + SECONDS_UNTIL_HUNG
        stopped_before: set[int] = set()
        while self._process.poll() is None:
            for pid in self._stopped() - stopped_before:
                stopped_before.add(pid)
                self._use_stop(pid, during_stop if len(stopped_before) == 1 else None)
                end = time.monotonic() + SECONDS_UNTIL_HUNG
            if time.monotonic() > end:
                return False
            time.sleep(PAUSE_BETWEEN_LOOKS)
        self.status = -signal.SIGKILL if self._killed else self._process.returncode
        return True

    def _use_stop(self, pid: int, during_stop: Callable[[], None] | None) -> None:
        if self._in_namespace:
            os.kill(self.pid, signal.SIGKILL)
            self._killed = True
            return
        if during_stop is not None:
            during_stop()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _stopped(self) -> set[int]:
        """The processes of the operation which were stopped until now."""
        if self.strike is not None and self.strike.stops:
            return {int(pid or self.pid) for pid in STOPPED.findall(self.log.read_text(errors="replace"))}
        with contextlib.suppress(ChildProcessError):  # it has just ended
            if os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
                return {self.pid}
        return set()

    def answer(self) -> dict[str, Any] | None:
        """What the operation sent, once it has ended."""
        self._connection.settimeout(0.0)
        answer = b""
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while block := self._connection.recv(65536):
                answer += block
        lines = answer.splitlines()
        if len(lines) > 1:
            raise RuntimeError(f"{len(lines)} answers to one request: a child of the engine returned into its caller")
        parsed: dict[str, Any] | None = json.loads(lines[0]) if lines else None
        return parsed

    def outcome(self, answer: dict[str, Any] | None, orphans: tuple[str, ...], hung: bool) -> Outcome:
        """How it ended, once it is closed."""
        log = self.log.read_text(errors="replace") if self.strike else ""
        calls = struck_calls(log, self.strike) if self.strike else ()
        return Outcome(self.status, answer, self.errors.read_text(errors="replace"), log, calls, orphans, hung)

    def close(self) -> None:
        """End what is still running."""
        self._connection.close()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._process.wait()
        if self._tracer is not None:
            try:
                self._tracer.wait(SECONDS_UNTIL_ORPHANS_END)
            except subprocess.TimeoutExpired:
                self._tracer.terminate()
                self._tracer.wait()
            assert self._tracer.stderr is not None
            self._tracer.stderr.close()


@contextlib.contextmanager
def started(settings: Settings, strike: Strike | None = None) -> Iterator[Running]:
    """An operation that waits for its request; ended at the end."""
    running = Running(settings, strike)
    try:
        running.prepare()
        yield running
    finally:
        running.close()


def children_of(pid: int) -> set[int]:
    """The ids of a process's children (of all its threads)."""
    found: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found |= {int(child) for child in (thread / "children").read_text(encoding="ascii").split()}
    return found


def await_orphans(known: set[int]) -> tuple[str, ...]:
    """Wait for the end of children of this process that it did not start; kill and name those that live on."""
    end = time.monotonic() + SECONDS_UNTIL_ORPHANS_END
    while orphans := children_of(os.getpid()) - known:
        late = time.monotonic() > end
        if late:
            named = tuple(describe(pid) for pid in sorted(orphans))
        for pid in orphans:
            if late:
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0 if late else os.WNOHANG)
        if late:
            return named
        time.sleep(PAUSE_BETWEEN_LOOKS)
    return ()


def describe(pid: int) -> str:
    """A process's id, state and what the kernel says it waits for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()[0]
        return f"{pid} (state {state}, in {Path(f'/proc/{pid}/wchan').read_text(encoding='ascii')})"
    except (FileNotFoundError, ProcessLookupError):
        return f"{pid} (ended)"


def struck_calls(log: str, strike: Strike) -> tuple[str, ...]:
    """The lines of strace's log with the calls that the strike hit: each process's one of the number, per name."""
    made: collections.Counter[tuple[str, str]] = collections.Counter()
    hit = []
    for line in log.splitlines():
        match = CALL.match(line)
        if match is not None and match[2] in strike.calls:
            made[match[1] or "", match[2]] += 1
            count = made[match[1] or "", match[2]]
            if count == strike.number or (strike.lasting and count > strike.number):
                hit.append(line)
    return tuple(hit)


def count_calls(settings: Settings, request: dict[str, Any], names: Sequence[str], scope: Scope) -> dict[str, int]:
    """How often each call is made in an undisturbed operation, by the process that makes it most often."""
    outcome = execute(settings, request, Strike(tuple(f"?{name}" for name in names), 0, "", scope))
    if outcome.result is None:
        raise RuntimeError(f"the undisturbed operation failed: {outcome.error}{outcome.errors}")
    made: collections.Counter[tuple[str, str]] = collections.Counter()
    for line in outcome.log.splitlines():
        match = CALL.match(line)
        if match is not None:
            made[match[1] or "", match[2]] += 1
    counts: dict[str, int] = {}
    for (_process, name), count in made.items():
        counts[name] = max(counts.get(name, 0), count)
    return counts
