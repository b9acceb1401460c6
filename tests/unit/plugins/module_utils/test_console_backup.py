# SPDX-License-Identifier: GPL-3.0-or-later
"""A recovery point whose copy the service makes and sends."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.console_backup import ConsoleBackup
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_session import Account, OpstageSessionError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    RecoveryPoint,
    RecoveryPointError,
    read_recovery_point,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_verification import verify_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import Progress, Reason
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import SnapshotError
from console_testing import (
    BACKUP,
    FILE_NAME,
    LOGIN,
    LOGOUT,
    PASSWORD,
    RUNTIME,
    USERNAME,
    Console,
    accepted,
    refusal,
    serving_console,
)
from opstage_testing import RecordedDocker, recorded_container
from sqlite_testing import make_database, mounted_read_only, mounted_tmpfs, names_in, numbers_in

OTHER_COPY = "opstage-2026-11-21T17-14-14-633Z.db"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """What the service sends; it keeps WAL mode in its header."""
    return make_database(tmp_path / "sent.db", 20, "WAL")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The container's data as its host sees it, with a copy from another day in `backups`."""
    (tmp_path / "data" / "backups").mkdir(parents=True)
    (tmp_path / "data" / "backups" / OTHER_COPY).write_text("another's")
    return tmp_path / "data"


@pytest.fixture
def console(database: Path, data: Path) -> Iterator[Console]:
    def keep_copy() -> None:
        shutil.copyfile(database, data / "backups" / FILE_NAME)

    with serving_console(Console(database.read_bytes(), made=keep_copy)) as console:
        yield console


@pytest.fixture
def docker(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
    docker = RecordedDocker(tmp_path / "docker", monkeypatch)
    container = recorded_container("published")
    container["Mounts"][0]["Source"] = str(data)
    docker.has_containers([container])
    return docker


@pytest.fixture
def deployment(tmp_path: Path, docker: RecordedDocker) -> dict[str, Any]:
    """One whose database its host does not see."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "compose.yml").write_text("services: {}\n")
    return {
        "project": "opstage",
        "project_dir": str(project),
        "config_files": [str(project / "compose.yml")],
        "environment_files": [],
        "service": "opstage",
        "container": "opstage-published-1",
        "image": "repo:0.2.0",
        "tag": "0.2.0",
        "digest": None,
        "image_id": "sha256:" + "1" * 64,
        "version": "0.2.0",
        "version_source": "api",
        "edition": "ce",
        "data_dir": "",
        "database": "",
        "ca_file": None,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def create(
    deployment: dict[str, Any], root: Path, console: Console, warnings: list[str] | None = None, **options: Any
) -> RecoveryPoint:
    """Make a recovery point; without a list for them, warnings fail the test."""
    given = {**deployment, "url": console.url}
    told: list[str] = []
    account = Account(USERNAME, options.pop("password", PASSWORD))
    way = ConsoleBackup(given, account, (told if warnings is None else warnings).append)
    point = create_recovery_point(given, str(root), "manual", "api", "0.1.0", obtain=way, **options)
    assert told == []
    return point


def nothing_left(root: Path, console: Console, data: Path) -> None:
    """No recovery point, no session, no copy of the service's."""
    assert names_in(root / "opstage") == []
    assert console.sessions == 0
    assert names_in(data / "backups") == [OTHER_COPY]


def test_whole(deployment: dict[str, Any], root: Path, console: Console, data: Path) -> None:
    point = create(deployment, root, console)
    assert read_recovery_point(point.path).manifest == point.manifest
    verify_recovery_point(point)
    assert names_in(Path(point.path)) == ["manifest.json", "opstage.db", "project"]
    assert point.manifest["method"] == "api"
    described = point.manifest["database"]
    assert (described["copied_by"], described["source_journal_mode"]) == ("received", "wal")
    assert (described["verify"], described["integrity"], described["tables"]["entries"]["rows"]) == ("full", "ok", 20)
    assert described["access"] == {"uid": 100, "gid": 101, "mode": "0644"}
    assert described["folder_access"] == {"uid": 100, "gid": 101, "mode": "0755"}
    assert Path(point.database).stat().st_mode & 0o777 == 0o600
    assert names_in(data / "backups") == [OTHER_COPY]
    assert console.sessions == 0
    assert console.asked == [f"POST {LOGIN}", f"POST {BACKUP}", f"GET {RUNTIME}", f"POST {LOGOUT}"]


def test_it_opens_on_read_only_media(deployment: dict[str, Any], root: Path, console: Console) -> None:
    point = Path(create(deployment, root, console).path)
    with mounted_read_only(point) as media:
        assert numbers_in(media / "opstage.db") == list(range(1, 21))


def test_a_database_that_the_host_sees(
    deployment: dict[str, Any], root: Path, console: Console, database: Path
) -> None:
    os.chmod(database, 0o640)
    point = create({**deployment, "database": str(database)}, root, console)
    assert point.manifest["database"]["access"]["mode"] == "0640"


def test_without_a_way_the_host_must_see_it(deployment: dict[str, Any], root: Path) -> None:
    with pytest.raises(RecoveryPointError, match="opstage_backup_method: api"):
        create_recovery_point(deployment, str(root), "manual", "online", "0.1.0")
    assert names_in(root / "opstage") == []


def test_encrypted(deployment: dict[str, Any], root: Path, console: Console, tmp_path: Path) -> None:
    subprocess.run(["age-keygen", "-o", str(tmp_path / "key")], check=True, capture_output=True)
    (key,) = re.findall(r"public key: (age1\w+)", (tmp_path / "key").read_text())
    point = create(deployment, root, console, recipients=[key])
    verify_recovery_point(point)
    assert names_in(Path(point.path)) == ["manifest.json", "opstage.db.age", "project"]


def test_progress(deployment: dict[str, Any], root: Path, console: Console) -> None:
    seen: list[Progress] = []
    create(deployment, root, console, progress=seen.append)
    size = len(console.content)
    assert [(report.done, report.total) for report in seen if report.phase == "copying"] == [(size, size)]


class TestFailures:
    def test_wrong_password(self, deployment: dict[str, Any], root: Path, console: Console, data: Path) -> None:
        with pytest.raises(OpstageSessionError, match="or the password is wrong"):
            create(deployment, root, console, password="another-password")
        nothing_left(root, console, data)

    def test_a_part_only(self, deployment: dict[str, Any], root: Path, console: Console, data: Path) -> None:
        console.headers["content-length"] = str(len(console.content) + 1)
        with pytest.raises(OpstageSessionError):
            create(deployment, root, console)
        nothing_left(root, console, data)

    @pytest.mark.parametrize(
        ("content", "reason", "words"),
        [
            (b"", Reason.NOT_A_DATABASE, "what was received is empty"),
            (b"<html>" + b"x" * 4096, Reason.NOT_A_DATABASE, "what was received is not an SQLite database"),
            (None, Reason.DAMAGED_COPY, "it is damaged, try again: "),
        ],
    )
    def test_what_is_no_sound_database(
        self,
        deployment: dict[str, Any],
        root: Path,
        console: Console,
        data: Path,
        content: bytes | None,
        reason: Reason,
        words: str,
    ) -> None:
        console.content = console.content[:-4096] if content is None else content
        with pytest.raises(SnapshotError, match=words) as caught:
            create(deployment, root, console)
        assert caught.value.reason is reason
        nothing_left(root, console, data)

    def test_a_database_without_a_table(
        self, deployment: dict[str, Any], root: Path, console: Console, data: Path, tmp_path: Path
    ) -> None:
        empty = make_database(tmp_path / "empty.db", 0)
        with closing(sqlite3.connect(empty, isolation_level=None)) as connection:
            connection.execute("DROP TABLE entries")
        console.content = empty.read_bytes()
        with pytest.raises(SnapshotError, match="it has no table"):
            create(deployment, root, console)
        nothing_left(root, console, data)

    def test_too_little_room(self, deployment: dict[str, Any], console: Console, data: Path, tmp_path: Path) -> None:
        with mounted_tmpfs(tmp_path / "small", "70m") as small:
            console.headers["content-length"] = str(8 << 20)
            with pytest.raises(RecoveryPointError, match="Too little room for a recovery point"):
                create(deployment, small, console)
            nothing_left(small, console, data)

    def test_a_disk_that_fills_up_meanwhile(
        self, deployment: dict[str, Any], console: Console, data: Path, tmp_path: Path
    ) -> None:
        with mounted_tmpfs(tmp_path / "small", "8m") as small:
            console.content += bytes(9 << 20)
            way = ConsoleBackup({**deployment, "url": console.url}, Account(USERNAME, PASSWORD), pytest.fail)
            with pytest.raises(SnapshotError) as caught:
                way(str(small / "opstage.db"), lambda size: None, None)
            assert caught.value.reason is Reason.NO_SPACE
            assert names_in(small) == []
        assert console.sessions == 0
        assert names_in(data / "backups") == [OTHER_COPY]


class TestCopyOfTheService:
    """The copy goes where that is safe; otherwise there is a warning, and a recovery point."""

    def warning(self, deployment: dict[str, Any], root: Path, console: Console) -> str:
        warnings: list[str] = []
        verify_recovery_point(create(deployment, root, console, warnings))
        (warning,) = warnings
        assert warning.startswith("The service keeps a copy of its own of this backup, ")
        return warning

    @pytest.mark.parametrize("named", ["/app/data/backups", "data/backups/", "./data/../data/backups"])
    def test_the_folder_as_the_container_names_it(
        self, deployment: dict[str, Any], root: Path, console: Console, data: Path, named: str
    ) -> None:
        console.backup_dir = named
        create(deployment, root, console)
        assert names_in(data / "backups") == [OTHER_COPY]

    def test_a_folder_in_no_mount(self, deployment: dict[str, Any], root: Path, console: Console, data: Path) -> None:
        console.backup_dir = "/var/copies"
        said = self.warning(deployment, root, console)
        assert "The folder /var/copies of opstage-published-1 lies in no mount: the host cannot see it." in said
        assert FILE_NAME in said
        assert names_in(data / "backups") == [OTHER_COPY, FILE_NAME]

    def test_data_that_the_host_does_not_see(
        self, deployment: dict[str, Any], root: Path, console: Console, docker: RecordedDocker, data: Path
    ) -> None:
        docker.has_containers([recorded_container("published")])
        assert "which is no folder on this host" in self.warning(deployment, root, console)

    def test_a_link_in_the_place_of_the_folder(
        self, deployment: dict[str, Any], root: Path, console: Console, data: Path, tmp_path: Path
    ) -> None:
        (data / "backups").rename(tmp_path / "elsewhere")
        (data / "backups").symlink_to(tmp_path / "elsewhere")
        assert "cannot be entered at 'backups'" in self.warning(deployment, root, console)
        assert names_in(tmp_path / "elsewhere") == [OTHER_COPY, FILE_NAME]

    def test_a_copy_that_is_not_there(
        self, deployment: dict[str, Any], root: Path, console: Console, data: Path
    ) -> None:
        console.made = lambda: None
        assert f"{FILE_NAME} in {data}/backups cannot be removed: No such file" in self.warning(
            deployment, root, console
        )

    @pytest.mark.parametrize("name", ["opstage.db", "opstage-2026-11-22.db"])
    def test_a_name_that_is_no_copy_s(
        self, deployment: dict[str, Any], root: Path, console: Console, data: Path, name: str
    ) -> None:
        (data / "backups" / name).write_text("keep me")
        console.headers["content-disposition"] = f"attachment; filename={name}"
        assert f"'{name}' is no name that Opstage gives its copies" in self.warning(deployment, root, console)
        assert (data / "backups" / name).exists()

    def test_no_name(self, deployment: dict[str, Any], root: Path, console: Console) -> None:
        console.headers["content-disposition"] = None
        assert "The service does not say how it is called." in self.warning(deployment, root, console)

    def test_diagnostics_that_do_not_say(self, deployment: dict[str, Any], root: Path, console: Console) -> None:
        for reply in (accepted({"version": "1"}), accepted({"config": {"backupDir": None}})):
            console.instead[RUNTIME] = reply
            assert "Diagnostics does not say in which folder it is." in self.warning(deployment, root, console)

    def test_diagnostics_that_fail(self, deployment: dict[str, Any], root: Path, console: Console) -> None:
        console.instead[RUNTIME] = refusal(500, "INTERNAL_ERROR")
        assert "answered HTTP 500" in self.warning(deployment, root, console)

    def test_docker_that_fails(
        self, deployment: dict[str, Any], root: Path, console: Console, docker: RecordedDocker
    ) -> None:
        (docker.folder / "container-inspect").unlink()
        assert "No such object" in self.warning(deployment, root, console)

    def test_it_goes_also_when_the_download_is_no_use(
        self, deployment: dict[str, Any], root: Path, console: Console, data: Path
    ) -> None:
        console.content = b"no database" * 100
        with pytest.raises(SnapshotError):
            create(deployment, root, console)
        nothing_left(root, console, data)
