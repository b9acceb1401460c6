# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What the migrations of a version did to the data: it must be sound, and no row may be missing."""

from __future__ import annotations

import os
import shutil
from typing import Sequence

from .recovery_point import RecoveryPoint
from .sqlite_changes import Change, compare_databases, describe_changes
from .sqlite_files import DAMAGE, DatabaseFileError, Reason, require_space
from .sqlite_snapshot import create_snapshot

CHECK_PREFIX = ".partial-check-"
"""How the folder of a check is called, beside the recovery point; a backup removes what a killed one left."""

_UNSOUND = (*DAMAGE, Reason.DAMAGED_COPY)


class MigrationError(Exception):
    """The migrations left an unsound database, or one in which rows are missing."""


def check_migrated(point: RecoveryPoint, database: str, drops: Sequence[str] | None = ()) -> dict[str, Change | None]:
    """Compare a live database with the recovery point from before its migrations, and return the changes by table.

    It is copied beside the recovery point for that, and verified. Rows may be missing of the tables `drops` only; of
    any where that is None. Raises MigrationError, DatabaseFileError where there is no room, OSError.
    """
    folder = os.path.join(os.path.dirname(point.path), CHECK_PREFIX + os.path.basename(point.path))
    migrated = os.path.join(folder, "migrated.db")
    shutil.rmtree(folder, ignore_errors=True)
    require_space(os.path.dirname(folder), os.stat(database).st_size)
    os.mkdir(folder, 0o700)
    try:
        snapshot = create_snapshot(database, migrated)
        comparison = compare_databases(point.database, migrated)
    except DatabaseFileError as error:
        if error.reason not in _UNSOUND:
            raise
        raise MigrationError(f"What the migrations leave is no sound database: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    before = point.manifest["database"]["foreign_key_violations"] or 0
    if (snapshot.foreign_key_violations or 0) > before:
        raise MigrationError(
            f"The migrations leave {snapshot.foreign_key_violations} rows whose parent is missing, before there were "
            f"{before}."
        )
    lost = {
        table: change
        for table, change in comparison.tables.items()
        if drops is not None and change is not None and change["removed"] and table not in drops
    }
    if lost:
        raise MigrationError(
            f"The migrations drop rows: {describe_changes(lost)}. If the changelog says so, name these tables in "
            "opstage_upgrade_drops."
        )
    return comparison.tables
