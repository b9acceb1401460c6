# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lock of a deployment, as a playbook asks for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Callable, Mapping

from .deployment_lock import Process, as_process, require_free, take_lock
from .docker_command import DockerError
from .journal import state_folder
from .rehearsal_containers import remove_rehearsals

CLAIMANT = {
    "type": "dict",
    "options": {
        "user": {"type": "str", "default": "unknown"},
        "host": {"type": "str", "default": "unknown"},
        "process": {"type": "dict"},
        "token": {"type": "str", "no_log": False},
    },
}
"""The option `claimant` of a module: who asks, which its action plugin knows."""

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Claim:
    """Who wants the lock, and for what; arguments of deployment_lock.take_lock."""

    operation: str
    user: str
    host: str
    process: Process | None = None
    gone: str | None = None
    token: str | None = None

    @classmethod
    def of(cls, operation: str, claimant: Mapping[str, Any] | None, gone: str | None) -> Claim:
        """The claim of who is described as in CLAIMANT. Raises DeploymentLockError."""
        known = claimant or {}
        user, host = known.get("user", "unknown"), known.get("host", "unknown")
        return cls(operation, user, host, as_process(known.get("process")), gone, known.get("token"))


def take(project: str, claim: Claim, warn: Warn, check_mode: bool = False) -> dict[str, Any]:
    """Take the lock of a project's deployment; return its `token`, and from whom it was `taken_over`, None for nobody.

    What an operation that has ended left at work is ended, and `warn` is told. In check mode nothing is taken, but a
    lock that cannot be is an error all the same. Raises DeploymentLockError, LockHeldError, JournalError.
    """
    folder = state_folder(project)
    if check_mode:
        require_free(folder, claim.process, claim.gone)
        return {"token": "", "taken_over": None}
    holder, previous = take_lock(
        folder, claim.operation, claim.user, claim.host, claim.process, claim.gone, claim.token
    )
    if previous is not None:
        warn(f"The lock was taken over from an operation that has ended: {previous}.")
        try:
            remove_rehearsals(project)
        except DockerError as error:
            warn(f"What a rehearsal may have left running could not be removed: {error}")
    return {"token": holder.token, "taken_over": None if previous is None else dataclasses.asdict(previous)}
