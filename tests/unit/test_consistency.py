# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written down in two places says the same in both."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from ansible.module_utils.basic import FILE_COMMON_ARGUMENTS
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION

CHECKOUT = Path(__file__).resolve().parents[2]
COLLECTION = "capsule.opstage"
FRAGMENTS = f"{COLLECTION}."
MODULES = sorted(path.stem for path in (CHECKOUT / "plugins" / "modules").glob("*.py"))
PLAYBOOKS = sorted(path.name for path in (CHECKOUT / "playbooks").glob("*.yml"))
ROLES = sorted(path.parents[1].name for path in (CHECKOUT / "roles").glob("*/meta/argument_specs.yml"))

PUBLIC_VARIABLE = re.compile(r"\bopstage_[a-z_]+")
USE_WITH_DEFAULT = re.compile(r"\{\{ (opstage_[a-z_]+) \| default\((.+?)\)(?: \| (bool))? \}\}")
USE = re.compile(r"\{\{ (opstage_[a-z_]+) \}\}")
EXPRESSION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
OMIT = "omit"


class Use(NamedTuple):
    """A use of a public variable: its default there, empty for none, what it is made first, such as ``bool``, empty for
    nothing, and the module and option that it goes to.
    """

    variable: str
    default: str
    made: str
    target: tuple[str, str] | None


@functools.cache
def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@functools.cache
def role_options(role: str) -> dict[str, dict[str, Any]]:
    """The options that a role documents."""
    (entry,) = load(CHECKOUT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"].items()
    assert entry[0] == "main"
    options: dict[str, dict[str, Any]] = entry[1]["options"]
    return options


def documented(module: str, name: str) -> Any:
    """DOCUMENTATION, EXAMPLES or RETURN of a module, read without running it."""
    tree = ast.parse((CHECKOUT / "plugins" / "modules" / f"{module}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and [target.id for target in node.targets if isinstance(target, ast.Name)] == [
            name
        ]:
            return yaml.safe_load(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no {name}")


@functools.cache
def module_options(module: str) -> dict[str, dict[str, Any]]:
    """The options that a module documents, those of the collection's own fragments among them."""
    documentation = documented(module, "DOCUMENTATION")
    options: dict[str, dict[str, Any]] = dict(documentation.get("options", {}))
    for fragment in documentation["extends_documentation_fragment"]:
        if fragment.startswith(FRAGMENTS):
            name = fragment[len(FRAGMENTS) :]
            imported = importlib.import_module(f"ansible_collections.capsule.opstage.plugins.doc_fragments.{name}")
            options.update(yaml.safe_load(imported.ModuleDocFragment.DOCUMENTATION)["options"])
    return options


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document, plays, tasks and arguments among them."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(child)


def files_of(role: str, tasks: str = "main") -> set[Path]:
    """The files that a run of the role reads, those of roles that it runs included.

    What a role's defaults make of public variables is for its main tasks.
    """
    folder = CHECKOUT / "roles" / role
    start = folder / "tasks" / f"{tasks}.yml"
    folders = ("defaults", "vars") if tasks == "main" else ("vars",)
    found = {path for name in folders for path in (folder / name).glob("main.yml")} | {start}
    for task in mappings(load(start)):
        for name, arguments in task.items():
            if name in ("ansible.builtin.import_tasks", "ansible.builtin.include_tasks"):
                found |= files_of(role, Path(arguments).stem)
            elif name in ("ansible.builtin.import_role", "ansible.builtin.include_role"):
                found |= files_of(arguments["name"].removeprefix(f"{COLLECTION}."), arguments.get("tasks_from", "main"))
    return found


def uses_of(role: str) -> Iterator[Use]:
    """Each use of a public variable in the role."""
    for path in files_of(role):
        yield from uses_below(load(path), None)


def uses_below(value: Any, module: str | None) -> Iterator[Use]:
    """The uses in a document; in a task's arguments, `module` is the module of this collection that they go to."""
    for name, child in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(child, str):
            yield from (Use(*use, (module, str(name)) if module else None) for use in uses_in(child))
        elif isinstance(child, dict | list):
            own = str(name).startswith(f"{COLLECTION}.")
            yield from uses_below(child, str(name).removeprefix(f"{COLLECTION}.") if own else None)


def uses_in(text: str) -> Iterator[tuple[str, str, str]]:
    for expression in EXPRESSION.findall(text):
        if match := USE_WITH_DEFAULT.fullmatch(expression):
            yield match[1], match[2], match[3] or ""
        elif match := USE.fullmatch(expression):
            yield match[1], "", ""
        elif PUBLIC_VARIABLE.search(expression):
            raise AssertionError(f"{expression!r} uses a public variable in another way than these tests understand")


def test_there_is_something_to_compare() -> None:
    assert set(ROLES) >= {"backup", "restore", "rollback", "upgrade"}
    assert {f"{role}.yml" for role in ROLES} <= set(PLAYBOOKS)
    assert "deployment_info" in MODULES


def test_version() -> None:
    assert load(CHECKOUT / "galaxy.yml")["version"] == VERSION


@pytest.mark.parametrize("role", ROLES)
class TestRoles:
    def test_every_variable_that_is_used_is_documented_and_the_reverse(self, role: str) -> None:
        assert {use.variable for use in uses_of(role)} == set(role_options(role))

    def test_defaults_are_those_that_take_effect(self, role: str) -> None:
        """A default is given where the variable is used, or left to the module that the variable goes to."""
        for variable, default, made, target in uses_of(role):
            option = role_options(role)[variable]
            where = f"{role}: {variable}"
            assert bool(option.get("required")) == (default == ""), where
            if default == OMIT:
                assert target is not None, where
                found = module_options(target[0])[target[1]]
                assert not found.get("required"), where
                assert (option["type"], option.get("default")) == (found["type"], found.get("default")), where
            elif default:
                assert ast.literal_eval(default) == option.get("default"), where
            # With -e it is text, and every text but the empty one is true.
            assert made == ("bool" if option["type"] == "bool" and target is None else ""), where

    def test_defaults_main_has_what_is_the_role_s_own(self, role: str) -> None:
        """A public variable defaulted there would hide the module's default, which is the only one."""
        path = CHECKOUT / "roles" / role / "defaults" / "main.yml"
        names = load(path) if path.exists() else {}
        assert [name for name in names if not name.startswith(f"{role}_")] == []

    def test_choices_fit_what_takes_them(self, role: str) -> None:
        for name, option in role_options(role).items():
            if "choices" in option:
                assert option.get("default") in [None, *option["choices"]], f"{role}: {name}"


def test_an_option_of_two_roles_is_the_same_in_both() -> None:
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    for role in ROLES:
        for name, option in role_options(role).items():
            common = {key: value for key, value in option.items() if key != "required"}
            other, expected = first.setdefault(name, (role, common))
            assert common == expected, f"{name} in {other} and in {role}"


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_a_playbook_runs_roles_that_exist_on_the_public_group(playbook: str) -> None:
    plays = load(CHECKOUT / "playbooks" / playbook)
    names = [mapping["role"] for play in plays for mapping in mappings(play.get("roles", []))]
    for name in names:
        assert name.startswith(f"{COLLECTION}."), name
        assert (CHECKOUT / "roles" / name.removeprefix(f"{COLLECTION}.") / "tasks" / "main.yml").is_file(), name
    if playbook.removesuffix(".yml") in ROLES:
        assert names == [f"{COLLECTION}.{playbook.removesuffix('.yml')}"]
    assert {play["hosts"] for play in plays} == {"{{ opstage_hosts | default('opstage') }}"}


class ConstructedError(Exception):
    """Ends a module's main() where it has said what its options are."""


def accepted_options(module: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """The options that a module accepts, without those for files that it leaves as Ansible documents them."""
    seen: dict[str, dict[str, Any]] = {}

    def construct(**keywords: Any) -> None:
        common = FILE_COMMON_ARGUMENTS if keywords.get("add_file_common_args") else {}
        seen.update({name: option for name, option in common.items() if name in module_options(module)})
        seen.update(keywords["argument_spec"])
        raise ConstructedError

    imported = importlib.import_module(f"ansible_collections.capsule.opstage.plugins.modules.{module}")
    monkeypatch.setattr(imported, "AnsibleModule", construct)
    with pytest.raises(ConstructedError):
        imported.main()
    return seen


@pytest.mark.parametrize("module", MODULES)
class TestModules:
    def test_documented_options_are_the_accepted_ones(self, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
        accepted, options = accepted_options(module, monkeypatch), module_options(module)
        assert set(accepted) == set(options)
        for name, option in options.items():
            for key in ("type", "elements", "default", "choices", "required"):
                assert accepted[name].get(key) == option.get(key), f"{name}: {key}"
            assert option["description"], name

    def test_names(self, module: str) -> None:
        documentation = documented(module, "DOCUMENTATION")
        assert documentation["module"] == module
        assert documentation["version_added"] == VERSION

    def test_examples_use_options_that_exist(self, module: str) -> None:
        options = module_options(module)
        shared = (
            {"mode", "owner", "group"}
            if "extends_documentation_fragment" in documented(module, "DOCUMENTATION")
            else set()
        )
        own = [task for task in documented(module, "EXAMPLES") if f"{COLLECTION}.{module}" in task]
        assert own
        for task in own:
            given = set(task[f"{COLLECTION}.{module}"] or {})
            assert given <= set(options) | shared, task["name"]
            assert given >= {name for name, option in options.items() if option.get("required")}, task["name"]

    def test_results_are_described(self, module: str) -> None:
        for name, result in documented(module, "RETURN").items():
            assert {"description", "returned", "type"} <= set(result), name


def test_every_module_that_a_role_or_playbook_uses_exists() -> None:
    files = [*(CHECKOUT / "roles").glob("*/tasks/*.yml"), *(CHECKOUT / "playbooks").glob("*.yml")]
    used = {name for path in files for mapping in mappings(load(path)) for name in mapping}
    own = {name.removeprefix(f"{COLLECTION}.") for name in used if str(name).startswith(f"{COLLECTION}.")}
    assert own
    assert own <= set(MODULES)
