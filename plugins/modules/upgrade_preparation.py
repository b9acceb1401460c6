#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: upgrade_preparation
short_description: Pull the next version of Opstage CE and try it on a copy of the data
version_added: 0.1.0
description:
  - Does what an upgrade can do while the service runs, so that M(capsule.opstage.upgrade_switch) has little left.
    Nothing of the deployment is touched.
  - Pulls the image by Docker Compose for the service of the project, whose own files keep naming the version that runs.
    One that names its digest and is on the host already is not asked for again. Two override files are written beside
    the journal of the deployment. One gives the service the image of the target version, by which it is pulled. The
    other takes the service's networks and published ports away, so that the target version can be started and verified
    on the data while no client reaches it. What cannot be reached takes no write that a rollback would lose.
  - Makes a recovery point, see M(capsule.opstage.recovery_point).
  - With O(rehearse), starts the image on a copy of its database, with the environment, memory limit, user and,
    read-only, the other mounts of the deployment's container, and without any network. It must become healthy, report
    the target version, and leave a sound database in which no row is missing. Container and copy are removed in any
    case, and first of all what a rehearsal left that was killed. The recovery point stays.
requirements:
  - The C(docker) command with its Compose plugin, 2.18 or newer, on the host.
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
      - Nothing is pulled, made or started in check mode, and no registry asked.
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
    description: The image of the target version.
    type: str
    required: true
  rehearse:
    description: Whether to try it on a copy of the data.
    type: bool
    default: true
  version:
    description: The version that it must report. Any will do when not given.
    type: str
  timeout:
    description:
      - Seconds within which it must be healthy in the rehearsal. It is given up sooner where its container has ended
        for good.
    type: int
    default: 1800
  drops:
    description: Tables of which the migrations may drop rows, as the changelog says.
    type: list
    elements: str
    default: []
seealso:
  - module: capsule.opstage.recovery_point
  - module: capsule.opstage.upgrade_switch
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: Pull the next version, and try it on a copy of the data
  capsule.opstage.upgrade_preparation:
    deployment: "{{ found.deployment }}"
    image: ghcr.io/xtrape-com/xtrape-capsule-ce:0.3.0
    version: 0.3.0
"""

RETURN = r"""
isolation:
  description: The override that leaves the service without any network.
  returned: success
  type: str
  sample: /var/lib/opstage/opstage/isolation.yml
path:
  description: Folder of the recovery point.
  returned: when one was made
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-pre-upgrade
version:
  description: The version that it reported.
  returned: success of a rehearsal
  type: str
  sample: 0.3.0
seconds:
  description: How long it took from its start until it was healthy, its migrations done.
  returned: success of a rehearsal
  type: float
  sample: 0.82
changes:
  description: What it changed in the data, by table, as M(capsule.opstage.recovery_point_changes) returns it.
  returned: success of a rehearsal
  type: dict
summary:
  description: The same in words.
  returned: success of a rehearsal
  type: str
  sample: nothing
container_logs:
  description: The last lines of its container.
  returned: failure
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION
from ansible_collections.capsule.opstage.plugins.module_utils.compose_overrides import overrides_in, write_overrides
from ansible_collections.capsule.opstage.plugins.module_utils.compose_service import pull_image
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from ansible_collections.capsule.opstage.plugins.module_utils.journal import state_folder
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint, RecoveryPointError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_rehearsal import RehearsalError, rehearse


def main() -> None:
    """Pull, make a recovery point, and try the target version on it."""
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "dict", "required": True},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "image": {"type": "str", "required": True},
            "rehearse": {"type": "bool", "default": True},
            "version": {"type": "str"},
            "timeout": {"type": "int", "default": 1800},
            "drops": {"type": "list", "elements": "str", "default": []},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    deployment, image = options["deployment"], options["image"]
    folder = state_folder(deployment["project"])
    if module.check_mode:
        module.exit_json(changed=True, isolation=overrides_in(folder).isolation)
    try:
        overrides = write_overrides(folder, deployment["service"], image)
        pull_image(deployment, overrides.target_image, image)
    except (OSError, PrivateFolderError) as error:
        module.fail_json(msg=f"The override files in {folder} cannot be written: {error}")
    except DockerError as error:
        module.fail_json(msg=f"The image {image} could not be pulled, nothing was changed: {error}")
    point: RecoveryPoint | None = None
    try:
        with ProgressFile(options["progress_file"], module.warn) as progress:
            point = create_recovery_point(deployment, options["root"], "pre-upgrade", "online", VERSION, progress)
        rehearsed = _rehearse(options, point) if options["rehearse"] else {}
    except (RehearsalError, RecoveryPointError, PrivateFolderError, DatabaseFileError, DockerError, OSError) as error:
        module.fail_json(**_failure(image, point, error))
    else:
        module.exit_json(changed=True, isolation=overrides.isolation, path=point.path, **rehearsed)


def _rehearse(options: dict[str, Any], point: RecoveryPoint) -> dict[str, Any]:
    """Try the target version on a copy of the point; returns what the module does of that. Raises as `rehearse`."""
    rehearsal = rehearse(
        options["deployment"], point, options["image"], options["version"], options["timeout"], options["drops"]
    )
    return {
        "version": rehearsal.version,
        "seconds": round(rehearsal.seconds, 3),
        "changes": rehearsal.changes,
        "summary": rehearsal.summary,
    }


def _failure(image: str, point: RecoveryPoint | None, error: Exception) -> dict[str, Any]:
    """What the module returns when it failed."""
    if point is None:
        return {"msg": f"No recovery point was made, and nothing is left of it: {error}", "container_logs": []}
    logs = error.logs if isinstance(error, RehearsalError) else []
    said = f" The last lines of its container: {' / '.join(logs)}" if logs else ""
    msg = f"The rehearsal of {image} failed, nothing was changed: {error}{said}"
    return {"msg": msg, "container_logs": logs, "path": point.path}


if __name__ == "__main__":
    main()
