# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import (
    LEASE,
    DeploymentLockError,
    Holder,
    LockHeldError,
    Process,
    as_process,
    find_holder,
    find_process,
    is_gone,
    release_lock,
    renew_lock,
    require_free,
    take_lock,
)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "opstage")


@pytest.fixture
def living() -> Iterator[Process]:
    """Another process of this machine."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = find_process(child.pid)
        assert process is not None
        yield process
        child.kill()


def take(folder: str, process: Process | None = None, operation: str = "upgrade", gone: str | None = None) -> Holder:
    return take_lock(folder, operation, "somebody", "here", process, gone)[0]


def this_process() -> Process:
    process = find_process(os.getpid())
    assert process is not None
    return process


def elsewhere(**changes: Any) -> Process:
    """A process of another machine."""
    return dataclasses.replace(this_process(), **{"machine": "another", "boot": "another", **changes})


def set_back(folder: str, time: timedelta) -> None:
    """Let the last sign of life be that long ago."""
    path = Path(folder) / "lock.json"
    content = json.loads(path.read_text())
    content["seen"] = (datetime.now(UTC) - time).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    path.write_text(json.dumps(content))


class TestProcess:
    def test_this_one_and_others(self, living: Process) -> None:
        assert this_process().pid == os.getpid()
        assert (is_gone(this_process()), is_gone(living)) == (False, False)
        assert as_process(dataclasses.asdict(living)) == living

    def test_one_that_has_ended(self) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            process = find_process(child.pid)
            assert process is not None
        assert find_process(process.pid) is None
        assert is_gone(process) is True

    def test_one_that_has_ended_and_nobody_took_note(self) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            process = find_process(child.pid)
            assert process is not None
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert Path(f"/proc/{child.pid}/stat").exists()
            assert is_gone(process) is True

    def test_the_number_is_another_ones_by_now(self, living: Process) -> None:
        assert is_gone(dataclasses.replace(living, started=living.started - 1)) is True

    def test_before_the_last_boot(self) -> None:
        assert is_gone(elsewhere(machine=this_process().machine)) is (True if this_process().machine else None)

    @pytest.mark.parametrize("changes", [{}, {"machine": ""}])
    def test_on_another_machine(self, changes: dict[str, Any]) -> None:
        assert is_gone(elsewhere(**changes)) is None

    def test_in_another_container(self) -> None:
        assert is_gone(dataclasses.replace(this_process(), namespace="pid:[1]", pid=1 << 22)) is None

    def test_what_is_no_process(self) -> None:
        assert as_process(None) is None
        with pytest.raises(DeploymentLockError, match="This is no process"):
            as_process({"pid": 1})


class TestTaking:
    def test_once(self, folder: str, living: Process) -> None:
        held = take(folder, living)
        assert find_holder(folder) == held
        for attempt in (lambda: take(folder, this_process()), lambda: require_free(folder, this_process())):
            with pytest.raises(LockHeldError) as caught:
                attempt()
            assert caught.value.holder == held
            assert f"upgrade by somebody from here, since {held.since}" in str(caught.value)
        assert find_holder(folder) == held

    def test_again_by_the_same_playbook(self, folder: str, living: Process) -> None:
        first = take(folder, living)
        second, previous = take_lock(folder, "restore", "somebody", "here", living)
        assert (second.token, second.since, second.operation, previous) == (first.token, first.since, "restore", None)
        require_free(folder, living)

    def test_by_somebody_whose_process_is_not_known(self, folder: str) -> None:
        take(folder, None)
        with pytest.raises(LockHeldError):
            take(folder, None)

    def test_from_one_that_has_ended(self, folder: str, living: Process) -> None:
        dead = take(folder, dataclasses.replace(living, started=1))
        require_free(folder, this_process())
        holder, previous = take_lock(folder, "restore", "somebody", "here", living)
        assert previous == dead
        assert find_holder(folder) == holder
        assert holder.token != dead.token

    def test_from_one_that_lives_but_was_silent_for_long(self, folder: str, living: Process) -> None:
        take(folder, living)
        set_back(folder, 2 * LEASE)
        with pytest.raises(LockHeldError):
            take(folder, this_process())

    @pytest.mark.parametrize("process", [None, elsewhere()])
    def test_from_one_that_cannot_be_seen(self, folder: str, process: Process | None) -> None:
        first = take(folder, process)
        set_back(folder, LEASE - timedelta(minutes=1))
        with pytest.raises(LockHeldError):
            take(folder, this_process())
        renew_lock(folder, first.token)
        set_back(folder, LEASE + timedelta(minutes=1))
        assert take(folder, this_process()).token != first.token

    def test_from_one_that_the_caller_knows_to_be_dead(self, folder: str) -> None:
        first = take(folder, elsewhere())
        with pytest.raises(LockHeldError):
            take(folder, this_process(), gone="another")
        assert take(folder, this_process(), gone=first.token).token != first.token

    def test_what_the_dead_left_at_work_is_ended(self, folder: str) -> None:
        dead = take(folder, elsewhere())
        command = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(100)"]
        of_others = subprocess.Popen(command, stdout=subprocess.PIPE, env={"OPSTAGE_RUN": dead.token + "0"})
        left = subprocess.Popen(command, stdout=subprocess.PIPE, env={"OPSTAGE_RUN": dead.token})
        with of_others, left:
            for child in (of_others, left):
                assert child.stdout is not None
                child.stdout.readline()
            take(folder, this_process(), gone=dead.token)
            assert left.wait() == -signal.SIGTERM
            assert of_others.poll() is None
            of_others.kill()

    def test_by_many_at_once(self, folder: str) -> None:
        with multiprocessing.get_context("fork").Pool(8) as pool:
            outcomes = pool.map(attempt_to_take, [folder] * 64)
        assert sorted(set(outcomes)) == ["held", "taken"]
        assert outcomes.count("taken") == 1


def attempt_to_take(folder: str) -> str:
    try:
        take(folder, None)
    except LockHeldError:
        return "held"
    return "taken"


class TestHolding:
    def test_signs_of_life(self, folder: str) -> None:
        held = take(folder, elsewhere())
        set_back(folder, LEASE)
        renew_lock(folder, held.token)
        found = find_holder(folder)
        assert found is not None
        assert (found.token, found.since) == (held.token, held.since)
        assert found.seen >= held.seen

    def test_who_lost_it_is_told(self, folder: str) -> None:
        lost = take(folder, elsewhere())
        assert release_lock(folder, lost.token)
        with pytest.raises(DeploymentLockError, match="nobody holds it"):
            renew_lock(folder, lost.token)
        lost = take(folder, elsewhere())
        taken = take(folder, this_process(), "restore", gone=lost.token)
        with pytest.raises(DeploymentLockError, match="it is held for restore by somebody"):
            renew_lock(folder, lost.token)
        assert not release_lock(folder, lost.token)
        assert find_holder(folder) == taken
        assert release_lock(folder, taken.token)
        assert find_holder(folder) is None

    def test_only_its_owner_can_read_it(self, folder: str) -> None:
        before = os.umask(0)
        try:
            take(folder)
        finally:
            os.umask(before)
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in Path(folder).iterdir()}
        assert modes == {"lock.json": 0o600, "lock.mutex": 0o600}
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700


class TestDamage:
    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"token": "1"}', "\x00" * 50])
    def test_a_lock_that_cannot_be_read_is_no_free_one(self, folder: str, content: str) -> None:
        held = take(folder)
        path = Path(folder) / "lock.json"
        path.write_text(content)
        for attempt in (
            lambda: take(folder),
            lambda: renew_lock(folder, held.token),
            lambda: release_lock(folder, held.token),
            lambda: require_free(folder, None),
        ):
            with pytest.raises(DeploymentLockError, match="nobody works on the deployment, then remove the file"):
                attempt()
        assert path.read_text() == content

    def test_a_lock_of_a_newer_collection(self, folder: str) -> None:
        take(folder)
        path = Path(folder) / "lock.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "purpose": "unknown here"}))
        with pytest.raises(DeploymentLockError, match="none that this version of the collection knows"):
            take(folder)

    def test_a_link_is_not_followed(self, folder: str, tmp_path: Path) -> None:
        Path(folder).mkdir(parents=True, mode=0o700)
        (Path(folder) / "lock.mutex").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(DeploymentLockError, match="cannot be used"):
            take(folder)
        assert not (tmp_path / "elsewhere").exists()
