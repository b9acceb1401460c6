# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The private folders of rehearsals and drills, and the copy of the data in them."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import Any, Iterator, Mapping

from .durable_files import make_private_folder
from .recovery_point import RecoveryPoint
from .sqlite_files import require_space


@contextmanager
def scratch_folder(parent: str, purpose: str, needed: int) -> Iterator[str]:
    """Give a new folder, 0700, in the folder `parent` of a project's recovery points, and remove it at the end.

    By its name, `.partial-` and `purpose`, a backup knows what a killed run left, and removes it; so does the next of
    this purpose. Raises DatabaseFileError unless `needed` bytes are free, PrivateFolderError, OSError.
    """
    make_private_folder(parent)
    folder = os.path.join(parent, f".partial-{purpose}")
    shutil.rmtree(folder, ignore_errors=True)
    require_space(parent, needed)
    os.mkdir(folder, 0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_database(point: RecoveryPoint, copy: str, users: Mapping[str, Any]) -> None:
    """Copy the recovery point's database to `copy`, whose folders are made.

    users: `access` of the copy and `folder_access` of its folder, as a manifest's `database` has them. Raises OSError.
    """
    folder = os.path.dirname(copy)
    os.makedirs(folder)
    shutil.copyfile(point.database, copy)
    for path, access in ((copy, users["access"]), (folder, users["folder_access"])):
        os.chown(path, access["uid"], access["gid"])
        os.chmod(path, int(access["mode"], 8))
