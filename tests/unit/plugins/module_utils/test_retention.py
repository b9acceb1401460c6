# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import journal, retention
from ansible_collections.capsule.opstage.plugins.module_utils.journal import JournalError, append_entry, journal_path
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    RecoveryPointError,
    held_for_writing,
    list_recovery_points,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.retention import (
    RemovalError,
    Retention,
    apply_retention,
    remove_console_copy,
)
from ansible_collections.capsule.opstage.plugins.module_utils.retention_policy import (
    Candidate,
    Decision,
    Duration,
    Policy,
    RetentionError,
    parse_duration,
    parse_policy,
    plan_retention,
)
from sqlite_testing import make_database, names_in

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
OTHER_ID = "2026-11-01T02-15-00-000000Z-manual"
COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def candidates_at(*texts: str) -> list[Candidate]:
    return [Candidate(text, moment(text)) for text in texts]


def kept(decisions: list[Decision]) -> list[str]:
    return [decision.id for decision in decisions if decision.keep]


def reasons(decisions: list[Decision]) -> dict[str, tuple[str, ...]]:
    return {decision.id: decision.reasons for decision in decisions}


class TestDuration:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("7d", Duration(days=7)),
            ("12h", Duration(hours=12)),
            ("1y2m3d4h", Duration(1, 2, 3, 4)),
            ("4h1y", Duration(years=1, hours=4)),
            ("36h", Duration(hours=36)),
            ("", None),
            ("0d", None),
            ("0y0h", None),
        ],
    )
    def test_parse(self, text: str, expected: Duration | None) -> None:
        assert parse_duration(text) == expected

    @pytest.mark.parametrize("text", ["7", "d", "7w", "1d2d", "-7d", "7d ", "1.5h", "7 d", "7D", "\u0667d"])
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(RetentionError, match=r"such as 7d, 12h or 1y2m3d4h"):
            parse_duration(text)

    @pytest.mark.parametrize(
        ("text", "start", "expected"),
        [
            ("7d", "2026-11-22T12:00", "2026-11-15T12:00"),
            ("12h", "2026-11-22T02:15", "2026-11-21T14:15"),
            ("1m", "2026-01-15T00:00", "2025-12-15T00:00"),
            ("1m", "2026-03-31T10:00", "2026-03-03T10:00"),
            ("1m", "2024-03-31T10:00", "2024-03-02T10:00"),
            ("1y", "2024-02-29T10:00", "2023-03-01T10:00"),
            ("1y2m3d4h", "2026-01-15T02:00", "2024-11-11T22:00"),
            ("25m", "2026-01-15T00:00", "2023-12-15T00:00"),
            ("9999y", "2026-01-15T00:00", "0001-01-01T00:00"),
            (f"{10**30}h", "2026-01-15T00:00", "0001-01-01T00:00"),
            (f"{10**30}m", "2026-01-15T00:00", "0001-01-01T00:00"),
        ],
    )
    def test_before(self, text: str, start: str, expected: str) -> None:
        duration = parse_duration(text)
        assert duration is not None
        assert duration.before(moment(start)) == moment(expected)

    def test_is_written_as_restic_writes_it(self) -> None:
        assert str(Duration(1, 2, 3, 4)) == "1y2m3d4h"
        assert str(Duration(days=7)) == "7d"


class TestPolicy:
    def test_parse(self) -> None:
        options = {"last": 3, "daily": -1, "weekly": None, "within": "7d", "yearly": 0}
        policy = parse_policy(options)
        assert policy == Policy(last=3, daily=-1, within=Duration(days=7))
        assert str(policy) == "last 3, daily unlimited, within 7d"

    @pytest.mark.parametrize("options", [{}, {"last": 0}, {"within": "0h"}, {"daily": None, "within": ""}])
    def test_an_empty_one_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(RetentionError, match="would remove all recovery points: give at least one of last, hourly"):
            parse_policy(options)

    @pytest.mark.parametrize("count", [-2, "3", True, 1.5])
    def test_a_count_that_is_none_is_refused(self, count: object) -> None:
        with pytest.raises(RetentionError, match=r"The policy's weekly is .*expected is how many"):
            parse_policy({"last": 1, "weekly": count})

    def test_an_unknown_rule_is_refused(self) -> None:
        with pytest.raises(RetentionError, match="unknown rule 'dayly'; the rules are last, hourly, daily"):
            parse_policy({"last": 1, "dayly": 7})


class TestPlan:
    def test_nothing(self) -> None:
        assert plan_retention([], Policy(last=1), NOW) == []

    def test_every_one_has_its_reasons(self) -> None:
        points = candidates_at("2026-11-20T02:00", "2026-11-20T01:00", "2026-11-19T02:00", "2026-10-31T02:00")
        policy = Policy(last=1, daily=2, monthly=2, within=Duration(hours=2))
        assert plan_retention(points, policy, NOW) == [
            Decision(
                "2026-11-20T02:00",
                True,
                True,
                (
                    "the newest that is verified",
                    "last 1",
                    "daily 2026-11-20",
                    "monthly 2026-11",
                    "within 2h of the newest",
                ),
            ),
            Decision("2026-11-20T01:00", True, True, ("within 2h of the newest",)),
            Decision("2026-11-19T02:00", True, True, ("daily 2026-11-19",)),
            Decision("2026-10-31T02:00", True, True, ("monthly 2026-10",)),
        ]
        assert plan_retention(points, Policy(last=3), NOW)[3] == Decision(
            "2026-10-31T02:00", False, True, ("kept by no rule: last 3",)
        )

    def test_periods_are_those_of_the_calendar(self) -> None:
        points = candidates_at("2027-01-01T00:00", "2026-12-31T23:59", "2026-12-28T00:00", "2026-12-27T23:59")
        plan = reasons(plan_retention(points, Policy(hourly=9, weekly=9, yearly=1), moment("2027-01-02T00:00")))
        assert plan["2027-01-01T00:00"][1:] == ("hourly 2027-01-01T00", "weekly 2026-W53", "yearly 2027")
        assert plan["2026-12-31T23:59"] == ("hourly 2026-12-31T23",)
        assert plan["2026-12-28T00:00"] == ("hourly 2026-12-28T00",)
        assert plan["2026-12-27T23:59"] == ("hourly 2026-12-27T23", "weekly 2026-W52")

    def test_within_ends_before_what_is_exactly_so_old(self) -> None:
        points = candidates_at("2026-11-22T02:00", "2026-11-15T02:00:01", "2026-11-15T02:00")
        plan = plan_retention(points, Policy(within=Duration(days=7)), NOW)
        assert [decision.keep for decision in plan] == [True, True, False]

    def test_restic_s_example_of_sundays(self) -> None:
        sundays = [moment("2019-09-01T11:00") + timedelta(weeks=number) for number in range(12)]
        points = [Candidate(f"{day:%Y-%m-%d}", day) for day in sundays]
        plan = plan_retention(points, Policy(daily=4), NOW)
        assert kept(plan) == ["2019-11-17", "2019-11-10", "2019-11-03", "2019-10-27"]

    def test_restic_s_example_of_a_hundred_years(self) -> None:
        days = [moment("2026-11-22T02:00") - timedelta(days=number) for number in range(36525)]
        points = [Candidate(f"{day:%Y-%m-%d}", day) for day in days]
        plan = plan_retention(points, Policy(daily=7, weekly=5, monthly=12, yearly=75), NOW)
        # 2026-11-22 is a Sunday: it and the four before; eleven ends of months and 74 of years besides it, one both.
        assert len(kept(plan)) == 7 + 4 + 11 + 74 - 1
        assert kept(plan)[:9] == [f"2026-11-{day}" for day in (22, 21, 20, 19, 18, 17, 16, 15)] + ["2026-11-08"]

    def test_the_oldest_stays_while_a_rule_has_some_left(self) -> None:
        points = candidates_at("2026-11-20T03:00", "2026-11-20T02:00", "2026-11-20T01:00")
        plan = reasons(plan_retention(points, Policy(daily=2), NOW))
        assert plan["2026-11-20T01:00"] == ("oldest, daily 2026-11-20",)
        assert kept(plan_retention(points, Policy(daily=2), NOW)) == ["2026-11-20T03:00", "2026-11-20T01:00"]
        assert kept(plan_retention(points, Policy(daily=1), NOW)) == ["2026-11-20T03:00"]

    def test_what_is_not_verified_is_not_counted_and_stays(self) -> None:
        points = candidates_at("2026-11-21T02:00", "2026-11-20T02:00", "2026-11-19T02:00")
        points[0] = Candidate("damaged", points[0].time, flaw="it has no manifest.json")
        plan = plan_retention(points, Policy(last=1), NOW)
        assert plan[0] == Decision("damaged", True, False, ("not verified: it has no manifest.json",))
        assert plan[1].reasons == ("the newest that is verified", "last 1")
        assert not plan[2].keep

    def test_what_is_protected_stays_and_is_counted(self) -> None:
        points = [*candidates_at("2026-11-21T02:00"), Candidate("old", moment("2020-01-01T00:00"), protected="needed")]
        plan = plan_retention(points, Policy(last=1), NOW)
        assert plan[1] == Decision("old", True, True, ("needed",))
        assert plan_retention(points, Policy(last=2), NOW)[1].reasons == ("needed", "last 2")

    def test_a_clock_that_was_wrong_pushes_nothing_out(self) -> None:
        points = candidates_at("2099-01-01T00:00", "2026-11-22T13:00:01", "2026-11-22T13:00", "2026-11-20T02:00")
        plan = plan_retention(points, Policy(last=1, within=Duration(days=3)), NOW)
        assert [(decision.keep, decision.counted) for decision in plan] == [
            (True, False),
            (True, False),
            (True, True),
            (True, True),
        ]
        assert plan[0].reasons == (
            "from the future: made at 2099-01-01 00:00:00 UTC, the clock says 2026-11-22 12:00:00 UTC",
        )
        assert plan[2].reasons == ("the newest that is verified", "last 1", "within 3d of the newest")

    def test_a_clock_that_is_wrong_removes_nothing(self) -> None:
        points = candidates_at("2026-11-21T02:00", "2026-11-20T02:00", "1970-01-01T00:05", "1970-01-01T00:04")
        plan = plan_retention(points, Policy(last=1), moment("1970-01-01T00:06"))
        assert kept(plan) == ["2026-11-21T02:00", "2026-11-20T02:00", "1970-01-01T00:05"]

    def test_two_of_one_moment(self) -> None:
        points = [Candidate(name, NOW) for name in ("b", "c", "a")]
        assert kept(plan_retention(points, Policy(last=2), NOW)) == ["c", "b"]


KEYS: dict[str, Callable[[Candidate], tuple[Any, ...]]] = {
    "last": lambda point: (point.time, point.id),
    "hourly": lambda point: point.time.timetuple()[:4],
    "daily": lambda point: point.time.timetuple()[:3],
    "weekly": lambda point: point.time.isocalendar()[:2],
    "monthly": lambda point: point.time.timetuple()[:2],
    "yearly": lambda point: point.time.timetuple()[:1],
}
WITHIN = {
    "1h": (0, 0, 0, 1),
    "12h": (0, 0, 0, 12),
    "7d": (0, 0, 7, 0),
    "40d": (0, 0, 40, 0),
    "1m": (0, 1, 0, 0),
    "1m1h": (0, 1, 0, 1),
    "1y2m3d4h": (1, 2, 3, 4),
    "10y": (10, 0, 0, 0),
}


def random_history(chance: random.Random) -> tuple[list[Candidate], datetime]:
    """What a host may have made whose clock jumps now and then, and the time that its clock shows."""
    clock = datetime(chance.randint(1971, 2090), chance.randint(1, 12), chance.randint(1, 28), tzinfo=UTC)
    points = []
    for number in range(chance.randint(0, 40)):
        unit = chance.choice((60, 3600, 86400, 86400 * 7, 86400 * 30))
        clock += timedelta(seconds=chance.randint(0, 3) * unit + chance.randint(0, unit))
        if chance.random() < 0.05:
            clock += timedelta(days=chance.randint(-800, 800))
        flaw = "damaged" if chance.random() < 0.15 else None
        protected = "protected" if chance.random() < 0.08 else None
        points.append(Candidate(f"{number:02}", clock, flaw, protected))
    now = clock + timedelta(seconds=chance.choice((0, 60, -3599, -3600, -3601, -86400 * 40, 86400 * 400)))
    chance.shuffle(points)
    return points, now


def random_policy(chance: random.Random) -> dict[str, Any]:
    """The options of a policy that has a rule."""
    while True:
        options: dict[str, Any] = {
            name: chance.choice((0, 0, 0, -1, 1, 1, 2, 3, 5, 30)) for name in COUNTS if chance.random() < 0.6
        }
        if chance.random() < 0.3:
            options["within"] = chance.choice((*WITHIN, "0d"))
        if any(value for value in options.values() if value != "0d"):
            return options


def reference(points: list[Candidate], options: dict[str, Any], now: datetime) -> dict[str, set[str]]:
    """Which rules keep which point, worked out period by period instead of point by point."""
    found: dict[str, set[str]] = {point.id: set() for point in points}
    for point in points:
        facts = {"protected": point.protected, "not": point.flaw, "from": (point.time - now).total_seconds() > 3600}
        found[point.id] = {name for name, holds in facts.items() if holds}
    oldest_first = [point for point in sorted(points, key=KEYS["last"]) if not found[point.id] & {"not", "from"}]
    if not oldest_first:
        return found
    found[oldest_first[-1].id].add("the")
    for name, key in KEYS.items():
        count = options.get(name, 0)
        newest_of = {key(point): point.id for point in oldest_first}
        for period in sorted(newest_of, reverse=True)[: None if count == -1 else count]:
            found[newest_of[period]].add(name)
        if (count == -1 or count > len(newest_of)) and name not in found[oldest_first[0].id]:
            found[oldest_first[0].id].add("oldest,")
    if options.get("within", "0d") != "0d":
        end = back(oldest_first[-1].time, *WITHIN[options["within"]])
        for point in oldest_first:
            found[point.id] |= {"within"} if point.time > end else set()
    return found


def back(time: datetime, years: int, months: int, days: int, hours: int) -> datetime:
    """The time that lies so far before, month by month."""
    year, month = time.year - years, time.month
    for _step in range(months):
        year, month = (year, month - 1) if month > 1 else (year - 1, 12)
    day = datetime.fromordinal(datetime(year, month, 1).toordinal() + time.day - 1 - days).replace(tzinfo=UTC)
    return day + (time - time.replace(hour=0, minute=0, second=0, microsecond=0)) - timedelta(hours=hours)


def test_random_histories_as_a_plain_reference_has_them() -> None:
    chance = random.Random(20261122)
    removed, seen = 0, set()
    for _number in range(4000):
        points, now = random_history(chance)
        options = random_policy(chance)
        policy = parse_policy(options)
        plan = plan_retention(points, policy, now)
        expected = reference(points, options, now)
        case = f"{options} at {now}: {points}"
        assert [decision.id for decision in plan] == [
            point.id for point in sorted(points, key=lambda point: (point.time, point.id), reverse=True)
        ], case
        for decision in plan:
            assert decision.keep == bool(expected[decision.id]), case
            assert decision.counted == (not expected[decision.id] & {"not", "from"}), case
            kinds = {reason.split()[0] for reason in decision.reasons}
            assert kinds == (expected[decision.id] or {"kept"}), case
            seen |= kinds
        by_id = {point.id: point for point in points}
        again = plan_retention([by_id[identifier] for identifier in kept(plan)], policy, now)
        assert kept(again) == kept(plan), case
        removed += len(points) - len(kept(plan))
    assert seen == {*COUNTS, "within", "oldest,", "the", "protected", "not", "from", "kept"}
    assert removed > 10000


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where recovery points lie; the journal lies beside it."""
    monkeypatch.setattr(journal, "STATE_ROOT", str(tmp_path / "state"))
    return tmp_path / "backups"


@pytest.fixture
def points(root: Path, tmp_path: Path) -> list[Path]:
    """Recovery points of five days, the newest first, as create_recovery_point makes them."""
    project, data = tmp_path / "project", tmp_path / "data"
    project.mkdir()
    data.mkdir()
    (project / "compose.yml").write_bytes(b"services: {}\n")
    deployment = {
        "project": "opstage",
        "project_dir": str(project),
        "config_files": [str(project / "compose.yml")],
        "environment_files": [],
        "service": "web",
        "image": "repo:0.2.0",
        "tag": "0.2.0",
        "digest": None,
        "image_id": "sha256:" + "1" * 64,
        "version": "0.2.0",
        "version_source": "api",
        "edition": "ce",
        "database": str(make_database(data / "opstage.db", 20, "WAL")),
    }
    made = Path(create_recovery_point(deployment, str(root), "manual", "online", "0.1.0").path)
    copies = [made.with_name(f"2026-11-{day}T02-15-00-000000Z-manual") for day in (22, 21, 20, 19, 18)]
    for copy in copies:
        shutil.copytree(made, copy)
        change_manifest(copy, id=copy.name, created=f"{copy.name[:10]}T02:15:00.000000Z")
    shutil.rmtree(made)
    return copies


def change_manifest(point: Path, **changes: object) -> None:
    path = point / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_database(point: Path, **changes: object) -> None:
    """Change what the manifest says of the database."""
    change_manifest(point, database={**json.loads((point / "manifest.json").read_text())["database"], **changes})


def change_byte(point: Path) -> None:
    """Damage the database so that only its checksum tells."""
    with (point / "opstage.db").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([byte[0] ^ 1]))


def retain(root: Path, policy: Policy | None = None, **options: Any) -> Retention:
    return apply_retention("opstage", str(root), policy or Policy(last=2), NOW, **options)


def record(operation: str, status: str, run: str = "1", **details: object) -> None:
    append_entry(journal_path("opstage"), operation, status, run, details)


def allocated(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in [folder, *folder.rglob("*")])


def everything_below(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Kind, time of change and content of all that there is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


class TestRecoveryPoints:
    def test_what_the_policy_does_not_keep_is_removed_and_nothing_else(self, root: Path, points: list[Path]) -> None:
        parent = root / "opstage"
        others = [".partial-2026-11-01T00-00-00-000000Z-manual", "by-hand", "2026-11-01", ".removed-by-hand"]
        others += ["2026-11-01T00-00-00-000000Z-manual.old"]
        for name in others:
            (parent / name).mkdir()
        (root / "other").mkdir()
        kept_before = {point: everything_below(point) for point in points[:2]}
        size = sum(allocated(point) for point in points[2:])
        done = retain(root)
        assert names_in(parent) == sorted([*others, *(point.name for point in points[:2])])
        assert {point: everything_below(point) for point in points[:2]} == kept_before
        assert names_in(root) == ["opstage", "other"]
        assert done == Retention(
            [
                Decision(points[0].name, True, True, ("the newest that is verified", "last 2")),
                Decision(points[1].name, True, True, ("last 2",)),
                *(Decision(point.name, False, True, ("kept by no rule: last 2",)) for point in points[2:]),
            ],
            size,
        )
        assert [decision.id for decision in done.removed] == [point.name for point in points[2:]]
        again = retain(root)
        assert (again.removed, again.freed) == ([], 0)
        assert again.decisions == done.kept

    def test_check_mode_says_the_same_and_changes_nothing(self, root: Path, points: list[Path]) -> None:
        before = everything_below(root)
        predicted = retain(root, check_mode=True)
        assert everything_below(root) == before
        assert predicted.freed > 0
        assert retain(root) == predicted

    def test_it_waits_for_nobody_and_check_mode_is_in_nobody_s_way(self, root: Path, points: list[Path]) -> None:
        with held_for_writing(str(root / "opstage")):
            assert len(retain(root, check_mode=True).removed) == 3
            with pytest.raises(RecoveryPointError, match="Another run is at work"):
                retain(root)
        assert len(list_recovery_points(str(root), "opstage")) == 5

    def test_no_recovery_point_yet(self, root: Path) -> None:
        assert retain(root) == Retention([], 0)
        assert not root.exists()

    @pytest.mark.parametrize("project", ["", "..", "a/b"])
    def test_a_project_that_is_no_name(self, root: Path, project: str) -> None:
        with pytest.raises(RecoveryPointError, match="cannot be a project's name"):
            apply_retention(project, str(root), Policy(last=1), NOW)

    def test_a_project_s_folder_that_is_a_link(self, root: Path, points: list[Path]) -> None:
        (root / "linked").symlink_to(root / "opstage")
        with pytest.raises(RetentionError, match=f"{root}/linked must be a folder .* and no link"):
            apply_retention("linked", str(root), Policy(last=1), NOW)
        assert len(list_recovery_points(str(root), "opstage")) == 5

    def test_a_project_s_folder_that_is_somebody_else_s(self, root: Path, points: list[Path]) -> None:
        os.chown(root / "opstage", 100, 101)
        with pytest.raises(RetentionError, match=f"{root}/opstage must be a folder of user id 0 .* owner 100"):
            retain(root)
        assert len(list_recovery_points(str(root), "opstage")) == 5

    def test_links_are_not_followed(self, root: Path, points: list[Path], tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(points[4], elsewhere)
        before = everything_below(elsewhere)
        shutil.rmtree(points[3])
        points[3].symlink_to(elsewhere)
        (points[4] / "project" / "link").symlink_to(elsewhere)
        leftover = root / "opstage" / ".removed-2026-11-01T00-00-00-000000Z-manual"
        leftover.symlink_to(elsewhere)
        done = retain(root)
        assert [decision.id for decision in done.removed] == [points[2].name, points[4].name]
        assert everything_below(elsewhere) == before
        assert points[3].is_symlink()
        assert leftover.is_symlink()
        assert [decision.id for decision in done.kept] == [points[0].name, points[1].name]


class TestVerified:
    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda point: (point / "manifest.json").unlink(), "it has no manifest.json"),
            (lambda point: (point / "manifest.json").write_bytes(b"{"), "its manifest.json is no JSON"),
            (lambda point: (point / "opstage.db").unlink(), "it has no opstage.db"),
            (
                lambda point: os.truncate(point / "opstage.db", 4096),
                "its opstage.db has 4096 bytes, its manifest says ",
            ),
            (lambda point: change_manifest(point, id=OTHER_ID), f"the id '{OTHER_ID}', expected '2026-11-22T02"),
            (lambda point: change_manifest(point, project="other"), "the project 'other', expected 'opstage'"),
            (lambda point: change_manifest(point, manifest_version=99), "was made by a newer collection"),
            (lambda point: change_database(point, integrity="not checked"), "says that the database was not checked"),
            (change_byte, "its database has SHA-256 .*, its manifest says "),
        ],
    )
    def test_what_is_not_verified_pushes_nothing_out_and_stays(
        self, root: Path, points: list[Path], damage: Callable[[Path], object], words: str
    ) -> None:
        damage(points[0])
        before = everything_below(points[0])
        done = retain(root, Policy(last=1))
        assert [decision.id for decision in done.kept] == [points[0].name, points[1].name]
        assert not done.kept[0].counted
        (reason,) = done.kept[0].reasons
        assert reason.startswith("not verified: ")
        assert_matches(reason, words)
        assert done.kept[1].reasons == ("the newest that is verified", "last 1")
        assert everything_below(points[0]) == before

    def test_one_after_the_other_that_the_rules_would_rely_on(self, root: Path, points: list[Path]) -> None:
        for point in points[:3]:
            change_byte(point)
        done = retain(root, Policy(last=1))
        assert [decision.counted for decision in done.kept] == [False, False, False, True]
        assert [decision.id for decision in done.removed] == [points[4].name]

    def test_quick_does_not_read_them(self, root: Path, points: list[Path]) -> None:
        change_byte(points[0])
        done = retain(root, Policy(last=1), verify="quick", check_mode=True)
        assert [decision.id for decision in done.kept] == [points[0].name]

    def test_nothing_is_read_where_nothing_would_be_removed(
        self, root: Path, points: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = []
        checksum = retention.sha256_of

        def observed(descriptor: int, deadline: Any) -> str:
            read.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            return checksum(descriptor, deadline)

        monkeypatch.setattr(retention, "sha256_of", observed)
        retain(root, Policy(last=5))
        assert read == []
        retain(root, Policy(last=2))
        assert read == [str(point / "opstage.db") for point in points[:2]]


def assert_matches(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        raise ValueError(text)


class TestProtected:
    def test_what_the_last_upgrade_would_roll_back_to(self, root: Path, points: list[Path]) -> None:
        record("upgrade", "finished", recovery_point=str(points[3]))
        record("upgrade", "finished", "2", recovery_point=str(points[4]))
        record("upgrade", "failed", "3", recovery_point=str(points[2]))
        done = retain(root, Policy(last=1))
        assert [decision.id for decision in done.kept] == [points[0].name, points[4].name]
        assert done.kept[1].reasons == ("the last upgrade would roll back to it",)
        record("rollback", "finished", "4")
        assert [decision.id for decision in retain(root, Policy(last=1)).removed] == [points[4].name]

    def test_what_an_unfinished_operation_names(self, root: Path, points: list[Path]) -> None:
        left = {"action": "replace", "database": str(points[3] / "opstage.db"), "sha256": "0"}
        record("restore", "started", recovery_point=str(points[4]), present=None, left=left)
        done = retain(root, Policy(last=1))
        assert [decision.id for decision in done.kept] == [points[0].name, points[3].name, points[4].name]
        assert done.kept[1].reasons == ("the unfinished restore names it",)
        record("restore", "finished")
        assert len(retain(root, Policy(last=1)).kept) == 1

    def test_an_upgrade_that_names_none(self, root: Path, points: list[Path]) -> None:
        record("upgrade", "finished", recovery_point=None)
        assert len(retain(root, Policy(last=1)).kept) == 1

    def test_nothing_is_removed_while_the_journal_cannot_be_read(self, root: Path, points: list[Path]) -> None:
        Path(journal_path("opstage")).mkdir(parents=True)
        with pytest.raises(JournalError):
            retain(root)
        assert len(list_recovery_points(str(root), "opstage")) == 5


class TestRemoval:
    def test_the_name_goes_first_and_for_good(
        self, root: Path, points: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        happened: list[tuple[str, ...]] = []
        for module, name in ((os, "rename"), (retention, "sync_folder"), (shutil, "rmtree")):
            original = getattr(module, name)

            def observed(*arguments: Any, name: str = name, original: Any = original) -> Any:
                happened.append((name, *map(os.path.basename, arguments)))
                return original(*arguments)

            monkeypatch.setattr(module, name, observed)
        retain(root, Policy(last=3))
        one, other = points[3].name, points[4].name
        assert happened == [
            ("rename", one, f".removed-{one}"),
            ("rename", other, f".removed-{other}"),
            ("sync_folder", "opstage"),
            ("rmtree", f".removed-{one}"),
            ("rmtree", f".removed-{other}"),
            ("sync_folder", "opstage"),
        ]

    def test_one_that_is_cut_off_is_finished_by_the_next(
        self, root: Path, points: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(path: str) -> None:
            os.unlink(os.path.join(path, "manifest.json"))
            raise OSError(5, "Input/output error", path)

        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", fail)
            with pytest.raises(RemovalError, match=r"cut off: .*Input/output error.*run this again"):
                retain(root)
        hidden = [f".removed-{point.name}" for point in reversed(points[2:])]
        assert names_in(root / "opstage") == sorted([*hidden, points[0].name, points[1].name])
        size = sum(allocated(root / "opstage" / name) for name in hidden)
        predicted = retain(root, check_mode=True)
        synced = []
        with monkeypatch.context() as patched:
            patched.setattr(retention, "sync_folder", lambda folder: synced.append((folder, names_in(Path(folder)))))
            done = retain(root)
        assert synced == [(str(root / "opstage"), [points[1].name, points[0].name])]
        assert predicted == done
        assert (done.removed, done.freed) == (
            [Decision(name, False, False, ("its removal was cut off",)) for name in hidden],
            size,
        )
        assert names_in(root / "opstage") == [points[1].name, points[0].name]

    def test_one_that_fails_before_it_begins_leaves_all_whole(
        self, root: Path, points: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_source: str, _destination: str) -> None:
            raise OSError(30, "Read-only file system")

        before = everything_below(root)
        with monkeypatch.context() as patched:
            patched.setattr(os, "rename", fail)
            with pytest.raises(RemovalError, match="Read-only file system"):
                retain(root)
        assert everything_below(root) == before


def copy_name(day: int, hour: int = 2) -> str:
    return f"opstage-2026-11-{day:02}T{hour:02}-15-00-633Z.db"


class TestConsoleCopies:
    @pytest.fixture
    def folder(self, root: Path, tmp_path: Path) -> Path:
        """Four copies, the oldest first."""
        folder = tmp_path / "volume" / "backups"
        folder.mkdir(parents=True)
        for day in (18, 19, 20, 21):
            make_database(folder / copy_name(day), 20, "WAL")
        return folder

    def test_they_follow_the_policy_by_themselves(self, root: Path, points: list[Path], folder: Path) -> None:
        removed = [folder / copy_name(19), folder / copy_name(18)]
        size = sum(allocated(path) for path in (*removed, *points[2:]))
        predicted = retain(root, console_copies=str(folder), check_mode=True)
        assert len(names_in(folder)) == 4
        done = retain(root, console_copies=str(folder))
        assert predicted == done
        assert [decision.id for decision in done.removed[3:]] == [path.name for path in removed]
        assert done.freed == size
        assert names_in(folder) == [copy_name(20), copy_name(21)]
        assert retain(root, console_copies=str(folder)).removed == []

    def test_they_stay_when_not_asked_for(self, root: Path, points: list[Path], folder: Path) -> None:
        retain(root)
        assert len(names_in(folder)) == 4

    def test_without_a_recovery_point(self, root: Path, folder: Path) -> None:
        assert len(retain(root, console_copies=str(folder)).removed) == 2

    def test_only_plain_files_with_exactly_such_a_name(self, root: Path, folder: Path, tmp_path: Path) -> None:
        secret = make_database(tmp_path / "secret.db", 1)
        (folder / copy_name(1)).symlink_to(secret)
        (folder / copy_name(2)).mkdir()
        os.mkfifo(folder / copy_name(3))
        others = [
            f"{copy_name(4)}-wal",
            f"{copy_name(5)}\n",
            f"x{copy_name(6)}",
            "opstage.db",
            "opstage-2026-11-07.db",
            "opstage-2026-13-08T02-15-00-633Z.db",
            "opstage-2026-11-09T02:15:00.633Z.db",
            os.fsdecode(b"opstage-\xff.db"),
        ]
        for name in others:
            shutil.copyfile(secret, folder / name)
        done = retain(root, Policy(last=1), console_copies=str(folder))
        assert [decision.id for decision in done.removed] == [copy_name(20), copy_name(19), copy_name(18)]
        planted = [copy_name(1), copy_name(2), copy_name(3)]
        assert names_in(folder) == sorted([*others, *planted, copy_name(21)])
        assert [decision.id for decision in done.kept if not decision.counted] == planted[::-1]
        assert secret.exists()

    @pytest.mark.parametrize(
        ("content", "words"),
        [(b"", "is empty"), (b"x" * 4096, "is not an SQLite database"), (None, "its header says")],
    )
    def test_one_that_is_not_whole_pushes_nothing_out(
        self, root: Path, folder: Path, content: bytes | None, words: str
    ) -> None:
        newest = folder / copy_name(21)
        newest.write_bytes(newest.read_bytes()[:4096] if content is None else content)
        done = retain(root, Policy(last=1), console_copies=str(folder))
        assert names_in(folder) == [copy_name(20), copy_name(21)]
        assert words in done.kept[0].reasons[0]

    def test_a_link_on_the_way_is_refused(self, root: Path, points: list[Path], folder: Path, tmp_path: Path) -> None:
        (tmp_path / "way").symlink_to(tmp_path / "volume")
        (tmp_path / "end").symlink_to(folder)
        for path, part in ((tmp_path / "way" / "backups", "way"), (tmp_path / "end", "end")):
            with pytest.raises(RetentionError, match=f"cannot be entered at '{part}'.*if {folder} is meant"):
                retain(root, console_copies=str(path))
        assert len(names_in(folder)) == 4
        assert len(list_recovery_points(str(root), "opstage")) == 5

    @pytest.mark.parametrize("path", ["backups", "", "."])
    def test_a_path_that_is_not_absolute_is_refused(self, root: Path, points: list[Path], path: str) -> None:
        with pytest.raises(RetentionError, match="expected is an absolute path"):
            retain(root, console_copies=path)
        assert len(list_recovery_points(str(root), "opstage")) == 5

    def test_one_by_its_name(self, folder: Path) -> None:
        remove_console_copy(str(folder), copy_name(19))
        assert names_in(folder) == [copy_name(18), copy_name(20), copy_name(21)]

    def test_one_that_is_not_there_or_no_file(self, folder: Path, tmp_path: Path) -> None:
        secret = make_database(tmp_path / "secret.db", 1)
        (folder / copy_name(1)).symlink_to(secret)
        (folder / copy_name(2)).mkdir()
        for name, words in (
            (copy_name(1), "a symbolic link, expected a file"),
            (copy_name(2), "a folder, expected a file"),
            (copy_name(3), f"{copy_name(3)} in {folder} cannot be removed: No such file or directory"),
            (f"../{copy_name(18)}", "no name that Opstage gives its copies"),
            ("opstage.db", "no name that Opstage gives its copies"),
            (copy_name(18) + "\n", "no name that Opstage gives its copies"),
        ):
            with pytest.raises(RetentionError, match=words):
                remove_console_copy(str(folder), name)
        assert len(names_in(folder)) == 6
        assert secret.exists()

    def test_one_in_a_folder_that_is_a_link_or_missing(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "way").symlink_to(tmp_path / "volume")
        for path, words in (
            (tmp_path / "way" / "backups", "cannot be entered at 'way'"),
            (tmp_path / "x", "no folder"),
        ):
            with pytest.raises(RetentionError, match=words):
                remove_console_copy(str(path), copy_name(18))
        assert len(names_in(folder)) == 4

    def test_a_file_in_its_place_is_refused(self, root: Path, folder: Path) -> None:
        with pytest.raises(RetentionError, match="cannot be entered"):
            retain(root, console_copies=str(folder / copy_name(21)))

    def test_no_folder_yet(self, root: Path, points: list[Path], tmp_path: Path) -> None:
        assert len(retain(root, console_copies=str(tmp_path / "nothing" / "backups")).removed) == 3

    @pytest.mark.parametrize("function", ["lstat", "unlink"])
    def test_one_that_its_owner_removes_meanwhile(
        self, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, function: str
    ) -> None:
        original, unlink = getattr(os, function), os.unlink

        def observed(path: Any, *, dir_fd: int | None = None) -> Any:
            if path == copy_name(19):
                unlink(folder / path)
            return original(path, dir_fd=dir_fd)

        monkeypatch.setattr(os, function, observed)
        retain(root, console_copies=str(folder))
        assert names_in(folder) == [copy_name(20), copy_name(21)]

    def test_another_name_of_one_that_is_removed_keeps_its_bytes(
        self, root: Path, folder: Path, tmp_path: Path
    ) -> None:
        os.link(folder / copy_name(18), tmp_path / "kept.db")
        done = retain(root, Policy(last=3), console_copies=str(folder))
        assert [decision.id for decision in done.removed] == [copy_name(18)]
        assert done.freed == 0

    def test_their_removal_is_for_good(self, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced = []
        monkeypatch.setattr(
            os,
            "fsync",
            lambda descriptor: synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), names_in(folder))),
        )
        retain(root, console_copies=str(folder))
        assert synced == [(str(folder), [copy_name(20), copy_name(21)])]

    def test_descriptors_are_closed(self, root: Path, points: list[Path], folder: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        retain(root, console_copies=str(folder))
        assert len(os.listdir("/proc/self/fd")) == before
