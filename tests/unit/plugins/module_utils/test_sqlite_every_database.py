# SPDX-License-Identifier: GPL-3.0-or-later
"""A snapshot of every kind of database that SQLite makes, in every state in which a process can leave it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError, Reason
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_restore import restore_database
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import (
    Snapshot,
    SnapshotError,
    create_snapshot,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_verify import verify_database
from sqlite_testing import (
    HALF_DONE_WRITER,
    HOLDER,
    REPEATER,
    content_of,
    fingerprint,
    leave_as_it_is,
    make_database,
    mounted_read_only,
    mounted_tmpfs,
    names_in,
    numbers_in,
    pages_of,
    running,
    wait_until,
    writing,
)

NUMBERS = "WITH RECURSIVE numbers (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers WHERE n < {})"
PLAIN = (
    "CREATE TABLE entries (number INTEGER PRIMARY KEY, text TEXT NOT NULL)",
    NUMBERS.format(300) + " INSERT INTO entries SELECT n, 'Größe ' || n || hex(zeroblob(30)) FROM numbers",
    "CREATE INDEX by_text ON entries (text)",
)
FILLED_AND_MOSTLY_EMPTIED = (
    "CREATE TABLE entries (number INTEGER PRIMARY KEY, text TEXT, large BLOB)",
    NUMBERS.format(400) + " INSERT INTO entries SELECT n, hex(n), zeroblob(n * 20) FROM numbers",
    "CREATE INDEX by_text ON entries (text)",
    "DELETE FROM entries WHERE number % 5",
)


def add_functions(connection: sqlite3.Connection) -> None:
    """What only the application has: an order of its own, and a function."""
    connection.create_collation("backwards", lambda one, other: (one < other) - (one > other))
    connection.create_function("shout", 1, lambda text: f"{text}!", deterministic=True)


@dataclass(frozen=True)
class Kind:
    """How to make a database of one kind.

    ``settings`` are run before there is a first page; ``header`` is written over an empty database's bytes; ``module``
    and ``version`` are what the SQLite at hand must have.
    """

    content: tuple[str, ...]
    settings: tuple[str, ...] = ()
    header: dict[int, bytes] = field(default_factory=dict)
    prepare: Callable[[sqlite3.Connection], None] = leave_as_it_is
    module: str = ""
    version: tuple[int, ...] = (3, 31)

    def skip_unless_possible(self) -> None:
        if sqlite3.sqlite_version_info < self.version:
            pytest.skip(f"SQLite {sqlite3.sqlite_version} cannot make it")
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            modules = {row[0] for row in connection.execute("PRAGMA module_list")}
        if self.module and self.module not in modules:
            pytest.skip(f"this SQLite has no {self.module}")


KINDS = {
    **{f"pages of {2**n} bytes": Kind(PLAIN, (f"PRAGMA page_size={2**n}",)) for n in range(9, 17)},
    "UTF-16le": Kind(PLAIN, ("PRAGMA encoding='UTF-16le'",)),
    "UTF-16be": Kind(PLAIN, ("PRAGMA encoding='UTF-16be'", "PRAGMA page_size=1024")),
    "free pages": Kind(FILLED_AND_MOSTLY_EMPTIED, ("PRAGMA page_size=1024",)),
    "auto_vacuum": Kind(FILLED_AND_MOSTLY_EMPTIED, ("PRAGMA auto_vacuum=FULL",)),
    "incremental vacuum": Kind(
        (*FILLED_AND_MOSTLY_EMPTIED, "PRAGMA incremental_vacuum(7)"),
        ("PRAGMA auto_vacuum=INCREMENTAL", "PRAGMA page_size=512"),
    ),
    "deep trees": Kind(
        (
            "CREATE TABLE entries (text TEXT UNIQUE, number)",
            NUMBERS.format(5000) + " INSERT INTO entries SELECT hex(n * 7919 % 5003) || n, n FROM numbers",
        ),
        ("PRAGMA page_size=512",),
    ),
    "overflow pages and all types": Kind(
        (
            "CREATE TABLE entries (number INTEGER PRIMARY KEY AUTOINCREMENT, value)",
            "INSERT INTO entries (value) VALUES (NULL), (1e308 * 10), (-9223372036854775808), (0.5), (''), (x'00ff')",
            "INSERT INTO entries (value) VALUES (zeroblob(300000)), (hex(zeroblob(100000)))",
        )
    ),
    "analyzed": Kind((*PLAIN, "ANALYZE")),
    "WITHOUT ROWID": Kind(
        (
            "CREATE TABLE entries (name TEXT COLLATE NOCASE, n INTEGER, PRIMARY KEY (name DESC, n)) WITHOUT ROWID",
            NUMBERS.format(500) + " INSERT INTO entries SELECT hex(n % 50), n FROM numbers",
            "CREATE INDEX by_number ON entries (n DESC)",
        )
    ),
    "FTS5": Kind(
        (
            "CREATE VIRTUAL TABLE entries USING fts5 (title, body)",
            NUMBERS.format(200) + " INSERT INTO entries SELECT 'title ' || n, 'words ' || hex(n) FROM numbers",
        ),
        module="fts5",
    ),
    "FTS4": Kind(
        (
            "CREATE VIRTUAL TABLE entries USING fts4 (body)",
            NUMBERS.format(200) + " INSERT INTO entries SELECT 'words ' || hex(n) FROM numbers",
        ),
        module="fts4",
    ),
    "R-Tree": Kind(
        (
            "CREATE VIRTUAL TABLE entries USING rtree (id, left, right, +name)",
            NUMBERS.format(500) + " INSERT INTO entries SELECT n, n, n + 1, hex(n) FROM numbers",
        ),
        module="rtree",
    ),
    "virtual table without its module": Kind(
        (
            *PLAIN,
            "CREATE TABLE entries_data (id INTEGER PRIMARY KEY, block BLOB)",
            "INSERT INTO entries_data VALUES (1, x'0102')",
            "PRAGMA writable_schema=ON",
            "INSERT INTO sqlite_master VALUES "
            "('table', 'searched', 'searched', 0, 'CREATE VIRTUAL TABLE searched USING of_the_application (entries)')",
        )
    ),
    "generated columns": Kind(
        (
            "CREATE TABLE entries (n INTEGER, twice AS (n * 2), thrice INTEGER NOT NULL AS (n * 3) STORED)",
            NUMBERS.format(100) + " INSERT INTO entries (n) SELECT n FROM numbers",
            "CREATE UNIQUE INDEX by_twice ON entries (twice)",
        )
    ),
    "STRICT": Kind(
        (
            "CREATE TABLE entries (number INTEGER PRIMARY KEY, text TEXT, value ANY) STRICT",
            "INSERT INTO entries VALUES (1, 'one', x'01'), (2, NULL, 2)",
        ),
        version=(3, 37),
    ),
    "partial and expression indexes": Kind(
        (
            *PLAIN,
            "CREATE INDEX of_some ON entries (text) WHERE number % 3 = 0",
            "CREATE UNIQUE INDEX of_expression ON entries (substr(text, 7), number DESC)",
        )
    ),
    "views and triggers": Kind(
        (
            *PLAIN,
            "CREATE TABLE journal (what TEXT)",
            "CREATE VIEW recent AS SELECT * FROM entries WHERE number > 290",
            "CREATE TRIGGER noted AFTER DELETE ON entries BEGIN INSERT INTO journal VALUES (old.text); END",
            "CREATE TRIGGER instead INSTEAD OF DELETE ON recent BEGIN DELETE FROM entries WHERE number = 1; END",
            "DELETE FROM recent WHERE number = 300",
        )
    ),
    "constraints": Kind(
        (
            "CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE CHECK (length(name) > 1))",
            "CREATE TABLE children (parent REFERENCES parents DEFERRABLE INITIALLY DEFERRED, n REFERENCES children)",
            "INSERT INTO parents VALUES (1, 'one'), (2, 'two')",
            "INSERT INTO children VALUES (1, NULL), (2, NULL)",
        )
    ),
    "names of tables": Kind(
        tuple(
            f'CREATE TABLE "{name}" (a UNIQUE, "{name} 2")'
            for name in (
                "100",
                "1",
                "0",
                "-1",
                "it's",
                'quo""te',
                "select",
                "a b",
                "Größe",
                "a%b[]`;--",
                "sqlite",
                "é\n",
            )
        )
    ),
    "many tables": Kind(tuple(f"CREATE TABLE t{n} (a PRIMARY KEY, b UNIQUE)" for n in range(150))),
    "no table": Kind(("PRAGMA user_version=7",)),
    "tables without a row": Kind(("CREATE TABLE entries (number)", "CREATE VIEW seen AS SELECT number FROM entries")),
    "extreme settings": Kind(
        (*PLAIN, "PRAGMA user_version=-2147483648", "PRAGMA application_id=-1", "PRAGMA default_cache_size=123")
    ),
    "reserved bytes": Kind(FILLED_AND_MOSTLY_EMPTIED, header={20: b"\x20", 105: (4096 - 32).to_bytes(2, "big")}),
    **{f"schema format {n}": Kind(PLAIN, header={47: bytes([n])}) for n in range(1, 5)},
    "functions of the application": Kind(
        (
            "CREATE TABLE entries (a, made AS (shout(a)), b CHECK (shout(b) <> 'x'))",
            "INSERT INTO entries VALUES ('x', 1), ('y', 2)",
            "CREATE VIEW louder AS SELECT shout(a) FROM entries",
            "CREATE TRIGGER loud AFTER INSERT ON entries BEGIN SELECT shout(new.a); END",
        ),
        prepare=add_functions,
    ),
    "collation of the application": Kind(
        ("CREATE TABLE entries (a TEXT COLLATE backwards)", "INSERT INTO entries VALUES ('x'), ('y')"),
        prepare=add_functions,
    ),
}


def write_over(path: Path, changes: dict[int, bytes]) -> None:
    with open(path, "r+b") as file:
        for offset, value in changes.items():
            file.seek(offset)
            file.write(value)


def made(path: Path, kind: Kind, journal_mode: str) -> Path:
    """A database of that kind, closed; or, in WAL mode, as SIGKILL leaves it, with all content in the log."""
    kind.skip_unless_possible()
    scratch = path.with_name(f"{path.name} scratch")
    with contextlib.closing(sqlite3.connect(scratch, isolation_level=None)) as connection:
        kind.prepare(connection)
        for statement in (*kind.settings, "PRAGMA user_version=1"):
            connection.execute(statement)
    write_over(scratch, kind.header)
    with contextlib.closing(sqlite3.connect(scratch, isolation_level=None)) as connection:
        kind.prepare(connection)
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        for statement in kind.content:
            connection.execute(statement)
        for suffix in ("", "-wal")[: 1 + (journal_mode == "WAL")]:
            shutil.copyfile(f"{scratch}{suffix}", f"{path}{suffix}")
    scratch.unlink()
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir(mode=0o700)
    return folder


def proven_snapshot(
    source: Path, dest: Path, prepare: Callable[[sqlite3.Connection], None] = leave_as_it_is, **options: Any
) -> Snapshot:
    """A snapshot of a database that nobody writes to, seen to be right in every way that does not need the engine.

    The source's file and logs are as they were; the copy is one private file with the same pages and the same
    content, and is read on read-only media without sidecars.
    """
    logs = [Path(f"{source}{suffix}") for suffix in ("", "-wal") if os.path.exists(f"{source}{suffix}")]
    before, names = fingerprint(*logs), names_in(dest.parent)
    snapshot = create_snapshot(str(source), str(dest), **{"timeout": 60, **options})
    assert fingerprint(*logs) == before
    assert names_in(dest.parent) == sorted([*names, dest.name])
    assert dest.stat().st_mode & 0o7777 == 0o600
    header = dest.read_bytes()[:100]
    assert header[18:20] == b"\x01\x01"
    assert snapshot.size == snapshot.page_size * snapshot.page_count == dest.stat().st_size
    assert snapshot.sha256 == fingerprint(dest)[dest.name][0]
    assert pages_of(dest) == pages_of(source)
    content = content_of(source, prepare)
    assert content_of(dest, prepare) == content
    with mounted_read_only(dest.parent) as media:
        uri = f"{(media / dest.name).as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (len(content["schema"]),)
    return snapshot


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind(data: Path, backups: Path, name: str, journal_mode: str) -> None:
    kind = KINDS[name]
    source = made(data / "live.db", kind, journal_mode)
    snapshot = proven_snapshot(source, backups / "copy.db", kind.prepare)
    assert snapshot.integrity == "ok"
    assert snapshot.foreign_key_violations in (0, None)
    assert snapshot.source_journal_mode == journal_mode.lower()
    if journal_mode == "WAL":
        restored = backups / "restored.db"
        assert restore_database(str(backups / "copy.db"), str(restored)).sha256 == snapshot.sha256
        assert restored.read_bytes() == (backups / "copy.db").read_bytes()


ONLY_THE_APPLICATION_CAN_COMPARE = {
    "index with its collation": "CREATE INDEX of_application ON entries (text COLLATE backwards)",
    "UNIQUE column with its collation": "CREATE TABLE of_application (name TEXT COLLATE backwards UNIQUE)",
    "WITHOUT ROWID with its collation": (
        "CREATE TABLE of_application (name TEXT COLLATE backwards PRIMARY KEY) WITHOUT ROWID"
    ),
    "index with its function": "CREATE INDEX of_application ON entries (shout(text))",
    "partial index with its function": "CREATE INDEX of_application ON entries (text) WHERE shout(text) > 'x'",
}


class TestWhatOnlyTheApplicationCanCompare:
    """SQLite refuses to check an index whose collation or function it does not have; the rest can be checked."""

    @pytest.fixture(params=ONLY_THE_APPLICATION_CAN_COMPARE)
    def source(self, data: Path, request: pytest.FixtureRequest) -> Path:
        statements = (*PLAIN, ONLY_THE_APPLICATION_CAN_COMPARE[request.param])
        return made(data / "live.db", Kind(statements, prepare=add_functions), "WAL")

    @pytest.mark.parametrize("level", ["full", "quick"])
    def test_is_no_reason_against_a_snapshot(self, source: Path, backups: Path, level: str) -> None:
        proven_snapshot(source, backups / "copy.db", add_functions, verify=level)

    def test_is_not_said_to_be_whole(self, source: Path, backups: Path) -> None:
        assert create_snapshot(str(source), str(backups / "copy.db")).integrity not in ("ok", "not checked")

    def test_damage_beside_it_is_found(self, source: Path, backups: Path) -> None:
        copy = backups / "copy.db"
        create_snapshot(str(source), str(copy), verify="none")
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'by_text'").fetchone()
        write_over(copy, {4096 * (root - 1): b"\xff" * 100})
        for level in ("full", "quick"):
            with pytest.raises(DatabaseFileError) as caught:
                verify_database(str(copy), level)
            assert caught.value.reason is Reason.DAMAGED_SOURCE
        assert refused(copy, backups / "second.db").reason is Reason.DAMAGED_SOURCE


class TestHeader:
    @pytest.mark.parametrize("count", [0, 1, 1_000_000])
    def test_count_of_pages_that_old_writers_do_not_keep(self, data: Path, backups: Path, count: int) -> None:
        """Before 3.7.0 SQLite did not write it: it counts only where "version valid for" is the change counter."""
        source = made(data / "live.db", Kind(PLAIN), "DELETE")
        write_over(source, {24: (77).to_bytes(4, "big"), 28: count.to_bytes(4, "big")})
        snapshot = create_snapshot(str(source), str(backups / "copy.db"))
        assert snapshot.size == source.stat().st_size == (backups / "copy.db").stat().st_size
        assert snapshot.page_count == snapshot.size // 4096
        assert content_of(backups / "copy.db") == content_of(source)
        assert verify_database(str(backups / "copy.db"), "full").page_count == snapshot.page_count

    def test_pages_after_the_last_one(self, data: Path, backups: Path) -> None:
        """Bytes after the last page, as a killed VACUUM leaves them, belong to no database."""
        source = made(data / "live.db", Kind(PLAIN), "DELETE")
        expected, size = content_of(source), source.stat().st_size
        with open(source, "ab") as file:
            file.write(b"left over" * 5000)
        assert create_snapshot(str(source), str(backups / "copy.db")).size == size
        assert content_of(backups / "copy.db") == expected

    def test_larger_than_the_page_that_locks_take(self, data: Path, backups: Path) -> None:
        """The page at 1 GiB, whose bytes are the locks, is in no database of that size."""
        with mounted_tmpfs(data / "memory", "4g") as memory:
            source = larger_than_a_gibibyte(memory / "live.db")
            snapshot = create_snapshot(str(source), str(memory / "copy.db"), verify="quick", timeout=60)
            assert snapshot.size == source.stat().st_size
            with contextlib.closing(sqlite3.connect(memory / "copy.db")) as connection:
                assert connection.execute("SELECT count(*) FROM entries").fetchone() == (300,)
                connection.execute("VACUUM")
            assert (memory / "copy.db").stat().st_size < 2**20


def larger_than_a_gibibyte(path: Path) -> Path:
    """A sparse database of a little more than 1 GiB, whose pages but for the first ones are free and empty.

    A trunk page of the list of free pages names 16,382 others (https://sqlite.org/fileformat2.html#the_freelist).
    """
    size, total, locks = 65536, 16_450, 2**30 // 65536 + 1
    made(path, Kind(PLAIN, (f"PRAGMA page_size={size}",)), "DELETE")
    used = path.stat().st_size // size
    free = [page for page in range(used + 1, total + 1) if page != locks]
    trunks, leaves = free[:2], free[2:]
    for trunk, following, part in ((trunks[0], trunks[1], leaves[:10_000]), (trunks[1], 0, leaves[10_000:])):
        numbers = (following, len(part), *part)
        write_over(path, {size * (trunk - 1): b"".join(number.to_bytes(4, "big") for number in numbers)})
    write_over(path, {28: total.to_bytes(4, "big"), 32: trunks[0].to_bytes(4, "big"), 36: len(free).to_bytes(4, "big")})
    os.truncate(path, size * total)
    return path


def refused(source: Path, dest: Path, **options: Any) -> SnapshotError:
    """The error of a snapshot that is not made, after which the destination's folder is as it was."""
    before = names_in(dest.parent)
    with pytest.raises(SnapshotError) as caught:
        create_snapshot(str(source), str(dest), **{"timeout": 60, **options})
    assert names_in(dest.parent) == before
    return caught.value


def outcome_of(source: Path, dest: Path) -> Snapshot | SnapshotError:
    """A snapshot, or why there is none, after which the destination's folder is as it was."""
    before = names_in(dest.parent)
    try:
        return create_snapshot(str(source), str(dest), timeout=60)
    except SnapshotError as error:
        outcome = error
    assert names_in(dest.parent) == before
    return outcome


class TestLogs:
    @pytest.mark.parametrize("mode", ["PERSIST", "TRUNCATE"])
    def test_used_up_journal_that_stays(self, data: Path, backups: Path, mode: str) -> None:
        source, journal = make_database(data / "live.db", 500), data / "live.db-journal"
        with contextlib.closing(sqlite3.connect(source)) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
            connection.execute("UPDATE entries SET text = text || 'changed'")
            connection.commit()
        before = fingerprint(journal)
        assert proven_snapshot(source, backups / "copy.db").source_journal_mode == "delete"
        assert fingerprint(journal) == before

    def test_journal_of_a_database_that_was_being_made(self, data: Path, backups: Path) -> None:
        """Rolled back, nothing is left of it: that is no success."""
        source = data / "live.db"
        script = HALF_DONE_WRITER.replace("UPDATE entries SET text = 'half done' || text", FILL_A_NEW_TABLE)
        with running(script, str(source)):
            pass
        assert source.stat().st_size > 0
        assert (data / "live.db-journal").stat().st_size > 0
        assert refused(source, backups / "copy.db").reason in (Reason.NOT_A_DATABASE, Reason.DAMAGED_SOURCE)

    @pytest.mark.parametrize("super_journal", [True, False])
    def test_journal_of_a_transaction_over_two_databases(self, data: Path, backups: Path, super_journal: bool) -> None:
        """Whether it is to be rolled back depends on the super-journal that it names (atomiccommit.html, 5.0).

        Whoever can write the journal can name any file as that, and SQLite would read it and delete it.
        """
        source, journal = make_database(data / "live.db", 500), data / "live.db-journal"
        with running(HALF_DONE_WRITER, str(source)):
            pass
        name_super_journal(journal, data / "live.db-mj0123")
        left = journal.read_bytes()
        (data / "live.db-mj0123").write_bytes(os.fsencode(journal) + b"\0")
        if not super_journal:
            with contextlib.closing(sqlite3.connect(source)) as connection:
                connection.execute("UPDATE entries SET text = 'committed'")
                connection.commit()
            (data / "live.db-mj0123").unlink(missing_ok=True)
            journal.write_bytes(left)
        before, names = fingerprint(source, journal), names_in(data)
        assert refused(source, backups / "copy.db").reason is Reason.REFUSED
        assert (fingerprint(source, journal), names_in(data)) == (before, names)

    def test_log_larger_than_the_database(self, data: Path, backups: Path) -> None:
        rewritten = ("UPDATE entries SET text = text || 'again'",) * 30
        source = made(data / "live.db", Kind((*PLAIN, *rewritten)), "WAL")
        snapshot = proven_snapshot(source, backups / "copy.db")
        assert os.path.getsize(f"{source}-wal") > 5 * snapshot.size

    @pytest.mark.parametrize("left", [32, 33, 32 + 24 + 2000, -1, -2000])
    def test_log_that_ends_within_a_frame(self, data: Path, backups: Path, left: int) -> None:
        """What is whole up to the last commit counts. ``left`` bytes are there, or lack."""
        source = made(data / "live.db", Kind((*PLAIN, "INSERT INTO entries VALUES (400, 'last')")), "WAL")
        with contextlib.closing(sqlite3.connect(source)) as connection:
            connection.execute("PRAGMA wal_checkpoint").fetchone()
            connection.execute("INSERT INTO entries VALUES (401, 'in the log')")
            connection.commit()
            shutil.copyfile(f"{source}-wal", data / "log")
        shutil.copyfile(data / "log", f"{source}-wal")
        os.truncate(f"{source}-wal", left % os.path.getsize(f"{source}-wal"))
        proven_snapshot(source, backups / "copy.db")

    def test_log_with_a_transaction_that_was_not_committed(self, data: Path, backups: Path) -> None:
        source = made(data / "live.db", Kind(PLAIN), "WAL")
        size = os.path.getsize(f"{source}-wal")
        with running(HALF_DONE_WRITER, str(source)):
            pass
        assert os.path.getsize(f"{source}-wal") > size
        proven_snapshot(source, backups / "copy.db")
        assert "half done" not in str(content_of(backups / "copy.db"))

    def test_log_that_was_begun_again(self, data: Path, backups: Path) -> None:
        """Frames of the log's last round lie behind the few of this one."""
        source = data / "live.db"
        other = make_database(data / "other.db", 500, "WAL")
        with contextlib.closing(sqlite3.connect(other)) as connection:
            connection.execute("UPDATE entries SET text = 'first round' || text")
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint").fetchone()
            connection.execute("UPDATE entries SET text = 'second round' WHERE number = 1")
            connection.commit()
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{other}{suffix}", f"{source}{suffix}")
        proven_snapshot(source, backups / "copy.db")
        with contextlib.closing(sqlite3.connect(backups / "copy.db")) as connection:
            assert connection.execute("SELECT text FROM entries LIMIT 1").fetchone() == ("second round",)

    @pytest.mark.parametrize("content", [b"", b"\x37\x7f\x06\x82" + b"\0" * 28, b"no log at all" * 1000])
    def test_log_without_a_frame(self, data: Path, backups: Path, content: bytes) -> None:
        source = make_database(data / "live.db", 100, "WAL")
        Path(f"{source}-wal").write_bytes(content)
        proven_snapshot(source, backups / "copy.db")

    def test_log_of_a_database_that_says_it_has_a_rollback_journal(self, data: Path, backups: Path) -> None:
        """SQLite uses a log that is there, whatever bytes 18 and 19 say."""
        source = made(data / "live.db", Kind(PLAIN), "WAL")
        write_over(source, {18: b"\x01\x01"})
        proven_snapshot(source, backups / "copy.db")

    def test_log_beside_an_empty_file(self, data: Path, backups: Path) -> None:
        """SQLite would remove the log, with all that was committed."""
        source = made(data / "live.db", Kind(PLAIN), "WAL")
        os.truncate(source, 0)
        before = fingerprint(source, Path(f"{source}-wal"))
        assert refused(source, backups / "copy.db").reason is Reason.NOT_A_DATABASE
        assert fingerprint(source, Path(f"{source}-wal")) == before


FILL_A_NEW_TABLE = (
    "CREATE TABLE entries AS WITH RECURSIVE numbers (n) AS "
    "(VALUES (1) UNION ALL SELECT n + 1 FROM numbers WHERE n < 999) SELECT n, zeroblob(999) FROM numbers"
)


def name_super_journal(journal: Path, super_journal: Path) -> None:
    """End a journal as a commit over several databases does (pager.c, writeSuperJournal)."""
    name = os.fsencode(super_journal)
    locks = (2**30 // 4096 + 1).to_bytes(4, "big")
    lengths = len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big")
    with open(journal, "ab") as file:
        file.write(locks + name + lengths + bytes.fromhex("d9d505f920a163d7"))


class TestWhileOthersUseIt:
    @pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
    def test_held_by_one_process_alone(self, data: Path, backups: Path, journal_mode: str) -> None:
        """In WAL mode there is no -shm then: its index of the log lies in that process's own memory."""
        source = make_database(data / "live.db", 100, journal_mode)
        statements = ("PRAGMA locking_mode=EXCLUSIVE", "INSERT INTO entries VALUES (1000, 'mine')")
        with running(HOLDER, str(source), *statements):
            before = fingerprint(source)
            error = refused(source, backups / "copy.db", timeout=1)
            assert fingerprint(source) == before
        assert error.reason in (Reason.LOCKED, Reason.TIMEOUT)
        proven_snapshot(source, backups / "copy.db")
        assert 1000 in numbers_in(backups / "copy.db")

    @pytest.mark.parametrize(
        "statement", ["VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA wal_checkpoint(RESTART)"]
    )
    def test_vacuumed_or_checkpointed_all_the_time(self, data: Path, backups: Path, statement: str) -> None:
        source = make_database(data / "live.db", 3000, "WAL", "CREATE TABLE more (n)")
        churn = "INSERT INTO more SELECT zeroblob(5000) FROM entries LIMIT 50"
        with running(REPEATER, str(source), churn, statement, "DELETE FROM more", lines=2) as other:
            for attempt in range(5):
                done = len(other.lines)
                create_snapshot(str(source), str(backups / f"{attempt}.db"), timeout=30)
                wait_until(lambda done=done: len(other.lines) > done)
        for attempt in range(5):
            assert numbers_in(backups / f"{attempt}.db") == list(range(1, 3001))
            assert len(content_of(backups / f"{attempt}.db")["table more"]) in (0, 50)

    def test_vacuumed_all_the_time_without_a_log(self, data: Path, backups: Path) -> None:
        source = make_database(data / "live.db", 3000)
        with running(REPEATER, str(source), "VACUUM", lines=2) as other:
            for attempt in range(3):
                create_snapshot(str(source), str(backups / f"{attempt}.db"), timeout=60)
                assert numbers_in(backups / f"{attempt}.db") == list(range(1, 3001))
            done = len(other.lines)
            wait_until(lambda: len(other.lines) > done)

    @pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
    def test_seen_through_a_read_only_mount_of_a_live_one(self, data: Path, backups: Path, journal_mode: str) -> None:
        """Others write to it all the same: it is right or refused, and never as it was at the last checkpoint."""
        source = make_database(data / "live.db", 500, journal_mode)
        with writing(source, journal_mode, rate=500, rows=20) as writer, mounted_read_only(data) as media:
            for attempt in range(5):
                acknowledged = int(writer.lines[-1])
                outcome = outcome_of(media / "live.db", backups / f"{attempt}.db")
                if isinstance(outcome, SnapshotError):
                    assert outcome.reason in (Reason.REFUSED, Reason.LOCKED)
                else:
                    numbers = numbers_in(backups / f"{attempt}.db")
                    assert numbers == list(range(1, len(numbers) + 1))
                    assert len(numbers) >= acknowledged

    @pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
    @pytest.mark.parametrize("ended", ["closed", "killed"])
    def test_on_read_only_media(self, data: Path, backups: Path, journal_mode: str, ended: str) -> None:
        with mounted_tmpfs(data / "media", "16m") as media:
            source = make_database(media / "live.db", 500, journal_mode)
            if ended == "killed":
                with running(HALF_DONE_WRITER, str(source)):
                    pass
            names = names_in(media)
            subprocess.run(["mount", "-o", "remount,ro", str(media)], check=True)
            snapshot = create_snapshot(str(source), str(backups / "copy.db"), timeout=60)
            assert names_in(media) == names
            assert content_of(backups / "copy.db") == content_of(source)
        assert snapshot.source_journal_mode == journal_mode.lower()
        assert numbers_in(backups / "copy.db") == list(range(1, 501))


NAMES = (
    b"with space",
    b'it\'s "quoted"',
    b"a?mode=memory&b",
    b"a#b",
    b"100%41%00",
    b"line\nbreak\ttab\x01",
    "Größe-日本-🗄".encode(),
    b"not UTF-8 \xff\xfe\xe4",
    b"-n --version;$HOME`id`\\",
    b"file:x",
    b".hidden.",
    b"n" * 150,
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
def test_any_name_of_folder_and_file(tmp_path: Path, name: bytes, journal_mode: str) -> None:
    folder = tmp_path / os.fsdecode(name)
    (folder / "copies").mkdir(parents=True)
    source = made(folder / "live.db", Kind(PLAIN), journal_mode)
    proven_snapshot(source, folder / "copies" / os.fsdecode(name))
    for suffix in ("", "-wal")[: 1 + (journal_mode == "WAL")]:
        os.rename(f"{source}{suffix}", os.path.join(os.fsencode(folder), name + os.fsencode(suffix)))
    for suffix in ("-wal", "-shm"):
        Path(f"{source}{suffix}").unlink(missing_ok=True)
    proven_snapshot(folder / os.fsdecode(name), folder / "copies" / "second.db")
