#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: deployment_backup
short_description: Back up an Opstage deployment while it runs
version_added: 0.1.0
description:
  - Finds the deployment of a host, takes its lock, makes a verified recovery point, removes those that the policy does
    not keep, and lets the lock go. All of it is one run on the host, since each costs time.
  - The service is neither paused nor blocked.
  - Where an operation on the deployment was cut off, nothing is made of what that left. The module returns
    RV(unfinished) then.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
  - capsule.opstage.claim
  - capsule.opstage.discovery
  - capsule.opstage.progress
attributes:
  action:
    support: full
    details:
      - The module does the work. The action plugin tells it who asks for the lock, looks whether its holder has ended,
        and shows how far the module has come.
  check_mode:
    support: full
    details:
      - Then a lock that somebody else holds is an error too, but none is taken.
  diff_mode:
    support: full
    details:
      - Of the recovery points that are there beforehand, one line for each with the reasons, the newest first.
  platform:
    platforms: linux
options:
  method:
    description:
      - How the database is copied. Recorded in the manifest.
      - With V(online) it is read on the host.
      - With V(api) the service makes the copy, as its console's download does, and audits that. The host need not see
        its data.
      - The copy that the service keeps of that for itself is removed, if the host sees its folder.
    type: str
    default: online
    choices: [online, api]
  username:
    description: Name of an owner's account, for O(method=api).
    type: str
  password:
    description:
      - Its password.
      - Sent as it is where the address of the service begins with V(http://).
    type: str
  recipients:
    description:
      - Public keys of age (C(age1…)) or OpenSSH (C(ssh-ed25519 …), C(ssh-rsa …)), for whose owners the recovery point
        is encrypted, see M(capsule.opstage.recovery_point).
    type: list
    elements: str
    default: []
  retention:
    description:
      - Which recovery points are kept, by the rules of M(capsule.opstage.recovery_point_retention).
      - All are kept where it is empty.
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
  prune_console_copies:
    description: Whether the policy is followed for the copies, too, which the console's own backup left on the host.
    type: bool
    default: false
seealso:
  - module: capsule.opstage.recovery_point
  - module: capsule.opstage.recovery_point_retention
"""

EXAMPLES = r"""
- name: Back up the only Opstage of the host
  capsule.opstage.deployment_backup:

- name: Have the service make the copy, and keep a week of days
  capsule.opstage.deployment_backup:
    method: api
    username: admin
    password: "{{ vault_opstage_password }}"
    retention:
      daily: 7
"""

RETURN = r"""
path:
  description: Folder of the recovery point.
  returned: when one was made
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual
database:
  description: The copy of the database, encrypted if it was asked for.
  returned: when one was made
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual/opstage.db
sha256:
  description: SHA-256 of that file.
  returned: when one was made
  type: str
manifest:
  description: What the manifest holds, as docs/manifest.schema.json of this collection describes it.
  returned: when one was made
  type: dict
removed:
  description: The recovery points and copies of the console that were removed; in check mode, that would be.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Its id; the name of a copy.
      type: str
    reasons:
      description: Why it is not kept.
      type: list
      elements: str
unfinished:
  description: Whether an operation was cut off, so that nothing was made.
  returned: success
  type: bool
holder:
  description: Who holds the lock, see M(capsule.opstage.deployment_lock).
  returned: when somebody else does
  type: dict
"""

import contextlib
import dataclasses
from typing import Iterator

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.deployment import DiscoveryError
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_claim import CLAIMANT, Claim, take
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import (
    DeploymentLockError,
    LockHeldError,
    release_lock,
)
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from ansible_collections.capsule.opstage.plugins.module_utils.host_backup import (
    PruningError,
    UnfinishedOperationError,
    back_up,
    plan_backup,
)
from ansible_collections.capsule.opstage.plugins.module_utils.journal import JournalError, state_folder
from ansible_collections.capsule.opstage.plugins.module_utils.operations_settings import Settings
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_session import OpstageSessionError
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPointError
from ansible_collections.capsule.opstage.plugins.module_utils.retention import described
from ansible_collections.capsule.opstage.plugins.module_utils.retention_policy import RetentionError
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError

RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
SETTINGS = (
    "project_dir",
    "service",
    "url",
    "ca_file",
    "root",
    "prune_console_copies",
    "method",
    "username",
    "password",
)
NOTHING_LEFT = "No recovery point was made, and nothing is left of it: {}"


def main() -> None:
    """Make one backup."""
    module = AnsibleModule(
        argument_spec={
            "project_dir": {"type": "path"},
            "service": {"type": "str"},
            "url": {"type": "str"},
            "ca_file": {"type": "path"},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "method": {"type": "str", "default": "online", "choices": ["online", "api"]},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "recipients": {"type": "list", "elements": "str", "default": []},
            "retention": {
                "type": "dict",
                "default": {},
                "options": {**{name: {"type": "int"} for name in RULES}, "within": {"type": "str"}},
            },
            "prune_console_copies": {"type": "bool", "default": False},
            "take_over": {"type": "str"},
            "claimant": CLAIMANT,
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    if options["method"] == "api" and not (options["username"] and options["password"]):
        module.fail_json(
            msg="The method api needs the username and the password of an owner: set opstage_admin_username and "
            "opstage_admin_password."
        )
    try:
        module.exit_json(**_result(module))
    except UnfinishedOperationError as error:
        module.exit_json(changed=False, unfinished=True, removed=[], msg=str(error))
    except LockHeldError as error:
        module.fail_json(msg=str(error), holder=dataclasses.asdict(error.holder))
    except (DiscoveryError, DockerError, JournalError, DeploymentLockError, RetentionError, PruningError) as error:
        module.fail_json(msg=str(error))
    except (OpstageSessionError, RecoveryPointError, PrivateFolderError, DatabaseFileError, OSError) as error:
        module.fail_json(msg=NOTHING_LEFT.format(error))


def _result(module: AnsibleModule) -> dict[str, object]:
    options = module.params
    rules = {name: rule for name, rule in options["retention"].items() if rule is not None}
    settings = Settings(
        **{name: options[name] for name in SETTINGS}, retention=rules, recipients=tuple(options["recipients"])
    )
    claim = Claim.of("backup", options["claimant"], options["take_over"])

    @contextlib.contextmanager
    def hold(project: str) -> Iterator[None]:
        token = take(project, claim, module.warn, module.check_mode)["token"]
        try:
            yield
        finally:
            if not module.check_mode:
                release_lock(state_folder(project), token)

    result: dict[str, object] = {"changed": True, "unfinished": False, "removed": []}
    if module.check_mode:
        retention = plan_backup(settings, hold)
    else:
        with ProgressFile(options["progress_file"], module.warn) as progress:
            backup = back_up(settings, "manual", hold, module.warn, progress)
        point, retention = backup.point, backup.retention
        result.update(path=point.path, database=point.database, sha256=point.sha256, manifest=point.manifest)
    if retention is not None:
        for warning in retention.warnings:
            module.warn(warning)
        result.update(removed=described(retention.removed), diff=retention.diff)
    return result


if __name__ == "__main__":
    main()
