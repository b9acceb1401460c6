# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything about the Opstage of a host that an operation wants to know beforehand, looked at in one go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable

from .deployment import DiscoveryError, discover_deployment
from .deployment_lock import DeploymentLockError, find_holder
from .deployment_status import describe_status
from .docker_command import DockerError
from .journal import (
    JournalError,
    find_last_upgrade,
    find_unfinished,
    journal_path,
    journal_size,
    read_entries,
    state_folder,
)
from .recovery_point import RecoveryPoint, RecoveryPointError, find_newest
from .resumption import plan_resumption

DISCOVERY_ERRORS = (DiscoveryError, DockerError, JournalError, DeploymentLockError)
"""What `discover` raises."""

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Search:
    """What is looked for: arguments of deployment.discover_deployment. `root` is where all recovery points lie."""

    root: str
    project_dir: str | None = None
    service: str | None = None
    url: str | None = None
    ca_file: str | None = None
    require_data: bool = True


@dataclass(frozen=True)
class Discovery:
    """What was found: `fields` is what the module deployment_info returns, `journal_size` bytes of the journal then."""

    fields: dict[str, Any]
    journal_size: int

    @property
    def project(self) -> str:
        """Name of the Compose project."""
        return str(self.fields["deployment"]["project"])

    def is_outdated(self) -> bool:
        """Whether somebody recorded something since, so that it has to be looked at again. Raises JournalError."""
        return journal_size(journal_path(self.project)) != self.journal_size


def discover(search: Search, warn: Warn) -> Discovery:
    """Find the deployment and what is known of it; `warn` is told of recovery points that cannot be listed.

    Raises DISCOVERY_ERRORS.
    """
    deployment = discover_deployment(
        search.project_dir, search.service, search.url, search.require_data, ca_file=search.ca_file
    )
    size = journal_size(journal_path(deployment.project))
    entries = read_entries(journal_path(deployment.project))
    fields = deployment.as_dict()
    cut_off = find_unfinished(entries)
    unfinished = cut_off and plan_resumption(cut_off, fields)
    holder = find_holder(state_folder(deployment.project))
    newest = _find_point(search.root, deployment.project, warn)
    found = {
        "deployment": fields,
        "summary": describe_status(fields, newest, unfinished, holder, datetime.now(timezone.utc)),
        "newest_recovery_point": newest
        and {"path": newest.path, **{name: newest.manifest[name] for name in ("created", "reason")}},
        "lock": holder and {name: getattr(holder, name) for name in ("operation", "user", "host", "since", "seen")},
        "last_upgrade": find_last_upgrade(entries),
        "unfinished_operation": unfinished,
    }
    return Discovery(found, size)


def _find_point(root: str, project: str, warn: Warn) -> RecoveryPoint | None:
    """The newest recovery point; a folder that cannot be read keeps nobody from restoring what lies elsewhere."""
    try:
        return find_newest(root, project)
    except RecoveryPointError as error:
        warn(str(error))
        return None
