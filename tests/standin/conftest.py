# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: the images, built if need be, and containers of them that are gone after the test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / ".collections"))

from standin.container import REPOSITORY, Container, Laboratory
from testbed.engine import ensure_engine
from testbed.images import ensure_mmdebstrap
from testbed.machine import exclusive
from testbed.opstage.build import build_images


@pytest.fixture(scope="session")
def images() -> list[str]:
    """References of all images, up to date; an Engine that they need is started where none runs."""
    with exclusive():
        ensure_engine()
        ensure_mmdebstrap()
        return build_images(REPOSITORY)


@pytest.fixture(scope="session")
def shared(images: list[str]) -> Iterator[Laboratory]:
    """For containers that many tests look at and none changes."""
    with closing(Laboratory()) as laboratory:
        yield laboratory


@pytest.fixture(scope="session")
def removals() -> Iterator[list[Future[None]]]:
    """Removals that go on while the next test runs; a failed one is an error at the end."""
    removals: list[Future[None]] = []
    yield removals
    for removal in removals:
        removal.result()


@pytest.fixture(scope="session")
def remover() -> Iterator[Executor]:
    """The thread that removes."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor


@pytest.fixture
def laboratory(images: list[str], remover: Executor, removals: list[Future[None]]) -> Iterator[Laboratory]:
    """For the containers of one test."""
    laboratory = Laboratory()
    yield laboratory
    removals.append(remover.submit(laboratory.close))


@pytest.fixture(scope="session", autouse=True)
def slow(shared: Laboratory) -> Container:
    """0.3.4-slow with its real 30 seconds, started first so that the other tests run meanwhile."""
    return shared.run("0.3.4-slow")


@pytest.fixture(scope="session")
def serving(shared: Laboratory) -> Container:
    """0.3.0 with an owner, an operator and a viewer."""
    container = shared.run("0.3.0", environment={"OPSTAGE_STANDIN_SEED_USERS": "1"})
    container.wait_for_answer()
    return container


@pytest.fixture(scope="session")
def busy(shared: Laboratory) -> Container:
    """0.4.0 with data in it, sweeping and reporting twice a second."""
    environment = {
        "OPSTAGE_STANDIN_SEED_ROWS": "20000",
        "OPSTAGE_STANDIN_HEARTBEAT_SECONDS": "0.5",
        "OPSTAGE_STANDIN_MAINTENANCE_SECONDS": "0.5",
    }
    container = shared.run("0.4.0", environment=environment)
    container.wait_for_answer()
    return container


@pytest.fixture(scope="session")
def serving_first(shared: Laboratory) -> Container:
    """0.1.0, with an owner."""
    container = shared.run("0.1.0")
    container.wait_for_answer()
    return container
