# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Do what the journal says is left to do: put a database in place, name its image in the project, start and verify.

Each part may be done again, so that whoever comes next goes on wherever this was cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Mapping

from .compose_image import ComposeImageError, ComposeProject, pin_image
from .compose_service import start_service, stop_service
from .deployment import DiscoveryError, describe_container, find_container, name_of
from .deployment_lock import DeploymentLockError
from .docker_command import DockerError, give_tag_back
from .durable_files import PrivateFolderError
from .journal import JournalError
from .network_namespace import make_known
from .readiness import NotReadyError, Readiness, wait_until_ready
from .recovery_point import RecoveryPointError
from .recovery_point_creation import create_recovery_point
from .sqlite_changes import ChangesError, compare_databases, describe_changes
from .sqlite_files import DAMAGE, DatabaseFileError, ProgressReport
from .sqlite_restore import restore_database
from .sqlite_snapshot import SnapshotError

OPERATION_FAILURES = (
    ComposeImageError,
    DatabaseFileError,
    DeploymentLockError,
    DiscoveryError,
    DockerError,
    JournalError,
    NotReadyError,
    OSError,
    PrivateFolderError,
    RecoveryPointError,
)
"""What can go wrong on the way, recorded entries and recovery points among it."""


@dataclass(frozen=True)
class Kept:
    """What was there before the way back.

    ``path``: its recovery point, None where it is so damaged that none could be made, and ``damage`` says why.
    ``dropped``: what it has and the older database has not, in words.
    """

    path: str | None
    damage: str | None = None
    dropped: str | None = None


def put_back(
    deployment: Mapping[str, Any],
    left: Mapping[str, Any],
    timeout: float,
    record: Callable[[Mapping[str, Any]], None],
    progress: ProgressReport | None = None,
) -> Readiness:
    """Do what is ``left`` of an operation (journal.find_unfinished), and wait until the service is healthy.

    deployment: the fields of deployment.Deployment. ``left`` names the database where it is to be replaced. ``record``
    is told what is left once it is. ``timeout``: seconds within which the service must be healthy.
    Raises one of OPERATION_FAILURES.
    """
    if left["action"] == "replace":
        replace_database(deployment, left, progress)
        record({**left, "action": "start"})
    pin_served(deployment, left["serve"])
    return start_served(deployment, left["serve"].get("version"), timeout)


def stop_served(deployment: Mapping[str, Any]) -> None:
    """Stop the service, whatever its container is called now."""
    stop_service({"container": find_container(deployment["project"], deployment["service"])})


def keep_what_is_there(
    deployment: Mapping[str, Any],
    root: str,
    operation: str,
    older: str,
    collection_version: str,
    progress: ProgressReport | None = None,
) -> Kept:
    """Stop the service, make a recovery point of what it has written, and say what ``older``, a database, has not.

    Raises one of OPERATION_FAILURES.
    """
    stop_served(deployment)
    try:
        point = create_recovery_point(deployment, root, f"pre-{operation}", "offline", collection_version, progress)
    except SnapshotError as error:
        if error.reason not in DAMAGE:
            raise
        return Kept(None, damage=str(error))
    try:
        dropped = describe_changes(compare_databases(older, point.database).tables)
    except ChangesError as error:
        dropped = f"it cannot be said what, since {error}"
    return Kept(point.path, dropped=dropped)


def replace_database(
    deployment: Mapping[str, Any], left: Mapping[str, Any], progress: ProgressReport | None = None
) -> None:
    """Stop the service and put the database in the place of what is there, which is kept where ``left`` says so."""
    stop_served(deployment)
    restore_database(
        left["database"],
        deployment["database"],
        expected_sha256=left["sha256"],
        keep_previous=bool(left.get("keep_damaged")),
        progress=progress,
    )


def pin_served(deployment: Mapping[str, Any], serve: Mapping[str, Any]) -> None:
    """Have the project's files name the image that is to serve; nothing where its tag is not known.

    Without a digest the tag must name that very image on this host.
    """
    tag, digest, image_id = serve.get("tag"), serve.get("digest"), serve.get("image_id")
    if tag is None:
        return
    pinned = pin_image(ComposeProject.of(deployment), deployment["service"], tag, digest)
    if image_id is not None and digest is None:
        give_tag_back(pinned.image, image_id, serve.get("image_digest"))


def start_served(deployment: Mapping[str, Any], version: str | None, timeout: float) -> Readiness:
    """Start the service, whose image is pulled only where it is missing, and wait until it is healthy."""
    start_service(deployment, pull="missing")
    container = describe_container(deployment["project"], deployment["service"])
    make_known(container)
    return wait_until_ready(deployment["url"], version, timeout, name_of(container), ca_file=deployment["ca_file"])
