# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How an operation that was cut off is ended where the service has run meanwhile, as after a restart of its host."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any, Mapping

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", re.ASCII)


def plan_resumption(unfinished: Mapping[str, Any], deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the operation (journal.find_unfinished) with `left` as it is to be done now, and `copy_first`.

    deployment: the fields of deployment.Deployment. Whatever is left, the service was stopped or without a network when
    it was recorded. Where it was started since, clients may have written:

    - to the old database in the old version, where an upgrade is to be undone: it stays, there is nothing to put back
    - in every other case a recovery point of what was written is to be made before the database is replaced: copy_first
    """
    left = unfinished["left"] or {}
    served = not deployment["isolated"] and _moment(deployment["container_started"]) > _moment(unfinished["recorded"])
    if not served or left.get("action") != "replace":
        return {**unfinished, "copy_first": False}
    if unfinished["operation"] == "upgrade" and deployment["version"] == left["serve"]["version"]:
        return {**unfinished, "left": {**left, "action": "start"}, "copy_first": False}
    return {**unfinished, "copy_first": True}


def _moment(text: str) -> datetime:
    """The moment that RFC 3339 text in UTC names, as Docker and the journal write it, to the microsecond."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time in UTC, such as 2026-11-22T02:15:00.5Z")
    microseconds = int(((match[2] or "") + "000000")[:6])
    return datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(microsecond=microseconds, tzinfo=timezone.utc)
