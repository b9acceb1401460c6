# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Questions to the Docker Engine, asked through its command line."""

from __future__ import annotations

import json
import os
from typing import Any, Mapping, Sequence

from .command import CommandTimeoutError, run_command

DEFAULT_TIMEOUT = 60.0
"""Seconds that one docker command may take."""

PULL_TIMEOUT = 1800.0
"""Seconds that the pull of one image may take."""


class DockerError(Exception):
    """The docker command is missing, refused, or did not answer in time."""


def run_docker(
    arguments: Sequence[str], timeout: float = DEFAULT_TIMEOUT, environment: Mapping[str, str] | None = None
) -> str:
    """Return what `docker <arguments>` writes to standard output; `environment` is added to this process' own.

    Raises DockerError with the command's own words when it fails or takes longer than `timeout` seconds.
    """
    return _run(arguments, timeout, environment=environment)


def _run(
    arguments: Sequence[str],
    timeout: float,
    merge_errors: bool = False,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Do what run_docker says, with standard error in what is returned where `merge_errors` says so."""
    command = ["docker", *arguments]
    shown = " ".join(command)
    whole = None if environment is None else {**os.environ, **environment}
    try:
        completed = run_command(command, timeout, environment=whole, merge_errors=merge_errors)
    except FileNotFoundError as error:
        raise DockerError(
            "The docker command was not found on this host: install the Docker Engine's client."
        ) from error
    except OSError as error:
        raise DockerError(f"`{shown}` cannot be run: {error}") from error
    except CommandTimeoutError as error:
        raise DockerError(f"`{shown}` gave {error}: is the Docker Engine running?") from error
    if completed.status != 0:
        words = (completed.stderr or completed.stdout).decode(errors="replace").strip()
        raise DockerError(f"`{shown}` failed with exit code {completed.status}: {words}")
    return completed.stdout.decode(errors="replace")


def inspect(kind: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what Docker knows of each of `names`; `kind` is `container`, `image` or `volume`."""
    if not names:
        return []
    documents: list[dict[str, Any]] = json.loads(run_docker([kind, "inspect", *names]))
    return documents


def give_tag_back(reference: str, image_id: str, digest: str | None, check: bool = False) -> bool:
    """Have `reference`, a name with a tag, name the image `image_id` on this host; return whether it did not before.

    A tag moves when somebody pulls another image under it. Where the image is not on the host, it is pulled by its
    `digest` in the repository of `reference`. `check` only says whether. Raises DockerError.
    """
    if find_image_id(reference) == image_id:
        return False
    if check:
        return True
    if find_image_id(image_id) is None:
        if digest is None:
            raise DockerError(
                f"{reference} named the image {image_id}, which is not on this host any more, and no registry is known "
                "to have it."
            )
        run_docker(["pull", "--quiet", f"{reference.rpartition(':')[0]}@{digest}"], PULL_TIMEOUT)
    run_docker(["tag", image_id, reference])
    return True


def find_image_id(name: str) -> str | None:
    """Return the id of the image that has this name or id here; None where there is none."""
    try:
        return str(inspect("image", [name])[0]["Id"])
    except DockerError:
        return None


def container_logs(container: str, lines: int) -> list[str]:
    """Return the last `lines` lines that the container wrote, standard output and error together.

    They go with the report of a failure, which a second one must not replace: where Docker does not give them, the
    only line says why.
    """
    try:
        return _run(["logs", "--tail", str(lines), container], DEFAULT_TIMEOUT, merge_errors=True).splitlines()
    except DockerError as error:
        return [f"The logs are missing: {error}"]
