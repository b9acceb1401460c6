# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import sqlite_restore
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import (
    Progress,
    Reason,
    StagedFile,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_restore import (
    RestoreError,
    find_holders,
    restore_database,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import create_snapshot
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_verify import verify_database
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
    wait_until,
    writing,
)

BACKUP_ROWS = 20
REFUSED = 3

ACCESS_LIST = "system.posix_acl_access"
DEFAULT_LIST = "system.posix_acl_default"
LABEL = b"system_u:object_r:container_file_t:s0:c1,c2\0"


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


def access_list(owner: int, user: tuple[int, int], group: int, mask: int, other: int) -> bytes:
    """A POSIX ACL with permissions for one more user (uid, permissions), as its extended attribute holds it."""
    nobody = 0xFFFFFFFF
    entries = ((1, owner, nobody), (2, user[1], user[0]), (4, group, nobody), (16, mask, nobody), (32, other, nobody))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def name_super_journal(journal: Path, named: str) -> None:
    """Let a rollback journal belong to the transaction over several databases of which ``named`` has the list."""
    name = os.fsencode(named)
    lock_page = 0x40000000 // 4096 + 1
    with open(journal, "ab") as file:
        file.write(struct.pack(">I", lock_page) + name + struct.pack(">II", len(name), sum(name)))
        file.write(bytes.fromhex("d9d505f920a163d7"))


def write_log(log: Path, page: int, pages: int, content: bytes) -> None:
    """A WAL of one valid frame: ``content`` as the page of that number, in a database of ``pages``."""

    def checksum(data: bytes, first: int = 0, second: int = 0) -> tuple[int, int]:
        for left, right in struct.iter_unpack("<II", data):
            first = (first + left + second) & 0xFFFFFFFF
            second = (second + right + first) & 0xFFFFFFFF
        return first, second

    header = struct.pack(">IIIIII", 0x377F0682, 3007000, len(content), 0, 1, 2)
    checked = checksum(header)
    frame = struct.pack(">II", page, pages)
    frame_checked = checksum(frame + content, *checked)
    log.write_bytes(
        header + struct.pack(">II", *checked) + frame + struct.pack(">IIII", 1, 2, *frame_checked) + content
    )


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

    @pytest.mark.parametrize("expected", ["", "ab", "g" * 64, "0" * 65, "0" * 63 + "\n"])
    def test_checksum_that_is_none(self, data: Path, backup: Path, expected: str) -> None:
        error = refused(backup, data / "opstage.db", expected_sha256=expected)
        assert error.reason is Reason.REFUSED
        assert "64 hexadecimal digits" in str(error)

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


class TestTakingItsTime:
    def test_progress_of_a_restore(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        told: list[Progress] = []
        restoration = restore_database(str(backup), str(path), progress=told.append)
        assert [phase for phase, _group in itertools.groupby(told, key=lambda progress: progress.phase)] == [
            "verifying",
            "copying",
        ]
        assert (told[-1].done, told[-1].total) == (restoration.size, restoration.size)

    def test_timeout_changes_nothing(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        before = fingerprint(path, Path(f"{path}-wal"))

        def wait(progress: Progress) -> None:
            if progress.phase == "copying":
                time.sleep(0.5)

        assert refused(backup, path, timeout=0).reason is Reason.TIMEOUT
        assert refused(backup, path, timeout=0.5, progress=wait).reason is Reason.TIMEOUT
        assert fingerprint(path, Path(f"{path}-wal")) == before


class TestOthersMeanwhile:
    def test_opened_between_the_two_checks(self, data: Path, backup: Path) -> None:
        path, written = deployed(data)
        with contextlib.ExitStack() as running_until_the_end:

            def open_it(progress: Progress) -> None:
                if progress.phase == "copying" and progress.done == progress.total:
                    running_until_the_end.enter_context(running(HOLDER, str(path), "SELECT count(*) FROM entries"))

            error = refused(backup, path, keep_previous=True, progress=open_it)
        assert error.reason is Reason.IN_USE
        assert application_view(path) == rows(written)

    @pytest.mark.parametrize(("journal_mode", "statement"), [("WAL", "SELECT 1"), ("DELETE", "BEGIN IMMEDIATE")])
    def test_locked_by_somebody_who_is_not_to_be_seen(
        self, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch, journal_mode: str, statement: str
    ) -> None:
        path = make_database(data / "opstage.db", 10, journal_mode)
        monkeypatch.setattr(sqlite_restore, "find_holders", lambda *_arguments: [])
        with running(HOLDER, str(path), "SELECT count(*) FROM entries", statement):
            before = fingerprint(path)
            assert refused(backup, path, keep_previous=True).reason is Reason.LOCKED
            assert fingerprint(path) == before

    def test_opened_in_the_moment_of_the_replacement(
        self, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = make_database(data / "opstage.db", 10)
        publish = StagedFile.publish
        with contextlib.ExitStack() as running_until_the_end:

            def publish_late(staged: StagedFile, name: str, replace: bool) -> None:
                running_until_the_end.enter_context(running(HOLDER, str(path)))
                publish(staged, name, replace)

            monkeypatch.setattr(StagedFile, "publish", publish_late)
            with pytest.raises(RestoreError, match="damages the new one") as caught:
                restore_database(str(backup), str(path))
        assert caught.value.reason is Reason.IN_USE

    def test_replaced_by_another_restore(self, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = make_database(data / "opstage.db", 10)
        other = make_database(data / "other.db", 30)

        def replace(progress: Progress) -> None:
            if progress.phase == "copying" and other.exists():
                other.rename(path)

        with pytest.raises(RestoreError, match="moved or replaced meanwhile") as caught:
            restore_database(str(backup), str(path), progress=replace)
        assert caught.value.reason is Reason.REFUSED
        assert application_view(path) == rows(30)


class TestPuttingBack:
    @pytest.mark.parametrize("keep_previous", [True, False])
    @pytest.mark.parametrize("damaged", [True, False])
    def test_when_the_name_cannot_be_given(
        self, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch, keep_previous: bool, damaged: bool
    ) -> None:
        path, written = deployed(data)
        os.unlink(f"{path}-shm")
        if damaged:
            os.truncate(path, 50)
        before = fingerprint(path, Path(f"{path}-wal"))

        def fail(_staged: StagedFile, _name: str, replace: bool) -> None:
            assert not os.path.exists(f"{path}-wal")
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(StagedFile, "publish", fail)
        with pytest.raises(RestoreError, match="Input/output error") as caught:
            restore_database(str(backup), str(path), keep_previous=keep_previous)
        assert caught.value.reason is Reason.SYSTEM
        if damaged:
            assert names_in(data) == ["opstage.db", "opstage.db-wal"]
            assert fingerprint(path, Path(f"{path}-wal")) == before
        else:
            assert names_in(data) == ["opstage.db"]
            assert application_view(path) == rows(written)

    def test_damaged_one_that_is_not_to_be_kept_leaves_nothing(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        os.truncate(path, 50)
        restoration = restore_database(str(backup), str(path))
        assert restoration.backup_file is None
        assert names_in(data) == ["opstage.db"]

    def test_never_beside_the_new_file(self, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error after the new file has the name: the folder cannot be synced."""
        path, _written = deployed(data)
        os.truncate(path, 50)
        database, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        publish = StagedFile.publish

        def publish_and_fail(staged: StagedFile, name: str, replace: bool) -> None:
            publish(staged, name, replace)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(StagedFile, "publish", publish_and_fail)
        with pytest.raises(RestoreError, match="Input/output error"):
            restore_database(str(backup), str(path))
        kept = data / next(name for name in names_in(data) if name.endswith("~"))
        assert names_in(data) == ["opstage.db", kept.name, f"{kept.name}-wal"]
        assert (kept.read_bytes(), Path(f"{kept}-wal").read_bytes()) == (database, log)
        assert application_view(path) == rows(BACKUP_ROWS)

    def test_kept_one_by_hand(self, data: Path, backup: Path) -> None:
        """As the documentation has it: copy both files back to their first names."""
        path, _written = deployed(data)
        os.truncate(path, 50)
        database, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        kept = restore_database(str(backup), str(path), keep_previous=True).backup_file
        for suffix in ("", "-wal"):
            subprocess.run(["cp", "--preserve", f"{kept}{suffix}", f"{path}{suffix}"], check=True)
        assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == (database, log)
        assert fingerprint(path)["opstage.db"][2:] == (100, 101, 0o100644)


class TestPlaces:
    def test_source_on_read_only_media_which_only_root_may_read(self, tmp_path: Path, data: Path) -> None:
        path, _written = deployed(data)
        with mounted_tmpfs(tmp_path / "media", "1m") as media:
            source = make_database(media / "backup.db", BACKUP_ROWS)
            source.chmod(0o400)
            subprocess.run(["mount", "-o", "remount,ro", str(media)], check=True)
            restore_database(str(source), str(path), keep_previous=True)
            assert names_in(media) == ["backup.db"]
        assert application_view(path) == rows(BACKUP_ROWS)
        assert fingerprint(path)["opstage.db"][2:] == (100, 101, 0o100644)

    @pytest.mark.parametrize("check", [True, False])
    def test_read_only_folder(self, tmp_path: Path, backup: Path, check: bool) -> None:
        with mounted_tmpfs(tmp_path / "media", "1m") as media:
            path = make_database(media / "opstage.db", 10)
            subprocess.run(["mount", "-o", "remount,ro", str(media)], check=True)
            error = refused(backup, path, check=check)
        assert error.reason is Reason.SYSTEM
        assert "read-only file system; make it writable" in str(error)

    @pytest.mark.parametrize("keep_previous", [True, False])
    def test_file_that_is_mounted_alone(self, data: Path, backup: Path, keep_previous: bool) -> None:
        path, written = deployed(data)
        subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
        try:
            error = refused(backup, path, keep_previous=keep_previous)
        finally:
            subprocess.run(["umount", str(path)], check=True)
        assert error.reason is Reason.REFUSED
        assert "mount of its own" in str(error)
        assert application_view(path) == rows(written)

    @pytest.mark.parametrize("early", [True, False])
    def test_full_disk(self, tmp_path: Path, backup: Path, early: bool) -> None:
        """No space for the copy, or later none for what the log adds to the old database."""
        with mounted_tmpfs(tmp_path / "small", "1m") as small:
            path = small / "opstage.db"
            written = killed_deployment(path)
            before = fingerprint(Path(f"{path}-wal"))

            def fill(progress: Progress) -> None:
                if early or (progress.phase == "copying" and progress.done == progress.total):
                    with contextlib.suppress(OSError), open(small / "ballast", "ab", buffering=0) as file:
                        while True:
                            file.write(b"\0" * 4096)

            with pytest.raises(RestoreError) as caught:
                restore_database(str(backup), str(path), keep_previous=True, progress=fill)
            assert caught.value.reason is Reason.NO_SPACE
            assert ("are free" in str(caught.value)) == early
            assert names_in(small) == ["ballast", "opstage.db", "opstage.db-shm", "opstage.db-wal"]
            assert fingerprint(Path(f"{path}-wal")) == before
            (small / "ballast").unlink()
            assert application_view(path) == rows(written)

    @pytest.mark.parametrize("content", [b"", b"text, no database " * 1000])
    def test_what_is_no_database_is_replaced_and_kept(self, data: Path, backup: Path, content: bytes) -> None:
        path = data / "opstage.db"
        path.write_bytes(content)
        kept = restore_database(str(backup), str(path), keep_previous=True).backup_file
        assert kept is not None
        assert Path(kept).read_bytes() == content
        assert application_view(path) == rows(BACKUP_ROWS)

    def test_by_the_databases_owner(self) -> None:
        """Who is not root cannot change the root of a process."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = make_database(folder / "backup.db", BACKUP_ROWS)
            written = killed_deployment(folder / "opstage.db")
            for path in (folder, *folder.iterdir()):
                os.chown(path, 100, 101)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    os.setgroups([])
                    os.setgid(101)
                    os.setuid(100)
                    restore_database(str(source), str(folder / "opstage.db"), keep_previous=True)
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            assert application_view(folder / "opstage.db") == rows(BACKUP_ROWS)
            kept = next(name for name in names_in(folder) if name.endswith("~"))
            assert numbers_in(folder / kept) == rows(written)


class TestAccess:
    def test_keeps_the_access_control_list(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        os.setxattr(path, ACCESS_LIST, access_list(owner=6, user=(1234, 6), group=0, mask=6, other=0))
        before = os.getxattr(path, ACCESS_LIST)
        assert path.stat().st_mode & 0o777 == 0o660
        kept = restore_database(str(backup), str(path), keep_previous=True).backup_file
        assert kept is not None
        assert os.getxattr(path, ACCESS_LIST) == os.getxattr(kept, ACCESS_LIST) == before
        assert fingerprint(path)["opstage.db"][2:] == (100, 101, 0o100660)

    def test_given_mode_is_the_mask_of_the_list(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        os.setxattr(path, ACCESS_LIST, access_list(owner=6, user=(1234, 6), group=4, mask=6, other=0))
        restore_database(str(backup), str(path), mode=0o640)
        assert path.stat().st_mode & 0o777 == 0o640
        assert os.getxattr(path, ACCESS_LIST) == access_list(owner=6, user=(1234, 6), group=4, mask=4, other=0)

    def test_list_that_the_folder_gives_is_not_added_to_what_had_none(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        os.setxattr(data, DEFAULT_LIST, access_list(owner=7, user=(1234, 7), group=5, mask=7, other=5))
        restore_database(str(backup), str(path))
        assert ACCESS_LIST not in os.listxattr(path)
        assert fingerprint(path)["opstage.db"][2:] == (100, 101, 0o100644)

    def test_where_nothing_was_the_folder_gives_the_list(self, data: Path, backup: Path) -> None:
        os.setxattr(data, DEFAULT_LIST, access_list(owner=7, user=(1234, 6), group=5, mask=7, other=5))
        restore_database(str(backup), str(data / "opstage.db"))
        assert fingerprint(data / "opstage.db")["opstage.db"][2:] == (100, 101, 0o100600)
        given = access_list(owner=6, user=(1234, 6), group=5, mask=0, other=0)
        assert os.getxattr(data / "opstage.db", ACCESS_LIST) == given

    def test_keeps_the_label_and_nobodys_notes(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        os.setxattr(path, "security.selinux", LABEL)
        os.setxattr(path, "user.sha256", b"of what was there")
        restore_database(str(backup), str(path))
        assert os.getxattr(path, "security.selinux") == LABEL
        assert os.listxattr(path) == ["security.selinux"]

    def test_same_content_keeps_the_list_when_the_owner_changes(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        restore_database(str(backup), str(path))
        os.setxattr(path, ACCESS_LIST, access_list(owner=6, user=(1234, 6), group=4, mask=6, other=0))
        assert restore_database(str(backup), str(path), uid=7, gid=8).changed
        assert fingerprint(path)["opstage.db"][2:] == (7, 8, 0o100660)
        assert os.getxattr(path, ACCESS_LIST) == access_list(owner=6, user=(1234, 6), group=4, mask=6, other=0)
        assert not restore_database(str(backup), str(path), uid=7, gid=8).changed

    def test_on_a_file_system_without_extended_attributes(self, tmp_path: Path, backup: Path) -> None:
        folder = tmp_path / "ramfs"
        folder.mkdir()
        subprocess.run(["mount", "-t", "ramfs", "ramfs", str(folder)], check=True)
        try:
            path = make_database(folder / "opstage.db", 10)
            os.chown(path, 100, 101)
            restore_database(str(backup), str(path), keep_previous=True)
            assert fingerprint(path)["opstage.db"][2:] == (100, 101, 0o100644)
            assert application_view(path) == rows(BACKUP_ROWS)
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    def test_what_cannot_be_kept_is_said_before_anything_is_changed(
        self, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, _written = deployed(data)
        os.setxattr(path, "security.selinux", LABEL)
        before = fingerprint(path, Path(f"{path}-wal"))

        def not_supported(_descriptor: int, _name: str, _value: bytes) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "setxattr", not_supported)
        error = refused(backup, path)
        assert error.reason is Reason.SYSTEM
        assert "security.selinux as what was there has it: Operation not supported" in str(error)
        assert fingerprint(path, Path(f"{path}-wal")) == before


class TestPlantedNames:
    @pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
    @pytest.mark.parametrize("kind", ["link", "dangling link", "FIFO", "folder"])
    def test_beside_the_database_are_refused(
        self, tmp_path: Path, data: Path, backup: Path, suffix: str, kind: str
    ) -> None:
        path = make_database(data / "opstage.db", 10)
        planted = Path(f"{path}{suffix}")
        precious = tmp_path / "precious"
        if kind == "FIFO":
            os.mkfifo(planted)
        elif kind == "folder":
            planted.mkdir()
        else:
            planted.symlink_to(precious)
        if kind == "link":
            precious.write_bytes(b"precious")
        error = refused(backup, path)
        assert error.reason is Reason.REFUSED
        assert f"{planted} is a" in str(error)
        assert kind != "link" or precious.read_bytes() == b"precious"
        if kind == "folder":
            planted.rmdir()
        else:
            planted.unlink()
        assert application_view(path) == rows(10)

    def test_folder_that_is_a_link_is_refused(self, tmp_path: Path, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        before = fingerprint(path, Path(f"{path}-wal"))
        (tmp_path / "link").symlink_to(data)
        error = refused(backup, tmp_path / "link" / "opstage.db")
        assert error.reason is Reason.REFUSED
        assert "is a symbolic link" in str(error)
        assert fingerprint(path, Path(f"{path}-wal")) == before

    def test_folder_swapped_meanwhile_redirects_nothing(self, tmp_path: Path, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        for suffix in ("", "-wal"):
            Path(f"{elsewhere}/opstage.db{suffix}").write_bytes(b"precious")

        def swap(progress: Progress) -> None:
            if not data.is_symlink():
                data.rename(tmp_path / "moved")
                data.symlink_to(elsewhere)

        restore_database(str(backup), str(path), keep_previous=True, progress=swap)
        assert data.is_symlink()
        assert {name: Path(elsewhere / name).read_bytes() for name in names_in(elsewhere)} == {
            "opstage.db": b"precious",
            "opstage.db-wal": b"precious",
        }
        assert application_view(tmp_path / "moved" / "opstage.db") == rows(BACKUP_ROWS)

    def test_journal_makes_nobody_delete_what_it_names(self, tmp_path: Path, data: Path, backup: Path) -> None:
        """SQLite removes the super-journal that a journal names once no journal refers to it."""
        precious = tmp_path / "precious"
        precious.write_bytes(b"/none-journal\0")
        path = make_database(data / "opstage.db", 5_000)
        with running(HALF_DONE_WRITER, str(path)):
            pass
        name_super_journal(Path(f"{path}-journal"), str(precious))
        before = fingerprint(path, Path(f"{path}-journal"))
        error = refused(backup, path)
        assert error.reason is Reason.REFUSED
        assert "several databases" in str(error)
        assert fingerprint(path, Path(f"{path}-journal")) == before
        assert precious.exists()

    def test_journal_that_names_a_file_at_the_last_moment(
        self, tmp_path: Path, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        precious = tmp_path / "precious"
        precious.write_bytes(b"/none-journal\0")
        path = make_database(data / "opstage.db", 5_000)
        with running(HALF_DONE_WRITER, str(path)):
            pass
        name_super_journal(Path(f"{path}-journal"), str(precious))
        monkeypatch.setattr(sqlite_restore, "require_no_super_journal", lambda _path: None)
        restore_database(str(backup), str(path))
        assert precious.exists()
        assert application_view(path) == rows(BACKUP_ROWS)

    def test_system_in_the_folder_is_not_used(self, data: Path, backup: Path) -> None:
        """A child whose root is the folder must not look for random numbers in there."""
        path, written = deployed(data)
        (data / "dev").mkdir()
        os.mkfifo(data / "dev" / "urandom")
        restoration = restore_database(str(backup), str(path), keep_previous=True, timeout=20)
        assert numbers_in(Path(str(restoration.backup_file))) == rows(written)

    def test_staged_file_that_is_exchanged_is_noticed(
        self, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, _written = deployed(data)
        publish = StagedFile.publish

        def exchange(staged: StagedFile, name: str, replace: bool) -> None:
            assert os.fstat(staged.descriptor).st_uid == 100
            os.unlink(data / staged.name)
            make_database(data / staged.name, 5)
            publish(staged, name, replace)

        monkeypatch.setattr(StagedFile, "publish", exchange)
        with pytest.raises(RestoreError, match="replaced by another file") as caught:
            restore_database(str(backup), str(path))
        assert caught.value.reason is Reason.REFUSED

    def test_second_name_of_another_file_stays(self, data: Path, backup: Path) -> None:
        path, _written = deployed(data)
        for name in ("opstage.db.mine~", "opstage.db.2026-11-22T17-14-14-633120Z~"):
            (data / name).write_bytes(b"another file")
        os.link(path, data / "opstage.db.link~")
        os.link(path, data / "opstage.db.2026-11-22T17-14-15-000000Z~")
        restore_database(str(backup), str(path))
        assert names_in(data) == [
            "opstage.db",
            "opstage.db.2026-11-22T17-14-14-633120Z~",
            "opstage.db.link~",
            "opstage.db.mine~",
        ]


class TestFolding:
    def test_child_that_ends_by_a_signal_changes_nothing(
        self, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, _written = deployed(data)
        before = fingerprint(path, Path(f"{path}-wal"))

        def end_by_signal(*_arguments: object) -> None:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGBUS)

        monkeypatch.setattr(sqlite_restore, "_fold", end_by_signal)
        error = refused(backup, path, keep_previous=True)
        assert error.reason is Reason.SYSTEM
        assert "SIGBUS" in str(error)
        assert f"nothing was changed; move {path}-wal away" in str(error)
        assert fingerprint(path, Path(f"{path}-wal")) == before

    def test_child_that_hangs_changes_nothing(self, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, _written = deployed(data)
        before = fingerprint(path, Path(f"{path}-wal"))
        monkeypatch.setattr(sqlite_restore, "_fold", lambda *_arguments: signal.pause())
        monkeypatch.setattr(sqlite_restore, "FOLD_SECONDS", 0.2)
        error = refused(backup, path)
        assert error.reason is Reason.SYSTEM
        assert "longer than 0.2 s" in str(error)
        assert refused(backup, path, timeout=1).reason is Reason.SYSTEM
        monkeypatch.setattr(sqlite_restore, "FOLD_SECONDS", 600.0)
        assert refused(backup, path, timeout=1).reason is Reason.TIMEOUT
        assert fingerprint(path, Path(f"{path}-wal")) == before

    def test_schema_that_needs_all_the_memory_is_kept_as_it_is(
        self, data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, _written = deployed(data)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_autocheckpoint=0")
            for number in range(300):
                connection.execute(f"CREATE TABLE t{number} ({', '.join(f'c{n}' for n in range(50))})")
            database, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        path.write_bytes(database)
        Path(f"{path}-wal").write_bytes(log)
        monkeypatch.setattr(
            sqlite_restore, "limit_heap", lambda connection: connection.execute("PRAGMA hard_heap_limit=400000")
        )
        kept = restore_database(str(backup), str(path), keep_previous=True).backup_file
        assert kept is not None
        assert (Path(kept).read_bytes(), Path(f"{kept}-wal").read_bytes()) == (database, log)

    def test_log_that_claims_a_huge_database_fills_no_disk(self, data: Path, backup: Path) -> None:
        path = make_database(data / "opstage.db", 10, "WAL")
        write_log(Path(f"{path}-wal"), page=3_000_000, content=b"\0" * 4096, pages=3_000_000)
        log = Path(f"{path}-wal").read_bytes()
        kept = restore_database(str(backup), str(path), keep_previous=True).backup_file
        assert kept is not None
        assert os.path.getsize(kept) < 2 << 20
        assert Path(f"{kept}-wal").read_bytes() == log
        assert application_view(path) == rows(BACKUP_ROWS)


# The files whose code changes something; looking into other processes and verifying do not.
CHANGING = tuple(f"module_utils/{name}.py" for name in ("byte_copy", "file_access", "sqlite_files", "sqlite_restore"))


class LineCounter:
    """A trace function: counts lines of CHANGING from the function ``first`` on, and kills this process before one.

    With ``folding`` it counts those of the child that folds the log instead, and kills both.
    """

    def __init__(self, kill_before: int, first: str, folding: bool) -> None:
        self.count = 0
        self._first = first
        self._begun = False
        self._kill_before = kill_before
        self._folding = folding
        self._parent = os.getpid()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> LineCounter | None:
        if not frame.f_code.co_filename.endswith(CHANGING) or frame.f_code.co_name == "identity":
            return None
        self._begun = self._begun or frame.f_code.co_name == self._first
        if event == "line" and self._begun and self._folding == (os.getpid() != self._parent):
            self.count += 1
            if self.count == self._kill_before:
                os.kill(self._parent, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def killed_restore(backup: Path, path: Path, moment: int, first: str = "_staged", folding: bool = False) -> bool:
    """Restore in a child that is killed before its ``moment``-th line; False when it ended before that."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.settrace(LineCounter(moment, first, folding))
            restore_database(str(backup), str(path), keep_previous=True)
            status = 0
        finally:
            os._exit(status)
    _pid, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    wait_until(lambda: not find_holders(str(path)) and not any(map(is_locked, path.parent.glob("*.staged"))))
    return os.WIFSIGNALED(status)


def is_locked(file: Path) -> bool:
    """Whether a process that is still ending, such as the one that folds the logs, holds the lock it inherited."""
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder whose syncs cost nothing: what a killed process leaves does not depend on the disk."""
    with mounted_tmpfs(tmp_path / "memory", "256m") as folder:
        yield folder


@pytest.fixture
def verified_once(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifying the copy to restore changes nothing, and takes most of the time."""
    facts = verify_database(str(backup), "full")
    monkeypatch.setattr(sqlite_restore, "verify_database", lambda *_arguments: facts)


@pytest.fixture
def fresh(memory: Path) -> Callable[[str], Path]:
    """Makes one killed deployment after the other, all the same, owned by uid 100."""
    template = memory / "template"
    template.mkdir()
    killed_deployment(template / "opstage.db")

    def make(name: str) -> Path:
        folder = memory / name
        folder.mkdir()
        for file in template.iterdir():
            copied = folder / file.name
            copied.write_bytes(file.read_bytes())
            os.chown(copied, 100, 101)
        return folder / "opstage.db"

    return make


@pytest.mark.usefixtures("verified_once")
@pytest.mark.parametrize(("folding", "least"), [(False, 60), (True, 15)])
def test_killed_anywhere_leaves_the_old_database_or_the_new_one(
    fresh: Callable[[str], Path], backup: Path, folding: bool, least: int
) -> None:
    """Before every second line from the first step on: no two calls into the system or SQLite share a line."""
    written = len(numbers_in(fresh("unharmed")))
    seen: list[int] = []
    kept_alone = 0
    for moment in itertools.count(1, 2):
        path = fresh(f"killed-{moment}")
        if not killed_restore(backup, path, moment, folding=folding):
            break
        assert (path.stat().st_uid, path.stat().st_gid) == (100, 101)
        found = application_view(path)
        assert found in (rows(written), rows(BACKUP_ROWS))
        seen.append(len(found))
        restore_database(str(backup), str(path))
        assert application_view(path) == rows(BACKUP_ROWS)
        for name in set(names_in(path.parent)) - {"opstage.db"}:
            assert name.endswith("~")
            assert numbers_in(path.parent / name) == rows(written)
            kept_alone += 1
    assert set(seen) == ({written} if folding else {written, BACKUP_ROWS})
    assert len(seen) > least
    assert (kept_alone > 0) != folding


@pytest.mark.usefixtures("verified_once")
def test_killed_anywhere_leaves_a_damaged_database_with_its_log(fresh: Callable[[str], Path], backup: Path) -> None:
    """Both under their own names or both under others, until the new one is in place."""
    places: set[str] = set()
    for moment in itertools.count(1):
        path = fresh(f"damaged-{moment}")
        os.truncate(path, 50)
        database, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        if not killed_restore(backup, path, moment, first="_keep"):
            break
        whole = [
            name
            for name in names_in(path.parent)
            if Path(f"{path.parent / name}-wal").exists()
            and (path.parent / name).read_bytes() == database
            and Path(f"{path.parent / name}-wal").read_bytes() == log
        ]
        assert whole
        if path.read_bytes() != database:
            assert not os.path.exists(f"{path}-wal")
            assert application_view(path) == rows(BACKUP_ROWS)
        places.update("kept" if name.endswith("~") else name for name in whole)
    assert places == {"opstage.db", "kept"}


def test_two_restores_at_once_lose_nothing(fresh: Callable[[str], Path], backup: Path, tmp_path: Path) -> None:
    """Each ends or is refused; what was there is found once, kept or in its place."""
    other = make_database(tmp_path / "other.db", 30)
    for number in range(10):
        path = fresh(f"contended-{number}")
        written = numbers_in(path)
        children = [started_restore(source, path) for source in (backup, other)]
        ended = sorted(os.WEXITSTATUS(os.waitpid(child, 0)[1]) for child in children)
        assert ended in ([0, 0], [0, REFUSED], [REFUSED, REFUSED])
        names = [name for name in names_in(path.parent) if name.endswith("~")]
        assert len(names) >= ended.count(0)
        found = [numbers_in(path.parent / name) for name in names] + [application_view(path)]
        assert found.count(written) == 1
        assert [kept for kept in found if kept not in (written, rows(BACKUP_ROWS), rows(30))] == []
        assert names_in(path.parent) == ["opstage.db", *names]


def started_restore(source: Path, path: Path) -> int:
    """The id of a child that restores, and exits with REFUSED when it is not allowed to."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            restore_database(str(source), str(path), keep_previous=True)
            status = 0
        except RestoreError as error:
            status = REFUSED if error.reason in (Reason.IN_USE, Reason.LOCKED, Reason.REFUSED) else 1
            if status == 1:
                os.write(2, f"{error.reason}: {error}\n".encode())
        finally:
            os._exit(status)
    return child
