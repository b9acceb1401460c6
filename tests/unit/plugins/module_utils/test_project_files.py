# SPDX-License-Identifier: GPL-3.0-or-later
"""Real files, and the real `docker compose config`."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import compose_command
import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import durable_files
from ansible_collections.capsule.opstage.plugins.module_utils.project_files import (
    ProjectFilesError,
    RestoredProject,
    copy_project_files,
    restore_project,
)
from sqlite_testing import names_in

COMPOSE = """services:
  web:
    image: repo:0.2.0
    env_file: ["./secrets/web.env", {path: 'optional.env', required: false}, {path: "${OTHER}.env", required: false}]
    volumes: ["./data:/app/data", "./certificates:/app/data/certificates"]
  other:
    image: repo:1
    env_file:
      - other.env
      - .env
"""


@pytest.fixture(autouse=True)
def compose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `docker compose` be found, and nothing of this machine's settings."""
    for name in list(os.environ):
        if name not in compose_command.environment():
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", compose_command.search_path())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "srv" / "opstage"
    (folder / "secrets").mkdir(parents=True)
    (folder / "compose.yml").write_text(COMPOSE)
    (folder / ".env").write_text("OTHER=x\n")
    (folder / "secrets" / "web.env").write_text("SECRET=hunter2\n")
    (folder / "other.env").write_text("A=1\n")
    return folder


def deployment(project: Path, **changes: Any) -> dict[str, Any]:
    files = {"config_files": [str(project / "compose.yml")], "environment_files": []}
    return {"project_dir": str(project), **files, **changes}


def kept(project: Path, tmp_path: Path, **changes: Any) -> tuple[str, dict[str, Any]]:
    """The files in a recovery point's folder, and what its manifest says of them."""
    point = tmp_path / "point"
    point.mkdir()
    files = copy_project_files(deployment(project, **changes), str(point / "project"))
    access = {"uid": os.getuid(), "gid": os.getgid(), "mode": "0750"}
    manifest = {"project": "opstage", "project_dir": str(project), "service": "web", "project_files": files}
    return str(point), {**manifest, "database": {"folder_access": access}}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestCopy:
    def test_all_that_compose_needs(self, project: Path, tmp_path: Path) -> None:
        point, manifest = kept(project, tmp_path)
        assert [(file["kind"], file["name"], file["source"]) for file in manifest["project_files"]] == [
            ("compose", "compose.yml", str(project / "compose.yml")),
            ("environment", ".env", str(project / ".env")),
            ("service environment", "web.env", str(project / "secrets/web.env")),
            ("service environment", "other.env", str(project / "other.env")),
        ]
        assert (Path(point) / "project" / "web.env").read_text() == "SECRET=hunter2\n"
        assert {mode_of(Path(point) / "project" / file["name"]) for file in manifest["project_files"]} == {0o600}

    def test_named_files_of_variables_instead_of_the_usual_one(self, project: Path, tmp_path: Path) -> None:
        live = project / "live.env"
        live.write_text("A=1\n")
        _point, manifest = kept(project, tmp_path, environment_files=[str(live)])
        assert [file["name"] for file in manifest["project_files"]][:2] == ["compose.yml", "live.env"]

    def test_no_file_of_variables(self, project: Path, tmp_path: Path) -> None:
        (project / ".env").unlink()
        _point, manifest = kept(project, tmp_path)
        assert [file["name"] for file in manifest["project_files"]] == ["compose.yml", "web.env", "other.env"]

    def test_a_file_that_is_named_twice_is_copied_once(self, project: Path, tmp_path: Path) -> None:
        _point, manifest = kept(project, tmp_path, config_files=[str(project / "compose.yml")] * 2)
        assert [file["name"] for file in manifest["project_files"]].count("compose.yml") == 1

    def test_two_files_with_one_name(self, project: Path, tmp_path: Path) -> None:
        other = tmp_path / "compose.yml"
        other.write_text("services: {}\n")
        point, manifest = kept(project, tmp_path, config_files=[str(project / "compose.yml"), str(other)])
        names = [file["name"] for file in manifest["project_files"] if file["kind"] == "compose"]
        assert names == ["compose.yml", "2-compose.yml"]
        assert (Path(point) / "project" / "2-compose.yml").read_text() == "services: {}\n"


class TestRestore:
    def test_to_where_it_was(self, project: Path, tmp_path: Path) -> None:
        before = {
            path: (project / path).read_bytes() for path in ("compose.yml", ".env", "secrets/web.env", "other.env")
        }
        point, manifest = kept(project, tmp_path)
        shutil.rmtree(tmp_path / "srv")
        restored = restore_project(point, manifest)
        assert {path: (project / path).read_bytes() for path in before} == before
        assert {mode_of(project / path) for path in before} == {0o600}
        assert restored == RestoredProject(
            project="opstage",
            project_dir=str(project),
            service="web",
            config_files=[str(project / "compose.yml")],
            environment_files=[str(project / ".env")],
            written=[
                *(str(tmp_path / "srv"), str(project), str(project / "compose.yml"), str(project / ".env")),
                *(str(project / "secrets"), str(project / "secrets/web.env"), str(project / "other.env")),
                str(project / "data"),
            ],
        )
        assert mode_of(project / "data") == 0o750
        assert not (project / "certificates").exists()

    def test_again_changes_nothing(self, project: Path, tmp_path: Path) -> None:
        point, manifest = kept(project, tmp_path)
        shutil.rmtree(tmp_path / "srv")
        restore_project(point, manifest)
        assert restore_project(point, manifest).written == []

    def test_check_mode(self, project: Path, tmp_path: Path) -> None:
        point, manifest = kept(project, tmp_path)
        shutil.rmtree(tmp_path / "srv")
        assert restore_project(point, manifest, check=True).written == [
            str(project / name) for name in ("compose.yml", ".env", "secrets/web.env", "other.env")
        ]
        assert not (tmp_path / "srv").exists()

    def test_into_another_folder(self, project: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "etc" / "live.env"
        elsewhere.parent.mkdir()
        elsewhere.write_text("OTHER=x\n")
        point, manifest = kept(project, tmp_path, environment_files=[str(elsewhere)])
        shutil.rmtree(tmp_path / "srv")
        elsewhere.unlink()
        new = tmp_path / "new"
        restored = restore_project(point, manifest, str(new))
        assert restored.config_files == [str(new / "compose.yml")]
        assert restored.environment_files == [str(elsewhere)]
        assert names_in(new) == [".env", "compose.yml", "data", "other.env", "secrets"]
        assert not project.exists()

    def test_a_volume_is_left_to_docker(self, project: Path, tmp_path: Path) -> None:
        (project / "compose.yml").write_text(
            "services: {web: {image: repo, volumes: ['data:/app/data']}}\nvolumes: {data: {}}\n"
        )
        point, manifest = kept(project, tmp_path)
        shutil.rmtree(tmp_path / "srv")
        restore_project(point, manifest)
        assert names_in(project) == [".env", "compose.yml"]

    def test_a_database_that_lies_elsewhere(self, project: Path, tmp_path: Path) -> None:
        (project / "compose.yml").write_text(
            "services: {web: {image: repo, volumes: ['./data:/app/data', './state:/state'],"
            " environment: {DATABASE_URL: 'file:/state/opstage.db?x=1'}}}\n"
        )
        point, manifest = kept(project, tmp_path)
        shutil.rmtree(tmp_path / "srv")
        restore_project(point, manifest)
        assert names_in(project) == [".env", "compose.yml", "state"]

    def test_another_file_in_its_place(self, project: Path, tmp_path: Path) -> None:
        point, manifest = kept(project, tmp_path)
        shutil.rmtree(tmp_path / "srv")
        project.mkdir(parents=True)
        (project / ".env").write_text("OTHER=y\n")
        with pytest.raises(ProjectFilesError, match=r"\.env is there already, and is not what .* Nothing was written"):
            restore_project(point, manifest)
        assert names_in(project) == [".env"]

    def test_a_service_that_is_missing(self, project: Path, tmp_path: Path) -> None:
        point, manifest = kept(project, tmp_path)
        shutil.rmtree(tmp_path / "srv")
        with pytest.raises(ProjectFilesError, match="It has no service gone, as the manifest says") as caught:
            restore_project(point, {**manifest, "service": "gone"})
        assert f"These were written, and are left: {tmp_path}/srv, {project}" in str(caught.value)

    def test_a_project_that_compose_refuses_without_its_secrets(self, project: Path, tmp_path: Path) -> None:
        (project / "compose.yml").write_text("services: {web: {image: repo, env_file: web.env, hunter2: 1}}\n")
        point, manifest = kept(project, tmp_path)
        shutil.rmtree(tmp_path / "srv")
        with pytest.raises(ProjectFilesError, match="`docker compose config` fails on it") as caught:
            restore_project(point, manifest)
        assert "hunter2" not in str(caught.value)

    def test_no_docker(self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        point, manifest = kept(project, tmp_path)
        shutil.rmtree(tmp_path / "srv")
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ProjectFilesError, match="`docker compose config` cannot be run"):
            restore_project(point, manifest)

    def test_a_file_that_the_point_has_lost(self, project: Path, tmp_path: Path) -> None:
        point, manifest = kept(project, tmp_path)
        shutil.rmtree(tmp_path / "srv")
        (Path(point) / "project" / ".env").unlink()
        with pytest.raises(ProjectFilesError, match=r"is not whole: .*/project/\.env cannot be read"):
            restore_project(point, manifest)
        assert not (tmp_path / "srv").exists()

    def test_a_disk_that_is_full(self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        point, manifest = kept(project, tmp_path)
        shutil.rmtree(tmp_path / "srv")

        def full(descriptor: int) -> None:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(durable_files.os, "fsync", full)
        with pytest.raises(ProjectFilesError, match="No space left on device") as caught:
            restore_project(point, manifest)
        assert names_in(project) == []
        assert f"These were written, and are left: {tmp_path}/srv, {project}." in str(caught.value)

    def test_one_of_an_older_collection(self, project: Path, tmp_path: Path) -> None:
        point, manifest = kept(project, tmp_path)
        del manifest["project_dir"]
        with pytest.raises(ProjectFilesError, match="does not say where its project lay"):
            restore_project(point, manifest)
