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
  - Without O(project), finds the deployment and returns it as it is under the lock, in one run on the host.
  - A lock whose holder has ended, on this controller or on the host, is taken over, and the module says so. So is one
    from another controller which gave no sign of life for an hour; M(capsule.opstage.journal_entry) gives one.
  - Whoever lost the lock in that way cannot go on, since M(capsule.opstage.journal_entry) then fails.
  - A lock comes and goes with each run, so it counts as no change.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
  - capsule.opstage.claim
  - capsule.opstage.discovery
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
    description:
      - Name of the Compose project, for a lock alone. Required to let it go.
      - The deployment is found and returned when not given, see RV(deployment).
    type: str
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
  require_data:
    description:
      - Whether it is an error that the host cannot see the database of the deployment that is found.
      - Only a backup that the service makes itself can do without.
    type: bool
    default: true
seealso:
  - module: capsule.opstage.deployment_info
  - module: capsule.opstage.journal_entry
"""

EXAMPLES = r"""
- name: Find the deployment and take its lock
  capsule.opstage.deployment_lock:
    operation: maintenance of the disk
  register: found

- name: Let the lock go
  capsule.opstage.deployment_lock:
    project: "{{ found.deployment.project }}"
    state: absent
    token: "{{ found.token }}"
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
deployment:
  description: >-
    The deployment, as M(capsule.opstage.deployment_info) returns it, with all that it returns besides:
    RV(capsule.opstage.deployment_info#module:newest_recovery_point),
    RV(capsule.opstage.deployment_info#module:last_upgrade) and
    RV(capsule.opstage.deployment_info#module:unfinished_operation) among them.
  returned: when O(state=present), without O(project)
  type: dict
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
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_claim import CLAIMANT, Claim, take
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import LockHeldError, release_lock
from ansible_collections.capsule.opstage.plugins.module_utils.host_discovery import DISCOVERY_ERRORS, Search, discover
from ansible_collections.capsule.opstage.plugins.module_utils.journal import state_folder

SEARCH = ("project_dir", "service", "url", "ca_file", "root", "require_data")


def main() -> None:
    """Take the lock or let it go."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str"},
            "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
            "operation": {"type": "str"},
            "token": {"type": "str", "no_log": False},
            "take_over": {"type": "str"},
            "claimant": CLAIMANT,
            "project_dir": {"type": "path"},
            "service": {"type": "str"},
            "url": {"type": "str"},
            "ca_file": {"type": "path"},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "require_data": {"type": "bool", "default": True},
        },
        required_if=[("state", "present", ("operation",)), ("state", "absent", ("project", "token"))],
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **_result(module))
    except LockHeldError as error:
        module.fail_json(msg=str(error), holder=dataclasses.asdict(error.holder))
    except DISCOVERY_ERRORS as error:
        module.fail_json(msg=str(error))


def _result(module: AnsibleModule) -> dict[str, Any]:
    options = module.params
    if options["state"] == "absent":
        folder = state_folder(options["project"])
        return {"released": not module.check_mode and release_lock(folder, options["token"])}
    claim = Claim.of(options["operation"], options["claimant"], options["take_over"])
    if options["project"] is not None:
        return take(options["project"], claim, module.warn, module.check_mode)
    search = Search(**{name: options[name] for name in SEARCH})
    found = discover(search, module.warn)
    taken = take(found.project, claim, module.warn, module.check_mode)
    try:
        # Another operation may have ended between the two.
        if found.is_outdated():
            found = discover(search, module.warn)
    except BaseException:
        if not module.check_mode:
            release_lock(state_folder(found.project), taken["token"])
        raise
    return {**found.fields, **taken}


if __name__ == "__main__":
    main()
