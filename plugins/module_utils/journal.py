# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The journal: an append-only record, on its host, of the operations on a deployment."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from typing import Any, Mapping

from .durable_files import PrivateFolderError, is_full, make_private_folder, reserve_room, sync_folder

STATE_ROOT = "/var/lib/opstage"
"""Folder on the host that holds one folder of state for each project."""

OPERATIONS = ("backup", "restore", "upgrade", "rollback")
STATUSES = ("started", "step", "finished", "failed")
ENDS = ("finished", "failed")
CONFIRMED = "confirmed"
"""Of an upgrade that was finished, and that its controller has confirmed in time."""

SERVED = ("version", "tag", "digest", "image_id", "image_digest")
"""What `serve` in an entry may say of what is to serve."""

LEFT_ACTIONS = ("replace", "start")
"""What is left to do of an operation that is cut off after an entry, `left` in it. `replace`: stop the service, put the
file `database`, whose checksum is `sha256`, in the place of the database, then as with `start`: have the project's
files name the tag and digest of `serve`, if it has any, start the service, see that it is of the version of `serve`,
and record the `outcome`, `finished` or `failed`. Where there is `complete`, the folder of what was taken for a recovery
point, that is to be completed: with `replace` first, since it has the `database`, with `start` when the service runs.
"""

RESERVE_NAME = "reserve"
RESERVE_SIZE = 256 << 10
"""Bytes that a file beside the journal takes, from an operation's first entry on: its further entries are to be written
on a disk that has become full meanwhile, too, or it could neither be ended nor undone."""

_NEEDED = {"time", "operation", "status", "run"}


class JournalError(Exception):
    """The journal cannot be read or written."""


def state_folder(project: str) -> str:
    """Return the folder on the host that holds what the collection remembers of `project`."""
    return os.path.join(STATE_ROOT, project)


def journal_path(project: str) -> str:
    """Return where the journal of `project` lies."""
    return os.path.join(state_folder(project), "journal.jsonl")


def utc_now() -> str:
    """Return the present time in UTC, ISO 8601 with microseconds."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def without_empty_text(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return `details`, at any depth, with None in the place of empty text.

    That is what ansible-core before 2.19 makes of a null that a template in a dictionary has alone.
    """
    return {
        name: without_empty_text(value) if isinstance(value, dict) else None if value == "" else value
        for name, value in details.items()
    }


def append_entry(path: str, operation: str, status: str, run: str, details: Mapping[str, Any]) -> dict[str, Any]:
    """Append one entry and return it; it is on disk, under its name, when this returns.

    `run` is what all entries of one run of an operation have in common. The file is made 0600 in a folder made 0700.
    Raises JournalError when it cannot be written.
    """
    entry: dict[str, Any] = {**details, "time": utc_now(), "operation": operation, "status": status, "run": run}
    line = (json.dumps(entry, sort_keys=True) + "\n").encode()
    folder = os.path.dirname(path)
    reserve = os.path.join(folder, RESERVE_NAME)
    try:
        make_private_folder(folder)
        if status == "started":
            reserve_room(reserve, RESERVE_SIZE)
        try:
            _append(path, line)
        except OSError as error:
            if not is_full(error) or not os.path.lexists(reserve):
                raise
            os.unlink(reserve)
            _append(path, line)
        sync_folder(folder)
    except (OSError, PrivateFolderError) as error:
        raise JournalError(f"The journal {path} cannot be written: {error}") from error
    return entry


def _append(path: str, line: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "ab") as stream:
        stream.write(_line_end_if_cut(descriptor) + line)
        stream.flush()
        os.fsync(descriptor)


def _line_end_if_cut(descriptor: int) -> bytes:
    """Return a line end when the last line was cut off, so that it stays the only one that cannot be read."""
    size = os.fstat(descriptor).st_size
    return b"\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else b""


def read_entries(path: str) -> list[dict[str, Any]]:
    """Return the entries, oldest first; none where there is no journal.

    A line cut off by a crash is passed over: an entry counts once it is whole. Raises JournalError.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(f"The journal {path} cannot be read: {error}") from error
    entries: list[dict[str, Any]] = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.keys() >= _NEEDED:
            entries.append(entry)
    return entries


def journal_size(path: str) -> int:
    """Return how many bytes the journal has, 0 where there is none: it only grows. Raises JournalError."""
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise JournalError(f"The journal {path} cannot be read: {error}") from error


def find_unfinished(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the operation that began last, when nothing says how it ended; None otherwise.

    `operation`, `run`, the `time` at which it started, when its newest entry was `recorded`, `left`: how it is to be
    ended (LEFT_ACTIONS), and `details`: what its entries said, the newer ones first.
    """
    begun = [number for number, entry in enumerate(entries) if entry["status"] == "started"]
    if not begun:
        return None
    started = entries[begun[-1]]
    said: dict[str, Any] = {}
    for entry in entries[begun[-1] :]:
        if entry["run"] == started["run"]:
            if entry["status"] in ENDS:
                return None
            said.update(entry)
    return {
        "operation": started["operation"],
        "run": started["run"],
        "time": started["time"],
        "recorded": said["time"],
        "left": said.get("left"),
        "details": {name: value for name, value in said.items() if name not in (*_NEEDED, "left")},
    }


def find_last_upgrade(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the upgrade that a rollback would undo: the newest that ended well.

    A failed upgrade has already rolled itself back, so the one before it counts. None after a finished rollback.
    """
    for entry in entries[::-1]:
        if entry["status"] == "finished" and entry["operation"] == "rollback":
            return None
        if entry["status"] == "finished" and entry["operation"] == "upgrade":
            return entry
    return None


def is_confirmed(entries: list[dict[str, Any]], run: str) -> bool:
    """Return whether the upgrade of this run was confirmed."""
    return any(entry["run"] == run and entry["status"] == CONFIRMED for entry in entries)
