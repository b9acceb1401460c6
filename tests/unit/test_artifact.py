# SPDX-License-Identifier: GPL-3.0-or-later
"""The artifact holds what users need and nothing else, and all of it runs from an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from test_consistency import CHECKOUT, COLLECTION, MODULES, PLAYBOOKS, ROLES, load
from tools.artifact import build
from tools.repository import list_files

BINARIES = Path(sys.executable).parent
VERSION = load(CHECKOUT / "galaxy.yml")["version"]

FOLDERS = {"bin", "docs", "extensions", "meta", "playbooks", "plugins", "roles"}
FILES = {
    "CHANGELOG.rst",
    "CONTRIBUTING.md",
    "COPYING",
    "README.md",
    "changelogs/changelog.yaml",
    "execution-environment.yml",
}
WRITTEN_BY_THE_BUILD = {"FILES.json", "MANIFEST.json"}
MOST_BYTES = 2 * 1024**2


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("artifact"))


class Installation:
    """A folder with nothing but the installed artifact."""

    def __init__(self, folder: Path, artifact: Path) -> None:
        self.folder = folder
        self.collections = folder / "collections"
        self.collection = self.collections / "ansible_collections" / "capsule" / "opstage"
        # What the collection depends on comes with the package `ansible`, so no server is asked.
        self.run("ansible-galaxy", "collection", "install", "--no-deps", "--offline", str(artifact))

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of Ansible's here, with none of the checkout's settings, and return its output."""
        settings = {"ANSIBLE_COLLECTIONS_PATH": str(self.collections), "ANSIBLE_HOME": str(self.folder / "home")}
        done = subprocess.run(
            [str(BINARIES / program), *arguments],
            cwd=self.folder,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, artifact: Path) -> Installation:
    return Installation(tmp_path_factory.mktemp("empty"), artifact)


def test_it_holds_what_users_need_and_nothing_else(artifact: Path) -> None:
    tracked = {name for name in list_files() if name in FILES or name.split("/")[0] in FOLDERS}
    with tarfile.open(artifact) as archive:
        members = archive.getmembers()
    assert {member.name for member in members if not member.isdir()} == tracked | WRITTEN_BY_THE_BUILD
    assert tracked >= FILES
    assert [member.name for member in members if not (member.isfile() or member.isdir())] == []
    assert artifact.stat().st_size < MOST_BYTES


def test_what_is_run_is_executable(artifact: Path) -> None:
    with tarfile.open(artifact) as archive:
        assert archive.getmember("bin/opstage-ops").mode & 0o111


def test_links_of_its_readme_lead_to_what_it_holds(installation: Installation) -> None:
    links = re.findall(r"\]\(([^)#]+)", (installation.collection / "README.md").read_text())
    own = [link for link in links if "://" not in link]
    assert own
    assert [link for link in own if not (installation.collection / link).exists()] == []


def test_every_playbook_is_found_by_its_full_name(installation: Installation) -> None:
    names = [f"{COLLECTION}.{Path(name).stem}" for name in PLAYBOOKS]
    output = installation.run("ansible-playbook", "--inventory", "opstage,", "--syntax-check", *names)
    assert re.findall(r"^playbook: (.+)$", output, re.MULTILINE) == [
        str(installation.collection / "playbooks" / name) for name in PLAYBOOKS
    ]


def test_every_module_is_documented(installation: Installation) -> None:
    names = [f"{COLLECTION}.{name}" for name in MODULES]
    found = json.loads(installation.run("ansible-doc", "--json", *names))
    assert set(found) == set(names)
    assert all(page["doc"]["filename"].startswith(str(installation.collection)) for page in found.values())


def test_every_role_is_documented(installation: Installation) -> None:
    names = [f"{COLLECTION}.{name}" for name in ROLES]
    found = json.loads(installation.run("ansible-doc", "--type", "role", "--json", *names))
    assert {name: list(page["entry_points"]) for name, page in found.items()} == {name: ["main"] for name in names}


@pytest.mark.parametrize("folder", sorted((CHECKOUT / "roles").iterdir()), ids=lambda folder: folder.name)
def test_every_role_has_the_readme_that_galaxy_requires(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert text.startswith(f"# {COLLECTION}.{folder.name}\n")
    assert (f"\nansible-doc --type role {COLLECTION}.{folder.name}\n" in text) == (folder.name in ROLES)


def test_the_command_runs_without_ansible(installation: Installation) -> None:
    command = [str(installation.collection / "bin" / "opstage-ops"), "--help"]
    environment = {"PATH": os.defpath}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: opstage-ops")


@pytest.mark.parametrize("name", ["README.md", "docs/awx.md", "execution-environment.yml"])
def test_its_name_is_right_wherever_it_is_used(name: str) -> None:
    named = set(re.findall(r"capsule-opstage-\S+?\.tar\.gz", (CHECKOUT / name).read_text()))
    assert named == {f"capsule-opstage-{VERSION}.tar.gz"}


class TestExecutionEnvironment:
    def test_it_installs_the_artifact(self) -> None:
        definition = load(CHECKOUT / "execution-environment.yml")
        (added,) = definition["additional_build_files"]
        (installed,) = definition["dependencies"]["galaxy"]["collections"]
        assert installed == {"name": f"{added['dest']}/{added['src']}", "type": "file"}

    def test_what_the_collection_asks_for_is_there(self, artifact: Path) -> None:
        dependencies = load(CHECKOUT / "meta" / "execution-environment.yml")["dependencies"]
        with tarfile.open(artifact) as archive:
            assert set(dependencies.values()) <= set(archive.getnames())
