# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The journal: an append-only record, on its host, of the operations on a deployment."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from typing import Any, Mapping

from .durable_files import PrivateFolderError, make_private_folder, sync_folder

STATE_ROOT = "/var/lib/opstage"
"""Folder on the host that holds one folder of state for each project."""

STATUSES = ("started", "finished", "failed")


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


def append_entry(path: str, operation: str, status: str, details: Mapping[str, Any]) -> dict[str, Any]:
    """Append one entry and return it; it is on disk, under its name, when this returns.

    The file is made 0600 in a folder made 0700. Raises JournalError when it cannot be written.
    """
    entry: dict[str, Any] = {**details, "time": utc_now(), "operation": operation, "status": status}
    line = (json.dumps(entry, sort_keys=True) + "\n").encode()
    folder = os.path.dirname(path)
    try:
        make_private_folder(folder)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as stream:
            stream.write(_line_end_if_cut(descriptor) + line)
            stream.flush()
            os.fsync(descriptor)
        sync_folder(folder)
    except (OSError, PrivateFolderError) as error:
        raise JournalError(f"The journal {path} cannot be written: {error}") from error
    return entry


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
        if isinstance(entry, dict) and "operation" in entry and "status" in entry:
            entries.append(entry)
    return entries


def find_unfinished(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the newest entry when it says that an operation started and nothing says how it ended."""
    return entries[-1] if entries and entries[-1]["status"] == "started" else None


def find_last_upgrade(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the upgrade that a rollback would undo: the newest that ended well or was cut off.

    A failed upgrade has already rolled itself back, so the one before it counts. None after a finished rollback.
    """
    rolled_back_itself = False
    for entry in entries[::-1]:
        operation, status = entry["operation"], entry["status"]
        if operation == "rollback" and status == "finished":
            return None
        if operation != "upgrade":
            continue
        if status == "failed":
            rolled_back_itself = True
        elif rolled_back_itself:
            rolled_back_itself = False
        else:
            return entry
    return None
