# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Retention: the removal of those recovery points that a policy does not keep."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import stat
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Iterable, Iterator, Mapping

from .durable_files import sync_folder
from .journal import find_last_upgrade, find_unfinished, journal_path, read_entries
from .recovery_point import (
    IDENTIFIER,
    REMOVED_PREFIX,
    FolderEntry,
    RecoveryPoint,
    examine_recovery_points,
    held_for_writing,
    project_root,
)
from .retention_policy import Candidate, Decision, Policy, RetentionError, plan_retention
from .sqlite_files import DatabaseFileError, Deadline, file_type, opened_plain_file, sha256_of
from .sqlite_verify import read_header, require_whole

_STAMP = "%Y-%m-%dT%H-%M-%S-%fZ"
_STAMP_LENGTH = len("2026-11-22T02-15-00-000000Z")
_CONSOLE_COPY = re.compile(r"opstage-([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}-[0-9]{3}Z)\.db")
_BLOCK_BYTES = 512
"""Unit of st_blocks (stat(2))."""


class RemovalError(RetentionError):
    """A removal was cut off on the way."""


@dataclass(frozen=True)
class Retention:
    """What was done, or would be: with recovery points, then with copies of the console, each the newest first.

    freed: bytes on the disk.
    """

    decisions: list[Decision]
    freed: int

    @property
    def kept(self) -> list[Decision]:
        """The decisions to keep."""
        return [decision for decision in self.decisions if decision.keep]

    @property
    def removed(self) -> list[Decision]:
        """The decisions to remove."""
        return [decision for decision in self.decisions if not decision.keep]

    @property
    def warnings(self) -> list[str]:
        """What is kept without being counted, and why, a sentence each."""
        return [
            f"{decision.id} is kept, but not counted: {', '.join(decision.reasons)}"
            for decision in self.kept
            if not decision.counted
        ]

    @property
    def diff(self) -> dict[str, str]:
        """What is there before and after, a line with the reasons for each."""
        return {"before": _lines(self.decisions), "after": _lines(self.kept)}


def described(decisions: Iterable[Decision]) -> list[dict[str, Any]]:
    """The decisions as modules and commands give them: an `id` with its `reasons`."""
    return [{"id": decision.id, "reasons": list(decision.reasons)} for decision in decisions]


def _lines(decisions: Iterable[Decision]) -> str:
    return "".join(f"{decision.id}: {', '.join(decision.reasons)}\n" for decision in decisions)


def apply_retention(
    project: str,
    root: str,
    policy: Policy,
    now: datetime,
    console_copies: str | None = None,
    verify: str = "full",
    check_mode: bool = False,
) -> Retention:
    """Remove those recovery points of `project` below `root` which `policy` does not keep; in check mode only say so.

    A recovery point counts as verified when it is whole, its manifest says that its database was checked, and, where
    `verify` is `full` and not `quick`, the database has the checksum that the manifest says. Checksums are taken of
    those that the rules rely on, when any would be removed. The one that a rollback of the last upgrade needs is
    protected, and those that an unfinished operation names.

    A recovery point disappears as a whole; a removal that was cut off is finished by the next. What is named otherwise
    than a recovery point is left alone. Nobody else writes below `root` meanwhile.

    console_copies: absolute path of the folder in which Opstage's own backup endpoint leaves copies, for the same
    policy by themselves. A copy counts as verified when its header is a database's and it has the size which that says.
    The container's user owns that folder: links are not followed, and only plain files with such a name are removed.

    Raises RetentionError, RemovalError when it could not go on half way, JournalError, RecoveryPointError, OSError.
    """
    parent = project_root(root, project)
    with contextlib.ExitStack() as held:
        points: list[Decision] = []
        leftovers: list[Decision] = []
        if _is_own_folder(parent):
            if not check_mode:
                held.enter_context(held_for_writing(parent))
            entries = examine_recovery_points(root, project)
            points = _plan_points(entries, _needed_points(project), policy, now, verify)
            leftovers = [
                Decision(entry.name, False, False, ("its removal was cut off",))
                for entry in entries
                if _is_leftover(entry)
            ]
        copies: list[Decision] = []
        folder = held.enter_context(_opened_without_links(console_copies)) if console_copies is not None else None
        if folder is not None:
            copies = plan_retention(_console_copies_in(folder), policy, now)
        whole = [os.path.join(parent, decision.id) for decision in points if not decision.keep]
        half = [os.path.join(parent, decision.id) for decision in leftovers]
        names = [decision.id for decision in copies if not decision.keep]
        freed = sum(_size_of_tree(path) for path in whole + half)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                freed += _size_of(os.lstat(name, dir_fd=folder))
        if not check_mode:
            _remove(parent, whole, half, folder, names)
    return Retention(points + leftovers + copies, freed)


def remove_console_copy(path: str, name: str) -> None:
    """Remove the one copy of that name which Opstage's own backup endpoint left in the folder at `path`.

    The rules are those of apply_retention: no link is followed, and only a plain file with such a name is removed.
    Raises RetentionError, also where there is none.
    """
    if _CONSOLE_COPY.fullmatch(name) is None:
        raise RetentionError(f"{name!r} is no name that Opstage gives its copies, so it is left alone.")
    try:
        with _opened_without_links(path) as folder:
            if folder is None:
                raise RetentionError(f"There is no folder {path}.")
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise RetentionError(f"{name} in {path} is {file_type(status)}, expected a file, so it is left alone.")
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)
    except OSError as error:
        raise RetentionError(f"{name} in {path} cannot be removed: {error.strerror}.") from error


def _is_own_folder(path: str) -> bool:
    """Return whether there is a folder at `path`; raises RetentionError where it is a link or somebody else's."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
        return True
    raise RetentionError(
        f"{path} must be a folder of user id {os.geteuid()} and no link; found {stat.filemode(status.st_mode)}, owner "
        f"{status.st_uid}. Name the folder above it as the root of the recovery points."
    )


def _plan_points(
    entries: list[FolderEntry], needed: Mapping[str, str], policy: Policy, now: datetime, verify: str
) -> list[Decision]:
    """Return what is to be done with each recovery point, the newest first; all that the rules rely on is sound."""
    points = {entry.name: entry.point for entry in entries if entry.point is not None}
    candidates = {
        entry.name: Candidate(entry.name, _time_of(entry), _flaw_of(entry), needed.get(entry.name))
        for entry in entries
        if entry.state in ("whole", "damaged", "newer")
    }
    unread = set(points) if verify == "full" else set()
    while True:
        decisions = plan_retention(candidates.values(), policy, now)
        relied_on = [decision.id for decision in decisions if decision.keep and decision.counted]
        doubtful = [identifier for identifier in relied_on if identifier in unread]
        if not doubtful or all(decision.keep for decision in decisions):
            return decisions
        for identifier in doubtful:
            unread.discard(identifier)
            flaw = _flaw_in_content(points[identifier])
            if flaw is not None:
                candidates[identifier] = dataclasses.replace(candidates[identifier], flaw=flaw)
                break


def _needed_points(project: str) -> dict[str, str]:
    """Return the ids of the recovery points that must stay, and why; raises JournalError.

    The journal has paths; an id is enough, since none is used twice.
    """
    entries = read_entries(journal_path(project))
    needed: dict[str, str] = {}
    unfinished = find_unfinished(entries)
    if unfinished is not None:
        for said in (*unfinished["details"].values(), *(unfinished["left"] or {}).values()):
            if isinstance(said, str):
                for path in (said, os.path.dirname(said)):
                    needed[os.path.basename(path)] = f"the unfinished {unfinished['operation']} names it"
    upgrade = find_last_upgrade(entries)
    if upgrade is not None and isinstance(upgrade.get("recovery_point"), str):
        needed[os.path.basename(upgrade["recovery_point"])] = "the last upgrade would roll back to it"
    return needed


def _time_of(entry: FolderEntry) -> datetime:
    """Return when a recovery point was made; by its name where its manifest cannot tell."""
    if entry.point is not None:
        return entry.point.created
    return _parse_stamp(entry.name[:_STAMP_LENGTH]) or datetime.min.replace(tzinfo=timezone.utc)


def _parse_stamp(text: str) -> datetime | None:
    """Return the time that a name holds, None where there is no such time."""
    try:
        return datetime.strptime(text, _STAMP).replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def _flaw_of(entry: FolderEntry) -> str | None:
    """Return why a recovery point is not verified, as far as that is seen without reading its database."""
    if entry.point is None:
        return entry.reason
    if not entry.point.is_verified:
        return "its manifest says that the database was not checked"
    return None


def _flaw_in_content(point: RecoveryPoint) -> str | None:
    """Return why the database of a recovery point is not what its manifest says, None when it is."""
    try:
        with opened_plain_file(point.database) as descriptor:
            found = sha256_of(descriptor, Deadline(None))
    except (DatabaseFileError, OSError) as error:
        return str(error)
    return None if found == point.sha256 else f"its database has SHA-256 {found}, its manifest says {point.sha256}"


def _is_leftover(entry: FolderEntry) -> bool:
    """Return whether this is a folder of a recovery point whose removal was cut off."""
    return (
        entry.state == "removed"
        and IDENTIFIER.fullmatch(entry.name[len(REMOVED_PREFIX) :]) is not None
        and stat.S_ISDIR(os.lstat(entry.path).st_mode)
    )


@contextlib.contextmanager
def _opened_without_links(path: str) -> Iterator[int | None]:
    """Give a descriptor of the folder at `path`, None where there is none; raises RetentionError where a link leads on.

    Any part of the path may lie in a folder in which the container's user can plant a link.
    """
    if not os.path.isabs(path):
        raise RetentionError(f"The folder of the console's copies is {path!r}; expected is an absolute path.")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.ExitStack() as opened:
        folder: int | None = None
        part = "/"
        try:
            for part in ["/", *filter(None, os.path.normpath(path).split("/"))]:
                folder = os.open(part, flags, dir_fd=folder)
                opened.callback(os.close, folder)
        except FileNotFoundError:
            folder = None
        except OSError as error:
            raise RetentionError(
                f"The folder of the console's copies, {path}, cannot be entered at {part!r}: {error.strerror}. "
                f"Expected is a folder and no link on the way; if {os.path.realpath(path)} is meant, name that."
            ) from error
        yield folder


def _console_copies_in(folder: int) -> Iterator[Candidate]:
    """Yield what has the name of a copy that the console's endpoint made."""
    for name in os.listdir(folder):
        match = _CONSOLE_COPY.fullmatch(name)
        time = _parse_stamp(match.group(1)) if match else None
        if time is not None:
            yield Candidate(name, time, _flaw_of_copy(name, folder))


def _flaw_of_copy(name: str, folder: int) -> str | None:
    """Return why the file `name` in the open folder is no whole database, None when it is one."""
    try:
        with opened_plain_file(name, folder) as descriptor:
            require_whole(read_header(descriptor, name), os.fstat(descriptor).st_size)
    except (DatabaseFileError, OSError) as error:
        return str(error)
    return None


def _size_of_tree(path: str) -> int:
    """Return the bytes on the disk that a folder takes up with all that is in it."""
    total = 0
    for folder, _folders, files in os.walk(path):
        total += _size_of(os.lstat(folder))
        total += sum(_size_of(os.lstat(os.path.join(folder, name))) for name in files)
    return total


def _size_of(status: os.stat_result) -> int:
    """Return the bytes on the disk that come free with this name of a file."""
    return 0 if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode) else status.st_blocks * _BLOCK_BYTES


def _remove(parent: str, whole: list[str], half: list[str], folder: int | None, names: list[str]) -> None:
    """Remove recovery points, what is left of others, and files in the open folder; raises RemovalError."""
    try:
        for path in half:
            shutil.rmtree(path)
        doomed = [os.path.join(parent, REMOVED_PREFIX + os.path.basename(path)) for path in whole]
        for path, hidden in zip(whole, doomed):
            os.rename(path, hidden)
        if doomed:
            sync_folder(parent)
        for path in doomed:
            shutil.rmtree(path)
        if doomed or half:
            sync_folder(parent)
        if folder is not None and names:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
            os.fsync(folder)
    except OSError as error:
        raise RemovalError(
            f"The removal was cut off: {error}. What the policy keeps is untouched. Mend that and run this again; it "
            "removes what is left."
        ) from error
