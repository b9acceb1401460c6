#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: recovery_point_fetch
short_description: Bring a recovery point to the controller
version_added: 0.1.0
description:
  - Copies the files of a recovery point to a folder of the controller, compares each with the checksum that it has on
    the host, and only then gives the folder its name. A failure leaves the recovery point on the host as it is.
  - The files come in pieces of 4 MiB through the connection, read by the user that the task becomes, so neither the
    host nor the controller needs memory for more, and no user who may not read them gets to see them on the way. A
    piece is a round trip, so a database of many gigabytes is better sent with
    M(capsule.opstage.recovery_point_restic).
  - A controller that is run with C(ANSIBLE_DEBUG) writes the content down with everything else.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.conn
  - ansible.builtin.action_common_attributes.flow
attributes:
  action:
    support: full
  async:
    support: none
  become:
    support: full
  bypass_host_loop:
    support: none
  check_mode:
    support: full
  connection:
    support: full
  delegation:
    support: full
  diff_mode:
    support: none
    details:
      - The files hold secrets.
  platform:
    platforms: linux
options:
  recovery_point:
    description: V(latest), the id of a recovery point, or the absolute path of its folder.
    type: str
    required: true
  project:
    description: Name of the Compose project. Needed where O(recovery_point) is no path.
    type: str
  root:
    description: Folder on the host below which the recovery points of all projects lie.
    type: path
    default: /var/backups/opstage
  dest:
    description:
      - Absolute path of a folder on the controller, in which the recovery point gets the folder
        C(<inventory_hostname>/<project>/<id>).
      - What is missing of it is made V(0700), the files V(0600), owned by the user that runs the playbook.
    type: path
    required: true
seealso:
  - module: capsule.opstage.recovery_point
  - module: capsule.opstage.recovery_point_restic
"""

EXAMPLES = r"""
- name: Bring the newest recovery point to the controller
  capsule.opstage.recovery_point_fetch:
    project: opstage
    recovery_point: latest
    dest: /srv/opstage
"""

RETURN = r"""
path:
  description: Folder of the recovery point on the host.
  returned: success
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual
dest:
  description: Folder of the recovery point on the controller.
  returned: success
  type: str
  sample: /srv/opstage/web1/opstage/2026-11-22T02-15-00-000000Z-manual
id:
  description: Its id.
  returned: success
  type: str
  sample: 2026-11-22T02-15-00-000000Z-manual
project:
  description: Its Compose project.
  returned: success
  type: str
  sample: opstage
files:
  description: Its files.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Path in the folder.
      type: str
      sample: project/compose.yml
    size:
      description: Bytes.
      type: int
    sha256:
      description: SHA-256 of the content.
      type: str
"""

import dataclasses

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    RecoveryPointError,
    find_recovery_point,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_away import files_of


def main() -> None:
    """Say what is to be copied; the action plugin of the same name copies it."""
    module = AnsibleModule(
        argument_spec={
            "recovery_point": {"type": "str", "required": True},
            "project": {"type": "str"},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "dest": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        point = find_recovery_point(options["root"], options["project"] or "", options["recovery_point"], module.warn)
        files = [dataclasses.asdict(file) for file in files_of(point)]
    except (RecoveryPointError, OSError) as error:
        module.fail_json(msg=f"{error} Nothing was copied.")
    module.exit_json(
        changed=False, path=point.path, id=point.manifest["id"], project=point.manifest["project"], files=files
    )


if __name__ == "__main__":
    main()
