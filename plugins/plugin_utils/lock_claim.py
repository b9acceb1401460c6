# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tell a module that takes the lock of a deployment who asks, and see whether a holder on this controller has ended."""

from __future__ import annotations

import dataclasses
import getpass
import os
import secrets
import socket
from collections.abc import Callable
from typing import Any

from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import (
    RUN_VARIABLE,
    TOKEN_BYTES,
    as_process,
    find_process,
    is_gone,
)


def run_claiming(task: Any, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run the module of a task by `run`, once more where the holder that it met has ended; the module's result.

    The environment of the task has the token, by which a later run finds what goes on here after this controller was
    lost.
    """
    token = secrets.token_hex(TOKEN_BYTES)
    task.environment = [*(task.environment or []), {RUN_VARIABLE: token}]
    task.args["claimant"] = {
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "process": _playbook(),
        "token": token,
    }
    result = run()
    holder = result.get("holder", {}) if result.get("failed") else {}
    process = as_process(holder.get("process"))
    if process is not None and is_gone(process):
        task.args["take_over"] = holder["token"]
        result = run()
    return result


def _playbook() -> dict[str, Any] | None:
    """The process of ansible-playbook itself: each task is run by a child of it."""
    process = find_process(os.getppid())
    return None if process is None else dataclasses.asdict(process)
