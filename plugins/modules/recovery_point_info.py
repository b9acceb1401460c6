#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: recovery_point_info
short_description: Find and verify what a deployment of Opstage is to go back to
version_added: 0.1.0
description:
  - Finds a recovery point on the host, proves that its copy of the database is sound and what the manifest says, and
    that the Opstage that would open it is not older than the one it came from.
  - Does the same for a bare database, such as the console's download, which has no manifest. The version that it came
    from is then worked out from its tables.
  - Opstage itself does not refuse a database newer than itself; it serves on it.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
  - capsule.opstage.progress
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
  project:
    description: Name of the Compose project.
    type: str
    required: true
  recovery_point:
    description:
      - V(latest), the id of a recovery point, the absolute path of its folder, or that of a bare database file.
      - V(latest) is the whole one that was made last by the time in its manifest, of several with one time that with
        the greatest id. A warning names each that was passed over and seems newer, because it is damaged or made by a
        newer collection.
      - One that lies more than an hour in the future is passed over with a warning, since a clock was wrong when it was
        made or is now, unless there is no other.
    type: str
    required: true
  root:
    description: Folder below which the recovery points of all projects lie.
    type: path
    default: /var/backups/opstage
  version:
    description:
      - The version of the Opstage that would open the database.
      - Without it, versions are not compared, as for a rollback, which changes the image as well.
    type: str
  source_version:
    description:
      - The version of the Opstage that the database came from, for a bare file.
      - Worked out from its tables when not given, as the newest that has them. For one that has tables of no known
        version it must be given.
    type: str
  replaces:
    description: The database that it is to replace; there must be room for it beside that.
    type: path
  acknowledge:
    description:
      - The version that the database came from, to have it in spite of an older O(version).
      - Opstage may then serve on data that it does not know.
    type: str
seealso:
  - module: capsule.opstage.recovery_point
"""

EXAMPLES = r"""
- name: Verify the newest recovery point
  capsule.opstage.recovery_point_info:
    project: opstage
    recovery_point: latest
    version: 0.3.0

- name: Verify what was downloaded from the console of an Opstage 0.2.0
  capsule.opstage.recovery_point_info:
    project: opstage
    recovery_point: /root/opstage-2026-11-22T17-14-14-633Z.db
    source_version: 0.2.0
    version: 0.3.0
"""

RETURN = r"""
path:
  description: Folder of the recovery point, or the bare file.
  returned: success
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual
database:
  description: The database in it.
  returned: success
  type: str
  sample: /var/backups/opstage/opstage/2026-11-22T02-15-00-000000Z-manual/opstage.db
sha256:
  description: SHA-256 of the database.
  returned: success
  type: str
version:
  description: The version of the Opstage that the database came from, null where nothing says it.
  returned: success
  type: str
  sample: 0.2.0
version_source:
  description: >-
    What said so, V(api), V(label) or V(tag) when the recovery point was made, the V(operator), or its V(tables).
  returned: success
  type: str
  sample: api
image:
  description: The image of that Opstage as its project named it, null for a bare file.
  returned: success
  type: dict
  contains:
    repository:
      description: Its name.
      type: str
      sample: ghcr.io/xtrape-com/xtrape-capsule-ce
    tag:
      description: Its tag, null where the project named none.
      type: str
      sample: 0.2.0
    digest:
      description: Its digest, null where the project named none.
      type: str
must_fit:
  description: >-
    Whether a table or column that only the database has, and not that of the deployment, means that it is from a newer
    Opstage. Not where it is known to be older, nor where its version was acknowledged.
  returned: when O(version) is given
  type: bool
manifest:
  description: >-
    What the manifest holds, as docs/manifest.schema.json of this collection describes it; null for a bare file.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPointError
from ansible_collections.capsule.opstage.plugins.module_utils.restore_source import (
    RestoreSource,
    describe_migrations,
    find_restore_source,
    must_fit_schema,
    require_room,
    require_same_or_newer,
)


def compare_versions(module: AnsibleModule, source: RestoreSource) -> dict[str, bool]:
    """Return what the module returns of the comparison, if one was asked for. Raises RecoveryPointError."""
    version, acknowledged = module.params["version"], module.params["acknowledge"]
    if version is None:
        return {}
    require_same_or_newer(source, version, acknowledged)
    migrations = describe_migrations(source, version)
    if migrations is not None:
        module.warn(migrations)
    return {"must_fit": must_fit_schema(source, version, acknowledged)}


def main() -> None:
    """Find what to go back to and prove it."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "recovery_point": {"type": "str", "required": True},
            "root": {"type": "path", "default": "/var/backups/opstage"},
            "version": {"type": "str"},
            "source_version": {"type": "str"},
            "acknowledge": {"type": "str"},
            "replaces": {"type": "path"},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        with ProgressFile(parameters["progress_file"], module.warn) as progress:
            source = find_restore_source(
                parameters["root"],
                parameters["project"],
                parameters["recovery_point"],
                parameters["source_version"],
                module.warn,
                progress,
            )
        compared = compare_versions(module, source)
        if parameters["replaces"] is not None:
            require_room(source, parameters["replaces"])
    except RecoveryPointError as error:
        module.fail_json(msg=f"{error} Nothing was changed.")
    module.exit_json(
        changed=False,
        path=source.path,
        database=source.database,
        sha256=source.sha256,
        version=source.version,
        version_source=source.version_source,
        image=source.image(),
        manifest=source.manifest,
        **compared,
    )


if __name__ == "__main__":
    main()
