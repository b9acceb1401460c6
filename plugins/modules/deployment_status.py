#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: deployment_status
short_description: Tell how the Opstage of a host is, and what is wrong with it
version_added: 0.1.0
description:
  - Tells in one run how the Opstage CE of a host is. Version, health, recovery points, room for more, the timer that
    makes them, the last scheduled backup, and an operation that was cut off.
  - Holds that against limits. What is wrong is returned and is no failure of the module; neither is a host without
    Opstage. M(capsule.opstage.fleet_report) makes a report of what it returns for many hosts.
  - No secret is returned.
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
  max_backup_age:
    description:
      - How old the newest verified recovery point may be, in years, months, days and hours, such as V(26h), V(7d) or
        V(1m12h).
      - V(0h) for any age. That there is none is wrong all the same.
    type: str
    default: 26h
  min_points_that_fit:
    description: For how many more recovery points of the newest one's size there must be room.
    type: int
    default: 2
  require_timer:
    description:
      - Whether there must be a timer that makes recovery points.
      - One that is there and off is wrong in any case.
    type: bool
    default: false
seealso:
  - module: capsule.opstage.deployment_info
  - module: capsule.opstage.fleet_report
"""

EXAMPLES = r"""
- name: See how the deployment is
  capsule.opstage.deployment_status:
    max_backup_age: 7d
  register: status

- name: Say it in one line
  ansible.builtin.debug:
    msg: "{{ status.summary }}"

- name: Fail where a person has to do something
  ansible.builtin.assert:
    that: not status.problems
    fail_msg: "{{ status.problems | map(attribute='text') | join(' ') }}"
"""

RETURN = r"""
time:
  description: When that was, by the host's clock, UTC.
  returned: success
  type: str
  sample: "2026-11-22T05:15:00.000000Z"
summary:
  description: Version, health, newest recovery point and what needs a person, in one line.
  returned: success
  type: str
  sample: >-
    opstage: Opstage 0.2.0, UP; newest recovery point 2026-11-22T02-15-00-000000Z-manual, 3 hours old
problems:
  description: What is wrong, what needs a person first before the rest; empty where nothing is.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: >-
        What it is about, V(unknown), V(unfinished), V(health), V(backup), V(schedule), V(drill), V(room), V(timer),
        V(verification), V(clock) or V(busy).
      type: str
      sample: backup
    severity:
      description: V(critical) or V(warning).
      type: str
      sample: critical
    text:
      description: What is wrong and what to do.
      type: str
deployment:
  description: The deployment, in short; null where none was found, and then nothing that follows is known.
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
    container:
      description: Name of the container.
      type: str
      sample: opstage-opstage-1
    container_status:
      description: What the container does, as Docker says.
      type: str
      sample: running
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
    version:
      description: Version as the API reports it; else from the image's label, else its tag.
      type: str
      sample: 0.2.0
    status:
      description: Health as the API reports it, V(UP), V(DEGRADED) or V(DOWN); null when it does not answer.
      type: str
      sample: UP
    database_size:
      description: Bytes of the database file, without its log; null where there is none that the host can see.
      type: int
unfinished_operation:
  description: The operation that began last, when nothing says how it ended; null otherwise.
  returned: success
  type: dict
  contains:
    operation:
      description: What was done.
      type: str
      sample: upgrade
    time:
      description: When it began, UTC.
      type: str
lock:
  description: Who holds the lock of the deployment, null when nobody does.
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
    alive:
      description: Whether the holder may still be at work; the next operation takes the lock of one that is not.
      type: bool
recovery_points:
  description: >-
    The recovery points, the oldest first; null where that could not be found out. The bytes of their databases are not
    looked at.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Its name.
      type: str
      sample: 2026-11-22T02-15-00-000000Z-manual
    verified:
      description: Whether it is whole and its database was checked when it was made.
      type: bool
    flaw:
      description: Why it is not verified, a sentence without its subject, null when it is.
      type: str
      sample: "is not whole: it has no opstage.db."
    created:
      description: When it was begun, UTC; null, as all that follows, where its manifest cannot be read.
      type: str
      sample: "2026-11-22T02:15:00.000000Z"
    reason:
      description: Why it was made.
      type: str
      sample: manual
    size:
      description: Bytes of the database.
      type: int
    stored_size:
      description: Bytes of the file that holds it, encrypted or not.
      type: int
    encrypted:
      description: Whether it is encrypted.
      type: bool
    drill:
      description: What the manifest says of its latest drill, null where there was none.
      type: dict
      sample: {time: "2026-11-22T03:00:00.000000Z", seconds: 12.5, version: 0.2.0, outcome: passed}
newest_verified:
  description: The newest recovery point that is verified and not from the future; null where there is none.
  returned: success
  type: dict
  contains:
    id:
      description: Its name.
      type: str
    created:
      description: When it was begun, UTC.
      type: str
    age_seconds:
      description: How long ago that was.
      type: int
room:
  description: Room for recovery points; null where that could not be found out.
  returned: success
  type: dict
  contains:
    folder:
      description: Where they lie.
      type: str
      sample: /var/backups/opstage/opstage
    free:
      description: Bytes that are free there, null where the file system does not tell.
      type: int
    fit:
      description: How many more of the newest one's size a backup makes there; null where there is none yet.
      type: int
timer:
  description: The systemd timer that makes recovery points; null where that could not be found out.
  returned: success
  type: dict
  contains:
    state:
      description: V(absent), V(off) or V(on).
      type: str
      sample: "on"
    next:
      description: When it fires next, UTC; null where that is not known.
      type: str
last_scheduled_backup:
  description: How the last scheduled backup went, null where there was none.
  returned: success
  type: dict
  contains:
    last_attempt:
      description: When it began, UTC.
      type: str
    last_success:
      description: When the last one that went well ended, UTC; null where none did.
      type: str
    outcome:
      description: V(success) or V(failure).
      type: str
    error:
      description: What went wrong, null where nothing did.
      type: str
    duration_seconds:
      description: How long it took, null where it did not end.
      type: float
    recovery_point:
      description: The id of the newest one that it made, null where it made none.
      type: str
    size:
      description: Bytes of that one's database, null where there is none.
      type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.host_status import collect_status
from ansible_collections.capsule.opstage.plugins.module_utils.status_limits import (
    LimitError,
    find_problems,
    parse_limits,
)


def main() -> None:
    """Collect the status and hold it against the limits."""
    module = AnsibleModule(
        argument_spec={
            "project_dir": {"type": "path"},
            "service": {"type": "str"},
            "url": {"type": "str"},
            "ca_file": {"type": "path"},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "max_backup_age": {"type": "str", "default": "26h"},
            "min_points_that_fit": {"type": "int", "default": 2},
            "require_timer": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        limits = parse_limits(options["max_backup_age"], options["min_points_that_fit"], options["require_timer"])
    except LimitError as error:
        module.fail_json(msg=str(error))
    status = collect_status(
        options["project_dir"], options["service"], options["url"], options["root"], options["ca_file"]
    )
    problems = find_problems(status, limits)
    del status["failures"]
    module.exit_json(changed=False, problems=problems, **status)


if __name__ == "__main__":
    main()
