# SPDX-License-Identifier: GPL-3.0-or-later
"""Print, as JSON, all of a deployment that an operation which is refused must leave as it was.

Arguments: the container, the data folder, the folder of the recovery points, and as JSON which rows to look at: the
`rows` that an earlier run printed, or {} for all that are there now.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
import sys

PROJECT = "/opt/opstage"
STATE = "/var/lib/opstage/opstage"
BACKGROUND = {"system_settings", "agents", "health_reports"}
"""Tables that Opstage writes on its own."""


def container(name: str) -> dict[str, str]:
    """What the container is, what it does, and since when."""
    words = "{{.Id}} {{.Image}} {{.State.Status}} {{.State.StartedAt}}"
    done = subprocess.run(["docker", "inspect", "--format", words, name], capture_output=True, text=True, check=True)
    return dict(zip(("id", "image", "status", "started"), done.stdout.split(), strict=True))


def contents(database: str, bounds: dict[str, int]) -> tuple[dict[str, int], str]:
    """The last row of each table, or that of `bounds`, and a checksum of the schema and of all rows up to there."""
    digest = hashlib.sha256()
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        schema = connection.execute("select name, type, sql from sqlite_master order by name").fetchall()
        digest.update(repr(schema).encode())
        last = {}
        for name in (name for name, kind, _sql in schema if kind == "table" and not name.startswith("sqlite_")):
            (rows,) = connection.execute(f'select coalesce(max(rowid), 0) from "{name}"').fetchone()
            last[name] = bounds.get(name, rows)
            if name not in BACKGROUND:
                for row in connection.execute(f'select * from "{name}" where rowid <= ? order by rowid', [last[name]]):
                    digest.update(repr(row).encode())
    return last, digest.hexdigest()


def files(folder: str) -> dict[str, str]:
    """Checksums of the files in `folder`."""
    found = {}
    for entry in os.scandir(folder):
        if entry.is_file(follow_symlinks=False):
            with open(entry.path, "rb") as stream:
                found[entry.name] = hashlib.sha256(stream.read()).hexdigest()
    return found


def names(folder: str) -> list[str]:
    """What lies in `folder`, none where it is not there."""
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def main() -> None:
    """Print the state."""
    name, data, points, bounds = sys.argv[1:]
    rows, digest = contents(os.path.join(data, "opstage.db"), json.loads(bounds))
    state = {
        "container": container(name),
        "rows": rows,
        "database": digest,
        "project": files(PROJECT),
        "data": names(data),
        "points": names(points),
        "state": names(STATE),
    }
    json.dump(state, sys.stdout)


if __name__ == "__main__":
    main()
