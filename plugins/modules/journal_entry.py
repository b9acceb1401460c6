#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: journal_entry
short_description: Record a step of an operation on an Opstage deployment
version_added: 0.1.0
description:
  - Appends one entry to the journal of a deployment on its host, C(/var/lib/opstage/<project>/journal.jsonl), and syncs
    it, so that a rollback knows what to undo and a run that was cut off is seen by the next one.
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
  project:
    description: Name of the Compose project.
    type: str
    required: true
  operation:
    description: What is done to the deployment.
    type: str
    required: true
    choices: [restore, upgrade, rollback]
  status:
    description: V(started) before the first change, then V(finished), or V(failed) once what was before is back.
    type: str
    required: true
    choices: [started, finished, failed]
  details:
    description: What the operation goes from and to, and the recovery point that leads back. No secrets.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Record that an upgrade begins
  capsule.opstage.journal_entry:
    project: opstage
    operation: upgrade
    status: started
    details:
      source: {version: 0.2.0, tag: 0.2.0}
      target: {version: 0.3.0, tag: 0.3.0}
      recovery_point: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-pre-upgrade
"""

RETURN = r"""
path:
  description: The journal.
  returned: success
  type: str
  sample: /var/lib/opstage/opstage/journal.jsonl
entry:
  description: The entry, with its time in UTC.
  returned: success, not in check mode
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.journal import (
    STATUSES,
    JournalError,
    append_entry,
    journal_path,
)


def main() -> None:
    """Append one entry."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "operation": {"type": "str", "required": True, "choices": ["restore", "upgrade", "rollback"]},
            "status": {"type": "str", "required": True, "choices": list(STATUSES)},
            "details": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    path = journal_path(module.params["project"])
    if module.check_mode:
        module.exit_json(changed=True, path=path)
    try:
        entry = append_entry(path, module.params["operation"], module.params["status"], module.params["details"])
    except JournalError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, path=path, entry=entry)


if __name__ == "__main__":
    main()
