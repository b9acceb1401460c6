# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a host must have before an upgrade: room, memory, a sound database, a secret, a project that can be pinned.

Each check returns what stands in the way, one sentence each; one that cannot be made says why as such a sentence.
"""

from __future__ import annotations

import os
from typing import Any, Mapping

from .compose_image import ComposeImageError, ComposeProject, pin_image
from .deployment import container_environment, name_of
from .docker_command import DockerError, inspect
from .host_resources import Need, memory_problems
from .recovery_point import project_root
from .sqlite_copy import opened_source
from .sqlite_files import DatabaseFileError, Deadline, errors_raised_as
from .sqlite_hold import Hold

SECRET = "OPSTAGE_SESSION_SECRET"
SECRET_LENGTH = 32
"""Characters without which Opstage does not start."""

RESERVE = 64 << 20
"""Bytes for the project's files, the manifests and room to act beside recovery points."""


def size_of_database(database: str) -> int:
    """Return the bytes of a database and its log together; 0 where there is none."""
    return sum(os.lstat(path).st_size for path in (database, f"{database}-wal") if os.path.lexists(path))


def data_needs(deployment: Mapping[str, Any], root: str, rehearse: bool, steps: int) -> list[Need]:
    """Return the room that an upgrade by `steps` versions takes beside the database and below `root`, at its worst.

    A copy is as large as the database and its log. Each step makes two recovery points: one while the service runs, one
    at its stop. What lies beside those of the last step: in a rehearsal its copy, what the migrations make of that, and
    the copy of it that is checked, before the second point is made; without one the copy that is checked.
    In the data folder the migrations may double the database, and the way back puts the old one beside it.
    """
    size = size_of_database(deployment["database"])
    folder = project_root(root, deployment["project"])
    points = 2 * steps * size + RESERVE
    checked = Need(folder, 2 * size if rehearse else size, "rehearsal" if rehearse else "check of the migrated data")
    data = os.path.dirname(deployment["database"])
    return [
        Need(folder, points, "recovery points"),
        checked,
        Need(data, size, "migrations"),
        Need(data, size, "way back"),
    ]


def database_problems(database: str) -> list[str]:
    """Return what SQLite's quick_check finds in the live database, under one read transaction: writers go on."""
    try:
        with errors_raised_as(DatabaseFileError, f"The database {database} cannot be checked"):
            found = _quick_check(database)
    except DatabaseFileError as error:
        return [f"{error}."]
    if found:
        return [f"The database {database} is damaged: {found}. Restore it from a verified recovery point first."]
    return []


def _quick_check(database: str) -> str:
    with opened_source(database) as source, Hold(source.path, source.descriptor, source.folder, Deadline(None)) as hold:
        hold.begin()
        return hold.problems("quick_check")


def container_problems(name: str, rehearse: bool) -> list[str]:
    """Return what the container of the service lacks: memory for a rehearsal beside it, and a session secret."""
    try:
        container = inspect("container", [name])[0]
    except (DockerError, IndexError) as error:
        return [f"The container {name} could not be looked at, for its memory and its session secret: {error}"]
    memory = memory_problems(int(container["State"].get("Pid") or 0)) if rehearse else []
    return [*memory, *secret_problems(container)]


def secret_problems(container: Mapping[str, Any]) -> list[str]:
    """Return whether the session secret is too short to start with; how long it is is all that is said of it."""
    secret = container_environment(container, SECRET)
    if secret is not None and len(secret) >= SECRET_LENGTH:
        return []
    found = f"has no {SECRET}" if secret is None else f"has an {SECRET} of {len(secret)} characters"
    return [
        f"The container {name_of(container)} {found}, expected {SECRET_LENGTH} or more: no version starts without. Set "
        "it in the project's files and create the container anew."
    ]


def pin_problems(deployment: Mapping[str, Any], tag: str, digest: str | None) -> list[str]:
    """Return why the project's files cannot be made to name the tag; that they can is proven on a temporary copy."""
    try:
        pin_image(ComposeProject.of(deployment), deployment["service"], tag, digest, check_mode=True)
    except ComposeImageError as error:
        return [f"The image of {deployment['service']} cannot be pinned: {error}"]
    return []
