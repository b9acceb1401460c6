# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the package ``testbed`` importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))
