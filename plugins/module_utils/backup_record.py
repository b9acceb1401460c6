# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the host remembers of its last scheduled backup; scheduled_backup writes it."""

from __future__ import annotations

import json
import os
from typing import Any

from .journal import state_folder

RECORD_NAME = "backup-status.json"


def record_path(project: str) -> str:
    """The file that says how the last scheduled backup of a project went; raises JournalError."""
    return os.path.join(state_folder(project), RECORD_NAME)


def read_record(project: str) -> dict[str, Any] | None:
    """What scheduled_backup has written last, None where there is nothing that can be read; raises JournalError."""
    try:
        with open(record_path(project), encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
