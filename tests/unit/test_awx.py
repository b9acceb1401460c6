# SPDX-License-Identifier: GPL-3.0-or-later
"""The job templates for AWX ask for what the playbooks take, and load as the page about them says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
from test_consistency import CHECKOUT, COLLECTION, PLAYBOOKS, load, module_options, role_options, uses_below

TEMPLATES: list[dict[str, Any]] = load(CHECKOUT / "extensions" / "awx" / "job_templates.yml")["controller_templates"]
PAGE = (CHECKOUT / "docs" / "awx.md").read_text()
BINARIES = Path(sys.executable).parent

OF_EVERY_PLAYBOOK = {"opstage_hosts": {"type": "str", "default": "opstage"}}

# AWX knows neither lists nor booleans; both reach a module, which takes them as text.
ANSWERS = {"str": "text", "path": "text", "list": "text", "int": "integer", "bool": "multiplechoice"}


def options_of(playbook: str) -> dict[str, dict[str, Any]]:
    """The options of the variables that a playbook takes: its role's, or those of the modules that they go to."""
    options: dict[str, dict[str, Any]] = dict(OF_EVERY_PLAYBOOK)
    for play in load(CHECKOUT / "playbooks" / playbook):
        for role in play.get("roles", []):
            options.update(role_options(role["role"].removeprefix(f"{COLLECTION}.")))
        for use in uses_below(play.get("tasks", []), None):
            if use.target:
                found = module_options(use.target[0])[use.target[1]]
                # Without a default there, the play does not run without the variable.
                options[use.variable] = {**found, "required": use.default == ""}
    return options


def questions_of(template: dict[str, Any]) -> list[dict[str, Any]]:
    questions: list[dict[str, Any]] = template["survey_spec"]["spec"]
    return questions


def test_there_is_a_template_for_each_playbook() -> None:
    assert [template["playbook"] for template in TEMPLATES] == [f"playbooks/{name}" for name in PLAYBOOKS]
    assert len({template["name"] for template in TEMPLATES}) == len(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: Path(template["playbook"]).stem)
class TestSurveys:
    def test_every_question_is_for_a_variable_of_the_playbook(self, template: dict[str, Any]) -> None:
        variables = [question["variable"] for question in questions_of(template)]
        assert len(set(variables)) == len(variables)
        assert set(variables) <= set(options_of(Path(template["playbook"]).name))

    def test_what_is_required_is_asked_for(self, template: dict[str, Any]) -> None:
        required = {
            name for name, option in options_of(Path(template["playbook"]).name).items() if option.get("required")
        }
        asked = {question["variable"] for question in questions_of(template) if question["required"]}
        assert asked - set(OF_EVERY_PLAYBOOK) == required

    def test_answers_fit_the_types(self, template: dict[str, Any]) -> None:
        for question in questions_of(template):
            option = options_of(Path(template["playbook"]).name)[question["variable"]]
            choices = option.get("choices") or (["true", "false"] if option["type"] == "bool" else None)
            assert question.get("choices") == choices, question["variable"]
            assert question["type"] == ("multiplechoice" if choices else ANSWERS[option["type"]]), question["variable"]
            assert option.get("elements", "str") == "str", question["variable"]

    def test_no_secret_is_asked_for(self, template: dict[str, Any]) -> None:
        options = options_of(Path(template["playbook"]).name)
        assert [question for question in questions_of(template) if options[question["variable"]].get("no_log")] == []

    def test_what_is_left_blank_is_not_passed_on(self, template: dict[str, Any]) -> None:
        """An answer is an extra variable, and would beat the inventory; AWX passes a text of no length as well."""
        for question in questions_of(template):
            assert "default" not in question, question["variable"]
            assert question["type"] != "text" or question["min"] > 0, question["variable"]

    def test_defaults_are_said_as_they_are(self, template: dict[str, Any]) -> None:
        for question in questions_of(template):
            default = options_of(Path(template["playbook"]).name)[question["variable"]].get("default")
            text = question["question_description"]
            if question["required"]:
                assert "Blank" not in text, question["variable"]
            elif default in (None, []):
                assert "Blank" in text, question["variable"]
            else:
                said = str(default).lower() if isinstance(default, bool) else default
                assert text.endswith(f"Blank: {said}, or what the inventory says."), question["variable"]


def test_what_acts_on_hosts_together_is_not_sliced() -> None:
    sliced = {template["playbook"] for template in TEMPLATES if template.get("ask_job_slice_count_on_launch")}
    assert sliced == {"playbooks/backup.yml", "playbooks/schedule.yml"}


def example(language: str, beginning: str) -> str:
    """The example of the page that begins so."""
    (found,) = (
        text
        for text in re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        if text.startswith(beginning)
    )
    return str(found)


def test_the_project_has_all_playbooks(tmp_path: Path) -> None:
    subprocess.run(["sh", "-ec", example("", "mkdir")], cwd=tmp_path, check=True)
    made = {path.relative_to(tmp_path).as_posix(): load(path) for path in tmp_path.rglob("*.yml")}
    assert set(made) == {template["playbook"] for template in TEMPLATES}
    for path, plays in made.items():
        assert [play["ansible.builtin.import_playbook"] for play in plays] == [f"{COLLECTION}.{Path(path).stem}"]


class Controller(BaseHTTPRequestHandler):
    """As much of AWX as makes job templates: all else is there, under any name; no job template is yet."""

    made: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        known = [] if "/job_templates/" in self.path else [{"id": 1, "name": "Opstage"}]
        self.answer({"count": len(known), "results": known, "next": None})

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/survey_spec/"):
            self.made[int(self.path.split("/")[-3])]["survey_spec"] = document
            self.answer({})
        elif self.path.endswith("/job_templates/"):
            url = f"{self.path}{len(self.made)}/"
            related = {name: f"{url}{name}/" for name in ("survey_spec", "credentials")}
            self.made.append(document)
            self.answer({"id": len(self.made), "url": url, "related": related}, 201)
        elif self.path.endswith("/credentials/"):
            self.made[int(self.path.split("/")[-3])]["credential"] = document["id"]
            self.answer({}, 204)

    def answer(self, document: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def controller() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Controller)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Controller.made = []
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(find_spec("ansible_collections.awx") is None, reason="this release of ansible has no awx.awx")
def test_the_page_loads_them(controller: str, collections_root: Path, tmp_path: Path) -> None:
    (tmp_path / "load.yml").write_text(example("yaml", "- name: Load"))
    # The one with all keys, and the one with the fewest: each takes a second.
    templates = [max(TEMPLATES, key=len), min(TEMPLATES, key=len)]
    variables = {"collections": str(collections_root), "controller_templates": templates}
    environment = {"CONTROLLER_HOST": controller, "CONTROLLER_OAUTH_TOKEN": "token", "ANSIBLE_HOME": str(tmp_path)}
    done = subprocess.run(
        [str(BINARIES / "ansible-playbook"), "load.yml", "--extra-vars", json.dumps(variables)],
        cwd=tmp_path,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {key for template in TEMPLATES for key in template} == set(templates[0])
    assert len(Controller.made) == len(templates)
    for made, template in zip(Controller.made, templates, strict=True):
        assert {key: made[key] for key in templates[0] if key in template or made[key]} == template
        assert made["project"] == made["inventory"] == made["credential"] == 1
