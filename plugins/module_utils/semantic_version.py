# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Versions of Opstage: semantic versions (https://semver.org) without build metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

_NUMBER = r"(0|[1-9][0-9]*)"
_PATTERN = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?")


class VersionError(ValueError):
    """The text is no version of the form <major>.<minor>.<patch>."""


@total_ordering
@dataclass(frozen=True)
class Version:
    """One version; ordered as semver.org rule 11 says, so 0.3.1-rc.1 comes before 0.3.1."""

    major: int
    minor: int
    patch: int
    prerelease: str = ""

    def __str__(self) -> str:
        release = f"{self.major}.{self.minor}.{self.patch}"
        return f"{release}-{self.prerelease}" if self.prerelease else release

    def __lt__(self, other: Version) -> bool:
        return self._order() < other._order()

    def _order(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        identifiers = self.prerelease.split(".") if self.prerelease else []
        parts = tuple((not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in identifiers)
        return (self.major, self.minor, self.patch, not self.prerelease, parts)


def parse_version(text: str) -> Version:
    """Return the version that `text` names; raises VersionError for aliases, branches and anything else."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise VersionError(
            f"{text!r} is no version of Opstage: expected <major>.<minor>.<patch>, for example 0.3.0. "
            "Moving tags such as 0.3, edge or main cannot be told apart from one day to the next."
        )
    major, minor, patch, prerelease = match.groups()
    return Version(int(major), int(minor), int(patch), prerelease or "")
