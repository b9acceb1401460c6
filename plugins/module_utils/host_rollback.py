# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Undo the last upgrade on its host, without a controller: by hand, or when nobody has confirmed it in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

from .collection import VERSION
from .deployment import Deployment, DiscoveryError
from .journal import find_last_upgrade, find_unfinished, is_confirmed, journal_path, read_entries
from .operation_resumption import Resumption, resume_operation
from .recovery_point import RecoveryPointError
from .restore_source import RestoreSource, find_restore_source
from .resumption import plan_resumption
from .sqlite_files import ProgressReport
from .upgrade_rollback import Rollback, RolledBack, roll_back


class NothingToUndoError(Exception):
    """There is no upgrade to undo, or not the one that is meant; nothing was changed."""


@dataclass(frozen=True)
class HostRollback:
    """A rollback on the host, whose lock is held with the token ``lock``.

    ``discover`` finds the deployment. ``root``: where recovery points lie. ``run``: of the only upgrade that may be
    undone, None for whichever was the last. ``timeout``: seconds within which the service must be healthy.
    """

    discover: Callable[[], Deployment]
    root: str
    lock: str
    timeout: float
    run: str | None = None
    progress: ProgressReport | None = None


@dataclass(frozen=True)
class Undone:
    """The ``version`` that serves; ``rolled_back`` is None where an upgrade was cut off, and its end undid it."""

    version: str
    rolled_back: RolledBack | None


def undo_upgrade(wanted: HostRollback) -> Undone:
    """Undo the last upgrade; one that was cut off is brought to its end first, which may have undone it.

    Raises NothingToUndoError, RecoveryPointError, RollbackError, and what resume_operation and ``discover`` raise.
    """
    deployment = wanted.discover()
    entries = read_entries(journal_path(deployment.project))
    if wanted.run is not None and is_confirmed(entries, wanted.run):
        raise NothingToUndoError("The upgrade was confirmed.")
    cut_off = find_unfinished(entries)
    if cut_off is not None:
        resumed = _resume(wanted, deployment, cut_off)
        if cut_off["operation"] == "upgrade" and resumed["outcome"] == "failed":
            return Undone(resumed["version"], None)
        deployment = wanted.discover()
        entries = read_entries(journal_path(deployment.project))
    upgrade = find_last_upgrade(entries)
    if upgrade is None or wanted.run not in (None, upgrade["run"]):
        raise NothingToUndoError(
            f"There is nothing to roll back to: the journal of {deployment.project} on this host records "
            f"{'no upgrade' if wanted.run is None else 'no such upgrade'} that has not been undone."
        )
    done = _roll_back(
        wanted, deployment, find_restore_source(wanted.root, deployment.project, upgrade["recovery_point"])
    )
    return Undone(done.version, done)


def _resume(wanted: HostRollback, deployment: Deployment, cut_off: dict[str, Any]) -> dict[str, Any]:
    """Bring what was cut off to its end, unless only another upgrade may be touched."""
    if wanted.run not in (None, cut_off["run"]):
        raise NothingToUndoError(
            f"Another {cut_off['operation']} began since, at {cut_off['time']}, and was cut off. Run any playbook: it "
            "brings that to its end."
        )
    unfinished = plan_resumption(cut_off, deployment.as_dict())
    resumption = Resumption(
        deployment.as_dict(), unfinished, wanted.lock, wanted.root, wanted.timeout, VERSION, wanted.progress
    )
    resumed = resume_operation(resumption)
    return {"outcome": resumed.outcome, "version": resumed.version}


def _roll_back(wanted: HostRollback, deployment: Deployment, source: RestoreSource) -> RolledBack:
    image = source.image()
    if source.manifest is None or image is None or image["tag"] is None or source.version is None:
        raise RecoveryPointError(f"{source.path} does not say with which tag and version it was made.")
    if image["repository"] != deployment.repository:
        raise DiscoveryError(
            f"{source.path} was made with an image of {image['repository']}, here runs one of {deployment.repository}."
        )
    serve = {
        "version": source.version,
        "tag": image["tag"],
        "digest": image["digest"],
        "image_id": source.manifest["image"]["image_id"],
        "image_digest": source.manifest["image"]["digest"],
    }
    return roll_back(
        Rollback(
            deployment=deployment.as_dict(),
            point=source.path,
            database=source.database,
            sha256=source.sha256,
            serve=serve,
            lock=wanted.lock,
            root=wanted.root,
            timeout=wanted.timeout,
            collection_version=VERSION,
            progress=wanted.progress,
        )
    )
