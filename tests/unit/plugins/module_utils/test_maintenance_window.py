# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math
import random
import struct
import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.maintenance_window import (
    EXAMPLE,
    ZONE_FOLDER,
    MaintenanceWindow,
    MaintenanceWindowError,
    next_opening,
    parse_window,
    read_time_zone,
    seconds_left,
)

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * DAY_MINUTES

ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",  # its winter is the exception
    "America/New_York",
    "America/St_Johns",  # half hours
    "America/Havana",  # from midnight to one o'clock and back
    "America/Santiago",  # back into the day before
    "America/Scoresbysund",
    "America/Nuuk",  # on a Saturday evening
    "Africa/Cairo",
    "Africa/Casablanca",  # by a list, not by a rule
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # half an hour
    "Pacific/Chatham",
    "Antarctica/Troll",  # two hours
)


def at(text: str) -> datetime:
    """A moment in UTC, as `2026-03-29 01:00`."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)


def minutes_left(window: str, now: str) -> float | None:
    seconds = seconds_left(parse_window(window), at(now))
    return None if seconds is None else seconds / 60


def opening(window: str, now: str) -> str:
    return f"{next_opening(parse_window(window), at(now)):%Y-%m-%d %H:%M %Z}"


class TestOpen:
    """29 March 2026 is a Sunday; Berlin's clocks go forward on it, from 02:00 to 03:00, at 01:00 UTC."""

    @pytest.mark.parametrize(
        ("window", "now", "left"),
        [
            ("Sun 02:00-04:00 UTC", "2026-03-22 01:59", None),
            ("Sun 02:00-04:00 UTC", "2026-03-22 02:00", 120),
            ("Sun 02:00-04:00 UTC", "2026-03-22 03:59", 1),
            ("Sun 02:00-04:00 UTC", "2026-03-22 04:00", None),
            ("Sun 02:00-04:00 UTC", "2026-03-23 03:00", None),
            ("Sun 02:00-04:00 Europe/Berlin", "2026-03-22 01:00", 120),
            ("Sun 02:00-04:00 Europe/Berlin", "2026-04-05 00:00", 120),
            ("sUN 02:00-04:00 UTC", "2026-03-22 03:00", 60),
            ("DAILY 02:00-04:00 UTC", "2026-03-25 03:00", 60),
            ("Mon-Fri 02:00-04:00 UTC", "2026-03-27 03:00", 60),
            ("Mon-Fri 02:00-04:00 UTC", "2026-03-28 03:00", None),
            ("Fri-Mon 02:00-04:00 UTC", "2026-03-23 03:00", 60),
            ("Fri-Mon 02:00-04:00 UTC", "2026-03-24 03:00", None),
            ("Tue-Tue 02:00-04:00 UTC", "2026-03-25 03:00", None),
            ("Wed,Sat-Sun 02:00-04:00 UTC", "2026-03-25 03:00", 60),
            ("Wed,Sat-Sun 02:00-04:00 UTC", "2026-03-26 03:00", None),
            ("Sat 22:00-02:00 UTC", "2026-03-21 22:00", 240),
            ("Sat 22:00-02:00 UTC", "2026-03-22 01:00", 60),
            ("Sat 22:00-02:00 UTC", "2026-03-21 01:00", None),
            ("Sun 22:00-00:00 UTC", "2026-03-22 23:00", 60),
            ("Sun 22:00-00:00 UTC", "2026-03-23 00:00", None),
            ("Sun 22:00-24:00 UTC", "2026-03-22 23:00", 60),
            ("Sun 22:00-24:00 UTC", "2026-03-23 00:00", None),
            ("Sat 22:00-24:00 UTC; Sun 00:00-02:00 UTC", "2026-03-21 23:00", 180),
            ("Sat 22:00-23:00 UTC;Sun 01:00-02:00 UTC", "2026-03-21 23:30", None),
            ("Sat 22:00-23:00 UTC;Sat 22:30-01:00 UTC", "2026-03-21 22:45", 135),
            ("Sun 02:00-03:00 UTC; Sun 04:00-05:00 Europe/Berlin", "2026-03-22 02:00", 120),
        ],
    )
    def test_now(self, window: str, now: str, left: float | None) -> None:
        assert minutes_left(window, now) == left

    def test_to_the_microsecond(self) -> None:
        window = parse_window("Sun 02:00-04:00 UTC")
        end = at("2026-03-22 04:00")
        assert seconds_left(window, end - timedelta(microseconds=1)) == pytest.approx(1e-6, abs=1e-7)
        assert seconds_left(window, at("2026-03-22 02:00") - timedelta(microseconds=1)) is None

    @pytest.mark.parametrize(
        "window", ["daily 00:00-24:00 Europe/Berlin", "daily 06:00-18:00 UTC; daily 18:00-06:00 UTC"]
    )
    def test_always(self, window: str) -> None:
        now = at("2026-03-22 03:00")
        assert seconds_left(parse_window(window), now) == math.inf
        assert next_opening(parse_window(window), now) == now

    def test_a_gap_that_only_summer_has(self) -> None:
        """In winter the two zones are an hour apart and fill the day."""
        window = "daily 04:00-03:00 UTC; daily 04:00-05:00 Europe/Berlin"
        assert minutes_left(window, "2025-12-01 00:00") == (
            at("2026-03-29 03:00") - at("2025-12-01 00:00")
        ) / timedelta(minutes=1)


class TestNextOpening:
    @pytest.mark.parametrize(
        ("now", "expected"),
        [
            ("2026-03-16 12:00", "2026-03-22 01:00 UTC"),
            ("2026-03-22 00:59", "2026-03-22 01:00 UTC"),
            ("2026-03-22 01:00", "2026-03-29 01:00 UTC"),
            ("2026-03-22 02:00", "2026-03-29 01:00 UTC"),
            ("2026-03-29 02:00", "2026-04-05 00:00 UTC"),
        ],
    )
    def test_of_one_span(self, now: str, expected: str) -> None:
        assert opening(EXAMPLE, now) == expected

    def test_of_spans_that_meet(self) -> None:
        window = "Sat 22:00-24:00 UTC; Sun 00:00-02:00 UTC"
        assert opening(window, "2026-03-21 21:00") == "2026-03-21 22:00 UTC"
        assert opening(window, "2026-03-21 22:00") == "2026-03-28 22:00 UTC"

    def test_in_another_zone_than_utc(self) -> None:
        now = datetime(2026, 3, 22, 1, 59, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
        assert seconds_left(parse_window(EXAMPLE), now) is None
        assert next_opening(parse_window(EXAMPLE), now) == at("2026-03-22 01:00")

    def test_no_zone(self) -> None:
        now = datetime(2026, 3, 22, 3)
        for ask in (seconds_left, next_opening):
            with pytest.raises(ValueError, match="2026-03-22 03:00:00 has no time zone"):
                ask(parse_window(EXAMPLE), now)


class TestClockChanges:
    @pytest.mark.parametrize("window", ["Sun 02:00-03:00 Europe/Berlin", "Sun 02:15-02:45 Europe/Berlin"])
    def test_an_hour_that_does_not_exist(self, window: str) -> None:
        assert opening(window, "2026-03-22 02:00")[:10] == "2026-04-05"
        for minute in range(-90, 90):
            assert seconds_left(parse_window(window), at("2026-03-29 01:00") + timedelta(minutes=minute)) is None

    @pytest.mark.parametrize("start", ["02:00", "02:30", "03:00"])
    def test_a_span_that_ends_after_the_hour_that_does_not_exist(self, start: str) -> None:
        assert opening(f"Sun {start}-04:00 Europe/Berlin", "2026-03-28 00:00") == "2026-03-29 01:00 UTC"
        assert minutes_left(f"Sun {start}-04:00 Europe/Berlin", "2026-03-29 01:00") == 60

    def test_a_span_that_ends_in_the_hour_that_does_not_exist(self) -> None:
        assert minutes_left("Sun 01:00-02:30 Europe/Berlin", "2026-03-29 00:00") == 60

    def test_an_hour_that_exists_twice(self) -> None:
        """On 25 October 2026, at 01:00 UTC, from 03:00 to 02:00."""
        assert opening("Sun 02:00-03:00 Europe/Berlin", "2026-10-24 00:00") == "2026-10-25 00:00 UTC"
        assert minutes_left("Sun 02:00-03:00 Europe/Berlin", "2026-10-25 00:00") == 120
        assert minutes_left("Sun 02:00-04:00 Europe/Berlin", "2026-10-25 00:00") == 180
        assert minutes_left("Sun 01:00-02:00 Europe/Berlin", "2026-10-24 23:00") == 60

    def test_half_an_hour_that_exists_twice(self) -> None:
        window = "Sun 02:00-02:30 Europe/Berlin"
        assert minutes_left(window, "2026-10-25 00:00") == 30
        assert minutes_left(window, "2026-10-25 00:30") is None
        assert opening(window, "2026-10-25 00:00") == "2026-10-25 01:00 UTC"
        assert minutes_left(window, "2026-10-25 01:00") == 30
        assert opening(window, "2026-10-25 01:00") == "2026-11-01 01:00 UTC"

    def test_an_evening_that_is_shown_twice(self) -> None:
        """In Santiago on 4 April 2026 the clocks go from midnight back to 23:00, at 03:00 UTC on the 5th."""
        assert minutes_left("Sat 22:00-24:00 America/Santiago", "2026-04-05 01:00") == 180
        assert minutes_left("Sat 22:00-23:30 America/Santiago", "2026-04-05 01:00") == 90
        assert opening("Sat 22:00-23:30 America/Santiago", "2026-04-05 01:00") == "2026-04-05 03:00 UTC"

    def test_a_day_that_does_not_exist(self) -> None:
        """Samoa went from Thursday, 29 December 2011, to Saturday."""
        assert opening("Fri 10:00-11:00 Pacific/Apia", "2011-12-24 00:00") == "2012-01-05 20:00 UTC"
        assert minutes_left("Thu 22:00-02:00 Pacific/Apia", "2011-12-30 09:00") == 60


def open_minutes(days: set[int], start: int, end: int) -> bytearray:
    """For each minute of a week on the wall, from Monday on, whether the span is open."""
    week = bytearray(WEEK_MINUTES)
    for day in days:
        for minute in range(start, end if end > start else end + DAY_MINUTES):
            week[(day * DAY_MINUTES + minute) % WEEK_MINUTES] = 1
    return week


def minutes_on_the_wall(zone: zoneinfo.ZoneInfo, first: datetime, count: int) -> list[int]:
    """The minute of the week that the wall shows, for each of `count` minutes in UTC."""
    shown = []
    for number in range(count):
        local = (first + timedelta(minutes=number)).astimezone(zone)
        shown.append(local.weekday() * DAY_MINUTES + local.hour * 60 + local.minute)
    return shown


def clock_changes(zone: zoneinfo.ZoneInfo) -> list[datetime]:
    """The days between 2010 and 2050 on which the offset changes."""
    days = [at("2010-01-01 00:00") + timedelta(days=number) for number in range(40 * 365)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    return [days[number] for number in range(len(days) - 1) if offsets[number] != offsets[number + 1]]


@pytest.mark.parametrize("name", ZONES)
def test_every_minute_is_judged_as_zoneinfo_does(name: str) -> None:
    """Random spans and moments in random weeks around changes of the clock, against a walk from minute to minute."""
    chance = random.Random(f"windows in {name}")
    zone = zoneinfo.ZoneInfo(name)
    changes = clock_changes(zone) or [at("2026-03-29 00:00")]
    cases = 0
    for _week in range(4):
        first = chance.choice(changes) - timedelta(days=3, minutes=chance.randrange(DAY_MINUTES))
        wall = minutes_on_the_wall(zone, first, 9 * DAY_MINUTES)
        for _window in range(20):
            days = set(chance.sample(range(7), chance.choice((1, 2, 3, 7))))
            start, end = chance.sample([*range(0, 360, 15), *range(1200, 1440, 15), chance.randrange(DAY_MINUTES)], 2)
            names = ",".join(DAYS[day] for day in days)
            times = f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
            window = parse_window(f"{names} {times} {name}")
            week = open_minutes(days, start, end)
            is_open = bytes(map(week.__getitem__, wall))
            for _moment in range(4):
                minute = chance.randrange(7 * DAY_MINUTES)
                check_moment(window, first, is_open, minute, chance.randrange(60))
                cases += 1
    assert cases == 320


def check_moment(window: MaintenanceWindow, first: datetime, is_open: bytes, minute: int, second: int) -> None:
    """Compare what is said `minute` and `second` after `first` with `is_open`, minute by minute, as far as it goes."""
    now = first + timedelta(minutes=minute, seconds=second)
    end = first + timedelta(minutes=len(is_open))
    closing, before_opening = is_open.find(b"\0", minute), is_open.find(b"\0\1", minute)
    left = seconds_left(window, now)
    if closing < 0:
        assert left is not None, (window, now)
        assert now + timedelta(seconds=left) >= end, (window, now)
    else:
        assert left == (None if closing == minute else (closing - minute) * 60 - second), (window, now)
    if before_opening < 0:
        assert next_opening(window, now) >= end, (window, now)
    else:
        assert next_opening(window, now) == first + timedelta(minutes=before_opening + 1), (window, now)


class TestTimeZones:
    def test_every_zone_of_the_host_is_read_as_zoneinfo_does(self) -> None:
        chance = random.Random("time zones")
        names = sorted(zoneinfo.available_timezones())
        assert len(names) > 400
        for name in names:
            ours, theirs = read_time_zone(name), zoneinfo.ZoneInfo(name)
            assert list(ours.moments) == sorted(ours.moments)
            near = [
                moment + chance.choice((-1, 0, 1)) for moment in chance.sample(ours.moments, min(40, len(ours.moments)))
            ]
            for moment in [*near, *(chance.randrange(-(2**32), 7 * 10**9) for _number in range(40))]:
                offset = datetime.fromtimestamp(moment, UTC).astimezone(theirs).utcoffset()
                assert offset is not None
                assert ours.offset(moment) == offset.total_seconds(), (name, moment)

    @pytest.mark.parametrize(
        "rule",
        [
            "CET-1CEST,M3.5.0,M10.5.0/3",
            "AEST-10AEDT,M10.1.0,M4.1.0/3",
            "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
            "IST-1GMT0,M10.5.0,M3.5.0/1",
            "<-02>2<-01>,M3.5.0/-1,M10.5.0/0",
            "<+0330>-3:30<+0430>,J79/24,J263/24",
            "AAA3:15BBB2:45:30,M2.5.0,M11.1.6/-26:30",
            "XXX3EDT4,0/0,J365/23",
            "UTC0",
            "<+0545>-5:45",
        ],
    )
    def test_a_file_with_nothing_but_a_rule(self, tmp_path: Path, rule: str) -> None:
        """As new as the newest database can be: what was before 1970 is not asked."""
        (tmp_path / "Zone").write_bytes(zone_file(rule))
        with (tmp_path / "Zone").open("rb") as file:
            theirs = zoneinfo.ZoneInfo.from_file(file)
        ours = read_time_zone("Zone", str(tmp_path))
        chance = random.Random(rule)
        near = [moment + step for moment in ours.moments[1:400] for step in (-1, 0, 1)]
        for moment in [*near, *(chance.randrange(4 * 10**8, 7 * 10**9) for _number in range(500))]:
            offset = datetime.fromtimestamp(moment, UTC).astimezone(theirs).utcoffset()
            assert offset is not None
            assert ours.offset(moment) == offset.total_seconds(), moment

    @pytest.mark.parametrize(
        ("rule", "begins", "ends"),
        [
            ("AAA0BBB,J59/0,J60/1", ["2023-02-28", "2024-02-28"], ["2023-03-01", "2024-03-01"]),
            ("AAA0BBB,58/0,59/1", ["2023-02-28", "2024-02-28"], ["2023-03-01", "2024-02-29"]),
            ("AAA0BBB,0/0,J365/1", ["2023-01-01", "2024-01-01"], ["2023-12-31", "2024-12-31"]),
        ],
    )
    def test_days_of_the_year(self, tmp_path: Path, rule: str, begins: list[str], ends: list[str]) -> None:
        """As the C library does; zoneinfo counts from 1 where POSIX counts from 0, and takes J59 for 29 February."""
        (tmp_path / "Zone").write_bytes(zone_file(rule))
        zone = read_time_zone("Zone", str(tmp_path))
        for offset, days in ((3600, begins), (0, ends)):
            for moment in (int(at(f"{day} 00:00").timestamp()) for day in days):
                assert (zone.offset(moment - 1), zone.offset(moment)) == (3600 - offset, offset)

    def test_utc_needs_no_database(self, tmp_path: Path) -> None:
        window = parse_window("daily 02:00-04:00 UTC", str(tmp_path / "none"))
        assert seconds_left(window, at("2026-03-22 03:00")) == 3600

    def test_no_database(self, tmp_path: Path) -> None:
        with pytest.raises(MaintenanceWindowError, match=r"This host has no time zone database: .*package tzdata"):
            parse_window(EXAMPLE, str(tmp_path / "none"))

    @pytest.mark.parametrize("name", ["Europe/Bielefeld", "europe/berlin", "Europe", "CEST"])
    def test_not_in_the_database(self, name: str) -> None:
        with pytest.raises(MaintenanceWindowError) as caught:
            parse_window(f"Sun 02:00-04:00 {name}")
        assert f"This host does not know the time zone '{name}': {ZONE_FOLDER}/{name} cannot be read" in str(
            caught.value
        )
        assert "Debian's package tzdata" in str(caught.value)

    @pytest.mark.parametrize(
        "name",
        [
            "../zone",
            "../Europe/Berlin",
            "/usr/share/zoneinfo/UTC",
            "Europe/../UTC",
            "Europe//Berlin",
            "zone.tab",
            "a\0b",
            "é",
        ],
    )
    def test_no_name(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "zone").write_bytes(zone_file("UTC0"))
        (tmp_path / "zones").mkdir()
        with pytest.raises(
            MaintenanceWindowError, match="is no name of a time zone: expected one such as Europe/Berlin"
        ):
            read_time_zone(name, str(tmp_path / "zones"))

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"TZif",
            b"#!/bin/sh\n" * 20,
            b"TZif\0" + bytes(39) + b"\n",
            struct.pack(">4sc15x6L", b"TZif", b"2", 0, 0, 0, 0, 1, 4) * 2,
            struct.pack(">4sc15x6L", b"TZif", b"2", 0, 0, 0, 0, 0, 0) * 2,
            struct.pack(">4sc15x6L", b"TZif", b"2", 0, 0, 0, 0, 0, 0) + b"Tzif" + bytes(100),
        ],
    )
    def test_another_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "Zone").write_bytes(content)
        with pytest.raises(MaintenanceWindowError, match="Zone is no file of a time zone"):
            read_time_zone("Zone", str(tmp_path))

    @pytest.mark.parametrize("rule", ["CET", "CET-1CEST", "CET-1CEST,M3.5.0", "CET-1CEST,M3.6.0,M10.5.0", "\xff"])
    def test_another_rule(self, tmp_path: Path, rule: str) -> None:
        (tmp_path / "Zone").write_bytes(zone_file(rule))
        with pytest.raises(MaintenanceWindowError, match="Zone is no file of a time zone"):
            read_time_zone("Zone", str(tmp_path))

    def test_leap_seconds(self, tmp_path: Path) -> None:
        """A file that counts them is half a minute off by now."""
        block = struct.pack(">4sc15x6L", b"TZif", b"2", 0, 0, 1, 0, 1, 4) + struct.pack(">lBB", 0, 0, 0) + b"AAA\0"
        leap = struct.pack(">ll", 78796800, 1), struct.pack(">ql", 78796800, 1)
        (tmp_path / "Zone").write_bytes(block + leap[0] + block + leap[1] + b"\nUTC0\n")
        with pytest.raises(MaintenanceWindowError, match="without leap seconds"):
            read_time_zone("Zone", str(tmp_path))

    def test_it_is_shown_by_its_name(self) -> None:
        window = parse_window(EXAMPLE)
        assert str(window) == EXAMPLE
        assert len(repr(window)) < 200
        assert window == parse_window(EXAMPLE)


def zone_file(rule: str) -> bytes:
    """A TZif file in which no change is but by the rule, and before the first one UTC holds."""
    block = struct.pack(">4sc15x6L", b"TZif", b"2", 0, 0, 0, 0, 1, 4) + struct.pack(">lBB", 0, 0, 0) + b"AAA\0"
    return block * 2 + b"\n" + rule.encode("latin-1") + b"\n"


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("", "'' has 0 words, expected days, times and time zone."),
            ("Sun 02:00-04:00", "'Sun 02:00-04:00' has 2 words, expected days, times and time zone."),
            ("Sun 02:00 - 04:00 UTC", "'Sun 02:00 - 04:00 UTC' has 5 words, expected days, times and time zone."),
            ("Sun 02:00-04:00 UTC;", "'' has 0 words, expected days, times and time zone."),
            ("Sun 2:00-4:00 UTC", "'2:00-4:00' are no times, expected HH:MM-HH:MM, from 00:00 to 24:00."),
            ("Sun 02:00-04:60 UTC", "'02:00-04:60' are no times, expected HH:MM-HH:MM, from 00:00 to 24:00."),
            ("Sun 24:00-04:00 UTC", "'24:00-04:00' are no times, expected HH:MM-HH:MM, from 00:00 to 24:00."),
            ("Sun 02:00-25:00 UTC", "'02:00-25:00' are no times, expected HH:MM-HH:MM, from 00:00 to 24:00."),
            ("Sun 02:00-04:00Z UTC", "'02:00-04:00Z' are no times, expected HH:MM-HH:MM, from 00:00 to 24:00."),
            ("Sun ٠٢:00-04:00 UTC", "'٠٢:00-04:00' are no times, expected HH:MM-HH:MM, from 00:00 to 24:00."),
            ("Sun 22:00-24:30 UTC", "'22:00-24:30' ends after 24:00; the next day begins with 00:00."),
            ("Sun 02:00-02:00 UTC", "'02:00-02:00' ends when it begins; a whole day is 00:00-24:00."),
            ("So 02:00-04:00 UTC", "'So' names no days, expected Mon,"),
            ("Sunday 02:00-04:00 UTC", "'Sunday' names no days, expected Mon,"),
            ("Mon,,Tue 02:00-04:00 UTC", "'' names no days, expected Mon,"),
            ("Mon-Wed-Fri 02:00-04:00 UTC", "'Mon-Wed-Fri' names no days, expected Mon,"),
            ("Mon,daily 02:00-04:00 UTC", "'daily' names no days, expected Mon,"),
            ("Mon- 02:00-04:00 UTC", "'Mon-' names no days, expected Mon,"),
            ("Sun 02:00-04:00 utc", "This host does not know the time zone 'utc':"),
        ],
    )
    def test_refused(self, text: str, found: str) -> None:
        with pytest.raises(MaintenanceWindowError) as caught:
            parse_window(text)
        words = str(caught.value)
        assert words.startswith(f"{text!r} is no maintenance window: {found}")
        assert words.endswith(f" For example: {EXAMPLE}")

    def test_the_second_span_is_read_too(self) -> None:
        with pytest.raises(MaintenanceWindowError, match="'2-4' are no times"):
            parse_window("Sun 02:00-04:00 UTC; Mon 2-4 UTC")
