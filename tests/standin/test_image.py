# SPDX-License-Identifier: GPL-3.0-or-later
"""The image: user, labels, programs, health check."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from standin.container import REPOSITORY, Container, Laboratory, docker, wait_for


def image(tag: str) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(docker("image", "inspect", f"{REPOSITORY}:{tag}"))[0]
    return description


@pytest.mark.usefixtures("images")
def test_labels_say_title_version_and_revision() -> None:
    labels = image("0.3.0")["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "Opstage CE"
    assert labels["org.opencontainers.image.version"] == "0.3.0"
    assert len(labels["org.opencontainers.image.revision"]) == 40
    assert labels["opstage-testbed"] == "1"


def test_revision_is_the_commit_that_the_api_reports(serving: Container) -> None:
    revision = image("0.3.0")["Config"]["Labels"]["org.opencontainers.image.revision"]
    assert serving.client().get("/api/system/version").data["commit"] == revision


@pytest.mark.usefixtures("images")
def test_image_exposes_8080_and_works_in_app() -> None:
    configuration = image("0.3.0")["Config"]
    assert configuration["ExposedPorts"] == {"8080/tcp": {}}
    assert configuration["WorkingDir"] == "/app"


@pytest.mark.parametrize("minor", ["0.1", "0.2", "0.3", "0.4", "0.5"])
@pytest.mark.usefixtures("images")
def test_minor_is_an_alias_of_its_sound_release(minor: str) -> None:
    assert image(minor)["Id"] == image(f"{minor}.0")["Id"]


def test_there_is_no_latest(images: list[str]) -> None:
    assert not [reference for reference in images if reference.endswith(":latest")]
    assert len(images) == 16


@pytest.mark.usefixtures("images")
def test_images_share_all_layers_but_the_last() -> None:
    first, second = (image(tag)["RootFS"]["Layers"] for tag in ("0.2.0", "0.5.0"))
    assert first[:-1] == second[:-1]
    assert first[-1] != second[-1]


def test_process_runs_as_uid_100_and_gid_101(serving: Container) -> None:
    assert serving.execute("id") == "uid=100(opstage) gid=101(opstage) groups=101(opstage)"


def test_container_has_node(serving: Container) -> None:
    assert serving.execute("node", "--version").startswith("v")


@pytest.mark.parametrize("program", ["python3", "python", "sqlite3"])
def test_container_has_no_python_and_no_sqlite3(serving: Container, program: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        serving.execute(program, "--version")
    assert failure.value.returncode in (126, 127)


def test_own_health_check_is_the_script_and_passes(serving: Container) -> None:
    assert image("0.3.0")["Config"]["Healthcheck"]["Test"] == ["CMD", "node", "scripts/healthcheck.mjs"]
    assert serving.execute("node", "scripts/healthcheck.mjs") == "UP"


def test_own_health_check_makes_the_container_healthy(laboratory: Laboratory) -> None:
    container = laboratory.run("0.1.0", options=["--health-interval", "1s"])
    wait_for(lambda: container.state()["Health"]["Status"] == "healthy", 10, "healthy")


def test_published_compose_sample_is_unhealthy_while_the_api_is_up(laboratory: Laboratory) -> None:
    check = ["--health-cmd", "node /app/healthcheck.js", "--health-interval", "1s", "--health-retries", "1"]
    container = laboratory.run("0.3.0", options=[*check, "--health-start-period", "1ms"])
    container.wait_for_answer()
    wait_for(lambda: container.state()["Health"]["Status"] == "unhealthy", 10, "unhealthy")
    assert container.health() == "UP"


def test_data_and_its_files_belong_to_the_user_with_the_usual_modes(serving: Container) -> None:
    modes = serving.execute(
        "stat", "-c", "%n %u:%g %a", "/app/data", "/app/data/opstage.db", "/app/data/opstage.db-wal"
    )
    assert modes.splitlines() == [
        "/app/data 100:101 755",
        "/app/data/opstage.db 100:101 644",
        "/app/data/opstage.db-wal 100:101 644",
    ]
