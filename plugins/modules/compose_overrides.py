#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: compose_overrides
short_description: Write override files by which Compose prepares an upgrade
version_added: 0.1.0
description:
  - Writes two override files for a service of a Compose project, beside the journal of the deployment. The project's
    own files stay as they are.
  - One gives the service the image of the target version, so that it can be pulled before the project names it.
  - The other takes the service's networks and published ports away, so that the target version can be started and
    verified on the data while no client reaches it. What cannot be reached takes no write that a rollback would lose.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  project:
    description: Name of the Compose project.
    type: str
    required: true
  service:
    description: Name of the service in the Compose project.
    type: str
    required: true
  image:
    description: The image of the target version.
    type: str
    required: true
notes:
  - The second file needs Docker Compose 2.18 or newer.
"""

EXAMPLES = r"""
- name: Write the override files
  capsule.opstage.compose_overrides:
    project: opstage
    service: opstage
    image: ghcr.io/xtrape-com/xtrape-capsule-ce:0.3.0
  register: overrides

- name: Pull the image that the project does not name yet
  community.docker.docker_compose_v2_pull:
    project_src: /opt/opstage
    files:
      - compose.yml
      - "{{ overrides.target_image }}"
"""

RETURN = r"""
target_image:
  description: The override that gives the service the target's image.
  returned: success
  type: str
  sample: /var/lib/opstage/opstage/target-image.yml
isolation:
  description: The override that leaves the service without any network.
  returned: success
  type: str
  sample: /var/lib/opstage/opstage/isolation.yml
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.compose_overrides import write_overrides
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from ansible_collections.capsule.opstage.plugins.module_utils.journal import state_folder


def main() -> None:
    """Write both files."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "service": {"type": "str", "required": True},
            "image": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    folder = state_folder(module.params["project"])
    try:
        overrides = write_overrides(folder, module.params["service"], module.params["image"], module.check_mode)
    except (OSError, PrivateFolderError) as error:
        module.fail_json(msg=f"The override files in {folder} cannot be written: {error}")
    module.exit_json(changed=overrides.changed, target_image=overrides.target_image, isolation=overrides.isolation)


if __name__ == "__main__":
    main()
