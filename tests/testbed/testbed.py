# SPDX-License-Identifier: GPL-3.0-or-later
"""Start and stop the testbed: ``python3 tests/testbed/testbed.py up NAME --hosts N`` and more.

Needs Python 3.11 or newer and root, and installs what else is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from testbed.command import main

if __name__ == "__main__":
    raise SystemExit(main())
