# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rehearsal's container is given; molecule has real ones."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import upgrade_rehearsal
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.rehearsal_containers import remove_rehearsals
from opstage_testing import RecordedDocker
from sqlite_testing import make_database, names_in


@pytest.fixture
def point(tmp_path: Path) -> RecoveryPoint:
    (tmp_path / "compose.yml").write_text("services: {}\n")
    deployment = {
        **{"project": "opstage", "project_dir": str(tmp_path), "config_files": [str(tmp_path / "compose.yml")]},
        **{"environment_files": [], "service": "web", "image": "repo:0.2.0", "tag": "0.2.0", "digest": None},
        **{"image_id": "1" * 64, "version": "0.2.0", "version_source": "api", "edition": "ce"},
        "database": str(make_database(tmp_path / "opstage.db", 5, "WAL")),
    }
    return create_recovery_point(deployment, str(tmp_path / "backups"), "pre-upgrade", "online", "0.1.0")


DEFAULT = {"Config": {"Env": ["PATH=/bin", "NODE_VERSION=22"], "Cmd": ["node"], "User": "100"}}


class TestContainer:
    def options(self, **changes: Any) -> list[str]:
        present: dict[str, Any] = {"Config": {}, "HostConfig": {}, "Mounts": [], **changes}
        return upgrade_rehearsal._options(present, DEFAULT, "/data", "/copy")

    def test_variables_are_no_options(self, tmp_path: Path) -> None:
        own = ["PATH=/bin", "SECRET=hunter2", "KEY=-----BEGIN\nhunter3\n", "EMPTY=", "DOCKER_HOST=tcp://away"]
        path = tmp_path / "environment"
        given, handed_on = upgrade_rehearsal._environment({"Config": {"Env": own}}, DEFAULT, str(path))
        assert given == ["--env-file", str(path), "--env", "KEY"]
        assert handed_on == {"KEY": "-----BEGIN\nhunter3\n"}
        assert path.read_text() == "SECRET=hunter2\nEMPTY=\nDOCKER_HOST=tcp://away\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_limits(self) -> None:
        assert self.options() == []
        assert self.options(HostConfig={"Memory": 134217728}) == ["--memory", "134217728b"]
        assert self.options(Config={"User": "100"}) == []
        assert self.options(Config={"User": "7:7"}) == ["--user", "7:7"]
        assert self.options(HostConfig={"ReadonlyRootfs": True, "Tmpfs": {"/tmp": "size=1m"}}) == [
            *("--read-only", "--tmpfs", "/tmp")
        ]

    def test_the_copy_is_in_the_place_of_the_data_and_all_else_read_only(self) -> None:
        mounts = [
            {"Type": "volume", "Name": "opstage-data", "Source": "/data", "Destination": "/app/data"},
            {"Type": "bind", "Source": "/etc/ssl", "Destination": "/certificates"},
            {"Type": "volume", "Name": "other", "Source": "/volumes/other", "Destination": "/other"},
            {"Type": "tmpfs", "Source": "", "Destination": "/tmp"},
        ]
        assert self.options(Mounts=mounts) == [
            *("--mount", "type=bind,source=/copy,destination=/app/data"),
            *("--mount", "type=bind,source=/etc/ssl,destination=/certificates,readonly"),
            *("--mount", "type=volume,source=other,destination=/other,readonly"),
        ]

    def test_a_command_of_the_project(self) -> None:
        command = upgrade_rehearsal._command
        assert command({"Config": {"Cmd": ["node"]}}, DEFAULT) == []
        assert command({"Config": {"Cmd": ["node", "--debug"]}}, DEFAULT) == ["node", "--debug"]


def test_what_was_killed_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = RecordedDocker(tmp_path / "docker", monkeypatch)
    docker.says("ps", "")
    remove_rehearsals("opstage")
    docker.says("ps", "one\ntwo\n")
    docker.says("rm", "")
    remove_rehearsals("opstage")
    listing = "ps --all --quiet --filter label=capsule.opstage.rehearsal=opstage"
    assert docker.calls == [listing, listing, "rm --force --volumes one two"]


def test_a_killed_rehearsal_s_copy_is_removed_by_the_next_backup(point: RecoveryPoint, tmp_path: Path) -> None:
    parent = Path(point.path).parent
    (parent / ".partial-rehearsal" / "data").mkdir(parents=True)
    deployment = {
        **point.manifest,
        "config_files": [],
        "environment_files": [],
        "database": str(tmp_path / "opstage.db"),
    }
    deployment.update({**point.manifest["image"], **point.manifest["opstage"]})
    create_recovery_point(deployment, str(parent.parent), "manual", "online", "0.1.0")
    assert [name for name in names_in(parent) if name.startswith(".")] == []
