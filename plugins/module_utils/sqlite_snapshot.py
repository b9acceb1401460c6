# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take a consistent, verified copy of an SQLite database while others write to it.

Rules followed here, all from https://sqlite.org/backup.html, wal.html, howtocorrupt.html and measurements:
a stepped backup begins again at every foreign commit unless its connection holds a read transaction; a database
opened read-only is neither checkpointed nor relieved of its log; ``immutable`` ignores a log.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from typing import Iterable

from .sqlite_copy import Copied, copy_database, normalize, opened_source
from .sqlite_files import (
    VERIFY_LEVELS,
    DatabaseFileError,
    Deadline,
    ProgressReport,
    Reason,
    StagedFile,
    errors_raised_as,
    found_status,
    identity,
    logs_with_content,
    opened_plain_file,
    require_plain_file,
    require_unmoved,
    utc_stamp,
)
from .sqlite_hold import Hold
from .sqlite_holders import describe_holders, find_holders
from .sqlite_verify import DatabaseFacts, VerificationError, read_header, verify_database
from .write_back import WriteBack


class SnapshotError(DatabaseFileError):
    """No snapshot was made, and nothing was left where it would have been."""


@dataclass(frozen=True)
class Snapshot:
    """A published, self-contained copy of a database.

    ``size`` in bytes, ``elapsed`` in seconds. ``source_journal_mode`` is ``wal`` or ``delete`` (any rollback
    journal). ``integrity`` is ``ok`` or ``not checked``. ``foreign_key_violations``: see DatabaseFacts. ``method``:

    - ``raw``: byte by byte, under one read transaction from the first byte to the last
    - ``reflink``: the same, the file system sharing the blocks
    - ``raw-stepped``: rollback journal, byte by byte, writers having had their turn between the steps
    - ``api``: by SQLite's online backup interface, under one read transaction
    - ``api-stepped``: rollback journal, by that interface in steps
    - ``at-rest``: from a read-only file system on which SQLite cannot open it
    - ``received``: somebody else made it; then ``source_journal_mode`` is what its header said
    """

    dest: str
    size: int
    sha256: str
    page_size: int
    page_count: int
    source_journal_mode: str
    user_version: int
    application_id: int
    integrity: str
    method: str
    elapsed: float
    foreign_key_violations: int | None


def create_snapshot(
    source: str,
    dest: str,
    *,
    overwrite: bool = False,
    verify: str = "full",
    timeout: float | None = None,
    mode: int = 0o600,
    progress: ProgressReport | None = None,
) -> Snapshot:
    """Copy the live database ``source`` to the file ``dest``, or into the folder ``dest``.

    ``verify`` is one of VERIFY_LEVELS, ``timeout`` seconds for everything, ``mode`` the copy's permissions;
    ``progress`` is called now and then. The source's journal mode, log and data stay as they
    are. Raises SnapshotError; then nothing has the name ``dest`` that had it not before.
    """
    started = time.monotonic()
    deadline = Deadline(timeout)
    with errors_raised_as(SnapshotError, f"snapshot of {source} to {dest}"):
        final = plan_snapshot(source, dest, overwrite=overwrite, verify=verify)
        with StagedFile(os.path.dirname(final)) as staged, WriteBack(staged.descriptor) as write_back:
            with opened_source(source) as opened:
                copied = copy_database(opened, staged, deadline, progress, write_back)
            os.fchmod(staged.descriptor, mode)
            facts = prove_copy(copied, staged, source, verify, deadline, progress, write_back)
            deadline.check()
            final = _publish(staged, source, dest, final, overwrite)
    return _described(final, facts, copied.journal_mode, copied.method, started)


def receive_snapshot(blocks: Iterable[bytes], dest: str, progress: ProgressReport | None = None) -> Snapshot:
    """Write the bytes of a whole database, which somebody else has copied, to the new file ``dest``, and verify it.

    ``blocks`` are asked for one by one; ``progress`` is called now and then, once they have come. Raises SnapshotError,
    then there is no ``dest``, and what ``blocks`` raises.
    """
    started = time.monotonic()
    deadline = Deadline(None)
    final = os.path.abspath(dest)
    doing = errors_raised_as(SnapshotError, f"writing what was received to {dest}")
    with doing, StagedFile(os.path.dirname(final)) as staged, WriteBack(staged.descriptor) as write_back:
        _write(blocks, staged.descriptor, write_back)
        journal_mode = "wal" if read_header(staged.descriptor, "what was received").write_ahead_log else "delete"
        normalize(staged)
        facts = _proven(staged, deadline, progress, write_back)
        staged.publish(os.path.basename(final), False)
    return _described(final, facts, journal_mode, "received", started)


def _write(blocks: Iterable[bytes], descriptor: int, write_back: WriteBack) -> None:
    """Write the blocks to the open file, one behind the other."""
    written = 0
    for block in blocks:
        left = memoryview(block)
        while left:
            count = os.pwrite(descriptor, left, written)
            left, written = left[count:], written + count
        write_back.advance(written)


def _proven(
    staged: StagedFile, deadline: Deadline, progress: ProgressReport | None, write_back: WriteBack
) -> DatabaseFacts:
    """Verify the staged file by itself, and bring it to the disk."""
    try:
        facts = verify_database(staged.path, "full", deadline, progress, write_back)
    except VerificationError as error:
        if error.reason is not Reason.DAMAGED_SOURCE:
            raise
        raise DatabaseFileError(Reason.DAMAGED_COPY, f"it is damaged, try again: {error}") from error
    if not facts.tables:
        raise DatabaseFileError(Reason.DAMAGED_COPY, "it has no table; look at the database that it was copied from")
    return facts


def _described(final: str, facts: DatabaseFacts, journal_mode: str, method: str, started: float) -> Snapshot:
    """What is known of a published copy; ``started`` is a time of the monotonic clock."""
    return Snapshot(
        dest=final,
        size=facts.size,
        sha256=facts.sha256,
        page_size=facts.page_size,
        page_count=facts.page_count,
        source_journal_mode=journal_mode,
        user_version=facts.user_version,
        application_id=facts.application_id,
        integrity=facts.integrity,
        method=method,
        elapsed=round(time.monotonic() - started, 3),
        foreign_key_violations=facts.foreign_key_violations,
    )


def plan_snapshot(source: str, dest: str, *, overwrite: bool, verify: str) -> str:
    """The path at which a snapshot would be published now. Raises DatabaseFileError when it is bound to fail."""
    if verify not in VERIFY_LEVELS:
        raise ValueError(f"verify must be one of {', '.join(VERIFY_LEVELS)}, not {verify}")
    with opened_plain_file(source) as descriptor:
        read_header(descriptor, source)
        source_identity = identity(os.fstat(descriptor))
    final = _final_path(source, dest)
    status = found_status(final)
    if status is not None:
        require_plain_file(final, status)
        if identity(status) == source_identity:
            raise DatabaseFileError(Reason.REFUSED, f"{final} is the source itself; choose another destination")
        _require_replaceable(final, overwrite)
    logs = logs_with_content(final)
    if logs:
        raise DatabaseFileError(
            Reason.REFUSED,
            f"{', '.join(logs)} belongs to another database and would be replayed into the copy; move it away first",
        )
    return final


def _require_replaceable(final: str, overwrite: bool) -> None:
    if not overwrite:
        raise DatabaseFileError(Reason.EXISTS, f"{final} exists; choose another name, or overwrite it")
    holders = find_holders(final)
    if holders:
        raise DatabaseFileError(
            Reason.IN_USE, f"{final} cannot be overwritten while in use: {describe_holders(holders)}; end them first"
        )


def _final_path(source: str, dest: str) -> str:
    """``dest`` itself, or a name with the time in it when ``dest`` is a folder."""
    status = found_status(dest)
    if status is not None and stat.S_ISDIR(status.st_mode):
        stem = os.path.splitext(os.path.basename(source))[0]
        return os.path.join(os.path.abspath(dest), f"{stem}-{utc_stamp()}.db")
    final = os.path.abspath(dest)
    folder = os.path.dirname(final)
    if not os.path.isdir(folder):
        raise DatabaseFileError(Reason.MISSING, f"there is no folder {folder} for the copy; create it first")
    return final


def _publish(staged: StagedFile, source: str, dest: str, final: str, overwrite: bool) -> str:
    """Name the staged file; in a folder, with a new time as long as somebody else takes the name first."""
    while True:
        try:
            staged.publish(os.path.basename(final), overwrite)
            require_unmoved(final, staged.descriptor)
            return final
        except FileExistsError:
            following = _final_path(source, dest)
            if following == final:
                raise
            final = following


def prove_copy(
    copied: Copied,
    staged: StagedFile,
    source: str,
    level: str,
    deadline: Deadline,
    progress: ProgressReport | None,
    write_back: WriteBack,
) -> DatabaseFacts:
    """Verify the staged copy by itself and against the source, and bring it to the disk."""
    try:
        facts = verify_database(staged.path, level, deadline, progress, write_back)
    except VerificationError as error:
        if error.reason is not Reason.DAMAGED_SOURCE:
            raise
        _blame_source(source, level, deadline)
        raise DatabaseFileError(
            Reason.DAMAGED_COPY, f"the copy is damaged and its source is not, so look at disk and memory: {error}"
        ) from error
    if copied.tables and not facts.tables:
        raise DatabaseFileError(
            Reason.DAMAGED_COPY, f"the copy has no table, the source has {copied.tables}; try again"
        )
    return facts


def _blame_source(path: str, level: str, deadline: Deadline) -> None:
    """Raise DatabaseFileError when the check that failed on the copy fails on the source as well."""
    check = "integrity_check" if level == "full" else "quick_check"
    with opened_source(path) as source, Hold(source.path, source.descriptor, source.folder, deadline) as hold:
        hold.begin()
        problems = hold.problems(check)
    if problems:
        raise DatabaseFileError(
            Reason.DAMAGED_SOURCE,
            f"{path} is damaged, and no copy of it was kept: {problems}; restore it from a "
            "verified copy, or take one for forensics with no verification",
        )
