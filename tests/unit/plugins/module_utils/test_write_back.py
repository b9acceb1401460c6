# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError, Deadline, Reason
from ansible_collections.capsule.opstage.plugins.module_utils.write_back import (
    BYTES_BETWEEN,
    LONGEST_PAUSE_SECONDS,
    WriteBack,
)

SECONDS_ALLOWED = 30.0


@pytest.fixture
def pipe() -> Iterator[int]:
    """A descriptor that no system syncs."""
    ends = os.pipe()
    yield ends[1]
    for end in ends:
        os.close(end)


@pytest.fixture
def syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many syncs were done since."""
    log = tmp_path / "syncs"
    log.touch()
    sync = os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        with log.open("ab") as file:
            file.write(b".")

    monkeypatch.setattr(os, "fsync", noted)
    return lambda: log.stat().st_size


def test_syncs_what_is_written_so_far_and_at_last_all(tmp_path: Path, syncs: Callable[[], int]) -> None:
    with (tmp_path / "file").open("wb") as file, WriteBack(file.fileno()) as write_back:
        write_back.advance(BYTES_BETWEEN - 1)
        write_back.advance(BYTES_BETWEEN)
        write_back.advance(BYTES_BETWEEN + 1)
        write_back.finish(Deadline(SECONDS_ALLOWED))
        assert syncs() == 2


def test_nobody_waits_for_a_disk_that_is_slower_than_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, left = os.pipe(), os.pipe()

    def slow(_descriptor: int) -> None:
        os.write(entered[1], b".")
        os.read(left[0], 1)

    monkeypatch.setattr(os, "fsync", slow)
    with (tmp_path / "file").open("wb") as file, WriteBack(file.fileno()) as write_back:
        write_back.advance(BYTES_BETWEEN)
        assert os.read(entered[0], 1) == b"."
        for number in range(2, 100):
            write_back.advance(number * BYTES_BETWEEN)
        with pytest.raises(DatabaseFileError) as caught:
            write_back.finish(Deadline(0.2))
        assert caught.value.reason is Reason.TIMEOUT
        os.write(left[1], b"..")
        write_back.finish(Deadline(SECONDS_ALLOWED))


def test_what_the_disk_says_ends_the_copy(pipe: int) -> None:
    def copy(write_back: WriteBack) -> None:
        offset, end = 0, time.monotonic() + SECONDS_ALLOWED
        while time.monotonic() < end:
            offset += BYTES_BETWEEN
            write_back.advance(offset)

    with WriteBack(pipe) as write_back, pytest.raises(DatabaseFileError) as caught:
        copy(write_back)
    assert caught.value.reason is Reason.SYSTEM
    assert "Invalid argument" in str(caught.value)


def test_what_the_disk_says_at_last_is_an_error(pipe: int) -> None:
    with WriteBack(pipe) as write_back, pytest.raises(DatabaseFileError, match="Invalid argument"):
        write_back.finish(Deadline(SECONDS_ALLOWED))


def test_others_have_as_much_time_as_they_waited(tmp_path: Path, syncs: Callable[[], int]) -> None:
    with (tmp_path / "file").open("wb") as file, WriteBack(file.fileno()) as write_back:
        write_back.let_others_first(SECONDS_ALLOWED)
        began = time.monotonic()
        write_back.begin_last()
        assert write_back.child.answer(Deadline(SECONDS_ALLOWED)) == {"result": {}}
        assert LONGEST_PAUSE_SECONDS <= time.monotonic() - began < SECONDS_ALLOWED
        assert syncs() == 1
