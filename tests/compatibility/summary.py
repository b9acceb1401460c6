# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the README's table of tested versions from the page that the matrix wrote, docs/compatibility.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = CHECKOUT / "docs" / "compatibility.md"
README = CHECKOUT / "README.md"

TABLE = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)
HEAD = ("| tested | versions |", "|---|---|")
README_TABLE = re.compile("".join(re.escape(line) + "\n" for line in HEAD) + r"(?:\|.*\|\n)*")
PASSED = re.compile(r"\d+ passed")
VERSION = re.compile(r"\d+(?:\.\d+)*")
PARTS = (
    ("controller: ansible-core", "ansible-core"),
    ("controller: Python", "controller's Python"),
    ("controller: community.docker", "community.docker"),
    ("host: Debian", "Debian"),
    ("host: Docker Engine", "Docker Engine"),
    ("host: Compose", "Compose"),
    ("host: Python", "Python"),
)
"""What the README names, and the column of the page that has its versions."""


def summary(page: str) -> str:
    """The README's table, of the combinations in which all playbooks passed. Raises ValueError where there is none."""
    passed = [row for row in read_table(page) if PASSED.fullmatch(row["playbooks"])]
    if not passed:
        raise ValueError(f"{PAGE.name}: no row of its table says that all playbooks passed; run: make matrix")
    rows = [f"| {name} | {', '.join(versions(row[column] for row in passed))} |" for name, column in PARTS]
    return "".join(f"{line}\n" for line in (*HEAD, *rows))


def read_table(page: str) -> Iterator[dict[str, str]]:
    """The rows of a page's first table, by the names of its columns. Raises ValueError where there is no table."""
    found = TABLE.search(page)
    if not found:
        raise ValueError(f"{PAGE.name}: it has no table; write it with: make matrix")
    head, _line, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines())
    for row in rows:
        yield dict(zip(head, row, strict=True))


def versions(texts: Iterator[str]) -> Sequence[str]:
    """Each version once, in order, without what a distribution adds to it."""
    found = {match[0] for match in map(VERSION.match, texts) if match}
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def written(readme: str, page: str) -> str:
    """The README with the table of that page. Raises ValueError where one of both has none."""
    text, count = README_TABLE.subn(lambda _match: summary(page), readme)
    if count != 1:
        raise ValueError(f"{README.name}: {count} tables begin with {HEAD[0]!r}, expected one")
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8"), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
