#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: deployment_rollback
short_description: Go back to a recovery point of an Opstage CE, database and image
version_added: 0.1.0
description:
  - Stops the service and makes a recovery point of what is there. Puts the database of an older recovery point in its
    place, pins the image that it was made with, starts the service, and waits until it is healthy in that version.
  - Each change is recorded in the journal beforehand, so that the next run of any playbook goes on wherever this one
    was cut off.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
  - capsule.opstage.operation
  - capsule.opstage.progress
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  path:
    description: Folder of the recovery point to go back to. It must have been verified.
    type: path
    required: true
  database:
    description: The copy of the database in it, as M(capsule.opstage.recovery_point_info) returns it.
    type: path
    required: true
  sha256:
    description: SHA-256 of that file.
    type: str
    required: true
  version:
    description: The version that the service must report.
    type: str
    required: true
  tag:
    description: The tag to pin.
    type: str
    required: true
  digest:
    description: The digest to pin, if any.
    type: str
  image_id:
    description: The id of the image that the tag must name, if it is known.
    type: str
  image_digest:
    description: The digest of that image in its repository, if any.
    type: str
seealso:
  - module: capsule.opstage.recovery_point_info
  - module: capsule.opstage.upgrade_switch
"""

EXAMPLES = r"""
- name: Find the deployment
  capsule.opstage.deployment_info:
  register: found

- name: Take its lock
  capsule.opstage.deployment_lock:
    project: "{{ found.deployment.project }}"
    operation: rollback
  register: lock

- name: Verify the newest recovery point
  capsule.opstage.recovery_point_info:
    project: "{{ found.deployment.project }}"
    recovery_point: latest
  register: point

- name: Go back to it
  capsule.opstage.deployment_rollback:
    deployment: "{{ found.deployment }}"
    path: "{{ point.path }}"
    database: "{{ point.database }}"
    sha256: "{{ point.sha256 }}"
    version: "{{ point.version }}"
    tag: "{{ point.image.tag }}"
    lock: "{{ lock.token }}"
"""

RETURN = r"""
version:
  description: The version that serves.
  returned: success, not in check mode
  type: str
  sample: 0.2.0
kept:
  description: Folder of the recovery point of what was there. Null where that was too damaged to make one.
  returned: not in check mode
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-pre-rollback
damage:
  description: Why there is none. The damaged file itself is kept beside the database.
  returned: success, when the database was damaged
  type: str
dropped:
  description: What was written since the recovery point that it went back to, in words.
  returned: success, unless the database was damaged
  type: str
  sample: 'audit_events: 120 added'
left:
  description:
    - V(nothing), the service is as it was.
    - V(later), the next run of any playbook does what is left, as the journal says.
  returned: failure
  type: str
  sample: nothing
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_rollback import (
    Rollback,
    RollbackError,
    roll_back,
)


def main() -> None:
    """Go back, or say what is left."""
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "dict", "required": True},
            "path": {"type": "path", "required": True},
            "database": {"type": "path", "required": True},
            "sha256": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
            "digest": {"type": "str"},
            "image_id": {"type": "str"},
            "image_digest": {"type": "str"},
            "lock": {"type": "str", "required": True, "no_log": False},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "timeout": {"type": "int", "default": 120},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True)
    options = module.params
    serve = {name: options[name] for name in ("version", "tag", "digest", "image_id", "image_digest")}
    with ProgressFile(options["progress_file"], module.warn) as progress:
        wanted = Rollback(
            deployment=options["deployment"],
            point=options["path"],
            database=options["database"],
            sha256=options["sha256"],
            serve=serve,
            lock=options["lock"],
            root=options["root"],
            timeout=options["timeout"],
            collection_version=VERSION,
            progress=progress,
        )
        try:
            done = roll_back(wanted)
        except RollbackError as error:
            module.fail_json(msg=str(error), left=error.left, kept=error.kept)
    found = {"damage": done.kept.damage, "dropped": done.kept.dropped}
    said = {name: text for name, text in found.items() if text is not None}
    module.exit_json(changed=True, version=done.version, kept=done.kept.path, **said)


if __name__ == "__main__":
    main()
