# SPDX-License-Identifier: GPL-3.0-or-later
"""Fail unless every source file of the repository names its license near its beginning."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.repository import CHECKOUT, list_files

IDENTIFIER = b"SPDX-License-Identifier: GPL-3.0-or-later"
BYTES_TO_READ = 512

# The license itself, texts, what antsibull-changelog writes, and formats without comments.
EXEMPT_NAMES = {"COPYING", "CHANGELOG.rst", "changelogs/changelog.yaml"}
EXEMPT_SUFFIXES = {".json", ".md", ".png", ".svg"}


def main() -> int:
    """Check all files; returns the exit status."""
    names = [name for name in list_files() if needs_license(name)]
    missing = [name for name in names if not names_license(CHECKOUT / name)]
    for name in missing:
        sys.stderr.write(f"{name}: no line '{IDENTIFIER.decode()}' in its first {BYTES_TO_READ} bytes; add one.\n")
    if not missing:
        sys.stdout.write(f"{len(names)} files name their license.\n")
    return 1 if missing else 0


def needs_license(name: str) -> bool:
    """Whether the file is a source file."""
    return name not in EXEMPT_NAMES and Path(name).suffix not in EXEMPT_SUFFIXES


def names_license(path: Path) -> bool:
    """Whether the identifier stands near the beginning of the file."""
    with path.open("rb") as source:
        return IDENTIFIER in source.read(BYTES_TO_READ)


if __name__ == "__main__":
    sys.exit(main())
