# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Stop and start a service by Docker Compose, where the seconds between the two count."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from .docker_command import DockerError, inspect, run_docker
from .lost_port import free_lost_port

STOP_TIMEOUT = 120.0
"""Seconds that Docker may take to stop the container, which it kills after the grace period of the project."""

START_TIMEOUT = 300.0
"""Seconds that Compose may take to create and start the container, whose image must be on the host."""


def stop_service(deployment: Mapping[str, Any]) -> None:
    """Stop the container of `deployment` (the fields of deployment.Deployment). Raises DockerError."""
    run_docker(["stop", deployment["container"]], STOP_TIMEOUT)


def start_service(deployment: Mapping[str, Any], overrides: Sequence[str] = (), pull: str = "never") -> None:
    """Create the container anew where the project's files ask for another one, and start it. Raises DockerError.

    `overrides` are Compose files that go after the project's own. `pull`: `never`, or `missing` for an image that is
    not on the host. Nothing is built, and no other service is touched. Docker itself is started again where it keeps
    the port for a container that is gone and nothing else runs.
    """
    options = ["--detach", "--no-deps", "--no-build", "--pull", pull]
    command = [*_project(deployment, overrides), "up", *options, deployment["service"]]
    try:
        run_docker(command, START_TIMEOUT)
    except DockerError as error:
        if not free_lost_port(error):
            raise
        run_docker(command, START_TIMEOUT)


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
