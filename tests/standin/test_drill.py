# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill starts a recovery point for real, and leaves a real Engine as it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint, read_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_drill import DrillError, drill
from standin.container import REPOSITORY, Container, Laboratory, docker

TAG = "0.2.0"


@pytest.fixture
def container(laboratory: Laboratory) -> Container:
    container = laboratory.run(TAG, options=("--memory", "256m"))
    container.wait_for_answer()
    return container


@pytest.fixture
def deployment(container: Container) -> dict[str, Any]:
    description = container.inspect()
    folder = description["Mounts"][0]["Source"]
    return {
        **{"project": container.name, "project_dir": folder, "config_files": [], "environment_files": []},
        **{"service": "web", "container": container.name, "image": f"{REPOSITORY}:{TAG}", "tag": TAG, "digest": None},
        **{"image_id": description["Image"], "version": TAG, "version_source": "api", "edition": "ce"},
        "database": f"{folder}/opstage.db",
    }


@pytest.fixture
def point(deployment: dict[str, Any], tmp_path: Path) -> RecoveryPoint:
    return create_recovery_point(deployment, str(tmp_path), "manual", "online", "0.1.0")


def leftovers(deployment: dict[str, Any], point: RecoveryPoint) -> list[str]:
    """Containers and folders of drills."""
    label = f"label=capsule.opstage.rehearsal={deployment['project']}"
    found = docker("ps", "--all", "--quiet", "--filter", label).split()
    return found + [name for name in os.listdir(os.path.dirname(point.path)) if name != os.path.basename(point.path)]


def test_passes_beside_the_service(
    container: Container, deployment: dict[str, Any], point: RecoveryPoint, tmp_path: Path
) -> None:
    before = container.state()["StartedAt"]
    drilled = drill(deployment, str(tmp_path), point, 30)
    assert drilled.version == TAG
    assert all(change is not None and not change["removed"] for change in drilled.changes.values())
    assert read_recovery_point(point.path).manifest["drill"]["outcome"] == "passed"
    assert (container.state()["StartedAt"], container.health()) == (before, "UP")
    assert leftovers(deployment, point) == []


def test_fails_where_the_image_ends(deployment: dict[str, Any], point: RecoveryPoint, tmp_path: Path) -> None:
    point.manifest["image"]["image_id"] = docker("image", "inspect", "--format", "{{.Id}}", f"{REPOSITORY}:0.3.1-exits")
    with pytest.raises(DrillError, match="does not stay up: exited") as caught:
        drill(deployment, str(tmp_path), point, 30)
    assert caught.value.logs != []
    assert leftovers(deployment, point) == []
