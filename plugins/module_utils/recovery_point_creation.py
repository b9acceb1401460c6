# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How a recovery point is made, verified and encrypted before it gets its name; and decrypted again."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from .durable_files import make_private_folder, sync_folder, write_new_file
from .encryption import (
    ENCRYPTED_SUFFIX,
    EncryptedFile,
    EncryptionError,
    decrypt_file,
    encrypt_file,
    require_age,
    require_recipients,
)
from .manifest import MANIFEST_VERSION, TIME_FORMAT, ManifestError, format_manifest
from .project_files import copy_project_files
from .recovery_point import (
    DATABASE_NAME,
    MANIFEST_NAME,
    PARTIAL_PREFIX,
    PROJECT_FOLDER,
    RecoveryPoint,
    RecoveryPointError,
    held_for_writing,
    largest_copy,
    project_root,
    remove_partial_folders,
    require_free,
    stored_name,
)
from .sqlite_contents import Contents, ContentsError, read_contents
from .sqlite_files import ProgressReport, utc_stamp
from .sqlite_snapshot import Snapshot, create_snapshot

_VERIFY_LEVEL = "full"

USERS_IN_IMAGE = {
    "access": {"uid": 100, "gid": 101, "mode": "0644"},
    "folder_access": {"uid": 100, "gid": 101, "mode": "0755"},
}
"""Who may use a database and its folder, where the host cannot see them: as Opstage itself makes them."""

Obtain = Callable[[str, Callable[[int], None], Optional[ProgressReport]], Snapshot]
"""How a copy of the database is obtained: put to a path, verified and self-contained. It calls what raises
RecoveryPointError unless so many bytes fit there, before it writes them, and now and then the report on progress."""


def create_recovery_point(
    deployment: Mapping[str, Any],
    root: str,
    reason: str,
    method: str,
    collection_version: str,
    progress: ProgressReport | None = None,
    recipients: Sequence[str] = (),
    obtain: Obtain | None = None,
) -> RecoveryPoint:
    """Copy the database and the project's files of `deployment` into a new folder below `root`.

    deployment: the fields of deployment.Deployment. method: one of manifest.METHODS, as it is recorded; for `api`,
    `obtain` is to be given, otherwise the database is read on this host. The folder gets its name last, after
    everything in it is verified and on disk; on any failure nothing is left of it. `progress` is called now and then.
    `recipients` are public keys: once verified, the files are encrypted for them.
    Raises RecoveryPointError, SnapshotError, PrivateFolderError, OSError, and what `obtain` raises.
    """
    if recipients:
        _require_encryption(recipients)
    began = time.monotonic()
    created = datetime.now(timezone.utc).strftime(TIME_FORMAT)
    parent = project_root(root, deployment["project"])
    make_private_folder(parent)
    with held_for_writing(parent):
        remove_partial_folders(parent)
        identifier = f"{utc_stamp()}-{reason}"
        with named_last(parent, identifier) as folder:
            copy = os.path.join(folder, DATABASE_NAME)
            copies = 2 if recipients else 1
            snapshot = (obtain or _reader(deployment["database"]))(
                copy, lambda size: require_free(parent, size * copies), progress
            )
            contents = read_contents(copy)
            files = copy_project_files(deployment, os.path.join(folder, PROJECT_FOLDER))
            users = users_of_database(deployment["database"])
            manifest = describe_recovery_point(
                deployment, identifier, created, reason, method, snapshot, contents, files, users, collection_version
            )
            if recipients:
                manifest["encryption"] = _encrypt(folder, files, recipients)
            manifest["duration_seconds"] = round(time.monotonic() - began, 3)
            write_new_file(os.path.join(folder, MANIFEST_NAME), format_manifest(manifest))
    return RecoveryPoint(os.path.join(parent, identifier), manifest)


@contextmanager
def named_last(parent: str, identifier: str) -> Iterator[str]:
    """Give a new folder, which gets its name at the end of the context, or is gone where that comes by an error."""
    partial = present = os.path.join(parent, PARTIAL_PREFIX + identifier)
    os.mkdir(partial, 0o700)
    try:
        yield partial
        sync_folder(partial)
        final = os.path.join(parent, identifier)
        os.rename(partial, final)
        present = final
        sync_folder(parent)
    except BaseException as error:
        shutil.rmtree(present, ignore_errors=True)
        if isinstance(error, (ContentsError, EncryptionError)):
            raise RecoveryPointError(str(error)) from error
        if isinstance(error, ManifestError):
            raise RecoveryPointError(f"{MANIFEST_NAME} {error}, from the deployment that was given.") from error
        raise


def _reader(database: str) -> Obtain:
    """What reads the database on this host. Raises RecoveryPointError where that cannot be seen."""
    if not database:
        raise RecoveryPointError(
            "This host cannot see the database. Have the service make the copy itself: opstage_backup_method: api."
        )

    def read(path: str, require_free: Callable[[int], None], progress: ProgressReport | None) -> Snapshot:
        require_free(largest_copy(database))
        return create_snapshot(database, path, verify=_VERIFY_LEVEL, progress=progress)

    return read


def _require_encryption(recipients: Sequence[str]) -> None:
    """Raise RecoveryPointError when it is known beforehand that nothing can be encrypted for `recipients`."""
    try:
        require_age()
        require_recipients(recipients)
    except EncryptionError as error:
        raise RecoveryPointError(str(error)) from error


def _encrypt(folder: str, files: list[dict[str, str]], recipients: Sequence[str]) -> dict[str, Any]:
    """Put encrypted files in the place of those in `folder`; return what the manifest says of it."""
    for file in files:
        _encrypt_in_place(os.path.join(folder, PROJECT_FOLDER, file["name"]), recipients)
    sync_folder(os.path.join(folder, PROJECT_FOLDER))
    encrypted = _encrypt_in_place(os.path.join(folder, DATABASE_NAME), recipients)
    return {"tool": "age", "size": encrypted.size, "sha256": encrypted.sha256}


def _encrypt_in_place(path: str, recipients: Sequence[str]) -> EncryptedFile:
    encrypted = encrypt_file(path, f"{path}{ENCRYPTED_SUFFIX}", recipients, None)
    os.unlink(path)
    return encrypted


def decrypt_recovery_point(point: RecoveryPoint, folder: str, identity: str) -> RecoveryPoint:
    """Decrypt a recovery point into the new folder `folder`, 0700, with the private key that is the text `identity`.

    On any failure nothing is left of `folder`. Raises RecoveryPointError, PrivateFolderError, OSError.
    """
    if not point.is_encrypted:
        raise RecoveryPointError(f"{point.path} is not encrypted: restore it without a private key.")
    make_private_folder(os.path.dirname(folder))
    os.mkdir(folder, 0o700)
    try:
        os.mkdir(os.path.join(folder, PROJECT_FOLDER), 0o700)
        names = [DATABASE_NAME] + [
            os.path.join(PROJECT_FOLDER, file["name"]) for file in point.manifest["project_files"]
        ]
        for name in names:
            source = os.path.join(point.path, stored_name(name, point.manifest))
            decrypt_file(source, os.path.join(folder, name), identity, None)
        manifest = {**point.manifest, "encryption": None}
        write_new_file(os.path.join(folder, MANIFEST_NAME), format_manifest(manifest))
        sync_folder(os.path.join(folder, PROJECT_FOLDER))
        sync_folder(folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, EncryptionError):
            raise RecoveryPointError(str(error)) from error
        raise
    return RecoveryPoint(folder, manifest)


def describe_recovery_point(
    deployment: Mapping[str, Any],
    identifier: str,
    created: str,
    reason: str,
    method: str,
    snapshot: Snapshot,
    contents: Contents,
    files: list[dict[str, str]],
    users: Mapping[str, Any],
    collection_version: str,
) -> dict[str, Any]:
    """Return what the manifest holds, without `duration_seconds`; `users` as users_of_database returns them."""
    return {
        "manifest_version": MANIFEST_VERSION,
        "id": identifier,
        "created": created,
        "reason": reason,
        "method": method,
        "host": socket.gethostname(),
        "project": deployment["project"],
        "project_dir": deployment["project_dir"],
        "service": deployment["service"],
        "image": {name: deployment[name] for name in ("image", "tag", "digest", "image_id")},
        "opstage": {name: deployment[name] for name in ("version", "version_source", "edition")},
        "database": {
            "name": DATABASE_NAME,
            "size": snapshot.size,
            "sha256": snapshot.sha256,
            "page_size": snapshot.page_size,
            "page_count": snapshot.page_count,
            "user_version": snapshot.user_version,
            "application_id": snapshot.application_id,
            "source_journal_mode": snapshot.source_journal_mode,
            "copied_by": snapshot.method,
            "verify": _VERIFY_LEVEL,
            "integrity": snapshot.integrity,
            "foreign_key_violations": snapshot.foreign_key_violations,
            "schema_sha256": contents.schema_sha256,
            "tables": contents.tables,
            **users,
        },
        "encryption": None,
        "project_files": files,
        "collection_version": collection_version,
    }


def users_of_database(database: str) -> dict[str, Any]:
    """Return who may use a database and its folder, as the manifest has it; USERS_IN_IMAGE where there is no path."""
    if not database:
        return USERS_IN_IMAGE
    return {"access": _access(database), "folder_access": _access(os.path.dirname(database))}


def _access(path: str) -> dict[str, Any]:
    """Who may use a file or folder."""
    status = os.stat(path)
    return {"uid": status.st_uid, "gid": status.st_gid, "mode": f"{stat.S_IMODE(status.st_mode):04o}"}
