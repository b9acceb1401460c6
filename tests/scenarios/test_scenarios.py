# SPDX-License-Identifier: GPL-3.0-or-later
"""Every molecule scenario, each as one test; its output goes to .cache/logs/scenario-NAME.log."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
LOGS = CHECKOUT / ".cache" / "logs"
TESTBED = CHECKOUT / "tests" / "testbed" / "testbed.py"
LINES_SHOWN = 60
PLAIN = {**os.environ, "MOLECULE_COMMAND_BORDERS": "false", "NO_COLOR": "1"}
REAL_IMAGE = bool(os.environ.get("OPSTAGE_IMAGE", "").strip())
"""The real image has no faulty versions: hosts of the group `standin` are then left out."""


def find_scenarios() -> list[str]:
    """Names of the scenarios that have a host for the image under test."""
    names = []
    for path in sorted(CHECKOUT.glob("molecule/*/inventory.yml")):
        group = yaml.safe_load(path.read_text(encoding="utf-8"))["opstage"]
        if group.get("hosts") or not REAL_IMAGE:
            names.append(path.parent.name)
    return names


@pytest.fixture(params=find_scenarios())
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
        status = subprocess.run(
            ["molecule", "test", "--scenario-name", scenario],
            cwd=CHECKOUT,
            env={**PLAIN, "TESTBED_LIMIT": "localhost:opstage" + (":!standin" if REAL_IMAGE else "")},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            check=False,
        ).returncode
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:]
        pytest.fail("\n".join([f"status {status}; the end of {log}:", *lines]), pytrace=False)
