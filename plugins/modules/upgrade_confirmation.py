#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: upgrade_confirmation
short_description: Have a host undo an upgrade unless it is confirmed in time
version_added: 0.1.0
description:
  - Sets a transient systemd timer on the host that undoes an upgrade, and ends it when the controller has come back to
    confirm. So an upgrade after which nobody reaches the host any more does not stay.
  - What the timer runs is C(opstage-ops rollback), which needs neither Ansible nor a controller. What was written since
    the upgrade is kept in a recovery point.
  - The timer is gone when the host is restarted, and the upgrade stays then.
requirements:
  - systemd on the host.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  deployment:
    description: The deployment, as M(capsule.opstage.deployment_info) returned it before the upgrade.
    type: dict
    required: true
  lock:
    description: The token of the lock that the upgrade holds, as M(capsule.opstage.deployment_lock) returned it.
    type: str
    required: true
  state:
    description:
      - V(awaited), the time begins. To be set before the upgrade.
      - V(confirmed), the upgrade stays. It is an error when the host has undone it or is about to.
      - V(cancelled), the upgrade has failed, and there is nothing left to undo.
    type: str
    required: true
    choices: [awaited, confirmed, cancelled]
  minutes:
    description: How long the host waits. Required where O(state=awaited).
    type: int
  root:
    description: Folder below which the recovery points of all projects lie.
    type: path
    default: /var/backups/opstage
  timeout:
    description: Seconds within which the old version must be healthy again.
    type: int
    default: 120
seealso:
  - module: capsule.opstage.upgrade_switch
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: Take its lock
  capsule.opstage.deployment_lock:
    project: "{{ found.deployment.project }}"
    operation: upgrade
  register: lock

- name: Undo what comes next, unless it is confirmed within ten minutes
  capsule.opstage.upgrade_confirmation:
    deployment: "{{ found.deployment }}"
    lock: "{{ lock.token }}"
    state: awaited
    minutes: 10
"""

RETURN = r"""
unit:
  description: Name of the timer and of the service that it starts, without what is behind the dot.
  returned: success
  type: str
  sample: opstage-confirm-opstage
"""

import sys

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.journal import JournalError
from ansible_collections.capsule.opstage.plugins.module_utils.operations_archive import ArchiveError
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_confirmation import (
    Confirmation,
    ConfirmationError,
    cancel,
    confirm,
    set_timer,
    unit_name,
)


def main() -> None:
    """Set the timer or end it."""
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "dict", "required": True},
            "lock": {"type": "str", "required": True, "no_log": False},
            "state": {"type": "str", "required": True, "choices": ["awaited", "confirmed", "cancelled"]},
            "minutes": {"type": "int"},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "timeout": {"type": "int", "default": 120},
        },
        required_if=[("state", "awaited", ("minutes",))],
        supports_check_mode=True,
    )
    options = module.params
    deployment, run = options["deployment"], options["lock"]
    project = deployment["project"]
    if options["minutes"] is not None and options["minutes"] < 1:
        module.fail_json(
            msg=f"The minutes to wait are {options['minutes']}; expected is 1 or more. Nothing was changed."
        )
    if module.check_mode:
        module.exit_json(changed=True, unit=unit_name(project))
    try:
        if options["state"] == "awaited":
            minutes, root, timeout = options["minutes"], options["root"], options["timeout"]
            set_timer(Confirmation(deployment, run, minutes, root, timeout, sys.executable))
        elif options["state"] == "confirmed":
            confirm(project, run)
        else:
            cancel(project)
    except (ConfirmationError, ArchiveError, JournalError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, unit=unit_name(project))


if __name__ == "__main__":
    main()
