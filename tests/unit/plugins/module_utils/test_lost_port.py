# SPDX-License-Identifier: GPL-3.0-or-later
"""A port that Docker keeps for nobody, with the words of the Engine 26.1."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.compose_service import start_service
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError

DEPLOYMENT = {
    **{"project": "opstage", "project_dir": "/opt/opstage", "service": "web", "container": "opstage-web-1"},
    **{"config_files": ["/opt/opstage/compose.yml"], "environment_files": []},
}
REFUSAL = (
    "Error response from daemon: driver failed programming external connectivity on endpoint opstage-web-1 (c5e8cf45): "
    "Bind for 0.0.0.0:8080 failed: port is already allocated"
)
DOCKER = """#!/bin/sh
echo "docker $1" >>calls
case $1 in
ps) cat running ;;
*) [ ! -e refusal ] || { cat refusal >&2; exit 1; } ;;
esac
"""
SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >>calls
[ ! -e unknown ] || { cat unknown; exit 5; }
rm refusal
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what Docker answers: `refusal` until it is started again, and `running`."""
    for name, content in (("docker", DOCKER), ("systemctl", SYSTEMCTL)):
        program = tmp_path / name
        program.write_text(content)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refusal").write_text(REFUSAL)
    (tmp_path / "running").write_text("")
    return tmp_path


def calls(host: Path) -> list[str]:
    return (host / "calls").read_text().splitlines()


def test_where_nothing_runs_docker_is_started_again_and_so_is_the_service(host: Path) -> None:
    start_service(DEPLOYMENT)
    assert calls(host) == ["docker compose", "docker ps", "systemctl restart docker.service", "docker compose"]


@pytest.mark.parametrize(
    ("running", "said"),
    [
        ("proxy 0.0.0.0:443->443/tcp\nredis \n", "when this host went down.*starts what else runs here: proxy, redis"),
        ("other 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp\n", "The container other has the port 8080: stop it"),
        ("near 0.0.0.0:18080->80/tcp\n", "runs here: near. Run it when that may be, then the playbook again"),
    ],
)
def test_nothing_else_that_runs_is_disturbed(host: Path, running: str, said: str) -> None:
    (host / "running").write_text(running)
    with pytest.raises(DockerError, match=f"(?s)port is already allocated.*{said}"):
        start_service(DEPLOYMENT)
    assert calls(host) == ["docker compose", "docker ps"]


def test_another_failure_is_left_as_it_is(host: Path) -> None:
    (host / "refusal").write_text("no such image")
    with pytest.raises(DockerError, match=r"no such image$"):
        start_service(DEPLOYMENT)
    assert calls(host) == ["docker compose"]


def test_a_docker_that_cannot_be_started_again_is_said_with_the_cause(host: Path) -> None:
    (host / "unknown").write_text("Unit docker.service not found.")
    with pytest.raises(DockerError, match=r"(?s)already allocated.*would free the port 8080, but: Unit docker.service"):
        start_service(DEPLOYMENT)
    (host / "systemctl").unlink()
    (host / "systemctl").mkdir()
    with pytest.raises(DockerError, match=r"would free the port 8080, but: "):
        start_service(DEPLOYMENT)
