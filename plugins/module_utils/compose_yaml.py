# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Where the values of a Compose file stand in its text, so that one can be changed and nothing else.

Hosts have no YAML library, and none keeps the text between a reading and a writing. This scanner reads what Compose
files are made of: block and flow mappings, sequences, plain, quoted and block scalars. It never fails: it is run on
files that Compose has accepted, and what it takes wrongly is found by comparing its answer with Compose's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SEQUENCE = "-"
"""Stands in a path for the entries of a sequence."""

BYTE_ORDER_MARK = "\ufeff"

QUOTED_KINDS = ("single", "double")

# YAML 1.1, which Compose reads, ends lines at NEL, LS and PS too.
_LINE_END = r"[\n\r\x85\u2028\u2029]"
_BREAK = re.compile(rf"\r\n|{_LINE_END}")
_INDENTATION = re.compile(r" *")
_SPACE = re.compile(r"[ \t]*")
_BLANK_OR_COMMENT = re.compile(rf"[ \t]*(?:#.*?)?(?={_LINE_END}|\Z)", re.DOTALL)
_MARKER = re.compile(r"(?:---|\.\.\.)(?=\s|\Z)")
_DASH = re.compile(r"-(?=\s|\Z)[ \t]*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^']|'')*'", re.DOTALL)
_PLAIN_KEY = re.compile(rf"(?![\[{{\"'#])(?:(?![ \t]#|{_LINE_END}).)+?(?=[ \t]*:(?:\s|\Z))", re.DOTALL)
_COLON = re.compile(r"[ \t]*:(?=\s|\Z)")
_PROPERTY = re.compile(r"[&!][^\s,\[\]{}]*[ \t]*")
_PLAIN = re.compile(rf"(?:(?![ \t]+#|[ \t]*(?:{_LINE_END}|\Z)).)+", re.DOTALL)
_FLOW_PLAIN = re.compile(rf"(?:(?![ \t]+#|[ \t]*(?:{_LINE_END}|\Z|[,\[\]{{}}]|:(?:[\s,\[\]{{}}]|\Z))).)+", re.DOTALL)
_FLOW_SPACE = re.compile(rf"(?:\s|(?<=\s)#(?:(?!{_LINE_END}).)*)*", re.DOTALL)


@dataclass(frozen=True)
class Node:
    """One value: `text[start:end]` without its quotes, reached by the keys of `path`.

    kind is `plain`, `single`, `double` (quoted), `block`, `flow`, `alias` or `empty` (nothing on the key's line);
    of a `flow` collection only the beginning is given, what is in it follows as nodes of their own.
    The whole statement, key and quotes included, is `text[statement_start:statement_end]`. has_properties: an
    anchor or a tag stands before the value. A plain scalar's further lines are nodes of their own, of the same path.
    """

    path: tuple[str, ...]
    kind: str
    start: int
    end: int
    statement_start: int
    statement_end: int
    has_properties: bool


def scan(text: str) -> list[Node]:
    """Return every value, in the order of the text."""
    return _Scanner(text).scan()


class _Scanner:
    """One pass over a text. Its methods return the offset at which the text goes on."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._nodes: list[Node] = []
        self._open: list[tuple[int, str]] = []
        """The open block collections, outermost first: column, and key or SEQUENCE."""

    def scan(self) -> list[Node]:
        """Go through the text line by line; a value that spans lines takes them with it."""
        position = 1 if self._text.startswith(BYTE_ORDER_MARK) else 0
        while position < len(self._text):
            start = self._skip(_INDENTATION, position)
            if start == position and _MARKER.match(self._text, start):
                self._open.clear()
            elif _BLANK_OR_COMMENT.match(self._text, start) is None:
                start = self._statement(start, start - position)
            line_break = _BREAK.search(self._text, start)
            position = line_break.end() if line_break else len(self._text)
        return self._nodes

    def _skip(self, pattern: re.Pattern[str], position: int) -> int:
        match = pattern.match(self._text, position)
        return match.end() if match else position

    def _statement(self, position: int, column: int) -> int:
        """Read `- - key: value`, with any of its parts missing."""
        dash = _DASH.match(self._text, position)
        while dash:
            # A sequence may stand at the very column of the key that it belongs to.
            while self._open and (self._open[-1][0] > column or self._open[-1] == (column, SEQUENCE)):
                self._open.pop()
            self._open.append((column, SEQUENCE))
            column += dash.end() - position
            position = dash.end()
            if _BLANK_OR_COMMENT.match(self._text, position):
                return position
            dash = _DASH.match(self._text, position)
        while self._open and self._open[-1][0] >= column:
            self._open.pop()
        key, value = self._key(position)
        if key is not None:
            self._open.append((column, key))
        path = tuple(name for _column, name in self._open)
        return self._value(self._skip(_SPACE, value), path, position, in_flow=False)

    def _key(self, position: int) -> tuple[str | None, int]:
        """Return the key at `position` and where it is behind its colon; None and `position` where there is no key."""
        quoted = _QUOTED.match(self._text, position)
        match = quoted or _PLAIN_KEY.match(self._text, position)
        colon = _COLON.match(self._text, match.end()) if match else None
        if match is None or colon is None:
            return None, position
        return match.group()[1:-1] if quoted else match.group(), colon.end()

    def _value(self, position: int, path: tuple[str, ...], statement_start: int, in_flow: bool) -> int:
        """Record the value at `position`, and those in it."""
        first = position
        while _PROPERTY.match(self._text, position):
            position = self._skip(_PROPERTY, position)
        has_properties = position > first
        kind, start, end = self._scalar(position, in_flow)
        after = end + 1 if kind in QUOTED_KINDS else end
        self._nodes.append(Node(path, kind, start, end, statement_start, after, has_properties))
        if kind != "flow":
            return after
        return self._flow(position, path)

    def _scalar(self, position: int, in_flow: bool) -> tuple[str, int, int]:
        """Return kind, start and end of what stands at `position`; of a flow collection only where it begins."""
        character = self._text[position : position + 1]
        quoted = _QUOTED.match(self._text, position)
        if quoted:
            return "double" if character == '"' else "single", position + 1, quoted.end() - 1
        if character in ("{", "["):
            return "flow", position, position
        if character in ("|", ">") and not in_flow:
            return "block", position, self._block_end(position)
        plain = (_FLOW_PLAIN if in_flow else _PLAIN).match(self._text, position)
        if plain is None or _BLANK_OR_COMMENT.match(self._text, position):
            return "empty", position, position
        return "alias" if character == "*" else "plain", position, plain.end()

    def _block_end(self, position: int) -> int:
        """A block scalar goes on over lines that are blank or further in than its parent."""
        parent = self._open[-1][0] if self._open else -1
        line_break = _BREAK.search(self._text, position)
        while line_break:
            end = line_break.start()
            line = line_break.end()
            start = self._skip(_INDENTATION, line)
            line_break = _BREAK.search(self._text, start)
            is_blank = line_break is not None and not self._text[start : line_break.start()].strip()
            if start - line <= parent and not is_blank:
                return end
        return len(self._text)

    def _flow(self, position: int, path: tuple[str, ...]) -> int:
        """Record what is in the flow collection that opens at `position`; return where it is behind its end."""
        is_mapping = self._text[position] == "{"
        position = self._skip(_FLOW_SPACE, position + 1)
        while position < len(self._text) and self._text[position] not in "]}":
            start = position
            if self._text[position] != ",":
                position = self._flow_entry(position, path, is_mapping)
            position = self._skip(_FLOW_SPACE, max(position, start + 1))
        return position + 1

    def _flow_entry(self, position: int, path: tuple[str, ...], is_mapping: bool) -> int:
        if not is_mapping:
            return self._value(position, (*path, SEQUENCE), position, in_flow=True)
        kind, start, end = self._scalar(position, in_flow=True)
        colon = self._skip(_FLOW_SPACE, end + 1 if kind in QUOTED_KINDS else end)
        if not self._text.startswith(":", colon):
            return colon
        value = self._skip(_FLOW_SPACE, colon + 1)
        return self._value(value, (*path, self._text[start:end]), position, in_flow=True)
