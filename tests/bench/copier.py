# SPDX-License-Identifier: GPL-3.0-or-later
"""One copy or check of a database by Python, in a process of its own, so that its memory and time are its own.

    copier.py snapshot LEVEL SOURCE DEST
    copier.py copy SOURCE DEST
    copier.py api SOURCE DEST
    copier.py sha256 FILE

Prints one JSON object: when the work began and ended (monotonic clock, nanoseconds; the start of Python is not counted)
and how it was done.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".collections"))

from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_copy import copy_database, opened_source
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import Deadline, StagedFile
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import create_snapshot
from ansible_collections.capsule.opstage.plugins.module_utils.write_back import WriteBack


def snapshot(level: str, source: str, dest: str) -> str:
    """The collection's own snapshot."""
    return create_snapshot(source, dest, verify=level).method


def copy(source: str, dest: str) -> str:
    """The collection's copy alone: neither checked nor hashed, but durable under its name."""
    deadline = Deadline(None)
    with StagedFile(os.path.dirname(dest)) as staged, WriteBack(staged.descriptor) as write_back:
        with opened_source(source) as opened:
            copied = copy_database(opened, staged, deadline, write_back=write_back)
        write_back.finish(deadline)
        staged.publish(os.path.basename(dest), replace=False)
    return copied.method


def api(source: str, dest: str) -> str:
    """``Connection.backup`` in one pass, with the defaults of Python and SQLite."""
    with closing(sqlite3.connect(source)) as connection, closing(sqlite3.connect(dest)) as target:
        connection.backup(target)
    return "api"


def sha256(path: str) -> str:
    """The checksum of a file, by Python's hashlib."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main(work: str, *arguments: str) -> None:
    """Do the work named on the command line."""
    works: dict[str, Callable[..., str]] = {"snapshot": snapshot, "copy": copy, "api": api, "sha256": sha256}
    began = time.monotonic_ns()
    result = works[work](*arguments)
    ended = time.monotonic_ns()
    sys.stdout.write(json.dumps({"began": began, "ended": ended, "result": result}))


if __name__ == "__main__":
    main(*sys.argv[1:])
