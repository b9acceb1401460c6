# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import progress_file
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile, parse_progress
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import Progress
from sqlite_testing import names_in

NEW = Progress("copying", 100, 1000, 0.5)
NEWER = Progress("verifying", 1, 1000, 7)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Lets time pass."""
    now = [1000.0]
    monkeypatch.setattr(progress_file.time, "monotonic", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


@pytest.fixture
def warnings() -> list[str]:
    return []


def test_what_is_quick_leaves_no_trace(tmp_path: Path, clock: Callable[[float], None], warnings: list[str]) -> None:
    with ProgressFile(str(tmp_path / "progress"), warnings.append) as progress:
        clock(1.99)
        progress(NEW)
        assert names_in(tmp_path) == []
    assert (names_in(tmp_path), warnings) == ([], [])


def test_what_takes_longer_keeps_the_newest_state_in_one_private_file(
    tmp_path: Path, clock: Callable[[float], None], warnings: list[str]
) -> None:
    path = tmp_path / "progress"
    with ProgressFile(str(path), warnings.append) as progress:
        clock(2)
        progress(NEW)
        assert names_in(tmp_path) == ["progress"]
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert parse_progress(path.read_text()) == NEW
        clock(0.99)
        progress(NEWER)
        assert parse_progress(path.read_text()) == NEW
        clock(0.01)
        with path.open() as opened:
            progress(NEWER)
            assert parse_progress(opened.read()) == NEW, "a reader keeps the whole file that it has opened"
        assert parse_progress(path.read_text()) == NEWER
        assert names_in(tmp_path) == ["progress"]
    assert (names_in(tmp_path), warnings) == ([], [])


def test_the_file_is_gone_after_an_error(tmp_path: Path, clock: Callable[[float], None], warnings: list[str]) -> None:
    def fail() -> None:
        with ProgressFile(str(tmp_path / "progress"), warnings.append) as progress:
            clock(2)
            progress(NEW)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert (names_in(tmp_path), warnings) == ([], [])


@pytest.mark.parametrize("path", [None, ""])
def test_nobody_wants_to_know(
    path: str | None, tmp_path: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ProgressFile(path, pytest.fail) as progress:
        clock(100)
        progress(NEW)
        assert names_in(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "folder"])
def test_what_was_there_before_stays(
    kind: str, tmp_path: Path, clock: Callable[[float], None], warnings: list[str]
) -> None:
    path, other = tmp_path / "progress", tmp_path / "other"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(other)
        if kind == "link":
            other.write_text("precious")
    before = names_in(tmp_path)
    with ProgressFile(str(path), warnings.append) as progress:
        for _attempt in range(3):
            clock(2)
            progress(NEW)
    assert names_in(tmp_path) == before
    assert kind not in ("file", "link") or path.read_text() == "precious"
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert "exists" in warnings[0]


def test_a_folder_that_is_missing_or_goes_away_ends_nothing(
    tmp_path: Path, clock: Callable[[float], None], warnings: list[str]
) -> None:
    folder = tmp_path / "folder"
    with ProgressFile(str(folder / "progress"), warnings.append) as progress:
        clock(2)
        progress(NEW)
    assert len(warnings) == 1
    folder.mkdir()
    with ProgressFile(str(folder / "progress"), warnings.append) as progress:
        clock(2)
        progress(NEW)
        os.rename(folder, tmp_path / "elsewhere")
        clock(2)
        progress(NEW)
    assert len(warnings) == 3
    assert "could not be written, the work went on without it" in warnings[1]
    assert "could not be removed" in warnings[2]


def test_a_relative_path_stays_where_it_was_meant(
    tmp_path: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ProgressFile("progress", pytest.fail) as progress:
        monkeypatch.chdir("/")
        clock(2)
        progress(NEW)
        assert names_in(tmp_path) == ["progress"]
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        "null",
        json.dumps({"phase": "copying", "done": 1, "total": 2}),
        json.dumps({"phase": "copying", "done": 1, "total": 2, "seconds": 3, "more": 4}),
        json.dumps({"phase": "\x1b[2J", "done": 1, "total": 2, "seconds": 3}),
        json.dumps({"phase": ["copying"], "done": 1, "total": 2, "seconds": 3}),
        json.dumps({"phase": "copying", "done": True, "total": 2, "seconds": 3}),
        json.dumps({"phase": "copying", "done": 1.5, "total": 2, "seconds": 3}),
        json.dumps({"phase": "copying", "done": -1, "total": 2, "seconds": 3}),
        json.dumps({"phase": "copying", "done": 1, "total": 1 << 63, "seconds": 3}),
        json.dumps({"phase": "copying", "done": 1, "total": 2, "seconds": "3"}),
        json.dumps({"phase": "copying", "done": 1, "total": 2, "seconds": float("nan")}),
        json.dumps({"phase": "copying", "done": 1, "total": 2, "seconds": float("inf")}),
        json.dumps({"phase": "copying", "done": 1, "total": 2, "seconds": -1}),
    ],
)
def test_anything_but_a_progress_is_nothing(text: str) -> None:
    assert parse_progress(text) is None


def test_a_terminal_adds_its_line_ends() -> None:
    text = json.dumps({"phase": "waiting", "done": 0, "total": 0, "seconds": 3})
    assert parse_progress(f"\r\n{text}\r\n") == Progress("waiting", 0, 0, 3)
