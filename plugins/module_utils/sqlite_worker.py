# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Do work on a database in a child process, so that what a hostile or vanishing file can do ends there.

A child that hangs is killed at the deadline, one that a signal ends (SIGBUS: a mapped file was truncated) is an error
with a text, and its memory is bounded. Parent and child exchange JSON objects over a pair of sockets. A child whose
parent was killed ends by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sqlite3
import sys
import time
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, Iterator, NoReturn

from .sqlite_files import DatabaseFileError, Deadline, Reason, explain_os_error, explain_sqlite_error

HEAP_LIMIT_BYTES = 256 << 20
TICK_SECONDS = 0.25

_MESSAGE_BYTES = 1 << 16
_TEXT_CHARACTERS = 4000
_KILL = signal.SIGKILL

Message = Dict[str, Any]


class Channel:
    """One end of the conversation between a process and its child; a message has at most 64 KiB as JSON."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def fileno(self) -> int:
        """The descriptor to wait on for messages."""
        return self._connection.fileno()

    def send(self, message: Message) -> None:
        """Send one message; raises BrokenPipeError when the other end is gone."""
        self._connection.sendall(json.dumps(message).encode("ascii"))

    def receive(self) -> Message | None:
        """Wait for one message; None when the other end is gone.

        That it ended without having read all is told once, and before what it had sent itself.
        """
        try:
            data = self._connection.recv(_MESSAGE_BYTES)
        except ConnectionResetError:
            data = self._connection.recv(_MESSAGE_BYTES)
        received: Message | None = json.loads(data) if data else None
        return received

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


class Child:
    """A forked process that runs ``work(channel)``; what it returns is its last message, ``{"result": …}``.

    ``doing`` is said in errors. Ended and reaped when the context ends, whatever it was doing. This process must not
    have connections of SQLite open on files which the child opens: SQLite would take its locks for the child's own.
    """

    def __init__(self, work: Callable[[Channel], Any], doing: str) -> None:
        self.doing = doing
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _serve(Channel(theirs), work)
        theirs.close()
        self.channel = Channel(ours)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> int:
        """Kill the process unless it has ended; returns its wait status (os.waitpid), 0 when it was reaped before."""
        if self.pid == 0:
            return 0
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, _KILL)
        status = os.waitpid(self.pid, 0)[1]
        self.pid = 0
        return status

    def send(self, message: Message) -> None:
        """Send one message; to a process that has ended, in vain: what it had to say is still to be received."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.channel.send(message)

    def received(self) -> Message:
        """The next message. Raises DatabaseFileError with the child's own error, or with how it ended."""
        message = self.channel.receive()
        if message is None:
            raise DatabaseFileError(Reason.SYSTEM, f"{self.doing}: {_ending(self._ended_status())}")
        if "error" in message:
            raise DatabaseFileError(Reason[message["reason"]], message["error"])
        return message

    def _ended_status(self) -> int:
        """The wait status of a process that has closed its end."""
        status = os.waitpid(self.pid, 0)[1]
        self.pid = 0
        self.channel.close()
        return status

    def answer(self, deadline: Deadline, waiting: Callable[[float], None] | None = None) -> Message:
        """Wait for the next message; ``waiting`` is called with the seconds since then while there is none.

        Raises DatabaseFileError, also at the deadline.
        """
        started = time.monotonic()
        for _child in messages_from([self], deadline, lambda: waiting and waiting(time.monotonic() - started)):
            return self.received()
        raise AssertionError("messages_from ends by raising")


def messages_from(
    children: Iterable[Child], deadline: Deadline, tick: Callable[[], object] | None = None
) -> Iterator[Child]:
    """Yield each child that has something to say, for ever; ``tick`` is called now and then when none has.

    Raises DatabaseFileError at the deadline.
    """
    watched = list(children)
    while True:
        deadline.check()
        ready = select.select([child.channel for child in watched], [], [], deadline.remaining(TICK_SECONDS))[0]
        if not ready and tick is not None:
            tick()
        for child in watched:
            if child.channel in ready:
                yield child


def limit_heap(connection: sqlite3.Connection, processes: int = 1) -> None:
    """Bound what SQLite allocates in this process, one of so many that work side by side.

    https://sqlite.org/pragma.html#pragma_hard_heap_limit
    """
    connection.execute(f"PRAGMA hard_heap_limit={HEAP_LIMIT_BYTES // processes}")


def enter_folder(folder: int, path: str) -> str:
    """Make the open ``folder`` of ``path`` the root of this process, a child, if it may; returns the path from then on.

    What belongs to the system must not be looked for in there afterwards, where anybody may have put it: no module of
    Python, and no source of random numbers, which SQLite opens once in each process (os_unix.c, unixRandomness).
    """
    with contextlib.closing(sqlite3.connect("file:/dev/null?mode=ro", uri=True)) as connection:
        connection.execute("SELECT random()").fetchone()
    os.fchdir(folder)
    try:
        os.chroot(".")
    except PermissionError:
        return path
    sys.meta_path.clear()
    return "/" + os.path.basename(path)


def _serve(channel: Channel, work: Callable[[Channel], Any]) -> NoReturn:
    """The child's whole life: nothing of the parent's is flushed, closed or unwound."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        channel.send({"result": work(channel)})
    finally:
        error = sys.exc_info()[1]
        if error is not None:
            reason, text = _explained(error)
            with contextlib.suppress(OSError):
                channel.send({"error": text[:_TEXT_CHARACTERS], "reason": reason.name})
        os._exit(0 if error is None else 1)


def _explained(error: BaseException) -> tuple[Reason, str]:
    if isinstance(error, DatabaseFileError):
        return error.reason, str(error)
    if isinstance(error, sqlite3.Error):
        return explain_sqlite_error(error)
    if isinstance(error, UnicodeDecodeError):
        # The sqlite3 module cannot say what SQLite says of damaged names.
        return explain_sqlite_error(sqlite3.DatabaseError(error.object.decode("utf-8", "backslashreplace")))
    if isinstance(error, OSError):
        return explain_os_error(error)
    if isinstance(error, MemoryError):
        return Reason.REFUSED, (
            f"SQLite wants more memory for it than its share of {HEAP_LIMIT_BYTES} bytes, as only a damaged or "
            "hostile database makes it do; look into its schema"
        )
    return Reason.SYSTEM, f"{type(error).__name__}: {error}"


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        why = "; a file was truncated or could not be read while it was mapped" if number == signal.SIGBUS else ""
        return f"its process was ended by {signal.Signals(number).name}{why}; try again"
    return f"its process ended without a result, exit status {os.WEXITSTATUS(status)}; try again"
