# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import (
    DeploymentLockError,
    find_holder,
    release_lock,
    renew_lock,
    take_lock,
)
from ansible_collections.capsule.opstage.plugins.module_utils.journal import (
    JournalError,
    append_entry,
    find_last_upgrade,
    find_unfinished,
    journal_path,
    read_entries,
    without_empty_text,
)
from sqlite_testing import mounted_tmpfs

# Appends an entry where a file may not grow beyond so many bytes, as on a disk that is nearly full.
WRITER_WITHOUT_ROOM = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.capsule.opstage.plugins.module_utils.journal import JournalError, append_entry
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    append_entry(sys.argv[2], "upgrade", "finished", "1", {"padding": "x" * 1000})
except JournalError as error:
    print(error)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "opstage" / "journal.jsonl"


def add(
    path: Path, operation: str = "upgrade", status: str = "started", run: str = "1", **details: Any
) -> dict[str, Any]:
    return append_entry(str(path), operation, status, run, details)


class TestFile:
    def test_entries_come_back_in_their_order(self, path: Path) -> None:
        assert read_entries(str(path)) == []
        source = {"version": "0.2.0", "image": "repo:0.2.0", "note": "Zürich \u2028 line"}
        written = [add(path, "upgrade", "started", source=source), add(path, "upgrade", "finished", source=source)]
        assert read_entries(str(path)) == written
        assert [(entry["operation"], entry["status"], entry["source"]) for entry in written] == [
            ("upgrade", "started", source),
            ("upgrade", "finished", source),
        ]
        for entry in written:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry["time"])
        assert written[0]["time"] <= written[1]["time"]
        assert [json.loads(line) for line in path.read_text().splitlines()] == written

    def test_only_its_owner_can_read_it(self, path: Path) -> None:
        before = os.umask(0)
        try:
            add(path)
        finally:
            os.umask(before)
        modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent, path.parent.parent)]
        assert modes == [0o600, 0o700, 0o700]

    def test_details_cannot_take_the_place_of_what_happened(self, path: Path) -> None:
        details = {
            "operation": "restore",
            "status": "finished",
            "run": "2",
            "time": "2000-01-01",
            "recovery_point": "/a",
        }
        append_entry(str(path), "upgrade", "started", "1", details)
        (entry,) = read_entries(str(path))
        assert (entry["operation"], entry["status"], entry["recovery_point"]) == ("upgrade", "started", "/a")
        assert entry["run"] == "1"
        assert entry["time"] > "2026"

    def test_a_line_that_was_cut_off_does_not_count_and_spoils_no_other(self, path: Path) -> None:
        whole = [add(path, "upgrade", "started"), add(path, "upgrade", "finished")]
        content = path.read_bytes()
        last = len(content.splitlines(keepends=True)[-1])
        for cut in range(1, last):
            path.write_bytes(content[:-cut])
            expected = whole if cut == 1 else whole[:1]
            assert read_entries(str(path)) == expected
            added = add(path, "rollback", "started")
            assert read_entries(str(path)) == [*expected, added]

    @pytest.mark.parametrize("line", [b"", b"\x00" * 40, b"\xff\xfe", b"[]", b"1", b'{"status": "started"}', b"{}"])
    def test_a_line_that_is_no_entry_does_not_count(self, path: Path, line: bytes) -> None:
        first = add(path)
        with path.open("ab") as stream:
            stream.write(line + b"\n")
        second = add(path, "upgrade", "finished")
        assert read_entries(str(path)) == [first, second]

    def test_a_link_is_not_followed(self, path: Path, tmp_path: Path) -> None:
        path.parent.mkdir(parents=True)
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(JournalError, match=f"The journal {path} cannot be written"):
            add(path)
        assert not (tmp_path / "elsewhere").exists()

    def test_a_folder_that_is_a_link_is_refused(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        path.parent.parent.mkdir()
        path.parent.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(JournalError, match="and no link"):
            add(path)
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_what_cannot_be_read_is_no_empty_journal(self, path: Path) -> None:
        path.mkdir(parents=True)
        with pytest.raises(JournalError, match=f"The journal {path} cannot be read"):
            read_entries(str(path))

    def test_an_entry_that_does_not_fit_on_the_disk_is_an_error(self, path: Path, collections_root: Path) -> None:
        before = add(path)
        limit = path.stat().st_size + 300
        command = [sys.executable, "-c", WRITER_WITHOUT_ROOM, str(collections_root), str(path), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"The journal {path} cannot be written" in done.stdout
        assert path.stat().st_size == limit
        assert read_entries(str(path)) == [before]
        after = add(path)
        assert read_entries(str(path)) == [before, after]

    def test_place(self) -> None:
        assert journal_path("opstage") == "/var/lib/opstage/opstage/journal.jsonl"


# What happened, in which run; the entry with which an operation began that was cut off; the entry that a rollback would
# undo.
HISTORIES: list[tuple[str, int | None, int | None]] = [
    ("", None, None),
    ("1 upgrade started", 0, None),
    ("1 upgrade started, 1 upgrade step", 0, None),
    ("1 upgrade started, 1 upgrade step, 1 upgrade finished", None, 2),
    ("1 upgrade started, 1 upgrade step, 1 upgrade failed", None, None),
    ("1 upgrade started, 1 upgrade finished, 2 upgrade started", 2, 1),
    ("1 upgrade started, 1 upgrade finished, 2 upgrade started, 2 upgrade finished", None, 3),
    ("1 upgrade started, 1 upgrade finished, 2 upgrade started, 2 upgrade step, 2 upgrade failed", None, 1),
    ("1 upgrade started, 1 upgrade finished, 2 rollback started, 2 rollback finished", None, None),
    ("1 upgrade started, 1 upgrade finished, 2 rollback started, 2 rollback step", 2, 1),
    ("1 upgrade started, 1 upgrade finished, 2 rollback started, 2 rollback failed", None, 1),
    ("1 upgrade started, 1 upgrade finished, 2 restore started, 2 restore finished", None, 1),
    ("1 restore started, 1 restore failed, 2 backup started, 2 backup finished", None, None),
    # The next run ends what was cut off, then does what it was started for.
    ("1 upgrade started, 1 upgrade step, 1 upgrade failed, 2 restore started", 3, None),
    ("1 upgrade started, 2 upgrade started, 2 upgrade finished", None, 2),
    ("1 upgrade started, 2 backup started, 1 upgrade failed", 1, None),
]


@pytest.mark.parametrize(("history", "unfinished", "last_upgrade"), HISTORIES, ids=[case[0] for case in HISTORIES])
def test_what_the_history_says(history: str, unfinished: int | None, last_upgrade: int | None, path: Path) -> None:
    for step in filter(None, history.split(", ")):
        run, operation, status = step.split()
        add(path, operation, status, run)
    entries = read_entries(str(path))
    found = find_unfinished(entries)
    if unfinished is None:
        assert found is None
    else:
        began = entries[unfinished]
        newest = [entry for entry in entries[unfinished:] if entry["run"] == began["run"]][-1]
        known = {**{name: began[name] for name in ("operation", "run", "time")}, "recorded": newest["time"]}
        assert found == {**known, "left": None, "details": {}}
    assert find_last_upgrade(entries) == (None if last_upgrade is None else entries[last_upgrade])


def test_what_is_left_of_an_operation_is_what_its_newest_entry_says(path: Path) -> None:
    began = add(path, left={"action": "start"}, source="0.2.0", recovery_point=None)
    newest = add(path, status="step", left={"action": "replace"}, recovery_point="/a")
    add(path, status="step", run="2", left={"action": "start"}, recovery_point="/b")
    assert find_unfinished(read_entries(str(path))) == {
        "operation": "upgrade",
        "run": "1",
        "time": began["time"],
        "recorded": newest["time"],
        "left": {"action": "replace"},
        "details": {"source": "0.2.0", "recovery_point": "/a"},
    }


class TestFullDisk:
    def fill(self, folder: Path) -> Path:
        filler = folder / "filler"
        with filler.open("wb") as stream, contextlib.suppress(OSError):
            while True:
                os.write(stream.fileno(), b"x" * 4096)
        return filler

    def test_an_operation_that_has_begun_can_be_recorded_to_its_end(self, tmp_path: Path) -> None:
        with mounted_tmpfs(tmp_path / "state", "1m") as state:
            path = str(state / "opstage" / "journal.jsonl")
            append_entry(path, "upgrade", "started", "1", {"long": "x" * 5000})
            self.fill(state)
            for status in ("step", "step", "failed"):
                append_entry(path, "upgrade", status, "1", {"long": "x" * 5000})
            assert [entry["status"] for entry in read_entries(path)] == ["started", "step", "step", "failed"]

    def test_none_begins_without_room_for_its_end(self, tmp_path: Path) -> None:
        with mounted_tmpfs(tmp_path / "state", "1m") as state:
            path = str(state / "opstage" / "journal.jsonl")
            append_entry(path, "upgrade", "finished", "1", {})
            filler = self.fill(state)
            with pytest.raises(JournalError, match=r"cannot be written: .*No space left"):
                append_entry(path, "backup", "started", "2", {})
            assert [entry["status"] for entry in read_entries(path)] == ["finished"]
            filler.unlink()
            append_entry(path, "backup", "started", "2", {})

    def test_the_lock_stays_held(self, tmp_path: Path) -> None:
        with mounted_tmpfs(tmp_path / "state", "1m") as state:
            holder, _previous = take_lock(str(state / "opstage"), "upgrade", "somebody", "here", None)
            self.fill(state)
            renew_lock(str(state / "opstage"), holder.token)
            with pytest.raises(DeploymentLockError, match="does not hold the lock"):
                renew_lock(str(state / "opstage"), "other")
            assert find_holder(str(state / "opstage")) == holder
            assert release_lock(str(state / "opstage"), holder.token)


def test_a_null_that_a_template_made_text_of_is_a_null_again() -> None:
    said = {"digest": "", "serve": {"tag": "0.2.0", "image_id": ""}, "keep_damaged": False, "drops": []}
    expected = {"digest": None, "serve": {"tag": "0.2.0", "image_id": None}, "keep_damaged": False, "drops": []}
    assert without_empty_text(said) == expected
