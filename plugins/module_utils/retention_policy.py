# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which recovery points a policy keeps, and for which reasons: the rules of restic forget."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Iterable, Iterator, Mapping

from .recovery_point import CLOCK_TOLERANCE

_PERIODS = {"hourly": "%Y-%m-%dT%H", "daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m", "yearly": "%Y"}
"""The rules that keep the newest point of a period in UTC, and how a period is written; weeks are those of ISO 8601."""
_UNLIMITED = -1


class RetentionError(Exception):
    """A policy cannot be followed; nothing was removed."""


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
