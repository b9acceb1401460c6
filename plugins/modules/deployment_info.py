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
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - capsule.opstage.discovery
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
  required:
    description: Whether a host without any Opstage is an error.
    type: bool
    default: true
  require_data:
    description:
      - Whether it is an error that the host cannot see the database, since it lies on a volume of a remote driver or in
        the container.
      - Only a backup that the service makes itself can do without.
    type: bool
    default: true
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
  description: The deployment; null where O(required=false) and the host has none, and then all that follows is missing.
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
    container_started:
      description: When it was last, RFC 3339, in the year 1 where it never was.
      type: str
      sample: "2026-11-22T02:15:00.123456789Z"
    isolated:
      description: Whether the container has no network, so that no client reaches it.
      type: bool
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
      description: Folder on the host that holds the data; empty where O(require_data=false) and it cannot be seen.
      type: str
      sample: /var/lib/docker/volumes/opstage_opstage-data/_data
    database:
      description: The database on the host; empty where O(require_data=false) and it cannot be seen.
      type: str
      sample: /var/lib/docker/volumes/opstage_opstage-data/_data/opstage.db
    database_size:
      description: Size of the database file in bytes, without its log; null when it does not exist or cannot be seen.
      type: int
      sample: 4096
    url:
      description: Address at which the host reaches the service.
      type: str
      sample: http://127.0.0.1:8080
    ca_file:
      description: What O(ca_file) says, null where it was not given.
      type: str
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
summary:
  description: Version, health, newest recovery point and what needs a person, in one line.
  returned: success
  type: str
  sample: >-
    opstage: Opstage 0.2.0, UP; newest recovery point 2026-11-22T02-15-00-000000Z-manual, 3 hours old
newest_recovery_point:
  description: The newest whole recovery point, null when there is none. Its bytes are not looked at.
  returned: success
  type: dict
  contains:
    path:
      description: Its folder.
      type: str
      sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual
    created:
      description: When it was begun, UTC.
      type: str
      sample: "2026-11-22T02:15:00.000000Z"
    reason:
      description: Why it was made.
      type: str
      sample: manual
lock:
  description: Who holds the lock of the deployment, null when nobody does. The holder may have ended.
  returned: success
  type: dict
  contains:
    operation:
      description: What is done.
      type: str
      sample: upgrade
    user:
      description: Who does it.
      type: str
      sample: root
    host:
      description: From where.
      type: str
      sample: controller
    since:
      description: Since when, UTC.
      type: str
    seen:
      description: The last sign of life, UTC.
      type: str
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
    recorded:
      description: When its newest entry was recorded, UTC.
      type: str
    left:
      description:
        - What is left to do, as M(capsule.opstage.journal_entry) was told.
        - Where clients may have written to the old database since, in the old version, an upgrade puts nothing back.
      type: dict
    copy_first:
      description: Whether clients may have written since, so that a recovery point is to be made before that.
      type: bool
    details:
      description: What its entries say besides.
      type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.deployment import NoDeploymentError
from ansible_collections.capsule.opstage.plugins.module_utils.host_discovery import DISCOVERY_ERRORS, Search, discover


def main() -> None:
    """Find the deployment and return it with what its journal says."""
    module = AnsibleModule(
        argument_spec={
            "project_dir": {"type": "path"},
            "service": {"type": "str"},
            "url": {"type": "str"},
            "ca_file": {"type": "path"},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "required": {"type": "bool", "default": True},
            "require_data": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    options = dict(module.params)
    required = options.pop("required")
    try:
        found = discover(Search(**options), module.warn).fields
    except NoDeploymentError as error:
        if required:
            module.fail_json(msg=str(error))
        found = {"deployment": None}
    except DISCOVERY_ERRORS as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
