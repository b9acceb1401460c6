# SPDX-License-Identifier: GPL-3.0-or-later
"""The command as a user runs it: a process of its own, on real databases, on a terminal where that matters."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import shutil
import signal
import stat
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION
from ansible_collections.capsule.opstage.plugins.module_utils.command_outcome import ExitCode
from ansible_collections.capsule.opstage.plugins.module_utils.progress_display import (
    format_bytes,
    format_duration,
    progress_line,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import Progress, Reason
from sqlite_testing import (
    HOLDER,
    PYTHONS,
    fingerprint,
    interpreters,
    killed_deployment,
    make_database,
    mounted_tmpfs,
    names_in,
    numbers_in,
    running,
    wait_until,
    writing,
)

CHECKOUT = Path(__file__).resolve().parents[4]
COMMAND = CHECKOUT / "bin" / "opstage-ops"
ROWS = 20

# What the command must be able to run with; those that this machine has are tried.
TOO_OLD = ["python3.6", "python3.7"]


def started(*arguments: str | bytes | Path, **options: Any) -> subprocess.Popen[bytes]:
    """The command in a session of its own, begun."""
    return subprocess.Popen(
        [sys.executable, "-I", COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def run(*arguments: str | bytes | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The command, ended."""
    with started(*arguments, **options) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def succeeds(*arguments: str | bytes | Path, **options: Any) -> dict[str, Any]:
    """The object that the command writes, having done what it should."""
    ended = run(*arguments, "--json", **options)
    assert (ended.returncode, ended.stderr) == (0, b""), ended
    return only_object(ended.stdout)


def fails(code: ExitCode, *arguments: str | bytes | Path, **options: Any) -> str:
    """The error of the command, the same for people and for programs."""
    people, programs = run(*arguments, **options), run(*arguments, "--json", **options)
    assert (people.returncode, programs.returncode) == (code, code), (people, programs)
    assert (people.stdout, programs.stderr) == (b"", b"")
    result = only_object(programs.stdout)
    assert sorted(result) == ["error", "reason"]
    assert result["reason"] == (Reason[code.name].value if code.name in Reason.__members__ else "bad usage")
    assert people.stderr.decode().splitlines()[-1] == f"opstage-ops: error: {result['error']}"
    return str(result["error"])


def only_object(output: bytes) -> dict[str, Any]:
    assert output.endswith(b"\n")
    assert output.count(b"\n") == 1
    result = json.loads(output)
    assert isinstance(result, dict)
    return result


def processes_in_session(session: int) -> list[int]:
    """The processes which still run in a session."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(name)) == session:
                found.append(int(name))
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_database(tmp_path / "live.db", ROWS, "WAL")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of 60 MB: its verification takes a good part of a second."""
    return make_database(tmp_path_factory.mktemp("large") / "large.db", 200_000, "WAL")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The command and its core alone, as they lie on a host."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(CHECKOUT / "bin", folder / "bin")
    for path in (CHECKOUT / "plugins" / "module_utils").glob("*.py"):
        (folder / "plugins" / "module_utils").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "plugins" / "module_utils")
    return folder


class TestSnapshot:
    def test_of_a_busy_database_into_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "backups").mkdir()
        with writing(tmp_path / "opstage.db", rate=200, rows=50) as writer:
            acknowledged = int(writer.lines[-1])
            result = succeeds("snapshot", tmp_path / "opstage.db", tmp_path / "backups")
        copy = Path(result["dest"])
        assert names_in(tmp_path / "backups") == [copy.name]
        numbers = numbers_in(copy)
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= acknowledged
        assert result["sha256"] == hashlib.sha256(copy.read_bytes()).hexdigest()
        assert result["size"] == result["page_size"] * result["page_count"] == copy.stat().st_size
        assert (result["integrity"], result["source_journal_mode"], result["warnings"]) == ("ok", "wal", [])
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600

    def test_says_what_it_did(self, tmp_path: Path, source: Path) -> None:
        ended = run("snapshot", source, tmp_path / "copy.db")
        digest = hashlib.sha256((tmp_path / "copy.db").read_bytes()).hexdigest()
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert ended.stdout.startswith(f"{tmp_path}/copy.db: ".encode())
        assert ended.stdout.endswith(f"sha256: {digest}\n".encode())

    def test_options(self, tmp_path: Path, source: Path) -> None:
        copy = make_database(tmp_path / "copy.db", 3)
        options = ("--overwrite", "--verify", "none", "--mode", "0640", "--timeout", "60", "--no-progress")
        result = succeeds("snapshot", *options, source, copy)
        assert numbers_in(copy) == list(range(1, ROWS + 1))
        assert (result["integrity"], stat.S_IMODE(copy.stat().st_mode)) == ("not checked", 0o640)

    def test_warns_of_what_it_copied_as_it_is(self, tmp_path: Path) -> None:
        path = make_database(
            tmp_path / "live.db",
            ROWS,
            "WAL",
            "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
            "CREATE TABLE children (parent INTEGER REFERENCES parents (id))",
            "INSERT INTO children VALUES (1)",
        )
        (warning,) = succeeds("snapshot", path, tmp_path / "first.db")["warnings"]
        ended = run("snapshot", path, tmp_path / "second.db")
        assert "1 rows with foreign keys whose parent is missing" in warning
        assert (ended.returncode, ended.stderr.decode()) == (0, f"opstage-ops: warning: {warning}\n")


class TestRestore:
    def test_of_a_killed_deployment(self, tmp_path: Path, source: Path) -> None:
        copy, path = Path(succeeds("snapshot", source, tmp_path / "copy.db")["dest"]), tmp_path / "opstage.db"
        written = killed_deployment(path)
        os.chown(path, 100, 101)
        options = ("--backup", "--mode", "0660", "--sha256", hashlib.sha256(copy.read_bytes()).hexdigest().upper())
        before = fingerprint(path, Path(f"{path}-wal"))
        assert succeeds("restore", "--check", *options, copy, path)["changed"]
        assert fingerprint(path, Path(f"{path}-wal")) == before
        result = succeeds("restore", *options, copy, path)
        assert (result["changed"], result["dest"]) == (True, str(path))
        assert fingerprint(path)["opstage.db"][2:] == (100, 101, 0o100660)
        assert numbers_in(path) == list(range(1, ROWS + 1))
        assert numbers_in(Path(result["backup_file"])) == list(range(1, written + 1))
        again = succeeds("restore", *options, copy, path)
        assert (again["changed"], again["backup_file"]) == (False, None)

    def test_owner_and_group_by_name_or_number(self, tmp_path: Path, source: Path) -> None:
        copy, path = Path(succeeds("snapshot", source, tmp_path / "copy.db")["dest"]), tmp_path / "opstage.db"
        succeeds("restore", copy, path, "--owner", "root", "--group", "4711")
        assert fingerprint(path)["opstage.db"][2:] == (0, 4711, 0o100600)
        succeeds("restore", copy, path, "--owner", "4712", "--group", "root")
        assert fingerprint(path)["opstage.db"][2:] == (4712, 0, 0o100600)

    def test_says_what_it_did(self, tmp_path: Path, source: Path) -> None:
        copy, path = tmp_path / "copy.db", make_database(tmp_path / "opstage.db", 3)
        succeeds("snapshot", source, copy)
        would = run("restore", "--check", copy, path).stdout.decode().splitlines()
        did = run("restore", "--backup", copy, path).stdout.decode().splitlines()
        again = run("restore", copy, path).stdout.decode().splitlines()
        assert would[0] == f"{path}: would be restored"
        assert did[0] == f"{path}: restored"
        assert numbers_in(Path(did[1].partition(": ")[2])) == [1, 2, 3]
        assert again[0] == f"{path}: no change, it is the same already"
        assert {lines[-1].rpartition(" ")[2] for lines in (would, did, again)} == {fingerprint(copy)["copy.db"][0]}

    def test_under_a_running_service(self, tmp_path: Path, source: Path) -> None:
        copy, path = tmp_path / "copy.db", make_database(tmp_path / "opstage.db", 3, "WAL")
        succeeds("snapshot", source, copy)
        with running(HOLDER, str(path), "SELECT count(*) FROM entries") as holder:
            error = fails(ExitCode.IN_USE, "restore", copy, path)
            (warning,) = succeeds("restore", "--check", copy, path)["warnings"]
        assert f"process {holder.pid}" in error
        assert f"process {holder.pid}" in warning
        assert numbers_in(path) == [1, 2, 3]


class TestExitCodes:
    def test_every_reason_has_its_own(self) -> None:
        codes = [ExitCode[reason.name] for reason in Reason]
        assert len(set(codes)) == len(Reason)
        assert not set(codes) & {ExitCode.DONE, ExitCode.BAD_USAGE}

    @pytest.mark.parametrize("arguments", [["--help"], ["snapshot", "-h"], ["restore", "--help"]])
    def test_are_documented(self, arguments: list[str]) -> None:
        ended = run(*arguments)
        assert (ended.returncode, ended.stderr) == (0, b"")
        lines = [line.strip() for line in ended.stdout.decode().splitlines()]
        assert lines[-len(ExitCode) :] == [f"{code.value}  {code.meaning}" for code in ExitCode]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "required: COMMAND"),
            (["back", "a", "b"], "invalid choice: 'back'"),
            (["snapshot", "a"], "required: DEST"),
            (["snapshot", "a", "b", "c"], "unrecognized arguments: c"),
            (["snapshot", "a", "b", "--over"], "unrecognized arguments: --over"),
            (["snapshot", "a", "b", "--verify", "twice"], "invalid choice: 'twice'"),
            (["snapshot", "a", "b", "--mode", "0688"], "'0688' is no octal number"),
            (["snapshot", "a", "b", "--timeout", "0"], "'0' is no number of seconds above 0"),
            (["snapshot", "a", "b", "--timeout", "-1"], "'-1' is no number of seconds above 0"),
            (["snapshot", "a", "b", "--timeout", "nan"], "'nan' is no number of seconds above 0"),
            (["snapshot", "a", "b", "--timeout", "inf"], "'inf' is no number of seconds above 0"),
            (["snapshot", "a", "b", "--timeout", "soon"], "'soon' is no number of seconds above 0"),
            (["restore", "a", "b", "--sha256", "12ab"], "'12ab' is not 64 hexadecimal digits"),
            (["restore", "a", "b", "--verify", "full"], "unrecognized arguments: --verify"),
        ],
    )
    def test_bad_usage(self, arguments: list[str], message: str) -> None:
        assert message in fails(ExitCode.BAD_USAGE, *arguments)

    def test_names_are_no_options(self, tmp_path: Path, source: Path) -> None:
        ended = run("snapshot", "--", source, "--json", cwd=tmp_path)
        assert ended.returncode == 0
        assert ended.stdout.startswith(f"{tmp_path}/--json: ".encode())
        assert run("snapshot", "--", source, "--json", "surplus").stdout == b""

    def test_missing(self, tmp_path: Path, source: Path) -> None:
        assert "there is no file at" in fails(ExitCode.MISSING, "snapshot", tmp_path / "none.db", tmp_path / "copy.db")
        assert "no folder" in fails(ExitCode.MISSING, "snapshot", source, tmp_path / "none" / "copy.db")
        assert "no user no-one" in fails(ExitCode.MISSING, "restore", source, tmp_path / "new.db", "--owner", "no-one")
        assert "no group" in fails(ExitCode.MISSING, "restore", source, tmp_path / "new.db", "--group", "99999999999")
        assert not {"none.db", "copy.db", "new.db"} & set(names_in(tmp_path))

    def test_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "notes.db").write_text("no database, though long enough to be one" * 100)
        (tmp_path / "empty.db").touch()
        for name in ("notes.db", "empty.db"):
            fails(ExitCode.NOT_A_DATABASE, "snapshot", tmp_path / name, tmp_path / "copy.db")
        assert names_in(tmp_path) == ["empty.db", "notes.db"]

    def test_locked(self, tmp_path: Path) -> None:
        """Also what a log gets to see: a line once it has taken long enough."""
        path = make_database(tmp_path / "live.db", ROWS)
        with running(HOLDER, str(path), "BEGIN EXCLUSIVE"):
            ended = run("snapshot", path, tmp_path / "copy.db", "--json", "--timeout", "6")
            fails(ExitCode.LOCKED, "snapshot", path, tmp_path / "copy.db", "--timeout", "0.5")
        assert ended.returncode == ExitCode.LOCKED
        assert only_object(ended.stdout)["reason"] == "locked"
        assert ended.stderr == b"waiting: for 0:05\n"
        assert names_in(tmp_path) == ["live.db"]

    def test_in_use(self, tmp_path: Path, source: Path) -> None:
        copy = make_database(tmp_path / "copy.db", 3)
        with running(HOLDER, str(copy), "SELECT count(*) FROM entries") as holder:
            error = fails(ExitCode.IN_USE, "snapshot", "--overwrite", source, copy)
        assert f"process {holder.pid}" in error

    def test_no_space(self, tmp_path: Path) -> None:
        path = make_database(tmp_path / "live.db", 10_000)
        with mounted_tmpfs(tmp_path / "small", "64k") as small:
            fails(ExitCode.NO_SPACE, "snapshot", path, small / "copy.db")
            assert names_in(small) == []

    def test_damaged_source(self, tmp_path: Path, source: Path) -> None:
        wrong = hashlib.sha256(b"another file").hexdigest()
        fails(ExitCode.DAMAGED_SOURCE, "restore", source, tmp_path / "new.db", "--sha256", wrong)
        damaged = make_database(tmp_path / "damaged.db", 1_000)
        with damaged.open("r+b") as file:
            file.seek(5 * 4096)
            file.write(b"\xff" * 4096)
        fails(ExitCode.DAMAGED_SOURCE, "snapshot", damaged, tmp_path / "copy.db")
        assert not {"new.db", "copy.db"} & set(names_in(tmp_path))

    def test_damaged_copy(self, tmp_path: Path, large: Path) -> None:
        """A disk that does not keep what was written to it, as somebody who writes to it as well."""

        def spoil(process: subprocess.Popen[bytes]) -> bool:
            for path in tmp_path.glob("*.staged"):
                with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
                    if os.fstat(file.fileno()).st_size == large.stat().st_size:
                        os.pwrite(file.fileno(), b"\xff" * 4096, 5 * 4096)
            return process.poll() is not None

        with started("snapshot", large, tmp_path / "copy.db", "--json") as process:
            wait_until(lambda: spoil(process))
            assert process.stdout is not None
            result = only_object(process.stdout.read())
        assert (process.returncode, result["reason"]) == (ExitCode.DAMAGED_COPY, "damaged copy")
        assert names_in(tmp_path) == []

    def test_timeout(self, tmp_path: Path, large: Path) -> None:
        assert "timeout of 0.01 s" in fails(
            ExitCode.TIMEOUT, "snapshot", large, tmp_path / "copy.db", "--timeout", "0.01"
        )
        assert names_in(tmp_path) == []

    def test_refused(self, tmp_path: Path, source: Path) -> None:
        (tmp_path / "link.db").symlink_to(source)
        assert "symbolic link" in fails(ExitCode.REFUSED, "snapshot", tmp_path / "link.db", tmp_path / "copy.db")

    def test_exists(self, tmp_path: Path, source: Path) -> None:
        copy = make_database(tmp_path / "copy.db", 3)
        before = fingerprint(copy)
        fails(ExitCode.EXISTS, "snapshot", source, copy)
        assert fingerprint(copy) == before

    def test_another_error_of_the_system(self, tmp_path: Path, source: Path) -> None:
        assert "File name too long" in fails(ExitCode.SYSTEM, "snapshot", source, tmp_path / ("x" * 300))

    @pytest.mark.parametrize(
        ("number", "code", "reason"),
        [
            (signal.SIGINT, ExitCode.INTERRUPTED, "interrupted"),
            (signal.SIGTERM, ExitCode.TERMINATED, "terminated"),
            (signal.SIGHUP, ExitCode.HUNG_UP, "hung up"),
        ],
    )
    @pytest.mark.parametrize("command", ["snapshot", "restore"])
    def test_ended_by_a_signal(
        self, tmp_path: Path, large: Path, command: str, number: signal.Signals, code: ExitCode, reason: str
    ) -> None:
        with started(command, large, tmp_path / "new.db", "--json") as process:
            wait_until(lambda: names_in(tmp_path) != [])
            process.send_signal(number)
            stdout, stderr = process.communicate()
        assert process.returncode == code
        assert only_object(stdout) == {"error": f"ended by {number.name} before it was done", "reason": reason}
        assert stderr == b""
        assert names_in(tmp_path) == []
        assert processes_in_session(process.pid) == []

    def test_what_nohup_ignores_does_not_end_it(self, tmp_path: Path, large: Path) -> None:
        with started(
            "snapshot",
            large,
            tmp_path / "copy.db",
            "--json",
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        ) as process:
            wait_until(lambda: names_in(tmp_path) != [])
            process.send_signal(signal.SIGHUP)
            stdout, stderr = process.communicate()
        assert (process.returncode, stderr) == (0, b"")
        assert only_object(stdout)["integrity"] == "ok"


# Waits, reporting nothing, as nothing should; then cleans up, and is told once more to end meanwhile.
SILENT_WORK = """
import os, signal, sys, time
from ansible_collections.capsule.opstage.plugins.module_utils.command_line import EndedBySignal, Signals
signals = Signals()
with signals.raised():
    print("ready", flush=True)
    try:
        time.sleep(600)
    except EndedBySignal as end:
        os.kill(os.getpid(), signal.SIGTERM)
        print(end.number.name, "and cleaned up", flush=True)
"""


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_strike_where_nothing_is_reported(self, collections_root: Path, number: signal.Signals) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", SILENT_WORK],
            env={**os.environ, "PYTHONPATH": str(collections_root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                process.send_signal(number)
                stdout, stderr = process.communicate(timeout=30)
            finally:
                process.kill()
        assert stdout.decode() == f"{number.name} and cleaned up\n"
        assert (process.returncode, stderr) == (0, b"")

    def test_before_the_command_has_begun_there_is_no_traceback(self, tmp_path: Path, installed: Path) -> None:
        module = installed / "plugins" / "module_utils" / "command_line.py"
        module.write_text("import time\nprint('ready', flush=True)\ntime.sleep(600)\n")
        with subprocess.Popen(
            [sys.executable, "-I", installed / "bin" / "opstage-ops"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=30) == (b"", b"")
            finally:
                process.kill()
        assert process.returncode == -signal.SIGINT


class TestOutput:
    def test_version(self) -> None:
        ended = run("--version")
        assert (ended.returncode, ended.stdout.decode(), ended.stderr) == (0, f"opstage-ops {VERSION}\n", b"")

    @pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
    def test_names_that_are_no_text(self, tmp_path: Path, source: Path, locale: str) -> None:
        environment = {**os.environ, "LC_ALL": locale}
        copy, other = os.fsencode(tmp_path) + b"/\xe9t\xe9 \xff.db", os.fsencode(tmp_path) + b"/\xff.db"
        ended = run("snapshot", source, copy, env=environment)
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert ended.stdout.startswith(copy + b": ")
        result = succeeds("snapshot", copy, other, env=environment)
        assert os.fsencode(result["dest"]) == other
        missing = run("snapshot", copy + b"x", other, env=environment)
        assert missing.returncode == ExitCode.MISSING
        assert b"there is no file at " + copy + b"x" in missing.stderr

    def test_names_that_would_command_the_terminal(self, tmp_path: Path, source: Path) -> None:
        copy = tmp_path / "new\nline \x1b[31mred 日本.db"
        ended = run("snapshot", source, copy)
        assert ended.stdout.decode().startswith(f"{tmp_path}/new\\nline \\x1b[31mred 日本.db: ")
        assert ended.stdout.count(b"\n") == 2
        again = run("snapshot", source, copy)
        assert again.returncode == ExitCode.EXISTS
        assert b"\x1b" not in again.stderr
        assert again.stderr.count(b"\n") == 1
        assert succeeds("snapshot", "--overwrite", source, copy)["dest"] == str(copy)

    @pytest.mark.parametrize("form", [[], ["--json"]])
    def test_reader_who_has_gone(self, tmp_path: Path, source: Path, form: list[str]) -> None:
        reading, writing_end = os.pipe()
        os.close(reading)
        with contextlib.closing(os.fdopen(writing_end, "wb")) as pipe:
            ended = run("snapshot", *form, source, tmp_path / "copy.db", stdout=pipe)
            failed = run("snapshot", source, tmp_path / "copy.db", stdout=pipe, stderr=pipe)
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert failed.returncode == ExitCode.EXISTS
        assert numbers_in(tmp_path / "copy.db") == list(range(1, ROWS + 1))

    def test_result_that_cannot_be_written_is_an_error(self, tmp_path: Path, source: Path) -> None:
        with open("/dev/full", "wb") as full:
            ended = run("snapshot", source, tmp_path / "copy.db", stdout=full)
        assert ended.returncode == ExitCode.SYSTEM
        assert ended.stderr.startswith(b"opstage-ops: error: cannot write to standard output: ")
        assert ended.stderr.count(b"\n") == 1

    @pytest.mark.parametrize("copy", ["copy.db", "no folder/copy.db"])
    def test_no_database_is_written_to_as_an_output(self, tmp_path: Path, source: Path, copy: str) -> None:
        """Closed descriptors are given to the next files that are opened."""
        closing = 'exec "$0" "$@" <&- >&- 2>&-'
        ended = subprocess.run(
            ["sh", "-c", closing, sys.executable, "-I", COMMAND, "snapshot", source, tmp_path / copy], check=False
        )
        if copy == "copy.db":
            assert ended.returncode == 0
            assert numbers_in(tmp_path / copy) == list(range(1, ROWS + 1))
        else:
            assert ended.returncode == ExitCode.MISSING


class Screen:
    """What a terminal shows after ``output``: its rows, and the longest line that was ever drawn."""

    def __init__(self, output: bytes) -> None:
        self.longest = 0
        self._rows = [""]
        for character in output.decode():
            self._show(character)

    def _show(self, character: str) -> None:
        if character == "\n":
            self._rows.append("")
            self._column = 0
        elif character == "\r":
            self._column = 0
        else:
            row = self._rows[-1].ljust(self._column)
            self._rows[-1] = row[: self._column] + character + row[self._column + 1 :]
            self._column += 1
            self.longest = max(self.longest, self._column)

    _column = 0

    @property
    def rows(self) -> list[str]:
        return [row.rstrip() for row in self._rows if row.strip()]


class Terminal:
    """The command with a terminal of ``columns`` as its own, in and out."""

    def __init__(self, columns: int, *arguments: str | Path) -> None:
        self.output = b""
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
                os.execv(sys.executable, [sys.executable, "-I", str(COMMAND), *map(str, arguments)])
            os._exit(127)

    def read_until(self, condition: Callable[[bytes], bool]) -> None:
        """Read until what was read fulfils the condition, or the command has closed the terminal."""
        while not condition(self.output):
            try:
                self.output += os.read(self._master, 65536)
            except OSError:
                return

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def ended(self) -> int:
        """Read all that remains; the exit code."""
        self.read_until(lambda _output: False)
        status = os.waitpid(self.pid, 0)[1]
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._master)


@contextlib.contextmanager
def terminal(columns: int, *arguments: str | Path) -> Iterator[Terminal]:
    with contextlib.closing(Terminal(columns, *arguments)) as opened:
        yield opened


class TestTerminal:
    @pytest.mark.parametrize("columns", [0, 20, 40, 200])
    def test_one_line_is_redrawn_and_erased(self, tmp_path: Path, large: Path, columns: int) -> None:
        with terminal(columns, "snapshot", "--verify", "quick", large, tmp_path / "copy.db") as shown:
            assert shown.ended() == 0
        progress, _carriage_return, summary = shown.output.rpartition(b"\r" + b" " * 3)
        assert b"\n" not in progress
        drawn = [line for line in progress.decode().split("\r") if line.strip()]
        assert len(drawn) > 1
        assert {line.split()[0] for line in drawn} >= {"copying"}
        assert all(line.split()[1].isdigit() for line in drawn if line.startswith("copying"))
        assert Screen(progress).longest <= (columns or 80) - 1
        assert Screen(shown.output).rows == Screen(summary).rows
        assert len(Screen(summary).rows) == 2

    def test_wide_enough_for_everything(self, tmp_path: Path, large: Path) -> None:
        with terminal(120, "snapshot", "--verify", "quick", large, tmp_path / "copy.db") as shown:
            assert shown.ended() == 0
        drawn = [line for line in shown.output.decode().split("\r") if line.startswith("copying") and "/s" in line]
        assert drawn
        assert all("[#" in line or "[ " in line for line in drawn)
        assert all(f"MB of {format_bytes(large.stat().st_size)}, " in line and " left, " in line for line in drawn)

    def test_restore_shows_its_progress(self, tmp_path: Path, large: Path) -> None:
        copy = tmp_path / "copy.db"
        succeeds("snapshot", "--verify", "none", large, copy)
        with terminal(80, "restore", copy, tmp_path / "new.db") as shown:
            assert shown.ended() == 0
        phases = {line.split()[0] for line in shown.output.decode().split("\r") if line.strip()}
        assert phases >= {"verifying", "copying"}
        assert Screen(shown.output).rows[0] == f"{tmp_path}/new.db: restored"

    def test_none_on_demand(self, tmp_path: Path, large: Path) -> None:
        with terminal(80, "snapshot", "--no-progress", "--verify", "quick", large, tmp_path / "copy.db") as shown:
            assert shown.ended() == 0
        assert b"copying" not in shown.output

    def test_object_stands_alone(self, tmp_path: Path, large: Path) -> None:
        with terminal(80, "snapshot", "--json", "--verify", "quick", large, tmp_path / "copy.db") as shown:
            assert shown.ended() == 0
        (row,) = Screen(shown.output).rows
        assert json.loads(row)["dest"] == str(tmp_path / "copy.db")

    def test_control_c(self, tmp_path: Path, large: Path) -> None:
        with terminal(80, "snapshot", large, tmp_path / "copy.db") as shown:
            session = shown.pid
            shown.read_until(lambda output: b"verifying" in output)
            shown.type(b"\x03")
            assert shown.ended() == ExitCode.INTERRUPTED
        assert Screen(shown.output).rows == ["opstage-ops: error: ended by SIGINT before it was done"]
        assert b"Traceback" not in shown.output
        assert names_in(tmp_path) == []
        assert processes_in_session(session) == []


class TestProgressLine:
    HALF = Progress("copying", 500_000_000, 1_000_000_000, 2.0)

    @pytest.mark.parametrize(
        "progress", [HALF, Progress("verifying", 0, 10, 0.0), Progress("waiting", 0, 0, 3.4)], ids=lambda it: it.phase
    )
    def test_fits(self, progress: Progress) -> None:
        for columns in range(1, 130):
            line = progress_line(progress, columns)
            assert len(line) <= columns
            assert line.startswith(progress.phase[:columns])

    @pytest.mark.parametrize(
        ("columns", "line"),
        [
            (16, "copying    50 %"),
            (24, "copying    50 %"),
            (25, "copying    50 % 0:02 left"),
            (44, "copying    50 % [########        ] 0:02 left"),
            (45, "copying    50 % 0:02 left, 500.0 MB of 1.0 GB"),
            (60, "copying    50 % 0:02 left, 500.0 MB of 1.0 GB, 250.0 MB/s"),
            (70, "copying    50 % [#####     ] 0:02 left, 500.0 MB of 1.0 GB, 250.0 MB/s"),
            (300, f"copying    50 % [{'#' * 15}{' ' * 15}] 0:02 left, 500.0 MB of 1.0 GB, 250.0 MB/s"),
        ],
    )
    def test_says_the_most_telling_first(self, columns: int, line: str) -> None:
        assert progress_line(self.HALF, columns) == line

    def test_what_is_unknown_is_not_said(self) -> None:
        assert progress_line(Progress("waiting", 0, 0, 3.4), 80) == "waiting   for 0:03"
        assert progress_line(Progress("copying", 0, 10, 0.0), 25) == "copying     0 %"

    @pytest.mark.parametrize(
        ("count", "text"),
        [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (209_715_200, "209.7 MB"),
            (5_000_000_000, "5.0 GB"),
            (1_234_500_000_000_000, "1234.5 TB"),
        ],
    )
    def test_bytes(self, count: int, text: str) -> None:
        assert format_bytes(count) == text

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03"), (360000, "100:00:00")]
    )
    def test_durations(self, seconds: float, text: str) -> None:
        assert format_duration(seconds) == text


class TestInstallation:
    @pytest.mark.parametrize("python", [pytest.param(path, id=Path(path).name) for path in interpreters(PYTHONS)])
    def test_alone_with_any_python(self, tmp_path: Path, source: Path, installed: Path, python: str) -> None:
        command: list[str | Path] = [python, "-I", "-W", "error", installed / "bin" / "opstage-ops"]
        copy, new = tmp_path / "copy.db", tmp_path / "new.db"
        for arguments in (("snapshot", source, copy), ("restore", copy, new)):
            ended = subprocess.run([*command, *arguments, "--json"], cwd="/", capture_output=True, check=False)
            assert (ended.returncode, ended.stderr) == (0, b"")
            assert only_object(ended.stdout)["sha256"] == fingerprint(copy)["copy.db"][0]
        assert numbers_in(new) == list(range(1, ROWS + 1))
        usage = subprocess.run([*command, "--help"], cwd="/", capture_output=True, check=False)
        assert (usage.returncode, usage.stderr) == (0, b"")
        assert usage.stdout.rstrip().endswith(b"143  ended by SIGTERM")

    @pytest.mark.parametrize("python", [pytest.param(path, id=Path(path).name) for path in interpreters(TOO_OLD)])
    def test_says_what_python_it_needs(self, installed: Path, python: str) -> None:
        ended = subprocess.run(
            [python, "-I", installed / "bin" / "opstage-ops", "--help"], stderr=subprocess.PIPE, check=False
        )
        assert ended.returncode == 1
        assert ended.stderr.startswith(b"opstage-ops: error: Python 3.8 or newer is needed, found: 3.")
        assert ended.stderr.count(b"\n") == 1

    def test_found_by_a_link_on_the_path(self, tmp_path: Path, source: Path, installed: Path) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "opstage-ops").symlink_to(installed / "bin" / "opstage-ops")
        (tmp_path / "sqlite3.py").write_text("raise SystemExit('a file of the folder was run')")
        path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        ended = subprocess.run(
            ["opstage-ops", "snapshot", source, "copy of it.db"],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert numbers_in(tmp_path / "copy of it.db") == list(range(1, ROWS + 1))

    def test_needs_no_writable_home(self, tmp_path: Path, source: Path, installed: Path) -> None:
        with mounted_tmpfs(tmp_path / "read only", "4m") as folder:
            shutil.copytree(installed, folder / "opstage")
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            ended = subprocess.run(
                [folder / "opstage" / "bin" / "opstage-ops", "snapshot", source, tmp_path / "copy.db"],
                env={"PATH": os.environ["PATH"]},
                capture_output=True,
                check=False,
            )
        assert (ended.returncode, ended.stderr) == (0, b"")
