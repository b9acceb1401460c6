# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import command
from ansible_collections.capsule.opstage.plugins.module_utils.command import (
    CommandTimeoutError,
    CompletedCommand,
    run_command,
    stream_command,
)

# Longer than any test waits, so that what is still there was not ended; and an end, should a test fail.
HANGING = "sleep 60"
CHATTY = "exec cat /dev/zero"


@pytest.fixture(autouse=True)
def promptly() -> Iterator[None]:
    """Fail where a test waited for what was to be killed."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 20


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def exists(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_gone(process: int) -> None:
    wait_until(lambda: not exists(process))


class TestRunCommand:
    def test_outputs_and_exit_code(self) -> None:
        assert run_command(shell("echo out; echo error >&2; exit 3"), 10) == CompletedCommand(3, b"out\n", b"error\n")

    def test_merged_outputs_are_in_order(self) -> None:
        completed = run_command(shell("echo 1; echo 2 >&2; echo 3"), 10, merge_errors=True)
        assert completed == CompletedCommand(0, b"1\n2\n3\n", b"")

    def test_folder_and_environment(self, tmp_path: Path) -> None:
        completed = run_command(shell("pwd; echo $WORD"), 10, str(tmp_path), {**os.environ, "WORD": "here"})
        assert completed.stdout == f"{tmp_path}\nhere\n".encode()

    def test_there_is_nothing_to_read(self) -> None:
        assert run_command(["cat"], 10) == CompletedCommand(0, b"", b"")

    def test_a_signal_that_ended_it(self) -> None:
        assert run_command(shell("kill -TERM $$"), 10).status == -signal.SIGTERM

    def test_much_output(self) -> None:
        assert len(run_command(shell("head -c 5000000 /dev/zero"), 10).stdout) == 5_000_000

    def test_no_such_program(self) -> None:
        with pytest.raises(FileNotFoundError):
            run_command(["opstage-no-such-program"], 10)

    @pytest.mark.parametrize("script", [HANGING, f"exec {HANGING}", CHATTY, f"exec >&- 2>&-; {HANGING}"])
    def test_too_slow(self, script: str) -> None:
        with pytest.raises(CommandTimeoutError, match=r"^no answer within 0\.2 s$"):
            run_command(shell(script), 0.2)

    def test_what_it_started_is_ended_with_it(self, tmp_path: Path) -> None:
        with pytest.raises(CommandTimeoutError):
            run_command(shell(f"{HANGING} & echo $! > started; wait"), 2, str(tmp_path))
        wait_until_gone(int((tmp_path / "started").read_text()))

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_it_is_ended_although_what_it_started_escapes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(command, "_SECONDS_TO_CLOSE", 0.1)
        with pytest.raises(CommandTimeoutError):
            run_command(shell(f"echo $$ > itself; setsid {HANGING} & echo $! > started; wait"), 2, str(tmp_path))
        escaped = int((tmp_path / "started").read_text())
        try:
            assert not exists(int((tmp_path / "itself").read_text()))
            assert exists(escaped)
        finally:
            os.kill(escaped, signal.SIGKILL)
            # Python 3.11 to 3.13.0 complain that its outputs are still open.
            gc.collect()


class TestStreamCommand:
    def test_what_it_reads_and_writes(self) -> None:
        pieces: list[bytes] = []
        completed = stream_command(shell("cat; echo error >&2; exit 3"), 10, pieces.append, b"given")
        assert (completed, b"".join(pieces)) == (CompletedCommand(3, b"", b"error\n"), b"given")

    def test_without_bound(self) -> None:
        pieces: list[bytes] = []
        assert stream_command(["echo", "text"], None, pieces.append).status == 0
        assert pieces == [b"text\n"]

    def test_descriptors_and_no_others(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"content")
        with (tmp_path / "file").open("rb") as shared, (tmp_path / "file").open("rb") as kept:
            os.set_inheritable(kept.fileno(), True)
            script = f"cat /proc/self/fd/{shared.fileno()}; cat /proc/self/fd/{kept.fileno()}"
            pieces: list[bytes] = []
            completed = stream_command(shell(script), 10, pieces.append, descriptors=[shared.fileno()])
        assert b"".join(pieces) == b"content"
        assert b"No such file" in completed.stderr

    def test_what_it_does_not_read_is_no_error(self) -> None:
        assert stream_command(["true"], 10, len, b"x" * 1_000_000).status == 0

    def test_pieces_come_as_they_are_written(self) -> None:
        """Were they kept until the end, this would run out of time."""
        with pytest.raises(LookupError):
            stream_command(shell(f"echo first; {HANGING}"), 10, self.refuse)

    @staticmethod
    def refuse(piece: bytes) -> None:
        raise LookupError(piece)

    @pytest.mark.parametrize("script", [CHATTY, f"cat /dev/zero & {CHATTY}"])
    def test_it_is_killed_when_a_piece_is_refused(self, tmp_path: Path, script: str) -> None:
        with pytest.raises(LookupError):
            stream_command(shell(f"echo $$ > {tmp_path}/itself; {script}"), None, self.refuse)
        assert not exists(int((tmp_path / "itself").read_text()))

    @pytest.mark.parametrize("script", [HANGING, CHATTY])
    def test_too_slow(self, script: str) -> None:
        with pytest.raises(CommandTimeoutError, match=r"^no answer within 0\.2 s$"):
            stream_command(shell(script), 0.2, len)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
    def test_it_ends_when_this_process_does(self, tmp_path: Path, collections_root: Path, number: int) -> None:
        script = (
            "import sys\n"
            "from ansible_collections.capsule.opstage.plugins.module_utils.command import stream_command\n"
            "stream_command(sys.argv[1:], None, len)"
        )
        child = shell(f"echo $$ > {tmp_path}/itself.partial; mv {tmp_path}/itself.partial {tmp_path}/itself; {CHATTY}")
        environment = {**os.environ, "PYTHONPATH": str(collections_root)}
        with subprocess.Popen(
            [sys.executable, "-c", script, *child], env=environment, stderr=subprocess.DEVNULL
        ) as parent:
            wait_until((tmp_path / "itself").exists)
            parent.send_signal(number)
            parent.wait(10)
        wait_until_gone(int((tmp_path / "itself").read_text()))

    def test_it_has_no_terminal(self) -> None:
        """A session of its own has none, whatever this one has (setsid(2)); its number is field 6 of proc(5) stat."""
        pieces: list[bytes] = []
        stream_command(shell("cut -d ' ' -f 1,6 /proc/$$/stat"), 10, pieces.append)
        process, session = b"".join(pieces).split()
        assert session == process
