# SPDX-License-Identifier: GPL-3.0-or-later
"""The peak memory of a program and of all that it starts, seen from outside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.programs import end, start
from testbed.process import TestbedError

SECONDS_BETWEEN_LOOKS = 0.003
KILOBYTE = 1024


@dataclass(frozen=True)
class Memory:
    """Bytes. ``private`` is anonymous memory, which only the program has; ``resident`` counts mapped files too.

    What processes share is counted once: the sums are of their proportional shares (Pss, proc(5) smaps_rollup).
    """

    private: int
    resident: int


def peak_memory(command: Sequence[str]) -> Memory:
    """Run the command to its end and look at its processes every few milliseconds. Raises TestbedError."""
    process = start(command)
    private = resident = 0
    try:
        while process.poll() is None:
            shares = [share for pid in family(process.pid) if (share := read_shares(pid))]
            private = max(private, sum(share.private for share in shares))
            resident = max(resident, sum(share.resident for share in shares))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        error = process.communicate()[1]
    finally:
        end(process)
    if process.returncode:
        raise TestbedError(f"{' '.join(command[:4])}: {error.decode(errors='replace').strip()[-300:]}")
    return Memory(private, resident)


def family(pid: int) -> Iterator[int]:
    """The process and its descendants, as far as they live."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                yield from family(int(child))


def read_shares(pid: int) -> Memory | None:
    """The process's proportional shares of memory; None where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return None
    sizes = {name: int(value.split()[0]) * KILOBYTE for name, value in (line.split(":") for line in lines)}
    return Memory(sizes["Pss_Anon"], sizes["Pss"]) if sizes else None
