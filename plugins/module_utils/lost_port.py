# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A port that Docker keeps for a container which is gone.

Where the host loses its power just as a container starts, Docker knows after the next start that the port is given
away and no more to whom, and refuses it to everybody until it is started once again
(https://github.com/moby/libnetwork/issues/1790).
"""

from __future__ import annotations

import re

from .command import CommandTimeoutError, run_command
from .docker_command import DockerError, run_docker

RESTART_TIMEOUT = 120.0
"""Seconds that the Docker Engine may take to start again."""

_REFUSED = re.compile(r"Bind for \S*:(\d+) failed: port is already allocated")
_RESTART = ["systemctl", "restart", "docker.service"]


def free_lost_port(error: DockerError) -> bool:
    """Have Docker forget the port for which a start failed with ``error``; False where it did not fail so.

    No container may be running: Docker is started again for it. Raises DockerError where one does, or that fails.
    """
    refused = _REFUSED.search(str(error))
    if refused is None:
        return False
    port, restart = refused[1], " ".join(_RESTART)
    running = [line.partition(" ") for line in run_docker(["ps", "--format", "{{.Names}} {{.Ports}}"]).splitlines()]
    holders = [name for name, _space, ports in running if f":{port}->" in ports]
    if holders:
        raise DockerError(f"{error} The container {holders[0]} has the port {port}: stop it.") from error
    if running:
        raise DockerError(
            f"{error} No container has the port {port}: Docker lost the one that had it when this host went down. "
            f"`{restart}` frees the port; it also ends and starts what else runs here: "
            f"{', '.join(name for name, _space, _ports in running)}. Run it when that may be, then the playbook again."
        ) from error
    try:
        ended = run_command(_RESTART, RESTART_TIMEOUT, merge_errors=True)
    except (OSError, CommandTimeoutError) as second:
        raise DockerError(f"{error} `{restart}` would free the port {port}, but: {second}") from error
    if ended.status != 0:
        words = ended.stdout.decode(errors="replace").strip()
        raise DockerError(f"{error} `{restart}` would free the port {port}, but: {words}") from error
    return True
