# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.kept_image import keep_image
from opstage_testing import RecordedDocker

CREATED = "create --name opstage-previous-web --label capsule.opstage.keeps=web --network none sha256:old"
LISTED = "ps --all --quiet --filter label=capsule.opstage.keeps=web"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
    docker = RecordedDocker(tmp_path / "docker", monkeypatch)
    for command in ("ps", "rm", "create"):
        docker.says(command, "")
    return docker


def test_the_first(docker: RecordedDocker) -> None:
    keep_image("web", "sha256:old")
    assert docker.calls == [LISTED, CREATED]


def test_it_takes_the_place_of_another(docker: RecordedDocker) -> None:
    docker.says("ps", "123\n456\n")
    keep_image("web", "sha256:old")
    assert docker.calls == [LISTED, "rm --force 123 456", CREATED]


def test_an_image_that_is_gone(docker: RecordedDocker) -> None:
    (docker.folder / "create").unlink()
    with pytest.raises(DockerError):
        keep_image("web", "sha256:old")
