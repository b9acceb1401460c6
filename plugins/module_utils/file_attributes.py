# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Owner, group and permissions of a file as people write them."""

from __future__ import annotations

import grp
import pwd
import re

from .sqlite_files import DatabaseFileError, Reason

# 4294967295 is chown's "leave as it is" (chown(2)), hence no id.
HIGHEST_ID = 4294967294


def uid_of(owner: str | None) -> int | None:
    """The uid of a user's name or number; None for None. Raises DatabaseFileError when there is no such user."""
    if owner is None or _is_id(owner):
        return None if owner is None else int(owner)
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError as error:
        raise DatabaseFileError(
            Reason.MISSING, f"there is no user {owner}; name an existing one or give a uid up to {HIGHEST_ID}"
        ) from error


def gid_of(group: str | None) -> int | None:
    """The gid of a group's name or number; None for None. Raises DatabaseFileError when there is no such group."""
    if group is None or _is_id(group):
        return None if group is None else int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise DatabaseFileError(
            Reason.MISSING, f"there is no group {group}; name an existing one or give a gid up to {HIGHEST_ID}"
        ) from error


def permissions_of(mode: object) -> int | None:
    """The number of an octal mode (``0600``); None for anything else, a symbolic mode among it."""
    if isinstance(mode, int):
        return mode
    return int(str(mode), 8) if re.fullmatch("0?[0-7]{1,4}", str(mode)) else None


def _is_id(text: str) -> bool:
    return re.fullmatch("[0-9]{1,10}", text) is not None and int(text) <= HIGHEST_ID
