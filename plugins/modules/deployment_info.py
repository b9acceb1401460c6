#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: deployment_info
short_description: Find the Opstage CE that a host runs
version_added: 0.1.0
description:
  - Finds the Opstage CE that runs, or is stopped, on a host as a service of a Compose project, and gives in one run
    everything that backing it up, restoring, upgrading or rolling it back needs to know.
  - An Opstage is recognised by its image's title. Version and health come from its API. The health that Docker
    reports is given too, but it is a hint only, since the published Compose sample checks a file that the image
    does not have.
  - Neither environment variables nor secrets of the container are returned.
requirements:
  - The C(docker) command on the host.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
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
  project_dir:
    description:
      - The Compose project's folder on the host.
      - Not needed where the host has exactly one Opstage.
    type: path
  service:
    description:
      - The name of the service in the Compose project.
      - Only needed where the image does not carry the title of Opstage CE, or the project has several.
    type: str
  url:
    description:
      - Address at which the host reaches the service, for example V(http://127.0.0.1:8080).
      - Taken from the published port when not given.
    type: str
seealso:
  - module: capsule.opstage.deployment_health
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: Show what runs
  ansible.builtin.debug:
    msg: "{{ found.deployment.project }} runs {{ found.deployment.version }}"
"""

RETURN = r"""
deployment:
  description: The deployment.
  returned: success
  type: dict
  contains:
    project:
      description: Name of the Compose project.
      type: str
      sample: opstage
    project_dir:
      description: The project's folder.
      type: str
      sample: /opt/opstage
    config_files:
      description: The project's Compose files, in their order.
      type: list
      elements: str
      sample: [/opt/opstage/compose.yml]
    environment_files:
      description: Files of variables that Compose was given by name; empty when it used the folder's C(.env).
      type: list
      elements: str
      sample: []
    service:
      description: Name of the service.
      type: str
      sample: opstage
    container:
      description: Name of the container.
      type: str
      sample: opstage-opstage-1
    container_status:
      description: What the container does, as Docker says.
      type: str
      sample: running
    container_health:
      description: Outcome of the container's own health check, null when it has none. A hint only.
      type: str
      sample: unhealthy
    image:
      description: The image as the project names it.
      type: str
      sample: ghcr.io/xtrape-com/xtrape-capsule-ce:0.2.0
    repository:
      description: The image's name without tag and digest.
      type: str
      sample: ghcr.io/xtrape-com/xtrape-capsule-ce
    tag:
      description: The image's tag, null when it has none.
      type: str
      sample: 0.2.0
    digest:
      description: The image's digest in its repository, null for an image built on the host.
      type: str
      sample: sha256:45b23dee08af5e43a7fea6c4cf9c25ccf269ee113168c19722f87876677c5cb2
    image_id:
      description: The image's id on the host.
      type: str
      sample: sha256:05455a08881ea9cf0e752bc48e61bbd71a34c029bb13df01e40e3e70e0d007bd
    data_dir:
      description: Folder on the host that holds the data.
      type: str
      sample: /var/lib/docker/volumes/opstage_opstage-data/_data
    database:
      description: The database on the host.
      type: str
      sample: /var/lib/docker/volumes/opstage_opstage-data/_data/opstage.db
    database_size:
      description: Size of the database file in bytes, without its log; null when it does not exist.
      type: int
      sample: 4096
    url:
      description: Address at which the host reaches the service.
      type: str
      sample: http://127.0.0.1:8080
    status:
      description: Health as the API reports it, V(UP), V(DEGRADED) or V(DOWN); null when it does not answer.
      type: str
      sample: UP
    version:
      description: Version as the API reports it; else from the image's label, else its tag.
      type: str
      sample: 0.2.0
    version_source:
      description: Where RV(deployment.version) comes from, V(api), V(label) or V(tag).
      type: str
      sample: api
    edition:
      description: Edition as the API reports it, in lower case; null when it does not answer.
      type: str
      sample: ce
journal_size:
  description: Bytes of the journal; for M(capsule.opstage.deployment_lock).
  returned: success
  type: int
last_upgrade:
  description: The journal's entry of the upgrade that a rollback would undo, null when there is none.
  returned: success
  type: dict
unfinished_operation:
  description: The operation that began last, when nothing says how it ended, null otherwise.
  returned: success
  type: dict
  contains:
    operation:
      description: What was done, V(backup), V(restore), V(upgrade) or V(rollback).
      type: str
    run:
      description: Which run it was; for M(capsule.opstage.journal_entry).
      type: str
    time:
      description: When it began, UTC.
      type: str
    left:
      description: What is left to do, as M(capsule.opstage.journal_entry) was told.
      type: dict
    details:
      description: What its entries say besides.
      type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.deployment import DiscoveryError, discover_deployment
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.journal import (
    JournalError,
    find_last_upgrade,
    find_unfinished,
    journal_path,
    journal_size,
    read_entries,
)


def main() -> None:
    """Find the deployment and return it with what its journal says."""
    module = AnsibleModule(
        argument_spec={
            "project_dir": {"type": "path"},
            "service": {"type": "str"},
            "url": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        deployment = discover_deployment(module.params["project_dir"], module.params["service"], module.params["url"])
        size = journal_size(journal_path(deployment.project))
        entries = read_entries(journal_path(deployment.project))
    except (DiscoveryError, DockerError, JournalError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        deployment=deployment.as_dict(),
        journal_size=size,
        last_upgrade=find_last_upgrade(entries),
        unfinished_operation=find_unfinished(entries),
    )


if __name__ == "__main__":
    main()
