#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: upgrade_rehearsal
short_description: Try an upgrade of Opstage CE on a copy of the data
version_added: 0.1.0
description:
  - Makes a recovery point while the service runs, see M(capsule.opstage.recovery_point), and starts the image of the
    target version on a copy of its database, with the environment, memory limit, user and, read-only, the other mounts
    of the deployment's container, and without any network.
  - It must become healthy, report the target version, and leave a sound database in which no row is missing. Nothing of
    the deployment is touched.
  - Container and copy are removed in any case, and first of all what a rehearsal left that was killed. The recovery
    point stays.
requirements:
  - The C(docker) command on the host.
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
      - Nothing is made or started in check mode.
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
    description: Folder below which the recovery points of all projects lie.
    type: path
    default: /var/backups/opstage
  image:
    description: The image of the target version. It must be on the host.
    type: str
    required: true
  version:
    description: The version that it must report. Any will do when not given.
    type: str
  timeout:
    description: Seconds within which it must be healthy. It is given up sooner where its container has ended for good.
    type: int
    default: 1800
  drops:
    description: Tables of which the migrations may drop rows, as the changelog says.
    type: list
    elements: str
    default: []
seealso:
  - module: capsule.opstage.recovery_point
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: Try the next version
  capsule.opstage.upgrade_rehearsal:
    deployment: "{{ found.deployment }}"
    image: ghcr.io/xtrape-com/xtrape-capsule-ce:0.3.0
    version: 0.3.0
"""

RETURN = r"""
path:
  description: Folder of the recovery point on which it was tried.
  returned: when one was made
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-pre-upgrade
version:
  description: The version that it reported.
  returned: success, not in check mode
  type: str
  sample: 0.3.0
seconds:
  description: How long it took from its start until it was healthy, its migrations done.
  returned: success, not in check mode
  type: float
  sample: 0.82
changes:
  description: What it changed in the data, by table, as M(capsule.opstage.recovery_point_changes) returns it.
  returned: success, not in check mode
  type: dict
summary:
  description: The same in words.
  returned: success, not in check mode
  type: str
  sample: nothing
container_logs:
  description: The last lines of its container.
  returned: failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint, RecoveryPointError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_rehearsal import RehearsalError, rehearse


def main() -> None:
    """Try the target version."""
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "dict", "required": True},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "image": {"type": "str", "required": True},
            "version": {"type": "str"},
            "timeout": {"type": "int", "default": 1800},
            "drops": {"type": "list", "elements": "str", "default": []},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True)
    options = module.params
    point: RecoveryPoint | None = None
    try:
        with ProgressFile(options["progress_file"], module.warn) as progress:
            point = create_recovery_point(
                options["deployment"], options["root"], "pre-upgrade", "online", VERSION, progress
            )
        rehearsal = rehearse(
            options["deployment"], point, options["image"], options["version"], options["timeout"], options["drops"]
        )
    except (RehearsalError, RecoveryPointError, PrivateFolderError, DatabaseFileError, DockerError, OSError) as error:
        module.fail_json(**_failure(options["image"], point, error))
    else:
        module.exit_json(
            changed=True,
            path=point.path,
            version=rehearsal.version,
            seconds=round(rehearsal.seconds, 3),
            changes=rehearsal.changes,
            summary=rehearsal.summary,
        )


def _failure(image: str, point: RecoveryPoint | None, error: Exception) -> dict[str, object]:
    """What the module returns when it failed."""
    if point is None:
        return {"msg": f"No recovery point was made, and nothing is left of it: {error}", "container_logs": []}
    logs = error.logs if isinstance(error, RehearsalError) else []
    said = f" The last lines of its container: {' / '.join(logs)}" if logs else ""
    msg = f"The rehearsal of {image} failed, nothing was changed: {error}{said}"
    return {"msg": msg, "container_logs": logs, "path": point.path}


if __name__ == "__main__":
    main()
