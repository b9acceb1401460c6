# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run another program, bounded in time, with or without Ansible around."""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, Mapping, Sequence

_PIECE_BYTES = 1 << 16

_SECONDS_TO_CLOSE = 5.0
"""How long the outputs of a program that was killed may stay open, held by something that it started."""

Take = Callable[[bytes], object]


class CommandTimeoutError(Exception):
    """The program had not ended in time; it was killed, and what it had started in its process group too."""


@dataclass(frozen=True)
class CompletedCommand:
    """How a program ended: its exit code, negative when a signal ended it, and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


def run_command(
    command: Sequence[str],
    timeout: float,
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
    merge_errors: bool = False,
) -> CompletedCommand:
    """Run `command` in `folder` with nothing to read, for `timeout` seconds at the most.

    merge_errors: standard error goes where standard output goes, in order. Raises CommandTimeoutError, and OSError
    when the program cannot be started (FileNotFoundError when there is none of that name).
    """
    output = bytearray()
    starting = asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if merge_errors else asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    status, errors = asyncio.run(_converse(starting, timeout, output.extend))
    return CompletedCommand(status, bytes(output), errors)


def stream_command(
    command: Sequence[str],
    timeout: float | None,
    take: Take,
    given: bytes = b"",
    descriptors: Sequence[int] = (),
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> CompletedCommand:
    """Run `command` in `folder` and hand what it writes to `take`, piece by piece: memory does not grow with it.

    The program reads `given`, finds `descriptors` open under the same numbers, and has no terminal to ask at. Should
    this process be killed, the program is ended when it next writes. `timeout` is in seconds, None for no bound. The
    `stdout` of what is returned is empty. Raises what run_command raises, and what `take` raises once the program is
    killed.
    """
    starting = asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=descriptors,
        start_new_session=True,
    )
    status, errors = asyncio.run(_converse(starting, timeout, take, given))
    return CompletedCommand(status, b"", errors)


async def _converse(
    starting: Awaitable[asyncio.subprocess.Process], timeout: float | None, take: Take, given: bytes = b""
) -> tuple[int, bytes]:
    """Return how the program ended and what it wrote to standard error."""
    process = await starting
    errors = bytearray()
    tasks: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(_read_all(process.stdout, take)),
        asyncio.ensure_future(_read_all(process.stderr, errors.extend)),
        asyncio.ensure_future(process.wait()),
    ]
    try:
        if process.stdin is not None:
            process.stdin.write(given)
            process.stdin.close()
        done, pending = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        if pending:
            raise CommandTimeoutError(f"no answer within {timeout:g} s")
        return process.returncode or 0, bytes(errors)
    finally:
        if not all(task.done() for task in tasks):
            await _kill(process, tasks)


async def _read_all(stream: asyncio.StreamReader | None, take: Take) -> None:
    while stream is not None and (piece := await stream.read(_PIECE_BYTES)):
        take(piece)


async def _kill(process: asyncio.subprocess.Process, tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Kill the program with its process group, and wait until it has ended.

    Python 3.11 to 3.13.0 count a program as ended once its outputs are closed as well, so they are read to the end.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await asyncio.wait([asyncio.ensure_future(process.communicate())], timeout=_SECONDS_TO_CLOSE)
