# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run a module in the usual way, and show how far it has come when it takes long."""

from __future__ import annotations

import contextvars
import copy
import secrets
import shlex
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action.normal import ActionModule as NormalAction
from ansible_collections.capsule.opstage.plugins.module_utils.progress_display import facts_of
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import parse_progress
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import Progress

SILENT_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 30.0

# Those which run each command in a process of its own. Others pass all through one session, where a second command
# meanwhile would disturb the first.
CONNECTIONS = ("local", "ssh")

PHASE_TEXTS = {"waiting": "waiting for a lock that somebody else holds"}

# Prints a file of the user that runs it, and nothing else that somebody may have put in its place: no link is followed,
# a FIFO does not hang it, a huge file does not flood it. One line, since not every login shell takes two.
READER = (
    "import os, stat, sys; "
    "path = os.path.expanduser(os.path.expandvars(sys.argv[1])); "
    "descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK); "
    "status = os.fstat(descriptor); "
    "stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and os.write(1, os.read(descriptor, 4096))"
)


class ProgressAction(NormalAction):  # type: ignore[misc]  # ansible-core ships no types
    """The action plugin of a module with the option ``progress_file``; ``operation`` says what the module does.

    The module runs as any other does, and nothing is asked of the host in the first SILENT_SECONDS. Then a thread reads
    the module's progress file now and then, with the same connection and as the same user, and shows a line on standard
    error: there it appears at once and does not get into a callback's output. Whatever happens to that thread, the task
    takes its course. With `async`, where the controller does not wait, nothing is shown.
    """

    operation = ""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module and return its result; see ActionBase.run."""
        if self._task.async_val or self._connection.transport not in CONNECTIONS:
            return dict(super().run(tmp, task_vars))
        path = self._task.args.setdefault("progress_file", self._unused_name())
        if not path:
            return dict(super().run(tmp, task_vars))
        ended = threading.Event()
        with ThreadPoolExecutor(max_workers=1) as executor:
            follow = _Follower(self, str((task_vars or {})["inventory_hostname"]), str(path), ended)
            following = executor.submit(contextvars.copy_context().run, follow)
            try:
                return dict(super().run(tmp, task_vars))
            finally:
                ended.set()
                error = following.exception()
                if error is not None:
                    self._display.vv(f"The progress was not followed to the end: {error!r}")

    def _unused_name(self) -> str:
        """A name for the module's progress file, which the module removes at its end.

        It lies in the folder that Ansible itself takes where a private one would cost a round trip or bar the user that
        the module runs as. Anybody may write there, so nobody can foresee the name.
        """
        folders = self.get_shell_option("system_tmpdirs", ["/var/tmp"])
        return str(self._connection._shell.join_path(folders[0], f".ansible-{secrets.token_hex(16)}.progress"))


class _Follower:
    """Reads the progress file ``path`` until ``ended``, and shows what is new in it.

    It has a copy of the action with a connection and a become plugin of its own: these keep the state of the command
    that they are running in themselves.
    """

    def __init__(self, action: ProgressAction, host: str, path: str, ended: threading.Event) -> None:
        self._action = action
        self._host = host
        self._path = path
        self._ended = ended
        self._environment = action._compute_environment_string()
        self._own = copy.copy(action)
        self._own._connection = copy.copy(action._connection)
        self._own._connection.become = copy.copy(action._connection.become)

    def __call__(self) -> None:
        """Follow the module from SILENT_SECONDS on, ever less often the longer it takes."""
        started = time.monotonic()
        pause, shown = SILENT_SECONDS, None
        while not self._ended.wait(pause):
            try:
                progress = self._read()
            except AnsibleError as error:
                self._action._display.vv(f"The progress could not be read: {error}")
                progress = None
            if progress is not None and progress != shown and not self._ended.is_set():
                self._action._display.display(self._line(progress), stderr=True)
                shown = progress
            pause = min(LONGEST_PAUSE_SECONDS, max(SILENT_SECONDS, (time.monotonic() - started) / 10))

    def _read(self) -> Progress | None:
        """What the file says now; None while there is none. Raises AnsibleError when the host cannot be asked."""
        interpreter = self._action._used_interpreter
        if interpreter is None:
            return None
        python = f"{self._environment} {interpreter.replace('#!', '').strip()}".strip()
        answer = self._own._low_level_execute_command(f"{python} -I -S -c {shlex.join([READER, self._path])}")
        return parse_progress(answer["stdout"]) if answer["rc"] == 0 else None

    def _line(self, progress: Progress) -> str:
        phase = PHASE_TEXTS.get(progress.phase, progress.phase)
        return f"[{self._host}] {self._action.operation}: {phase}, {', '.join(facts_of(progress))}"
