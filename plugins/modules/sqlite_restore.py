#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module: put a copy in the place of an SQLite database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sqlite_restore
short_description: Put a copy in the place of an SQLite database
version_added: 0.1.0
description:
  - Replaces a database that no process has open by a verified copy, with the old database's logs out of the way, so
    that nothing old is replayed into the new file. Killed at any moment, it leaves the old database or the new one.
  - Refuses while a process, in any container, has the database or one of its logs open, and says which.
  - The new file gets owner, group, permissions, POSIX ACL and SELinux label of what was there. Other extended
    attributes are not passed on, since they describe the old content.
author:
  - The capsule.opstage contributors (@capsule-opstage)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.flow
  - capsule.opstage.progress
  - ansible.builtin.files
attributes:
  check_mode:
    support: full
    details:
      - That a process has the database open is then a warning, since the task that stops it did not run either.
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  src:
    description:
      - The copy to restore, one self-contained file on the managed host. C(PRAGMA integrity_check) must find it sound.
      - A file with changes in a C(-wal) or C(-journal) beside it is refused. Copy it with
        M(capsule.opstage.sqlite_backup) first.
    type: path
    required: true
  dest:
    description:
      - The database to replace, or to create in an existing folder.
      - A plain file in a folder that is no symbolic link, and that is mounted as a whole. A link, a FIFO or a device is
        refused, also where a C(-wal), C(-shm) or C(-journal) would lie.
    type: path
    required: true
  sha256:
    description:
      - The SHA-256 that O(src) must have, 64 hexadecimal digits.
    type: str
  backup:
    description:
      - Keep what was there, with the changes in its logs, as RV(backup_file).
      - A database too damaged for that is kept byte for byte, its logs beside it.
      - To put such a one back by hand, stop what uses the database, and copy RV(backup_file) to O(dest) and each log
        beside it, C(-wal) or C(-journal), to the same name beside O(dest).
    type: bool
    default: false
  timeout:
    description:
      - Seconds after which the restore is given up, its verification included; what was there is then left in place. No
        limit by default.
    type: int
  mode:
    description:
      - The permissions of the restored file. Default are those of what was there, or V(0600).
    type: raw
  owner:
    description:
      - Name or uid of its owner. Default is the owner of what was there, or of the folder.
    type: str
  group:
    description:
      - Name or gid of its group. Default is the group of what was there, or of the folder.
    type: str
seealso:
  - module: capsule.opstage.sqlite_backup
"""

EXAMPLES = r"""
- name: Restore a stopped service's database, keeping what is there now
  capsule.opstage.sqlite_restore:
    src: /var/backups/opstage/opstage-2026-11-22T17-14-14-633120Z.db
    dest: /var/lib/docker/volumes/opstage-data/_data/opstage.db
    backup: true
"""

RETURN = r"""
dest:
  description: The database.
  returned: success
  type: str
backup_file:
  description: What was there before; V(null) when nothing was, or it was not to be kept.
  returned: success
  type: str
  sample: /srv/app/app.db.2026-11-22T17-14-14-633120Z~
size:
  description: Size of the restored file in bytes.
  returned: success
  type: int
sha256:
  description: SHA-256 of its bytes.
  returned: success
  type: str
reason:
  description:
    - Why nothing was restored.
    - One of V(missing), V(not a database), V(damaged source), V(damaged copy), V(locked), V(in use), V(no space),
      V(timeout), V(refused for safety), V(system error).
  returned: failure
  type: str
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.file_attributes import gid_of, permissions_of, uid_of
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_holders import describe_holders, find_holders
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_restore import restore_database


def restore(module: AnsibleModule) -> dict[str, object]:
    """Restore, or in check mode say whether something would change. Raises DatabaseFileError."""
    options = module.params
    with ProgressFile(options["progress_file"], module.warn) as progress:
        restoration = restore_database(
            options["src"],
            options["dest"],
            expected_sha256=options["sha256"],
            keep_previous=options["backup"],
            uid=uid_of(options["owner"]),
            gid=gid_of(options["group"]),
            mode=permissions_of(options["mode"]),
            check=module.check_mode,
            timeout=options["timeout"],
            progress=progress,
        )
    changed = restoration.changed
    if module.check_mode:
        holders = find_holders(restoration.dest) if changed else []
        if holders:
            module.warn(f"Without check mode this would be refused as long as {describe_holders(holders)}")
    else:
        file_arguments = module.load_file_common_arguments(options, path=restoration.dest)
        changed = module.set_fs_attributes_if_different(file_arguments, changed)
    return {**asdict(restoration), "changed": changed}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "sha256": {"type": "str"},
            "backup": {"type": "bool", "default": False},
            "timeout": {"type": "int"},
            "progress_file": {"type": "path"},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    try:
        result = restore(module)
    except DatabaseFileError as error:
        module.fail_json(msg=str(error), reason=error.reason.value)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
