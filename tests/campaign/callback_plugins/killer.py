# SPDX-License-Identifier: GPL-3.0-or-later
"""Callback plugin of the campaign: kill ansible-playbook when a certain task begins, and write down which tasks began.

KILLER_TASKS: the file to which the names of the tasks are written, a line each. KILLER_TASK: at which of them the
controller is killed, its number, from 1 on, or a part of its name; none where it is empty.
"""

from __future__ import annotations

import os
import signal

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: killer
type: aggregate
short_description: Kill ansible-playbook when a certain task begins
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

    def v2_playbook_on_task_start(self, task: object, is_conditional: bool) -> None:
        """Called in the process of ansible-playbook itself, before the task is given to a worker."""
        self._count += 1
        with open(os.environ["KILLER_TASKS"], "a", encoding="utf-8") as stream:
            stream.write(f"{task}\n")
        wanted = os.environ["KILLER_TASK"]
        if wanted and (wanted == str(self._count) or wanted in str(task)):
            os.kill(os.getpid(), signal.SIGKILL)
