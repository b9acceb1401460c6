# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Decide whether an upgrade may begin, and by way of which versions, from what is known before anything is touched."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Callable, Mapping, Sequence

from .diagnostics import diagnosed_version
from .docker_command import DockerError
from .docker_registry import (
    EngineSettings,
    RemoteImageError,
    find_remote_image,
    get_engine_settings,
    host_platform,
    local_image_size,
)
from .host_registry import Registry, RegistryQuestionError
from .host_resources import Need, room_problems
from .image_reference import ImageReference, parse_image_reference
from .journal import JournalError, journal_path, read_entries
from .maintenance_window import MaintenanceWindowError, next_opening, parse_window, seconds_left
from .opstage_session import Account, OpstageSessionError
from .recovery_point import RecoveryPointError
from .upgrade_history import moved_tag_problems, seconds_of_last_upgrade
from .upgrade_host import container_problems, data_needs, database_problems, pin_problems
from .upgrade_path import (
    find_path,
    is_alias,
    is_moving_target,
    is_tag,
    stop_problems,
    target_problems,
    version_or_none,
    version_problems,
    versions_after,
)

DEFAULT_ROOT = "/var/backups/opstage"

PULLED = 4
"""How many times its packed size an image takes while it is pulled: packed, and unpacked, which was 2.7 times as much
for images of Opstage (50.8 MB and 136.4 MB)."""


@dataclass(frozen=True)
class UpgradeRequest:
    """What the operator wants.

    version: the target, a version or a tag. acknowledge: versions, tags and digests that the operator agrees to. stops:
    versions that may not be jumped over. window: a maintenance window (maintenance_window.parse_window), None for any
    time. root: the folder of recovery points. rehearse: whether the target is tried on a copy of the data first.
    """

    version: str
    acknowledge: Sequence[str] = ()
    stops: Sequence[str] = ()
    window: str | None = None
    root: str = DEFAULT_ROOT
    rehearse: bool = True


@dataclass(frozen=True)
class UpgradePlan:
    """What an upgrade would do.

    needed: False when the deployment already runs the target. problems: everything that stands in the way, one
    sentence each; the upgrade must not begin unless it is empty. source and target name version, tag, digest and image;
    source's pinned_digest is the digest that the project's files name, None where they name none; target's version is
    None for a moving tag, its digest is None where the registry did not tell it.
    path: what to go through, in order, each as target is, which is the last. versions: all those after the one that
    runs up to the target, ascending, whose changelogs are to be read; versions_complete is False where the registry did
    not list its tags, so that there may be more. predicted_seconds: how long the switches may take, each as the last
    upgrade did, None where there was none.
    """

    needed: bool
    problems: list[str]
    source: dict[str, Any]
    target: dict[str, Any]
    path: list[dict[str, Any]]
    versions: list[str]
    versions_complete: bool
    predicted_seconds: float | None


@dataclass(frozen=True)
class _Asked:
    """Whom to ask about images."""

    engine: EngineSettings
    registry: Registry


def plan_upgrade(
    deployment: Mapping[str, Any], request: UpgradeRequest, unfinished: Mapping[str, Any] | None
) -> UpgradePlan:
    """Return the plan for `deployment` (the fields of deployment.Deployment), as far as it is known without asking.

    unfinished: the journal's entry of an operation that was cut off, None where there is none; what runs is then
    half of two versions, so nothing else about it is judged. Whether a moving tag is needed is not known yet: examine
    tells. Raises ImageReferenceError where the deployment's image is none.
    """
    source = {name: deployment[name] for name in ("version", "tag", "digest", "image", "image_id", "url")}
    source["pinned_digest"] = parse_image_reference(deployment["image"]).digest
    versions = find_path(deployment["version"], request.version, request.stops)
    path = [_step(deployment["repository"], version, None) for version in versions]
    running = (deployment["version"], deployment["tag"])
    needed = version_or_none(request.version) is None or running != (request.version, request.version)
    problems = _service_problems(deployment)
    if unfinished is not None:
        needed, problems = True, [_cut_off_problem(unfinished)]
    elif needed:
        problems += version_problems(deployment["version"], request.version, request.acknowledge)
        problems += stop_problems(request.stops)
    return UpgradePlan(
        needed=needed,
        problems=problems,
        source=source,
        target=path[-1],
        path=path if needed else [],
        versions=versions_after(deployment["version"], versions, ()) if needed else [],
        versions_complete=not needed,
        predicted_seconds=None,
    )


def _step(repository: str, tag: str, digest: str | None) -> dict[str, Any]:
    """One of the path; what is no version is a tag that may have any version."""
    image = f"{repository}:{tag}" if digest is None else ImageReference(repository, tag, digest).format()
    version = None if version_or_none(tag) is None else tag
    return {"version": version, "tag": tag, "digest": digest, "image": image}


def examine(plan: UpgradePlan, deployment: Mapping[str, Any], request: UpgradeRequest, now: datetime) -> UpgradePlan:
    """Return the plan with what only asking tells: the registry, the journal, the host, the clock (`now`, in UTC).

    Nothing is asked for a plan that is not needed. Nothing is changed.
    """
    if not plan.needed:
        return plan
    asked, problems = _find_registry(deployment["repository"])
    plan = replace(plan, problems=[*plan.problems, *problems])
    plan = _with_versions(plan, deployment, request, asked)
    if not is_tag(request.version) or is_alias(request.version):
        return _with_host(plan, deployment, request, [], now)
    plan, problems = _with_images(plan, deployment, request)
    is_there = plan.target["digest"] is not None and plan.target["digest"] == deployment["digest"]
    if is_moving_target(request.version, request.acknowledge) and is_there:
        return replace(plan, needed=False, path=[], versions=[], versions_complete=True)
    plan = replace(plan, problems=[*plan.problems, *problems])
    needs, problems = _image_needs(plan, deployment, asked)
    plan = replace(plan, problems=[*plan.problems, *problems])
    return _with_host(plan, deployment, request, needs, now)


def try_account(
    plan: UpgradePlan, deployment: Mapping[str, Any], account: Account, warn: Callable[[str], None]
) -> UpgradePlan:
    """Return the plan with what keeps the account from seeing Diagnostics, as it must once the target runs.

    The login is audited, so it is not for check mode. Nobody is asked for a plan that is not needed, nor a service that
    does not answer. `warn` is told where the session could not be ended.
    """
    if not plan.needed or deployment["status"] is None:
        return plan
    try:
        diagnosed_version(deployment["url"], account, warn, deployment["ca_file"])
    except OpstageSessionError as error:
        return replace(plan, problems=[*plan.problems, f"Diagnostics cannot be seen: {error}"])
    return plan


def _find_registry(repository: str) -> tuple[_Asked | None, list[str]]:
    try:
        engine = get_engine_settings()
    except DockerError as error:
        return None, [str(error)]
    return _Asked(engine, Registry(repository, engine)), []


def _with_versions(
    plan: UpgradePlan, deployment: Mapping[str, Any], request: UpgradeRequest, asked: _Asked | None
) -> UpgradePlan:
    """The plan with all versions between, and with what is wrong with the target's name."""
    tags: list[str] | None = None
    if asked is not None:
        with suppress(RegistryQuestionError):
            tags = asked.registry.tags()
    versions = versions_after(deployment["version"], [step["tag"] for step in plan.path], tags or ())
    return replace(
        plan,
        versions=versions,
        versions_complete=tags is not None and plan.target["version"] is not None,
        problems=[*plan.problems, *target_problems(request.version, request.acknowledge, tags)],
    )


def _with_images(
    plan: UpgradePlan, deployment: Mapping[str, Any], request: UpgradeRequest
) -> tuple[UpgradePlan, list[str]]:
    """The plan with the digest of each step, and what keeps this host from running them or makes one suspicious."""
    repository, path, problems = deployment["repository"], [], []
    try:
        entries = read_entries(journal_path(deployment["project"]))
    except JournalError as error:
        entries, problems = [], [f"Whether a tag has moved is not known: {error}"]
    for step in plan.path:
        digest, found = _ask_registry(step["image"])
        problems += found
        if step["version"] is not None:
            problems += moved_tag_problems(entries, repository, step["tag"], digest, request.acknowledge)
        path.append(_step(repository, step["tag"], digest))
    seconds = seconds_of_last_upgrade(entries)
    predicted = None if seconds is None else seconds * len(path)
    return replace(plan, path=path, target=path[-1], predicted_seconds=predicted), problems


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


def _image_needs(
    plan: UpgradePlan, deployment: Mapping[str, Any], asked: _Asked | None
) -> tuple[list[Need], list[str]]:
    """The room that the images of the path take below the Engine's folder, and of which it is not known."""
    needs: list[Need] = []
    problems: list[str] = []
    if asked is None:
        return needs, problems
    for step in (step for step in plan.path if step["digest"] is not None):
        try:
            size = _image_size(deployment, step["digest"], asked.registry)
        except DockerError as error:
            problems.append(f"How much room the image {step['tag']} needs is not known: {error}")
        else:
            needs.append(Need(asked.engine.data_root, size, f"image {step['tag']}"))
    return needs, problems


def _image_size(deployment: Mapping[str, Any], digest: str, registry: Registry) -> int:
    """Bytes that an image takes while it is pulled, 0 for one that is here. Raises DockerError.

    Layers that it shares with other images are counted all the same. Where the registry does not tell this host, as
    much as if it were as large as the image that runs, which the Engine knows unpacked.
    """
    if local_image_size(f"{deployment['repository']}@{digest}") is not None:
        return 0
    try:
        return PULLED * registry.layers_size(digest, host_platform())
    except RegistryQuestionError as error:
        present = local_image_size(deployment["image_id"])
        if present is None:
            raise DockerError(f"{error}, and the image that runs is not here to tell.") from error
        return present * PULLED // (PULLED - 1)


def _with_host(
    plan: UpgradePlan, deployment: Mapping[str, Any], request: UpgradeRequest, needs: Sequence[Need], now: datetime
) -> UpgradePlan:
    """The plan with what stands in the way on this host, now; an Engine that does not answer is told once."""
    problems = _window_problems(request.window, plan.predicted_seconds, now)
    if deployment["database_size"] is not None:
        problems += _room_problems(deployment, request, len(plan.path), needs)
        problems += database_problems(deployment["database"])
    problems += container_problems(deployment["container"], request.rehearse)
    if is_tag(plan.target["tag"]):
        problems += pin_problems(deployment, plan.target["tag"], plan.target["digest"])
    return replace(plan, problems=list(dict.fromkeys([*plan.problems, *problems])))


def _room_problems(
    deployment: Mapping[str, Any], request: UpgradeRequest, steps: int, needs: Sequence[Need]
) -> list[str]:
    try:
        own = data_needs(deployment, request.root, request.rehearse, steps)
    except (OSError, RecoveryPointError) as error:
        return [f"How much room the database needs is not known: {error}."]
    return room_problems([*needs, *own])


def _window_problems(window: str | None, predicted: float | None, now: datetime) -> list[str]:
    if window is None:
        return []
    try:
        parsed = parse_window(window)
        left = seconds_left(parsed, now)
        opens = next_opening(parsed, now) if left is None else now
    except MaintenanceWindowError as error:
        return [f"opstage_maintenance_window: {error}"]
    if left is None:
        return [f"The maintenance window {window} is closed: it opens at {opens:%Y-%m-%dT%H:%M:%SZ}."]
    if predicted is not None and left < predicted:
        return [
            f"The maintenance window {window} is open for {left:.0f} s more, the upgrade may take {predicted:.0f} s, "
            "judging by the last one: begin earlier, or allow a longer window."
        ]
    return []


def _cut_off_problem(unfinished: Mapping[str, Any]) -> str:
    return (
        f"An operation on this deployment was cut off: {unfinished['operation']}, started {unfinished['time']}. "
        "A run that is not in check mode brings it to its end first."
    )


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
