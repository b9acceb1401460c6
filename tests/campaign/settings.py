# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of the campaign is made with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """``scratch`` is a folder of the campaign's own, ``python`` the interpreter that runs the engine."""

    scratch: Path
    python: str
    seed: int

    def nested(self, name: str) -> Settings:
        """The same with a scratch folder inside this one's."""
        scratch = self.scratch / f"nested-{name}"
        scratch.mkdir(exist_ok=True)
        return replace(self, scratch=scratch)
