# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import Reason
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_restore import (
    RestoreError,
    find_holders,
    restore_database,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import create_snapshot
from sqlite_testing import (
    HALF_DONE_WRITER,
    HOLDER,
    fingerprint,
    killed_deployment,
    make_database,
    mounted_tmpfs,
    names_in,
    numbers_in,
    running,
    writing,
)

BACKUP_ROWS = 20


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of uid 100, gid 101, as a container has it."""
    assert os.geteuid() == 0, "the tests of ownership need root"
    made = tmp_path / "data"
    made.mkdir(mode=0o755)
    os.chown(made, 100, 101)
    return made


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return make_database(tmp_path / "backup.db", BACKUP_ROWS, text="backup")


def deployed(data: Path, rows: int = 50) -> tuple[Path, int]:
    """A killed deployment's database in ``data``, everything in its -wal, and how many rows it has."""
    path = data / "opstage.db"
    written = killed_deployment(path, rows)
    for name in names_in(data):
        os.chown(data / name, 100, 101)
        os.chmod(data / name, 0o644)
    return path, written


def application_view(path: Path) -> list[int]:
    """The rows as the application sees them, which opens the database in its place, in WAL mode, and closes it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row[0] for row in connection.execute("SELECT number FROM entries ORDER BY number")]


def rows(count: int) -> list[int]:
    return list(range(1, count + 1))


def refused(source: Path, dest: Path, **options: Any) -> RestoreError:
    """The error of a restore that is not made, after which the folder is as it was."""
    before = names_in(dest.parent)
    with pytest.raises(RestoreError) as caught:
        restore_database(str(source), str(dest), **options)
    assert names_in(dest.parent) == before
    return caught.value


class TestReplacing:
    def test_beside_a_stale_log_gives_exactly_the_copy(self, data: Path, backup: Path) -> None:
        path, written = deployed(data)
        assert written > BACKUP_ROWS
        restoration = restore_database(str(backup), str(path))
        assert names_in(data) == ["opstage.db"]
        assert restoration.changed
        assert restoration.backup_file is None
        assert fingerprint(path)["opstage.db"][0] == restoration.sha256 == fingerprint(backup)["backup.db"][0]
        assert application_view(path) == rows(BACKUP_ROWS)

    def test_beside_a_hot_rollback_journal(self, data: Path, backup: Path) -> None:
        path = make_database(data / "opstage.db", 5_000)
        with running(HALF_DONE_WRITER, str(path)):
            pass
        restoration = restore_database(str(backup), str(path), keep_previous=True)
        assert restoration.backup_file is not None
        assert names_in(data) == ["opstage.db", os.path.basename(restoration.backup_file)]
        assert numbers_in(Path(restoration.backup_file)) == rows(5_000)
        assert application_view(path) == rows(BACKUP_ROWS)

    def test_beside_a_journal_that_was_used_up(self, data: Path, backup: Path) -> None:
        path = make_database(data / "opstage.db", 10, "PERSIST")
        assert os.path.getsize(f"{path}-journal") > 0
        restoration = restore_database(str(backup), str(path), keep_previous=True)
        assert restoration.backup_file is not None
        assert names_in(data) == ["opstage.db", os.path.basename(restoration.backup_file)]
        assert application_view(path) == rows(BACKUP_ROWS)

    def test_keeps_owner_group_and_mode(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        os.chmod(path, 0o640)
        restore_database(str(backup), str(path))
        assert fingerprint(path)["opstage.db"][2:] == (100, 101, 0o100640)

    def test_given_owner_group_and_mode_win(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        restore_database(str(backup), str(path), uid=1234, gid=2345, mode=0o600)
        assert fingerprint(path)["opstage.db"][2:] == (1234, 2345, 0o100600)

    def test_where_nothing_was_it_belongs_to_the_folders_owner(self, data: Path, backup: Path) -> None:
        restoration = restore_database(str(backup), str(data / "opstage.db"), keep_previous=True)
        assert (restoration.changed, restoration.backup_file) == (True, None)
        assert fingerprint(data / "opstage.db")["opstage.db"][2:] == (100, 101, 0o100600)
        assert application_view(data / "opstage.db") == rows(BACKUP_ROWS)

    def test_log_whose_database_is_gone_is_out_of_the_way_and_kept(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        log = Path(f"{path}-wal").read_bytes()
        path.unlink()
        restoration = restore_database(str(backup), str(path), keep_previous=True)
        assert Path(f"{restoration.backup_file}-wal").read_bytes() == log
        assert application_view(path) == rows(BACKUP_ROWS)

    def test_copy_that_keeps_wal_mode_in_its_header(self, tmp_path: Path, data: Path) -> None:
        download = make_database(tmp_path / "download.db", BACKUP_ROWS, "WAL")
        assert download.read_bytes()[18:20] == b"\x02\x02"
        path, _written = deployed(data)
        restore_database(str(download), str(path))
        assert names_in(tmp_path) == ["data", "download.db"]
        assert names_in(data) == ["opstage.db"]
        assert application_view(path) == rows(BACKUP_ROWS)

    @pytest.mark.parametrize(
        "name", ["with space.db", 'it\'s "q".db', "a?b=c.db", "a#b.db", "100%41.db", "a\nb.db", "Größe.db"]
    )
    def test_any_name(self, data: Path, backup: Path, name: str) -> None:
        killed_deployment(data / name)
        restore_database(str(backup), str(data / name))
        assert names_in(data) == [name]
        assert application_view(data / name) == rows(BACKUP_ROWS)


class TestKeepingThePrevious:
    def test_has_what_was_in_the_log_and_can_be_restored(self, data: Path, backup: Path) -> None:
        path, written = deployed(data)
        restoration = restore_database(str(backup), str(path), keep_previous=True)
        assert restoration.backup_file is not None
        kept = Path(restoration.backup_file)
        assert names_in(data) == ["opstage.db", kept.name]
        assert kept.name.startswith("opstage.db.20")
        assert kept.name.endswith("Z~")
        assert fingerprint(kept)[kept.name][2:] == (100, 101, 0o100644)
        assert application_view(path) == rows(BACKUP_ROWS)
        restore_database(str(kept), str(path))
        assert application_view(path) == rows(written)
        assert kept.stat().st_nlink == 1

    def test_damaged_one_is_kept_byte_for_byte(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        with open(path, "r+b") as file:
            file.write(b"overwritten by something else")
        database, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        restoration = restore_database(str(backup), str(path), keep_previous=True)
        assert restoration.backup_file is not None
        assert Path(restoration.backup_file).read_bytes() == database
        assert Path(f"{restoration.backup_file}-wal").read_bytes() == log
        assert application_view(path) == rows(BACKUP_ROWS)

    def test_one_with_a_damaged_schema_is_kept_byte_for_byte(self, data: Path, backup: Path) -> None:
        path = make_database(data / "opstage.db", 3, "WAL")
        with writing(path, rate=1, checkpoint=0, rows=1):
            pass
        with open(path, "r+b") as file:
            file.seek(100)
            file.write(b"\x77" * 3996)
        database, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        assert len(log) == 32 + 24 + 4096, "the log must hold one page, and not the first one"
        restoration = restore_database(str(backup), str(path), keep_previous=True)
        assert restoration.backup_file is not None
        assert Path(restoration.backup_file).read_bytes() == database
        assert Path(f"{restoration.backup_file}-wal").read_bytes() == log
        assert application_view(path) == rows(BACKUP_ROWS)

    def test_emptied_one_does_not_take_its_log_along(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        os.truncate(path, 0)
        log = Path(f"{path}-wal").read_bytes()
        restoration = restore_database(str(backup), str(path), keep_previous=True)
        assert Path(f"{restoration.backup_file}-wal").read_bytes() == log
        assert application_view(path) == rows(BACKUP_ROWS)


class TestNothingToDo:
    def test_same_content_again(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        restore_database(str(backup), str(path))
        before = fingerprint(path)
        again = restore_database(str(backup), str(path), keep_previous=True)
        assert (again.changed, again.backup_file) == (False, None)
        assert fingerprint(path) == before
        assert names_in(data) == ["opstage.db"]

    def test_same_content_with_another_owner_changes_only_that(self, data: Path, backup: Path) -> None:
        path = data / "opstage.db"
        restore_database(str(backup), str(path))
        inode = path.stat().st_ino
        assert restore_database(str(backup), str(path), uid=1234, keep_previous=True).changed
        assert (path.stat().st_ino, path.stat().st_uid) == (inode, 1234)
        assert names_in(data) == ["opstage.db"]

    def test_same_file_with_a_log_is_not_the_same_content(self, data: Path, tmp_path: Path) -> None:
        path, written = deployed(data)
        create_snapshot(str(path), str(tmp_path / "copy.db"))
        restore_database(str(tmp_path / "copy.db"), str(path))
        with writing(path, rate=5000, checkpoint=0, rows=5):
            pass
        assert len(numbers_in(path)) > written
        assert restore_database(str(tmp_path / "copy.db"), str(path)).changed
        assert application_view(path) == rows(written)

    def test_check_changes_nothing(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        files = [data / name for name in names_in(data)]
        before = fingerprint(*files)
        with running(HOLDER, str(path)):
            assert restore_database(str(backup), str(path), keep_previous=True, uid=7, check=True).changed
        assert fingerprint(*files) == before
        assert names_in(data) == sorted(before)


class TestRefusing:
    @pytest.mark.parametrize("journal_mode", ["WAL", "DELETE"])
    def test_while_somebody_has_it_open(self, data: Path, backup: Path, journal_mode: str) -> None:
        path = make_database(data / "opstage.db", 10, journal_mode)
        with running(HOLDER, str(path), "SELECT count(*) FROM entries") as holder:
            error = refused(backup, path)
            held = find_holders(str(path))
        assert error.reason is Reason.IN_USE
        assert f"process {holder.pid} (python" in str(error)
        assert {found.pid for found in held} == {holder.pid}
        assert str(path) in {found.file for found in held}
        assert find_holders(str(path)) == []
        assert application_view(path) == rows(10)

    def test_wrong_checksum(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        before = fingerprint(path, Path(f"{path}-wal"))
        error = refused(backup, path, expected_sha256="0" * 64)
        assert error.reason is Reason.DAMAGED_SOURCE
        assert "0" * 64 in str(error)
        assert fingerprint(path, Path(f"{path}-wal")) == before
        right = fingerprint(backup)["backup.db"][0]
        assert restore_database(str(backup), str(path), expected_sha256=right.upper()).changed

    def test_copy_whose_changes_are_in_a_log(self, tmp_path: Path, data: Path) -> None:
        path, _written = deployed(data)
        killed_deployment(tmp_path / "copied.db")
        error = refused(tmp_path / "copied.db", path)
        assert error.reason is Reason.REFUSED
        assert "sqlite_backup" in str(error)

    def test_bad_copies(self, tmp_path: Path, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        before = fingerprint(path, Path(f"{path}-wal"))
        (tmp_path / "empty.db").write_bytes(b"")
        (tmp_path / "text.db").write_bytes(b"text " * 100)
        (tmp_path / "short.db").write_bytes(backup.read_bytes()[:-4096])
        (tmp_path / "link.db").symlink_to(backup)
        os.mkfifo(tmp_path / "fifo.db")
        for name, reason in (
            ("none.db", Reason.MISSING),
            ("empty.db", Reason.NOT_A_DATABASE),
            ("text.db", Reason.NOT_A_DATABASE),
            ("short.db", Reason.DAMAGED_SOURCE),
            ("link.db", Reason.REFUSED),
            ("fifo.db", Reason.REFUSED),
        ):
            assert refused(tmp_path / name, path).reason is reason
        assert fingerprint(path, Path(f"{path}-wal")) == before

    def test_bad_destinations(self, tmp_path: Path, data: Path, backup: Path) -> None:
        (data / "link.db").symlink_to(tmp_path / "elsewhere.db")
        (data / "folder.db").mkdir()
        assert refused(backup, data / "link.db").reason is Reason.REFUSED
        assert refused(backup, data / "folder.db").reason is Reason.REFUSED
        assert refused(backup, backup).reason is Reason.REFUSED
        assert not (tmp_path / "elsewhere.db").exists()
        with pytest.raises(RestoreError, match="create it first"):
            restore_database(str(backup), str(tmp_path / "none" / "opstage.db"))

    def test_no_space_for_the_copy(self, tmp_path: Path) -> None:
        large = make_database(tmp_path / "large.db", 5_000)
        with mounted_tmpfs(tmp_path / "small", "256k") as small:
            path = make_database(small / "opstage.db", 10)
            assert refused(large, path).reason is Reason.NO_SPACE
            assert application_view(path) == rows(10)


# The files whose code changes something; looking into other processes and verifying do not.
CHANGING = ("module_utils/sqlite_files.py", "module_utils/sqlite_restore.py")


class LineCounter:
    """A trace function: counts lines of CHANGING from the first step on; kills this process before a given one."""

    def __init__(self, kill_before: int | None = None) -> None:
        self.count = 0
        self._begun = False
        self._kill_before = kill_before

    def __call__(self, frame: FrameType, event: str, _argument: object) -> LineCounter | None:
        if not frame.f_code.co_filename.endswith(CHANGING) or frame.f_code.co_name == "identity":
            return None
        self._begun = self._begun or frame.f_code.co_name == "_stage"
        if event == "line" and self._begun:
            self.count += 1
            if self.count == self._kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def killed_restore(backup: Path, path: Path, moment: int) -> bool:
    """Restore in a child that is killed before its ``moment``-th line; False when it ended before that."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.settrace(LineCounter(moment))
            restore_database(str(backup), str(path), keep_previous=True)
            status = 0
        finally:
            os._exit(status)
    _pid, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def lines_of_a_restore(backup: Path, path: Path) -> int:
    """How many lines of the core run from its first to its last."""
    counter = LineCounter()
    previous = sys.gettrace()
    sys.settrace(counter)
    try:
        restore_database(str(backup), str(path), keep_previous=True)
    finally:
        sys.settrace(previous)
    return counter.count


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder whose syncs cost nothing: what a killed process leaves does not depend on the disk."""
    with mounted_tmpfs(tmp_path / "memory", "256m") as folder:
        yield folder


def test_killed_anywhere_leaves_the_old_database_or_the_new_one(memory: Path, backup: Path) -> None:
    """Before every second line from the first step on: no two calls into the system or SQLite share a line."""
    template = memory / "template"
    template.mkdir()
    written = killed_deployment(template / "opstage.db")

    def fresh(name: str) -> Path:
        folder = memory / name
        folder.mkdir()
        for file in template.iterdir():
            copied = folder / file.name
            copied.write_bytes(file.read_bytes())
            os.chown(copied, 100, 101)
        return folder / "opstage.db"

    total = lines_of_a_restore(backup, fresh("measured"))
    seen: dict[int, int] = {}
    kept_alone = 0
    moments = range(1, total + 1, 2)
    for moment in moments:
        path = fresh(f"killed-{moment}")
        assert killed_restore(backup, path, moment)
        assert (path.stat().st_uid, path.stat().st_gid) == (100, 101)
        found = application_view(path)
        assert found in (rows(written), rows(BACKUP_ROWS))
        seen[len(found)] = seen.get(len(found), 0) + 1
        restore_database(str(backup), str(path))
        assert application_view(path) == rows(BACKUP_ROWS)
        left = [name for name in names_in(path.parent) if name != "opstage.db"]
        for name in left:
            assert name.endswith("~")
            assert numbers_in(path.parent / name) == rows(written)
            kept_alone += 1
    assert set(seen) == {written, BACKUP_ROWS}
    assert sum(seen.values()) == len(moments) > 100
    assert kept_alone > 0
