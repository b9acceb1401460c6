# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugins around the modules that can take long, by Ansible on a real connection to this machine."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.capsule.opstage.plugins.action.sqlite_backup import ActionModule
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import parse_progress
from ansible_collections.capsule.opstage.plugins.plugin_utils import progress_action
from ansible_collections.capsule.opstage.plugins.plugin_utils.progress_action import READER, ProgressAction
from sqlite_testing import HOLDER, make_database, names_in, numbers_in, running, wait_until

WAITING = "snapshot: waiting for a lock that somebody else holds, for 0:0"
OTHER_USER = "daemon"


class Playbook:
    """A running ansible-playbook; what it says is collected line by line, standard error by itself."""

    def __init__(self, folder: Path, plays: object, inventory: object, arguments: Sequence[str], **variables: str):
        for name, content in (("playbook.yml", plays), ("inventory.yml", inventory)):
            (folder / name).write_text(yaml.safe_dump(content))
        (folder / "ansible.cfg").write_text("[defaults]\n")
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        self._process = subprocess.Popen(
            [program, "-i", str(folder / "inventory.yml"), str(folder / "playbook.yml"), *arguments],
            env={**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.output: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=lines.extend, args=(stream,), daemon=True)
            for lines, stream in ((self.output, self._process.stdout), (self.errors, self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def ended(self) -> int:
        """Wait for its end; the exit status."""
        status = self._process.wait()
        for reader in self._readers:
            reader.join()
        return status

    def stop(self) -> None:
        """End it if it has not ended."""
        self._process.terminate()
        self.ended()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def progress_of(self, host: str) -> list[str]:
        return [line.rstrip("\n") for line in self.errors if line.startswith(f"[{host}] ")]

    def commands(self) -> list[str]:
        """The commands that were run on hosts, with -vvv."""
        return [line for line in self.output if "> EXEC " in line]


Start = Callable[..., "contextlib.AbstractContextManager[Playbook]"]


@pytest.fixture
def start(tmp_path: Path, collections_root: Path) -> Start:
    """Run a play on hosts that are all this machine; given by name with their variables."""

    @contextlib.contextmanager
    def playbook(
        tasks: list[Any], hosts: dict[str, dict[str, Any]], *arguments: str, **variables: str
    ) -> Iterator[Any]:
        common = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
        inventory = {"all": {"hosts": hosts, "vars": common}}
        plays = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
        variables = {"ANSIBLE_COLLECTIONS_PATH": str(collections_root), "ANSIBLE_PIPELINING": "1", **variables}
        started = Playbook(tmp_path, plays, inventory, arguments, **variables)
        try:
            yield started
        finally:
            started.stop()

    return playbook


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def folder_of_host(parent: Path, host: str, user: str | int = 0) -> Path:
    """A new folder with a database, both a user's."""
    folder = parent / host
    folder.mkdir()
    make_database(folder / "live.db", 5)
    for path in (folder, folder / "live.db"):
        shutil.chown(path, user)
    return folder


def test_progress_of_several_hosts_at_once(open_folder: Path, start: Start) -> None:
    """One as root, one as another user, one that names its file, one that wants none, one too late, one quick."""
    temporary, remote = open_folder / "temporary", open_folder / "remote"
    for folder in (temporary, remote):
        folder.mkdir()
        folder.chmod(0o1777)
    own = open_folder / "own.progress"
    become = {"ansible_become": True, "ansible_become_user": OTHER_USER, "ansible_become_flags": "-s /bin/sh"}
    hosts: dict[str, dict[str, Any]] = {
        "usual": {},
        "other": {**become, "ansible_become_method": "ansible.builtin.su"},
        "named": {"progress_file": str(own)},
        "silent": {"progress_file": ""},
        "late": {"seconds": 16},
        "quick": {},
    }
    folders = {host: folder_of_host(open_folder, host, OTHER_USER if host == "other" else 0) for host in hosts}
    options = {
        "src": f"{open_folder}/{{{{ inventory_hostname }}}}/live.db",
        "dest": f"{open_folder}/{{{{ inventory_hostname }}}}/copy.db",
        "progress_file": "{{ progress_file | default(omit) }}",
        "timeout": "{{ seconds | default(omit) }}",
    }
    shown = ("usual", "other", "named", "late")
    with contextlib.ExitStack() as locks:
        for host in hosts.keys() - {"quick"}:
            locks.enter_context(running(HOLDER, str(folders[host] / "live.db"), "BEGIN EXCLUSIVE"))
        task = {"capsule.opstage.sqlite_backup": options}
        folders_of_ansible = {"ANSIBLE_SYSTEM_TMPDIRS": str(temporary), "ANSIBLE_REMOTE_TEMP": str(remote)}
        with start([task], hosts, "--forks", "6", **folders_of_ansible) as play:
            wait_until(lambda: all(play.progress_of(host) for host in shown))
            report = parse_progress(own.read_text())
            assert report is not None
            assert report.phase == "waiting"
            owners = {path.stat().st_uid for path in temporary.iterdir()}
            assert owners == {0, pwd.getpwnam(OTHER_USER).pw_uid}
            wait_until(lambda: any(line.startswith("fatal: [late]") for line in play.output))
            locks.close()
            assert play.ended() == 2
    for host in hosts:
        lines = play.progress_of(host)
        assert bool(lines) == (host in shown), host
        assert all(line.startswith(f"[{host}] {WAITING}") for line in lines)
        assert len(set(lines)) == len(lines), "nothing is said twice"
        assert (folders[host] / "copy.db").exists() == (host != "late")
    assert "database is locked" in "".join(play.output)
    assert names_in(temporary) == []
    assert not own.exists()


def test_a_quick_snapshot_costs_no_round_trip(tmp_path: Path, start: Start) -> None:
    source = make_database(tmp_path / "live.db", 5)
    options = {"src": str(source), "dest": str(tmp_path / "copy.db")}
    with start([{"capsule.opstage.sqlite_backup": options}], {"host": {}}, "-vvv") as play:
        assert play.ended() == 0
        assert len(play.commands()) == 1
        assert play.progress_of("host") == []
    assert numbers_in(tmp_path / "copy.db") == [1, 2, 3, 4, 5]


def test_without_pipelining_it_costs_what_any_module_does(tmp_path: Path, start: Start) -> None:
    source = make_database(tmp_path / "live.db", 5)
    commands = []
    for task in (
        {"ansible.builtin.stat": {"path": str(source)}},
        {"capsule.opstage.sqlite_backup": {"src": str(source), "dest": str(tmp_path / "copy.db")}},
    ):
        with start([task], {"host": {}}, "-vvv", ANSIBLE_PIPELINING="0") as play:
            assert play.ended() == 0
            commands.append(len(play.commands()))
    assert commands[0] == commands[1] > 1
    assert numbers_in(tmp_path / "copy.db") == [1, 2, 3, 4, 5]


def test_in_the_background_and_in_check_mode(tmp_path: Path, start: Start) -> None:
    source = make_database(tmp_path / "live.db", 5)
    tasks: list[dict[str, Any]] = [
        {"capsule.opstage.sqlite_backup": {"src": str(source), "dest": str(tmp_path / name)}, **keywords}
        for name, keywords in (("background.db", {"async": 30, "poll": 1}), ("check.db", {"check_mode": True}))
    ]
    with start(tasks, {"host": {}}, ANSIBLE_ASYNC_DIR=str(tmp_path / "jobs")) as play:
        assert play.ended() == 0, play.output
    assert any("changed=2" in line for line in play.output)
    assert numbers_in(tmp_path / "background.db") == [1, 2, 3, 4, 5]
    assert not (tmp_path / "check.db").exists()


def read_as_host(path: Path) -> str:
    """What the controller gets to see of a progress file."""
    command = [sys.executable, "-I", "-S", "-c", READER, str(path)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout


class TestReader:
    def test_own_file(self, tmp_path: Path) -> None:
        (tmp_path / "a file").write_text("found")
        assert read_as_host(tmp_path / "a file") == "found"

    def test_no_more_than_a_report_can_have(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x" * 1_000_000)
        assert len(read_as_host(tmp_path / "file")) == 4096

    def test_nothing_planted(self, tmp_path: Path) -> None:
        (tmp_path / "foreign").write_text("secret")
        os.chown(tmp_path / "foreign", 1, 1)
        (tmp_path / "own").write_text("secret")
        (tmp_path / "link").symlink_to(tmp_path / "own")
        os.mkfifo(tmp_path / "fifo")
        for name in ("foreign", "link", "fifo", "missing"):
            assert read_as_host(tmp_path / name) == "", name


def report(done: int) -> dict[str, Any]:
    """The answer of a host whose module has come that far."""
    text = json.dumps({"phase": "copying", "done": done, "total": 100, "seconds": 2})
    return {"rc": 0, "stdout": text}


class Backup(ActionModule):
    """The action plugin on a host that gives the `answers`, one a poll; the module ends with the last of them."""

    def __init__(self, answers: list[Any], transport: str = "local") -> None:
        shell = SimpleNamespace(tmpdir=None, join_path=os.path.join, env_prefix=lambda **_variables: "")
        connection = SimpleNamespace(transport=transport, become=None, has_native_async=False, _shell=shell)
        task = SimpleNamespace(args={}, async_val=0, check_mode=False, environment=None, action="sqlite_backup")
        super().__init__(task, connection, None, None, None, None)
        self.answers = answers
        self.all_given = threading.Event()
        self.shown: list[str] = []
        self.told: list[str] = []
        self._display = SimpleNamespace(
            display=lambda line, stderr: self.shown.append(line if stderr else "on standard output"),
            vv=self.told.append,
        )

    def _execute_module(self, **_keywords: object) -> dict[str, Any]:
        self._used_interpreter = "#!/usr/bin/python3"
        if self.answers:
            assert self.all_given.wait(30)
        return {"changed": True, "arguments": dict(self._task.args)}

    def _low_level_execute_command(self, command: str) -> dict[str, Any]:
        answer = self.answers.pop(0) if self.answers else report(99)
        if not self.answers:
            self.all_given.set()
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)


class TestHostsThatAnswerBadly:
    @pytest.fixture(autouse=True)
    def _no_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress_action, "SILENT_SECONDS", 0.001)

    def run(self, answers: list[Any], transport: str = "local") -> tuple[Backup, dict[str, Any]]:
        threads = threading.active_count()
        action = Backup(answers, transport)
        result = action.run(task_vars={"inventory_hostname": "host"})
        assert threading.active_count() == threads
        assert result["changed"]
        return action, result["arguments"]

    def test_failed_polls_are_no_errors(self) -> None:
        lost = AnsibleConnectionFailure("the connection is lost")
        action, _arguments = self.run([lost, {"rc": 1, "stdout": ""}, report(50), lost, report(60), lost])
        percents = [line.split("copying, ")[1].split(" %")[0] for line in action.shown]
        assert percents[:2] == ["50", "60"]
        assert "on standard output" not in action.shown
        assert len(action.told) == 3
        assert "the connection is lost" in action.told[0]

    def test_an_unforeseen_error_ends_the_polls_and_not_the_task(self) -> None:
        action, _arguments = self.run([RuntimeError("unforeseen")])
        assert action.shown == []
        assert "unforeseen" in action.told[0]

    def test_what_is_no_report_is_not_shown(self) -> None:
        texts = ["\x1b[2Jgone", "", '{"phase": "copying"}', "x" * 4096]
        action, _arguments = self.run([{"rc": 0, "stdout": text} for text in texts] + [{"rc": 1, "stdout": ""}])
        assert [line for line in action.shown if " 99 %" not in line] == []
        assert action.told == []

    def test_the_same_is_not_shown_again(self) -> None:
        action, _arguments = self.run([report(10), report(10), report(10), report(20), {"rc": 1, "stdout": ""}])
        assert [" 10 %" in line for line in action.shown].count(True) == 1

    def test_the_name_cannot_be_foreseen(self) -> None:
        names = {self.run([])[1]["progress_file"] for _run in range(10)}
        assert len(names) == 10
        assert all(re.fullmatch(r"/var/tmp/\.ansible-[0-9a-f]{32}\.progress", name) for name in names)

    def test_a_connection_with_one_session_is_left_to_the_module(self) -> None:
        action, arguments = self.run([], "amazon.aws.aws_ssm")
        assert arguments == {}
        assert (action.shown, action.told) == ([], [])


@pytest.mark.parametrize("name", ["sqlite_backup", "sqlite_restore", "recovery_point", "recovery_point_info"])
def test_every_module_that_can_take_long_has_the_option(name: str) -> None:
    plugin = importlib.import_module(f"ansible_collections.capsule.opstage.plugins.action.{name}").ActionModule
    assert issubclass(plugin, ProgressAction)
    assert plugin.operation
    module = importlib.import_module(f"ansible_collections.capsule.opstage.plugins.modules.{name}")
    assert "capsule.opstage.progress" in yaml.safe_load(module.DOCUMENTATION)["extends_documentation_fragment"]
