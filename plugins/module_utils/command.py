# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run another program, bounded in time, with or without Ansible around."""

from __future__ import annotations

import asyncio
import asyncio.subprocess
from dataclasses import dataclass
from typing import Mapping, Sequence


class CommandTimeoutError(Exception):
    """The program had not ended in time; it was killed."""


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

    async def run() -> CompletedCommand:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if merge_errors else asyncio.subprocess.PIPE,
        )
        try:
            stdout, stderr = await asyncio.wait_for(process.communicate(), timeout)
        except asyncio.TimeoutError as error:
            process.kill()
            await process.wait()
            raise CommandTimeoutError(f"no answer within {timeout:g} s") from error
        return CompletedCommand(process.returncode or 0, stdout, stderr or b"")

    return asyncio.run(run())
