# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find the processes which have a database open, in whatever container they run."""

from __future__ import annotations

import contextlib
import os
from typing import Iterator, Mapping, NamedTuple, Sequence, Tuple

from .sqlite_files import SIDECAR_SUFFIXES, identity

FileIdentity = Tuple[int, int]


class Holder(NamedTuple):
    """A process that has a file open."""

    pid: int
    command: str
    file: str


def find_holders(path: str, folder: int | None = None) -> list[Holder]:
    """Other processes which have the database at ``path``, its -wal, -shm or -journal open, in order of their ids.

    Files are recognised by device and inode, so a container's view of them counts too. Nothing is opened. With the
    descriptor ``folder`` the last part of ``path`` is looked up in there. Without root, processes of other users
    cannot be seen.
    """
    return holders_of(_identities(path, folder))


def holders_of(files: Mapping[FileIdentity, str]) -> list[Holder]:
    """Other processes which have one of ``files`` open, under the name that it has there."""
    holders: list[Holder] = []
    for pid in _other_processes():
        held = {files[opened] for _link, opened in _open_files(pid) if opened in files}
        holders.extend(Holder(pid, _command(pid), file) for file in sorted(held))
    return holders


def find_foreign_logs(path: str) -> list[Holder]:
    """Other processes which write the log of the database at ``path`` to another file than ``path + "-wal"``.

    So does a container into which the file alone is mounted, a process that opened it by a second hard link, or one
    whose log was deleted or replaced: what it commits is not to be seen here before its next checkpoint.
    ``Holder.file`` is the log as that process sees it. A log that is here was here for as long as it was open.
    """
    database = _identity_at(path)
    if database is None:
        return []
    return [
        Holder(pid, _command(pid), log)
        for pid in _other_processes()
        for log, opened in _logs_of(pid, database)
        if opened != _identity_at(path + "-wal") and (log, opened) in _logs_of(pid, database)
    ]


def describe_holders(holders: Sequence[Holder]) -> str:
    """The processes as one line of text: ``process 4242 (node) has /data/opstage.db open``."""
    return ", ".join(f"process {holder.pid} ({holder.command}) has {holder.file} open" for holder in holders)


def _identity_at(path: str, folder: int | None = None) -> FileIdentity | None:
    try:
        return identity(os.stat(path, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _identities(path: str, folder: int | None) -> dict[FileIdentity, str]:
    found = {}
    for name in [path] + [path + suffix for suffix in SIDECAR_SUFFIXES]:
        file = _identity_at(name if folder is None else os.path.basename(name), folder)
        if file is not None:
            found[file] = name
    return found


def _other_processes() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())


def _open_files(pid: int) -> Iterator[tuple[str, FileIdentity]]:
    """The link in /proc and the identity of each file which the process has open.

    None when it has ended or may not be looked into.
    """
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for descriptor in os.listdir(folder):
            # One that cannot be looked at (a dead network mount) is none of those that can.
            with contextlib.suppress(OSError):
                link = f"{folder}/{descriptor}"
                yield link, identity(os.stat(link))


def _logs_of(pid: int, database: FileIdentity) -> list[tuple[str, FileIdentity]]:
    """The logs of ``database`` that the process has open, under the names by which it knows them."""
    files = list(_open_files(pid))
    if database not in (opened for _link, opened in files):
        return []
    named = [(_name_in_process(link), opened) for link, opened in files]
    logs = {f"{name}-wal" for name, opened in named if opened == database}
    return sorted({(name, opened) for name, opened in named if name in logs})


def _name_in_process(link: str) -> str:
    """The path of an open file in its process's mount namespace, also after it was deleted (proc_pid_fd(5))."""
    try:
        name = os.readlink(link)
    except FileNotFoundError:
        return ""
    deleted = " (deleted)"
    return name[: -len(deleted)] if name.endswith(deleted) else name


def _command(pid: int) -> str:
    """The name of a process, as the kernel has it; ``?`` once it has ended."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return "?"
