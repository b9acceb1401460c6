# SPDX-License-Identifier: GPL-3.0-or-later
"""The override files, and what a real Compose makes of them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import compose_command
import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.compose_overrides import Overrides, write_overrides
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import PrivateFolderError
from sqlite_testing import fingerprint, names_in

IMAGE = "registry:5000/opstage:0.3.0@sha256:" + "0" * 64
COMPOSE = """
name: opstage
services:
  web.1:
    image: registry:5000/opstage:0.2.0
    ports: ["8080:8080", "127.0.0.1:9090:9090"]
    networks:
      front: {aliases: [opstage]}
      back:
    environment: {A: "1"}
    volumes: ["data:/app/data"]
  other:
    image: other:1
    ports: ["8081:8081"]
networks: {front: , back: }
volumes: {data: }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "opstage"


def write(folder: Path, image: str = IMAGE) -> Overrides:
    return write_overrides(str(folder), "web.1", image)


def services(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    """The project's services as Compose sees them."""
    (tmp_path / "compose.yml").write_text(COMPOSE)
    files = [argument for path in ("compose.yml", *overrides) for argument in ("--file", path)]
    done = subprocess.run(
        ["docker", "compose", *files, "config", "--format", "json"],
        cwd=tmp_path,
        env=compose_command.environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_the_target_image_and_nothing_else(tmp_path: Path, folder: Path) -> None:
    before = services(tmp_path)
    after = services(tmp_path, write(folder).target_image)
    assert before["web.1"].pop("image") == "registry:5000/opstage:0.2.0"
    assert after["web.1"].pop("image") == IMAGE
    assert after == before


def test_isolation_leaves_no_network_and_everything_else(tmp_path: Path, folder: Path) -> None:
    before = services(tmp_path)
    after = services(tmp_path, write(folder).isolation)
    assert set(before["web.1"].pop("networks")) == {"front", "back"}
    assert len(before["web.1"].pop("ports")) == 2
    assert after["web.1"].pop("network_mode") == "none"
    assert after == before


def test_files_are_private_and_written_once(folder: Path) -> None:
    first = write(folder)
    paths = (Path(first.target_image), Path(first.isolation))
    assert [path.parent for path in paths] == [folder, folder]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600, 0o600]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    inodes, before = [os.stat(path).st_ino for path in paths], fingerprint(*paths)
    assert write(folder) == first
    assert (inodes, before) == ([os.stat(path).st_ino for path in paths], fingerprint(*paths))


def test_another_image_changes_one_file(folder: Path) -> None:
    first = write(folder)
    isolation = fingerprint(Path(first.isolation))
    assert write(folder, image="registry:5000/opstage:0.4.0") == first
    assert "opstage:0.4.0" in Path(first.target_image).read_text()
    assert fingerprint(Path(first.isolation)) == isolation
    assert names_in(folder) == ["isolation.yml", "target-image.yml"]


def test_a_planted_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PrivateFolderError):
        write(folder)
    assert names_in(tmp_path / "elsewhere") == []
