# SPDX-License-Identifier: GPL-3.0-or-later
"""What the repository holds."""

from __future__ import annotations

import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def list_files() -> list[str]:
    """Return the files, links included, that git tracks or would track, relative to the checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True).stdout.decode()
    names = sorted(set(listing.split("\0")) - {""})
    return [name for name in names if (CHECKOUT / name).is_file() or (CHECKOUT / name).is_symlink()]
