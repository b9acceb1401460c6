# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The throw-away containers of rehearsals and drills: how they are started and known, and their end."""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from typing import Any, Iterator, Mapping, Sequence

from .docker_command import DockerError, run_docker


def rehearsal_label(project: str) -> str:
    """Return the label, `name=value`, of the containers in which something of `project` is tried."""
    return f"capsule.opstage.rehearsal={project}"


def remove_rehearsals(project: str) -> None:
    """Remove the containers of rehearsals and drills that were killed. Raises DockerError."""
    listed = run_docker(["ps", "--all", "--quiet", "--filter", f"label={rehearsal_label(project)}"]).split()
    if listed:
        run_docker(["rm", "--force", "--volumes", *listed])


@contextmanager
def isolated_container(
    project: str,
    purpose: str,
    options: Sequence[str],
    image: str,
    command: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Start a container without any network, and remove it at the end; gives its name, of `project` and `purpose`.

    Where the host runs out of memory, the kernel ends it before the service.
    options: of `docker run`. image: one that is on the host. command: in the place of the image's own. environment: for
    `docker run` itself. Raises DockerError, also where the container cannot be removed.
    """
    name = f"{project}-{purpose}-{secrets.token_hex(4)}"
    start = ["run", "--detach", "--pull", "never", "--restart", "no", "--network", "none", "--name", name]
    start += ["--label", rehearsal_label(project), "--oom-score-adj", "1000"]
    try:
        run_docker([*start, *options, image, *command], environment=environment)
        yield name
    except BaseException:
        with suppress(DockerError):
            _remove(name)
        raise
    _remove(name)


def _remove(name: str) -> None:
    run_docker(["rm", "--force", "--volumes", name])


def limits_of(present: Mapping[str, Any], default: Mapping[str, Any]) -> list[str]:
    """Options of `docker run` for the limits and the user of the container `present`, made from the image `default`.

    Both are as `docker inspect` describes them.
    """
    own, host = present["Config"], present["HostConfig"]
    options: list[str] = []
    if host.get("Memory"):
        options += ["--memory", f"{host['Memory']}b"]
    if own.get("User") and own["User"] != default["Config"].get("User"):
        options += ["--user", own["User"]]
    if host.get("ReadonlyRootfs"):
        options += ["--read-only"]
    for path in host.get("Tmpfs") or {}:
        options += ["--tmpfs", path]
    return options


def mount_of(folder: str, destination: str) -> list[str]:
    """Options of `docker run` that mount a folder of the host."""
    return ["--mount", f"type=bind,source={folder},destination={destination}"]
