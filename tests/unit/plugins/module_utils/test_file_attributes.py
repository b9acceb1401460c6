# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import grp
import os
import pwd

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.file_attributes import (
    HIGHEST_ID,
    gid_of,
    permissions_of,
    uid_of,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError, Reason


def test_names_and_numbers() -> None:
    user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    assert (uid_of(user.pw_name), gid_of(group.gr_name)) == (user.pw_uid, group.gr_gid)
    assert (uid_of("4711"), gid_of("4712")) == (4711, 4712)
    assert (uid_of(str(HIGHEST_ID)), gid_of("0")) == (HIGHEST_ID, 0)
    assert (uid_of(None), gid_of(None)) == (None, None)


@pytest.mark.parametrize("name", ["nobody-of-that-name", "", "-1", "²", "4294967295", "99999999999", "1000 ", "\udcff"])
def test_nobody_of_that_name_or_number(name: str) -> None:
    with pytest.raises(DatabaseFileError, match="there is no user") as no_user:
        uid_of(name)
    with pytest.raises(DatabaseFileError, match="there is no group") as no_group:
        gid_of(name)
    assert (no_user.value.reason, no_group.value.reason) == (Reason.MISSING, Reason.MISSING)


@pytest.mark.parametrize(
    ("mode", "permissions"),
    [(0o640, 0o640), ("0640", 0o640), ("640", 0o640), ("00640", 0o640), ("4640", 0o4640), ("0", 0)],
)
def test_octal_modes(mode: object, permissions: int) -> None:
    assert permissions_of(mode) == permissions


@pytest.mark.parametrize("mode", [None, "u=rw,go=", "", "0688", "0o640", "-640", "10000", "²"])
def test_no_octal_mode(mode: object) -> None:
    assert permissions_of(mode) is None
