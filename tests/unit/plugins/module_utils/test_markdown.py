# SPDX-License-Identifier: GPL-3.0-or-later
"""What a text becomes is judged by a parser of CommonMark with GitHub's tables."""

from __future__ import annotations

import html
import re

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.markdown import code, escaped, fenced, plain, table
from markdown_it import MarkdownIt

HOSTILE = [
    "a|b",
    "`ls`",
    "``",
    "*bold* _under_ __both__ snake_case",
    "<script>alert(1)</script>",
    "[text](http://example.org) ![image](x)",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "12) item",
    "---",
    "===",
    "~~gone~~",
    "&lt; &copy;",
    "a\\|b \\",
    "\\`",
    "> quoted",
    "web\x1b[31m\nnext\u202eline\udc80",
    "0.3.0 is newer",
    "-wal",
]


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)


def shown(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup)).strip()


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("as_markdown", [plain, code])
def test_a_text_is_shown_as_it_is(text: str, as_markdown: object) -> None:
    assert callable(as_markdown)
    markdown = as_markdown(text)
    alone = rendered(markdown)
    assert shown(alone) == escaped(text)
    assert re.fullmatch(r"<p>(<code>)?[^<]*(</code>)?</p>\n", alone)
    item = rendered(f"- {markdown}")
    assert shown(item) == escaped(text)
    assert re.fullmatch(r"<ul>\n<li>(<code>)?[^<]*(</code>)?</li>\n</ul>\n", item)
    cells = rendered(table(("name", "said"), ("---", "---:"), [(markdown, "end")]))
    first, second = re.findall(r"<td.*?>(.*?)</td>", cells)
    assert (shown(first), shown(second)) == (escaped(text), "end")


def test_what_cannot_be_seen_is_written_out() -> None:
    assert escaped("web\x1b[31m\nnext\u202eline\udc80 ä") == "web\\x1b[31m\\nnext\\u202eline\\udc80 ä"


def test_a_name_of_a_variable_stays_as_it_is() -> None:
    assert plain("set opstage_version to 0.3.0: it is 2026-11-23") == "set opstage_version to 0.3.0: it is 2026-11-23"


def test_code() -> None:
    assert code("/opt/*/a_b") == "`/opt/*/a_b`"


@pytest.mark.parametrize("text", ["plain", "```sh\nrm\n```", "a ````` b", "~~~\n# heading"])
def test_a_block_of_lines(text: str) -> None:
    markup = rendered(f"{fenced('text', text)}\n\nafter")
    assert re.findall(r"</?(?!code|pre)\w+", markup) == ["<p", "</p"]
    assert shown(markup) == f"{text}\n\nafter"
