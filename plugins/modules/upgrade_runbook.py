#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: upgrade_runbook
short_description: Put the upgrade of Opstage CE on one host on paper
version_added: 0.1.0
description:
  - Returns a Markdown section that says what an upgrade would do on a host, with its real values; what stands in the
    way; each step with its checks and the way back from there; what a rollback would drop; and the commands for doing
    each step by hand, without Ansible.
  - There is no secret in it.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details:
      - This module changes nothing. How the project's files would be changed is proven on a temporary copy beside them.
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  host:
    description: The name of the host in the inventory.
    type: str
    required: true
  deployment:
    description: The deployment, as M(capsule.opstage.deployment_info) returns it. Run the module on its host.
    type: dict
  plan:
    description: The plan, as M(capsule.opstage.upgrade_preflight) returns it.
    type: dict
  changelog:
    description: What there is to read of the versions on the way, as M(capsule.opstage.upgrade_changelog) returns it.
    type: str
  failure:
    description:
      - Why there is no plan for the host. The section says so then, and nothing else; the module can run anywhere.
    type: str
  root:
    description: The folder of the recovery points.
    type: path
    default: /var/backups/opstage
  rehearse:
    description: Whether the target is tried on a copy of the data first.
    type: bool
    default: true
  timeout:
    description: Seconds within which a started Opstage must be healthy.
    type: int
    default: 120
  maintenance_window:
    description:
      - When changes may be made, as for M(capsule.opstage.upgrade_preflight). That it is closed while the runbook is
        made stands in no way.
      - At any time when not given.
    type: str
"""

EXAMPLES = r"""
- name: Put the upgrade on paper
  capsule.opstage.upgrade_runbook:
    host: "{{ inventory_hostname }}"
    deployment: "{{ found.deployment }}"
    plan: "{{ plan }}"
    changelog: "{{ changes.text }}"
    maintenance_window: Sun 02:00-04:00 Europe/Berlin
  register: runbook

- name: Show it
  ansible.builtin.debug:
    msg: "{{ runbook.text.splitlines() }}"
"""

RETURN = r"""
text:
  description: The section, which begins with a heading of the second level that names the host.
  returned: success
  type: str
"""

from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_by_hand import RunbookRequest
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_preflight import DEFAULT_ROOT
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_runbook import (
    format_failure,
    format_runbook,
    look_at_host,
)


def main() -> None:
    """Return the section of the host."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "deployment": {"type": "dict"},
            "plan": {"type": "dict"},
            "changelog": {"type": "str"},
            "failure": {"type": "str"},
            "root": {"type": "path", "default": DEFAULT_ROOT},
            "rehearse": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 120},
            "maintenance_window": {"type": "str"},
        },
        required_one_of=[("deployment", "failure")],
        required_by={"deployment": ("plan", "changelog")},
        mutually_exclusive=[("deployment", "failure")],
        supports_check_mode=True,
    )
    options = module.params
    if options["failure"] is not None:
        text = format_failure(options["host"], options["failure"])
    else:
        text = format_runbook(_request(options), datetime.now(timezone.utc))
    module.exit_json(changed=False, text=text)


def _request(options: dict[str, Any]) -> RunbookRequest:
    size, pins = look_at_host(options["deployment"], options["plan"])
    return RunbookRequest(
        options["host"],
        options["deployment"],
        options["plan"],
        options["changelog"],
        options["root"],
        options["rehearse"],
        options["timeout"],
        options["maintenance_window"],
        size,
        pins,
    )


if __name__ == "__main__":
    main()
