# SPDX-License-Identifier: GPL-3.0-or-later
"""The version in Diagnostics, asked from inside a container's network, which is this process's own here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import diagnostics
from ansible_collections.capsule.opstage.plugins.module_utils.diagnostics import DiagnosticsError, require_version_in
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_session import Account
from console_testing import LOGOUT, PASSWORD, USERNAME, Console, refusal, serving_console
from opstage_testing import RecordedDocker, recorded_container

CONTAINER = "opstage-published-1"
ACCOUNT = Account(USERNAME, PASSWORD)


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
    docker = RecordedDocker(tmp_path / "docker", monkeypatch)
    container = recorded_container("published")
    container["State"]["Pid"] = os.getpid()
    docker.has_containers([container])
    return docker


@pytest.fixture
def console(docker: RecordedDocker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    with serving_console(Console(version="0.3.0")) as console:
        monkeypatch.setattr(diagnostics, "URL_IN_CONTAINER", console.url)
        yield console


def test_the_version(console: Console) -> None:
    require_version_in(CONTAINER, ACCOUNT, "0.3.0")
    assert console.sessions == 0


def test_another_version(console: Console) -> None:
    with pytest.raises(DiagnosticsError, match=r"shows version 0\.3\.0, expected 0\.4\.0, which is what"):
        require_version_in(CONTAINER, ACCOUNT, "0.4.0")


def test_an_account_that_the_new_version_does_not_let_in(console: Console) -> None:
    with pytest.raises(DiagnosticsError, match=f"container {CONTAINER} cannot be seen: .* HTTP 401 UNAUTHORIZED"):
        require_version_in(CONTAINER, Account(USERNAME, "another-password"), "0.3.0")


def test_a_session_that_does_not_end_keeps_nobody(console: Console) -> None:
    console.instead[LOGOUT] = refusal(500, "INTERNAL_ERROR")
    require_version_in(CONTAINER, ACCOUNT, "0.3.0")


def test_a_container_that_has_ended(docker: RecordedDocker) -> None:
    container = recorded_container("published")
    container["State"]["Pid"] = 0
    docker.has_containers([container])
    with pytest.raises(DiagnosticsError, match="cannot be seen: "):
        require_version_in(CONTAINER, ACCOUNT, "0.3.0")
    (docker.folder / "container-inspect").unlink()
    with pytest.raises(DockerError):
        require_version_in(CONTAINER, ACCOUNT, "0.3.0")
