# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action plugin: read the changelogs of the versions of an upgrade; see the module of this name for its options."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.capsule.opstage.plugins.module_utils.changelogs import (
    ChangelogError,
    describe_changelogs,
    read_changelogs,
)
from ansible_collections.capsule.opstage.plugins.module_utils.semantic_version import VersionError
from ansible_collections.capsule.opstage.plugins.modules.upgrade_changelog import ARGUMENT_SPEC


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Runs on the controller; nothing is asked of a host."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the changelogs, or fail where nothing could be learned; see ActionBase.run.

        The source may hold a password: errors and results have it without.
        """
        result = dict(super().run(tmp, task_vars))
        _validation, options = self.validate_argument_spec(ARGUMENT_SPEC)
        try:
            changelogs = read_changelogs(options["versions"], options["source"], options["current"])
        except (ChangelogError, VersionError) as error:
            return {**result, "failed": True, "msg": str(error)}
        return {
            **result,
            "changed": False,
            "changelogs": [asdict(changelog) for changelog in changelogs],
            "missing": [changelog.version for changelog in changelogs if not changelog.found],
            "text": describe_changelogs(changelogs),
        }
