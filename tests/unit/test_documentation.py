# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation names is there, and what must be documented is."""

from __future__ import annotations

import ast
import functools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.capsule.opstage.plugins.module_utils.command_line import _parser
from ansible_collections.capsule.opstage.plugins.module_utils.command_outcome import ExitCode
from compatibility import summary
from tools import configuration_reference
from unit.test_consistency import COLLECTION, MODULES, PLAYBOOKS, documented, mappings, module_options

CHECKOUT = Path(__file__).resolve().parents[2]
GUIDE = CHECKOUT / "docs" / "docsite" / "rst"
README = CHECKOUT / "README.md"
NIGHT = GUIDE / "at_3_am.rst"
DOCUMENTS = [
    README,
    CHECKOUT / "CONTRIBUTING.md",
    *sorted((CHECKOUT / "docs").glob("*.md")),
    *sorted(GUIDE.glob("*.rst")),
]
PAGES = [path for path in DOCUMENTS if path.is_relative_to(CHECKOUT / "docs")]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^( *)\.\. code-block:: (\w+)\n\n((?:\1    .*\n|\n)+)", re.MULTILINE)
LINK = {".md": re.compile(r"\]\(([^)\s]+)\)"), ".rst": re.compile(r"`[^`<]+<([^>\s]+)>`__")}
ADDRESS = re.compile(r"[a-z]+:")
REFERENCE = re.compile(r":ref:`[^<`]*<([\w.]+)>`")
LABEL = re.compile(r"^\.\. _([\w.]+):$", re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CELLS = re.compile(r"^   \* - (.+)\n     - ((?:.+\n?(?:       .*\n)*))", re.MULTILINE)

DIFFERS = "…"
"""What a message has in the place of what is not the same each time."""

WITH_VALUE = ("-i", "-e", "--limit")
TEXTS = ("str", "path")


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


def blocks(document: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    text = document.read_text()
    if document.suffix == ".md":
        return FENCE.findall(text)
    return [
        (language, re.sub(rf"^{indent}    ", "", code, flags=re.M)) for indent, language, code in BLOCK.findall(text)
    ]


def links(document: Path) -> list[str]:
    """The targets of links, addresses left out."""
    text = FENCE.sub("", document.read_text())
    return [target for target in LINK[document.suffix].findall(text) if not ADDRESS.match(target)]


@functools.cache
def labels() -> dict[str, Path]:
    """The pages of the guide by the labels that are in them."""
    return {label: page for page in GUIDE.glob("*.rst") for label in LABEL.findall(page.read_text())}


def anchors(document: Path) -> set[str]:
    """What a link into a Markdown document may name behind the `#`."""
    headings = HEADING.findall(FENCE.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(document: Path, program: str) -> Iterator[list[str]]:
    """The arguments of each call of a program in blocks of code; a line that ends in a backslash goes on."""
    for _language, text in blocks(document):
        for line in text.replace("\\\n", " ").splitlines():
            if found := re.search(rf"(?:^|; |/){program} (.+)$", line):
                yield shlex.split(found[1], comments=True)


def variables_of(value: str) -> dict[str, Any]:
    """What one `-e` of ansible-playbook gives: JSON, or text by names."""
    if value.startswith("{"):
        given: dict[str, Any] = json.loads(value)
        return given
    return dict(word.split("=", 1) for word in shlex.split(value))


def paragraph(text: str) -> str:
    return " ".join(text.split())


@functools.cache
def words_of_the_code() -> str:
    """All that the code can say, with values left out; a name of a constant is replaced by its text."""
    trees = [ast.parse(path.read_text()) for path in (CHECKOUT / "plugins").rglob("*.py")]
    constants = {
        target.id: node.value.value
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def said(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        value = node.value if isinstance(node, ast.FormattedValue) else None
        return constants.get(value.id, DIFFERS) if isinstance(value, ast.Name) else DIFFERS

    strings = [
        "".join(map(said, node.values)) if isinstance(node, ast.JoinedStr) else node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]
    return paragraph("\n".join([*strings, *(path.read_text() for path in (CHECKOUT / "roles").glob("*/*/*.yml"))]))


@functools.cache
def counting() -> dict[str, dict[str, dict[str, Any]]]:
    """For each playbook, the variables that count in it with their options."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for variable in configuration_reference.collect():
        for playbook in variable.playbooks:
            found.setdefault(playbook, {})[variable.name] = variable.option
    return found


def test_there_is_something_to_look_at() -> None:
    assert sum(len(links(document)) for document in DOCUMENTS) > 30
    assert sum(len(list(commands(document, "ansible-playbook"))) for document in DOCUMENTS) > 30
    assert sum(len(list(commands(document, "opstage-ops"))) for document in DOCUMENTS) > 10
    assert sum(language == "yaml" for document in DOCUMENTS for language, _text in blocks(document)) > 3
    assert len(messages()) > 40


@each_document
class TestDocuments:
    def test_links_lead_somewhere(self, document: Path) -> None:
        for target in links(document):
            path, _hash, anchor = target.partition("#")
            found = document.parent / path if path else document
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target

    def test_references_lead_somewhere(self, document: Path) -> None:
        assert set(REFERENCE.findall(document.read_text())) <= set(labels())

    def test_playbooks_and_their_variables_exist(self, document: Path) -> None:
        for arguments in commands(document, "ansible-playbook"):
            given: dict[str, Any] = {}
            names = []
            while arguments:
                argument = arguments.pop(0)
                if argument in WITH_VALUE:
                    value = arguments.pop(0)
                    given.update(variables_of(value) if argument == "-e" else {})
                elif not argument.startswith("-") and not (CHECKOUT / argument).is_relative_to(CHECKOUT / "tests"):
                    names.append(re.sub(rf"^{COLLECTION}\.|^playbooks/|\.yml$", "", argument))
            assert {f"{name}.yml" for name in names} <= set(PLAYBOOKS)
            options = {name: option for playbook in names for name, option in counting()[playbook].items()}
            assert not names or set(given) <= set(options), names
            for name, value in given.items() if names else ():
                is_text = options[name]["type"] in TEXTS or options[name].get("elements") in TEXTS
                assert is_text or not isinstance(value, str), f"{name} is no text: give it as JSON"

    def test_commands_of_opstage_ops_are_understood(self, document: Path) -> None:
        for arguments in commands(document, "opstage-ops"):
            assert _parser().parse_args(arguments)

    def test_targets_of_make_exist(self, document: Path) -> None:
        targets = set(re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
        for arguments in commands(document, "make"):
            assert {word for word in arguments if "=" not in word} <= targets

    def test_examples_in_yaml_are_that(self, document: Path) -> None:
        known = {name for options in counting().values() for name in options}
        for language, text in blocks(document):
            if language == "yaml":
                used = {name for mapping in mappings(yaml.safe_load(text)) for name in mapping}
                assert {name for name in used if str(name).startswith("opstage_")} <= known


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_modules_use_options_that_exist(module: str) -> None:
    for mapping in mappings(documented(module, "EXAMPLES")):
        for name, arguments in mapping.items():
            used = str(name).removeprefix(f"{COLLECTION}.")
            if used in MODULES and used != name:
                assert set(arguments or {}) - {"mode", "owner", "group"} <= set(module_options(used)), mapping


def test_every_playbook_is_in_the_readme() -> None:
    assert {f"playbooks/{name}" for name in PLAYBOOKS} <= set(links(README))


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, left = set(), [README]
    while left:
        document = left.pop()
        if document not in reached and document in DOCUMENTS:
            reached.add(document)
            left += [(document.parent / target.partition("#")[0]).resolve() for target in links(document)]
            left += [labels()[label] for label in REFERENCE.findall(document.read_text())]
    assert set(PAGES) <= reached


def test_every_page_of_the_guide_is_in_its_contents() -> None:
    sections = yaml.safe_load((GUIDE.parent / "extra-docs.yml").read_text())["sections"]
    assert sorted(page for section in sections for page in section["toctree"]) == sorted(
        page.stem for page in GUIDE.glob("*.rst")
    )


def test_the_configuration_reference_is_what_the_roles_say() -> None:
    assert configuration_reference.main(["--check"]) == 0


def test_the_readme_names_the_versions_that_the_matrix_was_run_with() -> None:
    readme = README.read_text()
    assert summary.written(readme, summary.PAGE.read_text()) == readme


def test_a_version_that_failed_is_none_of_those_that_were_tested() -> None:
    head = "| " + " | ".join(column for _name, column in summary.PARTS) + " | playbooks |\n"
    line = "|---" * (len(summary.PARTS) + 1) + "|\n"
    rows = ["| 2.18.1-4 |" + " 1 |" * 6 + " 9 passed |\n", "| 2.9.9 |" + " 1 |" * 6 + " failed: backup |\n"]
    assert "| controller: ansible-core | 2.18.1 |\n" in summary.summary(head + line + "".join(rows))
    with pytest.raises(ValueError, match="make matrix"):
        summary.summary(head + line + rows[1])


def test_every_exit_code_is_documented() -> None:
    cells = CELLS.findall((GUIDE / "opstage_ops.rst").read_text())
    assert [(code, paragraph(meaning)) for code, meaning in cells if code.isdigit()] == [
        (str(int(code)), code.meaning) for code in ExitCode
    ]


def messages() -> list[str]:
    """What the page for the night says that is printed: texts in blocks, and the first column of tables of messages."""
    text = NIGHT.read_text()
    tables = re.split(r"^\.\. list-table::$", text, flags=re.MULTILINE)[1:]
    cells = [CELLS.findall(table.split("\n\n", 2)[1] + "\n") for table in tables]
    return [
        *(code for language, code in blocks(NIGHT) if language == "text"),
        *(said for rows in cells for said, _what in rows[1:] if rows[0][0] == "message"),
    ]


@pytest.mark.parametrize("message", messages())
def test_a_message_is_one_that_the_code_has(message: str) -> None:
    parts = [part.strip() for part in paragraph(message).split(DIFFERS)]
    assert max(map(len, parts)) > 8
    for part in parts:
        assert part in words_of_the_code(), part
