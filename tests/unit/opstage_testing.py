# SPDX-License-Identifier: GPL-3.0-or-later
"""Real HTTP servers, processes in a network of their own, and a `docker` command that repeats what Docker once said."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlite_testing import make_database, wait_until

Answer = tuple[int, dict[str, str], bytes]

RECORDED = Path(__file__).resolve().parent / "data" / "deployments"

DOCKER = """#!/bin/sh
echo "$*" >>'{folder}/calls'
cat '{folder}/'"$1-$2" 2>/dev/null && exit
cat '{folder}/'"$1" 2>/dev/null && exit
echo "Error: No such object: $*" >&2
exit 1
"""


def answer(data: object, status: int = 200) -> Answer:
    """A successful envelope."""
    return status, {}, json.dumps({"success": True, "data": data}).encode()


def answers(version: str = "0.2.0", status: str = "UP") -> dict[str, Answer]:
    """What Opstage says of itself, from 0.2.0 on."""
    return {
        "/api/system/health": answer({"status": status, "version": version, "edition": "ce"}),
        "/api/system/version": answer({"version": version, "edition": "ce"}),
    }


class Service:
    """A server on a free port of 127.0.0.1; `answers` may be changed while it runs, `asked` has the paths asked for."""

    def __init__(self, given: Mapping[str, Answer]) -> None:
        self.answers = dict(given)
        self.asked: list[str] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked.append(self.path)
                status, headers, body = service.answers.get(self.path, (404, {}, b'{"success": false}'))
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(body)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output free of it."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextlib.contextmanager
def serving(given: Mapping[str, Answer]) -> Iterator[Service]:
    """Serve until the end of the block."""
    service = Service(given)
    thread = threading.Thread(target=service.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        service.server.shutdown()
        thread.join()
        service.server.server_close()


@contextlib.contextmanager
def saying(words: bytes) -> Iterator[str]:
    """The URL of a server that answers every connection with the same bytes and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _address = server.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def unused_url() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def serving_in_own_network(folder: Path, given: Mapping[str, Answer]) -> Iterator[int]:
    """The process id of a server at port 8080 of a network that only it is in; its paths are files in `folder`."""
    assert os.geteuid() == 0, "a network namespace is entered by root only"
    for path, (_status, _headers, body) in given.items():
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
    log = folder / "log"
    server = f"{sys.executable} -u -m http.server 8080 --bind 127.0.0.1 --directory {folder}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", f"ip link set lo up && exec {server}"], stdout=output, stderr=output
        )
    try:
        wait_until(lambda: b"Serving HTTP" in log.read_bytes() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield process.pid
    finally:
        process.kill()
        process.wait()


class RecordedDocker:
    """A `docker` on PATH that repeats recorded output; `calls` has the arguments of each call."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        program = folder / "docker"
        program.write_text(DOCKER.format(folder=folder))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def says(self, command: str, output: str) -> None:
        """Answer `command`, its first word or its first two joined by a hyphen."""
        partial = self.folder / f"{command}.partial"
        partial.write_text(output)
        partial.rename(self.folder / command)

    def has_containers(self, containers: Sequence[Mapping[str, Any]]) -> None:
        """Answer `docker ps` and `docker container inspect`."""
        self.says("ps", "".join(f"{container['Id']}\n" for container in containers))
        self.says("container-inspect", json.dumps(containers))

    @property
    def calls(self) -> list[str]:
        """What was asked so far."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


def stopped_deployment(docker: RecordedDocker, folder: Path) -> Path:
    """Let Docker know a stopped Opstage of the project `opstage`, with a database of twenty rows; its data folder."""
    project, data = folder / "project", folder / "data"
    for made in (project, data):
        made.mkdir()
    (project / "compose.yml").write_text("services: {}\n")
    make_database(data / "opstage.db", 20, "WAL")
    container = recorded_container("published")
    container["Mounts"][0]["Source"] = str(data)
    container["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"] = unused_url().rpartition(":")[2]
    labels = container["Config"]["Labels"]
    labels["com.docker.compose.project.working_dir"] = str(project)
    labels["com.docker.compose.project.config_files"] = str(project / "compose.yml")
    docker.has_containers([container])
    docker.says("image-inspect", json.dumps([recorded_image(container["Image"])]))
    return data


def recorded_containers() -> list[dict[str, Any]]:
    """Docker's description of the containers of data/deployments/compose.yml."""
    containers: list[dict[str, Any]] = json.loads((RECORDED / "containers.json").read_text())
    return containers


def recorded_container(service: str) -> dict[str, Any]:
    """Docker's description of the container that serves `service`."""
    name = f"/opstage-{service}-1"
    return next(container for container in recorded_containers() if container["Name"] == name)


def recorded_image(image_id: str) -> dict[str, Any]:
    """Docker's description of an image."""
    images: list[dict[str, Any]] = json.loads((RECORDED / "images.json").read_text())
    return next(image for image in images if image["Id"] == image_id)
