# SPDX-License-Identifier: GPL-3.0-or-later
"""Every molecule scenario, each as one test; its output goes to .cache/logs/scenario-NAME.log."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LOGS = CHECKOUT / ".cache" / "logs"
TESTBED = CHECKOUT / "tests" / "testbed" / "testbed.py"
SCENARIOS = sorted(path.parent.name for path in CHECKOUT.glob("molecule/*/molecule.yml"))
LINES_SHOWN = 60
PLAIN = {**os.environ, "MOLECULE_COMMAND_BORDERS": "false", "NO_COLOR": "1"}


@pytest.fixture(params=SCENARIOS)
def scenario(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a scenario; its hosts are gone afterwards, also where molecule was interrupted."""
    name: str = request.param
    yield name
    subprocess.run([sys.executable, str(TESTBED), "down", f"molecule-{name}"], check=True)


def test_scenario(scenario: str) -> None:
    """`molecule test` ends well."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"scenario-{scenario}.log"
    with log.open("wb") as stream:
        command = ["molecule", "test", "--scenario-name", scenario]
        status = subprocess.run(
            command, cwd=CHECKOUT, env=PLAIN, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, check=False
        ).returncode
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:]
        pytest.fail("\n".join([f"status {status}; the end of {log}:", *lines]), pytrace=False)
