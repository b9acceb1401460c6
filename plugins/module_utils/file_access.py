# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who may use a file: read from one that is to be replaced, given to the one that replaces it."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Mapping

from .sqlite_files import DatabaseFileError, Reason

ACCESS_LIST = "system.posix_acl_access"

# Other extended attributes stay behind (xattr(7)): user.* describe the content that goes (its origin, its checksum),
# security.ima and security.capability hold for its bytes, trusted.* belong to overlay file systems.
EXTENDED_ATTRIBUTES = (ACCESS_LIST, "security.selinux", "security.SMACK64")

_NOT_THERE = (errno.ENODATA, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class FileAccess:
    """Owner, group, permissions, and those of EXTENDED_ATTRIBUTES that there are.

    ``extended`` of None stands for what the system gives a new file: the folder's default ACL, the policy's label.
    """

    uid: int
    gid: int
    mode: int
    extended: Mapping[str, bytes] | None


def access_of(descriptor: int) -> FileAccess:
    """Who may use an open file."""
    status = os.fstat(descriptor)
    found = {name: _extended_attribute(descriptor, name) for name in EXTENDED_ATTRIBUTES}
    extended = {name: value for name, value in found.items() if value is not None}
    return FileAccess(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), extended)


def give_access(descriptor: int, access: FileAccess) -> None:
    """Let ``access`` hold for an open file. Raises DatabaseFileError for what its file system cannot hold, OSError.

    In the order in which nothing undoes what came before it: a new owner clears bits of the mode (chown(2)), an ACL
    sets the mode's bits of the group, and those bits are the mask of the ACL (acl(5)).
    """
    os.fchown(descriptor, access.uid, access.gid)
    if access.extended is not None:
        for name in EXTENDED_ATTRIBUTES:
            _give_extended_attribute(descriptor, name, access.extended.get(name))
    os.fchmod(descriptor, access.mode)


def _extended_attribute(descriptor: int, name: str) -> bytes | None:
    """None where there is none, or the file system knows of none."""
    try:
        return os.getxattr(descriptor, name)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return None


def _give_extended_attribute(descriptor: int, name: str, value: bytes | None) -> None:
    """A label that cannot be set is often there already: given to the whole file system when that was mounted."""
    found = _extended_attribute(descriptor, name)
    if value == found:
        return
    try:
        if value is not None:
            os.setxattr(descriptor, name, value)
        elif name == ACCESS_LIST:
            os.removexattr(descriptor, name)
    except OSError as error:
        raise DatabaseFileError(
            Reason.SYSTEM,
            f"the new file cannot be given {name} as what was there has it: {error.strerror}; what was there stays. "
            "Remove that attribute from it, or run as root, then restore again",
        ) from error
