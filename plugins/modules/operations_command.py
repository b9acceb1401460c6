#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: operations_command
short_description: Put the command opstage-ops on a host
version_added: 0.1.0
description:
  - Installs the core of this collection as one executable file, so that the host can make, list, prove and prune
    recovery points while the controller is away. It needs neither Ansible nor any Python package there.
  - It is run by the Python that runs this module.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - The version and the checksum of the file.
  platform:
    platforms: linux
options:
  path:
    description:
      - The file.
      - An executable of that name that is none of this collection is not replaced and not removed.
    type: path
    default: /usr/local/bin/opstage-ops
  state:
    description: Whether it is to be there.
    type: str
    default: present
    choices: [present, absent]
seealso:
  - module: capsule.opstage.recovery_point
"""

EXAMPLES = r"""
- name: Install opstage-ops
  capsule.opstage.operations_command:

- name: Remove it again
  capsule.opstage.operations_command:
    state: absent
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
  sample: /usr/local/bin/opstage-ops
version:
  description: Version of the collection that was installed.
  returned: when O(state=present)
  type: str
  sample: 0.1.0
"""

import sys

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION
from ansible_collections.capsule.opstage.plugins.module_utils.operations_archive import (
    ArchiveError,
    build_archive,
    describe_archive,
    install_archive,
    installed_archive,
    remove_archive,
)


def main() -> None:
    """Install the command or remove it."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/usr/local/bin/opstage-ops"},
            "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
        },
        supports_check_mode=True,
    )
    path, wanted = module.params["path"], module.params["state"] == "present"
    result = {"path": path, "version": VERSION} if wanted else {"path": path}
    try:
        before = describe_archive(installed_archive(path))
        if wanted:
            archive = build_archive(sys.executable)
            changed = install_archive(path, archive, module.check_mode)
            after = describe_archive(archive)
        else:
            changed = remove_archive(path, module.check_mode)
            after = ""
    except (ArchiveError, OSError) as error:
        module.fail_json(msg=f"{path} was not changed: {error}")
    module.exit_json(changed=changed, diff={"before": before, "after": after}, **result)


if __name__ == "__main__":
    main()
