# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action plugin: tell the module `deployment_lock` who asks, and see whether a holder on this controller has ended."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action.normal import ActionModule as NormalAction
from ansible_collections.capsule.opstage.plugins.plugin_utils.lock_claim import run_claiming


class ActionModule(NormalAction):  # type: ignore[misc]  # ansible-core ships no types
    """Runs the module on the managed host."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module and return its result; see ActionBase.run."""
        run = super().run
        return run_claiming(self._task, lambda: dict(run(tmp, task_vars)))
