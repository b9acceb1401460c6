# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sqlite3
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import (
    DatabaseFileError,
    Deadline,
    opened_folder,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_worker import Channel, Child, enter_folder
from sqlite_testing import make_database, numbers_in, wait_until


def test_folder_as_root_lends_nothing_to_the_child(tmp_path: Path) -> None:
    """Neither a module nor a source of random numbers is taken from a folder in which others write."""
    assert os.geteuid() == 0, "only root can change its root"
    database = make_database(tmp_path / "opstage.db", 3)
    planted = Path(f"{tmp_path}{os.path.dirname(contextlib.__file__)}")
    planted.mkdir(parents=True)
    (planted / "planted_here.py").write_text("")
    (tmp_path / "dev").mkdir()
    os.mkfifo(tmp_path / "dev" / "urandom")

    def work(_channel: Channel) -> list[object]:
        path = enter_folder(folder, str(database))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("INSERT INTO entries VALUES (4, hex(randomblob(8)))")
        try:
            importlib.import_module("planted_here")
        except ModuleNotFoundError:
            return [path, os.listdir("/"), "no module"]
        return []

    with opened_folder(str(tmp_path)) as folder, Child(work, "looking around") as child:
        path, names, module = child.answer(Deadline(20))["result"]
    assert (path, module) == ("/opstage.db", "no module")
    assert "opstage.db" in names
    assert numbers_in(database) == [1, 2, 3, 4]


@pytest.mark.parametrize("ended", [False, True])
def test_child_that_fails_before_it_is_asked_says_why(tmp_path: Path, ended: bool) -> None:
    """The request is sent before or after the child's end, and never read."""
    go = tmp_path / "go"

    def work(_channel: Channel) -> None:
        wait_until(go.exists)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Child(work, "trying") as child:
        if not ended:
            child.send({"do": "it"})
        go.touch()
        # Without reaping it.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        if ended:
            child.send({"do": "it"})
        with pytest.raises(DatabaseFileError, match="Input/output error"):
            child.answer(Deadline(20))
