# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""From the stop of one version until the next one serves: nothing here could be done before or after.

All of it is one process on the host, since the service is down for most of it, and each task of a playbook would add to
that. What is left to do is in the journal before each change, so that the next run ends it wherever this one is killed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Sequence

from .compose_image import ComposeProject, ProvenPin, prove_pin
from .compose_service import has_served, start_service, stop_service
from .deployment import DiscoveryError, describe_container, find_container, name_of
from .diagnostics import DiagnosticsError, require_version_in
from .docker_command import run_docker
from .network_namespace import make_known
from .operation_record import OperationRecord
from .opstage_session import Account
from .readiness import NotReadyError, Readiness, wait_until_ready
from .recovery_point import RecoveryPoint
from .recovery_point_at_stop import RecoveryPointAtStop, complete_recovery_point
from .sqlite_changes import Change
from .sqlite_files import ProgressReport
from .upgrade_checks import MigrationError, check_migrated
from .way_back import OPERATION_FAILURES, put_back

OPERATION = "upgrade"

REHEARSALS_ALLOWED = 3
"""How many times as long as on a copy of the data the target may take to become healthy."""

_FAILURES = (*OPERATION_FAILURES, DiagnosticsError, MigrationError)


class SwitchError(Exception):
    """The switch failed. `logs` has the last lines of the container, where it is to blame.

    ``point`` is the recovery point of every acknowledged write, where there is one; ``left`` says what there is now:

    - ``nothing``: nothing was changed
    - ``started``: the source serves again; its data was not touched
    - ``replaced``: the source serves again with the data of ``point``, what the target left is kept beside it
    - ``stay``: clients were let in and may have written, so the target version stays; to go back is the operator's word
    - ``later``: the next run of any playbook does what the journal says
    """

    def __init__(self, message: str, left: str, logs: Sequence[str] = (), point: RecoveryPoint | None = None) -> None:
        super().__init__(message)
        self.left = left
        self.logs = list(logs)
        self.point = point


@dataclass(frozen=True)
class Switch:
    """A switch to be made.

    deployment: the fields of deployment.Deployment. ``source`` and ``target`` say what serves before and after, as
    `serve` of a journal's entry does: version, tag, digest, and for the source image_id and image_digest. ``lock`` is
    the token of the deployment's lock, ``root`` where recovery points lie, ``isolation`` the Compose file that takes
    the service's networks away, ``details`` what the journal's entries say besides. ``timeout``: seconds within which
    the target must be healthy, each of the two times that it is started. ``rehearsal_seconds``: how long that took on a
    copy of the data, None where it was not tried; then what the migrations do to the data is looked at before clients
    are let in. ``drops`` are the tables of which they may drop rows. With an ``account``, Diagnostics must show the
    version as well.
    """

    deployment: Mapping[str, Any]
    source: Mapping[str, Any]
    target: Mapping[str, Any]
    lock: str
    root: str
    isolation: str
    timeout: float
    collection_version: str
    rehearsal_seconds: float | None = None
    drops: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    progress: ProgressReport | None = None
    account: Account | None = None


@dataclass(frozen=True)
class Switched:
    """The target serves.

    ``point`` leads back; ``downtime`` is seconds from the stop until clients were served. ``changes``: what the
    migrations, and clients since, changed in the data (sqlite_changes.Comparison).
    """

    point: RecoveryPoint
    downtime: float
    version: str
    changes: dict[str, Change | None]


def switch(wanted: Switch, publish_pin: Callable[[], None]) -> Switched:
    """Stop the service, have a recovery point of every acknowledged write, start the target version, and verify it.

    `publish_pin` makes the change that prove_target has proven.

    First where no client reaches it: its migrations run there, and what fails there loses no write. It is rolled back
    at once then, whether the controller is still there or not. Raises SwitchError.
    """
    return _Run(wanted, publish_pin).run()


class _Run:
    """One switch; ``_left`` is what is to be done when it fails now."""

    def __init__(self, wanted: Switch, publish_pin: Callable[[], None]) -> None:
        self._wanted = wanted
        self._publish_pin = publish_pin
        self._deployment = wanted.deployment
        self._folder = ""
        self._left = "nothing"
        self._lets_clients_in = False
        project = wanted.deployment["project"]
        self._record = OperationRecord(project, OPERATION, wanted.lock, wanted.lock, wanted.details)

    def run(self) -> Switched:
        try:
            readiness, downtime = self._switch()
            point = self._complete()
            self._record.write("finished", recovery_point=point.path, downtime_seconds=round(downtime, 3))
            self._left = "stay"
            return Switched(point, downtime, readiness.version, self._changes(point, judge=False))
        except _FAILURES as error:
            raise self._explained(error) from error

    def _switch(self) -> tuple[Readiness, float]:
        wanted = self._wanted
        self._give_tag()
        with RecoveryPointAtStop(self._deployment, wanted.root, f"pre-{OPERATION}", wanted.progress) as point:
            point.keep_project_files()
            self._record.write("started", self._start_again())
            self._left = "start"
            self._publish_pin()
            stopped = time.monotonic()
            stop_service(self._deployment)
            point.take()
            self._folder = point.folder
            self._record.write("step", self._roll_back({"complete": self._folder}))
            self._left = "replace"
        self._look_at_diagnostics(self._start([wanted.isolation]).version)
        if wanted.rehearsal_seconds is None:
            self._changes(self._complete(), judge=True)
        start = {"action": "start", "complete": self._folder, "serve": dict(wanted.target), "outcome": "finished"}
        self._record.write("step", start)
        self._lets_clients_in = True
        readiness = self._start([])
        self._left = "later"
        return readiness, time.monotonic() - stopped

    def _give_tag(self) -> None:
        """Have the target's tag name the image that was pulled by its digest: Docker prunes images without a tag."""
        repository, tag, digest = (
            self._deployment["repository"],
            self._wanted.target["tag"],
            self._wanted.target["digest"],
        )
        if digest is not None:
            run_docker(["tag", f"{repository}@{digest}", f"{repository}:{tag}"])

    def _start(self, overrides: Sequence[str]) -> Readiness:
        """Start the target version and wait until it is healthy; with overrides, where no client reaches it."""
        deployment, wanted = self._deployment, self._wanted
        start_service(deployment, overrides)
        container = describe_container(deployment["project"], deployment["service"])
        if not overrides:
            make_known(container)
        timeout = max(wanted.timeout, REHEARSALS_ALLOWED * (wanted.rehearsal_seconds or 0))
        version = wanted.target["version"]
        return wait_until_ready(
            deployment["url"], version, timeout, name_of(container), bool(overrides), deployment["ca_file"]
        )

    def _look_at_diagnostics(self, version: str) -> None:
        """See that people find the version there too; while no client reaches it, since that can still be undone."""
        if self._wanted.account is not None:
            container = find_container(self._deployment["project"], self._deployment["service"])
            require_version_in(container, self._wanted.account, version)

    def _complete(self) -> RecoveryPoint:
        return complete_recovery_point(self._folder, self._wanted.collection_version, self._wanted.progress)

    def _changes(self, point: RecoveryPoint, judge: bool) -> dict[str, Change | None]:
        """What is different since the stop, once the database of now is proven to be sound.

        Clients may delete what they like: only before they are let in is a row that is gone judged to be lost.
        """
        return check_migrated(point, self._deployment["database"], self._wanted.drops if judge else None)

    def _start_again(self) -> dict[str, Any]:
        """What is left to do as long as no data was touched."""
        return {"action": "start", "serve": dict(self._wanted.source), "outcome": "failed"}

    def _roll_back(self, left: Mapping[str, Any]) -> dict[str, Any]:
        """What is left to do to undo it; the database that the target leaves is kept, to see what went wrong."""
        serve = dict(self._wanted.source)
        return {**left, "action": "replace", "keep_damaged": True, "serve": serve, "outcome": "failed"}

    def _explained(self, error: BaseException) -> SwitchError:
        """The failure, once all that can be undone is undone."""
        logs = error.logs if isinstance(error, NotReadyError) else []
        if self._left not in ("start", "replace"):
            return SwitchError(str(error), self._left, logs)
        point = None
        try:
            left = self._start_again()
            if self._left == "replace":
                point = self._complete()
                if self._lets_clients_in and self._has_served():
                    self._record.write("finished", recovery_point=point.path, cause=str(error))
                    return SwitchError(str(error), "stay", logs, point)
                left = self._roll_back({"database": point.database, "sha256": point.sha256})
            said: dict[str, Any] = {} if point is None else {"recovery_point": point.path}
            self._record.write("step", left, **said)
            wanted = self._wanted
            put_back(
                self._deployment,
                left,
                wanted.timeout,
                lambda rest: self._record.write("step", rest, **said),
                wanted.progress,
            )
            self._record.write("failed", cause=str(error), container_logs=logs, **said)
        except _FAILURES as second:
            return SwitchError(f"{error} Then, on the way back: {second}", "later", logs, point)
        return SwitchError(str(error), "started" if point is None else "replaced", logs, point)

    def _has_served(self) -> bool:
        """Whether a client may have reached the container that is there now."""
        try:
            return has_served(find_container(self._deployment["project"], self._deployment["service"]))
        except DiscoveryError:
            return False


def prove_target(wanted: Switch) -> ProvenPin:
    """See how the project's files are made to name the target's image. Raises ComposeImageError."""
    deployment, target = wanted.deployment, wanted.target
    return prove_pin(ComposeProject.of(deployment), deployment["service"], target["tag"], target["digest"])
