#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: recovery_point_retention
short_description: Remove the recovery points that a policy does not keep
version_added: 0.1.0
description:
  - Keeps recovery points of a project by the rules of C(restic forget), removes the others, and says for each why.
  - The rules count only verified recovery points. One that is not whole, was made by a newer collection, or whose
    database was never checked is kept, with a warning; removing it is for whoever has looked at it. The same holds for
    one whose checksum differs, until it is so old that the rules would not keep it were it sound.
  - The newest verified recovery point is never removed, nor the one that a rollback of the last upgrade needs, nor one
    that an unfinished operation names.
  - A recovery point that is more than an hour ahead of the clock was made while a clock was wrong, or the clock is
    wrong now. It is neither counted nor removed, with a warning, until the clock has reached it.
  - A recovery point disappears as a whole. A removal that was cut off is finished by the next run. What does not have
    the name of a recovery point is left alone.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - One line for each recovery point and copy with the reasons, the newest first.
  platform:
    platforms: linux
options:
  project:
    description: Name of the Compose project.
    type: str
    required: true
  root:
    description: Folder below which the recovery points of all projects lie.
    type: path
    default: /var/backups/opstage
  policy:
    description:
      - What to keep. Whatever one of the rules keeps is kept.
      - V(0) means no such rule, V(-1) means no limit. A policy without any rule would remove all and is refused.
      - Hours, days, weeks, months and years are those of the calendar in UTC, weeks begin on Monday. Those without a
        recovery point are not counted. Of each that counts the newest recovery point is kept, and the oldest of all
        as long as there are fewer than the number to keep.
    type: dict
    required: true
    suboptions:
      last:
        description: Keep so many of the newest.
        type: int
        default: 0
      hourly:
        description: Keep the newest of each of so many hours.
        type: int
        default: 0
      daily:
        description: Keep the newest of each of so many days.
        type: int
        default: 0
      weekly:
        description: Keep the newest of each of so many weeks.
        type: int
        default: 0
      monthly:
        description: Keep the newest of each of so many months.
        type: int
        default: 0
      yearly:
        description: Keep the newest of each of so many years.
        type: int
        default: 0
      within:
        description:
          - Keep all that are no older than this before the newest, in years, months, days and hours such as V(7d),
            V(12h) or V(1y2m3d4h).
        type: str
  console_copies:
    description:
      - Absolute path on the host of the folder in which Opstage's own backup endpoint leaves its copies, usually
        C(backups) in the data folder. The policy is then followed there as well, for these copies by themselves.
      - A copy is verified when it has the header of a database and the size which that says.
      - The container's user owns the folder, so no part of the path may be a link, and only plain files named as that
        endpoint names them are removed. It need not exist.
    type: path
  verify:
    description:
      - V(full) compares the checksums of those recovery points that the rules rely on, when any would be removed. That
        reads them.
      - V(quick) relies on the manifests and the sizes of the databases.
    type: str
    default: full
    choices: [full, quick]
seealso:
  - module: capsule.opstage.recovery_point
  - name: Removing snapshots according to a policy
    description: The rules, in restic's own words.
    link: https://restic.readthedocs.io/en/stable/060_forget.html
"""

EXAMPLES = r"""
- name: Keep the last three, a week of days, a month of weeks and a year of months
  capsule.opstage.recovery_point_retention:
    project: opstage
    policy:
      last: 3
      daily: 7
      weekly: 4
      monthly: 12

- name: Prune what the console left, too
  capsule.opstage.recovery_point_retention:
    project: opstage
    policy:
      last: 1
      within: 14d
    console_copies: /var/lib/docker/volumes/opstage_opstage-data/_data/backups
"""

RETURN = r"""
kept:
  description: What was kept, the recovery points first, of each kind the newest first.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Id of a recovery point, or the name of a copy that the console left.
      type: str
      sample: 2026-11-22T02-15-00-000000Z-manual
    reasons:
      description: Why it was kept.
      type: list
      elements: str
      sample: [the newest that is verified, last 3, daily 2026-11-22]
removed:
  description: What was removed, in the same order; in check mode what would be.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description:
        - Id of a recovery point, or the name of a copy that the console left. Begins with C(.removed-) where a removal
          that was cut off was finished.
      type: str
      sample: 2026-11-01T02-15-00-000000Z-manual
    reasons:
      description: Why it was removed.
      type: list
      elements: str
      sample: ["kept by no rule: last 3, daily 7"]
freed:
  description: Bytes on the disk that came free; in check mode those that would.
  returned: success
  type: int
  sample: 528384
"""

from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.journal import JournalError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPointError
from ansible_collections.capsule.opstage.plugins.module_utils.retention import RemovalError, apply_retention, described
from ansible_collections.capsule.opstage.plugins.module_utils.retention_policy import RetentionError, parse_policy

COUNT = {"type": "int", "default": 0}
POLICY = {
    "last": COUNT,
    "hourly": COUNT,
    "daily": COUNT,
    "weekly": COUNT,
    "monthly": COUNT,
    "yearly": COUNT,
    "within": {"type": "str"},
}


def main() -> None:
    """Follow the policy once."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "policy": {"type": "dict", "required": True, "options": POLICY},
            "console_copies": {"type": "path"},
            "verify": {"type": "str", "default": "full", "choices": ["full", "quick"]},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        retention = apply_retention(
            parameters["project"],
            parameters["root"],
            parse_policy(parameters["policy"]),
            datetime.now(timezone.utc),
            console_copies=parameters["console_copies"],
            verify=parameters["verify"],
            check_mode=module.check_mode,
        )
    except RemovalError as error:
        module.fail_json(msg=str(error))
    except (RetentionError, RecoveryPointError, JournalError, OSError) as error:
        module.fail_json(msg=f"{error} Nothing was removed.")
    for warning in retention.warnings:
        module.warn(warning)
    module.exit_json(
        changed=bool(retention.removed),
        kept=described(retention.kept),
        removed=described(retention.removed),
        freed=retention.freed,
        diff=retention.diff,
    )


if __name__ == "__main__":
    main()
