#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: recovery_point_drill
short_description: Prove that a recovery point of Opstage CE restores, by starting it
version_added: 0.1.0
description:
  - Proves that a recovery point is sound and what its manifest says, and starts the very image that made it on a copy
    of its database, in a throw-away container without any network.
  - It must become healthy, report the version of the manifest, and leave a sound database in which no row is missing.
  - The container has the memory limit and the user of the deployment's, and no variable of it. The session secret is
    made up. Nothing of the deployment is touched.
  - An image that is not on the host is pulled by its digest, and removed again at the end.
  - Container and copy are removed in any case, and first of all what a drill left that was killed.
  - When it ended, how long it took and how it ended is recorded in the manifest, as C(drill), in the place of what an
    earlier drill left.
requirements:
  - The C(docker) command on the host.
  - The C(age) command on the host, for a recovery point that is encrypted.
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
      - Then the recovery point is found, and nothing is started.
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  deployment:
    description: The deployment, as M(capsule.opstage.deployment_info) returns it.
    type: dict
    required: true
  recovery_point:
    description: V(latest), the id of a recovery point, or the absolute path of its folder.
    type: str
    default: latest
  root:
    description: Folder below which the recovery points of all projects lie.
    type: path
    default: /var/backups/opstage
  timeout:
    description: Seconds within which it must be healthy. It is given up sooner where its container has ended for good.
    type: int
    default: 120
  identity:
    description:
      - The text of an identity file of age, or of a private key of OpenSSH, without a passphrase, for a recovery point
        that is encrypted.
    type: str
seealso:
  - module: capsule.opstage.recovery_point
  - module: capsule.opstage.upgrade_preparation
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: Prove that its newest recovery point restores
  capsule.opstage.recovery_point_drill:
    deployment: "{{ found.deployment }}"
"""

RETURN = r"""
path:
  description: Folder of the recovery point.
  returned: success
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual
summary:
  description: How it went, in words; in check mode what would be done.
  returned: success
  type: str
version:
  description: The version that it reported.
  returned: success, not in check mode
  type: str
  sample: 0.2.0
seconds:
  description: How long it took.
  returned: success, not in check mode
  type: float
  sample: 4.21
ready_seconds:
  description: How long of that it took from its start until it was healthy.
  returned: success, not in check mode
  type: float
  sample: 0.82
changes:
  description: What its start changed in the data, by table, as M(capsule.opstage.recovery_point_changes) returns it.
  returned: success, not in check mode
  type: dict
container_logs:
  description: The last lines of its container.
  returned: failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPointError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_drill import (
    DrillError,
    drill,
    find_drilled,
)


def main() -> None:
    """Drill one recovery point."""
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "dict", "required": True},
            "recovery_point": {"type": "str", "default": "latest"},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "timeout": {"type": "int", "default": 120},
            "identity": {"type": "str", "no_log": True},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options, deployment = module.params, module.params["deployment"]
    root, identity = options["root"], options["identity"] or None
    try:
        point = find_drilled(root, deployment["project"], options["recovery_point"], identity is not None, module.warn)
        if module.check_mode:
            image = point.manifest["image"]["image"]
            module.exit_json(
                changed=True,
                path=point.path,
                summary=f"{image} would be started on a copy of it, without a network, and removed again.",
            )
        with ProgressFile(options["progress_file"], module.warn) as progress:
            drilled = drill(deployment, root, point, options["timeout"], identity, progress)
    except DrillError as error:
        said = f" The last lines of its container: {' / '.join(error.logs)}" if error.logs else ""
        module.fail_json(msg=f"{error}{said}", container_logs=error.logs)
    except (RecoveryPointError, PrivateFolderError, OSError) as error:
        module.fail_json(msg=f"No drill was made: {error}", container_logs=[])
    module.exit_json(
        changed=True,
        path=point.path,
        summary=drilled.summary,
        version=drilled.version,
        seconds=round(drilled.seconds, 3),
        ready_seconds=round(drilled.ready_seconds, 3),
        changes=drilled.changes,
    )


if __name__ == "__main__":
    main()
