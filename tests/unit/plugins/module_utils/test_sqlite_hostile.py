# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody who may write to the data folder can do to a snapshot taken by root: nothing but make it fail."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError, Deadline, Reason
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_restore import RestoreError, restore_database
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import (
    Snapshot,
    SnapshotError,
    create_snapshot,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_verify import verify_database
from sqlite_testing import (
    content_of,
    fingerprint,
    killed_deployment,
    make_database,
    mounted_tmpfs,
    names_in,
    numbers_in,
)

TIMEOUT_SECONDS = 20


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


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A database that whoever may write to the data folder may not read."""
    folder = tmp_path / "secret"
    folder.mkdir()
    return make_database(folder / "secret.db", 20, text="secret")


def refused(source: Path, dest: Path, **options: Any) -> SnapshotError:
    """The error of a snapshot that is not made, after which the destination's folder is as it was."""
    before = names_in(dest.parent)
    with pytest.raises(SnapshotError) as caught:
        create_snapshot(str(source), str(dest), **{"timeout": TIMEOUT_SECONDS, **options})
    assert names_in(dest.parent) == before
    return caught.value


def outcome_of(source: Path, dest: Path, **options: Any) -> Snapshot | SnapshotError:
    """A snapshot, or why there is none, after which the destination's folder is as it was."""
    before = names_in(dest.parent)
    try:
        return create_snapshot(str(source), str(dest), **{"timeout": TIMEOUT_SECONDS, **options})
    except SnapshotError as error:
        outcome = error
    assert names_in(dest.parent) == before
    return outcome


def plant_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def plant_dangling_link(path: Path, target: Path) -> None:
    path.symlink_to(target.with_name("made through the link"))


def plant_fifo(path: Path, _target: Path) -> None:
    os.mkfifo(path)


def plant_socket(path: Path, _target: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        folder = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


def plant_character_device(path: Path, _target: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))


def plant_block_device(path: Path, _target: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, 200))


def plant_folder(path: Path, _target: Path) -> None:
    path.mkdir()


PLANTS = (
    plant_link,
    plant_dangling_link,
    plant_fifo,
    plant_socket,
    plant_character_device,
    plant_block_device,
    plant_folder,
)


@pytest.mark.parametrize("plant", PLANTS)
class TestNoPlainFile:
    """Every kind of file that is no plain file, in every place where one is meant."""

    @pytest.fixture
    def untouched(self, secret: Path) -> Iterator[None]:
        before, names = fingerprint(secret), names_in(secret.parent)
        yield
        assert fingerprint(secret) == before
        assert names_in(secret.parent) == names

    @pytest.mark.usefixtures("untouched")
    def test_as_source(self, data: Path, backups: Path, secret: Path, plant: Callable[[Path, Path], None]) -> None:
        plant(data / "live.db", secret)
        assert refused(data / "live.db", backups / "copy.db").reason is Reason.REFUSED
        with pytest.raises(DatabaseFileError) as caught:
            verify_database(str(data / "live.db"), "full")
        assert caught.value.reason is Reason.REFUSED
        with pytest.raises(RestoreError) as caught:
            restore_database(str(data / "live.db"), str(backups / "copy.db"))
        assert caught.value.reason is Reason.REFUSED
        assert names_in(backups) == []

    @pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
    @pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
    @pytest.mark.usefixtures("untouched")
    def test_beside_the_source(
        self,
        data: Path,
        backups: Path,
        secret: Path,
        plant: Callable[[Path, Path], None],
        suffix: str,
        journal_mode: str,
    ) -> None:
        source = make_database(data / "live.db", 10, journal_mode)
        plant(Path(f"{source}{suffix}"), secret)
        assert refused(source, backups / "copy.db").reason is Reason.REFUSED
        assert names_in(data) == ["live.db", f"live.db{suffix}"]

    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.usefixtures("untouched")
    def test_as_destination(
        self, data: Path, backups: Path, secret: Path, plant: Callable[[Path, Path], None], overwrite: bool
    ) -> None:
        source = make_database(data / "live.db", 10)
        plant(backups / "copy.db", secret)
        if plant is plant_folder:
            snapshot = create_snapshot(str(source), str(backups / "copy.db"), overwrite=overwrite)
            assert Path(snapshot.dest).parent == backups / "copy.db"
        else:
            assert refused(source, backups / "copy.db", overwrite=overwrite).reason is Reason.REFUSED
        with pytest.raises(RestoreError) as caught:
            restore_database(str(source), str(backups / "copy.db"))
        assert caught.value.reason is Reason.REFUSED

    @pytest.mark.parametrize("suffix", ["-wal", "-journal"])
    @pytest.mark.usefixtures("untouched")
    def test_beside_the_destination(
        self, data: Path, backups: Path, secret: Path, plant: Callable[[Path, Path], None], suffix: str
    ) -> None:
        source = make_database(data / "live.db", 10)
        plant(backups / f"copy.db{suffix}", secret)
        assert refused(source, backups / "copy.db").reason is Reason.REFUSED


@pytest.mark.parametrize("plant", [plant for plant in PLANTS if plant is not plant_folder])
def test_no_folder_for_the_copy(data: Path, backups: Path, secret: Path, plant: Callable[[Path, Path], None]) -> None:
    source = make_database(data / "live.db", 10)
    plant(backups / "folder", secret)
    with pytest.raises(SnapshotError) as caught:
        create_snapshot(str(source), str(backups / "folder" / "copy.db"), timeout=TIMEOUT_SECONDS)
    assert caught.value.reason in (Reason.MISSING, Reason.REFUSED)
    assert names_in(backups) == ["folder"]


class TestHugeFiles:
    """Sparse files cost nothing to plant."""

    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Path]:
        """Where a copy that believes the size is seen to fill the disk."""
        with mounted_tmpfs(tmp_path / "small", "32m") as folder:
            yield folder

    @pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
    @pytest.mark.parametrize("beginning", [b"", b"\x37\x7f\x06\x82", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"])
    @pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
    def test_beside_the_source(self, data: Path, small: Path, suffix: str, beginning: bytes, journal_mode: str) -> None:
        source = make_database(data / "live.db", 500, journal_mode)
        expected = content_of(source)
        planted = Path(f"{source}{suffix}")
        planted.write_bytes(beginning)
        os.truncate(planted, 2**42)
        outcome = outcome_of(source, small / "copy.db")
        if isinstance(outcome, SnapshotError):
            assert outcome.reason in (Reason.REFUSED, Reason.NO_SPACE, Reason.DAMAGED_SOURCE)
        else:
            assert content_of(small / "copy.db") == expected

    def test_log_whose_frames_are_followed_by_nothing(self, data: Path, small: Path) -> None:
        """The frames count; what follows the last commit does not, however long."""
        source = data / "live.db"
        rows = killed_deployment(source)
        os.truncate(f"{source}-wal", 2**42)
        outcome = outcome_of(source, small / "copy.db")
        if isinstance(outcome, SnapshotError):
            assert outcome.reason in (Reason.REFUSED, Reason.NO_SPACE)
        else:
            assert numbers_in(small / "copy.db") == list(range(1, rows + 1))

    @pytest.mark.parametrize("size", [10 << 20, 4096 * 0x20000000])
    @pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
    def test_database_that_claims_terabytes(self, data: Path, small: Path, size: int, journal_mode: str) -> None:
        source = make_database(data / "live.db", 500, journal_mode)
        with open(source, "r+b") as file:
            file.seek(28)
            file.write((0x20000000).to_bytes(4, "big"))
            file.truncate(size)
        assert refused(source, small / "copy.db").reason in (Reason.DAMAGED_SOURCE, Reason.NO_SPACE)
        with pytest.raises(DatabaseFileError) as caught:
            verify_database(str(source), "full", Deadline(0.5))
        assert caught.value.reason in (Reason.DAMAGED_SOURCE, Reason.TIMEOUT)


@contextlib.contextmanager
def repeated(act: Callable[[], None]) -> Iterator[None]:
    """Do something again and again in another process meanwhile, as fast as it goes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        stopped: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
        try:
            act()
            os.close(writer)
            while not stopped:
                act()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        os.read(reader, 1)
        yield
    finally:
        os.close(reader)
        os.kill(child, signal.SIGTERM)
        status = os.waitpid(child, 0)[1]
    assert status == 0, "what was to be repeated failed"


class TestRaces:
    """Somebody swaps files for others in a tight loop: a right copy or an error, and never another file's content."""

    ATTEMPTS = 6

    @pytest.mark.parametrize("plant", [plant_link, plant_fifo])
    @pytest.mark.parametrize(
        ("suffix", "journal_mode"),
        [("", "WAL"), ("-wal", "WAL"), ("-shm", "WAL"), ("", "DELETE"), ("-journal", "DELETE")],
    )
    def test_source_swapped(
        self,
        data: Path,
        backups: Path,
        secret: Path,
        plant: Callable[[Path, Path], None],
        suffix: str,
        journal_mode: str,
    ) -> None:
        source = make_database(data / "live.db", 50, journal_mode, text="public")
        swapped, planted = Path(f"{source}{suffix}"), data / "planted"
        before = fingerprint(secret)

        def swap() -> None:
            aside = data / "aside"
            with contextlib.suppress(FileNotFoundError):
                os.rename(swapped, aside)
            plant(planted, secret)
            os.rename(planted, swapped)
            if aside.exists():
                os.rename(aside, swapped)
            else:
                swapped.unlink()

        with repeated(swap):
            outcomes = [outcome_of(source, backups / f"{attempt}.db", timeout=2) for attempt in range(self.ATTEMPTS)]
        for attempt, outcome in enumerate(outcomes):
            if isinstance(outcome, Snapshot):
                assert numbers_in(backups / f"{attempt}.db") == list(range(1, 51))
                assert b"secret" not in (backups / f"{attempt}.db").read_bytes()
        assert fingerprint(secret) == before
        assert names_in(secret.parent) == ["secret.db"]

    @pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
    def test_link_planted_at_the_destination(self, data: Path, backups: Path, secret: Path, suffix: str) -> None:
        source = make_database(data / "live.db", 50, "WAL")
        made, planted = secret.parent / "made through the link", backups / f"copy.db{suffix}"

        def plant_and_remove() -> None:
            with contextlib.suppress(FileExistsError):
                planted.symlink_to(made)
            if planted.is_symlink():
                planted.unlink()

        with repeated(plant_and_remove):
            for _attempt in range(self.ATTEMPTS):
                with contextlib.suppress(SnapshotError):
                    create_snapshot(str(source), str(backups / "copy.db"), overwrite=True, timeout=TIMEOUT_SECONDS)
                assert not made.exists()
        assert set(names_in(backups)) <= {"copy.db"}
        if (backups / "copy.db").exists():
            assert numbers_in(backups / "copy.db") == list(range(1, 51))


def wide_table_with_wide_indexes(connection: sqlite3.Connection) -> None:
    columns = ",".join(f"c{number}" for number in range(1999))
    connection.execute(f"CREATE TABLE wide ({columns})")
    connection.execute("INSERT INTO wide DEFAULT VALUES")
    for number in range(200):
        connection.execute(f"CREATE INDEX i{number} ON wide (c0)")
    rewrite_schema(connection, f"'CREATE INDEX ' || name || ' ON wide ({columns})'", "type = 'index'")


def many_wide_tables(connection: sqlite3.Connection) -> None:
    columns = ",".join(f"c{number}" for number in range(1999))
    for number in range(300):
        connection.execute(f"CREATE TABLE t{number} (c)")
    rewrite_schema(connection, f"'CREATE TABLE ' || name || ' ({columns})'", "true")


def long_texts_in_the_schema(connection: sqlite3.Connection) -> None:
    for number in range(300):
        connection.execute(f"CREATE TABLE t{number} (c)")
    rewrite_schema(connection, f"'CREATE TABLE ' || name || ' (c DEFAULT ''{'x' * 200_000}'')'", "true")


def long_view(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE entries (number)")
    connection.execute(f"CREATE VIEW long AS SELECT '{'x' * 60_000_000}'")


def nested_views(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE entries (number)")
    connection.execute("CREATE VIEW v0 AS SELECT number FROM entries")
    for number in range(1, 60):
        before = f"v{number - 1}"
        connection.execute(f"CREATE VIEW v{number} AS SELECT a.number FROM {before} a, {before} b, {before} c")


def index_on_a_gigabyte(connection: sqlite3.Connection) -> None:
    index_on_expression(connection, "hex(zeroblob(400000000))")


def index_that_takes_ages(connection: sqlite3.Connection) -> None:
    """One call of a function, which cannot be interrupted: 10^14 comparisons of bytes."""
    index_on_expression(connection, "instr(hex(zeroblob(20000000)), hex(zeroblob(5000000)) || number)")


def column_of_a_gigabyte(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE entries (number, large AS (replace(hex(number), '6', '')) NOT NULL)")
    connection.execute("INSERT INTO entries VALUES ('x')")
    large = "replace(hex(zeroblob(300000000)), ''0'', number)"
    rewrite_schema(
        connection, f"'CREATE TABLE entries (number, large AS ({large}) NOT NULL, CHECK (length({large}) > 1))'", "true"
    )


def index_on_expression(connection: sqlite3.Connection, expression: str) -> None:
    connection.execute("CREATE TABLE entries (number)")
    connection.execute("CREATE INDEX computed ON entries (number)")
    connection.execute("INSERT INTO entries VALUES (?)", ("a" * 20_000,))
    quoted = expression.replace("'", "''")
    rewrite_schema(connection, f"'CREATE INDEX computed ON entries ({quoted})'", "type = 'index'")


def rewrite_schema(connection: sqlite3.Connection, statement: str, which: str) -> None:
    """Let the schema say something else than what was run, as whoever can write the file can."""
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute(f"UPDATE sqlite_master SET sql = {statement} WHERE {which}")


COSTLY = (
    wide_table_with_wide_indexes,
    many_wide_tables,
    long_texts_in_the_schema,
    long_view,
    nested_views,
    index_on_a_gigabyte,
    index_that_takes_ages,
    column_of_a_gigabyte,
)

SNAPSHOT = """
import sys
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import SnapshotError, create_snapshot
try:
    create_snapshot(sys.argv[1], sys.argv[2], timeout=float(sys.argv[3]))
    sys.stdout.write("made")
except SnapshotError as error:
    sys.stdout.write(f"{error.reason.name} {error}")
"""


def outcome_and_peak_memory(root: Path, source: Path, dest: Path, seconds: float) -> tuple[str, int]:
    """What a snapshot in a process of its own says, and how many bytes it and its children had at most together."""
    command = [sys.executable, "-c", SNAPSHOT, str(source), str(dest), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    peak = 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, env=environment, start_new_session=True)
        try:
            while process.poll() is None:
                peak = max(peak, memory_of_session(process.pid))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return output.read(), peak


def memory_of_session(session: int) -> int:
    """Bytes that the processes of a session have to themselves (proc(5), smaps_rollup)."""
    total = 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.getsid(int(process)) == session:
                lines = Path("/proc", process, "smaps_rollup").read_text(encoding="ascii").splitlines()
                total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


class TestCost:
    """A schema can make SQLite want any amount of memory and time: both are bounded."""

    BYTES = 400 << 20
    SECONDS = 3

    @pytest.mark.parametrize("make", COSTLY)
    def test_of_a_hostile_schema(
        self, data: Path, backups: Path, collections_root: Path, make: Callable[[sqlite3.Connection], None]
    ) -> None:
        source = data / "live.db"
        with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            make(connection)
        outcome, peak = outcome_and_peak_memory(collections_root, source, backups / "copy.db", self.SECONDS)
        assert outcome.split(" ")[0] in ("made", "REFUSED", "TIMEOUT", "DAMAGED_SOURCE"), outcome
        assert names_in(backups) == (["copy.db"] if outcome == "made" else [])
        assert peak < self.BYTES

    def test_of_a_large_row_that_is_meant(self, data: Path, backups: Path) -> None:
        """SQLite allows a value of a gigabyte; a check does not need it in memory."""
        source = data / "live.db"
        with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute(
                "CREATE TABLE files (name TEXT PRIMARY KEY, data BLOB NOT NULL CHECK (length(data) > 0))"
            )
            connection.execute("INSERT INTO files VALUES ('large', zeroblob(100000000))")
        assert create_snapshot(str(source), str(backups / "copy.db"), timeout=60).integrity == "ok"


class TestNothingRuns:
    def test_of_what_a_schema_calls(self, data: Path, backups: Path, tmp_path: Path) -> None:
        """Views, triggers, defaults, checks and columns that call what reaches out of SQLite."""
        source, marker = make_database(data / "live.db", 20, "WAL"), tmp_path / "it ran"
        calls = (
            f"writefile('{marker}', 'x')",
            f"edit('x', 'touch {marker}')",
            "load_extension('/tmp/of-the-attacker.so')",
            "fts3_tokenizer('x', x'0011223344556677')",
        )
        with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as connection:
            for number, call in enumerate(calls):
                connection.execute(f"CREATE TABLE t{number} (n, made AS (1) NOT NULL, CHECK (n > {number}))")
                connection.execute(f"INSERT INTO t{number} VALUES (10)")
                connection.execute(f"CREATE INDEX i{number} ON t{number} (n)")
                connection.execute(f"CREATE VIEW v{number} AS SELECT {call}")
                for event in ("INSERT", "UPDATE", "DELETE"):
                    body = f"BEGIN SELECT {call}; DELETE FROM entries; END"
                    connection.execute(f"CREATE TRIGGER {event}{number} BEFORE {event} ON t{number} {body}")
            for number, call in enumerate(calls[:2]):
                quoted = call.replace("'", "''")
                columns = f"(n, made AS ({quoted}) NOT NULL, CHECK ({quoted}))"
                rewrite_schema(connection, f"'CREATE TABLE t{number} {columns}'", f"name = 't{number}'")
                rewrite_schema(connection, f"'CREATE INDEX i{number} ON t{number} ({quoted})'", f"name = 'i{number}'")
        for level in ("none", "quick", "full"):
            create_snapshot(str(source), str(backups / f"{level}.db"), verify=level, timeout=60)
            assert not marker.exists()
        with contextlib.closing(sqlite3.connect(backups / "full.db")) as connection:
            assert connection.execute("SELECT count(*) FROM entries").fetchone() == (20,)

    def test_text_that_is_no_text(self, data: Path, backups: Path) -> None:
        """Bytes that are not UTF-8 in values, in names, and in what a check says about them."""
        source = data / "live.db"
        with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE entries (text TEXT NOT NULL)")
            connection.execute("CREATE TABLE named (XXXX TEXT)")
            connection.execute("CREATE INDEX YYYY ON named (XXXX)")
            values = [b"\xff\xfe", b"\xe4\xf6", b"a\0b", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"]
            for value in values:
                connection.execute("INSERT INTO entries VALUES (CAST(? AS TEXT))", (value,))
        renamed = source.read_bytes().replace(b"named", b"n\xff\xe4ed").replace(b"XXXX", b"\xffXX\xc3")
        source.write_bytes(renamed.replace(b"YYYY", b"\xfe\xff\x80Y"))
        assert create_snapshot(str(source), str(backups / "copy.db"), timeout=60).integrity == "ok"
        with contextlib.closing(sqlite3.connect(backups / "copy.db")) as connection:
            connection.text_factory = bytes
            assert [row[0] for row in connection.execute("SELECT text FROM entries")] == values
            (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE type = 'index'").fetchone()
        with open(source, "r+b") as file:
            file.seek(4096 * (root - 1))
            file.write(b"\xff" * 50)
        assert refused(source, backups / "second.db").reason is Reason.DAMAGED_SOURCE


class TestMappedMemory:
    def test_of_the_log_is_cut_off_meanwhile(self, data: Path, backups: Path, collections_root: Path) -> None:
        """Whoever touches what is no longer there gets SIGBUS: that must not be the process that was asked."""
        source = data / "live.db"
        rows = killed_deployment(source, 500)
        index = f"{source}-shm"

        def cut_and_mend() -> None:
            os.truncate(index, 0)
            os.truncate(index, 32768)

        outcomes: list[str] = []
        with repeated(cut_and_mend):
            for attempt in range(6):
                copy = backups / f"{attempt}.db"
                outcomes.append(outcome_and_peak_memory(collections_root, source, copy, TIMEOUT_SECONDS)[0])
        for attempt, outcome in enumerate(outcomes):
            if outcome == "made":
                numbers = numbers_in(backups / f"{attempt}.db")
                assert numbers == list(range(1, rows + 1))
            else:
                assert outcome.split(" ")[0] in Reason.__members__, f"ended without an error of its own: {outcome!r}"


def as_nobody(work: Callable[[], str]) -> str:
    """Do the work in a forked process of another user, and return what it returns."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(writer, work().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as output:
        said = output.read()
    os.waitpid(child, 0)
    return said


class TestPermissions:
    @pytest.fixture
    def public(self) -> Iterator[Path]:
        """A folder that every user can reach, which those of pytest are not."""
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            yield Path(folder)

    def reason(self, source: Path, dest: Path) -> str:
        def attempt() -> str:
            outcome = outcome_of(source, dest)
            return f"{outcome.reason.name} {outcome}" if isinstance(outcome, SnapshotError) else "made"

        return as_nobody(attempt)

    @pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
    def test_source_of_another_user(self, public: Path, journal_mode: str) -> None:
        source = make_database(public / "live.db", 10, journal_mode)
        (public / "copies").mkdir()
        os.chown(public / "copies", 65534, 65534)
        os.chmod(source, 0o600)
        said = self.reason(source, public / "copies" / "copy.db")
        assert said.split(" ")[0] in ("SYSTEM", "REFUSED")
        assert "live.db" in said
        os.chmod(source, 0o644)
        said = self.reason(source, public / "copies" / "copy.db")
        assert said.split(" ")[0] == ("made" if journal_mode == "DELETE" else "REFUSED")
        assert names_in(public) == ["copies", "live.db"]

    def test_folder_of_another_user(self, public: Path) -> None:
        source = make_database(public / "live.db", 10)
        os.chmod(source, 0o644)
        (public / "copies").mkdir(mode=0o755)
        said = self.reason(source, public / "copies" / "copy.db")
        assert said.startswith("SYSTEM ")
        assert f"Permission denied: '{public / 'copies'}' (user id 65534); run this as root" in said

    def test_own_files_need_no_root(self, public: Path) -> None:
        for name in ("live.db", "closed.db"):
            make_database(public / name, 10, "WAL" if name == "live.db" else "DELETE")
            os.chown(public / name, 65534, 65534)
        os.chown(public, 65534, 65534)
        assert self.reason(public / "live.db", public / "live copy.db") == "made"
        assert self.reason(public / "closed.db", public / "closed copy.db") == "made"
        assert (public / "live copy.db").stat().st_uid == 65534

    def test_private_from_its_first_byte_on(self, data: Path, backups: Path) -> None:
        """Whatever the mask says that this process was started with."""
        source = make_database(data / "live.db", 5000, "WAL")
        modes: set[int] = set()
        before = os.umask(0)
        try:
            create_snapshot(
                str(source),
                str(backups / "copy.db"),
                progress=lambda _progress: modes.update(path.lstat().st_mode & 0o7777 for path in backups.iterdir()),
            )
        finally:
            os.umask(before)
        assert modes == {0o600}
        assert (backups / "copy.db").stat().st_mode & 0o7777 == 0o600


class TestEveryDamageIsFound:
    """Verification is split over processes; whatever SQLite finds in one go must be found so as well."""

    DATABASES = 80

    @pytest.fixture
    def originals(self, tmp_path: Path) -> list[tuple[int, bytes]]:
        """Page size and bytes of two databases with every kind of page."""
        made = []
        for size, vacuum in ((512, "INCREMENTAL"), (1024, "NONE")):
            path = tmp_path / f"{size}.db"
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute(f"PRAGMA page_size={size}")
                connection.execute(f"PRAGMA auto_vacuum={vacuum}")
                fill_pages_of_every_kind(connection)
            made.append((size, path.read_bytes()))
        return made

    def test_when_bytes_are_changed_anywhere(self, tmp_path: Path, originals: list[tuple[int, bytes]]) -> None:
        damaged = dict.fromkeys(("integrity_check", "quick_check"), 0)
        for number in range(self.DATABASES):
            content = with_changed_bytes(*originals[number % 2], random.Random(number))
            for level, check in (("full", "integrity_check"), ("quick", "quick_check")):
                problems = problems_in(tmp_path / "plain.db", content, check)
                found = damage_found(tmp_path / "verified.db", content, level)
                assert bool(found) >= bool(problems), f"database {number}: {check} finds {problems[:3]}"
                damaged[check] += bool(problems)
        assert min(damaged.values()) > self.DATABASES // 5

    @pytest.mark.parametrize("change", ["page of another table", "free page in use", "page of nobody", "swapped roots"])
    def test_when_it_lies_between_the_tables(
        self, tmp_path: Path, originals: list[tuple[int, bytes]], change: str
    ) -> None:
        """Every table for itself is sound then."""
        size, original = originals[1]
        content = bytearray(original)
        roots = root_pages(tmp_path / "1024.db")
        child = size * (roots["entries"] - 1) + 8
        if change == "page of another table":
            content[child : child + 4] = roots["large"].to_bytes(4, "big")
        elif change == "free page in use":
            content[child : child + 4] = content[32:36]
        elif change == "page of nobody":
            content[28:32] = (len(content) // size + 1).to_bytes(4, "big")
            content += bytes(size)
        else:
            first, second = size * (roots["entries"] - 1), size * (roots["large"] - 1)
            content[first : first + size], content[second : second + size] = (
                content[second : second + size],
                content[first : first + size],
            )
        for level, check in (("full", "integrity_check"), ("quick", "quick_check")):
            assert problems_in(tmp_path / "plain.db", bytes(content), check)
            assert damage_found(tmp_path / "verified.db", bytes(content), level)

    @pytest.mark.parametrize("table", ["words", "places"])
    def test_within_a_virtual_table(self, tmp_path: Path, table: str) -> None:
        """Since 3.44.0 SQLite asks those that can check themselves, whatever SQLite is at hand says."""
        path = tmp_path / "virtual.db"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("CREATE VIRTUAL TABLE words USING fts5 (text)")
            connection.execute("CREATE VIRTUAL TABLE places USING rtree (id, low, high)")
            for number in range(100):
                connection.execute("INSERT INTO words VALUES (?)", (f"word{number}",))
                connection.execute("INSERT INTO places VALUES (?, 1, 2)", (number,))
            if table == "words":
                connection.execute("UPDATE words_content SET c0 = 'other' WHERE id = 7")
            else:
                connection.execute("DELETE FROM places_rowid WHERE rowid = 7")
        content = path.read_bytes()
        for level, check in (("full", "integrity_check"), ("quick", "quick_check")):
            found = damage_found(tmp_path / "verified.db", content, level)
            assert bool(found) == bool(problems_in(tmp_path / "plain.db", content, check))

    def test_in_the_name_of_a_table(self, tmp_path: Path) -> None:
        path = make_database(tmp_path / "named.db", 10)
        path.write_bytes(path.read_bytes().replace(b"tableentriesentries", b"tableentrieventries"))
        assert damage_found(tmp_path / "verified.db", path.read_bytes(), "full")

    def test_but_not_what_the_application_demands_of_its_rows(self, tmp_path: Path) -> None:
        """A row against a CHECK is copied as one against a foreign key is: it is no damage, and the application's own.

        SQLite looks for it on a connection that may write, which this one may not.
        """
        path = tmp_path / "checked.db"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE entries (number CHECK (number > 5))")
            connection.execute("PRAGMA ignore_check_constraints=ON")
            connection.execute("INSERT INTO entries VALUES (1)")
        content = path.read_bytes()
        for level, check in (("full", "integrity_check"), ("quick", "quick_check")):
            assert problems_in(tmp_path / "plain.db", content, check) == [b"CHECK constraint failed in entries"]
            assert damage_found(tmp_path / "verified.db", content, level) == ""


def fill_pages_of_every_kind(connection: sqlite3.Connection) -> None:
    """Tables and indexes of several levels, overflow pages, free pages; with auto_vacuum also the map of pointers."""
    strict = " STRICT" if sqlite3.sqlite_version_info >= (3, 37) else ""
    connection.execute(f"CREATE TABLE entries (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, n INTEGER){strict}")
    connection.execute("CREATE TABLE pairs (a TEXT, b INTEGER NOT NULL, PRIMARY KEY (a, b)) WITHOUT ROWID")
    connection.execute("CREATE TABLE large (data BLOB)")
    connection.execute("CREATE TABLE dropped (data BLOB)")
    connection.execute("CREATE INDEX by_n ON entries (n)")
    connection.execute("CREATE INDEX of_some ON entries (text DESC) WHERE n > 50")
    connection.execute("CREATE INDEX of_expression ON pairs (b % 10, a)")
    connection.execute("BEGIN")
    for number in range(150):
        connection.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, f"{number * 7919 % 151}", number % 100))
        connection.execute("INSERT INTO pairs VALUES (?, ?)", (f"{number * 31 % 97}", number))
    for number in range(4):
        connection.execute("INSERT INTO large VALUES (?)", (bytes([number]) * 3000,))
        connection.execute("INSERT INTO dropped VALUES (zeroblob(5000))")
    connection.execute("COMMIT")
    connection.execute("DROP TABLE dropped")


def root_pages(path: Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, rootpage FROM sqlite_master"))


def with_changed_bytes(size: int, original: bytes, chance: random.Random) -> bytes:
    """One to three bytes changed, on random pages, half of them among the header and the pointers to the cells."""
    content = bytearray(original)
    for _change in range(chance.randint(1, 3)):
        page = chance.randrange(len(content) // size)
        place = page * size + chance.randrange(40 if chance.random() < 0.5 else size)
        content[max(place, 100)] ^= chance.randrange(1, 256)
    return bytes(content)


def problems_in(path: Path, content: bytes, check: str) -> list[bytes]:
    """What SQLite itself finds, in one go, on a connection like any application's."""
    path.write_bytes(content)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        try:
            problems = [row[0] for row in connection.execute(f"PRAGMA {check}")]
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            return [str(error).encode()]
    return [] if problems == [b"ok"] else problems


def damage_found(path: Path, content: bytes, level: str) -> str:
    """What the verification finds; nothing but damage may be what it finds."""
    path.write_bytes(content)
    try:
        verify_database(str(path), level)
    except DatabaseFileError as error:
        found = error
    else:
        return ""
    assert found.reason is Reason.DAMAGED_SOURCE, found
    return str(found)
