# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Variables in Compose files, resolved without losing where each character of the result comes from.

The syntax of variables: https://docs.docker.com/reference/compose-file/interpolation/; of environment files:
https://docs.docker.com/compose/how-tos/environment-variables/variable-interpolation/#env-file-syntax.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Mapping, Sequence

BYTE_ORDER_MARK = "\ufeff"

_ASSIGNMENT = re.compile(
    r"(?:export[ \t]+)?(?P<name>[^\s=:#'\"]+)[ \t\r]*"
    r"(?:[=:][ \t]*(?P<value>'(?:|.*?[^\\])'|\"(?:|.*?[^\\])\"|[^\n]*)|(?=\n|\Z))",
    re.DOTALL,
)
_STATEMENT_START = re.compile(r"(?:\s|#[^\n]*)*")
_VARIABLE = re.compile(
    r"\$(?:(?P<named>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?P<operator>\}|:?[-?]))"
)


class InterpolationError(Exception):
    """A form of variable that is not followed; `offset` says where it stands."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True)
class SourceFile:
    """A Compose or environment file. `text` gives `data` back, whatever its bytes are; offsets are those of `text`."""

    path: str
    real_path: str
    data: bytes

    @property
    def text(self) -> str:
        """The file's characters; bytes that are no UTF-8 become surrogates."""
        return self.data.decode("utf-8", "surrogateescape")

    def line(self, offset: int) -> int:
        """The number of the line, from 1, in which `offset` lies."""
        return len(re.findall(r"\r\n|\n|\r", self.text[:offset])) + 1

    def place(self, offset: int) -> str:
        """Where `offset` lies, for messages: `path:line`."""
        return f"{self.path}:{self.line(offset)}"

    def replaced(self, start: int, end: int, replacement: str) -> bytes:
        """The file's bytes with `text[start:end]` replaced."""
        text = self.text
        return (text[:start] + replacement + text[end:]).encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Origin:
    """Where a text stands: from `offset` on, in the statement `text[statement_start:statement_end]` of `file`."""

    file: SourceFile
    offset: int
    statement_start: int
    statement_end: int


@dataclass(frozen=True)
class Piece:
    """A part of a value. `text` is None where only Compose knows it; `obstacle` says why it has no origin."""

    text: str | None
    variable: str | None = None
    origin: Origin | None = None
    obstacle: str = ""


def read_assignments(file: SourceFile) -> dict[str, Piece]:
    """Return what an environment file assigns to each variable; of several assignments the last one counts."""
    text = file.text
    assignments: dict[str, Piece] = {}
    position = len(BYTE_ORDER_MARK) if text.startswith(BYTE_ORDER_MARK) else 0
    while True:
        start = _end(_STATEMENT_START, text, position)
        match = _ASSIGNMENT.match(text, start)
        if match is None:
            return assignments
        if match.group("value") is not None:
            assignments[match.group("name")] = _assigned(file, match)
        position = match.end()


def _assigned(file: SourceFile, match: re.Match[str]) -> Piece:
    name, value, offset, end = match.group("name"), match.group("value"), match.start("value"), match.end()
    quote = value[:1] if value[:1] in ("'", '"') else ""
    if quote:
        value, offset = value[1:-1], offset + 1
    else:
        value = value.split(" #")[0].rstrip()
        end = offset + len(value)
    if (quote != "'" and "$" in value) or (quote and "\\" in value):
        return Piece(None, name, None, f"its value at {file.place(offset)} is itself made of variables or escapes")
    return Piece(value, name, Origin(file, offset, match.start(), end))


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


@dataclass(frozen=True)
class Variables:
    """The variables that Compose knows: the process environment, before the environment files, the last one first."""

    environment: Mapping[str, str]
    files: Sequence[SourceFile]

    def get(self, name: str) -> Piece | None:
        """Return the value of a variable, or None where it is not set."""
        if name in self.environment:
            return Piece(self.environment[name], name, None, "it is set in the environment of the process")
        for file in reversed(self.files):
            assigned = read_assignments(file).get(name)
            if assigned is not None:
                return assigned
        return None


def interpolate(origin: Origin, end: int, variables: Variables, default_of: str | None = None) -> list[Piece]:
    """Return the pieces that the text from `origin` to `end` resolves to.

    default_of names the variable whose default the text is. Raises InterpolationError for forms that are not followed.
    """
    text, position = origin.file.text, origin.offset
    pieces: list[Piece] = []
    while position < end:
        dollar = text.find("$", position, end)
        literal_end = end if dollar < 0 else dollar
        if literal_end > position:
            pieces.append(Piece(text[position:literal_end], default_of, _at(origin, position)))
        position = literal_end
        if position < end:
            resolved, position = _variable(origin, position, end, variables)
            pieces.extend(resolved)
    return pieces


def _at(origin: Origin, offset: int) -> Origin:
    return Origin(origin.file, offset, origin.statement_start, origin.statement_end)


def _variable(origin: Origin, start: int, end: int, variables: Variables) -> tuple[list[Piece], int]:
    """Resolve the variable at `start`; return its pieces and where it ends."""
    text = origin.file.text
    match = _VARIABLE.match(text, start, end)
    if match is None:
        raise InterpolationError(
            f"{text[start:end]!r} is not of the form $NAME, ${{NAME}} or ${{NAME:-default}}", start
        )
    name, operator = match.group("named") or match.group("braced"), match.group("operator") or ""
    after = match.end() if operator in ("", "}") else _closing_brace(text, start, end)
    value = variables.get(name)
    falls_back = value is None or (value.text == "" and operator == ":-")
    if operator.endswith("-") and falls_back:
        default = _at(origin, match.end())
        return interpolate(default, after - 1, variables, name) or [Piece("", name, default)], after
    return [value or Piece("", name, None, "it is not set")], after


def _closing_brace(text: str, start: int, end: int) -> int:
    """Return the offset behind the brace that closes the `${` at `start`."""
    depth = 0
    for brace in re.finditer(r"\$\{|\}", text[start:end]):
        depth += 1 if brace.group() == "${" else -1
        if depth == 0:
            return start + brace.end()
    raise InterpolationError(f"{text[start:end]!r} has no closing brace", start)
