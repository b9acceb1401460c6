#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: upgrade_pull
short_description: Pull the image of the version that an Opstage CE is upgraded to
version_added: 0.1.0
description:
  - Pulls the image by Docker Compose for the service of the project, whose own files keep naming the version that runs.
    Two override files for that are written beside the journal of the deployment.
  - One override gives the service the image of the target version, by which it is pulled.
  - The other takes the service's networks and published ports away, so that the target version can be started and
    verified on the data while no client reaches it. What cannot be reached takes no write that a rollback would lose.
requirements:
  - The C(docker) command with its Compose plugin, 2.18 or newer, on the host.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details:
      - Nothing is pulled or written in check mode, and no registry asked.
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  deployment:
    description: The deployment, as M(capsule.opstage.deployment_info) returns it.
    type: dict
    required: true
  image:
    description: The image of the target version.
    type: str
    required: true
seealso:
  - module: capsule.opstage.upgrade_switch
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: Pull the image of the target version
  capsule.opstage.upgrade_pull:
    deployment: "{{ found.deployment }}"
    image: ghcr.io/xtrape-com/xtrape-capsule-ce:0.3.0
"""

RETURN = r"""
isolation:
  description: The override that leaves the service without any network.
  returned: success
  type: str
  sample: /var/lib/opstage/opstage/isolation.yml
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.compose_overrides import write_overrides
from ansible_collections.capsule.opstage.plugins.module_utils.compose_service import pull_image
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from ansible_collections.capsule.opstage.plugins.module_utils.journal import state_folder


def main() -> None:
    """Write both files, and pull by one of them."""
    module = AnsibleModule(
        argument_spec={"deployment": {"type": "dict", "required": True}, "image": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    deployment, image = module.params["deployment"], module.params["image"]
    folder = state_folder(deployment["project"])
    try:
        overrides = write_overrides(folder, deployment["service"], image, module.check_mode)
    except (OSError, PrivateFolderError) as error:
        module.fail_json(msg=f"The override files in {folder} cannot be written: {error}")
    changed = overrides.changed
    if not module.check_mode:
        try:
            changed |= pull_image(deployment, overrides.target_image, image)
        except DockerError as error:
            module.fail_json(msg=f"The image {image} could not be pulled, nothing was changed: {error}")
    module.exit_json(changed=changed, isolation=overrides.isolation)


if __name__ == "__main__":
    main()
