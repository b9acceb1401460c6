# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What earlier upgrades on this host tell of the next one: the digests that tags had, and how long one took."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Mapping, Sequence

from .image_reference import ImageReferenceError, parse_image_reference
from .upgrade_path import ACKNOWLEDGEMENT

OPERATION = "upgrade"

_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class Sighting:
    """The digest that a tag had when a run, known by its `run` and `time` in the journal, saw it."""

    digest: str
    run: str
    time: str


def moved_tag_problems(
    entries: Sequence[Mapping[str, Any]], repository: str, tag: str, digest: str | None, acknowledge: Sequence[str]
) -> list[str]:
    """Return whether the tag had another digest than `digest` when an upgrade of the journal last saw it.

    `digest` is what the registry has now, None for unknown, which is no judgement. A published version does not change:
    somebody pushed something else under its name. It is allowed where `acknowledge` has the new digest.
    """
    seen = last_sighting(entries, repository, tag)
    if seen is None or digest is None or seen.digest == digest or digest in acknowledge:
        return []
    return [
        f"{repository}:{tag} has moved: it was {seen.digest} for the upgrade of {seen.time} (run {seen.run}), "
        f"and is {digest} in the registry now. Ask who published it; if that is right, set {ACKNOWLEDGEMENT} to "
        f"{digest} as well."
    ]


def last_sighting(entries: Sequence[Mapping[str, Any]], repository: str, tag: str) -> Sighting | None:
    """Return what the newest upgrade that met the tag, as what ran or as what was to run, saw of it."""
    for entry in reversed(entries):
        for side in ("target", "source") if entry["operation"] == OPERATION else ():
            digest = _digest_seen(entry.get(side), repository, tag)
            if digest is not None:
                return Sighting(digest, str(entry["run"]), str(entry["time"]))
    return None


def _digest_seen(side: Any, repository: str, tag: str) -> str | None:
    """The digest that an entry's `source` or `target` has of this tag."""
    if not isinstance(side, dict) or side.get("tag") != tag or not side.get("digest"):
        return None
    try:
        named = parse_image_reference(str(side.get("image")))
    except ImageReferenceError:
        return None
    return str(side["digest"]) if named.repository == repository else None


def seconds_of_last_upgrade(entries: Sequence[Mapping[str, Any]]) -> float | None:
    """Return how long the newest upgrade that ended well took, from its first entry to its last; None where none did.

    None too where the journal does not tell its start, or the clock was put back meanwhile. One with a `cause` does not
    count: it was cut off and ended by a later run, or something went wrong.
    """
    for number in range(len(entries) - 1, -1, -1):
        ended = entries[number]
        if (ended["operation"], ended["status"]) == (OPERATION, "finished") and not ended.get("cause"):
            begun = [entry for entry in entries[:number] if _begins(entry, ended["run"])]
            return _seconds_between(str(begun[-1]["time"]), str(ended["time"])) if begun else None
    return None


def _begins(entry: Mapping[str, Any], run: str) -> bool:
    return (entry["operation"], entry["status"], entry["run"]) == (OPERATION, "started", run)


def _seconds_between(start: str, end: str) -> float | None:
    try:
        between = datetime.strptime(end, _TIME_FORMAT) - datetime.strptime(start, _TIME_FORMAT)
    except ValueError:
        return None
    return between.total_seconds() if between.total_seconds() >= 0 else None
