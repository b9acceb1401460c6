#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: recovery_point
short_description: Make a recovery point of an Opstage deployment
version_added: 0.1.0
description:
  - Copies the database of an Opstage CE and the files of its Compose project into a new folder, verifies the copy, and
    writes a manifest. The folder appears whole or not at all.
  - The database is copied as one point in time, whether the service runs, was stopped, or was killed with everything
    still in its write-ahead log. The service is neither paused nor blocked.
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
  deployment:
    description: The deployment, as M(capsule.opstage.deployment_info) returns it.
    type: dict
    required: true
  root:
    description:
      - Folder below which the recovery points of all projects lie.
      - Made when missing, V(0700), owned by the user that the module runs as.
    type: path
    default: /var/backups/opstage
  reason:
    description: Why the recovery point is made; part of its name.
    type: str
    default: manual
    choices: [manual, scheduled, pre-upgrade, pre-restore, pre-rollback]
  method:
    description:
      - How the database is copied. Recorded in the manifest.
      - It is read on the host, with V(online) while the service may be running, with V(offline) once it was stopped.
    type: str
    default: online
    choices: [online, offline]
  recipients:
    description:
      - Public keys of age (C(age1…)) or OpenSSH (C(ssh-ed25519 …), C(ssh-rsa …)). Once it is verified, the copy and the
        project's files are encrypted for their owners, with the program age, which must be on the host.
      - The manifest stays readable. It holds no secret, but the names and the numbers of rows of the tables.
      - Without any, nothing is encrypted.
    type: list
    elements: str
    default: []
  allow_damaged:
    description:
      - Do not fail when the database is missing or so damaged that no sound copy can be made of it, but return no
        recovery point and say why.
      - For a restore, which is needed most when the database is damaged.
    type: bool
    default: false
seealso:
  - module: capsule.opstage.deployment_backup
  - module: capsule.opstage.recovery_point_info
  - module: capsule.opstage.sqlite_backup
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: Make a recovery point
  capsule.opstage.recovery_point:
    deployment: "{{ found.deployment }}"
"""

RETURN = r"""
path:
  description: Folder of the recovery point.
  returned: success, when one was made
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual
database:
  description: The copy of the database, encrypted if it was asked for.
  returned: success, when one was made
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual/opstage.db
sha256:
  description: SHA-256 of that file.
  returned: success, when one was made
  type: str
manifest:
  description: What the manifest holds, as docs/manifest.schema.json of this collection describes it.
  returned: success, when one was made
  type: dict
damage:
  description: Why no sound copy could be made.
  returned: when O(allow_damaged=true) and the database is missing or damaged
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from ansible_collections.capsule.opstage.plugins.module_utils.manifest import REASONS
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPointError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DAMAGE
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import SnapshotError

NOTHING_LEFT = "No recovery point was made, and nothing is left of it: {}"


def main() -> None:
    """Make one recovery point."""
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "dict", "required": True},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "reason": {"type": "str", "default": "manual", "choices": list(REASONS)},
            "method": {"type": "str", "default": "online", "choices": ["online", "offline"]},
            "recipients": {"type": "list", "elements": "str", "default": []},
            "allow_damaged": {"type": "bool", "default": False},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True)
    parameters = module.params
    try:
        with ProgressFile(parameters["progress_file"], module.warn) as progress:
            point = create_recovery_point(
                parameters["deployment"],
                parameters["root"],
                parameters["reason"],
                parameters["method"],
                VERSION,
                progress=progress,
                recipients=parameters["recipients"],
            )
    except SnapshotError as error:
        if not (parameters["allow_damaged"] and error.reason in DAMAGE):
            module.fail_json(msg=NOTHING_LEFT.format(error))
        module.exit_json(changed=False, damage=str(error))
    except (RecoveryPointError, PrivateFolderError, OSError) as error:
        module.fail_json(msg=NOTHING_LEFT.format(error))
    module.exit_json(
        changed=True,
        path=point.path,
        database=point.database,
        sha256=point.sha256,
        manifest=point.manifest,
    )


if __name__ == "__main__":
    main()
