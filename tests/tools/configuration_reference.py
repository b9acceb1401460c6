# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the configuration reference from what the roles, the playbooks and the modules say themselves.

    configuration_reference.py            write docs/configuration.md
    configuration_reference.py --check    fail unless it says what would be written now

A variable is described by the argument specs of the roles that take it. What only a playbook takes is described by the
option of the module that it goes to, or where it goes to none, here.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
REFERENCE = CHECKOUT / "docs" / "configuration.md"
COLLECTION = "capsule.opstage."

_ON_COMMAND_LINE = "It goes to the play itself, before any host is looked at: give it with C(-e), not in the inventory."

OF_PLAYBOOKS: dict[str, dict[str, Any]] = {
    "opstage_hosts": {
        "type": "str",
        "description": ["The hosts or the group to act on, in the words of C(hosts) in a play.", _ON_COMMAND_LINE],
    },
    "opstage_max_fail_percentage": {
        "type": "int",
        "description": ["The share of a wave, in percent, that may fail before the upgrade ends.", _ON_COMMAND_LINE],
    },
    "opstage_runbook": {
        "type": "path",
        "description": [
            "The file on the controller that the runbook is written to, mode 0600. Relative to the folder in which "
            "C(ansible-playbook) was started."
        ],
    },
    "opstage_serial": {
        "type": "list",
        "elements": "str",
        "description": [
            "How many hosts are upgraded at once, wave by wave, as C(serial) in a play has it.",
            _ON_COMMAND_LINE,
        ],
    },
}
"""What goes to the plays themselves; the defaults are those that stand there."""

_VARIABLE = re.compile(r"\bopstage_[a-z_]+")
_DEFAULT = re.compile(r"\b(opstage_[a-z_]+) \| default\((.+?)\) \}\}")
_BARE = re.compile(r"\{\{ (opstage_[a-z_]+) \}\}")
_USE = re.compile(r"\{\{ (opstage_[a-z_]+) \| default\(omit\) \}\}")
_MARKUP = re.compile(r"\b([A-Z])\(((?:[^()\\]|\\.)*)\)")
_HEAD = """\
# Configuration

Every variable of every role and playbook. `make reference` writes this page from the argument specs of the roles, the
playbooks and the documentation of the modules; edit those, not this page.

Set a variable in the inventory, for all hosts, a group or one host, or on the command line. There, what is no text is
given as JSON, such as `-e '{"opstage_soak": 60}'`, since `-e opstage_soak=60` is the text `60`. What is not set has the
default. A variable counts in the playbooks that are named with it, and in the roles of the same names; in others it may
be set and does nothing.
"""


@dataclass(frozen=True)
class Variable:
    """One variable: `option` as in an argument spec, the playbooks it counts in, and those that must have it."""

    name: str
    option: dict[str, Any]
    playbooks: tuple[str, ...]
    required: tuple[str, ...]


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write docs/configuration.md.")
    parser.add_argument("--check", action="store_true", help="only fail unless it is as it would be written")
    check = parser.parse_args(arguments).check
    text = render(collect())
    if not check:
        REFERENCE.write_text(text)
    elif not REFERENCE.exists() or REFERENCE.read_text() != text:
        sys.stderr.write(f"{REFERENCE.relative_to(CHECKOUT)} is not what the roles and playbooks say: make reference\n")
        return 1
    return 0


def collect() -> list[Variable]:
    """All variables, by name. Raises KeyError for one that nothing describes."""
    described = {**OF_PLAYBOOKS}
    playbooks: dict[str, set[str]] = {}
    required: dict[str, set[str]] = {}
    for path in sorted((CHECKOUT / "playbooks").glob("*.yml")):
        text, plays = path.read_text(), yaml.safe_load(path.read_text())
        defaults = {name: default for name, default in _DEFAULT.findall(text) if name in OF_PLAYBOOKS}
        for name, default in defaults.items():
            described[name] = {**described[name], "default": ast.literal_eval(default)}
        for name, option in options_of_modules(plays).items():
            described.setdefault(name, option)
        options = options_of_roles(plays)
        described.update({name: {**described.get(name, {}), **option} for name, option in options.items()})
        needed = {name for name, option in options.items() if option.get("required")} | set(_BARE.findall(text))
        for name in {*options, *_VARIABLE.findall(text)}:
            playbooks.setdefault(name, set()).add(path.stem)
            if name in needed:
                required.setdefault(name, set()).add(path.stem)
    return [
        Variable(name, described[name], tuple(sorted(found)), tuple(sorted(required.get(name, ()))))
        for name, found in sorted(playbooks.items())
    ]


def options_of_roles(plays: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the argument specs of the roles of the plays have."""
    options: dict[str, dict[str, Any]] = {}
    for role in (role["role"].removeprefix(COLLECTION) for play in plays for role in play.get("roles", [])):
        specs = yaml.safe_load((CHECKOUT / "roles" / role / "meta" / "argument_specs.yml").read_text())
        options.update(specs["argument_specs"]["main"]["options"])
    return options


def options_of_modules(value: Any) -> dict[str, dict[str, Any]]:
    """What the modules document of the options to which the variables in tasks below go as they are."""
    options: dict[str, dict[str, Any]] = {}
    for key, child in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        options.update(options_of_modules(child))
        if str(key).startswith(COLLECTION):
            documented = module_options(str(key).removeprefix(COLLECTION))
            uses = {option: _USE.fullmatch(str(given)) for option, given in child.items()}
            options.update({use[1]: documented[option] for option, use in uses.items() if use and option in documented})
    return options


def module_options(module: str) -> dict[str, dict[str, Any]]:
    """The options in the module's own DOCUMENTATION, read without running it."""
    tree = ast.parse((CHECKOUT / "plugins" / "modules" / f"{module}.py").read_text())
    for node in tree.body:
        names = [target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name)]
        if isinstance(node, ast.Assign) and names == ["DOCUMENTATION"]:
            options: dict[str, dict[str, Any]] = yaml.safe_load(ast.literal_eval(node.value)).get("options", {})
            return options
    raise KeyError(f"{module} has no DOCUMENTATION")


def render(variables: list[Variable]) -> str:
    """The page."""
    lines = [_HEAD, "| variable | default | counts in |", "|---|---|---|"]
    for variable in variables:
        name, counts = variable.name, ", ".join(variable.playbooks)
        lines.append(f"| [`{name}`](#{name}) | {default_of(variable.option) or 'none'} | {counts} |")
    for variable in variables:
        lines += ["", f"## {variable.name}", "", *facts(variable), ""]
        lines += paragraphs(variable.option["description"])
        if "options" in variable.option:
            lines += ["", *(entry(name, option) for name, option in variable.option["options"].items())]
    return "\n".join(lines) + "\n"


def facts(variable: Variable) -> list[str]:
    """What is known of a variable beside its description, as list items."""
    option = variable.option
    lines = [f"- type: {type_of(option)}", f"- default: {default_of(option) or 'none'}"]
    lines += [f"- choices: {', '.join(map(code, option['choices']))}"] if "choices" in option else []
    lines += [f"- must be set in: {', '.join(variable.required)}"] if variable.required else []
    lines += [f"- counts in: {', '.join(variable.playbooks)}"]
    return lines + (["- secret: Ansible does not show it"] if option.get("no_log") else [])


def entry(name: str, option: dict[str, Any]) -> str:
    """One key of a dictionary, as a list item."""
    default = default_of(option)
    kind = type_of(option) + (f", default {default}" if default else "")
    return f"- `{name}` ({kind}): {' '.join(paragraphs(option['description']))}"


def type_of(option: dict[str, Any]) -> str:
    """The type, and that of the elements of a list."""
    kind = str(option["type"])
    return f"{kind} of {option['elements']}" if "elements" in option else kind


def default_of(option: dict[str, Any]) -> str:
    """The default as YAML in a line, empty where there is none."""
    default = option.get("default")
    if default is None:
        return ""
    return code(default if isinstance(default, str) else json.dumps(default))


def paragraphs(description: str | list[str]) -> list[str]:
    """The description as lines of Markdown, with an empty one between its parts."""
    parts = [description] if isinstance(description, str) else description
    marked = [_MARKUP.sub(lambda found: code(found[2].replace("\\", "")), part) for part in parts]
    wrapped = [textwrap.wrap(part, 120, break_long_words=False, break_on_hyphens=False) for part in marked]
    return "\n\n".join("\n".join(lines) for lines in wrapped).split("\n")


def code(text: str) -> str:
    """Text as it is typed."""
    return f"`{text}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
