# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the writes that were acknowledged with the rows that are there.

``missing``: acknowledged, but there is no such row. ``reissued``: acknowledged twice; the row that was acknowledged
first is gone, because the service went on from an older database and gave its number away again. ``unexpected``: how
many rows between the first and the last acknowledged one nobody acknowledged to this traffic: answers that were cut
off, or another writer. ``ok``: nothing missing, nothing reissued.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from testbed.load import NETWORK_ERRORS, Connection, ask
from testbed.process import TestbedError

TIMEOUT = 30.0


def compare(acknowledged: list[int], present: Iterable[int]) -> dict[str, Any]:
    """The result of a check; ``present`` are the numbers of the rows."""
    rows = set(present)
    wanted = set(acknowledged)
    missing = sorted(wanted - rows)
    reissued = sorted(number for number, times in Counter(acknowledged).items() if times > 1)
    between = range(min(wanted), max(wanted) + 1) if wanted else range(0)
    return {
        "ok": bool(wanted) and not missing and not reissued,
        "acknowledged": len(acknowledged),
        "missing": missing,
        "reissued": reissued,
        "unexpected": sum(1 for number in rows - wanted if number in between),
    }


def check_url(acknowledged: list[int], url: str) -> dict[str, Any]:
    """Compare with what the stand-in at ``url`` has. Raises TestbedError where it does not say."""
    first, last = min(acknowledged, default=1), max(acknowledged, default=0)
    connection = Connection(url, TIMEOUT)
    try:
        status, answer = ask(connection, "GET", f"/standin/writes?missing_from={first}&to={last}")
    except NETWORK_ERRORS as error:
        raise TestbedError(f"{url} does not answer: {error}; start the service, or check its database file") from error
    finally:
        connection.close()
    absent = (answer.get("data") or {}).get("missing")
    if status != 200 or not isinstance(absent, list):
        raise TestbedError(
            f"{url} answered /standin/writes with status {status} and no list of missing numbers; "
            "only the stand-in has this endpoint: check a copy of the database with --database"
        )
    return compare(acknowledged, set(range(first, last + 1)).difference(absent))


def check_database(acknowledged: list[int], database: Path, numbered: bool, rows_before: int) -> dict[str, Any]:
    """Compare with a database file, which is not changed.

    Failed logins have no numbers: of those it is asserted that the audit log grew, from ``rows_before`` rows, by no
    fewer. Raises TestbedError where the file is not such a database.
    """
    try:
        with opened(database) as connection:
            if numbered:
                return compare(acknowledged, rows_of(connection))
            rows = connection.execute("select count(*) from audit_events").fetchone()[0]
    except sqlite3.Error as error:
        raise TestbedError(f"{database} cannot be read as Opstage's database: {error}") from error
    lost = max(0, rows_before + len(acknowledged) - rows)
    return {
        "ok": bool(acknowledged) and lost == 0,
        "acknowledged": len(acknowledged),
        "rows_before": rows_before,
        "rows": rows,
        "missing_rows": lost,
    }


def rows_of(connection: sqlite3.Connection) -> list[int]:
    """The numbers of the stand-in's rows; none where it has not made their table yet."""
    table = connection.execute("select 1 from sqlite_schema where name = 'standin_writes'").fetchone()
    if table is None:
        return []
    return [number for (number,) in connection.execute("select number from standin_writes")]


@contextmanager
def opened(database: Path) -> Iterator[sqlite3.Connection]:
    """A copy of the database and its log, opened, so that neither is touched. Raises TestbedError without a file."""
    if not database.is_file():
        raise TestbedError(f"{database} is not there, or is no file")
    with tempfile.TemporaryDirectory(prefix="traffic-check-") as folder:
        copy = Path(folder) / "opstage.db"
        for suffix in ("", "-wal"):
            if Path(f"{database}{suffix}").exists():
                shutil.copyfile(f"{database}{suffix}", f"{copy}{suffix}")
        with closing(sqlite3.connect(copy)) as connection:
            yield connection
