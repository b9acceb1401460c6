# SPDX-License-Identifier: GPL-3.0-or-later
"""Make ``ansible_collections.capsule.opstage`` importable, by the link that ``make environment`` puts here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / ".collections"))
