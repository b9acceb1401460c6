# SPDX-License-Identifier: GPL-3.0-or-later
"""Random histories of a database: processes that write it, checkpoint it, vacuum it, and are killed meanwhile.

Each committed transaction adds a row to the table ``ledger``: its serial number, sums over all other content, and a
hash that chains it to the transactions before it. So any copy can be judged by itself: ``ledger_of``.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import multiprocessing
import os
import random
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

BUSY_SECONDS = 5.0
SECONDS_TO_CLOSE = 20.0
CHECKPOINT_MODES = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")
CHECKPOINTER = 3
CONDUCTOR = 4
SLOTS = 5
FIRST_READER = 5

ACKNOWLEDGED, KILLS, VACUUMS, STOP = range(4)
FIELDS = 4

SCHEMA = """
CREATE TABLE item (id INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX item_by_checksum ON item (checksum);
CREATE TABLE ledger (
    serial INTEGER PRIMARY KEY, items INTEGER NOT NULL, bytes INTEGER NOT NULL, total INTEGER NOT NULL,
    chain BLOB NOT NULL);
"""

Ledger = dict[int, bytes]
"""The chained hash of each transaction by its serial number."""


class UnsoundError(Exception):
    """A database is damaged, or holds something else than what its transactions wrote."""


@dataclass(frozen=True)
class Plan:
    """What happens to one database.

    The fields named as pragmas are those. ``checkpoints`` are the modes of a process that does nothing else,
    ``savepoints`` is the part of transactions that roll back to one, ``pause`` the mean number of seconds between a
    writer's transactions.
    """

    number: int
    seed: str
    journal_mode: str
    page_size: int
    auto_vacuum: str
    synchronous: str
    wal_autocheckpoint: int
    journal_size_limit: int
    cache_size: int
    secure_delete: bool
    savepoints: float
    writers: int
    checkpoints: tuple[str, ...]
    readers: int
    kills_per_second: float
    pause: float
    rows: int
    copies: int
    ends_by_kill: bool

    @property
    def largest(self) -> int:
        """Bytes of the largest body that is usual: a few pages."""
        return min(3 * self.page_size, 20_000)


def make_plan(seed: int, number: int) -> Plan:
    """Draw one history; the same numbers draw the same plan, though never the same interleaving."""
    text = f"{seed}:{number}"
    draw = random.Random(text)
    page_size = draw.choice((512, 1024, 1024, 2048, 4096, 4096, 4096, 8192, 16384, 32768, 65536))
    return Plan(
        number=number,
        seed=text,
        journal_mode=draw.choices(("wal", "delete", "truncate", "persist"), (14, 2, 2, 2))[0],
        page_size=page_size,
        auto_vacuum=draw.choice(("NONE", "NONE", "FULL", "INCREMENTAL")),
        synchronous=draw.choice(("OFF", "OFF", "NORMAL", "NORMAL", "FULL")),
        wal_autocheckpoint=draw.choice((0, 1, 3, 10, 10, 50, 200, 1000)),
        journal_size_limit=draw.choice((-1, -1, 0)),
        cache_size=draw.choice((2, 5, 20, 500)),
        secure_delete=draw.random() < 0.3,
        savepoints=draw.choice((0.0, 0.0, 0.2)),
        writers=draw.choice((1, 1, 2, 3)),
        checkpoints=draw.choice(((), (), ("PASSIVE",), ("PASSIVE", "FULL"), CHECKPOINT_MODES)),
        readers=draw.choice((0, 0, 0, 1, 6)),
        kills_per_second=draw.choice((0, 0, 4, 12, 40)),
        pause=draw.choice((0.0, 0.0005, 0.002, 0.006)),
        rows=draw.choice((20, 100, 300)) if page_size < 16384 else draw.choice((20, 60)),
        copies=draw.choice((2, 3)),
        ends_by_kill=draw.random() < 0.5,
    )


class Counters:
    """Numbers that the processes of a history share; each process writes those of its own slot only."""

    def __init__(self) -> None:
        self._values = RawArray(ctypes.c_uint64, SLOTS * FIELDS)

    def add(self, slot: int, field: int, amount: int = 1) -> None:
        """Count."""
        self._values[slot * FIELDS + field] += amount

    def acknowledge(self, slot: int, serial: int) -> None:
        """Note that COMMIT has returned for this serial number."""
        self._values[slot * FIELDS + ACKNOWLEDGED] = serial

    def total(self, field: int) -> int:
        """The sum over all processes."""
        return sum(self._values[slot * FIELDS + field] for slot in range(SLOTS))

    @property
    def acknowledged(self) -> int:
        """The newest serial number that was acknowledged."""
        return max(self._values[slot * FIELDS + ACKNOWLEDGED] for slot in range(SLOTS))

    def stop(self) -> None:
        """Ask all to end."""
        self.add(CONDUCTOR, STOP)

    @property
    def stopped(self) -> bool:
        """Whether all were asked to end."""
        return self.total(STOP) > 0


@dataclass
class Sums:
    """What the ledger says of the table ``item``, brought up to date with each change to it."""

    items: int
    size: int
    total: int

    def count(self, checksum: int, size: int, sign: int) -> None:
        """A row came (``sign`` 1) or went (-1)."""
        self.items += sign
        self.size += sign * size
        self.total += sign * checksum

    def chained(self, serial: int, previous: bytes) -> bytes:
        """The hash of this state after the one before it."""
        text = f"{serial},{self.items},{self.size},{self.total}"
        return hashlib.sha256(previous + text.encode("ascii")).digest()[:16]


def checksum_of(identifier: int, body: bytes) -> int:
    """What ``item.checksum`` holds."""
    return zlib.crc32(body, identifier & 0xFFFFFFFF)


def ledger_of(connection: sqlite3.Connection) -> Ledger:
    """The ledger of a database. Raises UnsoundError unless the database is whole and holds what its ledger says."""
    try:
        problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
        if problems != ["ok"]:
            raise UnsoundError(f"integrity_check: {'; '.join(problems)}")
        found = _sums_of_items(connection)
        rows = connection.execute("SELECT serial, items, bytes, total, chain FROM ledger ORDER BY serial").fetchall()
    except sqlite3.DatabaseError as error:
        raise UnsoundError(f"SQLite says: {error}") from error
    ledger: Ledger = {}
    sums, chain = Sums(0, 0, 0), b""
    for expected, (serial, items, size, total, stored) in enumerate(rows):
        sums = Sums(items, size, total)
        chain = sums.chained(serial, chain)
        if serial != expected or chain != stored:
            raise UnsoundError(f"the ledger's row {serial} does not continue row {expected - 1}")
        ledger[serial] = stored
    if not ledger or sums != found:
        raise UnsoundError(f"the table item has {found}, row {len(ledger) - 1} of the ledger says {sums}")
    return ledger


def _sums_of_items(connection: sqlite3.Connection) -> Sums:
    sums = Sums(0, 0, 0)
    for identifier, checksum, body in connection.execute("SELECT id, checksum, body FROM item"):
        if checksum != checksum_of(identifier, body):
            raise UnsoundError(f"row {identifier} of the table item has another content than its checksum says")
        sums.count(checksum, len(body), 1)
    return sums


def make_database(path: Path, plan: Plan) -> None:
    """Create the database with its first rows, as serial number 0."""
    draw = random.Random(f"{plan.seed}:rows")
    with contextlib.closing(_connect(path, plan, first=True)) as connection:
        connection.execute("BEGIN")
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        sums = Sums(0, 0, 0)
        for _row in range(plan.rows):
            _insert(connection, draw, plan.largest, sums)
        _enter(connection, 0, sums, b"")
        connection.execute("COMMIT")


@contextlib.contextmanager
def going_on(path: Path, plan: Plan, counters: Counters) -> Iterator[None]:
    """Let the history happen until the end of the context. Raises UnsoundError when a process of it failed."""
    conductor = multiprocessing.get_context("fork").Process(target=_conduct, args=(path, plan, counters))
    conductor.start()
    try:
        yield
    finally:
        counters.stop()
        conductor.join()
    if conductor.exitcode != 0:
        raise UnsoundError("a writer failed, see above")


def _connect(path: Path, plan: Plan, first: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
    if first:
        connection.execute(f"PRAGMA page_size={plan.page_size}")
        connection.execute(f"PRAGMA auto_vacuum={plan.auto_vacuum}")
    for name in (
        "journal_mode",
        "synchronous",
        "wal_autocheckpoint",
        "journal_size_limit",
        "cache_size",
        "secure_delete",
    ):
        _unless_locked(connection, partial(connection.execute, f"PRAGMA {name}={getattr(plan, name)}"))
    return connection


def _insert(connection: sqlite3.Connection, draw: random.Random, largest: int, sums: Sums) -> None:
    body = draw.randbytes(draw.randrange(largest))
    identifier = draw.getrandbits(40)
    checksum = checksum_of(identifier, body)
    added = connection.execute("INSERT OR IGNORE INTO item VALUES (?, ?, ?)", (identifier, checksum, body))
    if added.rowcount:
        sums.count(checksum, len(body), 1)


def _enter(connection: sqlite3.Connection, serial: int, sums: Sums, previous: bytes) -> None:
    row = (serial, sums.items, sums.size, sums.total, sums.chained(serial, previous))
    connection.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", row)


class _Writer:
    """A process that changes the database until it is told to stop, is killed, or has lost its parent."""

    def __init__(self, path: Path, plan: Plan, counters: Counters, slot: int, life: int) -> None:
        self._path = path
        self._plan = plan
        self._counters = counters
        self._slot = slot
        self._draw = random.Random(f"{plan.seed}:{slot}:{life}")
        self._parent = os.getppid()
        self._connection = _connect(path, plan)

    def run(self) -> None:
        """Do one random thing after the other."""
        actions: list[tuple[float, Callable[[], None]]] = [
            (80, self._transact),
            (6, self._roll_back),
            (4, self._change_much),
            (3, self._make_and_drop_table),
            (4, self._checkpoint),
            (2, self._vacuum),
            (2, self._vacuum_incrementally),
            (1, self._change_journal_mode),
        ]
        weights, functions = zip(*actions, strict=True)
        while not self._counters.stopped and os.getppid() == self._parent:
            _unless_locked(self._connection, self._draw.choices(functions, weights)[0])
            if self._draw.random() < 0.03:
                self._connection.close()
                self._connection = _connect(self._path, self._plan)
            if self._plan.pause:
                time.sleep(self._draw.expovariate(1 / self._plan.pause))
        self._connection.close()

    def _transact(self) -> None:
        serial = self._begin_and_change(self._draw.randrange(1, 6))
        self._connection.execute("COMMIT")
        self._counters.acknowledge(self._slot, serial)

    def _change_much(self) -> None:
        """More than the cache holds: pages go into the log, or the file, before the commit."""
        serial = self._begin_and_change(self._draw.randrange(20, 120))
        self._connection.execute("COMMIT")
        self._counters.acknowledge(self._slot, serial)

    def _roll_back(self) -> None:
        self._begin_and_change(self._draw.choice((1, 5, 80)))
        self._connection.execute("ROLLBACK")

    def _begin_and_change(self, changes: int) -> int:
        """Begin a transaction with so many changes and its row in the ledger; returns its serial number."""
        self._connection.execute("BEGIN IMMEDIATE")
        last = "SELECT serial, items, bytes, total, chain FROM ledger ORDER BY serial DESC LIMIT 1"
        serial, items, size, total, chain = self._connection.execute(last).fetchone()
        sums = Sums(items, size, total)
        for _change in range(changes):
            self._change(sums)
        if self._draw.random() < self._plan.savepoints:
            self._connection.execute("SAVEPOINT undone")
            for _change in range(changes):
                self._change(Sums(sums.items, sums.size, sums.total))
            self._connection.execute("ROLLBACK TO undone")
        _enter(self._connection, serial + 1, sums, chain)
        return int(serial) + 1

    def _change(self, sums: Sums) -> None:
        kind = self._draw.random()
        surplus = sums.items > 2 * self._plan.rows
        if sums.items < 5 or (kind < 0.45 and not surplus):
            large = self._draw.random() < 0.03
            _insert(self._connection, self._draw, (12 if large else 1) * self._plan.largest, sums)
        elif kind < 0.8 and not surplus:
            self._update(sums)
        else:
            self._delete(sums, self._draw.choice((1, 1, 2, 12)))

    def _some(self, count: int) -> list[tuple[int, int, int]]:
        """Identifier, checksum and size of some rows that follow each other from a random one on."""
        query = "SELECT id, checksum, length(body) FROM item WHERE id >= ? ORDER BY id LIMIT ?"
        return self._connection.execute(query, (self._draw.getrandbits(40), count)).fetchall()

    def _update(self, sums: Sums) -> None:
        for identifier, checksum, size in self._some(1):
            kept = self._draw.random() < 0.5
            body = self._draw.randbytes(size if kept else self._draw.randrange(self._plan.largest))
            sums.count(checksum, size, -1)
            sums.count(checksum_of(identifier, body), len(body), 1)
            change = "UPDATE item SET checksum = ?, body = ? WHERE id = ?"
            self._connection.execute(change, (checksum_of(identifier, body), body, identifier))

    def _delete(self, sums: Sums, count: int) -> None:
        for identifier, checksum, size in self._some(count):
            self._connection.execute("DELETE FROM item WHERE id = ?", (identifier,))
            sums.count(checksum, size, -1)

    def _make_and_drop_table(self) -> None:
        self._connection.execute("CREATE TABLE IF NOT EXISTS scratch AS SELECT * FROM item LIMIT 40")
        self._connection.execute("DROP TABLE IF EXISTS scratch")

    def _checkpoint(self) -> None:
        self._connection.execute(f"PRAGMA wal_checkpoint({self._draw.choice(CHECKPOINT_MODES)})").fetchone()

    def _vacuum(self) -> None:
        self._connection.execute("VACUUM")
        self._counters.add(self._slot, VACUUMS)

    def _vacuum_incrementally(self) -> None:
        self._connection.execute(f"PRAGMA incremental_vacuum({self._draw.randrange(1, 30)})").fetchall()
        self._counters.add(self._slot, VACUUMS)

    def _change_journal_mode(self) -> None:
        """Out of WAL and back, or into it and back: SQLite allows that only to who is alone."""
        for mode in ("delete" if self._plan.journal_mode == "wal" else "wal", self._plan.journal_mode):
            self._connection.execute(f"PRAGMA journal_mode={mode}").fetchone()


def _unless_locked(connection: sqlite3.Connection, action: Callable[[], object]) -> None:
    """Do it, or give it up because others have locks."""
    try:
        action()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _write(path: Path, plan: Plan, counters: Counters, slot: int, life: int) -> None:
    _Writer(path, plan, counters, slot, life).run()


def _checkpoint_often(path: Path, plan: Plan, counters: Counters, slot: int, life: int) -> None:
    """A process that does nothing but checkpoints, at any rate."""
    draw = random.Random(f"{plan.seed}:{slot}:{life}")
    parent = os.getppid()
    with contextlib.closing(_connect(path, plan)) as connection:
        connection.execute("PRAGMA busy_timeout=5")
        while not counters.stopped and os.getppid() == parent:
            _unless_locked(
                connection, partial(connection.execute, f"PRAGMA wal_checkpoint({draw.choice(plan.checkpoints)})")
            )
            time.sleep(draw.choice((0, 0.0005, 0.002, 0.01)))


def _read(path: Path, plan: Plan, counters: Counters, slot: int, life: int) -> None:
    """A process that reads: six of them have all marks in the log in use, one may have none."""
    draw = random.Random(f"{plan.seed}:{slot}:{life}")
    parent = os.getppid()
    with contextlib.closing(_connect(path, plan)) as connection:
        while not counters.stopped and os.getppid() == parent:
            _unless_locked(connection, partial(_read_slowly, connection, draw.choice((0, 0.002, 0.01))))
            time.sleep(draw.choice((0, 0.001, 0.005)))


def _read_slowly(connection: sqlite3.Connection, seconds: float) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM ledger").fetchone()
    time.sleep(seconds)
    connection.execute("COMMIT")


def _conduct(path: Path, plan: Plan, counters: Counters) -> None:
    """Keep the processes of the history alive, and kill them; the exit status is 1 when one of them failed."""
    draw = random.Random(f"{plan.seed}:conductor")
    parent = os.getppid()
    readers = range(FIRST_READER, FIRST_READER + plan.readers)
    slots = [*range(plan.writers), *([CHECKPOINTER] if plan.checkpoints else []), *readers]
    running = {slot: _started(path, plan, counters, slot, 0) for slot in slots}
    failed, life = False, 0
    while not counters.stopped and os.getppid() == parent:
        time.sleep(draw.uniform(0.001, 0.01))
        if draw.random() < plan.kills_per_second * 0.006:
            running[draw.choice(slots)].kill()
            counters.add(CONDUCTOR, KILLS)
        for slot in slots:
            if running[slot].exitcode is not None and not counters.stopped:
                failed = failed or _has_failed(running[slot])
                life += 1
                running[slot] = _started(path, plan, counters, slot, life)
    counters.stop()
    for process in running.values():
        if plan.ends_by_kill:
            process.kill()
            counters.add(CONDUCTOR, KILLS)
        process.join(SECONDS_TO_CLOSE)
        failed = failed or _has_failed(process)
        process.kill()
    raise SystemExit(1 if failed else 0)


def _started(path: Path, plan: Plan, counters: Counters, slot: int, life: int) -> ForkProcess:
    target = _read if slot >= FIRST_READER else _checkpoint_often if slot == CHECKPOINTER else _write
    process = multiprocessing.get_context("fork").Process(target=target, args=(path, plan, counters, slot, life))
    process.start()
    return process


def _has_failed(process: ForkProcess) -> bool:
    """Neither ended by itself in good order nor killed here."""
    return process.exitcode not in (0, -9)
