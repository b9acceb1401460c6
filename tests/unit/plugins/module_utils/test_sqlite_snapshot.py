# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import sqlite_copy, sqlite_hold
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_copy import opened_source
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import (
    DatabaseFileError,
    Deadline,
    Progress,
    Reason,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import (
    Snapshot,
    SnapshotError,
    create_snapshot,
)
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "backups"
    made.mkdir()
    return made


def refused(source: Path, dest: Path, **options: Any) -> SnapshotError:
    """The error of a snapshot that is not made, after which the destination's folder is as it was."""
    before = names_in(dest if dest.is_dir() else dest.parent)
    with pytest.raises(SnapshotError) as caught:
        create_snapshot(str(source), str(dest), **options)
    assert names_in(dest if dest.is_dir() else dest.parent) == before
    return caught.value


class TestWhileSomebodyWrites:
    def test_has_every_row_acknowledged_before_it_and_is_not_starved(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(tmp_path / "live.db", 100_000, "WAL")
        with writing(source, rate=200, rows=20) as writer:
            acknowledged = int(writer.lines[-1])
            snapshot = create_snapshot(str(source), str(folder / "copy.db"), timeout=20)
            during = int(writer.lines[-1]) - acknowledged
            wait_until(lambda: int(writer.lines[-1]) > acknowledged + during)
        numbers = numbers_in(folder / "copy.db")
        assert numbers == list(range(1, len(numbers) + 1))
        assert acknowledged <= len(numbers) <= acknowledged + during
        assert snapshot.method == "raw"
        assert snapshot.source_journal_mode == "wal"
        assert during > 0

    def test_rollback_journal_under_a_busy_writer_comes_to_its_end(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(tmp_path / "live.db", 50_000)
        with writing(source, "DELETE", rate=200, rows=20) as writer:
            acknowledged = int(writer.lines[-1])
            snapshot = create_snapshot(str(source), str(folder / "copy.db"), timeout=30)
            wait_until(lambda: int(writer.lines[-1]) > acknowledged)
        numbers = numbers_in(folder / "copy.db")
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= acknowledged
        # A machine so busy that the writer hardly commits lets the steps come through.
        assert snapshot.method in ("raw", "raw-stepped")
        assert snapshot.source_journal_mode == "delete"

    def test_rollback_journal_at_rest_is_copied_in_steps(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(tmp_path / "idle.db", 20_000)
        before = fingerprint(source)
        states: list[Progress] = []
        snapshot = create_snapshot(str(source), str(folder / "copy.db"), progress=states.append)
        assert snapshot.method == "raw-stepped"
        assert numbers_in(folder / "copy.db") == list(range(1, 20_001))
        assert {state.phase for state in states} == {"copying", "verifying"}
        for phase in ("copying", "verifying"):
            done = [state.done for state in states if state.phase == phase]
            assert done == sorted(done)
            assert done[-1] == snapshot.size
        assert fingerprint(source) == before
        assert names_in(tmp_path) == ["backups", "idle.db"]

    @pytest.mark.parametrize("restarts_allowed", [3, 0])
    def test_rollback_journal_that_becomes_shorter_between_two_steps(
        self, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, restarts_allowed: int
    ) -> None:
        source = make_database(tmp_path / "live.db", 20_000)
        shorten = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])"
        ended: list[int] = []
        end = sqlite_hold.Hold.end

        def end_and_shorten(hold: sqlite_hold.Hold) -> None:
            end(hold)
            ended.append(source.stat().st_size)
            if len(ended) == 3:
                statements = "DELETE FROM entries WHERE number > 1000; VACUUM"
                subprocess.run([sys.executable, "-c", shorten, str(source), statements], check=True)
                # As SQLite before 3.7 leaves it: the file's size holds, not the header's count of pages.
                with source.open("r+b") as file:
                    file.seek(92)
                    file.write(bytes(4))

        monkeypatch.setattr(sqlite_hold.Hold, "end", end_and_shorten)
        monkeypatch.setattr(sqlite_copy, "STEP_BYTES", 1 << 16)
        monkeypatch.setattr(sqlite_copy, "RESTARTS_ALLOWED", restarts_allowed)
        snapshot = create_snapshot(str(source), str(folder / "copy.db"))
        assert ended[0] > 4 * snapshot.size
        assert snapshot.method == ("raw-stepped" if restarts_allowed else "raw")
        assert (folder / "copy.db").read_bytes() == source.read_bytes()
        assert numbers_in(folder / "copy.db") == list(range(1, 1001))


class TestStatesOfTheSource:
    @pytest.mark.parametrize("index_there", [True, False])
    def test_killed_with_everything_in_the_log(self, tmp_path: Path, folder: Path, index_there: bool) -> None:
        source = tmp_path / "opstage.db"
        rows = killed_deployment(source)
        if not index_there:
            os.unlink(f"{source}-shm")
        assert source.stat().st_size == 4096
        before = fingerprint(source, Path(f"{source}-wal"))
        snapshot = create_snapshot(str(source), str(folder / "copy.db"))
        assert numbers_in(folder / "copy.db") == list(range(1, rows + 1))
        assert fingerprint(source, Path(f"{source}-wal")) == before
        assert snapshot.method == "raw"

    def test_closed_in_wal_mode_leaves_sidecars_to_the_owner(self, tmp_path: Path, folder: Path) -> None:
        assert os.geteuid() == 0, "the tests of ownership need root"
        source = make_database(tmp_path / "opstage.db", 100, "WAL")
        os.chown(source, 100, 101)
        before = fingerprint(source)
        create_snapshot(str(source), str(folder / "copy.db"))
        assert fingerprint(source) == before
        owners = [
            (os.lstat(f"{source}{suffix}").st_uid, os.lstat(f"{source}{suffix}").st_gid) for suffix in ("-wal", "-shm")
        ]
        assert owners == [(100, 101), (100, 101)]
        assert os.path.getsize(f"{source}-wal") == 0
        assert numbers_in(folder / "copy.db") == list(range(1, 101))

    def test_without_the_right_to_give_sidecars_away_it_is_refused(
        self, tmp_path: Path, folder: Path, collections_root: Path
    ) -> None:
        source = make_database(tmp_path / "opstage.db", 100, "WAL")
        os.chown(source, 100, 101)
        script = (
            "import sys; from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import *\n"
            "try: create_snapshot(sys.argv[1], sys.argv[2])\n"
            "except SnapshotError as error: sys.stdout.write(error.reason.value + ': ' + str(error))"
        )
        ended = subprocess.run(
            ["setpriv", "--bounding-set=-chown", sys.executable, "-c", script, str(source), str(folder / "copy.db")],
            env={**os.environ, "PYTHONPATH": str(collections_root)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert ended.stdout.startswith("refused for safety: ")
        assert "run as uid 100" in ended.stdout
        assert names_in(tmp_path) == ["backups", "opstage.db"]
        assert names_in(folder) == []

    def test_hot_rollback_journal_is_rolled_back(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(tmp_path / "live.db", 5_000)
        with running(HALF_DONE_WRITER, str(source)):
            pass
        assert os.path.getsize(f"{source}-journal") > 0
        assert b"half done" in source.read_bytes()
        create_snapshot(str(source), str(folder / "copy.db"))
        assert numbers_in(folder / "copy.db") == list(range(1, 5_001))
        assert b"half done" not in (folder / "copy.db").read_bytes()

    def test_read_only_file_system(self, tmp_path: Path, folder: Path) -> None:
        with mounted_tmpfs(tmp_path / "mount", "8m") as mount:
            make_database(mount / "closed.db", 100, "WAL")
            make_database(mount / "journal.db", 100)
            rows = killed_deployment(mount / "killed.db")
            subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
            closed = create_snapshot(str(mount / "closed.db"), str(folder / "closed.db"))
            journal = create_snapshot(str(mount / "journal.db"), str(folder / "journal.db"))
            killed = create_snapshot(str(mount / "killed.db"), str(folder / "killed.db"))
        assert (closed.method, closed.source_journal_mode) == ("at-rest", "wal")
        assert (journal.method, journal.source_journal_mode) == ("raw-stepped", "delete")
        assert (killed.method, killed.source_journal_mode) == ("api", "wal")
        assert numbers_in(folder / "closed.db") == numbers_in(folder / "journal.db") == list(range(1, 101))
        assert numbers_in(folder / "killed.db") == list(range(1, rows + 1))

    @pytest.mark.parametrize("page_size", [512, 4096, 65536])
    @pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
    def test_what_the_application_set_survives(
        self, tmp_path: Path, folder: Path, page_size: int, encoding: str
    ) -> None:
        settings = (
            f"PRAGMA page_size={page_size}",
            f"PRAGMA encoding='{encoding}'",
            "PRAGMA user_version=42",
            "PRAGMA application_id=1330664270",
        )
        source = make_database(tmp_path / "live.db", 300, "WAL", *settings, text="Größe")
        snapshot = create_snapshot(str(source), str(folder / "copy.db"))
        assert (snapshot.page_size, snapshot.user_version, snapshot.application_id) == (page_size, 42, 1330664270)
        assert snapshot.size == page_size * snapshot.page_count == os.path.getsize(folder / "copy.db")
        with contextlib.closing(sqlite3.connect(folder / "copy.db")) as connection:
            assert connection.execute("PRAGMA encoding").fetchone() == (encoding,)
            assert connection.execute("SELECT text FROM entries WHERE number = 7").fetchone() == ("Größe 7 " * 20,)

    @pytest.mark.parametrize(
        "name",
        [
            "with space.db",
            'it\'s "quoted".db',
            "a?b=c.db",
            "a#b.db",
            "100%41.db",
            "a\nb.db",
            "Größe-日本.db",
            "-n;$HOME.db",
        ],
    )
    def test_any_name(self, tmp_path: Path, folder: Path, name: str) -> None:
        source = tmp_path / name
        rows = killed_deployment(source, 5)
        create_snapshot(str(source), str(folder / name))
        assert numbers_in(folder / name) == list(range(1, rows + 1))
        assert names_in(folder) == [name]

    def test_violated_foreign_keys_are_copied_and_counted(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(
            tmp_path / "live.db",
            10,
            "WAL",
            "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
            "CREATE TABLE children (parent INTEGER REFERENCES parents (id))",
            "INSERT INTO children VALUES (1), (2), (3)",
        )
        snapshot = create_snapshot(str(source), str(folder / "copy.db"))
        assert (snapshot.integrity, snapshot.foreign_key_violations) == ("ok", 3)
        with contextlib.closing(sqlite3.connect(folder / "copy.db")) as connection:
            assert connection.execute("SELECT count(*) FROM children").fetchone() == (3,)


class TestTheCopy:
    def test_is_one_private_file_that_opens_read_only(self, tmp_path: Path, folder: Path) -> None:
        killed_deployment(tmp_path / "live.db")
        snapshot = create_snapshot(str(tmp_path / "live.db"), str(folder / "copy.db"))
        assert names_in(folder) == ["copy.db"]
        assert (folder / "copy.db").stat().st_mode & 0o7777 == 0o600
        assert (folder / "copy.db").read_bytes()[18:20] == b"\x01\x01"
        assert fingerprint(folder / "copy.db")["copy.db"][0] == snapshot.sha256
        with contextlib.closing(sqlite3.connect(f"file:{folder}/copy.db?mode=ro", uri=True)) as connection:
            connection.execute("SELECT count(*) FROM entries").fetchone()
            assert names_in(folder) == ["copy.db"]

    def test_gets_a_name_with_the_time_in_a_folder(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(tmp_path / "opstage.db")
        taken: list[Snapshot] = [create_snapshot(str(source), str(folder)) for _attempt in range(3)]
        names = [os.path.basename(snapshot.dest) for snapshot in taken]
        assert names == sorted(set(names)) == names_in(folder)
        assert all(name.startswith("opstage-20") and name.endswith("Z.db") for name in names)

    def test_only_one_of_two_at_once_gets_a_name(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(tmp_path / "live.db", 2_000, "WAL")
        ready = threading.Barrier(8)
        outcomes: list[object] = []

        def attempt() -> None:
            ready.wait()
            try:
                outcomes.append(create_snapshot(str(source), str(folder / "copy.db")))
            except SnapshotError as error:
                outcomes.append(error.reason)

        threads = [threading.Thread(target=attempt) for _attempt in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(outcome, Snapshot) for outcome in outcomes) == 1
        assert outcomes.count(Reason.EXISTS) == 7
        assert names_in(folder) == ["copy.db"]

    def test_replaces_an_existing_one_only_when_told(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(tmp_path / "live.db", 30)
        make_database(folder / "copy.db", 5)
        before = fingerprint(folder / "copy.db")
        assert refused(source, folder / "copy.db").reason is Reason.EXISTS
        assert fingerprint(folder / "copy.db") == before
        create_snapshot(str(source), str(folder / "copy.db"), overwrite=True)
        assert numbers_in(folder / "copy.db") == list(range(1, 31))

    def test_does_not_replace_one_in_use(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(tmp_path / "live.db", 30)
        make_database(folder / "copy.db", 5)
        with running(HOLDER, str(folder / "copy.db"), "SELECT count(*) FROM entries") as holder:
            error = refused(source, folder / "copy.db", overwrite=True)
        assert error.reason is Reason.IN_USE
        assert f"process {holder.pid} (python" in str(error)

    @pytest.mark.parametrize("suffix", ["-wal", "-journal"])
    def test_does_not_lie_beside_the_log_of_another(self, tmp_path: Path, folder: Path, suffix: str) -> None:
        source = make_database(tmp_path / "live.db")
        (folder / f"copy.db{suffix}").write_bytes(b"x" * 100)
        error = refused(source, folder / "copy.db", overwrite=True)
        assert error.reason is Reason.REFUSED
        assert f"copy.db{suffix}" in str(error)

    def test_removes_what_a_killed_one_left_but_not_what_a_living_one_has(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(tmp_path / "live.db", 5_000)
        (folder / ".sqlite-0123456789abcdef.staged").write_bytes(b"left")
        (folder / "kept.staged").write_bytes(b"no name of ours")
        seen: list[list[str]] = []

        def another(_progress: object) -> None:
            if not seen:
                seen.append(names_in(folder))
                create_snapshot(str(source), str(folder / "inner.db"))

        create_snapshot(str(source), str(folder / "outer.db"), progress=another)
        assert ".sqlite-0123456789abcdef.staged" not in seen[0]
        assert len(seen[0]) == 2
        assert names_in(folder) == ["inner.db", "kept.staged", "outer.db"]


class TestBadInput:
    def test_missing_source_is_not_created(self, tmp_path: Path, folder: Path) -> None:
        assert refused(tmp_path / "none.db", folder / "copy.db").reason is Reason.MISSING
        assert names_in(tmp_path) == ["backups"]

    @pytest.mark.parametrize("content", [b"", b"SQLite", b"no database, only text. " * 50])
    def test_no_database(self, tmp_path: Path, folder: Path, content: bytes) -> None:
        (tmp_path / "some.db").write_bytes(content)
        assert refused(tmp_path / "some.db", folder / "copy.db").reason is Reason.NOT_A_DATABASE

    def test_no_plain_file(self, tmp_path: Path, folder: Path) -> None:
        make_database(tmp_path / "real.db")
        os.mkfifo(tmp_path / "fifo.db")
        (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
        (tmp_path / "folder.db").mkdir()
        os.mknod(tmp_path / "device.db", 0o20600, os.makedev(1, 3))
        for name, kind in (
            ("fifo.db", "a FIFO"),
            ("link.db", "a symbolic link"),
            ("folder.db", "a folder"),
            ("device.db", "a character device"),
        ):
            error = refused(tmp_path / name, folder / "copy.db")
            assert error.reason is Reason.REFUSED
            assert f"{name} is {kind}" in str(error)

    @pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
    def test_planted_link_as_sidecar(self, tmp_path: Path, folder: Path, suffix: str) -> None:
        source = make_database(tmp_path / "live.db", 10, "WAL")
        (tmp_path / "secret").write_bytes(b"secret")
        Path(f"{source}{suffix}").symlink_to(tmp_path / "secret")
        assert refused(source, folder / "copy.db").reason is Reason.REFUSED
        assert (tmp_path / "secret").read_bytes() == b"secret"

    def test_destination(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(tmp_path / "live.db")
        with pytest.raises(SnapshotError, match="create it first"):
            create_snapshot(str(source), str(tmp_path / "none" / "copy.db"))
        (folder / "dangling.db").symlink_to(tmp_path / "elsewhere.db")
        assert refused(source, folder / "dangling.db", overwrite=True).reason is Reason.REFUSED
        assert not (tmp_path / "elsewhere.db").exists()
        assert refused(source, source, overwrite=True).reason is Reason.REFUSED
        with pytest.raises(ValueError, match="full, quick, none"):
            create_snapshot(str(source), str(folder / "copy.db"), verify="some")

    def test_locked_by_somebody_else(self, tmp_path: Path, folder: Path) -> None:
        source = make_database(tmp_path / "live.db")
        with running(HOLDER, str(source), "BEGIN EXCLUSIVE"):
            started = time.monotonic()
            error = refused(source, folder / "copy.db", timeout=0.5)
        assert error.reason is Reason.LOCKED
        assert time.monotonic() - started < 5


class TestMishaps:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return make_database(tmp_path / "live.db", 20_000, "WAL")

    def test_timeout(self, source: Path, folder: Path) -> None:
        error = refused(source, folder, timeout=0.2, progress=lambda _progress: time.sleep(0.15))
        assert error.reason is Reason.TIMEOUT
        assert "0.2 s" in str(error)

    def test_timeout_of_the_verification(self, source: Path, folder: Path) -> None:
        def wait_at_the_end(progress: Progress) -> None:
            if progress.phase == "copying" and progress.done == progress.total:
                time.sleep(0.5)

        assert refused(source, folder, timeout=0.4, progress=wait_at_the_end).reason is Reason.TIMEOUT

    def test_too_little_space_is_seen_before(self, source: Path, tmp_path: Path) -> None:
        with mounted_tmpfs(tmp_path / "small", "1m") as small:
            error = refused(source, small / "copy.db")
        assert error.reason is Reason.NO_SPACE
        assert "bytes are needed" in str(error)

    def test_disk_fills_up_meanwhile(self, source: Path, tmp_path: Path) -> None:
        with mounted_tmpfs(tmp_path / "small", "16m") as small:
            (small / "ballast").write_bytes(b"")

            def fill(_progress: object) -> None:
                with contextlib.suppress(OSError), open(small / "ballast", "ab", buffering=0) as ballast:
                    while True:
                        ballast.write(b"x" * 4096)

            error = refused(source, small / "copy.db", progress=fill)
        assert error.reason is Reason.NO_SPACE
        assert "No space left on device" in str(error)

    def test_source_truncated_meanwhile(self, source: Path, folder: Path) -> None:
        error = refused(source, folder, verify="none", progress=lambda _progress: os.truncate(source, 8192))
        assert error.reason is Reason.DAMAGED_SOURCE

    def test_source_replaced_meanwhile(self, source: Path, folder: Path) -> None:
        shutil.copy(source, f"{source}.other")
        replaced: list[bool] = []

        def replace(_progress: object) -> None:
            if not replaced:
                os.rename(f"{source}.other", source)
                replaced.append(True)

        assert refused(source, folder, progress=replace).reason is Reason.REFUSED

    def test_damaged_source(self, source: Path, folder: Path) -> None:
        with open(source, "r+b") as file:
            file.seek(4096 * 500)
            file.write(b"\xff" * 4096)
        error = refused(source, folder)
        assert error.reason is Reason.DAMAGED_SOURCE
        assert "live.db is damaged" in str(error)
        assert create_snapshot(str(source), str(folder), verify="none").integrity == "not checked"

    def test_failing_progress_leaves_nothing(self, source: Path, folder: Path) -> None:
        def fail(_progress: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            create_snapshot(str(source), str(folder), progress=fail)
        assert names_in(folder) == []

    def test_fifo_put_in_the_place_of_a_log_meanwhile(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sqlite_hold, "BEGIN_SECONDS", 0.5)
        with opened_source(str(source)) as opened:
            os.mkfifo(f"{source}-journal")
            hold = sqlite_hold.Hold(opened.path, opened.descriptor, opened.folder, Deadline(None))
            with hold, pytest.raises(DatabaseFileError) as caught:
                hold.begin()
        assert caught.value.reason is Reason.REFUSED
        assert "within 0.5 s" in str(caught.value)
