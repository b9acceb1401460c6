#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: recovery_point_info
short_description: Find and verify a recovery point of an Opstage deployment
version_added: 0.1.0
description:
  - Finds a recovery point on the host, proves that its copy of the database is sound and what the manifest says, and
    that the Opstage that would open it is not older than the one it came from.
  - Opstage itself does not refuse a database newer than itself; it serves on it.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
  - capsule.opstage.progress
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
  project:
    description: Name of the Compose project.
    type: str
    required: true
  recovery_point:
    description:
      - V(latest), the id of a recovery point, or the absolute path of its folder.
      - V(latest) is the whole one that was made last by the time in its manifest, of several with one time that with
        the greatest id. A warning names each that was passed over and seems newer, because it is damaged or made by a
        newer collection.
      - One that lies more than an hour in the future is passed over with a warning, since a clock was wrong when it was
        made or is now, unless there is no other.
    type: str
    required: true
  root:
    description: Folder below which the recovery points of all projects lie.
    type: path
    default: /var/backups/opstage
  version:
    description: The version of the Opstage that would open the database.
    type: str
    required: true
seealso:
  - module: capsule.opstage.recovery_point
"""

EXAMPLES = r"""
- name: Verify the newest recovery point
  capsule.opstage.recovery_point_info:
    project: opstage
    recovery_point: latest
    version: 0.3.0
"""

RETURN = r"""
path:
  description: Folder of the recovery point.
  returned: success
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual
database:
  description: The copy of the database.
  returned: success
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual/opstage.db
sha256:
  description: SHA-256 of the copy.
  returned: success
  type: str
manifest:
  description: What the manifest holds, as docs/manifest.schema.json of this collection describes it.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    RecoveryPointError,
    describe_migrations,
    find_recovery_point,
    require_same_or_newer,
    verify_recovery_point,
)


def main() -> None:
    """Find one recovery point and prove it."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "recovery_point": {"type": "str", "required": True},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "version": {"type": "str", "required": True},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        point = find_recovery_point(
            parameters["root"], parameters["project"], parameters["recovery_point"], module.warn
        )
        require_same_or_newer(point.manifest, parameters["version"])
        migrations = describe_migrations(point.manifest, parameters["version"])
        if migrations is not None:
            module.warn(migrations)
        with ProgressFile(parameters["progress_file"], module.warn) as progress:
            verify_recovery_point(point, progress)
    except RecoveryPointError as error:
        module.fail_json(msg=f"{error} Nothing was changed.")
    module.exit_json(
        changed=False,
        path=point.path,
        database=point.database,
        sha256=point.manifest["database"]["sha256"],
        manifest=point.manifest,
    )


if __name__ == "__main__":
    main()
