# SPDX-License-Identifier: GPL-3.0-or-later
"""The module recovery_point where the service makes the copy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.capsule.opstage.plugins.modules import recovery_point
from console_testing import PASSWORD, USERNAME, Console, PrivateAuthority, serving_console
from opstage_testing import RecordedDocker, recorded_container
from sqlite_testing import make_database, names_in, numbers_in

Run = Callable[..., "dict[str, Any]"]


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the module warns of."""
    texts: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: texts.append(text))
    return texts


@pytest.fixture
def authority(tmp_path: Path) -> PrivateAuthority:
    return PrivateAuthority(tmp_path)


@pytest.fixture
def console(authority: PrivateAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    """Behind a proxy with a certificate of a private CA, on a host that does not see its data."""
    docker = RecordedDocker(tmp_path / "docker", monkeypatch)
    docker.has_containers([recorded_container("in-memory")])
    content = make_database(tmp_path / "sent.db", 20, "WAL").read_bytes()
    with serving_console(Console(content), authority.certificate()) as console:
        yield console


@pytest.fixture
def deployment(console: Console, authority: PrivateAuthority, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "compose.yml").write_text("services: {}\n")
    return {
        "project": "opstage",
        "project_dir": str(tmp_path),
        "config_files": [str(tmp_path / "compose.yml")],
        "environment_files": [],
        "service": "opstage",
        "container": "opstage-in-memory-1",
        "image": "repo:0.2.0",
        "tag": "0.2.0",
        "digest": None,
        "image_id": "sha256:" + "1" * 64,
        "version": "0.2.0",
        "version_source": "label",
        "edition": None,
        "data_dir": "",
        "database": "",
        "url": console.url,
        "ca_file": str(authority.file),
    }


@pytest.fixture
def run(
    deployment: dict[str, Any], console: Console, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    usual = {
        "deployment": deployment,
        "root": str(tmp_path / "backups"),
        "method": "api",
        "username": USERNAME,
        "password": PASSWORD,
    }

    def run_module(check_mode: bool = False, **options: object) -> dict[str, Any]:
        given = {name: value for name, value in {**usual, **options}.items() if value is not None}
        with patch_module_args({**given, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
            recovery_point.main()
        output = capsys.readouterr()
        assert PASSWORD not in output.out + output.err
        result: dict[str, Any] = json.loads(output.out)
        return result

    yield run_module
    assert console.sessions == 0


def test_a_recovery_point(run: Run, warnings: list[str]) -> None:
    made = run()
    assert made["changed"]
    assert numbers_in(Path(made["database"])) == list(range(1, 21))
    assert made["manifest"]["method"] == "api"
    (warning,) = warnings
    assert "lies in no mount: the host cannot see it" in warning


def test_check_mode_asks_nobody(run: Run, console: Console, tmp_path: Path) -> None:
    assert run(check_mode=True)["changed"]
    assert console.asked == []
    assert not (tmp_path / "backups").exists()


def test_a_failure_shows_what_it_says(run: Run, deployment: dict[str, Any], tmp_path: Path) -> None:
    said = run(password="another-password")["msg"]
    assert said.startswith("No recovery point was made, and nothing is left of it: https://127.0.0.1:")
    assert "the user name 'admin' or the password is wrong" in said
    assert "that this host does not trust" in run(deployment={**deployment, "ca_file": None})["msg"]
    assert names_in(tmp_path / "backups" / "opstage") == []


@pytest.mark.parametrize("missing", [{"username": None}, {"password": None}, {"username": ""}, {"password": ""}])
@pytest.mark.parametrize("check_mode", [True, False])
def test_an_account_is_needed(run: Run, console: Console, missing: dict[str, Any], check_mode: bool) -> None:
    said = run(check_mode=check_mode, **missing)
    assert said["msg"].endswith("set opstage_admin_username and opstage_admin_password.")
    assert console.asked == []


def test_online_needs_a_database_on_the_host(run: Run) -> None:
    for allow_damaged in (True, False):
        said = run(method="online", allow_damaged=allow_damaged)
        assert said["msg"].endswith("Have the service make the copy itself: opstage_backup_method: api.")
