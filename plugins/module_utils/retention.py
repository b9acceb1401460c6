# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Retention: which recovery points a policy keeps, for which reasons, and the removal of the others."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Iterable, Iterator, Mapping

from .durable_files import sync_folder
from .journal import find_last_upgrade, find_unfinished, journal_path, read_entries
from .recovery_point import (
    CLOCK_TOLERANCE,
    IDENTIFIER,
    REMOVED_PREFIX,
    FolderEntry,
    RecoveryPoint,
    examine_recovery_points,
    held_for_writing,
    project_root,
)
from .sqlite_files import DatabaseFileError, Deadline, file_type, opened_plain_file, sha256_of
from .sqlite_verify import read_header, require_whole

_PERIODS = {"hourly": "%Y-%m-%dT%H", "daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m", "yearly": "%Y"}
"""The rules that keep the newest point of a period in UTC, and how a period is written; weeks are those of ISO 8601."""
_UNLIMITED = -1
_STAMP = "%Y-%m-%dT%H-%M-%S-%fZ"
_STAMP_LENGTH = len("2026-11-22T02-15-00-000000Z")
_CONSOLE_COPY = re.compile(r"opstage-([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}-[0-9]{3}Z)\.db")
_BLOCK_BYTES = 512
"""Unit of st_blocks (stat(2))."""


class RetentionError(Exception):
    """A policy cannot be followed; nothing was removed."""


class RemovalError(RetentionError):
    """A removal was cut off on the way."""


@dataclass(frozen=True)
class Duration:
    """A span of calendar time as restic writes it: `1y2m3d4h` is a year, two months, three days and four hours."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    def __str__(self) -> str:
        parts = ((self.years, "y"), (self.months, "m"), (self.days, "d"), (self.hours, "h"))
        return "".join(f"{number}{unit}" for number, unit in parts if number)

    def before(self, moment: datetime) -> datetime:
        """Return the time that lies this span before `moment`; the earliest there is, where that is before year 1.

        As restic does: a day that the month has not is counted on into the next, so a month before 31 March is
        3 March, in a leap year 2 March.
        """
        month = moment.year * 12 + moment.month - 1 - self.years * 12 - self.months
        try:
            first = moment.replace(year=month // 12, month=month % 12 + 1, day=1)
            return first + timedelta(days=moment.day - 1 - self.days, hours=-self.hours)
        except (ValueError, OverflowError):
            return datetime.min.replace(tzinfo=timezone.utc)


def parse_duration(text: str) -> Duration | None:
    """Return the duration that `text` writes, None where it is of no length; raises RetentionError."""
    parts = re.findall(r"([0-9]+)([ymdh])", text)
    numbers = {unit: int(number) for number, unit in parts}
    if "".join(number + unit for number, unit in parts) != text or len(numbers) != len(parts):
        raise RetentionError(
            f"{text!r} is no span of time; expected are numbers of years, months, days and hours, each at most "
            "once, such as 7d, 12h or 1y2m3d4h. A week is 7d."
        )
    if not any(numbers.values()):
        return None
    return Duration(numbers.get("y", 0), numbers.get("m", 0), numbers.get("d", 0), numbers.get("h", 0))


@dataclass(frozen=True)
class Policy:
    """What is to be kept, in the words of `restic forget`: what any one rule keeps is kept.

    last: so many of the newest. hourly, daily, weekly, monthly, yearly: the newest of each of so many hours, days, ISO
    weeks, months, years in UTC which have any, from the newest on; while a rule has some left, the oldest of all is
    kept, too. within: all that are no older than so much before the newest. 0 is no rule, -1 no limit.
    Raises RetentionError, also for a policy without a rule: it would remove all.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Duration | None = None

    def __post_init__(self) -> None:
        for name, count in self.counts.items():
            if not isinstance(count, int) or isinstance(count, bool) or count < _UNLIMITED:
                raise RetentionError(
                    f"The policy's {name} is {count!r}; expected is how many to keep: 0 for no such rule, -1 for all."
                )
        if not str(self):
            raise RetentionError(
                "The policy is empty, it would remove all recovery points: give at least one of "
                f"{', '.join(self.counts)} (a number that is not 0) and within (a duration such as 7d)."
            )

    @property
    def counts(self) -> dict[str, int]:
        """The rules that count, by name."""
        return {name: getattr(self, name) for name in ("last", *_PERIODS)}

    def __str__(self) -> str:
        rules = [_written(name, count) for name, count in self.counts.items() if count]
        return ", ".join(rules + ([f"within {self.within}"] if self.within else []))


def _written(name: str, count: int) -> str:
    return f"{name} {'unlimited' if count == _UNLIMITED else count}"


def parse_policy(options: Mapping[str, Any]) -> Policy:
    """Return the policy that `options` write: names of Policy's fields, numbers, and the text of a duration.

    None stands for the default. Raises RetentionError.
    """
    given = {name: value for name, value in options.items() if value is not None}
    known = [field.name for field in dataclasses.fields(Policy)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise RetentionError(f"The policy has the unknown rule {unknown[0]!r}; the rules are {', '.join(known)}.")
    if "within" in given:
        given["within"] = parse_duration(str(given["within"]))
    return Policy(**given)


@dataclass(frozen=True)
class Candidate:
    """Something that may be kept or removed.

    time: in UTC. flaw: why it is not verified, None when it is. protected: why it must stay, None when it need not.
    """

    id: str
    time: datetime
    flaw: str | None = None
    protected: str | None = None


@dataclass(frozen=True)
class Decision:
    """Whether a candidate is kept, and why. counted: whether it is verified and not from the future."""

    id: str
    keep: bool
    counted: bool
    reasons: tuple[str, ...]


def plan_retention(candidates: Iterable[Candidate], policy: Policy, now: datetime) -> list[Decision]:
    """Return what `policy` does with each candidate at the time `now` (UTC), the newest first.

    The rules see verified candidates only, and none that is more than CLOCK_TOLERANCE ahead of `now`: a clock that was
    wrong neither uses up a rule nor moves the end of `within`. Those that the rules do not see are never removed; one
    from the future is seen again once the clock has reached it. The newest that the rules see is always kept, and so is
    whatever is protected.
    """
    newest_first = sorted(candidates, key=lambda candidate: (candidate.time, candidate.id), reverse=True)
    horizon = now + CLOCK_TOLERANCE
    counted = [candidate for candidate in newest_first if candidate.flaw is None and candidate.time <= horizon]
    reasons: dict[str, list[str]] = {candidate.id: [] for candidate in newest_first}
    for candidate in newest_first:
        if candidate.protected is not None:
            reasons[candidate.id].append(candidate.protected)
        if candidate.flaw is not None:
            reasons[candidate.id].append(f"not verified: {candidate.flaw}")
        if candidate.time > horizon:
            reasons[candidate.id].append(
                f"from the future: made at {_readable(candidate.time)}, the clock says {_readable(now)}"
            )
    if counted:
        reasons[counted[0].id].append("the newest that is verified")
    for identifier, reason in _kept_by_rules(counted, policy):
        reasons[identifier].append(reason)
    seen = {candidate.id for candidate in counted}
    removed = (f"kept by no rule: {policy}",)
    return [
        Decision(identifier, bool(kept), identifier in seen, tuple(kept) or removed)
        for identifier, kept in reasons.items()
    ]


def _readable(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _kept_by_rules(newest_first: list[Candidate], policy: Policy) -> Iterator[tuple[str, str]]:
    """Yield the id of each candidate that a rule keeps, and the rule; for each rule the newest first."""
    last = len(newest_first) if policy.last == _UNLIMITED else policy.last
    for candidate in newest_first[:last]:
        yield candidate.id, _written("last", policy.last)
    for name, written in _PERIODS.items():
        left = policy.counts[name]
        previous = None
        for candidate in newest_first if left else ():
            period = candidate.time.strftime(written)
            if period != previous:
                yield candidate.id, f"{name} {period}"
                left -= 1
            elif candidate is newest_first[-1]:
                yield candidate.id, f"oldest, {name} {period}"
            if left == 0:
                break
            previous = period
    if policy.within is not None and newest_first:
        end = policy.within.before(newest_first[0].time)
        for candidate in newest_first:
            if candidate.time > end:
                yield candidate.id, f"within {policy.within} of the newest"


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
