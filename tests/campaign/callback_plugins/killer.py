# SPDX-License-Identifier: GPL-3.0-or-later
"""Callback plugin of the campaign: halt ansible-playbook when a certain task begins, and write down which tasks began.

KILLER_TASKS: the file to which the tasks are written, a line each: time.monotonic(), a space, the name. KILLER_TASK:
at which of them the controller halts, so that the campaign can kill it or what it works on: its number, from 1 on, or
a part of its name; none where it is empty.
"""

from __future__ import annotations

import os
import signal
import time

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: killer
type: aggregate
short_description: Halt ansible-playbook when a certain task begins
description:
  - For the campaign of interruptions only.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core ships no types
    """Counts tasks as the strategy queues them."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "killer"

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._wanted = os.environ["KILLER_TASK"]

    def v2_playbook_on_task_start(self, task: object, is_conditional: bool) -> None:
        """Called in the process of ansible-playbook itself, before the task is given to a worker."""
        self._count += 1
        with open(os.environ["KILLER_TASKS"], "a", encoding="utf-8") as stream:
            stream.write(f"{time.monotonic():.3f} {task}\n")
        if self._wanted and (self._wanted == str(self._count) or self._wanted in str(task)):
            self._wanted = ""
            os.kill(os.getpid(), signal.SIGSTOP)
