#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: operation_resume
short_description: End an operation on an Opstage CE that was cut off
version_added: 0.1.0
description:
  - Does what the journal says is left of an operation whose controller, connection or host was lost. It puts the
    database in place that belongs there, pins its image, starts the service, waits until it is healthy, and records how
    the operation has ended.
  - What clients have written meanwhile is kept in a recovery point first, where it would be dropped.
  - Can be run again after a failure.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
  - capsule.opstage.operation
  - capsule.opstage.progress
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  unfinished_operation:
    description: The operation, as M(capsule.opstage.deployment_info) returns it.
    type: dict
    required: true
seealso:
  - module: capsule.opstage.deployment_info
  - module: capsule.opstage.journal_entry
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: Take its lock
  capsule.opstage.deployment_lock:
    project: "{{ found.deployment.project }}"
    operation: resumption
  register: lock

- name: End what was cut off
  capsule.opstage.operation_resume:
    deployment: "{{ found.deployment }}"
    unfinished_operation: "{{ found.unfinished_operation }}"
    lock: "{{ lock.token }}"
  when: found.unfinished_operation is not none
"""

RETURN = r"""
outcome:
  description: How the operation has ended, V(finished) or V(failed).
  returned: success, not in check mode
  type: str
  sample: failed
version:
  description: The version that serves.
  returned: success, not in check mode
  type: str
  sample: 0.2.0
kept:
  description: Folder of the recovery point of what clients had written meanwhile, null where there was no need for one.
  returned: success, not in check mode
  type: str
dropped:
  description: What that is, in words.
  returned: success, when there is one
  type: str
  sample: 'audit_events: 120 added'
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION
from ansible_collections.capsule.opstage.plugins.module_utils.operation_resumption import (
    Resumption,
    resume_operation,
)
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.way_back import OPERATION_FAILURES


def main() -> None:
    """End one operation."""
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "dict", "required": True},
            "unfinished_operation": {"type": "dict", "required": True},
            "lock": {"type": "str", "required": True, "no_log": False},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "timeout": {"type": "int", "default": 120},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True)
    options = module.params
    unfinished = options["unfinished_operation"]
    with ProgressFile(options["progress_file"], module.warn) as progress:
        wanted = Resumption(
            options["deployment"],
            unfinished,
            options["lock"],
            options["root"],
            options["timeout"],
            VERSION,
            progress,
        )
        try:
            done = resume_operation(wanted)
        except OPERATION_FAILURES as error:
            module.fail_json(
                msg=f"The {unfinished['operation']} that began at {unfinished['time']} could not be brought to its "
                f"end: {error} Once the cause is mended, the next run of any playbook goes on from there."
            )
    said = {} if done.dropped is None else {"dropped": done.dropped}
    module.exit_json(changed=True, outcome=done.outcome, version=done.version, kept=done.kept, **said)


if __name__ == "__main__":
    main()
