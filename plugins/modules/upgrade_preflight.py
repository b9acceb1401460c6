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
  - Compares a deployment with the version that it is to be upgraded to, and looks for everything that can be known to
    stand in the way, before anything is changed. All of it is returned together, in RV(problems).
  - The registry is asked for the images without a pull, and for its versions in between; the journal for what earlier
    upgrades saw of them; the host for room, memory, a sound database, a session secret and a project that can be
    pinned; the clock for the maintenance window.
  - Fails only where it cannot work with what it is given at all.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details:
      - This module changes nothing. That the project's files can be changed is proven on a temporary copy beside them.
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
    description:
      - The version to upgrade to, V(<major>.<minor>.<patch>). A tag that is none, such as V(edge), must be in
        O(acknowledge) too.
    type: str
    required: true
  acknowledge:
    description:
      - What the operator agrees to. The version in O(version) where a minor or major changes, whose changelogs were
        read; it counts for all versions on the way. The tag in O(version) where it is no version. The new digest of a
        tag that has moved since an earlier upgrade on this host.
    type: list
    elements: str
    default: []
  stops:
    description: Versions that may not be jumped over; those between what runs and O(version) are on the RV(path).
    type: list
    elements: str
    default: []
  root:
    description: The folder of the recovery points, below which there must be room for those of the upgrade.
    type: path
    default: /var/backups/opstage
  rehearse:
    description: Whether the target is tried on a copy of the data first, for which there must be room and memory.
    type: bool
    default: true
  maintenance_window:
    description:
      - When changes may be made, such as V(Sun 02:00-04:00 Europe/Berlin), V(Mon-Fri 22:00-02:00 UTC) or, several of
        them with V(;) between, V(Sat 01:00-05:00 UTC; Sun 01:00-05:00 UTC). Days may also be V(daily). It must be open,
        and for as long as the upgrade may take.
      - At any time when not given.
    type: str
  username:
    description:
      - Name of an account of the console, an owner's or an operator's, with which the switch is to look at Diagnostics.
        It must be able to now.
      - In check mode nobody logs in, since the service records that.
    type: str
  password:
    description: Its password. Required together with O(username).
    type: str
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: See whether it can be upgraded, the changelogs of 0.3.0 having been read
  capsule.opstage.upgrade_preflight:
    deployment: "{{ found.deployment }}"
    version: 0.3.0
    acknowledge: 0.3.0
  register: plan

- name: Stop where something stands in the way
  ansible.builtin.fail:
    msg: "{{ plan.problems | join(' ') }}"
  when: plan.problems
"""

RETURN = r"""
needed:
  description: Whether there is anything to do; false when the deployment runs the version already.
  returned: success
  type: bool
problems:
  description:
    - Everything that stands in the way, a sentence or a few each. The upgrade must not begin unless it is empty.
  returned: success
  type: list
  elements: str
source:
  description: Version, tag, digest, image, image id and address of what runs.
  returned: success
  type: dict
target:
  description:
    - Version, tag, digest and image of what is to run. The version is null for a tag that may have any; the digest is
      null where the registry did not tell it, otherwise the image names it too, so that nothing else can be pulled.
  returned: success
  type: dict
  sample:
    version: 0.3.0
    tag: 0.3.0
    digest: sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b
    image: "ghcr.io/xtrape-com/xtrape-capsule-ce:0.3.0@\
      sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
path:
  description:
    - What to go through, in order, each as RV(target) is, which is the last. The stops between are the others. Empty
      where nothing is needed.
  returned: success
  type: list
  elements: dict
versions:
  description: The versions after the one that runs up to the target, ascending, as the registry lists them.
  returned: success
  type: list
  elements: str
  sample:
    - 0.2.1
    - 0.3.0
versions_complete:
  description:
    - Whether these are all. False where the registry does not list its tags, so that only those of the path are known,
      and where the target is no version.
  returned: success
  type: bool
predicted_seconds:
  description:
    - How many seconds the switches of the path may take together, each as the last upgrade that ended well; null where
      there was none on this host.
  returned: success
  type: float
"""

from dataclasses import asdict
from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.image_reference import ImageReferenceError
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_session import Account
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_preflight import (
    DEFAULT_ROOT,
    UpgradeRequest,
    examine,
    plan_upgrade,
    try_account,
)


def main() -> None:
    """Return the plan, with everything that stands in the way."""
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "dict", "required": True},
            "unfinished_operation": {"type": "dict"},
            "version": {"type": "str", "required": True},
            "acknowledge": {"type": "list", "elements": "str", "default": []},
            "stops": {"type": "list", "elements": "str", "default": []},
            "root": {"type": "path", "default": DEFAULT_ROOT},
            "rehearse": {"type": "bool", "default": True},
            "maintenance_window": {"type": "str"},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
        },
        required_together=[("username", "password")],
        supports_check_mode=True,
    )
    options = module.params
    deployment, unfinished = options["deployment"], options["unfinished_operation"]
    request = UpgradeRequest(
        options["version"],
        options["acknowledge"],
        options["stops"],
        options["maintenance_window"],
        options["root"],
        options["rehearse"],
    )
    try:
        plan = plan_upgrade(deployment, request, unfinished)
        if unfinished is None:
            plan = examine(plan, deployment, request, datetime.now(timezone.utc))
            if options["username"] is not None and not module.check_mode:
                account = Account(options["username"], options["password"])
                plan = try_account(plan, deployment, account, module.warn)
    except ImageReferenceError as error:
        module.fail_json(msg=f"The image of the deployment cannot be upgraded: {error}")
    module.exit_json(changed=False, **asdict(plan))


if __name__ == "__main__":
    main()
