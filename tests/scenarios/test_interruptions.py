# SPDX-License-Identifier: GPL-3.0-or-later
"""A fixed sample of the campaign that cuts operations off; its output goes to .cache/logs/interruptions-NUMBER.log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CAMPAIGN = CHECKOUT / "tests" / "campaign" / "interruptions.py"
SAMPLE = (
    "upgrade:Switch | Stop~0.6s",
    "host/upgrade:Switch | Stop~1.5s",
    "host/upgrade:Switch | Stop~2.4s+registry",
    "create:At rest | Make a recovery point",
    "connection/restore:Put in place | Replace the database",
    "backup:At rest | Make a recovery point",
    "rollback:Stop, keep what is there~0.9s",
    "host/rollback:Stop, keep what is there~1.8s",
)
"""About where the service is stopped, where the new version runs and no client may reach it, and where it is open to
clients; where a host has its project but no data yet; where a database is being replaced; where a copy at rest is made;
where a database was replaced and not started yet."""
OUTAGES = ("tag/upgrade:Pull the image", "registry/upgrade:Switch | Stop")
"""Where the preflight has looked the digest up, and where the image is on the host: neither may change the course."""


@pytest.mark.skipif(bool(os.environ.get("OPSTAGE_IMAGE", "").strip()), reason="the real image numbers no writes")
def test_what_was_cut_off_is_ended_and_nothing_is_lost() -> None:
    """After each cut the next playbook leaves a deployment that serves, with every write that it must have."""
    arguments = [argument for key in (*SAMPLE, *OUTAGES) for argument in ("--only", key)]
    done = subprocess.run(
        [sys.executable, str(CAMPAIGN), *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(SAMPLE) + len(OUTAGES)} cuts, " in done.stdout
    assert " 0 lost, 0 flaws" in done.stdout
    for key in OUTAGES:
        assert re.search(rf"^{re.escape(key)} +finished ", done.stdout, re.MULTILINE), done.stdout
