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
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
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


CUT_OFF = """#!/bin/sh
# Compose 2.26 and the Engine 26.1, as they were seen.
cd {folder}
echo "$1 $2" >>calls
case $1 in
rm) rm unfinished ;;
*) [ ! -e unfinished ] || {{ cat unfinished >&2; exit 1; }} ;;
esac
"""
CONFLICT = (
    " Container 552a91bff93a_opstage-web-1  Removed\n"
    'Error response from daemon: Conflict. The container name "/552a91bff93a_opstage-web-1" is already in use by '
    'container "e93aff744f76". You have to remove (or rename) that container to be able to reuse that name.'
)


def test_a_container_that_was_being_replaced_is_not_in_the_way(docker: RecordedDocker) -> None:
    program = docker.folder / "docker"
    program.write_text(CUT_OFF.format(folder=docker.folder))
    (docker.folder / "unfinished").write_text(CONFLICT)
    start_service(DEPLOYMENT)
    assert docker.calls == ["compose --ansi", "rm 552a91bff93a_opstage-web-1", "compose --ansi"]


def test_another_s_container_of_that_name_stays(docker: RecordedDocker) -> None:
    program = docker.folder / "docker"
    program.write_text(CUT_OFF.format(folder=docker.folder))
    (docker.folder / "unfinished").write_text(CONFLICT.replace("552a91bff93a_", ""))
    with pytest.raises(DockerError, match="Conflict"):
        start_service(DEPLOYMENT)
    assert docker.calls == ["compose --ansi"]


def test_stop(docker: RecordedDocker) -> None:
    docker.says("stop", "")
    stop_service(DEPLOYMENT)
    assert docker.calls == ["stop opstage-web-1"]
