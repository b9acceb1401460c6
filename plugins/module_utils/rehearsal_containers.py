# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The containers in which upgrades are rehearsed: how they are known, and their end."""

from __future__ import annotations

from .docker_command import run_docker


def rehearsal_label(project: str) -> str:
    """Return the label, `name=value`, of the containers in which upgrades of `project` are rehearsed."""
    return f"capsule.opstage.rehearsal={project}"


def remove_rehearsals(project: str) -> None:
    """Remove the containers of rehearsals that were killed. Raises DockerError."""
    listed = run_docker(["ps", "--all", "--quiet", "--filter", f"label={rehearsal_label(project)}"]).split()
    if listed:
        run_docker(["rm", "--force", "--volumes", *listed])
