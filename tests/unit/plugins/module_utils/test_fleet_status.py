# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.fleet_status import (
    describe_counts,
    format_json,
    format_table,
    in_need,
    make_report,
)
from fleet_testing import (
    DIGEST,
    NOW,
    OTHER_DIGEST,
    REPOSITORY,
    deployment,
    fleet,
    point,
    result,
    status,
    unreachable,
)


def report_of(**results: Any) -> dict[str, Any]:
    return make_report(results, NOW)


def with_digest(digest: str | None, tag: str | None = "0.3.0", repository: str = REPOSITORY) -> dict[str, Any]:
    return result(status(deployment=deployment(digest=digest, tag=tag, repository=repository)))


def kinds(report: dict[str, Any]) -> dict[str, list[str]]:
    return {row["host"]: [one["kind"] for one in row["problems"]] for row in report["hosts"]}


def test_the_fleet_in_the_order_in_which_it_needs_a_person() -> None:
    report = make_report(fleet(), NOW)
    assert kinds(report) == {
        "oslo-1": ["unreachable"],
        "porto-2": ["unknown"],
        "oslo-2": ["unfinished", "health"],
        "lyon-1": ["backup"],
        "porto-1": ["schedule"],
        "lyon-2": ["room"],
        "oslo-3": ["timer", "verification"],
        "lyon-3": ["digest"],
        "berlin-1": [],
        "berlin-2": [],
        "berlin-3": [],
        "porto-3": [],
    }
    assert [row["host"] for row in report["hosts"]] == list(kinds(report))
    severities = [row["severity"] for row in report["hosts"]]
    assert severities == ["critical"] * 4 + ["warning"] * 4 + ["ok"] * 4
    assert report["counts"] == {"critical": 4, "warning": 4, "ok": 4}
    assert in_need(report) == list(kinds(report))[:8]
    assert describe_counts(report) == "12 hosts: 4 critical, 4 warning, 4 ok"


def test_of_one_kind_that_with_more_problems_comes_first_then_by_name() -> None:
    off = {"state": "off", "next": None}
    more = result(status(timer=off, room={"folder": "/", "free": 1, "fit": 0}))
    report = report_of(b=result(status(timer=off)), a=result(status(timer=off)), z=more)
    assert [row["host"] for row in report["hosts"]] == ["z", "a", "b"]


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        (None, "unknown", "It was not asked"),
        (unreachable("line one\n  line two."), "unreachable", "via ssh: line one line two. See that it runs"),
        ({"failed": True, "msg": "opstage_max_backup_age: no"}, "unknown", "It could not be asked: opstage_max_backup"),
        ({"failed": True}, "unknown", "no reason is given"),
        ({"failed": True, "msg": "x" * 10_000}, "unknown", "x" * 400 + "…"),
    ],
)
def test_a_host_that_gave_no_answer_is_a_row(given: dict[str, Any] | None, kind: str, said: str) -> None:
    (row,) = report_of(web=given)["hosts"]
    assert (row["severity"], [one["kind"] for one in row["problems"]]) == ("critical", [kind])
    assert said in row["problems"][0]["text"]
    assert len(row["problems"][0]["text"]) < 600
    assert row["deployment"] is None


def test_no_host_is_lost_where_none_answers() -> None:
    report = make_report({f"web{number}": unreachable() for number in range(5)}, NOW)
    assert in_need(report) == [f"web{number}" for number in range(5)]
    assert "web4" in "\n".join(format_table(report))


class TestDigests:
    def test_those_that_are_not_like_most_hosts(self) -> None:
        report = report_of(a=with_digest(DIGEST), b=with_digest(OTHER_DIGEST), c=with_digest(DIGEST))
        assert kinds(report) == {"b": ["digest"], "a": [], "c": []}
        text = report["hosts"][0]["problems"][0]["text"]
        assert text.startswith("The tag 0.3.0 is sha256:9e107d9d372b here and another image on 2 other hosts: find out")
        assert report["digests"] == [
            {"repository": REPOSITORY, "tag": "0.3.0", "hosts": {DIGEST: ["a", "c"], OTHER_DIGEST: ["b"]}}
        ]

    def test_all_where_no_digest_is_that_of_most(self) -> None:
        report = report_of(a=with_digest(DIGEST), b=with_digest(OTHER_DIGEST))
        assert kinds(report) == {"a": ["digest"], "b": ["digest"]}
        assert "on 1 other host: find out" in report["hosts"][0]["problems"][0]["text"]

    @pytest.mark.parametrize(
        "other",
        [
            with_digest(None),
            with_digest(OTHER_DIGEST, tag="0.2.0"),
            with_digest(OTHER_DIGEST, tag=None),
            with_digest(OTHER_DIGEST, repository="registry:5000/opstage"),
        ],
        ids=["built on the host", "another tag", "no tag", "another repository"],
    )
    def test_what_does_not_differ(self, other: dict[str, Any]) -> None:
        report = report_of(a=with_digest(DIGEST), b=other, c=unreachable())
        assert report["digests"] == []
        assert kinds(report) == {"c": ["unreachable"], "a": [], "b": []}


class TestTable:
    def test_fleet(self) -> None:
        lines = format_table(make_report(fleet(), NOW))
        assert lines[0].split("  ")[0] == "HOST"
        assert lines[1].split() == ["oslo-1", "critical", "-", "-", "-", "-", "-", "-"]
        assert " ".join(lines[3].split()) == "oslo-2 critical 0.2.0 no answer 7 hours ago 20 523 on"
        assert " ".join(lines[12].split()) == "porto-3 ok 0.3.0 UP 7 hours ago 30 523 on"
        columns = {line.index(cell) for line, cell in ((lines[0], "STATE"), (lines[1], "critical"), (lines[12], "ok"))}
        assert len(columns) == 1
        assert lines[13:15] == ["", "12 hosts: 4 critical, 4 warning, 4 ok"]
        assert lines[15].startswith("oslo-1: critical: It cannot be reached: ")
        assert lines[-1] == f"{REPOSITORY}:0.3.0 is {OTHER_DIGEST} on lyon-3"

    def test_one_host_is_one_line(self) -> None:
        assert format_table(report_of(web=result())) == ["web: opstage: Opstage 0.3.0, UP"]

    def test_one_host_with_a_problem(self) -> None:
        lines = format_table(report_of(web=result(status([point(days=3)]))))
        assert lines[0] == "web: opstage: Opstage 0.3.0, UP"
        assert lines[1].startswith("web: critical: The newest verified recovery point is 3 days old")
        assert len(lines) == 2

    def test_names_do_not_control_the_terminal(self) -> None:
        hostile = result(status(deployment=deployment(version="0.3.0\x1b[2J\nok", status="DOWN")))
        lines = format_table(make_report({"web\x1b]0;x\x07\r": hostile, "other": result()}, NOW))
        assert all(line.isprintable() for line in lines)
        assert "web\\x1b]0;x\\x07\\r" in lines[1]


def test_json_has_it_all() -> None:
    report = make_report(fleet(), NOW)
    document = format_json(report)
    assert json.loads(document) == report
    assert document.endswith(b"}\n")
    assert set(report) == {"made", "collection_version", "counts", "digests", "hosts"}
    fields = {frozenset(row) for row in report["hosts"]}
    assert fields == {frozenset(result()) - {"changed"} | {"host", "severity"}}
