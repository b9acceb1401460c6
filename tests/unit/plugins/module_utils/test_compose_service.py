# SPDX-License-Identifier: GPL-3.0-or-later
"""What Docker is asked, and who could reach a container; molecule has real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.compose_service import (
    has_served,
    start_service,
    stop_service,
)
from opstage_testing import RecordedDocker, recorded_container

DEPLOYMENT = {
    **{"project": "opstage", "project_dir": "/opt/opstage", "service": "web", "container": "opstage-web-1"},
    **{"config_files": ["/opt/opstage/compose.yml"], "environment_files": ["/opt/opstage/one.env"]},
}
NEVER = "0001-01-01T00:00:00Z"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
    return RecordedDocker(tmp_path / "docker", monkeypatch)


@pytest.mark.parametrize(
    ("network", "started", "expected"),
    [("default", None, True), ("none", None, False), ("default", NEVER, False), ("host", None, True)],
)
def test_who_could_reach_it(docker: RecordedDocker, network: str, started: str | None, expected: bool) -> None:
    container: dict[str, Any] = recorded_container("published")
    container["HostConfig"]["NetworkMode"] = network
    if started is not None:
        container["State"]["StartedAt"] = started
    docker.has_containers([container])
    assert has_served("opstage-published-1") is expected


def test_start_pulls_and_builds_nothing_and_touches_no_other_service(docker: RecordedDocker) -> None:
    docker.says("compose", "")
    start_service(DEPLOYMENT, ["/state/isolation.yml"])
    (asked,) = docker.calls
    files = "--file /opt/opstage/compose.yml --file /state/isolation.yml"
    assert f"--project-name opstage --env-file /opt/opstage/one.env {files} up " in asked
    assert asked.endswith("--detach --no-deps --no-build --pull never web")


def test_stop(docker: RecordedDocker) -> None:
    docker.says("stop", "")
    stop_service(DEPLOYMENT)
    assert docker.calls == ["stop opstage-web-1"]
