# SPDX-License-Identifier: GPL-3.0-or-later
"""Drills of real databases with a real server, and a `docker` that does what the tests say."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.capsule.opstage.plugins.module_utils import durable_files
from ansible_collections.capsule.opstage.plugins.module_utils import recovery_point_drill as core
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    RecoveryPoint,
    RecoveryPointError,
    examine_recovery_points,
    read_recovery_point,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_drill import (
    Drill,
    DrillError,
    drill,
    find_drilled,
)
from ansible_collections.capsule.opstage.plugins.modules import recovery_point_drill
from opstage_testing import DOCKER, RecordedDocker, answers, serving_in_own_network
from sqlite_testing import fingerprint, make_database, names_in

SCHEMA = (
    "CREATE TABLE users (id TEXT PRIMARY KEY)",
    "INSERT INTO users VALUES ('a'), ('b')",
    "CREATE TABLE audit_events (id INTEGER PRIMARY KEY, actor TEXT REFERENCES users)",
    "INSERT INTO audit_events VALUES (1, 'a'), (2, 'b')",
    "CREATE TABLE bus_routes (id TEXT)",
)
IMAGE_ID = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64
BY_DIGEST = f"registry.example:5000/ce@{DIGEST}"

# Where Docker would start the container or look for an image.
PRELUDE = """
[ "$1" != run ] || sh '{folder}/start' || exit 1
if [ "$1-$2" = image-inspect ] && grep -qxF -e "$3" '{folder}/missing'; then echo "No such image: $3" >&2; exit 1; fi
cat """


class Docker(RecordedDocker):
    """A `docker` that has the deployment's container, and starts others as `starting` says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)
        program = DOCKER.format(folder=folder).replace("\ncat ", PRELUDE.format(folder=folder), 1)
        (folder / "docker").write_text(program)
        self.starting("true")
        self.has_not()
        for command in ("ps", "run", "rm"):
            self.says(command, "")
        self.says("logs", "migrating\nserving\n")
        self.says("image-inspect", json.dumps([{"Id": IMAGE_ID, "Config": {"User": "opstage"}}]))

    def starting(self, script: str) -> None:
        """Run the shell script where a container is started; a failure of it is Docker's."""
        (self.folder / "start").write_text(script)

    def has_not(self, *images: str) -> None:
        """Know no image of these names."""
        (self.folder / "missing").write_text("".join(f"{image}\n" for image in images))

    def serves(self, pid: int) -> None:
        """Have every container run, with the process `pid` in its network."""
        container = {
            "Image": "sha256:" + "9" * 64,
            "Config": {"User": "7:8", "Env": ["OPSTAGE_ADMIN_PASSWORD=hunter2", "OPSTAGE_SESSION_SECRET=hunter3"]},
            "HostConfig": {"Memory": 268435456},
            "State": {"Status": "running", "Pid": pid, "ExitCode": 0},
        }
        self.says("container-inspect", json.dumps([container]))

    def called(self, command: str) -> list[str]:
        return [call for call in self.calls if call.startswith(f"{command} ")]


class Host:
    """A host with one deployment, one recovery point of it, and its Docker."""

    def __init__(self, folder: Path, docker: Docker, stack: ExitStack) -> None:
        self.folder, self.docker, self._stack = folder, docker, stack
        (folder / "compose.yml").write_text("services: {}\n")
        (folder / "live").mkdir()
        self.database = make_database(folder / "live" / "opstage.db", 5, "WAL", *SCHEMA)
        self.deployment: dict[str, Any] = {
            **{"project": "opstage", "project_dir": str(folder), "config_files": [str(folder / "compose.yml")]},
            **{"environment_files": [], "service": "web", "image": "registry.example:5000/ce:0.2.0", "tag": "0.2.0"},
            **{"digest": DIGEST, "image_id": IMAGE_ID, "version": "0.2.0", "version_source": "api", "edition": "ce"},
            **{"container": "opstage-web-1", "database": str(self.database)},
        }
        self.root = str(folder / "backups")
        self.point = self.backup()
        self.scratch = Path(self.root) / "opstage" / ".partial-drill"
        self.copy = self.scratch / "data" / "opstage.db"

    def backup(self, *recipients: str) -> RecoveryPoint:
        return create_recovery_point(self.deployment, self.root, "manual", "online", "0.1.0", recipients=recipients)

    def serve(self, version: str = "0.2.0", status: str = "UP") -> None:
        """Answer in the network of whatever container is started."""
        folder = self.folder / "served"
        self.docker.serves(self._stack.enter_context(serving_in_own_network(folder, answers(version, status))))

    def starts_with(self, *statements: str) -> None:
        """What is started runs these statements on the copy, and is killed, so that they are in the log."""
        script = self.docker.folder / "start.py"
        script.write_text(
            "import os, sqlite3\n"
            f"connection = sqlite3.connect({str(self.copy)!r}, isolation_level=None)\n"
            "connection.execute('PRAGMA journal_mode=WAL')\n"
            f"for statement in {statements!r}:\n"
            "    connection.execute(statement)\n"
            "os._exit(0)\n"
        )
        self.docker.starting(f"exec {sys.executable} {script}")

    def drill(self, point: RecoveryPoint | None = None, timeout: float = 30, **options: Any) -> Drill:
        return drill(self.deployment, self.root, point or self.point, timeout, **options)

    def failure(self, **options: Any) -> DrillError:
        with pytest.raises(DrillError) as caught:
            self.drill(**options)
        return caught.value

    def recorded(self, point: RecoveryPoint | None = None) -> dict[str, Any]:
        """What the manifest says of the drill, as it is read again."""
        found: dict[str, Any] = read_recovery_point((point or self.point).path).manifest["drill"]
        return found

    def leftovers(self) -> list[str]:
        """What there is beside recovery points and in them, and the containers that were not removed."""
        entries = examine_recovery_points(self.root, "opstage")
        left = [entry.path for entry in entries if entry.point is None]
        left += [name for entry in entries for name in names_in(Path(entry.path)) if "partial" in name]
        started = [re.search(r"--name (\S+)", call) for call in self.docker.called("run")]
        names = [match[1] for match in started if match]
        return left + [name for name in names if f"rm --force --volumes {name}" not in self.docker.calls]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(core, "used_memory", lambda _pid: None)
    with ExitStack() as stack:
        (tmp_path / "served").mkdir()
        yield Host(tmp_path, Docker(tmp_path / "docker", monkeypatch), stack)


class TestPassed:
    def test_is_recorded_and_leaves_nothing(self, host: Host) -> None:
        host.serve()
        before = fingerprint(host.database, Path(host.point.database))
        drilled = host.drill()
        assert (drilled.version, drilled.changes) == ("0.2.0", {})
        assert 0 < drilled.ready_seconds < drilled.seconds < 30
        assert drilled.summary.startswith("Opstage 0.2.0 was healthy ")
        assert host.leftovers() == []
        assert fingerprint(host.database, Path(host.point.database)) == before
        manifest = read_recovery_point(host.point.path).manifest
        assert manifest == {**host.point.manifest, "drill": manifest["drill"]}
        recorded = manifest["drill"]
        assert (recorded["outcome"], recorded["version"]) == ("passed", "0.2.0")
        assert sorted(recorded) == ["outcome", "seconds", "time", "version"]
        assert stat.S_IMODE(os.stat(f"{host.point.path}/manifest.json").st_mode) == 0o600

    def test_the_container_reaches_nobody_and_knows_no_secret_of_the_deployment(self, host: Host) -> None:
        host.serve()
        kept = host.folder / "environment"
        host.docker.starting(f"cp --preserve '{host.scratch}/environment' '{kept}'")
        host.drill()
        (run,) = host.docker.called("run")
        assert run.startswith("run --detach --pull never --restart no --network none --name opstage-drill-")
        assert "--label capsule.opstage.rehearsal=opstage --oom-score-adj 1000 --memory 268435456b --user 7:8 " in run
        mounted = f"--mount type=bind,source={host.scratch}/data,destination=/app/data"
        assert run.endswith(f"{mounted} --env-file {host.scratch}/environment {IMAGE_ID}")
        assert re.fullmatch(
            r"DATABASE_URL=file:/app/data/opstage\.db\nOPSTAGE_SESSION_SECRET=[0-9a-f]{64}\n", kept.read_text()
        )
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert not any("hunter" in call for call in host.docker.calls)

    def test_what_the_start_adds_is_no_failure(self, host: Host) -> None:
        host.serve()
        host.starts_with("INSERT INTO audit_events VALUES (3, 'a')", "UPDATE users SET id = 'b' WHERE id = 'b'")
        assert host.drill().changes == {"audit_events": {"added": 1, "changed": 0, "removed": 0}}
        assert host.leftovers() == []

    def test_the_latest_is_recorded(self, host: Host) -> None:
        host.serve(status="DOWN")
        host.failure(timeout=0.2)
        assert host.recorded()["outcome"] == "failed"
        (host.folder / "served" / "api/system/health").write_bytes(answers()["/api/system/health"][2])
        # As a second run finds it, with the first drill in its manifest.
        host.drill(find_drilled(host.root, "opstage", "latest", False))
        assert (host.recorded()["outcome"], "error" in host.recorded()) == ("passed", False)

    def test_one_of_an_older_collection(self, host: Host) -> None:
        manifest = {name: value for name, value in host.point.manifest.items() if name != "encryption"}
        manifest["manifest_version"] = 1
        for name in ("verify", "foreign_key_violations", "schema_sha256", "tables", "access", "folder_access"):
            del manifest["database"][name]
        Path(host.point.path, "manifest.json").write_text(json.dumps(manifest))
        host.serve()
        host.drill(read_recovery_point(host.point.path))
        assert host.recorded()["outcome"] == "passed"

    def test_one_that_lies_elsewhere(self, host: Host) -> None:
        """Nothing but the record is written beside it: the folder may be anybody's."""
        elsewhere = host.folder / "elsewhere"
        elsewhere.mkdir(mode=0o755)
        moved = elsewhere / "point"
        Path(host.point.path).rename(moved)
        host.serve()
        host.drill(find_drilled(host.root, "opstage", str(moved), False))
        assert (names_in(elsewhere), stat.S_IMODE(elsewhere.stat().st_mode)) == (["point"], 0o755)
        assert names_in(moved) == ["manifest.json", "opstage.db", "project"]
        assert host.leftovers() == []


def garble(host: Host) -> None:
    """What is started writes rubbish into the middle of the copy."""
    host.docker.starting(f"printf '%08192d' 0 | dd of='{host.copy}' bs=4096 seek=2 conv=notrunc 2>/dev/null")


def damage_point(host: Host) -> None:
    with open(host.point.database, "r+b") as stream:
        stream.seek(5000)
        stream.write(b"\xff" * 64)


def change_unseen(host: Host) -> None:
    """A row that was changed by SQLite itself: the copy is sound, but not the one that was made."""
    with closing(sqlite3.connect(host.point.database, isolation_level=None)) as connection:
        connection.execute("UPDATE users SET id = 'c' WHERE id = 'b'")


def count_another_row(host: Host) -> None:
    tables = host.point.manifest["database"]["tables"]
    tables["users"]["rows"], tables["agents"] = 3, {"columns": ["id"], "rows": 1}


BREAKS: dict[str, tuple[Callable[[Host], None], str, bool]] = {
    "never healthy": (lambda host: host.serve(status="DOWN"), "was not healthy within 0.5 s: status DOWN", True),
    "another version": (lambda host: host.serve("0.3.0"), "reports version 0.3.0, expected 0.2.0", True),
    "rows dropped": (
        lambda host: host.starts_with("DELETE FROM entries WHERE number < 3"),
        "After it has served, rows are missing: entries: 2 removed.",
        True,
    ),
    "an empty table dropped": (
        lambda host: host.starts_with("DROP TABLE bus_routes"),
        "After it has served, these are missing: bus_routes.",
        True,
    ),
    "a parent dropped": (
        lambda host: host.starts_with("INSERT INTO audit_events VALUES (3, 'nobody')"),
        "After it has served, the parent of 1 rows is missing; the manifest says 0.",
        True,
    ),
    "a damaged copy": (garble, "snapshot of ", True),
    "a damaged point": (damage_point, "is damaged: ", False),
    "another point": (change_unseen, "is damaged: opstage.db has SHA-256 ", False),
    "rows that were never there": (
        count_another_row,
        "has not the rows that its manifest says: agents: found no table, expected 1, users: found 2, expected 3.",
        False,
    ),
    "no start": (lambda host: host.docker.starting("echo no such runtime >&2; exit 1"), "no such runtime", False),
    "no image": (
        lambda host: host.docker.has_not(IMAGE_ID, BY_DIGEST),
        f"The image that made it, {BY_DIGEST}, is not on this host and cannot be pulled: ",
        False,
    ),
}


class TestFailed:
    @pytest.mark.parametrize("name", BREAKS)
    def test_is_recorded_and_leaves_nothing(self, host: Host, name: str) -> None:
        break_it, words, has_served = BREAKS[name]
        host.serve()
        break_it(host)
        error = host.failure(timeout=0.5)
        assert str(error).startswith(f"The drill of {host.point.path} failed: ")
        assert words in str(error)
        assert error.logs == (["migrating", "serving"] if has_served else [])
        assert host.leftovers() == []
        recorded = host.recorded()
        assert (recorded["outcome"], recorded["version"]) == ("failed", "0.2.0")
        assert words in recorded["error"]

    def test_a_container_that_ends(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        host.docker.serves(0)
        monkeypatch.setattr("ansible_collections.capsule.opstage.plugins.module_utils.readiness.CONTAINER_INTERVAL", 0)
        described = json.loads((host.docker.folder / "container-inspect").read_text())
        described[0]["State"] = {"Status": "exited", "Pid": 0, "ExitCode": 137, "OOMKilled": True}
        host.docker.says("container-inspect", json.dumps(described))
        assert "does not stay up: exited, last exit code 137 (killed by its memory limit)" in str(host.failure())
        assert host.leftovers() == []

    def test_no_room(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        fields = list(os.statvfs("/"))
        fields[3] = fields[4] = 1
        monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(fields))
        assert "no space in " in str(host.failure())
        assert host.docker.called("run") == []
        assert (host.leftovers(), host.recorded()["outcome"]) == ([], "failed")

    def test_too_little_memory(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        host.serve()
        monkeypatch.setattr(core, "used_memory", lambda _pid: 3000)
        monkeypatch.setattr(core, "available_memory", lambda: 2999)
        assert "the service uses 3000. 1 bytes are missing." in str(host.failure())
        assert (host.docker.called("run"), host.leftovers()) == ([], [])

    def test_an_image_that_no_registry_has(self, host: Host) -> None:
        host.docker.has_not(IMAGE_ID)
        host.point.manifest["image"]["digest"] = None
        error = str(host.failure())
        assert f"{host.point.manifest['image']['image']} with the id {IMAGE_ID}, is not on this host" in error
        assert host.docker.called("pull") == []

    def test_a_container_that_cannot_be_removed(self, host: Host) -> None:
        host.serve()
        (host.docker.folder / "rm").unlink()
        assert "`docker rm --force --volumes opstage-drill-" in str(host.failure())

    def test_what_cannot_be_recorded(self, host: Host) -> None:
        host.serve()
        moved = Path(f"{host.point.path}-moved")
        host.docker.starting(
            f"mv '{host.point.path}' '{moved}'; cp -r '{moved}' '{host.point.path}'; "
            f"rm '{host.point.path}/manifest.json'; mkdir '{host.point.path}/manifest.json'"
        )
        error = host.failure()
        assert str(error).startswith(f"The drill of {host.point.path} passed. This could not be recorded in ")

    def test_while_another_run_is_at_work_on_the_folder(self, host: Host) -> None:
        descriptor = os.open(f"{host.root}/opstage", os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with pytest.raises(RecoveryPointError, match="Another run is at work"):
                host.drill()
        finally:
            os.close(descriptor)
        assert host.docker.calls == []
        assert "drill" not in read_recovery_point(host.point.path).manifest


class TestImage:
    def test_is_found_by_its_digest(self, host: Host) -> None:
        host.serve()
        host.docker.has_not(IMAGE_ID)
        host.drill()
        (run,) = host.docker.called("run")
        assert run.endswith(f" {BY_DIGEST}")
        assert host.docker.called("pull") == host.docker.called("image rm") == []

    def test_is_pulled_by_its_digest_and_removed_again(self, host: Host) -> None:
        host.serve()
        host.docker.has_not(IMAGE_ID, BY_DIGEST)
        host.docker.says("pull", "")
        host.docker.says("image-rm", "")
        host.drill()
        assert host.docker.called("pull") == [f"pull --quiet {BY_DIGEST}"]
        assert host.docker.calls[-1] == f"image rm {BY_DIGEST}"


class TestKilled:
    def test_the_next_drill_removes_what_is_left(self, host: Host) -> None:
        host.serve()
        host.docker.says("ps", "one\n")
        (host.scratch / "data").mkdir(parents=True)
        (host.scratch / "served.db").write_text("old")
        host.drill()
        assert "rm --force --volumes one" in host.docker.calls
        assert host.leftovers() == []

    def test_the_next_backup_removes_its_copy(self, host: Host) -> None:
        (host.scratch / "data").mkdir(parents=True)
        host.backup()
        assert host.leftovers() == []

    def test_while_it_writes_the_manifest(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """The old one stays until the new one is whole; what is left of that is of no account."""
        host.serve()

        def end(*_arguments: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(durable_files.os, "rename", end)
            with pytest.raises(KeyboardInterrupt):
                host.drill()
        assert names_in(Path(host.point.path)) == ["manifest.json", "manifest.json.partial", "opstage.db", "project"]
        (entry,) = examine_recovery_points(host.root, "opstage")
        assert entry.point == host.point
        host.drill()
        assert (host.recorded()["outcome"], host.leftovers()) == ("passed", [])


class TestEncrypted:
    @pytest.fixture
    def identity(self) -> str:
        return subprocess.run(["age-keygen"], capture_output=True, check=True, text=True).stdout

    @pytest.fixture
    def encrypted(self, host: Host, identity: str) -> RecoveryPoint:
        match = re.search(r"age1\w+", identity)
        assert match
        return host.backup(match[0])

    def test_with_its_key(self, host: Host, encrypted: RecoveryPoint, identity: str) -> None:
        host.serve()
        host.starts_with("INSERT INTO audit_events VALUES (3, 'a')")
        point = find_drilled(host.root, "opstage", "latest", True)
        assert point.path == encrypted.path
        assert host.drill(point, identity=identity).changes["audit_events"] is not None
        assert (host.recorded(encrypted)["outcome"], host.leftovers()) == ("passed", [])
        assert names_in(Path(encrypted.path)) == ["manifest.json", "opstage.db.age", "project"]

    def test_with_the_key_of_somebody_else(self, host: Host, encrypted: RecoveryPoint) -> None:
        other = subprocess.run(["age-keygen"], capture_output=True, check=True, text=True).stdout
        host.serve()
        host.failure(point=encrypted, identity=other)
        assert (host.recorded(encrypted)["outcome"], host.leftovers()) == ("failed", [])
        assert "AGE-SECRET-KEY" not in Path(encrypted.path, "manifest.json").read_text()

    def test_without_a_key(self, host: Host, encrypted: RecoveryPoint) -> None:
        with pytest.raises(RecoveryPointError, match="is encrypted: restore it with opstage_encryption_identity_file"):
            find_drilled(host.root, "opstage", "latest", False)
        assert "drill" not in read_recovery_point(encrypted.path).manifest


class TestModule:
    def run(self, host: Host, capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
        given = {"deployment": host.deployment, "root": host.root, **options}
        with patch_module_args(given), pytest.raises(SystemExit):
            recovery_point_drill.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    def test_check_mode_starts_nothing(self, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
        planned = self.run(host, capsys, _ansible_check_mode=True)
        assert (planned["changed"], planned["path"]) == (True, host.point.path)
        assert planned["summary"] == (
            "registry.example:5000/ce:0.2.0 would be started on a copy of it, without a network, and removed again."
        )
        assert host.docker.calls == []
        assert read_recovery_point(host.point.path) == host.point

    def test_the_latest_passes(self, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
        host.serve()
        drilled = self.run(host, capsys)
        assert (drilled["changed"], drilled["path"], drilled["version"]) == (True, host.point.path, "0.2.0")
        assert drilled["changes"] == {}
        assert host.recorded()["outcome"] == "passed"

    def test_the_cause_and_the_last_words(self, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
        host.serve("0.3.0")
        failed = self.run(host, capsys, recovery_point=host.point.manifest["id"])
        assert failed["failed"]
        assert failed["msg"].startswith(f"The drill of {host.point.path} failed: ")
        assert failed["msg"].endswith(" The last lines of its container: migrating / serving")
        assert failed["container_logs"] == ["migrating", "serving"]

    def test_none_where_there_is_no_such_point(self, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
        failed = self.run(host, capsys, recovery_point="2026-01-01T00-00-00-000000Z-manual")
        assert failed["msg"].startswith(f"No drill was made: {host.root}/opstage holds no recovery point ")
