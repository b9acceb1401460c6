#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: recovery_point_decrypt
short_description: Decrypt a recovery point of an Opstage deployment
version_added: 0.1.0
description:
  - Writes the files of an encrypted recovery point, decrypted, into a new private folder, which is then a recovery
    point that can be restored.
  - The private key reaches the program through a pipe. Ansible's own temporary files on the host hold it, as any
    option, for as long as the module runs, unless pipelining is on.
requirements:
  - The C(age) command on the host.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - The files hold secrets.
  platform:
    platforms: linux
options:
  project:
    description: Name of the Compose project. Needed where O(recovery_point) is no path.
    type: str
  recovery_point:
    description: V(latest), the id of a recovery point, or the absolute path of its folder.
    type: str
    required: true
  root:
    description: Folder below which the recovery points of all projects lie.
    type: path
    default: /var/backups/opstage
  dest:
    description: The folder to write, which must not exist. Made V(0700), its files V(0600).
    type: path
    required: true
  identity:
    description: The text of an identity file of age, or of a private key of OpenSSH, without a passphrase.
    type: str
    required: true
seealso:
  - module: capsule.opstage.recovery_point
"""

EXAMPLES = r"""
- name: Decrypt the newest recovery point
  capsule.opstage.recovery_point_decrypt:
    project: opstage
    recovery_point: latest
    dest: /root/decrypted
    identity: "{{ lookup('ansible.builtin.file', '/root/age-key.txt') }}"
"""

RETURN = r"""
path:
  description: The folder with the decrypted files.
  returned: success
  type: str
  sample: /root/decrypted
source:
  description: The encrypted recovery point.
  returned: success
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    RecoveryPointError,
    find_recovery_point,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import decrypt_recovery_point


def main() -> None:
    """Decrypt one recovery point."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str"},
            "recovery_point": {"type": "str", "required": True},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "dest": {"type": "path", "required": True},
            "identity": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        point = find_recovery_point(options["root"], options["project"] or "", options["recovery_point"], module.warn)
        if not module.check_mode:
            decrypt_recovery_point(point, options["dest"], options["identity"])
    except (RecoveryPointError, PrivateFolderError, OSError) as error:
        module.fail_json(msg=f"{error} Nothing was written.")
    module.exit_json(changed=True, path=options["dest"], source=point.path)


if __name__ == "__main__":
    main()
