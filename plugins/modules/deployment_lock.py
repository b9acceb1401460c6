#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: deployment_lock
short_description: Let one operation at a time work on an Opstage deployment
version_added: 0.1.0
description:
  - Takes the lock of a deployment, or lets it go. It is a file on the deployment's host,
    C(/var/lib/opstage/<project>/lock.json), which says who holds it, from where, since when and for what.
  - A lock whose holder has ended, on this controller or on the host, is taken over, and the module says so. So is one
    from another controller which gave no sign of life for an hour; M(capsule.opstage.journal_entry) gives one.
  - Whoever lost the lock in that way cannot go on, since M(capsule.opstage.journal_entry) then fails.
  - A lock comes and goes with each run, so it counts as no change.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
attributes:
  action:
    support: full
    details:
      - The module does the work. The action plugin tells it who asks, and looks whether the holder has ended.
  async:
    support: none
  bypass_host_loop:
    support: none
  check_mode:
    support: full
    details:
      - Then a lock that somebody else holds is an error too, but none is taken.
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  project:
    description: Name of the Compose project.
    type: str
    required: true
  state:
    description: Whether to hold the lock, or to let it go.
    type: str
    default: present
    choices: [present, absent]
  operation:
    description: What the lock is held for, in words that tell somebody who waits. Required to take it.
    type: str
  token:
    description: What the module returned when the lock was taken. Required to let it go. A lock of another token stays.
    type: str
  take_over:
    description: The token of a holder that is known to have ended, as the error says it.
    type: str
  journal_size:
    description: >-
      How much the journal held when the deployment was looked at, as M(capsule.opstage.deployment_info) returned it.
    type: int
  claimant:
    description: Who asks; filled in by the action plugin.
    type: dict
    default: {}
    suboptions:
      user:
        description: Name of the user.
        type: str
        default: unknown
      host:
        description: Name of the host on which the playbook runs.
        type: str
        default: unknown
      process:
        description: The process that ends with the playbook.
        type: dict
seealso:
  - module: capsule.opstage.journal_entry
"""

EXAMPLES = r"""
- name: Take the lock
  capsule.opstage.deployment_lock:
    project: opstage
    operation: maintenance of the disk
  register: lock

- name: Let the lock go
  capsule.opstage.deployment_lock:
    project: opstage
    state: absent
    token: "{{ lock.token }}"
"""

RETURN = r"""
token:
  description:
    - Shows that the lock is held; for M(capsule.opstage.journal_entry), and to let it go. Empty in check mode.
  returned: when O(state=present)
  type: str
  sample: 6f1f0a7cf5b3b9d2
taken_over:
  description: The holder that had ended, null where nobody held the lock.
  returned: when O(state=present)
  type: dict
stale:
  description: >-
    Whether somebody recorded something since the deployment was looked at, so that it has to be looked at again. False
    without O(journal_size).
  returned: when O(state=present)
  type: bool
released:
  description: Whether the lock was held with the token, and is free now.
  returned: when O(state=absent)
  type: bool
holder:
  description: Who holds the lock.
  returned: when somebody else does
  type: dict
  contains:
    token:
      description: For O(take_over).
      type: str
    operation:
      description: What for.
      type: str
    user:
      description: Who.
      type: str
    host:
      description: From where.
      type: str
    since:
      description: Since when, UTC.
      type: str
    seen:
      description: The last sign of life, UTC.
      type: str
    process:
      description: The process that holds it, null where it is not known.
      type: dict
"""

import dataclasses
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import (
    DeploymentLockError,
    LockHeldError,
    as_process,
    release_lock,
    require_free,
    take_lock,
)
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.journal import (
    JournalError,
    journal_path,
    journal_size,
    state_folder,
)
from ansible_collections.capsule.opstage.plugins.module_utils.rehearsal_containers import remove_rehearsals


def main() -> None:
    """Take the lock or let it go."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
            "operation": {"type": "str"},
            "token": {"type": "str", "no_log": False},
            "take_over": {"type": "str"},
            "journal_size": {"type": "int"},
            "claimant": {
                "type": "dict",
                "default": {},
                "options": {
                    "user": {"type": "str", "default": "unknown"},
                    "host": {"type": "str", "default": "unknown"},
                    "process": {"type": "dict"},
                },
            },
        },
        required_if=[("state", "present", ("operation",)), ("state", "absent", ("token",))],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**_result(module))
    except LockHeldError as error:
        module.fail_json(msg=str(error), holder=dataclasses.asdict(error.holder))
    except (DeploymentLockError, JournalError) as error:
        module.fail_json(msg=str(error))


def _result(module: AnsibleModule) -> dict[str, object]:
    parameters, claimant = module.params, module.params["claimant"]
    folder = state_folder(parameters["project"])
    if parameters["state"] == "absent":
        return {"changed": False, "released": not module.check_mode and release_lock(folder, parameters["token"])}
    process = as_process(claimant.get("process"))
    if module.check_mode:
        require_free(folder, process, parameters["take_over"])
        return {"changed": False, "token": "", "taken_over": None, "stale": _is_stale(parameters)}
    holder, previous = take_lock(
        folder,
        parameters["operation"],
        claimant.get("user", "unknown"),
        claimant.get("host", "unknown"),
        process,
        parameters["take_over"],
    )
    if previous is not None:
        module.warn(f"The lock was taken over from an operation that has ended: {previous}.")
        _remove_rehearsals(module)
    return {
        "changed": False,
        "token": holder.token,
        "taken_over": None if previous is None else dataclasses.asdict(previous),
        "stale": _is_stale(parameters),
    }


def _remove_rehearsals(module: AnsibleModule) -> None:
    """Remove what a rehearsal of the dead operation left running."""
    try:
        remove_rehearsals(module.params["project"])
    except DockerError as error:
        module.warn(f"What a rehearsal may have left running could not be removed: {error}")


def _is_stale(parameters: dict[str, Any]) -> bool:
    expected = parameters["journal_size"]
    return expected is not None and expected != journal_size(journal_path(parameters["project"]))


if __name__ == "__main__":
    main()
