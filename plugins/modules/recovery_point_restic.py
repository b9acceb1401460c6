#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: recovery_point_restic
short_description: Send a recovery point to a restic repository, or bring one back
version_added: 0.1.0
description:
  - Sends the files of a recovery point to a repository of restic, which encrypts and deduplicates them, then reads them
    back whole and compares them with the manifest. A failure leaves the recovery point on the host as it is.
  - Brings a recovery point from there into the folder of its project, where it gets its name once it is verified.
  - Address, password and environment reach restic by the environment of its process, and no other way. Ansible's own
    temporary files on the host hold them, as any option, for as long as the module runs, unless pipelining is on.
  - Nothing is cached on the host. A lock that a killed restic left is removed by C(restic unlock), which knows it from
    others; the lock of another that works on the repository is waited for, five minutes at the most.
requirements:
  - The C(restic) command on the host.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details:
      - Looks into the repository, without a lock, but reads no file from it.
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  state:
    description:
      - V(sent) sends the recovery point unless the repository has it. That is found out by reading it.
      - V(fetched) brings it to the host unless it is there and sound.
    type: str
    default: sent
    choices: [sent, fetched]
  recovery_point:
    description:
      - V(latest) or the id of a recovery point; for O(state=sent) also the absolute path of its folder.
      - For O(state=fetched), V(latest) is that of O(host).
    type: str
    required: true
  project:
    description:
      - Name of the Compose project.
      - Needed for O(state=sent) where O(recovery_point) is no path, and for O(state=fetched) where there are several.
    type: str
  host:
    description:
      - Name of the host that the recovery point was made on, as its manifest has it, for O(state=fetched).
      - This host where it is not given; for an id, any.
    type: str
  root:
    description: Folder below which the recovery points of all projects lie.
    type: path
    default: /var/backups/opstage
  repository:
    description: Address of the repository, as C(restic --repo) takes it. Not shown where credentials stand in it.
    type: str
  password:
    description: Password of the repository. Whoever loses it loses all that lies there.
    type: str
  environment:
    description: Variables that the place of the repository asks for, such as V(AWS_ACCESS_KEY_ID).
    type: dict
    default: {}
  initialize:
    description: Whether a repository is made where there is none, for O(state=sent).
    type: bool
    default: false
  retention:
    description:
      - Which recovery points of the host and project the repository keeps, for O(state=sent); C(restic forget --prune)
        removes the others, once this one is verified.
      - Counted by the time at which they were made, in UTC. V(0) means no such rule, V(-1) means no limit.
      - All are kept where it is empty. So must it be where the repository lets its hosts only add.
    type: dict
    default: {}
    suboptions:
      last:
        description: Keep so many of the newest.
        type: int
      hourly:
        description: Keep the newest of each of so many hours.
        type: int
      daily:
        description: Keep the newest of each of so many days.
        type: int
      weekly:
        description: Keep the newest of each of so many weeks.
        type: int
      monthly:
        description: Keep the newest of each of so many months.
        type: int
      yearly:
        description: Keep the newest of each of so many years.
        type: int
      within:
        description: Keep all that are no older than this before the newest, such as V(14d).
        type: str
seealso:
  - module: capsule.opstage.recovery_point
  - module: capsule.opstage.recovery_point_retention
"""

EXAMPLES = r"""
- name: Send the newest recovery point
  capsule.opstage.recovery_point_restic:
    project: opstage
    recovery_point: latest
    repository: sftp:backup@backup.example:/srv/restic
    password: "{{ vault_restic_password }}"

- name: Send it to object storage, and keep a month there
  capsule.opstage.recovery_point_restic:
    project: opstage
    recovery_point: latest
    repository: s3:https://s3.example/backups
    password: "{{ vault_restic_password }}"
    environment:
      AWS_ACCESS_KEY_ID: "{{ vault_access_key_id }}"
      AWS_SECRET_ACCESS_KEY: "{{ vault_secret_access_key }}"
    initialize: true
    retention:
      daily: 31

- name: Bring the newest recovery point of a host that is lost to this one
  capsule.opstage.recovery_point_restic:
    state: fetched
    recovery_point: latest
    host: lost.example
    repository: sftp:backup@backup.example:/srv/restic
    password: "{{ vault_restic_password }}"
"""

RETURN = r"""
path:
  description: Folder of the recovery point on the host. It is not there yet where check mode would bring it.
  returned: success
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual
id:
  description: Its id.
  returned: success
  type: str
  sample: 2026-11-22T02-15-00-000000Z-manual
snapshot:
  description: Id of the snapshot in the repository.
  returned: success, unless check mode would send it
  type: str
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    RecoveryPointError,
    find_recovery_point,
    project_root,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_away import (
    SendingError,
    fetch_recovery_point,
    find_sent,
    is_sent,
    send_and_prune,
)
from ansible_collections.capsule.opstage.plugins.module_utils.restic import (
    ResticError,
    ResticRepository,
    credentials_of,
)
from ansible_collections.capsule.opstage.plugins.module_utils.retention_policy import RetentionError, parse_policy

COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
FAILURES = (ResticError, RecoveryPointError, RetentionError, PrivateFolderError, OSError)


def send(module: AnsibleModule, repository: ResticRepository) -> dict[str, Any]:
    """Send the recovery point, then follow the policy; return what the module gives."""
    options = module.params
    rules = {name: rule for name, rule in options["retention"].items() if rule is not None}
    policy = parse_policy(rules) if rules else None
    point = find_recovery_point(options["root"], options["project"] or "", options["recovery_point"], module.warn)
    found = {"path": point.path, "id": point.manifest["id"]}
    if module.check_mode:
        try:
            return {"changed": not is_sent(point, repository, options["initialize"]), **found}
        except ResticError as error:
            module.fail_json(msg=str(error))
    try:
        sending = send_and_prune(point, repository, options["initialize"], policy)
    except SendingError as error:
        module.fail_json(msg=str(error), **found)
    return {"changed": sending.changed, "snapshot": sending.snapshot, **found}


def fetch(module: AnsibleModule, repository: ResticRepository) -> dict[str, Any]:
    """Bring the recovery point to the host; return what the module gives."""
    options = module.params
    repository.require(initialize=False)
    sent = find_sent(repository, options["recovery_point"], options["project"], options["host"])
    path, changed = os.path.join(project_root(options["root"], sent.project), sent.id), True
    if module.check_mode:
        changed = not os.path.lexists(path)
    else:
        _point, changed = fetch_recovery_point(sent, repository, options["root"])
    return {"changed": changed, "path": path, "id": sent.id, "snapshot": sent.snapshots[0]}


def hide_secrets(module: AnsibleModule) -> None:
    """Let Ansible hide just what is secret: it would hide the address and short values wherever else they appear."""
    options = module.params
    address = options["repository"] or ""
    if not credentials_of(address):
        module.no_log_values.discard(address)
    for value in (options["environment"] or {}).values():
        if len(str(value)) < 4 and str(value) != options["password"]:
            module.no_log_values.discard(str(value))


def main() -> None:
    """Send or fetch one recovery point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "default": "sent", "choices": ["sent", "fetched"]},
            "recovery_point": {"type": "str", "required": True},
            "project": {"type": "str"},
            "host": {"type": "str"},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "repository": {"type": "str", "no_log": True},
            "password": {"type": "str", "no_log": True},
            "environment": {"type": "dict", "default": {}, "no_log": True},
            "initialize": {"type": "bool", "default": False},
            "retention": {
                "type": "dict",
                "default": {},
                "options": {**{name: {"type": "int"} for name in COUNTS}, "within": {"type": "str"}},
            },
        },
        supports_check_mode=True,
    )
    options = module.params
    hide_secrets(module)
    environment = {name: str(value) for name, value in options["environment"].items()}
    try:
        repository = ResticRepository(
            options["repository"] or "", options["password"] or "", environment, changeable=not module.check_mode
        )
        result = (send if options["state"] == "sent" else fetch)(module, repository)
    except FAILURES as error:
        module.fail_json(msg=f"{error} Nothing was changed.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
