# SPDX-License-Identifier: GPL-3.0-or-later
"""Recovery points in real repositories of the real restic."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.capsule.opstage.plugins.module_utils import restic as restic_core
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    RecoveryPoint,
    RecoveryPointError,
    read_recovery_point,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_away import find_sent
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_verification import verify_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.restic import ResticRepository, Snapshot
from ansible_collections.capsule.opstage.plugins.modules import recovery_point_restic
from sqlite_testing import make_database, names_in, wait_until

PASSWORD = "correct horse"
DRILL = {"time": "2026-11-22T02:15:00.000000Z", "seconds": 1, "version": "0.2.0", "outcome": "passed"}
REAL = shutil.which("restic")

# Stands before the real one: writes down what is seen of the command, and may do something else instead.
RECORDER = """#!/bin/sh
tr '\\0' ' ' </proc/$$/cmdline >>'{folder}/commands'
echo >>'{folder}/commands'
{instead}
exec {real} "$@"
"""

# Dies of SIGKILL as soon as it has its lock.
KILLED = """
case " $* " in *" backup "*)
    {real} --limit-upload 1 "$@" &
    while [ -z "$(ls '{repository}/locks')" ]; do sleep 0.02; done
    kill -9 $!
    wait
    kill -9 $$
esac
"""


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new repository; to make one takes a second."""
    path = tmp_path_factory.mktemp("restic") / "empty"
    restic(path, "init")
    return path


@pytest.fixture
def repository(empty: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(empty, tmp_path / "repository"))


@pytest.fixture
def deployment(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "compose.yml").write_text("services: {}\n")
    (tmp_path / "project.env").write_text("SECRET=1\n")
    return {
        "project": "opstage",
        "project_dir": str(tmp_path),
        "config_files": [str(tmp_path / "compose.yml")],
        "environment_files": [str(tmp_path / "project.env")],
        "service": "web",
        "image": "repo:0.2.0",
        "tag": "0.2.0",
        "digest": None,
        "image_id": "sha256:" + "1" * 64,
        "version": "0.2.0",
        "version_source": "label",
        "edition": None,
        "database": str(make_database(tmp_path / "opstage.db", 20, "WAL")),
    }


@pytest.fixture
def point(deployment: dict[str, Any], tmp_path: Path) -> RecoveryPoint:
    return make_point(deployment, tmp_path)


@pytest.fixture(autouse=True)
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the recorder before the real restic; whatever a test does, no argument may hold the password."""
    (tmp_path / "bin").mkdir()
    replace_restic(tmp_path, "")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("RESTIC_REPOSITORY_FILE", "/nowhere")
    before = os.umask(0)
    yield tmp_path / "bin" / "commands"
    os.umask(before)
    if (tmp_path / "bin" / "commands").exists():
        assert PASSWORD not in (tmp_path / "bin" / "commands").read_text()


def replace_restic(folder: Path, instead: str) -> None:
    program = folder / "bin" / "restic"
    program.write_text(RECORDER.format(folder=folder / "bin", instead=instead, real=REAL))
    program.chmod(0o755)


def restic(repository: Path, *arguments: str | Path, folder: Path | None = None) -> str:
    environment = {"RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(repository), "TZ": "UTC", "HOME": "/nowhere"}
    command = [str(REAL), "--no-cache", *map(str, arguments)]
    return subprocess.run(
        command, env={"PATH": os.environ["PATH"], **environment}, cwd=folder, capture_output=True, check=True, text=True
    ).stdout


def snapshots(repository: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(restic(repository, "snapshots", "--json")) or []
    return listed


def make_point(deployment: dict[str, Any], folder: Path, **options: Any) -> RecoveryPoint:
    return create_recovery_point(deployment, str(folder / "backups"), "manual", "online", "0.1.0", **options)


def run(capsys: pytest.CaptureFixture[str], repository: Path | str, **options: object) -> dict[str, Any]:
    given = {"repository": str(repository), "password": PASSWORD, **options}
    with patch_module_args(given), pytest.raises(SystemExit):
        recovery_point_restic.main()
    output = capsys.readouterr().out
    assert PASSWORD not in output
    result: dict[str, Any] = json.loads(output)
    return result


def content_of(folder: str | Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each file below, mode of each folder."""
    return {
        str(path.relative_to(folder)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [Path(folder), *Path(folder).rglob("*")]
    }


def is_whole(point: RecoveryPoint) -> bool:
    verify_recovery_point(read_recovery_point(point.path))
    return True


@pytest.fixture(scope="session")
def recipient(tmp_path_factory: pytest.TempPathFactory) -> str:
    shown = subprocess.run(["age-keygen"], capture_output=True, check=True, text=True).stdout
    return shown.split("public key: ", 1)[1].split("\n", 1)[0]


@pytest.mark.parametrize("encrypted", [False, True])
def test_there_and_back(
    encrypted: bool, deployment: dict[str, Any], recipient: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "new" / "repository"
    point = make_point(deployment, tmp_path, recipients=[recipient] if encrypted else [])
    original = content_of(point.path)
    sent = run(capsys, repository, recovery_point=point.path, initialize=True)
    assert (sent["changed"], sent["path"], sent["id"]) == (True, point.path, point.manifest["id"])
    (snapshot,) = snapshots(repository)
    assert snapshot["id"].startswith(sent["snapshot"])
    assert snapshot["hostname"] == socket.gethostname()
    assert snapshot["tags"] == ["opstage", "project:opstage", f"id:{sent['id']}"]
    assert snapshot["time"][:19] == point.manifest["created"][:19]

    shutil.rmtree(Path(point.path).parents[1])
    root = str(tmp_path / "elsewhere")
    fetched = run(capsys, repository, state="fetched", recovery_point="latest", root=root)
    assert fetched["changed"]
    assert fetched["path"] == f"{root}/opstage/{point.manifest['id']}"
    assert content_of(fetched["path"]) == original
    assert names_in(Path(root) / "opstage") == [point.manifest["id"]]
    assert not run(capsys, repository, state="fetched", recovery_point=sent["id"], root=root)["changed"]


def test_sent_again(point: RecoveryPoint, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(capsys, repository, recovery_point=point.path)
    # What a drill adds to the manifest is no other recovery point.
    manifest = {**point.manifest, "drill": DRILL}
    (Path(point.path) / "manifest.json").write_text(json.dumps(manifest))
    again = run(capsys, repository, recovery_point=point.path)
    assert (again["changed"], len(snapshots(repository))) == (False, 1)
    assert again["snapshot"].startswith(first["snapshot"])


def test_another_under_the_same_name_is_sent(
    point: RecoveryPoint, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, repository, recovery_point=point.path)
    (Path(point.path) / "project" / "compose.yml").write_text("services: {other: {}}\n")
    assert run(capsys, repository, recovery_point=point.path)["changed"]
    assert len(snapshots(repository)) == 2


def test_check_mode_changes_nothing(point: RecoveryPoint, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content_of(repository)
    assert run(capsys, repository, recovery_point=point.path, _ansible_check_mode=True)["changed"]
    assert content_of(repository) == before
    new = repository.parent / "new"
    assert run(capsys, new, recovery_point=point.path, initialize=True, _ansible_check_mode=True)["changed"]
    assert not new.exists()
    run(capsys, repository, recovery_point=point.path)
    before = content_of(repository)
    assert not run(capsys, repository, recovery_point=point.path, _ansible_check_mode=True)["changed"]
    root = str(repository.parent / "elsewhere")
    fetched = run(capsys, repository, state="fetched", recovery_point="latest", root=root, _ansible_check_mode=True)
    assert (fetched["changed"], os.path.exists(root)) == (True, False)
    assert content_of(repository) == before


class TestLoud:
    def test_no_repository(self, point: RecoveryPoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        failed = run(capsys, tmp_path / "none", recovery_point=point.path)
        assert failed["failed"]
        assert f"The recovery point {point.path} was not sent: The restic repository {tmp_path}/none" in failed["msg"]
        assert "It is whole on this host" in failed["msg"]
        assert is_whole(point)
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize("initialize", [False, True])
    def test_wrong_password(
        self, initialize: bool, point: RecoveryPoint, repository: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = content_of(repository)
        failed = run(capsys, repository, recovery_point=point.path, password="wrong", initialize=initialize)
        assert "not opened by the password that was given" in failed["msg"]
        assert content_of(repository) == before

    def test_unreachable_and_no_credentials_told(
        self, point: RecoveryPoint, capsys: pytest.CaptureFixture[str]
    ) -> None:
        address = "rest:http://keeper:se%40cret@127.0.0.1:1/backups"
        failed = run(
            capsys, address, recovery_point=point.path, environment={"TOKEN": "key-of-the-cloud", "REGION": "a"}
        )
        assert "connection refused" in failed["msg"]
        assert "rest:http://***@127.0.0.1:1/backups" in failed["msg"]
        shown = json.dumps(failed)
        assert [secret for secret in ("keeper", "se%40cret", "se@cret", "key-of-the-cloud") if secret in shown] == []
        assert is_whole(point)

    def test_words_of_restic_are_cleaned(
        self, point: RecoveryPoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        replace_restic(tmp_path, 'echo "Fatal: $RESTIC_REPOSITORY $RESTIC_PASSWORD $TOKEN" >&2; exit 1')
        failed = run(capsys, "s3:https://a:b@h/x", recovery_point=point.path, environment={"TOKEN": "key-of-the-cloud"})
        assert "Fatal: s3:https://***@h/x *** ***." in failed["msg"]

    def test_no_answer(
        self, point: RecoveryPoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(restic_core, "_SECONDS_TO_ANSWER", 0.2)
        replace_restic(tmp_path, "sleep 60")
        failed = run(capsys, "/somewhere", recovery_point=point.path)
        assert "/somewhere cannot be reached: no answer within 0.2 s" in failed["msg"]

    def test_no_restic(
        self, point: RecoveryPoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        failed = run(capsys, "/somewhere", recovery_point=point.path)
        assert "The restic command was not found on this host: install it" in failed["msg"]

    def test_no_password(self, point: RecoveryPoint, capsys: pytest.CaptureFixture[str]) -> None:
        assert "set opstage_restic_repository and" in run(capsys, "/x", recovery_point="latest", password=None)["msg"]

    def test_damaged_in_the_repository(
        self, point: RecoveryPoint, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(capsys, repository, recovery_point=point.path)
        for pack in (repository / "data").glob("*/*"):
            content = bytearray(pack.read_bytes())
            content[100] ^= 1
            pack.chmod(0o600)
            pack.write_bytes(content)
        failed = run(capsys, repository, recovery_point=point.path)
        assert "was not sent" in failed["msg"]
        assert "`restic check --read-data` tells what is damaged" in failed["msg"]
        assert is_whole(point)
        root = tmp_path / "elsewhere"
        assert run(capsys, repository, state="fetched", recovery_point="latest", root=str(root))["failed"]
        assert names_in(root / "opstage") == []

    def test_damaged_on_the_host(
        self, point: RecoveryPoint, repository: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What is sent is compared with the manifest, not with what was sent; and does not stay there."""
        with open(point.database, "r+b") as stream:
            stream.seek(5000)
            stream.write(b"damage")
        failed = run(capsys, repository, recovery_point=point.path)
        assert f"is not what {point.path} has: opstage.db has SHA-256" in failed["msg"]
        assert f"The recovery point {point.path} is damaged" in failed["msg"]
        assert "whole" not in failed["msg"]
        assert snapshots(repository) == []

    def test_a_file_that_disappears(
        self, point: RecoveryPoint, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        replace_restic(tmp_path, f"case $* in *backup*) rm '{point.path}/project/compose.yml' ;; esac")
        failed = run(capsys, repository, recovery_point=point.path)
        assert "project/compose.yml is missing" in failed["msg"] or "failed with exit code 3" in failed["msg"]
        assert snapshots(repository) == []


class TestKilled:
    def test_half_way(
        self, deployment: dict[str, Any], repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """No snapshot is there, the lock is left; the next one sends, and its retention needs that gone."""
        point = make_point(deployment, tmp_path)
        replace_restic(tmp_path, KILLED.format(real=REAL, repository=repository))
        failed = run(capsys, repository, recovery_point=point.path)
        assert "was ended by signal 9" in failed["msg"]
        assert (snapshots(repository), len(list((repository / "locks").iterdir()))) == ([], 1)
        assert is_whole(point)
        replace_restic(tmp_path, "")
        assert run(capsys, repository, recovery_point=point.path, retention={"last": 1})["changed"]
        # What restic was still writing when it was killed locks nobody out, and stays.
        locks = [lock.name for lock in (repository / "locks").iterdir() if "-tmp-" not in lock.name]
        assert (len(snapshots(repository)), locks) == (1, [])

    def test_a_lock_of_somebody_who_works_stays(
        self,
        point: RecoveryPoint,
        repository: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(restic_core, "_SECONDS_FOR_LOCK", 0.1)
        environment = {**os.environ, "RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(repository)}
        environment.pop("RESTIC_REPOSITORY_FILE")
        command = [str(REAL), "--no-cache", "backup", "--stdin"]
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as other:
            wait_until(lambda: any((repository / "locks").iterdir()))
            failed = run(capsys, repository, recovery_point=point.path, retention={"last": 1})
            assert f"{point.path} was sent and verified, but" in failed["msg"]
            assert "is locked by somebody else" in failed["msg"]
            other.communicate(b"x", timeout=30)
        assert other.returncode == 0


def test_retention_is_that_of_the_host_and_project(
    deployment: dict[str, Any], repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [("elsewhere", "opstage"), (socket.gethostname(), "another")]
    for host, project in others:
        tags = ["--tag", "opstage", "--tag", f"project:{project}"]
        restic(repository, "backup", "--host", host, *tags, "compose.yml", folder=tmp_path)
    points = [make_point(deployment, tmp_path) for _number in range(2)]
    failed = run(capsys, repository, recovery_point=points[0].path, retention={"last": 0})
    assert "The policy is empty" in failed["msg"]
    run(capsys, repository, recovery_point=points[0].path, retention={"last": -1, "within": "1h"})
    assert len(snapshots(repository)) == 3
    run(capsys, repository, recovery_point="latest", project="opstage", root=str(tmp_path / "backups"))
    assert len(snapshots(repository)) == 4
    run(capsys, repository, recovery_point=points[1].path, retention={"last": 1})
    kept = [(entry["hostname"], entry["tags"][1:]) for entry in snapshots(repository)]
    assert sorted(kept) == sorted(
        [(host, [f"project:{project}"]) for host, project in others]
        + [(socket.gethostname(), ["project:opstage", f"id:{points[1].manifest['id']}"])]
    )


class TestFetched:
    def test_only_what_a_recovery_point_has(
        self, point: RecoveryPoint, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.plant(point, repository, tmp_path, "extra")
        root = tmp_path / "elsewhere"
        failed = run(capsys, repository, state="fetched", recovery_point="latest", root=str(root))
        assert "it has 'extra'" in failed["msg"]
        assert failed["msg"].endswith("Nothing was changed.")
        assert names_in(root / "opstage") == []

    def test_no_link(
        self, point: RecoveryPoint, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (Path(point.path) / "project" / "compose.yml").unlink()
        (Path(point.path) / "project" / "compose.yml").symlink_to("/etc/passwd")
        self.plant(point, repository, tmp_path)
        root = tmp_path / "elsewhere"
        failed = run(capsys, repository, state="fetched", recovery_point="latest", root=str(root))
        assert "it has no project/compose.yml" in failed["msg"]
        assert names_in(root / "opstage") == []

    def plant(self, point: RecoveryPoint, repository: Path, folder: Path, *extra: str) -> None:
        content = Path(shutil.copytree(point.path, folder / "planted", symlinks=True))
        for name in extra:
            (content / name).write_text("x")
        tags = ["opstage", "project:opstage", f"id:{point.manifest['id']}"]
        marks = [argument for tag in tags for argument in ("--tag", tag)]
        restic(repository, "backup", *marks, ".", folder=content)

    def test_a_damaged_one_on_the_host_is_left(
        self, point: RecoveryPoint, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(capsys, repository, recovery_point=point.path)
        with open(point.database, "r+b") as stream:
            stream.truncate(4096)
        before = content_of(point.path)
        root = str(tmp_path / "backups")
        failed = run(capsys, repository, state="fetched", recovery_point=point.manifest["id"], root=root)
        assert "move that folder elsewhere first" in failed["msg"]
        assert content_of(point.path) == before


A, B, C = (f"2026-11-{day}T02-15-00-000000Z-manual" for day in (20, 21, 22))


class Listed:
    """A repository that has recovery points of two hosts."""

    shown = "/somewhere"

    def snapshots(self, tag: str) -> list[Snapshot]:
        assert tag == "opstage"
        points = [(A, "here", "one"), (B, "here", "two"), (A, "there", "one"), (C, "there", "one"), (A, "here", "one")]
        listed = [
            Snapshot(str(number), host, ("opstage", f"project:{project}", f"id:{identifier}"))
            for number, (identifier, host, project) in enumerate(points)
        ]
        return [*listed, Snapshot("x", "here", ("opstage", "project:one", "id:../../etc")), Snapshot("y", "here", ())]


def found(wanted: str, project: str | None, host: str | None) -> tuple[str, ...]:
    return find_sent(Listed(), wanted, project, host).snapshots  # type: ignore[arg-type]  # it only lists


def test_what_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    assert found("latest", "one", None) == ("4", "0")
    assert found("latest", "two", None) == ("1",)
    assert found("latest", None, "there") == ("3",)
    assert found(C, None, None) == ("3",)
    assert found(A, None, "there") == ("2",)


@pytest.mark.parametrize(
    ("wanted", "project", "host", "expected"),
    [
        (
            "latest",
            None,
            None,
            "holds several recovery points 'latest' from the host here, from host and project: here",
        ),
        (A, None, None, "several recovery points .*: here, one; there, one. Name the host with opstage_restic_host"),
        (C, "two", None, "no recovery point '.*' of the project two. The newest of all 4: "),
        ("latest", "one", "gone", r"of the project one from the host gone.*there, one\)"),
        ("2026", "one", None, "expected `latest` or an id"),
        ("../x", "one", None, "expected `latest` or an id"),
    ],
)
def test_what_is_not_there(
    wanted: str, project: str | None, host: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    with pytest.raises(RecoveryPointError, match=expected):
        found(wanted, project, host)


def test_memory_does_not_grow_with_the_file(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 64 << 20
    with open(tmp_path / "large", "wb") as stream:
        stream.truncate(size)
    restic(repository, "backup", "large", folder=tmp_path)
    received: dict[str, int] = {}

    def receive(name: str, content: IO[bytes]) -> None:
        received[name] = sum(len(piece) for piece in iter(lambda: content.read(1 << 20), b""))

    tracemalloc.start()
    ResticRepository(str(repository), PASSWORD).read("latest", receive)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert received == {"large": size}
    assert peak < size / 8
