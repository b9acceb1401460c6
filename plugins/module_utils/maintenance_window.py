# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Maintenance windows: when changes may be made, such as `Sun 02:00-04:00 Europe/Berlin`.

One or more spans, separated by `;`, each of days, times and time zone:

- days: `Mon` to `Sun`, a range (`Mon-Fri`, also `Fri-Mon`), a list of both (`Sat,Sun`), or `daily`; in any case.
- times: `HH:MM-HH:MM`. The end is not part of the span. A span that ends at an earlier time than it begins ends on the
  next day; its days are those on which it begins. `24:00` is the end of the day.
- time zone: `UTC`, or a name that the host's time zone database has.

A span is one of wall-clock time: it is open whenever a clock on a wall of that time zone shows a day and a time that
are in it. Where the clock goes forward, what it skips does not happen: `02:00-03:00` is not open at all on the day
that has no such hour, and `02:00-04:00` is open for one hour. Where it goes back, what it shows twice happens twice:
`02:00-04:00` is open for three hours in a row, and `02:00-02:30` for half an hour two times, closed in between.

Python 3.8 has no zoneinfo, so the database is read here: https://www.rfc-editor.org/rfc/rfc8536
"""

from __future__ import annotations

import bisect
import calendar
import math
import os
import re
import struct
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Iterator

EXAMPLE = "Sun 02:00-04:00 Europe/Berlin"

ZONE_FOLDER = "/usr/share/zoneinfo"

LAST_YEAR = 2200
"""Until its end the rule of a time zone is applied; after that its offset no longer changes."""

HORIZON = timedelta(days=400)
"""How far ahead a change is looked for. The longest wait is two weeks, for a span that one week's clock skips."""

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTE = 60
_HOUR = 3600
_DAY = 86400

_TIMES = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])", re.ASCII)
_ZONE_NAME = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*", re.ASCII)

_HEADER = struct.Struct(">4sc15x6L")
_ABBREVIATION = r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]+>)"
_CLOCK = r"[+-]?[0-9]{1,3}(?::[0-9]{2}){0,2}"
_DATE = r"(?:M[0-9]{1,2}\.[1-5]\.[0-6]|J?[0-9]{1,3})"
_RULE = re.compile(
    rf"{_ABBREVIATION}(?P<offset>{_CLOCK})(?:{_ABBREVIATION}(?P<summer>{_CLOCK})?"
    rf",(?P<start>{_DATE}(?:/{_CLOCK})?),(?P<end>{_DATE}(?:/{_CLOCK})?))?",
    re.ASCII,
)


class MaintenanceWindowError(ValueError):
    """The text is no maintenance window, or names a time zone that this host does not know."""


@dataclass(frozen=True)
class TimeZone:
    """A time zone: from the second `moments[n]` since 1970 on, its clocks are `offsets[n + 1]` seconds ahead of UTC."""

    name: str
    moments: tuple[int, ...] = field(repr=False)
    offsets: tuple[int, ...] = field(repr=False)

    def offset(self, moment: float) -> int:
        """Seconds by which its clocks are ahead of UTC at `moment`, which is in seconds since 1970."""
        return self.offsets[bisect.bisect_right(self.moments, moment)]

    def moments_between(self, first: int, last: int) -> tuple[int, ...]:
        """The moments at which its offset changes, `first` and `last` included."""
        return self.moments[bisect.bisect_left(self.moments, first) : bisect.bisect_right(self.moments, last)]


@dataclass(frozen=True)
class Span:
    """`days`, 0 for Monday, are those on which it begins; `start` and `end` are seconds on that day's clock.

    It ends on the next day where `end` is not after `start`.
    """

    days: frozenset[int]
    start: int
    end: int
    zone: TimeZone

    def is_open(self, moment: float) -> bool:
        """Tell whether the zone's clocks show a time in it, `moment` seconds after 1970."""
        day, time = divmod(math.floor(moment) + self.zone.offset(moment), _DAY)
        begins_today = (day + 3) % 7 in self.days
        began_yesterday = (day + 2) % 7 in self.days
        if self.start < self.end:
            return begins_today and self.start <= time < self.end
        return (begins_today and time >= self.start) or (began_yesterday and time < self.end)


@dataclass(frozen=True)
class MaintenanceWindow:
    """When changes may be made: in any of `spans`. `text` is what it was read from."""

    text: str
    spans: tuple[Span, ...]

    def __str__(self) -> str:
        return self.text


def parse_window(text: str, zones: str = ZONE_FOLDER) -> MaintenanceWindow:
    """Return the window that `text` names, in the module's grammar; `zones` is the folder of the time zone database.

    Raises MaintenanceWindowError.
    """
    try:
        spans = tuple(_parse_span(part, zones) for part in text.split(";"))
    except MaintenanceWindowError as error:
        raise MaintenanceWindowError(f"{text!r} is no maintenance window: {error} For example: {EXAMPLE}") from error
    return MaintenanceWindow(text, spans)


def seconds_left(window: MaintenanceWindow, now: datetime) -> float | None:
    """Return for how many seconds from `now` on the window stays open.

    None where it is closed, infinity where it never closes. Raises ValueError for a `now` without a time zone.
    """
    moment = _seconds(now)
    if not _is_open(window, moment):
        return None
    closings = (change for change in _changes(window, moment) if not _is_open(window, change))
    return next(closings, math.inf) - moment


def next_opening(window: MaintenanceWindow, now: datetime) -> datetime:
    """Return the next moment after `now`, in UTC, at which the window opens, having been closed before.

    Where it is open at `now`, that is the opening after the present one; `now` itself where it never closes. Raises
    ValueError for a `now` without a time zone.
    """
    moment = _seconds(now)
    was_open = _is_open(window, moment)
    for change in _changes(window, moment):
        is_open = _is_open(window, change)
        if is_open and not was_open:
            return datetime.fromtimestamp(change, timezone.utc)
        was_open = is_open
    return now


def read_time_zone(name: str, zones: str = ZONE_FOLDER) -> TimeZone:
    """Read a time zone from the database in the folder `zones`; UTC needs none. Raises MaintenanceWindowError."""
    if name == "UTC":
        return TimeZone(name, (), (0,))
    if _ZONE_NAME.fullmatch(name) is None:
        raise MaintenanceWindowError(f"{name!r} is no name of a time zone: expected one such as Europe/Berlin, or UTC.")
    path = os.path.join(zones, name)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        what = f"does not know the time zone {name!r}" if os.path.isdir(zones) else "has no time zone database"
        raise MaintenanceWindowError(
            f"This host {what}: {path} cannot be read ({error.strerror}). See the name, with its capitals, and that "
            "the host has Debian's package tzdata (for names of old, tzdata-legacy), or use UTC."
        ) from error
    try:
        moments, offsets = _parse_zone_file(content)
    except (ValueError, IndexError, struct.error) as error:
        raise MaintenanceWindowError(
            f"{path} is no file of a time zone (TZif, version 2 or later, without leap seconds): name another time "
            "zone, or install Debian's package tzdata again."
        ) from error
    return TimeZone(name, moments, offsets)


def _parse_span(text: str, zones: str) -> Span:
    words = text.split()
    if len(words) != 3:
        raise MaintenanceWindowError(f"{text.strip()!r} has {len(words)} words, expected days, times and time zone.")
    match = _TIMES.fullmatch(words[1])
    if match is None:
        raise MaintenanceWindowError(f"{words[1]!r} are no times, expected HH:MM-HH:MM, from 00:00 to 24:00.")
    hour, minute, end_hour, end_minute = (int(group) for group in match.groups())
    start, end = hour * _HOUR + minute * _MINUTE, end_hour * _HOUR + end_minute * _MINUTE
    if end > _DAY:
        raise MaintenanceWindowError(f"{words[1]!r} ends after 24:00; the next day begins with 00:00.")
    if start == end:
        raise MaintenanceWindowError(f"{words[1]!r} ends when it begins; a whole day is 00:00-24:00.")
    return Span(_parse_days(words[0]), start, end, read_time_zone(words[2], zones))


def _parse_days(text: str) -> frozenset[int]:
    if text.lower() == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        names = part.lower().split("-")
        if len(names) > 2 or any(name not in _DAYS for name in names):
            raise MaintenanceWindowError(
                f"{part!r} names no days, expected Mon, Tue, Wed, Thu, Fri, Sat or Sun, a range of them such as "
                "Mon-Fri, a list such as Sat,Sun, or daily."
            )
        first, last = _DAYS.index(names[0]), _DAYS.index(names[-1])
        days.update((first + number) % 7 for number in range((last - first) % 7 + 1))
    return frozenset(days)


def _seconds(now: datetime) -> float:
    if now.tzinfo is None:
        raise ValueError(f"{now} has no time zone, expected a moment in UTC")
    return now.timestamp()


def _is_open(window: MaintenanceWindow, moment: float) -> bool:
    return any(span.is_open(moment) for span in window.spans)


def _changes(window: MaintenanceWindow, after: float) -> Iterator[int]:
    """The moments after `after`, in order, at which the window may open or close; between them it does neither."""
    first_day = math.floor(after) // _DAY * _DAY
    for day in range(first_day, first_day + int(HORIZON.total_seconds()), _DAY):
        moments = {moment for span in window.spans for moment in _changes_of_day(span, day)}
        yield from sorted(moment for moment in moments if moment > after)


def _changes_of_day(span: Span, day: int) -> Iterator[int]:
    """What _changes has between `day`, the first second of a day in UTC, and its end."""
    jumps = span.zone.moments_between(day, day + _DAY - 1)
    yield from jumps
    for offset in {span.zone.offset(moment) for moment in (day, *jumps)}:
        for time in (span.start, span.end):
            yield day + (time - offset) % _DAY


def _parse_zone_file(content: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return `moments` and `offsets` of TimeZone; raises ValueError, IndexError or struct.error.

    Everything is there twice: for readers of version 1, in 32 bits, which is passed over, and in 64 bits.
    """
    magic, version, *counts = _HEADER.unpack_from(content)
    if magic != b"TZif" or version < b"2":
        raise ValueError
    universal, standard, leaps, transitions, kinds, letters = counts
    second = _HEADER.size + transitions * 5 + kinds * 6 + letters + leaps * 8 + standard + universal
    magic, version, *counts = _HEADER.unpack_from(content, second)
    universal, standard, leaps, transitions, kinds, letters = counts
    if magic != b"TZif" or leaps:
        raise ValueError
    position = second + _HEADER.size
    moments = struct.unpack_from(f">{transitions}q", content, position)
    position += transitions * 8
    kind_of_moment = struct.unpack_from(f">{transitions}B", content, position)
    position += transitions
    offset_of_kind = [struct.unpack_from(">lBB", content, position + number * 6)[0] for number in range(kinds)]
    footer = content[position + kinds * 6 + letters + standard + universal :].decode("ascii").strip("\n")
    offsets = tuple(offset_of_kind[kind] for kind in (0, *kind_of_moment))
    if not footer:
        return moments, offsets
    return _continue_by_rule(moments, offsets, footer)


def _continue_by_rule(
    moments: tuple[int, ...], offsets: tuple[int, ...], rule: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Continue after the last of `moments` by the file's rule for all time to come, as POSIX writes it in TZ."""
    match = _RULE.fullmatch(rule)
    if match is None:
        raise ValueError
    normal = -_parse_clock(match["offset"])
    if match["start"] is None:
        return (moments, offsets) if moments else ((), (normal,))
    summer = -_parse_clock(match["summer"]) if match["summer"] else normal + _HOUR
    first_year = datetime.fromtimestamp(moments[-1], timezone.utc).year if moments else 1970
    following = []
    for year in range(first_year, LAST_YEAR + 1):
        following.append((_moment_of_rule(match["start"], year) - normal, 1, summer))
        following.append((_moment_of_rule(match["end"], year) - summer, 0, normal))
    following = sorted(change for change in following if not moments or change[0] > moments[-1])
    return (
        (*moments, *(moment for moment, _is_summer, _offset in following)),
        (*offsets, *(offset for _moment, _is_summer, offset in following)),
    )


def _moment_of_rule(text: str, year: int) -> int:
    """Seconds from 1970, by the clock that is about to change, to a date such as `M3.5.0/3` in `year`."""
    date, _slash, clock = text.partition("/")
    if date.startswith("M"):
        month, week, weekday = (int(number) for number in date[1:].split("."))
        first_weekday, days_in_month = calendar.monthrange(year, month)
        day = 1 + (weekday - 1 - first_weekday) % 7 + (week - 1) * 7
        days = calendar.timegm((year, month, day if day <= days_in_month else day - 7, 0, 0, 0)) // _DAY
    else:
        number = int(date.lstrip("J"))
        skips_leap_day = date.startswith("J") and not (calendar.isleap(year) and number >= 60)
        days = calendar.timegm((year, 1, 1, 0, 0, 0)) // _DAY + number - (1 if skips_leap_day else 0)
    return days * _DAY + _parse_clock(clock or "2")


def _parse_clock(text: str) -> int:
    """Seconds of `[+-]hours[:minutes[:seconds]]`."""
    parts = [int(part) for part in text.lstrip("+-").split(":")]
    seconds = sum(part * unit for part, unit in zip(parts, (_HOUR, _MINUTE, 1)))
    return -seconds if text.startswith("-") else seconds
