# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A copy of the database from Opstage itself, as an owner downloads it in the console."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any, Callable, Generator, Iterator, Mapping

from .deployment import DiscoveryError, locate_folder
from .docker_command import DockerError, inspect
from .opstage_session import Account, Download, OpstageSession, OpstageSessionError, logged_in
from .retention import remove_console_copy
from .retention_policy import RetentionError
from .sqlite_files import Deadline, Progress, ProgressReport
from .sqlite_snapshot import Snapshot, receive_snapshot

Blocks = Generator[bytes, None, None]

LONGEST_DOWNLOAD = 6 * 3600.0
"""Seconds after which a download is given up, however steadily it comes."""


@dataclass(frozen=True)
class ConsoleBackup:
    """Obtains a copy of the database over HTTP: a recovery_point.Obtain.

    deployment: the fields of deployment.Deployment; the host need not see its data. account: an owner's. `warn` is told
    what went wrong beside the copy.
    """

    deployment: Mapping[str, Any]
    account: Account
    warn: Callable[[str], None]

    def __call__(self, path: str, require_free: Callable[[int], None], progress: ProgressReport | None) -> Snapshot:
        """Put the copy to `path`; the session is over before it is verified.

        Raises OpstageSessionError, SnapshotError, what require_free raises.
        """
        with contextlib.closing(self._blocks(require_free, progress)) as blocks:
            return receive_snapshot(blocks, path, progress)

    def _blocks(self, require_free: Callable[[int], None], progress: ProgressReport | None) -> Blocks:
        login = logged_in(self.deployment["url"], self.account, self.warn, self.deployment["ca_file"])
        with login as session, session.requested_backup(Deadline(LONGEST_DOWNLOAD)) as download:
            try:
                require_free(download.size)
                yield from _reported(download, progress)
            finally:
                self._remove_other(session, download.name)

    def _remove_other(self, session: OpstageSession, name: str | None) -> None:
        """Remove the copy that the service made of this download for itself; nobody else does, and each is as large."""
        try:
            if name is None:
                raise RetentionError("The service does not say how it is called.")
            config = session.runtime().get("config")
            folder = config.get("backupDir") if isinstance(config, dict) else None
            if not isinstance(folder, str):
                raise RetentionError("Diagnostics does not say in which folder it is.")
            container = inspect("container", [self.deployment["container"]])[0]
            remove_console_copy(locate_folder(container, folder), name)
        except (DiscoveryError, DockerError, OpstageSessionError, RetentionError) as error:
            self.warn(
                f"The service keeps a copy of its own of this backup, {name or 'the newest'} in its folder of backups, "
                f"which was not removed: {error} Remove it there, or its disk fills up."
            )


def _reported(download: Download, progress: ProgressReport | None) -> Iterator[bytes]:
    """The blocks, with a report on each."""
    started, done = time.monotonic(), 0
    for block in download.blocks:
        yield block
        done += len(block)
        if progress is not None:
            progress(Progress("copying", done, download.size, time.monotonic() - started))
