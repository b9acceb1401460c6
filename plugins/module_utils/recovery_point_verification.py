# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Prove that a recovery point is what its manifest says."""

from __future__ import annotations

import os

from .recovery_point import RecoveryPoint, RecoveryPointError
from .sqlite_files import DatabaseFileError, Deadline, ProgressReport, opened_plain_file, sha256_of
from .sqlite_verify import verify_database


def verify_recovery_point(point: RecoveryPoint, progress: ProgressReport | None = None) -> None:
    """Raise RecoveryPointError unless the copy is byte for byte what the manifest says, and a sound database.

    Of an encrypted one, only the first can be told. `progress` is called now and then.
    """
    try:
        if point.is_encrypted:
            with opened_plain_file(point.database) as descriptor:
                found = sha256_of(descriptor, Deadline(None))
        else:
            found = verify_database(point.database, "full", progress=progress).sha256
    except (DatabaseFileError, OSError) as error:
        raise RecoveryPointError(f"The recovery point {point.path} is damaged: {error}") from error
    if found != point.sha256:
        raise RecoveryPointError(
            f"The recovery point {point.path} is damaged: {os.path.basename(point.database)} has SHA-256 {found}, its "
            f"manifest says {point.sha256}. Choose another recovery point."
        )
