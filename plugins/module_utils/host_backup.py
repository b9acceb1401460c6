# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The backup of a host's Opstage from its beginning to its end, all in one process on that host."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable, ContextManager, Iterator

from .collection import VERSION
from .console_backup import ConsoleBackup
from .deployment import Deployment, DiscoveryError, discover_deployment
from .journal import JournalError, find_unfinished, journal_path, journal_size, read_entries
from .operations_settings import Settings
from .opstage_session import Account
from .recovery_point import RecoveryPoint, RecoveryPointError
from .recovery_point_creation import create_recovery_point
from .retention import Retention, apply_retention
from .retention_policy import Policy, RetentionError
from .sqlite_files import ProgressReport

Hold = Callable[[str], ContextManager[object]]
"""Given the name of a project, what holds the lock of its deployment for a block."""

Warn = Callable[[str], None]


class UnfinishedOperationError(Exception):
    """An operation on the deployment was cut off, so nobody knows whether what is there is right."""


class PruningError(Exception):
    """The recovery point was made, and what the policy does not keep could not be removed."""


@dataclass(frozen=True)
class Backup:
    """What was made: the recovery point, and what the retention kept and removed, None without a policy."""

    point: RecoveryPoint
    retention: Retention | None


def find_deployment(settings: Settings, require_data: bool = True) -> Deployment:
    """The deployment that the settings mean. Raises DiscoveryError, DockerError, JournalError."""
    found = discover_deployment(
        settings.project_dir, settings.service, settings.url, require_data, ca_file=settings.ca_file
    )
    if settings.project not in (None, found.project):
        raise DiscoveryError(
            f"The Opstage on this host belongs to the project {found.project}, expected was {settings.project}. "
            "Name the folder of the one that is meant with --project-dir."
        )
    return found


def back_up(settings: Settings, reason: str, hold: Hold, warn: Warn, report: ProgressReport | None) -> Backup:
    """Make a recovery point of the running service, then remove those that the policy of the settings does not keep.

    Nobody else works on the deployment meanwhile, by `hold`. reason: one of manifest.REASONS. Raises
    UnfinishedOperationError, PruningError, RetentionError for what is no policy, and what finding the deployment, its
    lock and the recovery point raise.
    """
    policy = settings.policy
    with _locked(settings, hold) as deployment:
        fields = deployment.as_dict()
        way = _way(settings, fields, warn)
        point = create_recovery_point(
            fields, settings.root, reason, settings.method, VERSION, report, settings.recipients, way
        )
        try:
            return Backup(point, None if policy is None else _retention(settings, policy, deployment))
        except (RetentionError, RecoveryPointError, JournalError, OSError) as error:
            raise PruningError(
                f"The recovery point {point.path} was made, but not all was removed that the policy does not keep: "
                f"{error}"
            ) from error


def plan_backup(settings: Settings, hold: Hold) -> Retention | None:
    """What would be removed, of the recovery points that are there; nothing is made and nothing removed.

    Raises what back_up does, of that which can be known beforehand.
    """
    policy = settings.policy
    with _locked(settings, hold) as deployment:
        return None if policy is None else _retention(settings, policy, deployment, check_mode=True)


@contextlib.contextmanager
def _locked(settings: Settings, hold: Hold) -> Iterator[Deployment]:
    """The deployment, on which nobody else works meanwhile."""
    reads_data = settings.method != "api"
    deployment = find_deployment(settings, reads_data)
    journal = journal_path(deployment.project)
    looked_at = journal_size(journal)
    with hold(deployment.project):
        # Another operation may have ended between the two.
        if journal_size(journal) != looked_at:
            deployment = find_deployment(settings, reads_data)
        unfinished = find_unfinished(read_entries(journal))
        if unfinished is not None:
            raise UnfinishedOperationError(
                f"The {unfinished['operation']} of {deployment.project} that began at {unfinished['time']} was cut "
                "off: no recovery point is made of what it left. Run any playbook, which brings that to its end first."
            )
        yield deployment


def _way(settings: Settings, deployment: dict[str, Any], warn: Warn) -> ConsoleBackup | None:
    """How the copy is obtained, None for the usual way."""
    if settings.method != "api":
        return None
    return ConsoleBackup(deployment, Account(settings.username or "", settings.password or ""), warn)


def _retention(settings: Settings, policy: Policy, deployment: Deployment, check_mode: bool = False) -> Retention:
    """Remove what the policy does not keep, or in check mode only say what that is."""
    seen = settings.prune_console_copies and deployment.data_dir
    copies = os.path.join(deployment.data_dir, "backups") if seen else None
    now = datetime.now(timezone.utc)
    return apply_retention(deployment.project, settings.root, policy, now, console_copies=copies, check_mode=check_mode)
