# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import identity, opened_folder
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_holders import (
    describe_holders,
    find_foreign_logs,
    find_holders,
    holders_of,
)
from sqlite_testing import HOLDER, make_database, running

WRITING = ("PRAGMA journal_mode=WAL", "INSERT INTO entries (text) VALUES ('in the log')")

# Mounts its last argument alone over its first one, in a mount namespace of its own (unshare(2), CLONE_NEWNS).
MOUNTING = """
import ctypes, subprocess, sys
assert ctypes.CDLL(None).unshare(0x20000) == 0
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", sys.argv.pop(), sys.argv[1]], check=True)
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return make_database(tmp_path / "data" / "opstage.db", 10)


@contextlib.contextmanager
def mounted_file(file: Path, at: Path) -> Iterator[Path]:
    """``file`` alone bind-mounted at ``at``, as ``docker run -v FILE:FILE`` does it."""
    at.parent.mkdir()
    at.touch()
    subprocess.run(["mount", "--bind", str(file), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


class TestHolders:
    def test_of_a_database_in_a_folder_that_was_moved(self, database: Path, tmp_path: Path) -> None:
        with opened_folder(str(database.parent)) as folder, running(HOLDER, str(database), *WRITING) as holder:
            database.parent.rename(tmp_path / "moved")
            assert find_holders(str(database)) == []
            found = find_holders(str(database), folder)
            assert {one.pid for one in found} == {holder.pid}
            assert [one.file for one in found] == [f"{database}{suffix}" for suffix in ("", "-shm", "-wal")]

    def test_of_a_file_that_has_no_name_any_more(self, database: Path) -> None:
        file = identity(database.stat())
        with running(HOLDER, str(database)) as holder:
            database.unlink()
            assert [(one.pid, one.file) for one in holders_of({file: "it"})] == [(holder.pid, "it")]


class TestForeignLogs:
    def test_none_of_who_uses_the_log_beside_the_database(self, database: Path) -> None:
        with running(HOLDER, str(database), *WRITING) as holder:
            assert {found.pid for found in find_holders(str(database))} == {holder.pid}
            assert find_foreign_logs(str(database)) == []

    def test_none_of_a_database_with_a_rollback_journal_or_without_a_file(self, database: Path) -> None:
        with running(HOLDER, str(database), "SELECT count(*) FROM entries"):
            assert find_foreign_logs(str(database)) == []
        assert find_foreign_logs(str(database.parent / "none.db")) == []

    def test_of_a_process_which_has_the_file_alone_mounted(self, database: Path, tmp_path: Path) -> None:
        alone = tmp_path / "container" / "app.db"
        with mounted_file(database, alone) as mounted, running(HOLDER, str(mounted), *WRITING) as holder:
            (found,) = find_foreign_logs(str(database))
            assert (found.pid, found.file) == (holder.pid, f"{mounted}-wal")
            assert f"process {holder.pid} (python" in describe_holders([found])
            assert not os.path.exists(f"{database}-wal")

    def test_of_a_process_in_a_mount_namespace_of_its_own(self, database: Path, tmp_path: Path) -> None:
        inside = tmp_path / "inside"
        inside.mkdir()
        (inside / "opstage.db").touch()
        with running(MOUNTING + HOLDER, str(inside / "opstage.db"), *WRITING, str(database)) as holder:
            (found,) = find_foreign_logs(str(database))
            assert (found.pid, found.file) == (holder.pid, f"{inside}/opstage.db-wal")
            assert os.path.getsize(inside / "opstage.db") == 0, "the mount is not seen from here"

    def test_of_a_process_which_opened_a_second_hard_link(self, database: Path) -> None:
        other = database.parent / "other.db"
        os.link(database, other)
        with running(HOLDER, str(other), *WRITING) as holder:
            assert [(found.pid, found.file) for found in find_foreign_logs(str(database))] == [
                (holder.pid, f"{other}-wal")
            ]
            assert find_foreign_logs(str(other)) == []

    def test_of_a_process_whose_log_was_deleted(self, database: Path) -> None:
        with running(HOLDER, str(database), *WRITING) as holder:
            os.unlink(f"{database}-wal")
            assert [(found.pid, found.file) for found in find_foreign_logs(str(database))] == [
                (holder.pid, f"{database}-wal")
            ]

    def test_none_of_a_process_which_has_another_database_of_that_name_open_too(
        self, database: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "other").mkdir()
        other = make_database(tmp_path / "other" / "opstage.db", 10)
        statements = (
            *WRITING,
            f"ATTACH '{other}' AS other",
            "PRAGMA other.journal_mode=WAL",
            "SELECT * FROM other.entries",
        )
        with running(HOLDER, str(database), *statements):
            assert find_foreign_logs(str(database)) == []
