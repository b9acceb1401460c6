# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which versions an upgrade goes through, and what of it must be acknowledged: from the versions' names alone.

A version that is None is one of which nothing is known: what runs says none, or the target is a moving tag.
"""

from __future__ import annotations

import re
from typing import Sequence

from .image_reference import ImageReferenceError, validate_tag
from .semantic_version import Version, VersionError, parse_version

_ALIAS = re.compile(r"(?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*)", re.ASCII)

ACKNOWLEDGEMENT = "opstage_upgrade_acknowledge"
"""The variable that holds what the operator acknowledges: versions, tags and digests."""


def version_or_none(text: str | None) -> Version | None:
    """Return the version that `text` names, None where it names none."""
    try:
        return parse_version(text or "")
    except VersionError:
        return None


def is_alias(tag: str) -> bool:
    """Tell whether `tag` has the form `<major>.<minor>`, which moves with each patch."""
    return _ALIAS.fullmatch(tag) is not None


def is_moving_target(target: str, acknowledge: Sequence[str]) -> bool:
    """Tell whether `target` is no version, but a tag such as `edge` that was acknowledged by its very name."""
    return version_or_none(target) is None and not is_alias(target) and is_tag(target) and target in acknowledge


def is_tag(text: str) -> bool:
    """Tell whether a registry can have a tag of this name."""
    try:
        validate_tag(text)
    except ImageReferenceError:
        return False
    return True


def target_problems(target: str, acknowledge: Sequence[str], tags: Sequence[str] | None) -> list[str]:
    """Return why `target` is nothing to upgrade to; `tags` are those that the registry has, None for unknown."""
    if is_moving_target(target, acknowledge):
        return []
    try:
        parse_version(target)
    except VersionError as error:
        return [f"opstage_version: {error}{_advice(target, tags)}"]
    return []


def _advice(target: str, tags: Sequence[str] | None) -> str:
    """What to set where `target` is no version; it begins with a space."""
    if not is_alias(target):
        return f" To run it all the same, set {ACKNOWLEDGEMENT} to {target!r} as well." if is_tag(target) else ""
    if tags is None:
        return f" Which versions {target} has had is not known: the registry did not list its tags."
    versions = [str(version) for version in _releases(tags) if target == f"{version.major}.{version.minor}"]
    return f" The registry has of {target}: {', '.join(versions) or 'no version'}."


def version_problems(current: str | None, target: str, acknowledge: Sequence[str]) -> list[str]:
    """Return why nothing leads from `current`, which runs, to `target`; no judgement on a target that is no version."""
    wanted = version_or_none(target)
    if wanted is None:
        return []
    try:
        running = parse_version(current or "")
    except VersionError as error:
        return [f"The version that runs is not known: {error}"]
    if wanted < running:
        return [
            f"opstage_version {wanted} is older than {running}, which runs: an older Opstage would open a newer "
            "database. Use the rollback playbook to undo an upgrade."
        ]
    return _acknowledgement_problems(running, wanted, acknowledge)


def _acknowledgement_problems(running: Version, wanted: Version, acknowledge: Sequence[str]) -> list[str]:
    """Patches keep what there is; a minor may break as well, since versions are 0.x."""
    part = "major" if running.major != wanted.major else "minor"
    if (running.major, running.minor) == (wanted.major, wanted.minor) or str(wanted) in acknowledge:
        return []
    said = f", found {', '.join(acknowledge)}" if acknowledge else ""
    return [
        f"{running} to {wanted} is a change of {part}, which may break what works today: read the changelogs up to "
        f"{wanted}, then set {ACKNOWLEDGEMENT} to {str(wanted)!r}{said}."
    ]


def find_path(current: str | None, target: str, stops: Sequence[str]) -> list[str]:
    """Return the versions to go through, ascending, `target` last: each of `stops` that lies between is one of them.

    Stops that are no versions are passed over (stop_problems names them); where a version is not known, there is no
    telling what lies between.
    """
    running, wanted = version_or_none(current), version_or_none(target)
    if running is None or wanted is None:
        return [target]
    found = {version for version in map(version_or_none, stops) if version is not None}
    return [*(str(version) for version in sorted(found) if running < version < wanted), target]


def stop_problems(stops: Sequence[str]) -> list[str]:
    """Return which of the required stops are no versions."""
    problems = []
    for stop in stops:
        try:
            parse_version(stop)
        except VersionError as error:
            problems.append(f"A required stop of the upgrade cannot be honoured: {error}")
    return problems


def versions_after(current: str | None, path: Sequence[str], tags: Sequence[str]) -> list[str]:
    """Return the versions after `current` up to the last of `path`, ascending: those among `tags`, and the path itself.

    Of pre-releases only those on the path are among them: a changelog has none. Empty where a version is not known.
    """
    running, wanted = version_or_none(current), version_or_none(path[-1])
    if running is None or wanted is None:
        return []
    found = {*_releases(tags), *(parse_version(version) for version in path)}
    return [str(version) for version in sorted(found) if running < version <= wanted]


def _releases(tags: Sequence[str]) -> list[Version]:
    """The versions among `tags` that are no pre-releases, ascending."""
    found = {version for version in map(version_or_none, tags) if version is not None}
    return sorted(version for version in found if not version.prerelease)
