#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: upgrade_preflight
short_description: Decide whether an upgrade of Opstage CE may begin
version_added: 0.1.0
description:
  - Compares a deployment with the version that it is to be upgraded to, and fails with everything that stands in the
    way, before anything is changed.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details:
      - This module changes nothing.
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  deployment:
    description: The deployment, as M(capsule.opstage.deployment_info) returns it.
    type: dict
    required: true
  unfinished_operation:
    description: The operation that was cut off, as M(capsule.opstage.deployment_info) returns it.
    type: dict
  version:
    description: The version to upgrade to, V(<major>.<minor>.<patch>).
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: Check that it can be upgraded
  capsule.opstage.upgrade_preflight:
    deployment: "{{ found.deployment }}"
    version: 0.3.0
  register: plan
"""

RETURN = r"""
needed:
  description: Whether there is anything to do; false when the deployment runs the version already.
  returned: success
  type: bool
source:
  description: Version, tag, digest, image, image id and address of what runs.
  returned: success
  type: dict
target:
  description: Version, tag and image of what is to run.
  returned: success
  type: dict
problems:
  description: Everything that stands in the way.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_preflight import plan_upgrade


def main() -> None:
    """Return the plan, or fail with everything that stands in the way."""
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "dict", "required": True},
            "unfinished_operation": {"type": "dict"},
            "version": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    plan = plan_upgrade(module.params["deployment"], module.params["version"], module.params["unfinished_operation"])
    if plan.problems:
        module.fail_json(
            msg="The upgrade did not begin, nothing was changed. " + " ".join(plan.problems), problems=plan.problems
        )
    module.exit_json(changed=False, needed=plan.needed, source=plan.source, target=plan.target, problems=[])


if __name__ == "__main__":
    main()
