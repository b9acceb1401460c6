#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: recovery_point_changes
short_description: Count by table what was written between two recovery points
version_added: 0.1.0
description:
  - Compares the databases of two recovery points row by row, so that it can be said what going back to the older one
    drops.
  - Rows belong together by their primary key, or by their number where a table has none. Columns that only one of the
    two has are not compared.
  - Both databases are read only, in a process of its own.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
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
  before:
    description: The database of the older recovery point, as M(capsule.opstage.recovery_point_info) returns it.
    type: path
    required: true
  after:
    description: The database of the newer recovery point, as M(capsule.opstage.recovery_point) returns it.
    type: path
    required: true
seealso:
  - module: capsule.opstage.recovery_point_info
"""

EXAMPLES = r"""
- name: Count what was written since the newest recovery point
  capsule.opstage.recovery_point_changes:
    before: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual/opstage.db
    after: /var/backups/opstage/opstage/2026-11-23T02-15-00-000000Z-manual/opstage.db
"""

RETURN = r"""
tables:
  description: >-
    Rows that are V(added), V(changed) and V(removed) in each table that differs. Null for one that cannot be compared,
    because it is virtual, its key was another, or only the application has what it needs.
  returned: success
  type: dict
  sample:
    audit_events: {added: 120, changed: 0, removed: 0}
text:
  description: The same in words, the largest first.
  returned: success
  type: str
  sample: "audit_events: 120 added"
missing:
  description: Tables, and columns as V(table.column), that only the older one has.
  returned: success
  type: list
  elements: str
  sample: [bus_events]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_changes import (
    ChangesError,
    compare_databases,
    describe_changes,
)


def main() -> None:
    """Compare two databases."""
    module = AnsibleModule(
        argument_spec={
            "before": {"type": "path", "required": True},
            "after": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        comparison = compare_databases(module.params["before"], module.params["after"])
    except ChangesError as error:
        module.fail_json(msg=f"It cannot be said what was written: {error}")
    module.exit_json(
        changed=False,
        tables=comparison.tables,
        text=describe_changes(comparison.tables),
        missing=comparison.missing,
    )


if __name__ == "__main__":
    main()
