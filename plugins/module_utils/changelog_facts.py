# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What this collection observed of versions of Opstage: notes for those who have no changelog at hand."""

from __future__ import annotations

SOURCE = "changelog_facts.py of capsule.opstage"
"""What stands where a changelog has its path or URL."""

PREFACE = "Observations of this collection on the running software; they are not Opstage's own changelog."

FACTS = {
    "0.1.0": (
        "The oldest version observed. /health does not exist, /api/system/health gives status and timestamp only, and "
        "the edition is written CE.",
        "A backup through the console is audited as SQLITE_BACKUP_CREATED.",
    ),
    "0.2.0": (
        "New against 0.1.0: GET /health. GET /api/system/health also gives version, edition, database and "
        "uptimeSeconds, and GET /api/system/version may give commit and buildTime.",
        "The edition is written ce, where 0.1.0 wrote CE.",
        "A backup through the console is audited as backup.sqlite.created, where 0.1.0 wrote SQLITE_BACKUP_CREATED.",
    ),
    "0.3.0": ("The tables are those of 0.2.0. No other difference from 0.2.0 was noted, which is no proof of none.",),
    "0.4.0": (
        "New tables: bus_events and bus_routes.",
        "An older version does not refuse the database of this one: 0.1.0 started on it and served. Go back with the "
        "database of the older version only.",
    ),
}
"""By version, each observation in one or two sentences."""
