# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Keep the image that a rollback needs from `docker image prune --all`, which removes what no container was made of."""

from __future__ import annotations

from .docker_command import run_docker

KEEPS = "capsule.opstage.keeps"
"""The label of a container that is never started; its value is the project."""


def keep_image(project: str, image_id: str) -> None:
    """Make a container of the image that is never started, in the place of the one that kept another for the project.

    What also removes containers that do not run, `docker system prune`, removes it too. Raises DockerError.
    """
    listed = run_docker(["ps", "--all", "--quiet", "--filter", f"label={KEEPS}={project}"]).split()
    if listed:
        run_docker(["rm", "--force", *listed])
    name = f"opstage-previous-{project}"
    run_docker(["create", "--name", name, "--label", f"{KEEPS}={project}", "--network", "none", image_id])
