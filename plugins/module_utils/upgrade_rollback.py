# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Go back to a recovery point: its database, its image and its version, as the documented rollback does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

from .operation_record import OperationRecord
from .sqlite_files import DatabaseFileError, ProgressReport, Reason
from .way_back import OPERATION_FAILURES, Kept, keep_what_is_there, put_back, start_served

OPERATION = "rollback"


class RollbackError(Exception):
    """The rollback failed; ``left`` says what there is now:

    - ``nothing``: the service is as it was
    - ``later``: the next run of any playbook does what the journal says
    """

    def __init__(self, message: str, left: str, kept: str | None = None) -> None:
        super().__init__(message)
        self.left = left
        self.kept = kept


@dataclass(frozen=True)
class Rollback:
    """A rollback to be made.

    deployment: the fields of deployment.Deployment. ``point`` is the folder of the recovery point to go back to,
    which is verified, ``database`` and ``sha256`` its copy; ``serve`` the version, tag, digest, image_id and
    image_digest that it was made with. ``lock`` is the token of the deployment's lock, ``root`` where recovery points
    lie, ``timeout`` the seconds within which the service must be healthy.
    """

    deployment: Mapping[str, Any]
    point: str
    database: str
    sha256: str
    serve: Mapping[str, Any]
    lock: str
    root: str
    timeout: float
    collection_version: str
    details: Mapping[str, Any] = field(default_factory=dict)
    progress: ProgressReport | None = None


@dataclass(frozen=True)
class RolledBack:
    """The older version serves with the older data; ``kept`` is what was there before."""

    version: str
    kept: Kept


def roll_back(wanted: Rollback) -> RolledBack:
    """Stop the service, make a recovery point of what is there, put the older database and image in place, and verify.

    Raises RollbackError.
    """
    return _Run(wanted).run()


class _Run:
    """One rollback."""

    def __init__(self, wanted: Rollback) -> None:
        self._wanted = wanted
        deployment = wanted.deployment
        source = {name: deployment[name] for name in ("version", "tag", "url")}
        details = {"source": source, "target": dict(wanted.serve), "recovery_point": wanted.point, **wanted.details}
        self._record = OperationRecord(deployment["project"], OPERATION, wanted.lock, wanted.lock, details)
        self._kept: Kept | None = None

    def run(self) -> RolledBack:
        wanted = self._wanted
        try:
            start = {"action": "start", "serve": {"version": wanted.deployment["version"]}, "outcome": "failed"}
            self._record.write("started", start)
            kept = keep_what_is_there(
                wanted.deployment, wanted.root, OPERATION, wanted.database, wanted.collection_version, wanted.progress
            )
        except OPERATION_FAILURES as error:
            raise self._not_begun(error) from error
        self._kept = kept
        left = {
            "action": "replace",
            "database": wanted.database,
            "sha256": wanted.sha256,
            "keep_damaged": kept.damage is not None,
            "serve": dict(wanted.serve),
            "outcome": "finished",
        }
        try:
            self._record.write("step", left, present=kept.path)
            readiness = put_back(
                wanted.deployment,
                left,
                wanted.timeout,
                lambda rest: self._record.write("step", rest, present=kept.path),
                wanted.progress,
            )
            self._record.write("finished", present=kept.path)
        except OPERATION_FAILURES as error:
            if isinstance(error, DatabaseFileError) and error.reason is Reason.NO_SPACE:
                raise self._not_begun(error) from error
            raise RollbackError(str(error), "later", kept.path) from error
        return RolledBack(readiness.version, kept)

    def _not_begun(self, cause: BaseException) -> RollbackError:
        """Nothing was replaced: start again what ran, and record that."""
        wanted, deployment = self._wanted, self._wanted.deployment
        kept = self._kept.path if self._kept is not None else None
        try:
            if deployment["container_status"] == "running":
                start_served(deployment, deployment["version"], wanted.timeout)
            self._record.write("failed", cause=str(cause), present=kept)
        except OPERATION_FAILURES as second:
            return RollbackError(f"{cause} Then, when it was started again: {second}", "later", kept)
        return RollbackError(str(cause), "nothing", kept)
