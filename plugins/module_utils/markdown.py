# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Markdown that shows any text as it is, so that a name or a path breaks no document."""

from __future__ import annotations

import re
from typing import Sequence

_SPECIAL = re.compile(r"[\\`*\[\]<>~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_BLOCK_MARK = re.compile(r"(?=[-+=#])|\d+(?=[.)](?:\s|$))")


def escaped(text: str) -> str:
    """Return `text` in one line of what can be seen: control characters and the like as Python writes them."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def plain(text: str) -> str:
    """Return Markdown that shows `text` as it is, also in a table or at the beginning of a line."""
    shown = _SPECIAL.sub(r"\\\g<0>", escaped(text).strip()).replace("|", "&#124;")
    match = _BLOCK_MARK.match(shown)
    return f"{shown[: match.end()]}\\{shown[match.end() :]}" if match else shown


def code(text: str) -> str:
    """Return Markdown that shows `text` as code, or as plain text where that would break a table or the code."""
    shown = escaped(text)
    return plain(text) if "`" in shown or "|" in shown or not shown.strip() else f"`{shown}`"


def fenced(language: str, text: str) -> str:
    """Return Markdown that shows the lines of `text` as they are."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"


def table(columns: Sequence[str], alignments: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; all cells are Markdown, `alignments` are such as `---:`."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, alignments, *rows))
