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
    it, so that a rollback knows what to undo, and that the next run can end one which was cut off.
  - Fails, and records nothing, when the deployment's lock is not held any more with the given token.
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
  lock:
    description: The token of the lock, as M(capsule.opstage.deployment_lock) returned it.
    type: str
    required: true
  run:
    description: Which run of an operation the entry is about, where that is one which was cut off. By default this one.
    type: str
  operation:
    description: What is done to the deployment.
    type: str
    required: true
    choices: [backup, restore, upgrade, rollback]
  status:
    description: V(started) before the first change, V(step) before a further one, at last V(finished), or V(failed)
      once what was before is back.
    type: str
    required: true
    choices: [started, step, finished, failed]
  left:
    description: How the operation is to be ended when it is cut off after this entry. Required until its end.
    type: dict
    suboptions:
      action:
        description:
          - V(replace) means to stop the service, to put O(left.database) in the place of the database, and then what
            V(start) means.
          - V(start) means to have the project's files name the image of O(left.serve), to start the service, and to
            record O(left.outcome).
        type: str
        required: true
        choices: [replace, start]
      database:
        description: The file with which to replace the database.
        type: path
      sha256:
        description: Its checksum.
        type: str
      complete:
        description:
          - The folder of what M(capsule.opstage.upgrade_switch) took for a recovery point, which is to be completed,
            with V(replace) first, to get O(left.database) and O(left.sha256).
        type: path
      keep_damaged:
        description: Keep the present database, of which no sound copy could be made, beside the new one.
        type: bool
        default: false
      serve:
        description: What is to serve then.
        type: dict
        required: true
        suboptions:
          version:
            description: The version that the service must report. Any will do when not given.
            type: str
          tag:
            description: The tag to pin, if any.
            type: str
          digest:
            description: The digest to pin, if any.
            type: str
          image_id:
            description: The id of the image that the tag must name, if it is known.
            type: str
          image_digest:
            description: The digest of that image in its repository, if any.
            type: str
      outcome:
        description: How the operation has ended then.
        type: str
        required: true
        choices: [finished, failed]
  details:
    description: What the operation goes from and to, and the recovery point that leads back. No secrets.
    type: dict
    default: {}
seealso:
  - module: capsule.opstage.deployment_lock
"""

EXAMPLES = r"""
- name: Take the lock
  capsule.opstage.deployment_lock:
    project: opstage
    operation: backup
  register: lock

- name: Record that a backup at rest begins
  capsule.opstage.journal_entry:
    project: opstage
    lock: "{{ lock.token }}"
    operation: backup
    status: started
    left:
      action: start
      serve: {version: 0.3.0}
      outcome: failed
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
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import DeploymentLockError, renew_lock
from ansible_collections.capsule.opstage.plugins.module_utils.journal import (
    ENDS,
    LEFT_ACTIONS,
    OPERATIONS,
    SERVED,
    STATUSES,
    JournalError,
    append_entry,
    journal_path,
    state_folder,
    without_empty_text,
)

SERVE = {name: {"type": "str"} for name in SERVED}
LEFT = {
    "action": {"type": "str", "required": True, "choices": list(LEFT_ACTIONS)},
    "database": {"type": "path"},
    "sha256": {"type": "str"},
    "complete": {"type": "path"},
    "keep_damaged": {"type": "bool", "default": False},
    "serve": {"type": "dict", "required": True, "options": SERVE},
    "outcome": {"type": "str", "required": True, "choices": list(ENDS)},
}


def main() -> None:
    """Append one entry."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "lock": {"type": "str", "required": True, "no_log": False},
            "run": {"type": "str"},
            "operation": {"type": "str", "required": True, "choices": list(OPERATIONS)},
            "status": {"type": "str", "required": True, "choices": list(STATUSES)},
            "left": {
                "type": "dict",
                "options": LEFT,
                "required_if": [("action", "replace", ("database", "complete"), True)],
                "required_together": [("database", "sha256")],
            },
            "details": {"type": "dict", "default": {}},
        },
        required_if=[("status", "started", ("left",)), ("status", "step", ("left",))],
        supports_check_mode=True,
    )
    parameters = module.params
    path = journal_path(parameters["project"])
    if module.check_mode:
        module.exit_json(changed=True, path=path)
    details = parameters["details"]
    if parameters["left"] is not None:
        details = {**details, "left": parameters["left"]}
    try:
        renew_lock(state_folder(parameters["project"]), parameters["lock"])
        run = parameters["run"] or parameters["lock"]
        said = without_empty_text(details)
        entry = append_entry(path, parameters["operation"], parameters["status"], run, said)
    except (DeploymentLockError, JournalError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, path=path, entry=entry)


if __name__ == "__main__":
    main()
