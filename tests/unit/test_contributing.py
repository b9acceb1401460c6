# SPDX-License-Identifier: GPL-3.0-or-later
"""What contributors are told is so: the map, the targets, the hooks, and the versions that are supported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_consistency import CHECKOUT, load
from tools.repository import list_files

PAGE = (CHECKOUT / "CONTRIBUTING.md").read_text()
MAKEFILE = (CHECKOUT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))

# Their folders hold different things, and the map has each.
DIVIDED = {"plugins", "tests"}


def paths_in_map() -> set[str]:
    """The paths in the first column of the table under `Map`."""
    (table,) = re.findall(r"^## Map\n.*?^\|---.*?\n(.*)", PAGE, re.MULTILINE | re.DOTALL)
    return {path for row in table.splitlines() for path in re.findall(r"`([^`]+)`", row.split("|")[1])}


def folders() -> set[str]:
    """The folders that the repository has, and those within the divided ones."""
    parts = [Path(name).parts for name in list_files()]
    top = {found[0] for found in parts if len(found) > 1}
    within = {"/".join(found[:2]) for found in parts if found[0] in DIVIDED and len(found) > 2}
    return top - DIVIDED | within


def lint_commands() -> list[list[str]]:
    """The commands of the target `lint`."""
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return [line.split() for line in recipe.splitlines()]


def minimum(specification: str) -> str:
    """The oldest version, major and minor, that `>=<version>` admits."""
    found = re.fullmatch(r">=(\d+\.\d+)\.0", specification)
    assert found, specification
    return found[1]


def test_the_map_has_every_folder_and_no_other() -> None:
    ignored = {line.strip("/") for line in (CHECKOUT / ".gitignore").read_text().splitlines() if line.startswith("/.")}
    assert paths_in_map() - ignored == folders()


def test_every_target_that_is_named_exists() -> None:
    named = set(re.findall(r"(?:`|^)make ((?:[a-z]+ ?)+)", PAGE, re.MULTILINE))
    assert named
    assert {target for names in named for target in names.split()} <= TARGETS


def test_the_stages_are_those_of_make_test() -> None:
    (stages,) = re.findall(r"^STAGES := (.+)$", MAKEFILE, re.MULTILINE)
    assert re.findall(r"^\| `make ([a-z]+)` \|", PAGE, re.MULTILINE) == stages.split()


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", PAGE))
def test_links_resolve(path: str) -> None:
    assert (CHECKOUT / path).exists()


class TestHooks:
    HOOKS = load(CHECKOUT / ".pre-commit-config.yaml")["repos"][0]["hooks"]

    def test_they_need_no_network(self) -> None:
        assert [repository["repo"] for repository in load(CHECKOUT / ".pre-commit-config.yaml")["repos"]] == ["local"]
        assert {hook["language"] for hook in self.HOOKS} == {"system"}

    def test_a_push_runs_make_lint(self) -> None:
        assert [hook["entry"] for hook in self.HOOKS if hook.get("stages") == ["pre-push"]] == ["make lint"]

    def test_a_commit_runs_commands_of_make_lint(self) -> None:
        """On the files of the commit, where make runs them on all."""
        on_all = [command for command in lint_commands() if command[-1] != "."]
        on_files = [command[:-1] for command in lint_commands() if command[-1] == "."]
        hooks = [hook for hook in self.HOOKS if "stages" not in hook]
        assert hooks
        for hook in hooks:
            commands = on_files if hook.get("pass_filenames", True) else on_all
            program, *arguments = hook["entry"].split()
            assert [program.removeprefix(".venv/bin/"), *arguments] in commands, hook["id"]


class TestSupportedVersions:
    ANSIBLE = minimum(load(CHECKOUT / "meta" / "runtime.yml")["requires_ansible"])
    DOCKER = minimum(load(CHECKOUT / "galaxy.yml")["dependencies"]["community.docker"])

    @pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/awx.md"])
    def test_pages_say_what_the_collection_requires(self, name: str) -> None:
        text = (CHECKOUT / name).read_text()
        assert set(re.findall(r"ansible-core (\S+) or newer", text)) == {self.ANSIBLE}
        assert set(re.findall(r"community\.docker`? (\S+) or\s+newer", text)) == {self.DOCKER}

    def test_so_does_the_execution_environment(self) -> None:
        core = load(CHECKOUT / "execution-environment.yml")["dependencies"]["ansible_core"]["package_pip"]
        assert re.findall(r">=(\d+\.\d+)\.0", core) == [self.ANSIBLE]
