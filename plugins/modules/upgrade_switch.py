#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: upgrade_switch
short_description: Switch an Opstage CE from one version to the next
version_added: 0.1.0
description:
  - Does what an upgrade does while the service is down, in one run on the host, so that it is down for no longer than
    that takes.
  - Copies the database while the service runs. Pins tag and digest of the target version in the project's file and
    stops the service. Copies what was written to the log meanwhile, by which the copy has every acknowledged write.
  - Starts the target version where no client reaches it, which is when its migrations run, and verifies health and
    version. Starts it for clients, and makes a verified recovery point of the copy when they are served again.
  - What fails before clients are let in is rolled back at once, also where the controller is gone meanwhile.
  - A container that is never started keeps the image of the previous version from C(docker image prune --all), until
    the next upgrade has succeeded.
  - Each change is recorded in the journal beforehand, with how to go on or back from there.
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
    support: full
  platform:
    platforms: linux
options:
  source:
    description: What serves now, and is to serve again when the target version does not.
    type: dict
    required: true
    suboptions: &serve
      version:
        description: The version that the service must report. Any will do when not given.
        type: str
      tag:
        description: The tag to pin.
        type: str
      digest:
        description: The digest to pin, if any.
        type: str
      image_id:
        description: The id of the image that the tag must name, if it is known.
        type: str
      image_digest:
        description: The digest of that image in its repository, if any.
        type: str
  target:
    description: What is to serve. Its image must be on the host.
    type: dict
    required: true
    suboptions: *serve
  isolation:
    description: The Compose file that takes the service's networks away, see M(capsule.opstage.upgrade_preparation).
    type: path
    required: true
  timeout:
    description: Seconds within which the target version must be healthy, each of the two times that it is started.
    type: int
    default: 120
  rehearsal_seconds:
    description:
      - How long the target version took to become healthy on a copy of the data, where it was tried on one, see
        M(capsule.opstage.upgrade_preparation). It is given three times as long here at least, whatever O(timeout) says.
      - Without it, what the migrations do to the data is looked at before clients are let in, which takes longer the
        larger it is.
    type: float
  drops:
    description: Tables of which the migrations may drop rows, as the changelog says.
    type: list
    elements: str
    default: []
  details:
    description: What the entries of the journal say besides. No secrets.
    type: dict
    default: {}
  username:
    description:
      - Name of an account of the console, an owner's or an operator's. With it the version in Diagnostics must be the
        one that the API reports, before clients are let in.
    type: str
  password:
    description: Its password. Required together with O(username).
    type: str
  release:
    description: Whether the lock is let go once the target version serves, since nothing else is done under it.
    type: bool
    default: false
seealso:
  - module: capsule.opstage.upgrade_preparation
"""

EXAMPLES = r"""
- name: Find the deployment and take its lock
  capsule.opstage.deployment_lock:
    operation: upgrade
  register: found

- name: Pull the target version, and try it on a copy of the data
  capsule.opstage.upgrade_preparation:
    deployment: "{{ found.deployment }}"
    image: ghcr.io/xtrape-com/xtrape-capsule-ce:0.3.0
  register: prepared

- name: Switch to that version
  capsule.opstage.upgrade_switch:
    deployment: "{{ found.deployment }}"
    source: {version: 0.2.0, tag: 0.2.0}
    target: {version: 0.3.0, tag: 0.3.0}
    lock: "{{ found.token }}"
    isolation: "{{ prepared.isolation }}"
    rehearsal_seconds: "{{ prepared.seconds }}"
    release: true
"""

RETURN = r"""
path:
  description: Folder of the recovery point of every write that was acknowledged before the stop.
  returned: success, not in check mode
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-pre-upgrade
downtime:
  description: Seconds from the stop of the service until its clients were served again.
  returned: success, not in check mode
  type: float
  sample: 1.62
version:
  description: The version that serves.
  returned: success, not in check mode
  type: str
  sample: 0.3.0
released:
  description: The token of the lock, where it was let go; null where it was not.
  returned: success, not in check mode
  type: str
changes:
  description: What the migrations, and clients since, changed in the data, as M(capsule.opstage.recovery_point_changes)
    returns it.
  returned: success, not in check mode
  type: dict
summary:
  description: The same in words.
  returned: success, not in check mode
  type: str
  sample: 'audit_events: 2 added'
left:
  description:
    - V(nothing), nothing was changed.
    - V(started), the old version serves again. Its data was not touched.
    - V(replaced), the old version serves again with the data of the recovery point. What the target version left is
      kept beside it in the data folder.
    - V(stay), clients were let in and may have written, so the target version stays.
    - V(later), the next run of any playbook does what is left, as the journal says.
  returned: failure
  type: str
  sample: replaced
point:
  description: Folder of the recovery point of every acknowledged write.
  returned: failure, when there is one
  type: str
container_logs:
  description: The container's last lines.
  returned: failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION
from ansible_collections.capsule.opstage.plugins.module_utils.compose_image import ComposeImageError
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import DeploymentLockError, release_lock
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.journal import (
    SERVED,
    JournalError,
    state_folder,
    without_empty_text,
)
from ansible_collections.capsule.opstage.plugins.module_utils.kept_image import keep_image
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_session import Account
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_changes import describe_changes
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_switch import (
    Switch,
    SwitchError,
    prove_target,
    switch,
)

SERVE = {name: {"type": "str"} for name in SERVED}


def main() -> None:
    """Switch, or say what is left to do."""
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "dict", "required": True},
            "source": {"type": "dict", "required": True, "options": SERVE},
            "target": {"type": "dict", "required": True, "options": SERVE},
            "lock": {"type": "str", "required": True, "no_log": False},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "isolation": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 120},
            "rehearsal_seconds": {"type": "float"},
            "drops": {"type": "list", "elements": "str", "default": []},
            "details": {"type": "dict", "default": {}},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "release": {"type": "bool", "default": False},
            "progress_file": {"type": "path"},
        },
        required_together=[("username", "password")],
        supports_check_mode=True,
    )
    options = dict(module.params)
    progress_file, release = options.pop("progress_file"), options.pop("release")
    options.update({name: without_empty_text(options[name]) for name in ("source", "target", "details")})
    username, password = options.pop("username"), options.pop("password")
    account = None if username is None else Account(username, password)
    with ProgressFile(progress_file, module.warn) as progress:
        wanted = Switch(**options, collection_version=VERSION, progress=progress, account=account)
        try:
            # Tried before anything is touched; in check mode that is all.
            proven = prove_target(wanted)
        except ComposeImageError as error:
            module.fail_json(msg=str(error), left="nothing", container_logs=[])
        pin = proven.result
        diff = {
            "before_header": f"{pin.file}:{pin.line}",
            "after_header": f"{pin.file}:{pin.line}",
            "before": f"{pin.before}\n",
            "after": f"{pin.after}\n",
        }
        if module.check_mode:
            module.exit_json(changed=True, diff=diff)
        try:
            switched = switch(wanted, proven.publish)
        except SwitchError as error:
            point = None if error.point is None else error.point.path
            module.fail_json(msg=str(error), left=error.left, container_logs=error.logs, point=point)
    try:
        keep_image(options["deployment"]["project"], options["deployment"]["image_id"])
    except DockerError as error:
        module.warn(f"The image of the previous version is not kept from `docker image prune --all`: {error}")
    module.exit_json(
        changed=True,
        released=_release(options["deployment"]["project"], options["lock"]) if release else None,
        diff=diff,
        path=switched.point.path,
        downtime=round(switched.downtime, 3),
        version=switched.version,
        changes=switched.changes,
        summary=describe_changes(switched.changes),
    )


def _release(project: str, token: str) -> str | None:
    """Let the lock go; its token if that was done. Where it was not, whoever took it is told when he tries himself."""
    try:
        return token if release_lock(state_folder(project), token) else None
    except (DeploymentLockError, JournalError):
        return None


if __name__ == "__main__":
    main()
