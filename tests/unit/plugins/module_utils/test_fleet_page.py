# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.fleet_page import format_page
from ansible_collections.capsule.opstage.plugins.module_utils.fleet_status import make_report
from fleet_testing import NOW, damaged_point, deployment, fleet, lock, point, result, status, unreachable

VOID = {"meta"}
LOADING = {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
HOSTILE = """<script>alert(1)</script>"'&amp;\x1b[2J<img src=x onerror=alert(1)>"""


class Page(HTMLParser):
    """A page, which must be well-formed: `elements` with their attributes, `cells` by row, `text` without the style."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(document)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "title"):
            self.text += data
            if self.rows and self.rows[-1] and {"td", "th"} & set(self._open):
                self.rows[-1][-1] += f"{data.strip()}|"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(**results: Any) -> Page:
    return Page(format_page(make_report(results, NOW)))


@pytest.fixture(scope="module")
def document() -> str:
    return format_page(make_report(fleet(), NOW))


@pytest.fixture(scope="module")
def page(document: str) -> Page:
    return Page(document)


def test_hosts_are_sorted_and_named_with_their_state(page: Page) -> None:
    heads = [row[0] for row in page.rows if len(row) > 1]
    assert heads == [
        "Host|",
        "oslo-1|critical|",
        "porto-2|critical|",
        "oslo-2|critical|",
        "lyon-1|critical|",
        "porto-1|warning|",
        "lyon-2|warning|",
        "oslo-3|warning|",
        "lyon-3|warning|",
        "berlin-1|ok|",
        "berlin-2|ok|",
        "berlin-3|ok|",
        "porto-3|ok|",
    ]


def test_what_is_said_of_hosts(page: Page) -> None:
    rows = {row[0].partition("|")[0]: row[1:] for row in page.rows if len(row) > 1}
    assert rows["Host"] == ["Opstage|", "Newest verified|", "Points, 30 days|", "Room|", "Timer|"]
    assert [cell.partition(":")[0] for cell in rows["oslo-1"]] == ["It cannot be reached"]
    assert rows["oslo-2"][0] == "0.2.0, no answer|"
    newest, points, room, timer = rows["berlin-2"][1:]
    assert newest == "7 hours ago|2026-11-23 02:30 UTC|"
    assert points == "30 in all, drill passed 2026-11-21|"
    assert room == "for 523 more|21.0 GB free|"
    assert timer == "on|next 2026-11-24 02:30 UTC|"
    assert rows["lyon-1"][2] == "4 in all, 4 encrypted|"
    assert rows["oslo-3"][2] == "3 in all, 2 not verified|"
    assert rows["porto-1"][4].endswith("last one failed|")


def test_problems_follow_their_host(page: Page) -> None:
    after = {
        page.rows[number - 1][0].partition("|")[0]: row[0] for number, row in enumerate(page.rows) if len(row) == 1
    }
    assert list(after) == ["oslo-2", "lyon-1", "porto-1", "lyon-2", "oslo-3", "lyon-3"]
    assert after["oslo-2"].count("|") == 2


def test_the_page_says_when_and_how_many(page: Page, document: str) -> None:
    assert "12 hosts: 4 critical, 4 warning, 4 ok. Made 2026-11-23 09:30 UTC by capsule.opstage" in page.text
    assert page.all("time") == [{"datetime": "2026-11-23T09:30:00.000000Z"}]
    assert "<title>Opstage: 12 hosts: 4 critical" in document
    assert "sha256:45b23dee08af on 8 hosts" in page.text
    assert "sha256:9e107d9d372b on lyon-3" in page.text
    assert "One tag" not in page_of(web=result()).text


def test_the_page_needs_nothing_else(page: Page, document: str) -> None:
    assert not LOADING & {name for name, _attributes in page.elements}
    assert not re.search(r"url\(|@import|https?:|javascript:", document)
    assert not {
        name for _tag, attributes in page.elements for name in attributes if name.startswith(("on", "src", "href"))
    }
    assert {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"} in (
        page.all("meta")
    )


def test_the_page_can_be_read_by_everybody(page: Page, document: str) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert [head["scope"] for head in page.all("th")] == ["col"] * 6 + ["row"] * 12
    assert len(page.all("svg")) == 10
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in page.all("svg"))
    # Where a phone shows blocks and no table, the roles keep it one.
    for tag, role in {"table": "table", "tr": "row", "td": "cell", "tbody": "rowgroup"}.items():
        assert {attributes["role"] for attributes in page.all(tag)} == {role}
    assert "@media (prefers-color-scheme: dark)" in document
    assert "@media (max-width: 600px)" in document


def colours(document: str) -> list[dict[str, str]]:
    """The colours by name, light and dark."""
    blocks = re.findall(r":root \{([^}]*)\}", document)
    return [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", block)) for block in blocks]


def luminance(colour: str) -> float:
    """Of a colour such as #fff or #15181b (WCAG 2.2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast(document: str) -> None:
    schemes = colours(document)
    assert len(schemes) == 2
    for scheme in schemes:
        for ground in ("ground", "critical-ground"):
            for text, least in {
                "text": 4.5,
                "faint": 4.5,
                "critical": 4.5,
                "warning": 4.5,
                "ok": 4.5,
                "bar": 3,
            }.items():
                lighter, darker = sorted((luminance(scheme[ground]), luminance(scheme[text])), reverse=True)
                assert (lighter + 0.05) / (darker + 0.05) >= least, (text, ground, scheme)


def test_all_that_others_named_is_escaped() -> None:
    flawed = {**damaged_point(days=1), "flaw": HOSTILE, "id": HOSTILE}
    host = status(
        [flawed, point(hours=1)],
        summary=HOSTILE,
        deployment=deployment(version=HOSTILE, status=HOSTILE, tag=HOSTILE, repository=HOSTILE, container=HOSTILE),
        lock={**lock(), "operation": HOSTILE, "user": HOSTILE},
        room={"folder": HOSTILE, "free": 1, "fit": 0},
        timer={"state": HOSTILE, "next": None},
        last_scheduled_backup={**status()["last_scheduled_backup"], "outcome": "failure", "error": HOSTILE},
    )
    other = status(deployment=deployment(tag=HOSTILE, repository=HOSTILE, digest=HOSTILE))
    results = {HOSTILE: result(host), "other": result(other), "gone": unreachable(HOSTILE)}
    document = format_page(make_report(results, NOW))
    page = Page(document)
    assert "<script" not in document
    assert "<img" not in document
    assert "\x1b" not in document
    assert page.rows[1][1].startswith("It cannot be reached: Failed to connect to the host via ssh: <script>alert(1)")
    assert HOSTILE.replace("\x1b", "\\x1b") in page.text


class TestChart:
    @staticmethod
    def paths(*points: dict[str, Any]) -> dict[str, str]:
        page = page_of(web=result(status(list(points))))
        return {str(path["class"]): str(path["d"]) for path in page.all("path")}

    def test_a_bar_for_each_point_at_its_time(self) -> None:
        drawn = self.paths(point(days=31), point(days=30), point(days=15, size=20_000_000), point(hours=0))
        assert drawn["bars"] == "M1 23v-22M90 23v-14M179 23v-22"
        assert "flawed" not in drawn

    def test_what_is_not_verified_is_dashed(self) -> None:
        drawn = self.paths(point(days=15, verified=False, flaw="it is not checked"), point(hours=0))
        assert (drawn["flawed"], drawn["bars"]) == ("M90 23v-22", "M179 23v-22")

    def test_points_of_one_hour_are_one_bar(self) -> None:
        drawn = self.paths(*(point(hours=hours / 10) for hours in range(10, 0, -1)))
        assert drawn["bars"].count("M") == 1

    def test_no_points(self) -> None:
        assert list(self.paths()) == ["axis"]
        assert list(self.paths(damaged_point(days=1), point(days=-1))) == ["axis"]


def test_a_page_grows_with_its_hosts_only() -> None:
    hourly = [point(hours=hours / 6) for hours in range(720 * 6, 0, -1)]
    assert len(format_page(make_report({"web": result(status(hourly))}, NOW))) < 10_000
