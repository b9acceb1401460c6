#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: project_restore
short_description: Put the Compose project of a recovery point on a host that has none
version_added: 0.1.0
description:
  - Writes the Compose files and the files of variables that a recovery point holds to where they lay, so that the same
    Opstage can be created on a new host.
  - Makes the host folder that the service mounts for its data, with the owner that it had, where it is not a volume.
  - The recovery point is verified first, its database included.
  - Nothing is overwritten. A file that is there with another content is an error, before anything is written.
requirements:
  - Docker Compose 2.20 or newer, as C(docker compose).
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
  recovery_point:
    description: The absolute path of the recovery point's folder.
    type: path
    required: true
  project_dir:
    description:
      - Folder for what lay in the project's folder.
      - By default the folder that it had.
    type: path
seealso:
  - module: capsule.opstage.recovery_point
"""

EXAMPLES = r"""
- name: Put the project on a new host
  capsule.opstage.project_restore:
    recovery_point: /root/2026-11-22T02-15-00-000000Z-manual
  register: restored

- name: Create its container
  community.docker.docker_compose_v2:
    project_src: "{{ restored.project_dir }}"
    project_name: "{{ restored.project }}"
    files: "{{ restored.config_files }}"
    env_files: "{{ restored.environment_files }}"
    services:
      - "{{ restored.service }}"
    state: stopped
"""

RETURN = r"""
project:
  description: Name of the Compose project.
  returned: success
  type: str
  sample: opstage
project_dir:
  description: The project's folder.
  returned: success
  type: str
  sample: /opt/opstage
service:
  description: Name of the service.
  returned: success
  type: str
  sample: opstage
config_files:
  description: The Compose files, in their order.
  returned: success
  type: list
  elements: str
  sample: [/opt/opstage/compose.yml]
environment_files:
  description: The files of variables for Compose, in their order.
  returned: success
  type: list
  elements: str
  sample: [/opt/opstage/.env]
written:
  description: What was not there before, files and folders; in check mode, the files.
  returned: success
  type: list
  elements: str
  sample: [/opt/opstage, /opt/opstage/compose.yml, /opt/opstage/.env]
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.project_files import ProjectFilesError, restore_project
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    RecoveryPointError,
    read_recovery_point,
    require_plain,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_verification import verify_recovery_point


def main() -> None:
    """Put the project in place."""
    module = AnsibleModule(
        argument_spec={
            "recovery_point": {"type": "path", "required": True},
            "project_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        point = read_recovery_point(options["recovery_point"])
        require_plain(point)
        verify_recovery_point(point)
        restored = restore_project(point.path, point.manifest, options["project_dir"], module.check_mode)
    except RecoveryPointError as error:
        module.fail_json(msg=f"{error} Nothing was changed.")
    except ProjectFilesError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(restored.written), **asdict(restored))


if __name__ == "__main__":
    main()
