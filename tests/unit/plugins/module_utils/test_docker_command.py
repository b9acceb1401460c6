# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import time
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import (
    DockerError,
    container_logs,
    give_tag_back,
    inspect,
    run_docker,
)
from opstage_testing import RecordedDocker, recorded_container


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
    return RecordedDocker(tmp_path / "docker", monkeypatch)


def replace_program(docker: RecordedDocker, script: str) -> None:
    (docker.folder / "docker").write_text(f"#!/bin/sh\n{script}\n")


def test_arguments_and_output(docker: RecordedDocker) -> None:
    docker.says("ps", "one\ntwo\n")
    assert run_docker(["ps", "--filter", "label=a b"]) == "one\ntwo\n"
    assert docker.calls == ["ps --filter label=a b"]


def test_the_words_of_a_failure(docker: RecordedDocker) -> None:
    with pytest.raises(DockerError, match="exit code 1: Error: No such object: image inspect nothing"):
        inspect("image", ["nothing"])


def test_too_slow(docker: RecordedDocker) -> None:
    replace_program(docker, "exec sleep 30")
    begin = time.monotonic()
    with pytest.raises(DockerError, match=r"`docker ps` gave no answer within 0\.1 s"):
        run_docker(["ps"], timeout=0.1)
    assert time.monotonic() - begin < 10


def test_nothing_to_inspect_is_no_question(docker: RecordedDocker) -> None:
    assert inspect("container", []) == []
    assert docker.calls == []


def test_inspect(docker: RecordedDocker) -> None:
    container = recorded_container("published")
    docker.has_containers([container])
    assert inspect("container", [container["Id"]]) == [container]
    assert docker.calls == [f"container inspect {container['Id']}"]


def test_logs_are_those_of_both_outputs(docker: RecordedDocker) -> None:
    replace_program(docker, 'echo "$*"; echo "to error" >&2; printf "no \\377 text"')
    assert container_logs("opstage-1", 20) == ["logs --tail 20 opstage-1", "to error", "no \ufffd text"]


class TestWithoutCommand:
    @pytest.fixture(autouse=True)
    def no_docker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))

    def test_run(self) -> None:
        with pytest.raises(DockerError, match="The docker command was not found on this host"):
            run_docker(["ps"])

    def test_logs_report_why_there_are_none(self) -> None:
        (line,) = container_logs("opstage-1", 20)
        assert "The docker command was not found on this host" in line

    def test_a_file_that_is_no_program(self, tmp_path: Path) -> None:
        (tmp_path / "docker").write_text("#!/bin/sh\n")
        (tmp_path / "docker").chmod(0o644)
        with pytest.raises(DockerError, match="Permission denied"):
            run_docker(["ps"])


def test_logs_of_a_container_that_is_gone(docker: RecordedDocker) -> None:
    (line,) = container_logs("opstage-1", 20)
    assert "No such object: logs --tail 20 opstage-1" in line


IMAGES = """
case "$1 $2 $3" in
    "image inspect {tag}") [ -e {folder}/tag ] && cat {folder}/tag && exit ;;
    "image inspect sha256:old") [ -e {folder}/old ] && cat {folder}/old && exit ;;
    "pull --quiet {digest}") echo '[{{"Id": "sha256:old"}}]' >{folder}/old; echo "$*" >>{folder}/calls; exit ;;
    "tag sha256:old {tag}") cp {folder}/old {folder}/tag; echo "$*" >>{folder}/calls; exit ;;
esac
echo "Error: No such object: $*" >&2
exit 1
"""
TAG = "registry.example:5000/opstage:0.2.0"
PULLED = "registry.example:5000/opstage@sha256:digest"


class TestGiveTagBack:
    """With a docker that has images and knows just what is needed here; molecule/rollback has a real one."""

    @pytest.fixture(autouse=True)
    def images(self, docker: RecordedDocker) -> None:
        replace_program(docker, IMAGES.format(folder=docker.folder, tag=TAG, digest=PULLED))

    def has(self, docker: RecordedDocker, **images: str) -> None:
        for name, image in images.items():
            (docker.folder / name).write_text(f'[{{"Id": "{image}"}}]')

    def test_one_that_never_moved(self, docker: RecordedDocker) -> None:
        self.has(docker, tag="sha256:old", old="sha256:old")
        assert give_tag_back(TAG, "sha256:old", None) is False
        assert docker.calls == []

    def test_one_that_moved(self, docker: RecordedDocker) -> None:
        self.has(docker, tag="sha256:new", old="sha256:old")
        assert give_tag_back(TAG, "sha256:old", None, check=True) is True
        assert docker.calls == []
        assert give_tag_back(TAG, "sha256:old", None) is True
        assert docker.calls == [f"tag sha256:old {TAG}"]
        assert give_tag_back(TAG, "sha256:old", None) is False

    def test_one_that_is_gone(self, docker: RecordedDocker) -> None:
        self.has(docker, old="sha256:old")
        assert give_tag_back(TAG, "sha256:old", None) is True
        assert docker.calls == [f"tag sha256:old {TAG}"]

    def test_an_image_that_is_gone_is_pulled_by_its_digest(self, docker: RecordedDocker) -> None:
        self.has(docker, tag="sha256:new")
        assert give_tag_back(TAG, "sha256:old", "sha256:digest") is True
        assert docker.calls == [f"pull --quiet {PULLED}", f"tag sha256:old {TAG}"]

    def test_an_image_that_nobody_has(self, docker: RecordedDocker) -> None:
        self.has(docker, tag="sha256:new")
        with pytest.raises(DockerError, match=f"{TAG} named the image sha256:old, which is not on this host any more"):
            give_tag_back(TAG, "sha256:old", None)
