# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Stop and start a service by Docker Compose, where the seconds between the two count."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Mapping, Sequence

from .docker_command import PULL_TIMEOUT, DockerError, find_image_id, inspect, run_docker
from .lost_port import free_lost_port

STOP_TIMEOUT = 120.0
"""Seconds that Docker may take to stop the container, which it kills after the grace period of the project."""

START_TIMEOUT = 300.0
"""Seconds that Compose may take to create and start the container, whose image must be on the host."""

_UNFINISHED = re.compile(r'The container name "/([0-9a-f]{12}_[^"]+)" is already in use')


def stop_service(deployment: Mapping[str, Any]) -> None:
    """Stop the container of `deployment` (the fields of deployment.Deployment). Raises DockerError."""
    run_docker(["stop", deployment["container"]], STOP_TIMEOUT)


def start_service(deployment: Mapping[str, Any], overrides: Sequence[str] = (), pull: str = "never") -> None:
    """Create the container anew where the project's files ask for another one, and start it. Raises DockerError.

    `overrides` are Compose files that go after the project's own. `pull`: `never`, or `missing` for an image that is
    not on the host. Nothing is built, and no other service is touched. Docker itself is started again where it keeps
    the port for a container that is gone and nothing else runs. What is left where Compose was cut off as it replaced
    the container is removed.
    """
    options = ["--detach", "--no-deps", "--no-build", "--pull", pull]
    command = [*_project(deployment, overrides), "up", *options, deployment["service"]]
    try:
        run_docker(command, START_TIMEOUT)
    except DockerError as error:
        if not (free_lost_port(error) or _remove_unfinished_container(error)):
            raise
        run_docker(command, START_TIMEOUT)


def pull_image(deployment: Mapping[str, Any], override: str, image: str) -> None:
    """Pull `image`, which the Compose file `override` gives the service; unless its very digest is here already.

    Raises DockerError.
    """
    if "@" not in image or find_image_id(image) is None:
        run_docker([*_project(deployment, [override]), "pull", "--quiet", deployment["service"]], PULL_TIMEOUT)


def _remove_unfinished_container(error: DockerError) -> bool:
    """Remove the container whose name is in the way of a start that failed with ``error``; False where none is.

    Compose makes the new container under a name of its own, removes the old one, and then renames. Cut off in between,
    it removes the new one at the next start, and at the same moment makes another of that name.
    """
    unfinished = _UNFINISHED.search(str(error))
    if unfinished is None:
        return False
    with contextlib.suppress(DockerError):
        # Gone already, or it runs and stays: the next start says so.
        run_docker(["rm", unfinished[1]])
    return True


def has_served(container: str) -> bool:
    """Whether a client may have reached the container: it has a network and was started. Raises DockerError."""
    found = inspect("container", [container])[0]
    return found["HostConfig"].get("NetworkMode") != "none" and not found["State"]["StartedAt"].startswith("0001-")


def _project(deployment: Mapping[str, Any], overrides: Sequence[str] = ()) -> list[str]:
    """The beginning of the command, as docker_compose_v2 of community.docker gives it."""
    arguments = ["compose", "--ansi", "never", "--progress", "plain"]
    arguments += ["--project-directory", deployment["project_dir"], "--project-name", deployment["project"]]
    for path in deployment["environment_files"]:
        arguments += ["--env-file", path]
    for path in [*deployment["config_files"], *overrides]:
        arguments += ["--file", path]
    return arguments
