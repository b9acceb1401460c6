# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Bring an operation that was cut off to its end, by what its entries in the journal say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

from .operation_record import OperationRecord
from .recovery_point import RecoveryPoint
from .recovery_point_at_stop import complete_recovery_point
from .sqlite_files import ProgressReport
from .way_back import keep_what_is_there, put_back

CAUSE = "It was cut off, and the next run ended it."


@dataclass(frozen=True)
class Resumption:
    """An operation to be ended.

    deployment: the fields of deployment.Deployment. ``unfinished``: as resumption.plan_resumption returns it. ``lock``
    is the token of whoever ends it, ``root`` where recovery points lie, ``timeout`` the seconds within which the
    service must be healthy.
    """

    deployment: Mapping[str, Any]
    unfinished: Mapping[str, Any]
    lock: str
    root: str
    timeout: float
    collection_version: str
    progress: ProgressReport | None = None


@dataclass(frozen=True)
class Resumed:
    """How it ended: ``outcome`` is `finished` or `failed`, in the ``version`` that serves now.

    ``kept``: folder of the recovery point of what clients had written meanwhile, None where they had not or it was
    damaged; ``dropped``: what that is, in words, None where it cannot be said.
    """

    outcome: str
    version: str
    kept: str | None
    dropped: str | None


def resume_operation(wanted: Resumption) -> Resumed:
    """End it, as far as it goes back or forward; can be called again after a failure.

    Raises one of OPERATION_FAILURES, and what was done is in the journal.
    """
    return _Run(wanted).run()


class _Run:
    """One resumption."""

    def __init__(self, wanted: Resumption) -> None:
        self._wanted = wanted
        unfinished = wanted.unfinished
        self._left: dict[str, Any] = dict(unfinished["left"])
        self._record = OperationRecord(
            wanted.deployment["project"],
            unfinished["operation"],
            unfinished["run"],
            wanted.lock,
            unfinished["details"],
        )
        self._ends: dict[str, Any] = {"cause": CAUSE}

    def run(self) -> Resumed:
        wanted, action = self._wanted, self._left["action"]
        if action == "replace" and self._left.get("complete"):
            point = self._complete()
            self._left.update(database=point.database, sha256=point.sha256)
        dropped = self._keep_what_was_written() if wanted.unfinished["copy_first"] else None
        readiness = put_back(
            wanted.deployment,
            self._left,
            wanted.timeout,
            lambda left: self._record.write("step", left),
            wanted.progress,
        )
        if action == "start" and self._left.get("complete"):
            self._complete()
        self._record.write(self._left["outcome"], **self._ends)
        return Resumed(self._left["outcome"], readiness.version, self._ends.get("present"), dropped)

    def _complete(self) -> RecoveryPoint:
        """Complete the recovery point that leads back, which the operation had begun."""
        wanted = self._wanted
        point = complete_recovery_point(self._left["complete"], wanted.collection_version, wanted.progress)
        self._ends["recovery_point"] = point.path
        return point

    def _keep_what_was_written(self) -> str | None:
        """Make a recovery point of what clients have written since; returns in words what that is.

        Of a database that is damaged the file itself is kept.
        """
        wanted = self._wanted
        kept = keep_what_is_there(
            wanted.deployment,
            wanted.root,
            wanted.unfinished["operation"],
            self._left["database"],
            wanted.collection_version,
            wanted.progress,
        )
        self._left["keep_damaged"] = self._left.get("keep_damaged") or kept.path is None
        self._ends["present"] = kept.path
        self._record.write("step", self._left, present=kept.path)
        return kept.dropped
