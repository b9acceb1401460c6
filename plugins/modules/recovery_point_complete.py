#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: recovery_point_complete
short_description: Complete a recovery point that an upgrade began
version_added: 0.1.0
description:
  - An upgrade takes what a recovery point needs while the service is down, and verifies and describes it when the
    service runs again. Where it was cut off in between, this module makes a recovery point of what is there.
  - One that is complete already is left as it is.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
  - capsule.opstage.progress
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  folder:
    description: The folder of what was taken, as the journal names it.
    type: path
    required: true
seealso:
  - module: capsule.opstage.upgrade_switch
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: Complete the recovery point of an upgrade that was cut off
  capsule.opstage.recovery_point_complete:
    folder: "{{ found.unfinished_operation.left.complete }}"
  when: found.unfinished_operation.left.complete is defined
"""

RETURN = r"""
path:
  description: Folder of the recovery point.
  returned: success, not in check mode
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-pre-upgrade
database:
  description: The copy of the database.
  returned: success, not in check mode
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-pre-upgrade/opstage.db
sha256:
  description: SHA-256 of that file.
  returned: success, not in check mode
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPointError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_at_stop import complete_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError


def main() -> None:
    """Complete one recovery point."""
    module = AnsibleModule(
        argument_spec={"folder": {"type": "path", "required": True}, "progress_file": {"type": "path"}},
        supports_check_mode=True,
    )
    folder = module.params["folder"]
    is_left = os.path.lexists(folder)
    if module.check_mode:
        module.exit_json(changed=is_left)
    try:
        with ProgressFile(module.params["progress_file"], module.warn) as progress:
            point = complete_recovery_point(folder, VERSION, progress)
    except (RecoveryPointError, DatabaseFileError, OSError) as error:
        module.fail_json(msg=f"The recovery point that {folder} is to become cannot be completed: {error}")
    module.exit_json(changed=is_left, path=point.path, database=point.database, sha256=point.sha256)


if __name__ == "__main__":
    main()
