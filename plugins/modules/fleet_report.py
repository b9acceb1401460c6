#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: fleet_report
short_description: Report how the Opstage of all hosts is
version_added: 0.1.0
description:
  - Shows a table of what M(capsule.opstage.deployment_status) returned for each host of the play, what needs a person
    first before the rest, and writes it as JSON and as one HTML page that needs nothing else.
  - Fails where anything is wrong with any host, once the report is shown and written, and names the hosts. One that
    could not be reached or asked is in the report, too.
  - Runs on the controller, whatever it is delegated to; run it once for all hosts.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.conn
  - ansible.builtin.action_common_attributes.flow
attributes:
  action:
    support: full
  async:
    support: none
  become:
    support: none
  bypass_host_loop:
    support: none
  check_mode:
    support: full
    details:
      - The table is shown, nothing is written.
  connection:
    support: none
  delegation:
    support: none
  diff_mode:
    support: none
  platform:
    platforms: all
options:
  results:
    description:
      - Name of the variable in which the result of M(capsule.opstage.deployment_status) was registered.
      - With C(ignore_unreachable), it has a host that cannot be reached as well.
    type: str
    default: status
  json:
    description:
      - File on the controller to write the report to as JSON, mode 0644, since it holds no secret.
      - Relative to the folder in which C(ansible-playbook) was started.
    type: path
  html:
    description:
      - File on the controller to write the report to as an HTML page, mode 0644, since it holds no secret.
      - Relative to the folder in which C(ansible-playbook) was started.
    type: path
seealso:
  - module: capsule.opstage.deployment_status
"""

EXAMPLES = r"""
- name: See how the deployment is
  capsule.opstage.deployment_status:
  register: status
  ignore_unreachable: true

- name: Report
  capsule.opstage.fleet_report:
    html: opstage.html
  run_once: true
"""

RETURN = r"""
hosts:
  description: The hosts with which something is wrong, what needs a person first before the rest.
  returned: always
  type: list
  elements: str
  sample: [web3, web1]
counts:
  description: How many hosts are V(critical), V(warning) and V(ok).
  returned: always
  type: dict
  sample: {critical: 1, warning: 1, ok: 10}
written:
  description: The files that were written, or in check mode would be.
  returned: always
  type: list
  elements: str
  sample: [/root/opstage.html]
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "results": {"type": "str", "default": "status"},
    "json": {"type": "path"},
    "html": {"type": "path"},
}


def main() -> None:
    """Say that this is the work of the action plugin of the same name, which alone sees what all hosts returned."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="capsule.opstage.fleet_report runs on the controller, in a play: see its documentation.")


if __name__ == "__main__":
    main()
