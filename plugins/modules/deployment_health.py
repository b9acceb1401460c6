#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: deployment_health
short_description: Wait until Opstage CE serves in the expected version
version_added: 0.1.0
description:
  - Asks the API of an Opstage CE, as a client would, until it reports V(UP) in the expected version.
  - Gives up before the timeout when it cannot get better, which is when a healthy service reports another version, or
    when the container has ended for good or ends at every start.
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
      - This module changes nothing. In check mode nothing has been started, so it does not wait.
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  url:
    description: Address at which the host reaches the service.
    type: str
    required: true
  ca_file:
    description:
      - PEM file on the host with the certificates of the CAs that alone are trusted, where O(url) begins with
        V(https://).
      - Those that the host trusts when not given. There is no way to do without a check.
    type: path
  project:
    description: Name of the Compose project.
    type: str
    required: true
  service:
    description: Name of the service in it. Its container is looked for by both, since Compose may give it another name.
    type: str
    required: true
  version:
    description:
      - The version that the API must report.
      - Any version will do when not given.
    type: str
  timeout:
    description: Seconds to wait at the most.
    type: int
    default: 120
  soak:
    description:
      - Seconds for which it is watched then. It must stay healthy in that version, and its container must not be
        started again.
    type: int
    default: 0
seealso:
  - module: capsule.opstage.deployment_info
"""

EXAMPLES = r"""
- name: Wait until the new version serves
  capsule.opstage.deployment_health:
    url: http://127.0.0.1:8080
    project: opstage
    service: opstage
    version: 0.3.0
    timeout: 60
"""

RETURN = r"""
status:
  description: Health as the API reports it.
  returned: success, not in check mode
  type: str
  sample: UP
version:
  description: Version as the API reports it.
  returned: success, not in check mode
  type: str
  sample: 0.3.0
edition:
  description: Edition as the API reports it, in lower case.
  returned: success, not in check mode
  type: str
  sample: ce
elapsed:
  description: Seconds waited.
  returned: success, not in check mode
  type: float
  sample: 0.82
container_logs:
  description: The container's last lines.
  returned: failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.deployment import DiscoveryError, find_container
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.readiness import (
    NotReadyError,
    wait_until_ready,
    watch_health,
)


def main() -> None:
    """Wait for the service and return what it reports."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "ca_file": {"type": "path"},
            "project": {"type": "str", "required": True},
            "service": {"type": "str", "required": True},
            "version": {"type": "str"},
            "timeout": {"type": "int", "default": 120},
            "soak": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False)
    parameters = module.params
    url, version, ca_file = parameters["url"], parameters["version"], parameters["ca_file"]
    try:
        container = find_container(parameters["project"], parameters["service"])
        readiness = wait_until_ready(url, version, parameters["timeout"], container, ca_file=ca_file)
        watch_health(url, version, parameters["soak"], container, ca_file)
    except NotReadyError as error:
        module.fail_json(msg=str(error), container_logs=error.logs)
    except (DiscoveryError, DockerError) as error:
        module.fail_json(msg=str(error), container_logs=[])
    module.exit_json(
        changed=False,
        status=readiness.status,
        version=readiness.version,
        edition=readiness.edition,
        elapsed=round(readiness.elapsed, 3),
    )


if __name__ == "__main__":
    main()
