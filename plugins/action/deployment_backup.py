# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action plugin: tell the module `deployment_backup` who asks for the lock, and show how far it has come."""

from __future__ import annotations

from typing import Any

from ansible_collections.capsule.opstage.plugins.plugin_utils.lock_claim import run_claiming
from ansible_collections.capsule.opstage.plugins.plugin_utils.progress_action import ProgressAction


class ActionModule(ProgressAction):
    """Runs the module on the managed host."""

    operation = "backup"

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module and return its result; see ActionBase.run."""
        run = super().run
        return run_claiming(self._task, lambda: run(tmp, task_vars))
