# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a restore puts in place: a recovery point or a bare database, proven, and of a version that may come there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Callable, Mapping

from .image_reference import parse_image_reference
from .recovery_point import RecoveryPoint, RecoveryPointError, find_recovery_point, require_plain
from .recovery_point_verification import verify_recovery_point
from .semantic_version import Version, VersionError, parse_version
from .sqlite_contents import ContentsError, guess_version
from .sqlite_files import DatabaseFileError, ProgressReport, require_space
from .sqlite_verify import VerificationError, verify_database

WORKED_OUT, OPERATOR = ("tables", "operator")
"""What said the version of a database, besides those of a manifest's ``opstage.version_source``."""


@dataclass(frozen=True)
class RestoreSource:
    """One database that a restore can put in place.

    ``path`` is the folder of the recovery point or the bare file, ``database`` the file. ``version`` is that of the
    Opstage it belongs to, ``version_source`` what said it: ``api``, ``label`` or ``tag`` as in a manifest,
    ``operator``, or ``tables``, from which it was worked out; then it may be as old as ``oldest_version``.
    ``manifest`` is None for a bare file.
    """

    path: str
    database: str
    sha256: str
    version: str | None
    oldest_version: str | None
    version_source: str
    manifest: Mapping[str, Any] | None

    def image(self) -> dict[str, str | None] | None:
        """`repository`, `tag` and `digest` of the image as the project named it; None for a bare file."""
        if self.manifest is None:
            return None
        reference = parse_image_reference(self.manifest["image"]["image"])
        return {"repository": reference.repository, "tag": reference.tag, "digest": reference.digest}


def find_restore_source(
    root: str,
    project: str,
    wanted: str,
    version: str | None = None,
    warn: Callable[[str], None] | None = None,
    progress: ProgressReport | None = None,
) -> RestoreSource:
    """Find and prove what `wanted` names: `latest`, an id, or the absolute path of a recovery point or a database file.

    `version` is what the operator says that the database belongs to, where no manifest does. `warn` is told what to
    know about the choice; `progress` is called now and then. Raises RecoveryPointError.
    """
    if os.path.isabs(wanted) and os.path.isfile(wanted) and not os.path.islink(wanted):
        return _bare_database(wanted, version, warn, progress)
    point = find_recovery_point(root, project, wanted, warn)
    require_plain(point)
    found, source = _version_of(point, version)
    verify_recovery_point(point, progress)
    sha256 = point.manifest["database"]["sha256"]
    return RestoreSource(point.path, point.database, sha256, found, found, source, point.manifest)


def _version_of(point: RecoveryPoint, version: str | None) -> tuple[str | None, str]:
    """The version that the manifest names, or where it names none, the operator's, and what said it."""
    recorded = point.manifest["opstage"]["version"]
    if recorded is None:
        return version, OPERATOR
    if version not in (None, recorded):
        raise RecoveryPointError(
            f"{point.path} is from Opstage {recorded}, as its manifest says; found {version!r} as the version that was "
            "given for it. Leave that out, or choose another recovery point."
        )
    return recorded, point.manifest["opstage"]["version_source"]


def _bare_database(
    path: str, version: str | None, warn: Callable[[str], None] | None, progress: ProgressReport | None
) -> RestoreSource:
    try:
        facts = verify_database(path, "full", progress=progress)
        guess = guess_version(path)
    except (VerificationError, ContentsError) as error:
        raise RecoveryPointError(f"{path} cannot be restored: {error}") from error
    if guess.missing_tables:
        raise RecoveryPointError(f"{guess.explanation} Choose a copy of opstage.db.")
    if version is not None:
        return RestoreSource(path, path, facts.sha256, version, version, OPERATOR, None)
    if not guess.versions:
        raise RecoveryPointError(f"{guess.explanation} Say with opstage_recovery_point_version which one it is from.")
    if warn is not None:
        warn(f"{guess.explanation} It is taken for one of {guess.versions[-1]}, as nothing says more.")
    return RestoreSource(path, path, facts.sha256, guess.versions[-1], guess.versions[0], WORKED_OUT, None)


def require_same_or_newer(source: RestoreSource, version: str | None, acknowledged: str | None = None) -> None:
    """Raise RecoveryPointError when a database would come under an older Opstage than it is from.

    `version` is the Opstage that would open it: Opstage itself does not refuse a newer database, it serves on it.
    `acknowledged` is the version of the database, where the operator knows that it is newer and wants it.
    """
    found, here = _parsed(source, version)
    if found <= here or acknowledged == source.version:
        return
    if source.version_source == WORKED_OUT:
        raise RecoveryPointError(
            f"{source.path} may be from any Opstage from {source.oldest_version} to {found}, which have the same "
            f"tables; {here} would have to open it. Say with opstage_recovery_point_version which one it is from."
        )
    raise RecoveryPointError(
        f"The recovery point is from Opstage {found}, newer than {here}, which would have to open it. "
        f"Upgrade to {found} first, or choose an older recovery point."
    )


def require_room(source: RestoreSource, database: str) -> None:
    """Raise RecoveryPointError unless there is room for the copy beside `database`, which it is to replace."""
    try:
        require_space(os.path.dirname(database), os.stat(source.database).st_size)
    except (DatabaseFileError, OSError) as error:
        raise RecoveryPointError(f"{source.path} cannot be put in the place of {database}: {error}.") from error


def must_fit_schema(source: RestoreSource, version: str | None, acknowledged: str | None = None) -> bool:
    """Whether all tables and columns of the database must be known to the Opstage of `version`.

    Not where a manifest says that it is from an older one, whose migrations may drop some, and not where the operator
    has `acknowledged` its version. Raises RecoveryPointError where the versions cannot be compared.
    """
    found, here = _parsed(source, version)
    return not ((source.manifest is not None and found < here) or acknowledged == source.version)


def describe_migrations(source: RestoreSource, version: str) -> str | None:
    """Return what to warn of when a database comes under Opstage `version`.

    None where at most one minor lies between them: Opstage may not know the migrations of older ones any more. Raises
    VersionError.
    """
    point, target = parse_version(source.oldest_version or ""), parse_version(version)
    if point.major == target.major:
        minors = [f"{target.major}.{minor}" for minor in range(point.minor + 1, target.minor + 1)]
    else:
        minors = [f"every version up to {target.major}.{target.minor}"]
    if point.major == target.major and len(minors) <= 1:
        return None
    return (
        f"The recovery point is from Opstage {point}, {target} will open it: the migrations of {', '.join(minors)} run "
        "on it at the start, and may not know so old a database. Unless it becomes healthy, what was there is put back."
    )


def _parsed(source: RestoreSource, version: str | None) -> tuple[Version, Version]:
    try:
        return parse_version(source.version or ""), parse_version(version or "")
    except VersionError as error:
        raise RecoveryPointError(
            f"The versions cannot be compared: {source.path} is from {source.version!r}, "
            f"Opstage here is {version!r}. {error}"
        ) from error
