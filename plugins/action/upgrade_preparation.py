# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action plugin: show how far the module `upgrade_preparation` has come with its recovery point."""

from __future__ import annotations

from ansible_collections.capsule.opstage.plugins.plugin_utils.progress_action import ProgressAction


class ActionModule(ProgressAction):
    """Runs the module on the managed host."""

    operation = "recovery point"
