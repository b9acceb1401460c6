#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: upgrade_changelog
short_description: Read the changelogs of the versions that an upgrade of Opstage CE goes through
version_added: 0.1.0
description:
  - Finds the changelog of each version after the current one, up to the target, and returns all of it as one text.
  - A version without a changelog is said to have none; that is no failure. It is one where nothing could be learned of
    any version, because there is no such folder, or the server cannot be reached.
  - Runs on the controller, whatever it is delegated to.
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
      - This module changes nothing.
  connection:
    support: none
  delegation:
    support: none
  diff_mode:
    support: none
  platform:
    platforms: all
options:
  versions:
    description:
      - The versions to read of, V(<major>.<minor>.<patch>), in any order.
    type: list
    elements: str
    required: true
  current:
    description:
      - The version that runs now. Versions that are not newer are left out; none is where this is no version.
    type: str
  source:
    description:
      - Where the changelogs are.
      - The absolute path of a folder that has C(<version>.md) for each version. For those that it does not have,
        C(CHANGELOG.md) or C(CHANGELOG.rst) there is searched for a heading that begins with the version.
      - An http(s) URL with V({version}) in it, which is asked once for each version, or without, of one changelog that
        has a heading for each. The environment's proxies are used, and redirects followed to http(s) URLs only.
      - A user name and a password for the server stand before its name, V(https://user:password@server/…). They are not
        shown.
      - When not given, what this collection observed itself of some versions. That is no changelog.
    type: str
notes:
  - A request may take 10 seconds. Of a document 1 MiB are read, of a version 20,000 characters are shown; the text says
    where it was cut. Control characters but newline and tab are removed.
"""

EXAMPLES = r"""
- name: Read what the collection observed
  capsule.opstage.upgrade_changelog:
    current: 0.2.0
    versions:
      - 0.3.0
      - 0.4.0
  register: changes

- name: Show it
  ansible.builtin.debug:
    msg: "{{ changes.text.splitlines() }}"

- name: Read the changelogs in a folder
  capsule.opstage.upgrade_changelog:
    versions:
      - 0.3.0
    source: "{{ playbook_dir }}/changelogs"
"""

RETURN = r"""
changelogs:
  description: What was found of each version, ascending.
  returned: success
  type: list
  elements: dict
  contains:
    version:
      description: The version.
      type: str
      sample: 0.3.0
    text:
      description: Its changelog, or the sentence that says that none was found.
      type: str
    found:
      description: Whether there is one.
      type: bool
    source:
      description: Path or URL, without what is secret in it.
      type: str
      sample: https://example.org/changelogs/0.3.0.md
missing:
  description: The versions without a changelog, ascending.
  returned: success
  type: list
  elements: str
text:
  description: All of it as one text, each version under its name.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "versions": {"type": "list", "elements": "str", "required": True},
    "current": {"type": "str"},
    "source": {"type": "str", "no_log": True},
}


def main() -> None:
    """Say that this is the work of the action plugin of the same name, which is spared a process on the controller."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="capsule.opstage.upgrade_changelog runs on the controller, in a play: see its documentation.")


if __name__ == "__main__":
    main()
