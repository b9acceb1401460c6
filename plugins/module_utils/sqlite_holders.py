# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find the processes which have a database open, in whatever container they run."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple, Sequence

from .sqlite_files import SIDECAR_SUFFIXES, found_status, identity


class Holder(NamedTuple):
    """A process that has a file open."""

    pid: int
    command: str
    file: str


def find_holders(path: str) -> list[Holder]:
    """Other processes which have the database at ``path``, its -wal, -shm or -journal open, in order of their ids.

    Files are recognised by device and inode, so a container's view of them counts too. Nothing is opened.
    Without root, processes of other users cannot be seen.
    """
    files = _identities(path)
    holders: list[Holder] = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        if pid != os.getpid():
            holders.extend(Holder(pid, _command(pid), file) for file in _files_open_in(pid, files))
    return holders


def describe_holders(holders: Sequence[Holder]) -> str:
    """The processes as one line of text: ``process 4242 (node) has /data/opstage.db open``."""
    return ", ".join(f"process {holder.pid} ({holder.command}) has {holder.file} open" for holder in holders)


def _identities(path: str) -> dict[tuple[int, int], str]:
    found = {}
    for name in [path] + [path + suffix for suffix in SIDECAR_SUFFIXES]:
        status = found_status(name)
        if status is not None:
            found[identity(status)] = name
    return found


def _files_open_in(pid: int, files: dict[tuple[int, int], str]) -> list[str]:
    """Which of ``files`` the process has open; none when it has ended or may not be looked into."""
    found = set()
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for descriptor in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                opened = identity(os.stat(f"{folder}/{descriptor}"))
                if opened in files:
                    found.add(files[opened])
    return sorted(found)


def _command(pid: int) -> str:
    """The name of a process, as the kernel has it; ``?`` once it has ended."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return "?"
