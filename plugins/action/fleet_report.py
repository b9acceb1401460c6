# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action plugin: report how the Opstage of all hosts is; see the module of this name for its options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import replace_file
from ansible_collections.capsule.opstage.plugins.module_utils.fleet_page import format_page
from ansible_collections.capsule.opstage.plugins.module_utils.fleet_status import (
    describe_counts,
    format_json,
    format_table,
    in_need,
    make_report,
)
from ansible_collections.capsule.opstage.plugins.modules.fleet_report import ARGUMENT_SPEC


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Runs on the controller; nothing is asked of a host."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Show and write the report and return the result; see ActionBase.run."""
        result = dict(super().run(tmp, task_vars))
        _validation, options = self.validate_argument_spec(ARGUMENT_SPEC)
        report = make_report(_results(task_vars or {}, options["results"]), datetime.now(UTC))
        for line in format_table(report):
            self._display.display(line)
        files = {"json": format_json(report), "html": format_page(report).encode()}
        written = {os.path.abspath(options[name]): content for name, content in files.items() if options[name]}
        hosts = in_need(report)
        result.update(changed=bool(written), hosts=hosts, counts=report["counts"], written=list(written))
        try:
            if not self._task.check_mode:
                for path, content in written.items():
                    replace_file(path, content, mode=0o644)
        except OSError as error:
            return {**result, "failed": True, "msg": f"The report could not be written: {error}"}
        if hosts:
            return {**result, "failed": True, "msg": f"{describe_counts(report)}. Look at {', '.join(hosts)}."}
        return {**result, "msg": f"{describe_counts(report)}."}


def _results(variables: Mapping[str, Any], name: str) -> dict[str, Mapping[str, Any] | None]:
    """What was registered as `name`, by host of the play; None where nothing was."""
    return {host: variables["hostvars"][host].get(name) for host in variables["ansible_play_hosts_all"]}
