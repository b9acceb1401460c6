# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Decide whether an upgrade may begin, from what is known before anything is touched."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Mapping

from .docker_command import DockerError
from .docker_registry import RemoteImageError, find_remote_image, host_platform
from .image_reference import parse_image_reference
from .maintenance_window import MaintenanceWindowError, next_opening, parse_window, seconds_left
from .semantic_version import VersionError, parse_version
from .sqlite_files import DatabaseFileError, require_space


@dataclass(frozen=True)
class UpgradePlan:
    """What an upgrade would do.

    needed: False when the deployment already runs the target. problems: everything that stands in the way, one
    sentence each; the upgrade must not begin unless it is empty. source and target name version, tag and image;
    source's pinned_digest is the digest that the project's files name, None where they name none.
    """

    needed: bool
    problems: list[str]
    source: dict[str, Any]
    target: dict[str, Any]


def plan_upgrade(
    deployment: Mapping[str, Any], target_version: str, unfinished: Mapping[str, Any] | None
) -> UpgradePlan:
    """Return the plan for taking `deployment` (the fields of deployment.Deployment) to `target_version`.

    unfinished: the journal's entry of an operation that was cut off, None where there is none; what runs is then
    half of two versions, so nothing else about it is judged.
    """
    source = {name: deployment[name] for name in ("version", "tag", "digest", "image", "image_id", "url")}
    source["pinned_digest"] = parse_image_reference(deployment["image"]).digest
    target = {
        "version": target_version,
        "tag": target_version,
        "image": f"{deployment['repository']}:{target_version}",
    }
    if unfinished is not None:
        problem = (
            f"An operation on this deployment was cut off: {unfinished['operation']}, started {unfinished['time']}. "
            "A run that is not in check mode brings it to its end first."
        )
        return UpgradePlan(needed=True, problems=[problem], source=source, target=target)
    needed = deployment["version"] != target_version or deployment["tag"] != target_version
    problems = _version_problems(deployment["version"], target_version) if needed else []
    problems += _service_problems(deployment)
    if needed and deployment["database_size"] is not None:
        problems += _room_problems(deployment["database"])
    return UpgradePlan(needed=needed, problems=problems, source=source, target=target)


def examine_target(plan: UpgradePlan, window: str | None, now: datetime) -> UpgradePlan:
    """Return the plan with what only asking tells: whether it is time, and what the registry has.

    `window` is a maintenance window (maintenance_window.parse_window), None for any time; `now` is in UTC. The target
    gets the `digest` that its tag has in the registry, None where that could not be learned. Nothing is asked for a
    plan that is not needed.
    """
    if not plan.needed:
        return plan
    digest, problems = _ask_registry(plan.target["image"])
    problems = [*plan.problems, *_window_problems(window, now), *problems]
    return replace(plan, problems=problems, target={**plan.target, "digest": digest})


def _window_problems(window: str | None, now: datetime) -> list[str]:
    if window is None:
        return []
    try:
        parsed = parse_window(window)
        if seconds_left(parsed, now) is not None:
            return []
        opens = next_opening(parsed, now)
    except MaintenanceWindowError as error:
        return [f"opstage_maintenance_window: {error}"]
    return [f"The maintenance window {window} is closed: it opens at {opens:%Y-%m-%dT%H:%M:%SZ}."]


def _ask_registry(image: str) -> tuple[str | None, list[str]]:
    """The digest of an image in its registry, and what keeps this host from running it."""
    try:
        found = find_remote_image(image)
        platform = host_platform()
    except (RemoteImageError, DockerError) as error:
        return None, [str(error)]
    if found.platforms and platform not in found.platforms:
        return found.digest, [f"{image} is for {', '.join(found.platforms)}; this host is {platform}."]
    return found.digest, []


def _version_problems(current_version: str | None, target_version: str) -> list[str]:
    try:
        target = parse_version(target_version)
    except VersionError as error:
        return [f"opstage_version: {error}"]
    try:
        current = parse_version(current_version or "")
    except VersionError as error:
        return [f"The version that runs is not known: {error}"]
    if target < current:
        return [
            f"opstage_version {target} is older than {current}, which runs: an older Opstage would open a newer "
            "database. Use the rollback playbook to undo an upgrade."
        ]
    return []


def _room_problems(database: str) -> list[str]:
    """Going back puts the old database beside the new one, which is as large before it takes its place."""
    size = sum(os.lstat(path).st_size for path in (database, f"{database}-wal") if os.path.lexists(path))
    try:
        require_space(os.path.dirname(database), size)
    except (DatabaseFileError, OSError) as error:
        return [f"A rollback could not put the database back: {error}."]
    return []


def _service_problems(deployment: Mapping[str, Any]) -> list[str]:
    problems = []
    if deployment["container_status"] != "running":
        problems.append(
            f"The container {deployment['container']} is {deployment['container_status']}, expected running: start it "
            "and see that it is healthy, so that a fault of today is not taken for one of the upgrade."
        )
    elif deployment["status"] != "UP":
        problems.append(
            f"{deployment['url']} reports {deployment['status'] or 'nothing'}, expected UP: see to its health first."
        )
    if deployment["database_size"] is None:
        problems.append(f"There is no database at {deployment['database']}.")
    return problems
