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
  - Compares a deployment with the version that it is to be upgraded to, asks the registry for its image without a pull,
    and fails with everything that stands in the way, before anything is changed.
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
  maintenance_window:
    description:
      - When changes may be made, such as V(Sun 02:00-04:00 Europe/Berlin), V(Mon-Fri 22:00-02:00 UTC) or, several of
        them with V(;) between, V(Sat 01:00-05:00 UTC; Sun 01:00-05:00 UTC). Days may also be V(daily).
      - At any time when not given.
    type: str
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
  description: Version, tag, image and, as the registry has it, digest of what is to run.
  returned: success
  type: dict
problems:
  description: Everything that stands in the way.
  returned: always
  type: list
  elements: str
"""

from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_preflight import examine_target, plan_upgrade


def main() -> None:
    """Return the plan, or fail with everything that stands in the way."""
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "dict", "required": True},
            "unfinished_operation": {"type": "dict"},
            "version": {"type": "str", "required": True},
            "maintenance_window": {"type": "str"},
        },
        supports_check_mode=True,
    )
    options = module.params
    plan = plan_upgrade(options["deployment"], options["version"], options["unfinished_operation"])
    if options["unfinished_operation"] is None:
        plan = examine_target(plan, options["maintenance_window"], datetime.now(timezone.utc))
    if plan.problems:
        module.fail_json(
            msg="The upgrade did not begin, nothing was changed. " + " ".join(plan.problems), problems=plan.problems
        )
    module.exit_json(changed=False, needed=plan.needed, source=plan.source, target=plan.target, problems=[])


if __name__ == "__main__":
    main()
