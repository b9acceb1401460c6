# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The journal's entries of one operation, written as long as the deployment's lock is held for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

from .deployment_lock import renew_lock
from .journal import append_entry, journal_path, state_folder


@dataclass(frozen=True)
class OperationRecord:
    """Writes entries. ``lock``: the token with which the lock is held; ``run``: of the operation, which is another one
    where that was cut off. ``details``: what every entry says besides.
    """

    project: str
    operation: str
    run: str
    lock: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def write(self, status: str, left: Mapping[str, Any] | None = None, **details: Any) -> None:
        """Append one entry, on disk when this returns; ``left`` is what is to be done when nothing more is recorded.

        Raises DeploymentLockError where the lock is not held any more, JournalError.
        """
        renew_lock(state_folder(self.project), self.lock)
        said = {**self.details, **details, **({} if left is None else {"left": dict(left)})}
        append_entry(journal_path(self.project), self.operation, status, self.run, said)
