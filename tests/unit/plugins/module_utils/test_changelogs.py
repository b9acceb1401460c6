# SPDX-License-Identifier: GPL-3.0-or-later
"""Changelogs from real folders and from servers on 127.0.0.1."""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import changelog_facts, changelogs
from ansible_collections.capsule.opstage.plugins.module_utils.changelogs import (
    Changelog,
    ChangelogError,
    describe_changelogs,
    presentable,
    read_changelogs,
)
from ansible_collections.capsule.opstage.plugins.module_utils.semantic_version import VersionError, parse_version
from opstage_testing import Answer, Service, saying, serving, unused_url

MARKDOWN = """# Changelog

## [Unreleased]

- To come

## [0.4.0](https://example.org/compare) (2026-03-01)

### Added

- A bus

## 0.3.1

```sh
# a comment, no heading
```

After the code.

## [0.3.0] - 2026-01-01

- Faster

# v0.2.0

- First
"""

RESTRUCTURED = """=========
Changelog
=========

v0.4.0
======

Release Summary
---------------

A bus.

v0.3.0
======

::

    v0.2.0
    ======

Faster.

v0.2.0
======

First.
"""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "changelogs").mkdir()
    return tmp_path / "changelogs"


@pytest.fixture
def server() -> Iterator[Service]:
    with serving({}) as service:
        yield service


def page(text: str | bytes, kind: str = "text/plain", **headers: str) -> Answer:
    body = text.encode() if isinstance(text, str) else text
    return 200, {"Content-Type": kind, **headers}, body


def read_one(version: str, source: str | Path | None) -> Changelog:
    (changelog,) = read_changelogs([version], None if source is None else str(source))
    assert changelog.version == version
    return changelog


def text_of(version: str, source: str | Path) -> str:
    changelog = read_one(version, source)
    assert changelog.found, changelog.text
    return changelog.text


def missing(version: str, source: str | Path | None) -> str:
    changelog = read_one(version, source)
    assert not changelog.found, changelog.text
    assert changelog.text.startswith(f"No changelog of {version} was found at {changelog.source}: ")
    assert changelog.text.endswith(".")
    return changelog.text


class TestVersions:
    def test_ascending_as_versions_and_each_once(self, folder: Path) -> None:
        for version in ("0.9.0", "0.10.0", "0.10.0-rc.2"):
            (folder / f"{version}.md").write_text(f"text of {version}")
        found = read_changelogs(["0.10.0", "0.9.0", "0.10.0-rc.2", "0.9.0"], str(folder))
        assert [(changelog.version, changelog.text) for changelog in found] == [
            (version, f"text of {version}") for version in ("0.9.0", "0.10.0-rc.2", "0.10.0")
        ]

    @pytest.mark.parametrize(
        ("current", "expected"),
        [("0.2.0", ["0.3.0", "0.4.0"]), ("0.3.0", ["0.4.0"]), ("0.4.0", []), ("edge", ["0.3.0", "0.4.0"])],
    )
    def test_only_those_after_the_current_one(self, current: str, expected: list[str]) -> None:
        found = read_changelogs(["0.4.0", "0.3.0"], current=current)
        assert [changelog.version for changelog in found] == expected

    def test_nothing_to_read_asks_for_nothing(self) -> None:
        assert read_changelogs([], "/does/not/exist") == []
        assert describe_changelogs([]) == "There is no newer version whose changelog is to be read."

    def test_a_version_that_is_none(self) -> None:
        with pytest.raises(VersionError, match="'edge' is no version"):
            read_changelogs(["0.3.0", "edge"])


class TestFacts:
    def test_versions_are_versions(self) -> None:
        parsed = [parse_version(version) for version in changelog_facts.FACTS]
        assert parsed == sorted(parsed)
        assert len(parsed) == 4

    def test_they_are_said_to_be_observations(self) -> None:
        changelog = read_one("0.4.0", None)
        assert (changelog.found, changelog.source) == (True, changelog_facts.SOURCE)
        assert changelog.text.startswith("Observations of this collection on the running software; they are not Opst")
        assert "\n- New tables: bus_events and bus_routes.\n- An older version" in changelog.text

    def test_a_version_that_was_not_observed(self) -> None:
        assert "it has observations of 0.1.0, 0.2.0, 0.3.0, 0.4.0 only; name a folder" in missing("0.5.0", None)


class TestFolder:
    def test_a_file_for_each_version_comes_first(self, folder: Path) -> None:
        (folder / "0.3.0.md").write_text("\n# whatever its heading\n\nfirst\n\n# 0.2.0\n\nsecond\n")
        (folder / "CHANGELOG.md").write_text(MARKDOWN)
        changelog = read_one("0.3.0", folder)
        assert changelog.text == "# whatever its heading\n\nfirst\n\n# 0.2.0\n\nsecond"
        assert changelog.source == str(folder / "0.3.0.md")
        assert read_one("0.2.0", folder).source == str(folder / "CHANGELOG.md")

    def test_markdown_comes_before_restructured_text(self, folder: Path) -> None:
        (folder / "CHANGELOG.rst").write_text(RESTRUCTURED)
        assert read_one("0.2.0", folder).source == str(folder / "CHANGELOG.rst")
        (folder / "CHANGELOG.md").write_text(MARKDOWN)
        assert read_one("0.2.0", folder).source == str(folder / "CHANGELOG.md")

    def test_from_the_home_folder(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(folder.parent))
        (folder / "0.3.0.md").write_text("text")
        assert text_of("0.3.0", "~/changelogs") == "text"

    def test_a_missing_one_is_said(self, folder: Path) -> None:
        (folder / "0.3.0.md").write_text("text")
        found = read_changelogs(["0.3.0", "0.3.1"], str(folder))
        assert [changelog.found for changelog in found] == [True, False]
        assert found[1].text == (
            f"No changelog of 0.3.1 was found at {folder}: it has neither 0.3.1.md nor CHANGELOG.md nor CHANGELOG.rst."
        )

    def test_all_missing_is_no_failure(self, folder: Path) -> None:
        missing("0.3.0", folder)

    def test_a_changelog_without_the_version(self, folder: Path) -> None:
        (folder / "CHANGELOG.md").write_text(MARKDOWN)
        assert missing("0.3.2", folder) == (
            f"No changelog of 0.3.2 was found at {folder / 'CHANGELOG.md'}: it has no heading of 0.3.2."
        )

    @pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\r\n\x1b"])
    def test_an_empty_one(self, folder: Path, content: bytes) -> None:
        (folder / "0.3.0.md").write_bytes(content)
        assert missing("0.3.0", folder).endswith(": it is empty.")

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ChangelogError) as error:
            read_changelogs(["0.3.0"], str(tmp_path / "none"))
        assert str(error.value).startswith(
            f"No changelog can be read at {tmp_path / 'none'}: the folder cannot be read: No such file or directory. "
            "Expected as source: an absolute path of a folder"
        )

    def test_a_file_where_a_folder_is_expected(self, folder: Path) -> None:
        (folder / "CHANGELOG.md").write_text(MARKDOWN)
        with pytest.raises(ChangelogError, match="Not a directory"):
            read_changelogs(["0.3.0"], str(folder / "CHANGELOG.md"))

    @pytest.mark.parametrize(
        "source",
        [
            "",
            "changelogs",
            "ftp://127.0.0.1/{version}.md",
            "file:///etc/{version}.md",
            "/srv/{version}.md",
            "http:/x/{version}",
        ],
    )
    def test_neither_folder_nor_url(self, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder.parent)
        with pytest.raises(ChangelogError, match=r"neither an http\(s\) URL nor an absolute path"):
            read_changelogs(["0.3.0"], source)

    @pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
    def test_what_is_no_file_or_cannot_be_read(self, folder: Path, kind: str) -> None:
        path = folder / "0.3.0.md"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(path)
        reason = "Too many levels of symbolic links" if kind == "link" else "no regular file"
        with pytest.raises(ChangelogError, match=reason):
            read_changelogs(["0.3.0"], str(folder))
        (folder / "0.4.0.md").write_text("text")
        found = read_changelogs(["0.3.0", "0.4.0"], str(folder))
        assert [changelog.found for changelog in found] == [False, True]
        assert reason in found[0].text


class TestMarkdown:
    @pytest.fixture
    def changelog(self, folder: Path) -> Path:
        return folder / "CHANGELOG.md"

    def test_sections(self, changelog: Path) -> None:
        changelog.write_text(MARKDOWN)
        assert text_of("0.4.0", changelog.parent) == (
            "## [0.4.0](https://example.org/compare) (2026-03-01)\n\n### Added\n\n- A bus"
        )
        assert text_of("0.3.1", changelog.parent) == (
            "## 0.3.1\n\n```sh\n# a comment, no heading\n```\n\nAfter the code."
        )
        assert text_of("0.3.0", changelog.parent) == "## [0.3.0] - 2026-01-01\n\n- Faster"
        assert text_of("0.2.0", changelog.parent) == "# v0.2.0\n\n- First"

    @pytest.mark.parametrize(
        "heading",
        [
            "# 0.3.0",
            "###### v0.3.0 ######",
            "   ## V0.3.0: a bus",
            "##\t0.3.0",
            "## Version 0.3.0",
            "## Release v0.3.0 (2026-01-01)",
            "## Opstage CE 0.3.0",
            "## **0.3.0**",
            "## `v0.3.0`.",
            "## 0.3.0. A bus",
            "## 0.3.0- a bus",
            "0.3.0\n   ===",
            "## 0.3.0 - 2026",
            "0.3.0\n=====",
            "[0.3.0] - 2026\n---",
        ],
    )
    def test_headings_of_the_version(self, changelog: Path, heading: str) -> None:
        changelog.write_text(f"before\n\n{heading}\nafter\n")
        assert text_of("0.3.0", changelog.parent) == f"{heading}\nafter".strip("\n")

    @pytest.mark.parametrize(
        "line",
        [
            "0.3.0",
            "##0.3.0",
            "####### 0.3.0",
            "    # 0.3.0",
            "- # 0.3.0",
            "# 0.3.0-rc.1",
            "# 0.3.0.1",
            "# 10.3.0",
            "# 0.3.01",
            "# 0.3",
            "# Upgrading from 0.3.0",
            "# 0.3.1 repairs 0.3.0",
            "# 0.2.0\n0.3.0\n=====",
            "```\n# 0.3.0\n```",
            "~~~ sh\n```\n# 0.3.0\n~~~",
            "````\n```\n# 0.3.0\n````",
            "```\n~~~\n# 0.3.0\n```",
            "```\n``` sh\n# 0.3.0\n```",
        ],
    )
    def test_no_headings_of_the_version(self, changelog: Path, line: str) -> None:
        changelog.write_text(f"{line}\ntext\n")
        missing("0.3.0", changelog.parent)

    @pytest.mark.parametrize(
        "fenced", ["```\n# x\n```", "~~~ sh\n# x\n~~~~  ", "````\n# x\n```\n# y\n`````", "``` is no `fence` ```"]
    )
    def test_a_heading_after_a_fence(self, changelog: Path, fenced: str) -> None:
        changelog.write_text(f"# 0.3.0\n{fenced}\n# 0.2.0\nold\n")
        assert text_of("0.3.0", changelog.parent) == f"# 0.3.0\n{fenced}"
        assert text_of("0.2.0", changelog.parent) == "# 0.2.0\nold"

    def test_a_section_ends_at_the_same_or_a_higher_level_only(self, changelog: Path) -> None:
        changelog.write_text("# A\n## 0.4.0\na\n### 0.3.1\nb\n#### c\n### 0.3.0\nd\n# B\ne\n")
        assert text_of("0.4.0", changelog.parent) == "## 0.4.0\na\n### 0.3.1\nb\n#### c\n### 0.3.0\nd"
        assert text_of("0.3.1", changelog.parent) == "### 0.3.1\nb\n#### c"
        assert text_of("0.3.0", changelog.parent) == "### 0.3.0\nd"

    def test_underlined_titles(self, changelog: Path) -> None:
        changelog.write_text("News\n====\n\n0.4.0\n-----\na\n\n### b\n\n0.3.0\n-----\nc\n\nOld\n===\nd\n")
        assert text_of("0.4.0", changelog.parent) == "0.4.0\n-----\na\n\n### b"
        assert text_of("0.3.0", changelog.parent) == "0.3.0\n-----\nc"
        changelog.write_text("0.4.0\n=====\na\n\n0.3.1\n-----\nb\n")
        assert text_of("0.4.0", changelog.parent) == "0.4.0\n=====\na\n\n0.3.1\n-----\nb"

    def test_a_rule_does_not_end_a_section(self, changelog: Path) -> None:
        changelog.write_text("## 0.4.0\n\na\n---\nb\n\n---\n\nc\n\n## 0.3.0\n")
        assert text_of("0.4.0", changelog.parent) == "## 0.4.0\n\na\n---\nb\n\n---\n\nc"

    def test_the_first_section_of_a_version_counts(self, changelog: Path) -> None:
        changelog.write_text("## 0.3.0\nfirst\n## 0.3.0\nsecond\n")
        assert text_of("0.3.0", changelog.parent) == "## 0.3.0\nfirst"

    def test_line_ends_of_windows_and_a_byte_order_mark(self, changelog: Path) -> None:
        changelog.write_bytes(b"\xef\xbb\xbf# 0.3.0\r\na\r\n\r\nb\rc\r\n# 0.2.0\r\n")
        assert text_of("0.3.0", changelog.parent) == "# 0.3.0\na\n\nb\nc"

    def test_a_heading_without_end_takes_no_time(self, changelog: Path) -> None:
        changelog.write_text("# " + "*" * 500_000 + "\n# 0.3.0\n")
        began = time.monotonic()
        assert text_of("0.3.0", changelog.parent) == "# 0.3.0"
        assert time.monotonic() - began < 5


class TestRestructuredText:
    @pytest.fixture
    def changelog(self, folder: Path) -> Path:
        return folder / "CHANGELOG.rst"

    def test_sections(self, changelog: Path) -> None:
        changelog.write_text(RESTRUCTURED)
        assert text_of("0.4.0", changelog.parent) == ("v0.4.0\n======\n\nRelease Summary\n---------------\n\nA bus.")
        assert text_of("0.3.0", changelog.parent) == "v0.3.0\n======\n\n::\n\n    v0.2.0\n    ======\n\nFaster."
        assert text_of("0.2.0", changelog.parent) == "v0.2.0\n======\n\nFirst."

    def test_levels_are_in_the_order_of_appearance(self, changelog: Path) -> None:
        changelog.write_text("A\n~~~\n\n0.4.0\n+++++\na\n\nB\n===\nb\n\n0.3.0\n+++++\nc\n\nC\n~~~\nd\n")
        assert text_of("0.4.0", changelog.parent) == "0.4.0\n+++++\na\n\nB\n===\nb"
        assert text_of("0.3.0", changelog.parent) == "0.3.0\n+++++\nc"

    def test_an_overline_makes_another_level(self, changelog: Path) -> None:
        changelog.write_text("=======\n 0.4.0\n=======\na\n\nB\n===\nb\n\n=======\n 0.3.0\n=======\nc\n")
        assert text_of("0.4.0", changelog.parent) == "=======\n 0.4.0\n=======\na\n\nB\n===\nb"
        assert text_of("0.3.0", changelog.parent) == "=======\n 0.3.0\n=======\nc"

    def test_a_line_below_an_underline_is_no_underline(self, changelog: Path) -> None:
        changelog.write_text("A\n----\n\n0.4.0\n=====\n----\na\n")
        assert text_of("0.4.0", changelog.parent) == "0.4.0\n=====\n----\na"

    def test_headings_without_blank_lines_between(self, changelog: Path) -> None:
        changelog.write_text("Changelog\n=====\n0.4.0\n=====\n0.3.0\n=====\na\n")
        assert text_of("0.4.0", changelog.parent) == "0.4.0\n====="
        assert text_of("0.3.0", changelog.parent) == "0.3.0\n=====\na"

    @pytest.mark.parametrize(
        "text",
        ["0.3.0\n===", "0.3.0\n==-==", "text\n0.3.0\n=====", " 0.3.0\n======", "0.3.0\n\n=====", "# 0.3.0", "0.3.0"],
    )
    def test_no_headings(self, changelog: Path, text: str) -> None:
        changelog.write_text(f"{text}\n\nmore\n")
        missing("0.3.0", changelog.parent)


class TestServer:
    def test_a_page_for_each_version(self, server: Service) -> None:
        server.answers.update({"/v0.3.0/0.3.0.md": page("three"), "/v0.4.0/0.4.0.md": page("four")})
        found = read_changelogs(["0.4.0", "0.3.1", "0.3.0"], f"{server.url}/v{{version}}/{{version}}.md")
        assert found == [
            Changelog("0.3.0", "three", True, f"{server.url}/v0.3.0/0.3.0.md"),
            Changelog(
                "0.3.1",
                f"No changelog of 0.3.1 was found at {server.url}/v0.3.1/0.3.1.md: HTTP 404.",
                False,
                f"{server.url}/v0.3.1/0.3.1.md",
            ),
            Changelog("0.4.0", "four", True, f"{server.url}/v0.4.0/0.4.0.md"),
        ]

    def test_more_versions_than_are_asked_for_at_once(self, server: Service) -> None:
        versions = [f"0.{minor}.0" for minor in range(2 * changelogs.REQUESTS_AT_ONCE + 1)]
        server.answers.update({f"/{version}": page(f"text of {version}") for version in versions})
        found = read_changelogs(versions, f"{server.url}/{{version}}")
        assert [changelog.text for changelog in found] == [f"text of {version}" for version in versions]

    def test_one_changelog_is_asked_for_once(self, server: Service) -> None:
        server.answers["/CHANGES"] = page(MARKDOWN)
        found = read_changelogs(["0.4.0", "0.3.0", "0.3.2"], f"{server.url}/CHANGES")
        assert [changelog.text for changelog in found] == [
            "## [0.3.0] - 2026-01-01\n\n- Faster",
            f"No changelog of 0.3.2 was found at {server.url}/CHANGES: it has no heading of 0.3.2.",
            "## [0.4.0](https://example.org/compare) (2026-03-01)\n\n### Added\n\n- A bus",
        ]
        assert server.asked == ["/CHANGES"]

    def test_restructured_text_by_its_name(self, server: Service) -> None:
        server.answers["/CHANGELOG.rst?ref=main"] = page("0.3.0\n~~~~~\n\nthree\n\n0.2.0\n~~~~~\n\ntwo\n")
        assert text_of("0.3.0", f"{server.url}/CHANGELOG.rst?ref=main") == "0.3.0\n~~~~~\n\nthree"

    @pytest.mark.parametrize("status", [401, 404, 500])
    def test_a_status_is_no_failure(self, server: Service, status: int) -> None:
        server.answers["/0.3.0"] = (status, {}, b"some page")
        assert missing("0.3.0", f"{server.url}/{{version}}").endswith(f": HTTP {status}.")
        assert missing("0.3.0", f"{server.url}/0.3.0").endswith(f": HTTP {status}.")

    def test_a_web_page_is_no_changelog(self, server: Service) -> None:
        server.answers["/0.3.0"] = page("<p>Sign in</p>", "text/html; charset=utf-8")
        assert "the answer is a web page (text/html)" in missing("0.3.0", f"{server.url}/{{version}}")

    def test_a_compressed_answer(self, server: Service) -> None:
        server.answers["/0.3.0"] = page(b"\x1f\x8b", **{"Content-Encoding": "gzip"})
        assert "in the encoding gzip" in missing("0.3.0", f"{server.url}/{{version}}")

    def test_nobody_listens(self) -> None:
        url = unused_url()
        with pytest.raises(ChangelogError) as error:
            read_changelogs(["0.3.0", "0.4.0"], f"{url}/{{version}}")
        assert f"No changelog can be read at {url}/0.3.0: [Errno 111] Connection refused. Expected" in str(error.value)
        with pytest.raises(ChangelogError, match=f"{url}/all: .*Connection refused"):
            read_changelogs(["0.3.0"], f"{url}/all")

    @pytest.mark.parametrize(
        "words", [b"", b"nonsense \x1b[31m\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
    )
    def test_an_answer_that_is_none(self, words: bytes) -> None:
        with (
            saying(words) as url,
            pytest.raises(ChangelogError, match=f"No changelog can be read at {url}/0.3.0: ") as error,
        ):
            read_changelogs(["0.3.0"], f"{url}/{{version}}")
        assert "\x1b" not in str(error.value)
        assert "no whole answer" not in str(error.value)
        assert ("ended 5 bytes early" in str(error.value)) == (b"half" in words)

    def test_what_is_said_is_bounded(self) -> None:
        with saying(b"?" + b"token" * 12_000) as url, pytest.raises(ChangelogError) as error:
            read_changelogs(["0.3.0"], f"{url}/{{version}}")
        assert f"{url}/0.3.0: {('?' + 'token' * 12_000)[:300]}. Expected" in str(error.value)

    def test_nothing_that_can_be_shown_is_said(self) -> None:
        with (
            saying(b"\x1b\r\n\r\n") as url,
            pytest.raises(ChangelogError, match=f"{url}/0.3.0: BadStatusLine. Expected"),
        ):
            read_changelogs(["0.3.0"], f"{url}/{{version}}")

    def test_one_that_cannot_be_reached_beside_others(self, server: Service) -> None:
        server.answers["/0.3.0"] = page("three")
        server.answers["/0.4.0"] = (302, {"Location": f"{unused_url()}/0.4.0"}, b"")
        found = read_changelogs(["0.3.0", "0.4.0"], f"{server.url}/{{version}}")
        assert found[0].text == "three"
        assert found[1].text == (
            f"No changelog of 0.4.0 was found at {server.url}/0.4.0: [Errno 111] Connection refused."
        )

    @pytest.mark.parametrize(
        ("name", "reason"), [("a b", "URL can't contain control characters"), ("ä", "'ascii' codec")]
    )
    def test_a_url_with_what_cannot_be_sent(self, server: Service, name: str, reason: str) -> None:
        with pytest.raises(ChangelogError, match=f"/0.3.0: {reason}"):
            read_changelogs(["0.3.0"], f"{server.url}/{name}/{{version}}")
        assert server.asked == []


@contextlib.contextmanager
def dripping() -> Iterator[str]:
    """The URL of a server that sends a byte every 20 ms, without end; `/now` it answers at once."""
    end = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            if self.path == "/0.3.0":
                self.wfile.write(b"at once")
                return
            with contextlib.suppress(OSError):
                while not end.wait(0.02):
                    self.wfile.write(b"x")

        def log_message(self, format: str, *arguments: object) -> None:
            """Keep the tests' output free of it."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            end.set()
            server.shutdown()
            thread.join()


class TestBounds:
    def test_time_is_that_of_the_whole_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert changelogs.REQUEST_TIMEOUT == 10
        monkeypatch.setattr(changelogs, "REQUEST_TIMEOUT", 0.5)
        began = time.monotonic()
        with dripping() as url:
            found = read_changelogs(["0.3.0", "0.4.0", "0.5.0", "0.6.0"], f"{url}/{{version}}")
            took = time.monotonic() - began
            late = [thread for thread in threading.enumerate() if "(fetch)" in thread.name]
            with pytest.raises(ChangelogError, match=r"/all: there was no whole answer within 0\.5 s\. "):
                read_changelogs(["0.3.0"], f"{url}/all")
        assert [changelog.found for changelog in found] == [True, False, False, False]
        assert (
            found[1].text == f"No changelog of 0.4.0 was found at {url}/0.4.0: there was no whole answer within 0.5 s."
        )
        assert took < 1.4
        assert [thread.daemon for thread in late] == [True, True, True], "the module could not end"

    def test_bytes_of_a_document(self, folder: Path, server: Service) -> None:
        assert changelogs.DOCUMENT_LIMIT == 1024 * 1024
        old = "# 0.3.0\n" + "x" * (changelogs.DOCUMENT_LIMIT - 100)
        text = "# 0.4.0\nnew\n" + old + "\n" * (88 - len("# 0.3.0\n"))
        assert len(text) == changelogs.DOCUMENT_LIMIT
        (folder / "CHANGELOG.md").write_text(text)
        assert f"[Cut here: 20000 of {len(old)} characters are shown." in text_of("0.3.0", folder)
        assert missing("0.2.0", folder).endswith(": it has no heading of 0.2.0.")
        (folder / "CHANGELOG.md").write_text(text + "# 0.2.0\nold\n")
        assert text_of("0.4.0", folder) == "# 0.4.0\nnew"
        assert missing("0.2.0", folder).endswith(": it has no heading of 0.2.0 in its first 1048576 bytes.")
        server.answers["/all"] = page(text + "\n# 0.2.0\nold\n")
        assert missing("0.2.0", f"{server.url}/all").endswith(
            ": it has no heading of 0.2.0 in its first 1048576 bytes."
        )

    def test_a_short_section_that_the_limit_cuts(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(changelogs, "DOCUMENT_LIMIT", 30)
        path = folder / "CHANGELOG.md"
        path.write_text("# 0.4.0\nnew\n# 0.3.0\n1234567890")
        assert text_of("0.3.0", folder) == "# 0.3.0\n1234567890"
        path.write_text("# 0.4.0\nnew\n# 0.3.0\n1234567890-")
        assert text_of("0.4.0", folder) == "# 0.4.0\nnew"
        assert text_of("0.3.0", folder) == (
            "# 0.3.0\n1234567890\n\n[Cut here: only the first 30 bytes of the document are read. Read the rest at "
            f"{path}.]"
        )

    def test_characters_of_a_version(self, folder: Path) -> None:
        assert changelogs.TEXT_LIMIT == 20_000
        path = folder / "0.3.0.md"
        path.write_text("ä" * 20_000)
        assert text_of("0.3.0", folder) == "ä" * 20_000
        path.write_text("ä" * 20_001)
        assert text_of("0.3.0", folder) == (
            "ä" * 20_000 + f"\n\n[Cut here: 20000 of 20001 characters are shown. Read the rest at {path}.]"
        )

    def test_control_characters(self, folder: Path) -> None:
        (folder / "0.3.0.md").write_bytes("a\x1b[31mb\x07\tc\nd\x00\x7f\x9be\u202ef\u2066gß✓".encode() + b"\xff")
        assert text_of("0.3.0", folder) == "a[31mb\tc\ndefgß✓\ufffd"

    def test_control_characters_in_a_name(self, tmp_path: Path) -> None:
        folder = tmp_path / "a\x1b[31mb"
        folder.mkdir()
        (folder / "0.3.0.md").write_text("text")
        assert read_one("0.3.0", folder).source == f"{tmp_path}/a[31mb/0.3.0.md"


class Recorder:
    """A server that keeps path and credentials of each request, and answers as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.redirects: dict[str, str] = {}
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                recorder.asked.append((self.path, self.headers.get("Authorization")))
                target = recorder.redirects.get(self.path)
                self.send_response(302 if target else 200)
                if target:
                    self.send_header("Location", target)
                self.end_headers()
                self.wfile.write(b"" if target else b"text")

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output free of it."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    recorder = Recorder()
    thread = threading.Thread(target=recorder.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield recorder
    finally:
        recorder.server.shutdown()
        thread.join()
        recorder.server.server_close()


BASIC = "Basic " + base64.b64encode(b"user:p@ss:w\xc3\xb6rd").decode()
LOGIN = "user:p%40ss:w%C3%B6rd"


class TestCredentialsAndRedirects:
    def test_credentials_are_sent_and_not_shown(self) -> None:
        with recording() as recorder:
            changelog = read_one("0.3.0", f"http://{LOGIN}@{recorder.host}/{{version}}")
            assert recorder.asked == [("/0.3.0", BASIC)]
            assert changelog == Changelog("0.3.0", "text", True, f"http://***@{recorder.host}/0.3.0")
            read_one("0.3.0", f"http://{recorder.host}/{{version}}")
            assert recorder.asked[1] == ("/0.3.0", None)

    def test_they_are_not_shown_in_a_failure(self) -> None:
        host = unused_url().rpartition("/")[2]
        with pytest.raises(ChangelogError) as error:
            read_changelogs(["0.3.0"], f"http://{LOGIN}@{host}/{{version}}?private_token=abc")
        assert f"http://***@{host}/0.3.0?private_token=***: [Errno 111]" in str(error.value)

    @pytest.mark.parametrize(
        "source",
        ["http://user:secret/word@127.0.0.1/", "http://user:secret#word@127.0.0.1/", "https:///x", "http://[secret/"],
    )
    def test_a_url_that_is_not_understood_is_not_repeated(self, source: str) -> None:
        with pytest.raises(ChangelogError, match="it has no host, or a port that is no number") as error:
            read_changelogs(["0.3.0"], source)
        assert "secret" not in str(error.value)
        assert "word@" not in str(error.value)

    def test_a_redirect_on_the_same_server_keeps_them(self) -> None:
        with recording() as recorder:
            recorder.redirects["/0.3.0"] = "/there"
            assert text_of("0.3.0", f"http://{LOGIN}@{recorder.host}/{{version}}") == "text"
            assert recorder.asked == [("/0.3.0", BASIC), ("/there", BASIC)]

    def test_a_redirect_to_another_server_loses_them(self) -> None:
        with recording() as recorder, recording() as other:
            recorder.redirects.update({"/0.3.0": "/here", "/here": f"http://{other.host}/there"})
            assert text_of("0.3.0", f"http://{LOGIN}@{recorder.host}/{{version}}") == "text"
            assert recorder.asked == [("/0.3.0", BASIC), ("/here", BASIC)]
            assert other.asked == [("/there", None)]

    @pytest.mark.parametrize(
        "target", ["file:///etc/passwd", "ftp://{host}/there", "http://a:b@{host}/there", "/0.3.0"]
    )
    def test_a_redirect_that_is_not_followed(self, target: str) -> None:
        with recording() as recorder:
            recorder.redirects["/0.3.0"] = target.format(host=recorder.host)
            said = missing("0.3.0", f"http://{recorder.host}/{{version}}")
            assert said.endswith(": HTTP 302, a redirect that is not followed.")
            assert {path for path, _login in recorder.asked} == {"/0.3.0"}

    def test_the_proxy_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with recording() as proxy:
            monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
            assert text_of("0.3.0", "http://changelogs.invalid/{version}") == "text"
            proxy.redirects["http://changelogs.invalid/0.4.0"] = f"http://{proxy.host}/there"
            assert text_of("0.4.0", f"http://{LOGIN}@changelogs.invalid/{{version}}") == "text"
            assert proxy.asked == [
                ("http://changelogs.invalid/0.3.0", None),
                ("http://changelogs.invalid/0.4.0", BASIC),
                (f"http://{proxy.host}/there", None),
            ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user@host/x", "https://***@host/x"),
        ("https://user:a@b@host/x", "https://***@host/x"),
        ("https://host/@scope/x", "https://host/@scope/x"),
        ("https://host/x?ref=v1&access_token=abc&page=2#k=3", "https://host/x?ref=v1&access_token=***&page=2#k=3"),
        ("https://host/x?X-Amz-Signature=abc", "https://host/x?X-Amz-Signature=***"),
        ("/srv/a@b/c", "/srv/a@b/c"),
        ("a\x1bb", "ab"),
    ],
)
def test_presentable(text: str, expected: str) -> None:
    assert presentable(text) == expected


def test_one_text() -> None:
    found = [Changelog("0.3.0", "three", True, "/srv/0.3.0.md"), Changelog("0.4.0", "None was found.", False, "/srv")]
    assert describe_changelogs(found) == (
        "Opstage 0.3.0\n=============\n\nFrom /srv/0.3.0.md:\n\nthree\n\n"
        "Opstage 0.4.0\n=============\n\nNone was found."
    )
