# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import opstage_api, readiness
from ansible_collections.capsule.opstage.plugins.module_utils.readiness import (
    NotReadyError,
    wait_until_ready,
    watch_health,
)
from console_testing import Console, PrivateAuthority, serving_console
from opstage_testing import (
    RecordedDocker,
    Service,
    answers,
    recorded_container,
    serving,
    serving_in_own_network,
    unused_url,
)

CONTAINER = "opstage-published-1"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
    """A running container that has written two lines."""
    docker = RecordedDocker(tmp_path / "docker", monkeypatch)
    docker.has_containers([recorded_container("published")])
    docker.says("logs", "migrating\nserving\n")
    return docker


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(answers("0.2.0")) as service:
        yield service


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the container sooner than after a second."""
    monkeypatch.setattr(readiness, "CONTAINER_INTERVAL", 0.1)


def described(description: dict[str, Any], restarts: int = 0, **state: Any) -> dict[str, Any]:
    """A container's description with some of its state changed."""
    return {**description, "RestartCount": restarts, "State": {**description["State"], **state}}


def not_ready(url: str, version: str | None = "0.2.0", timeout: float = 30) -> NotReadyError:
    """The error of a wait that must not take its whole timeout."""
    begin = time.monotonic()
    with pytest.raises(NotReadyError) as caught:
        wait_until_ready(url, version, timeout, CONTAINER)
    assert time.monotonic() - begin < 10
    return caught.value


class TestReady:
    @pytest.mark.parametrize("version", ["0.2.0", None])
    def test_at_once(self, service: Service, docker: RecordedDocker, version: str | None) -> None:
        found = wait_until_ready(service.url, version, 30, CONTAINER)
        assert (found.status, found.version, found.edition) == ("UP", "0.2.0", "ce")
        assert 0 < found.elapsed < 5
        assert docker.calls == []

    def test_a_connection_that_is_lost_does_not_take_a_second(
        self, service: Service, docker: RecordedDocker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A port that Docker is setting up can lose a packet, which is repeated after a second."""
        asked: list[float] = []
        connect = socket.create_connection

        def losing(address: Any, timeout: float, *others: Any) -> socket.socket:
            asked.append(timeout)
            if len(asked) < 3:
                time.sleep(timeout)
                raise TimeoutError("timed out")
            return connect(address, timeout, *others)

        monkeypatch.setattr(opstage_api.socket, "create_connection", losing)
        found = wait_until_ready(service.url, "0.2.0", 30, CONTAINER)
        assert asked[:3] == [0.2, 0.4, 0.8]
        assert found.elapsed >= 0.6

    @pytest.mark.parametrize("status", ["DEGRADED", "DOWN"])
    def test_once_it_is_healthy(self, service: Service, docker: RecordedDocker, status: str) -> None:
        """The version is not compared before, while a migration may still answer with the old one."""
        healthy = service.answers
        service.answers = answers("0.1.0", status)
        timer = threading.Timer(0.3, lambda: setattr(service, "answers", healthy))
        timer.start()
        found = wait_until_ready(service.url, "0.2.0", 30, CONTAINER)
        timer.join()
        assert (found.status, found.version) == ("UP", "0.2.0")
        assert found.elapsed >= 0.3

    def test_a_container_that_docker_calls_unhealthy_or_restarted_twice(
        self, service: Service, docker: RecordedDocker, hasty: None
    ) -> None:
        container = recorded_container("published")
        assert container["State"]["Health"]["Status"] == "unhealthy"
        docker.has_containers([described(container, restarts=2)])
        healthy = service.answers
        service.answers = answers("0.2.0", "DEGRADED")
        timer = threading.Timer(0.5, lambda: setattr(service, "answers", healthy))
        timer.start()
        wait_until_ready(service.url, "0.2.0", 30, CONTAINER)
        timer.join()
        assert f"container inspect {CONTAINER}" in docker.calls


class TestTls:
    """Behind a proxy with a certificate of a private authority."""

    def test_trusted(self, docker: RecordedDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(readiness, "SOAK_INTERVAL", 0.05)
        authority = PrivateAuthority(tmp_path)
        with serving_console(Console(instead=answers("0.2.0")), authority.certificate()) as console:
            assert wait_until_ready(console.url, "0.2.0", 30, CONTAINER, ca_file=str(authority.file)).status == "UP"
            watch_health(console.url, "0.2.0", 0.1, CONTAINER, str(authority.file))

    def test_not_trusted(self, docker: RecordedDocker, tmp_path: Path) -> None:
        with serving_console(Console(instead=answers("0.2.0")), PrivateAuthority(tmp_path).certificate()) as console:
            error = not_ready(console.url, timeout=0.3)
        assert "/api/system/health has a certificate that this host does not trust: " in str(error)


class TestNotReady:
    def test_another_version_ends_the_wait_at_once(self, service: Service, docker: RecordedDocker) -> None:
        error = not_ready(service.url, "0.3.0")
        assert str(error).startswith(f"{service.url}/api/system/version reports version 0.2.0, expected 0.3.0")
        assert error.logs == ["migrating", "serving"]
        assert docker.calls == [f"logs --tail 20 {CONTAINER}"]

    @pytest.mark.parametrize(
        ("version", "status", "found"),
        [
            ("0.2.0", "DEGRADED", "status DEGRADED, version 0.2.0"),
            ("0.2.0", "DOWN", "status DOWN, version 0.2.0"),
            ("0.2.0", "up", "status up, version 0.2.0"),
            ("", "", "status missing, version missing"),
        ],
    )
    def test_never_healthy(
        self, service: Service, docker: RecordedDocker, version: str, status: str, found: str
    ) -> None:
        service.answers = answers(version, status)
        error = not_ready(service.url, timeout=0.2)
        assert str(error) == (f"Opstage was not healthy within 0.2 s: {found}; expected status UP at {service.url}.")
        assert error.logs == ["migrating", "serving"]

    def test_never_an_answer(self, docker: RecordedDocker) -> None:
        begin = time.monotonic()
        error = not_ready(unused_url(), timeout=0.3)
        assert time.monotonic() - begin >= 0.3
        assert "did not answer" in str(error)
        assert "refused" in str(error)

    def test_without_a_docker_command(self, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The cause is told all the same."""
        monkeypatch.setenv("PATH", str(tmp_path))
        error = not_ready(service.url, "0.3.0")
        assert "reports version 0.2.0, expected 0.3.0" in str(error)
        assert "The docker command was not found" in error.logs[0]


@pytest.mark.usefixtures("hasty")
class TestContainerThatDied:
    def test_for_good(self, docker: RecordedDocker) -> None:
        docker.has_containers([recorded_container("killed")])
        error = not_ready(unused_url())
        assert str(error) == (
            f"The container {CONTAINER} does not stay up: exited, last exit code 137, restarted 0 times."
        )
        assert error.logs == ["migrating", "serving"]

    @pytest.mark.parametrize("status", ["restarting", "running"])
    def test_at_every_start(self, docker: RecordedDocker, status: str) -> None:
        container = recorded_container("published")
        docker.has_containers([described(container, restarts=3, Status=status, ExitCode=1)])
        assert f"does not stay up: {status}, last exit code 1, restarted 3 times." in str(not_ready(unused_url()))

    def test_of_its_memory_limit(self, docker: RecordedDocker) -> None:
        container = recorded_container("killed")
        docker.has_containers([described(container, restarts=5, OOMKilled=True)])
        assert "last exit code 137 (killed by its memory limit), restarted 5 times" in str(not_ready(unused_url()))

    def test_removed(self, docker: RecordedDocker) -> None:
        (docker.folder / "container-inspect").unlink()
        error = not_ready(unused_url())
        assert str(error).startswith(f"The container {CONTAINER} is gone: ")
        assert error.logs == []

    def test_later(self, docker: RecordedDocker) -> None:
        died = threading.Timer(0.5, docker.has_containers, [[recorded_container("killed")]])
        died.start()
        begin = time.monotonic()
        not_ready(unused_url())
        died.join()
        assert time.monotonic() - begin >= 0.5


class TestIsolated:
    def test_asked_in_the_container_s_own_network(self, docker: RecordedDocker, tmp_path: Path) -> None:
        with serving_in_own_network(tmp_path / "served", answers("0.3.0")) as pid:
            docker.has_containers([described(recorded_container("published"), Pid=pid)])
            found = wait_until_ready(unused_url(), "0.3.0", 30, CONTAINER, isolated=True)
        assert (found.status, found.version) == ("UP", "0.3.0")

    def test_another_version_there(self, docker: RecordedDocker, tmp_path: Path) -> None:
        with serving_in_own_network(tmp_path / "served", answers("0.2.0")) as pid:
            docker.has_containers([described(recorded_container("published"), Pid=pid)])
            with pytest.raises(NotReadyError, match=r"reports version 0\.2\.0, expected 0\.3\.0"):
                wait_until_ready(unused_url(), "0.3.0", 30, CONTAINER, isolated=True)

    def test_a_container_between_two_restarts(self, docker: RecordedDocker) -> None:
        docker.has_containers([described(recorded_container("published"), Pid=0)])
        with pytest.raises(NotReadyError, match=f"the container {CONTAINER} is not running; expected status UP"):
            wait_until_ready(unused_url(), None, 0.2, CONTAINER, isolated=True)

    def test_a_container_that_ended_between_two_questions(self, docker: RecordedDocker) -> None:
        docker.has_containers([described(recorded_container("published"), Pid=2**22 + 1)])
        with pytest.raises(NotReadyError, match=f"the container {CONTAINER} ended while it was asked"):
            wait_until_ready(unused_url(), None, 0.2, CONTAINER, isolated=True)

    def test_a_container_that_is_gone(self, docker: RecordedDocker) -> None:
        (docker.folder / "container-inspect").unlink()
        with pytest.raises(NotReadyError, match=f"The container {CONTAINER} is gone"):
            wait_until_ready(unused_url(), None, 30, CONTAINER, isolated=True)


class TestWatched:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(readiness, "SOAK_INTERVAL", 0.05)
        monkeypatch.setattr(readiness, "UNHEALTHY_SECONDS_ALLOWED", 0.3)

    def test_until_the_end(self, service: Service, docker: RecordedDocker) -> None:
        began = time.monotonic()
        watch_health(service.url, "0.2.0", 0.3, CONTAINER)
        assert 0.3 <= time.monotonic() - began < 3
        assert len(service.asked) > 4

    def test_not_at_all(self, service: Service, docker: RecordedDocker) -> None:
        watch_health(service.url, "0.2.0", 0, CONTAINER)
        assert service.asked == []

    def test_a_moment_without_an_answer_is_allowed(self, service: Service, docker: RecordedDocker) -> None:
        served = service.answers
        service.answers = {}
        threading.Timer(0.1, setattr, (service, "answers", served)).start()
        watch_health(service.url, "0.2.0", 0.5, CONTAINER)

    def test_what_becomes_unhealthy_is_an_error(self, service: Service, docker: RecordedDocker) -> None:
        threading.Timer(0.2, setattr, (service, "answers", answers("0.2.0", "DEGRADED"))).start()
        with pytest.raises(NotReadyError, match="status DEGRADED") as caught:
            watch_health(service.url, "0.2.0", 30, CONTAINER)
        assert caught.value.logs == ["migrating", "serving"]

    def test_a_container_that_is_started_again_is_an_error(self, service: Service, docker: RecordedDocker) -> None:
        again = described(recorded_container("published"), StartedAt="2026-11-22T03:00:00.5Z")
        threading.Timer(0.2, docker.has_containers, ([again],)).start()
        with pytest.raises(NotReadyError, match="was started again while it was watched"):
            watch_health(service.url, "0.2.0", 30, CONTAINER)
