# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A recovery point of every acknowledged write, for which the service stands still only while the log's tail is copied.

Begun while the service runs, taken once it is stopped, completed when it serves again or is to be rolled back. In
between its folder, `.unfinished-<id>`, holds all that is needed to complete it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, Mapping

from .durable_files import make_private_folder, reserve_room, sync_folder, write_new_file
from .manifest import TIME_FORMAT, ManifestError, format_manifest
from .project_files import copy_project_files
from .recovery_point import (
    DATABASE_NAME,
    MANIFEST_NAME,
    PROJECT_FOLDER,
    UNFINISHED_PREFIX,
    RecoveryPoint,
    RecoveryPointError,
    held_for_writing,
    project_root,
    read_recovery_point,
    require_room,
    require_way_back,
)
from .recovery_point_creation import describe_recovery_point, users_of_database
from .sqlite_contents import ContentsError, read_contents
from .sqlite_files import ProgressReport, found_status, utc_stamp
from .sqlite_snapshot import create_snapshot
from .sqlite_tail import HeldCopy

_TAKEN_FOLDER = "taken"
_DESCRIPTION_NAME = "begun.json"
_RESERVE_NAME = "reserve"

_TAIL_RESERVE = 16 << 20
"""Bytes kept free for what is written at the stop, besides twice the log as it is when the copy is made."""


class RecoveryPointAtStop:
    """A recovery point that is begun with the context, while the service of `deployment` runs.

    deployment: the fields of deployment.Deployment. The point's folder is made below `root`, with `reason` in its name.
    Those which killed runs began are removed first: the caller knows that the journal names none of them.
    Room for what take() and complete_recovery_point write is reserved, so that it does not matter when a disk becomes
    full meanwhile. Unless take() has returned, nothing is left of it at the end of the context. It must be possible to
    put the copy back into the folder of the database. Raises RecoveryPointError, SnapshotError, PrivateFolderError,
    OSError.
    """

    def __init__(
        self, deployment: Mapping[str, Any], root: str, reason: str, progress: ProgressReport | None = None
    ) -> None:
        self._deployment = deployment
        self._progress = progress
        self._identifier = f"{utc_stamp()}-{reason}"
        self._reason = reason
        self._parent = project_root(root, deployment["project"])
        self.folder = os.path.join(self._parent, UNFINISHED_PREFIX + self._identifier)
        self._database = os.path.join(self.folder, _TAKEN_FOLDER, DATABASE_NAME)
        self._reserve = os.path.join(self.folder, _RESERVE_NAME)
        self._files: list[dict[str, str]] = []
        self._is_taken = False
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> RecoveryPointAtStop:
        make_private_folder(self._parent)
        with held_for_writing(self._parent):
            self._remove_abandoned()
            require_room(self._parent, self._deployment["database"], 2)
            os.mkdir(self.folder, 0o700)
        with contextlib.ExitStack() as opened:
            opened.callback(self._remove_unless_taken)
            os.mkdir(os.path.dirname(self._database), 0o700)
            self._copy = opened.enter_context(HeldCopy(self._deployment["database"], self._database, self._progress))
            self._require_way_back()
            reserve_room(self._reserve, self._size_of_copy() + self._tail_reserve())
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened.close()

    def _require_way_back(self) -> None:
        require_way_back(self._deployment["database"], self._size_of_copy())

    def _size_of_copy(self) -> int:
        return os.lstat(self._database).st_size

    def _tail_reserve(self) -> int:
        log = found_status(f"{self._deployment['database']}-wal")
        return _TAIL_RESERVE + (0 if log is None else 2 * log.st_size)

    def _remove_unless_taken(self) -> None:
        if not self._is_taken:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _remove_abandoned(self) -> None:
        for name in os.listdir(self._parent):
            if name.startswith(UNFINISHED_PREFIX):
                shutil.rmtree(os.path.join(self._parent, name))

    def keep_project_files(self) -> None:
        """Copy the project's files as they are now."""
        self._files = copy_project_files(self._deployment, os.path.join(self.folder, PROJECT_FOLDER))

    def take(self) -> None:
        """Have every acknowledged write, now that the service is stopped; what is in the folder is on the disk."""
        # The disks may have become full since. What is left of the reserve is for the copy that completes this.
        os.truncate(self._reserve, self._size_of_copy())
        if not self._copy.add_tail():
            os.unlink(self._database)
            create_snapshot(self._deployment["database"], self._database, verify="quick", progress=self._progress)
        self._require_way_back()
        description = {
            "created": datetime.now(timezone.utc).strftime(TIME_FORMAT),
            "deployment": dict(self._deployment),
            "reason": self._reason,
            "project_files": self._files,
            "users": users_of_database(self._deployment["database"]),
        }
        write_new_file(os.path.join(self.folder, _DESCRIPTION_NAME), json.dumps(description).encode())
        for folder in (os.path.dirname(self._database), self.folder, self._parent):
            sync_folder(folder)
        self._is_taken = True


def complete_recovery_point(
    folder: str, collection_version: str, progress: ProgressReport | None = None
) -> RecoveryPoint:
    """Make a recovery point of the `folder` of a RecoveryPointAtStop that was taken, and return it.

    What is in the folder stays until the point is whole, so this can be done again when it was cut off or failed; one
    that is complete already is returned. Raises RecoveryPointError, SnapshotError, OSError.
    """
    parent, name = os.path.split(folder)
    if not name.startswith(UNFINISHED_PREFIX):
        raise RecoveryPointError(f"{folder} is no recovery point that was begun: expected {UNFINISHED_PREFIX}<id>.")
    final = os.path.join(parent, name[len(UNFINISHED_PREFIX) :])
    if os.path.lexists(final):
        return read_recovery_point(final)
    description = os.path.join(folder, _DESCRIPTION_NAME)
    manifest = os.path.join(folder, MANIFEST_NAME)
    with held_for_writing(parent):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, _RESERVE_NAME))
        if os.path.lexists(description):
            content = _manifest(folder, description, os.path.basename(final), collection_version, progress)
            if os.path.lexists(manifest):
                os.unlink(manifest)
            write_new_file(manifest, content)
            sync_folder(folder)
            os.unlink(description)
        elif not os.path.lexists(manifest):
            raise RecoveryPointError(f"{folder} has neither {_DESCRIPTION_NAME} nor {MANIFEST_NAME}: it is not whole.")
        shutil.rmtree(os.path.join(folder, _TAKEN_FOLDER), ignore_errors=True)
        sync_folder(folder)
        os.rename(folder, final)
        sync_folder(parent)
    return read_recovery_point(final)


def _manifest(
    folder: str, description: str, identifier: str, collection_version: str, progress: ProgressReport | None
) -> bytes:
    """Copy log and copy into one self-contained file, verify it, and return what the manifest says."""
    began = time.monotonic()
    with open(description, encoding="utf-8") as stream:
        said = json.load(stream)
    database = os.path.join(folder, DATABASE_NAME)
    snapshot = create_snapshot(
        os.path.join(folder, _TAKEN_FOLDER, DATABASE_NAME), database, overwrite=True, progress=progress
    )
    try:
        described = describe_recovery_point(
            said["deployment"],
            identifier,
            said["created"],
            said["reason"],
            "offline",
            snapshot,
            read_contents(database),
            said["project_files"],
            said["users"],
            collection_version,
        )
        described["duration_seconds"] = round(time.monotonic() - began, 3)
        return format_manifest(described)
    except (ContentsError, ManifestError) as error:
        raise RecoveryPointError(f"{folder} cannot be described: {error}") from error
