# SPDX-License-Identifier: GPL-3.0-or-later
"""The status page as a browser shows it: what one reads, in which order, on a desk, on a phone and in the dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.fleet_page import format_page
from ansible_collections.capsule.opstage.plugins.module_utils.fleet_status import make_report
from page.browser import Browser, running_browser
from unit.fleet_testing import NOW, fleet

DESK, PHONE = 1280, 360
HOSTS = [
    *("oslo-1", "porto-2", "oslo-2", "lyon-1"),
    *("porto-1", "lyon-2", "oslo-3", "lyon-3"),
    *("berlin-1", "berlin-2", "berlin-3", "porto-3"),
]
"""What needs a person first comes first."""

NAMES = "[...document.querySelectorAll('tbody th')].map(head => [head.getBoundingClientRect().top, head.innerText])"
CELLS = """
[...document.querySelectorAll('tbody')].find(body => body.innerText.startsWith('berlin-2')).querySelectorAll('td')
"""
BOXES = f"[...{CELLS}].map(cell => cell.getBoundingClientRect()).map(box => [box.left, box.top])"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "status.html"
    path.write_text(format_page(make_report(fleet(), NOW)), encoding="utf-8")
    return path


def names(browser: Browser) -> list[str]:
    """The hosts from top to bottom."""
    return [text.split()[0] for _top, text in sorted(browser.find(NAMES))]


def test_what_one_reads(browser: Browser, page: Path) -> None:
    browser.show(page, DESK)
    assert browser.find("document.title") == "Opstage: 12 hosts: 4 critical, 4 warning, 4 ok"
    text = browser.find("document.querySelector('main').innerText")
    for words in (
        "12 hosts: 4 critical, 4 warning, 4 ok. Made 2026-11-23 09:30 UTC",
        "It cannot be reached: Failed to connect to the host via ssh",
        "The upgrade that began at",
        "30 in all, drill passed 2026-11-21",
        "next 2026-11-24 02:30 UTC",
        "One tag, several images",
        "sha256:9e107d9d372b on lyon-3",
    ):
        assert words in text, words
    assert "<" not in text
    assert "&" not in text


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_what_needs_a_person_first_is_on_top(browser: Browser, page: Path, width: int) -> None:
    browser.show(page, width)
    assert names(browser) == HOSTS
    top = browser.find("document.querySelector('tbody').getBoundingClientRect().top")
    assert top < 250


def test_it_asks_for_nothing_else(browser: Browser, page: Path) -> None:
    browser.show(page, DESK)
    assert browser.requests == [page.as_uri()]
    links = "[...document.querySelectorAll('[src], [href], script, link, iframe')].length"
    assert browser.find(links) == 0


def test_what_it_is_made_to_ask_for_is_refused(browser: Browser, page: Path, tmp_path: Path) -> None:
    """An image that a name of a host would bring into the page; without the page's policy the browser fetches it."""
    document = page.read_text(encoding="utf-8")
    image = tmp_path / "outside.svg"
    image.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="50" height="50"/>', encoding="ascii")
    hostile = document.replace("<main>", f'<main><img id="outside" src="{image.as_uri()}">')
    free = hostile.replace("Content-Security-Policy", "x-nothing")
    assert document != hostile != free
    shown = {}
    for name, content in (("kept", hostile), ("free", free)):
        path = tmp_path / f"{name}.html"
        path.write_text(content, encoding="utf-8")
        browser.show(path, DESK)
        shown[name] = browser.find("document.querySelector('#outside').naturalWidth")
    assert shown == {"kept": 0, "free": 50}
    assert image.as_uri() in browser.requests


def test_on_a_desk_a_host_is_a_line(browser: Browser, page: Path) -> None:
    browser.show(page, DESK)
    boxes = browser.find(BOXES)
    assert len(boxes) == 5
    assert len({top for _left, top in boxes}) == 1
    assert [left for left, _top in boxes] == sorted({left for left, _top in boxes})


def test_on_a_phone_a_host_is_a_card(browser: Browser, page: Path) -> None:
    browser.show(page, PHONE)
    assert browser.find("document.documentElement.scrollWidth") == PHONE
    outside = "[...document.querySelectorAll('main *')].filter(one => one.getBoundingClientRect().right > innerWidth)"
    assert browser.find(f"{outside}.filter(one => !one.closest('thead')).map(one => one.outerHTML)") == []
    boxes = browser.find(BOXES)
    assert len({left for left, _top in boxes}) == 1
    assert [top for _left, top in boxes] == sorted({top for _left, top in boxes})
    labels = browser.find(f"[...{CELLS}].map(cell => getComputedStyle(cell, '::before').content)")
    assert [json.loads(label) for label in labels] == [
        *("Opstage", "Newest verified", "Points, 30 days"),
        *("Room", "Timer"),
    ]
    sizes = browser.find("[...document.querySelectorAll('td, th, small')].map(one => getComputedStyle(one).fontSize)")
    assert min(float(size.removesuffix("px")) for size in sizes) >= 13
    assert browser.find("document.querySelector('tbody th').innerText") == "oslo-1 critical"


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_a_screen_reader_is_told_of_a_table(browser: Browser, page: Path, width: int) -> None:
    browser.show(page, width)
    roles = browser.roles()
    assert roles.count("table") == 1
    assert roles.count("rowheader") == len(HOSTS)
    assert roles.count("columnheader") == 6
    assert roles.count("image") + roles.count("img") == 10


def test_in_the_dark(browser: Browser, page: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    found = []
    for scheme in ("light", "dark"):
        browser.show(page, DESK, scheme=scheme)
        found.append(browser.find(ground))
    assert found == ["rgb(255, 255, 255)", "rgb(21, 24, 27)"]
