#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module: consistent copy of a live SQLite database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sqlite_backup
short_description: Copy a live SQLite database consistently
version_added: 0.1.0
description:
  - Makes one verified, self-contained file of an SQLite database, whether it is being written to, closed, or was left
    by a killed process with its newest data still in the C(-wal).
  - The copy shows one moment. Writers in WAL mode are not made to wait, and cannot starve it.
  - The journal mode, the log and the data of the source stay as they are. Where a source in WAL mode was closed
    cleanly, an empty C(-wal) and a C(-shm) may appear beside it, owned as the database.
  - The copy gets its name only after it was checked and synced. After a failure nothing is left.
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
  diff_mode:
    support: none
  platform:
    platforms: linux
options:
  src:
    description:
      - The live database. A plain file; links are not followed.
    type: path
    required: true
  dest:
    description:
      - The file to create, in an existing folder. No log (C(-wal), C(-journal)) of another database may lie beside it.
      - An existing folder means a file C(<stem>-<UTC time>.db) in it.
    type: path
    required: true
  overwrite:
    description:
      - Replace an existing O(dest), unless a process has it open. Otherwise an existing O(dest) is an error.
    type: bool
    default: false
  verify:
    description:
      - Check of the copy before it gets its name.
      - V(full) is C(PRAGMA integrity_check), which also compares indexes with tables. V(quick) is
        C(PRAGMA quick_check). Both count violated foreign keys. V(none) only checks header and size.
    type: str
    choices: [full, quick, none]
    default: full
  timeout:
    description:
      - Seconds after which the copy is given up, its verification included. No limit by default.
    type: int
  mode:
    description:
      - The permissions of the copy.
    type: raw
    default: "0600"
seealso:
  - module: capsule.opstage.sqlite_restore
"""

EXAMPLES = r"""
- name: Copy a live database into a folder, under a name with the time in it
  capsule.opstage.sqlite_backup:
    src: /var/lib/docker/volumes/opstage-data/_data/opstage.db
    dest: /var/backups/opstage

- name: Copy to one name, replacing the last copy, within ten minutes
  capsule.opstage.sqlite_backup:
    src: /srv/app/app.db
    dest: /var/backups/app.db
    overwrite: true
    verify: quick
    timeout: 600
"""

RETURN = r"""
dest:
  description: The copy.
  returned: success
  type: str
  sample: /var/backups/opstage/opstage-2026-11-22T17-14-14-633120Z.db
size:
  description: Its size in bytes.
  returned: success, not in check mode
  type: int
sha256:
  description: SHA-256 of its bytes.
  returned: success, not in check mode
  type: str
page_size:
  description: Bytes of a page.
  returned: success, not in check mode
  type: int
page_count:
  description: Number of pages.
  returned: success, not in check mode
  type: int
source_journal_mode:
  description: V(wal), or V(delete) for any kind of rollback journal.
  returned: success, not in check mode
  type: str
user_version:
  description: The database's C(user_version).
  returned: success, not in check mode
  type: int
application_id:
  description: The database's C(application_id).
  returned: success, not in check mode
  type: int
integrity:
  description:
    - V(ok), or V(not checked) with O(verify=none).
    - V(partly checked) where an index needs a collation or a function that only the application has; all else is sound.
  returned: success, not in check mode
  type: str
foreign_key_violations:
  description:
    - Rows whose parent is missing. They are the source's own, copied faithfully, and a warning, not an error.
    - V(null) where they were not or could not be counted.
  returned: success, not in check mode
  type: int
method:
  description:
    - How it was copied.
    - V(raw), byte by byte under one read transaction; V(reflink), the same, the file system sharing the blocks;
      V(raw-stepped), a rollback-journal database, byte by byte in steps between which its writers had their turn.
    - Where the raw copy is not known to be right (a network file system, a single file that is mounted, locks which the
      kernel does not list), by SQLite's online backup interface, V(api) under one read transaction, V(api-stepped) in
      steps.
    - V(at-rest), from a read-only file system on which SQLite cannot open the database.
  returned: success, not in check mode
  type: str
elapsed:
  description: Seconds it took.
  returned: success, not in check mode
  type: float
reason:
  description:
    - Why there is no copy.
    - One of V(missing), V(not a database), V(damaged source), V(damaged copy), V(locked), V(in use), V(exists),
      V(no space), V(timeout), V(refused for safety), V(system error).
  returned: failure
  type: str
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.progress_file import ProgressFile
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import VERIFY_LEVELS, DatabaseFileError
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import (
    create_snapshot,
    plan_snapshot,
)


def make_copy(module: AnsibleModule) -> dict[str, object]:
    """Make the copy, or in check mode only find out where it would be. Raises DatabaseFileError."""
    options = module.params
    choices = {"overwrite": options["overwrite"], "verify": options["verify"]}
    if module.check_mode:
        return {"changed": True, "dest": plan_snapshot(options["src"], options["dest"], **choices)}
    with ProgressFile(options["progress_file"], module.warn) as progress:
        snapshot = create_snapshot(
            options["src"], options["dest"], timeout=options["timeout"], progress=progress, **choices
        )
    if snapshot.foreign_key_violations:
        module.warn(
            f"{options['src']} has {snapshot.foreign_key_violations} rows with foreign keys whose parent is missing; "
            "they were copied as they are"
        )
    file_arguments = module.load_file_common_arguments(options, path=snapshot.dest)
    module.set_fs_attributes_if_different(file_arguments, changed=True)
    return {"changed": True, **asdict(snapshot)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "overwrite": {"type": "bool", "default": False},
            "verify": {"type": "str", "choices": list(VERIFY_LEVELS), "default": "full"},
            "timeout": {"type": "int"},
            "progress_file": {"type": "path"},
            "mode": {"type": "raw", "default": "0600"},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    try:
        result = make_copy(module)
    except DatabaseFileError as error:
        module.fail_json(msg=str(error), reason=error.reason.value)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
