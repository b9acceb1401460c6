# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action plugin: tell the module `deployment_lock` who asks, and see whether a holder on this controller has ended."""

from __future__ import annotations

import dataclasses
import getpass
import os
import socket
from typing import Any

from ansible.plugins.action.normal import ActionModule as NormalAction
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import (
    as_process,
    find_process,
    is_gone,
)


class ActionModule(NormalAction):  # type: ignore[misc]  # ansible-core ships no types
    """Runs the module on the managed host."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module and return its result; see ActionBase.run."""
        self._task.args["claimant"] = {
            "user": getpass.getuser(),
            "host": socket.gethostname(),
            "process": _playbook(),
        }
        result = dict(super().run(tmp, task_vars))
        holder = result.get("holder", {}) if result.get("failed") else {}
        process = as_process(holder.get("process"))
        if process is not None and is_gone(process):
            self._task.args["take_over"] = holder["token"]
            result = dict(super().run(tmp, task_vars))
        return result


def _playbook() -> dict[str, Any] | None:
    """The process of ansible-playbook itself: each task is run by a child of it."""
    process = find_process(os.getppid())
    return None if process is None else dataclasses.asdict(process)
