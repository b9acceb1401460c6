# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Room on this host's file systems, and memory: how much there is, and how much is missing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Iterator, Sequence

PROC = "/proc"
CGROUPS = "/sys/fs/cgroup"

_INACTIVE_FILE = re.compile(r"^(?:total_)?inactive_file (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Need:
    """`size` bytes that are to be written below `folder`, which need not exist yet, for a `purpose`."""

    folder: str
    size: int
    purpose: str


def room_problems(needs: Sequence[Need]) -> list[str]:
    """Return where there is too little room, a sentence for each file system: what lies on one adds up.

    Bytes that a file system keeps for root do not count as free. One of 0 blocks does not know its size (statvfs(3)).
    """
    problems = []
    by_device: dict[int, list[Need]] = {}
    for need in needs:
        try:
            by_device.setdefault(os.stat(existing_folder(need.folder)).st_dev, []).append(need)
        except OSError as error:
            problems.append(f"Whether there is room for the {need.purpose} in {need.folder} is not known: {error}.")
    for shared in by_device.values():
        problems += _shared_room_problems(shared)
    return problems


def _shared_room_problems(needs: Sequence[Need]) -> list[str]:
    folder = existing_folder(needs[0].folder)
    try:
        status = os.statvfs(folder)
    except OSError as error:
        return [f"How much room there is in {folder} is not known: {error}."]
    free, needed = status.f_bavail * status.f_frsize, sum(need.size for need in needs)
    if not status.f_blocks or needed <= free:
        return []
    listed = ", ".join(f"{need.size} for the {need.purpose} in {need.folder}" for need in needs if need.size)
    return [
        f"Too little room on the file system of {folder}: {free} bytes are free, {needed} are needed ({listed}). "
        f"{needed - free} bytes are missing: free them, or use another folder."
    ]


def existing_folder(path: str) -> str:
    """Return `path`, or where it does not exist the nearest folder above it that does."""
    path = os.path.abspath(path)
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def memory_problems(pid: int, proc: str = PROC, cgroups: str = CGROUPS) -> list[str]:
    """Return whether there is too little memory for a second container like that of the process `pid`.

    Nothing where it is not known what the container uses, or what is available.
    """
    used, available = used_memory(pid, proc, cgroups), available_memory(proc)
    if used is None or available is None or used <= available:
        return []
    return [
        f"Too little memory for a rehearsal beside the service: {available} bytes are available on this host, the "
        f"service uses {used}. {used - available} bytes are missing: free them, or set opstage_upgrade_rehearse to "
        "false."
    ]


def available_memory(proc: str = PROC) -> int | None:
    """Return how many bytes can be used without swapping (MemAvailable of proc_meminfo(5)), None for unknown."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", _text(os.path.join(proc, "meminfo")), re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def used_memory(pid: int, proc: str = PROC, cgroups: str = CGROUPS) -> int | None:
    """Return how many bytes the control group of a process uses, None for unknown.

    As `docker stats` has it: without the pages of files that are not in use, which the kernel gives up at any time.
    """
    if pid <= 0:
        return None
    for folder, name in _control_groups(_text(os.path.join(proc, str(pid), "cgroup")), cgroups):
        used = _text(os.path.join(folder, name)).strip()
        if used.isdecimal():
            inactive = [int(number) for number in _INACTIVE_FILE.findall(_text(os.path.join(folder, "memory.stat")))]
            return max(0, int(used) - max(inactive, default=0))
    return None


def _control_groups(listed: str, cgroups: str) -> Iterator[tuple[str, str]]:
    """The folders in which a process's memory may be counted, by version of cgroups(7), with the file that has it."""
    for line in listed.splitlines():
        _number, _separator, rest = line.partition(":")
        controllers, _separator, path = rest.partition(":")
        relative = path.lstrip("/")
        if not controllers:
            yield os.path.join(cgroups, relative), "memory.current"
        elif "memory" in controllers.split(","):
            yield os.path.join(cgroups, "memory", relative), "memory.usage_in_bytes"


def _text(path: str) -> str:
    """What a file of the kernel says, empty where it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
