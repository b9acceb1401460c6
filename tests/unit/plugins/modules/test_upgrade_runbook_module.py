# SPDX-License-Identifier: GPL-3.0-or-later
"""The thin module, and the playbook that makes one document of what it returns for each host."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compose_command
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.capsule.opstage.plugins.modules import upgrade_runbook
from opstage_testing import answers as answers_of
from opstage_testing import recorded_container, recorded_image, serving, unused_url
from sqlite_testing import fingerprint, killed_deployment, names_in

CHECKOUT = Path(__file__).resolve().parents[4]
REPOSITORY = "registry:5000/opstage"
IMAGE_ID = "sha256:" + "9" * 64

Run = Callable[..., "dict[str, Any]"]


def image(version: str, **more: Any) -> dict[str, Any]:
    return {"version": version, "tag": version, "digest": None, "image": f"{REPOSITORY}:{version}", **more}


PLAN: dict[str, Any] = {
    "needed": True,
    "problems": [],
    "source": image("0.2.0", image_id=IMAGE_ID, pinned_digest=None),
    "target": image("0.3.0"),
    "path": [image("0.3.0")],
    "versions": ["0.3.0"],
    "versions_complete": True,
    "predicted_seconds": None,
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_module(check_mode: bool = False, **options: object) -> dict[str, Any]:
        with patch_module_args({**options, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit) as ended:
            upgrade_runbook.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(result.get("failed")) == bool(ended.value.code)
        return result

    return run_module


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("PATH", compose_command.search_path())
    (tmp_path / "compose.yml").write_text(f"services:\n  web:\n    image: {REPOSITORY}:0.2.0\n")
    killed_deployment(tmp_path / "opstage.db")
    return {
        "project": "web",
        "project_dir": str(tmp_path),
        "config_files": [str(tmp_path / "compose.yml")],
        "environment_files": [],
        "service": "web",
        "container": "web-web-1",
        "repository": REPOSITORY,
        "image_id": IMAGE_ID,
        "data_dir": str(tmp_path),
        "database": str(tmp_path / "opstage.db"),
        "url": "http://127.0.0.1:8080",
        "ca_file": None,
    }


@pytest.mark.parametrize("check_mode", [False, True])
def test_one_host(run: Run, deployment: dict[str, Any], tmp_path: Path, check_mode: bool) -> None:
    before = (fingerprint(tmp_path / "compose.yml"), names_in(tmp_path))
    options = {"host": "web1", "deployment": deployment, "plan": PLAN, "changelog": "Much."}
    result = run(check_mode, root="/srv/backups", rehearse=False, timeout=77, maintenance_window="No day", **options)
    assert result["changed"] is False
    assert (fingerprint(tmp_path / "compose.yml"), names_in(tmp_path)) == before
    size = sum((tmp_path / name).stat().st_size for name in ("opstage.db", "opstage.db-wal"))
    assert result["text"].startswith("## web1\n\n")
    for words in (
        f"{size:,} bytes",
        f"line 3 of `{tmp_path}/compose.yml` becomes `image: {REPOSITORY}:0.3.0`",
        "/srv/backups/by-hand/web-",
        "Rehearsal | none",
        "within 77 s",
        "'No day' is no maintenance window",
        "Much.",
    ):
        assert words in result["text"]


def test_what_cannot_be_pinned(run: Run, deployment: dict[str, Any]) -> None:
    options = {**deployment, "service": "none"}
    text = run(host="web1", deployment=options, plan=PLAN, changelog="")["text"]
    assert "Where the project's files name the image is not known." in text


def test_no_plan(run: Run) -> None:
    result = run(host="web1", failure="It cannot be reached.")
    assert result["text"] == "## web1\n\nThere is no runbook for this host: It cannot be reached.\n"
    assert (result["changed"], "msg" in result) == (False, False)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"deployment": {}},
        {"deployment": {}, "plan": {}},
        {"failure": "", "deployment": {}, "plan": {}, "changelog": ""},
    ],
)
def test_what_is_missing(run: Run, options: dict[str, Any]) -> None:
    assert run(host="web1", **options)["failed"]


DOCKER = """#!/bin/sh
case "$1 $2" in
"ps "*) echo "{identifier}" ;;
"container inspect") cat "{folder}/container" ;;
"image inspect") cat "{folder}/image" ;;
"compose "*) PATH="{path}" exec docker "$@" ;;
*) echo "Cannot connect to the Docker daemon" >&2; exit 1 ;;
esac
"""


class Fleet:
    """One host with a deployment, one without, and one that cannot be reached."""

    def __init__(self, folder: Path, collections: Path, url: str) -> None:
        self.folder, self.work = folder, folder / "work"
        self.work.mkdir()
        self._collections = collections
        hosts: dict[str, Any] = {
            "gone": {"ansible_host": "127.0.0.1", "ansible_port": int(unused_url().rpartition(":")[2])},
            "web": {"ansible_connection": "local"},
            "empty": {"ansible_connection": "local", "opstage_service": "none"},
        }
        (folder / "inventory.json").write_text(json.dumps({"opstage": {"hosts": hosts}}))
        (folder / "ansible.cfg").write_text("[defaults]\n[ssh_connection]\nretries=0\n")
        self._install_docker(url)

    def _install_docker(self, url: str) -> None:
        folder = self.folder / "programs"
        (folder / "data").mkdir(parents=True)
        killed_deployment(folder / "data" / "opstage.db")
        container = recorded_container("published")
        reference = container["Config"]["Image"]
        (folder / "compose.yml").write_text(f"services:\n  published:\n    image: {reference}\n")
        container["Mounts"][0]["Source"] = str(folder / "data")
        container["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"] = url.rpartition(":")[2]
        container["State"].update(Status="running")
        labels = container["Config"]["Labels"]
        labels["com.docker.compose.project.working_dir"] = str(folder)
        labels["com.docker.compose.project.config_files"] = str(folder / "compose.yml")
        (folder / "container").write_text(json.dumps([container]))
        (folder / "image").write_text(json.dumps([recorded_image(container["Image"])]))
        program = folder / "docker"
        path = compose_command.search_path()
        program.write_text(DOCKER.format(identifier=container["Id"], folder=folder, path=path))
        program.chmod(0o755)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        given = json.dumps({"ansible_python_interpreter": sys.executable, "ansible_become": False, **variables})
        return subprocess.run(
            [program, "-i", str(self.folder / "inventory.json"), "-e", given, *arguments, "capsule.opstage.runbook"],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(self._collections),
                "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
                "PATH": f"{self.folder / 'programs'}{os.pathsep}{os.environ['PATH']}",
                "PWD": str(self.work),
                "no_proxy": "*",
            },
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def test_the_playbook(tmp_path: Path, collections_root: Path) -> None:
    with serving(answers_of("0.2.0")) as service:
        fleet = Fleet(tmp_path, collections_root, service.url)
        written = fleet.run(opstage_version="0.3.0", opstage_maintenance_window="Sun 02:00-04:00 UTC")
        checked = fleet.run("--check", "--limit", "web", opstage_version="0.3.0", opstage_runbook="other.md")
        missing = fleet.run("--limit", "web")
    # Those that have no plan make it red, when the document is there.
    assert written.returncode == 2, written.stdout
    assert names_in(fleet.work) == ["opstage-runbook.md"]
    document = fleet.work / "opstage-runbook.md"
    assert document.stat().st_mode & 0o777 == 0o600
    text = document.read_text()
    assert re.findall(r"^##? .*", text, re.MULTILINE) == [
        "# Upgrade of Opstage to 0.3.0",
        "## gone",
        "## web",
        "## empty",
    ]
    author = pwd.getpwuid(os.geteuid()).pw_name
    assert re.search(rf"^\| made \| 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ by {author} \|$", text, re.MULTILINE)
    assert "| maintenance window | Sun 02:00-04:00 UTC |" in text
    assert "| digest | unknown |" in text
    assert "| hosts | 3, in the order of the upgrade |" in text
    gone, web, empty = text.split("\n## ")[1:]
    assert "There is no runbook for this host: It cannot be reached: " in gone
    assert "There is no runbook for this host: No container of Opstage was found" in empty
    assert "### By hand, without Ansible" in web
    assert "opstage_upgrade_acknowledge to '0.3.0'" in web
    assert "The maintenance window" not in web
    assert "hunter2" not in written.stdout + text

    assert checked.returncode == 0
    assert "# Upgrade of Opstage to 0.3.0" in checked.stdout
    assert "### By hand, without Ansible" in checked.stdout

    assert missing.returncode == 2
    assert "Set opstage_version" in missing.stdout
    assert "## web" not in missing.stdout
