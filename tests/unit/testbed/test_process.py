# SPDX-License-Identifier: GPL-3.0-or-later
"""Only the very process that was noted is found again, and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from testbed.process import (
    CommandError,
    TestbedError,
    end_recorded_process,
    record_process,
    recorded_process,
    run,
    wait_for,
)
from testbed.traffic import RECORD, end_all


def test_a_noted_process_is_found_and_ended(tmp_path: Path) -> None:
    record = tmp_path / "process.json"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        record_process(record, process.pid)
        assert recorded_process(record) == process.pid
        assert end_recorded_process(record, seconds=10, log=tmp_path / "log") == process.pid
    assert recorded_process(record) is None


def test_another_process_with_the_same_id_is_left_alone(tmp_path: Path) -> None:
    record = tmp_path / "process.json"
    record.write_text(json.dumps({"pid": os.getpid(), "started": 1}))
    assert recorded_process(record) is None
    assert end_recorded_process(record, seconds=10, log=tmp_path / "log") is None


def test_nothing_noted_is_nothing_to_end(tmp_path: Path) -> None:
    assert recorded_process(tmp_path / "absent.json") is None


def test_a_failure_names_the_command_its_status_and_its_last_line() -> None:
    code = "import sys; print('first'); print('no room', file=sys.stderr); sys.exit(3)"
    with pytest.raises(CommandError, match=r"ended with status 3: no room$"):
        run([sys.executable, "-c", code])


def test_waiting_has_an_end_and_says_what_was_awaited() -> None:
    with pytest.raises(TestbedError, match=r"^the door opens: not so after 0 s; it is locked$"):
        wait_for(lambda: False, "the door opens", seconds=0, last_words=lambda: "it is locked", interval=0)


def test_all_traffic_of_a_testbed_is_ended(tmp_path: Path) -> None:
    states = [tmp_path / "traffic" / name for name in ("host-1", "host-2")]
    processes = []
    for state in states:
        state.mkdir(parents=True)
        processes.append(subprocess.Popen(["sleep", "60"]))
        record_process(state / RECORD, processes[-1].pid)
    (tmp_path / "traffic" / "host-3").mkdir()
    end_all(tmp_path)
    assert [process.wait(10) for process in processes] == [-15, -15]
    end_all(tmp_path)
