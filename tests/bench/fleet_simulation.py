# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated hosts: local connections, data of their own, and what a Docker Engine once said of an Opstage."""

from __future__ import annotations

import copy
import http.server
import json
import os
import shlex
import shutil
import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from testbed.machine import CHECKOUT
from testbed.process import succeeds

GROUP = "opstage"
STATE = Path("/var/lib/opstage")
"""Where the collection keeps its state; for the simulated hosts it is a private folder, in mounts of their own."""
OWN_STATE = f'mount --bind "$0" {STATE} && exec "$@"'
RECORDED = CHECKOUT / "tests" / "unit" / "data" / "deployments"
SERVICE = "published"
ROWS = 1000

DOCKER = """#!/bin/sh
cat "$OPSTAGE_BENCH_HOST/$1-$2" 2>/dev/null || cat "$OPSTAGE_BENCH_HOST/$1" 2>/dev/null && exit
echo "Nothing was recorded for: docker $*" >&2
exit 1
"""
PYTHON = """#!/bin/sh
OPSTAGE_BENCH_HOST={host} PATH={programs}:"$PATH" exec {python} "$@"
"""
ANSWERS: dict[str, dict[str, str]] = {
    "/api/system/health": {"status": "UP", "version": "0.2.0", "edition": "ce"},
    "/api/system/version": {"version": "0.2.0", "edition": "ce"},
}


class Simulation:
    """Simulated hosts in `folder`, which is private; their Opstage answers at `url`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.port = url.rpartition(":")[2]
        self.inventory = folder / "inventory.json"
        self.state = folder / "state"
        containers = json.loads((RECORDED / "containers.json").read_text(encoding="utf-8"))
        self.container = next(item for item in containers if item["Name"] == f"/opstage-{SERVICE}-1")
        images = json.loads((RECORDED / "images.json").read_text(encoding="utf-8"))
        self.image = next(item for item in images if item["Id"] == self.container["Image"])

    def make(self, count: int) -> None:
        """Make the hosts and their inventory."""
        programs = self.folder / "bin"
        programs.mkdir()
        self.state.mkdir(mode=0o700)
        write_program(programs / "docker", DOCKER)
        database = self.folder / "opstage.db"
        make_small_database(database)
        names = [f"simulated-{number:04}" for number in range(1, count + 1)]
        hosts = {name: self.make_host(name, programs, database) for name in names}
        variables = {
            "ansible_connection": "local",
            # Of the play, which would have everybody be root by sudo.
            "ansible_become": False,
            "ansible_remote_tmp": str(self.folder / "tmp"),
            "opstage_backup_root": str(self.folder / "backups"),
        }
        inventory = {GROUP: {"hosts": hosts, "vars": variables}}
        self.inventory.write_text(json.dumps(inventory, indent=1), encoding="utf-8")

    def make_host(self, name: str, programs: Path, database: Path) -> dict[str, str]:
        """Make one host with a deployment named as it, and what its Docker says; its variables."""
        host = self.folder / "hosts" / name
        (host / "data").mkdir(parents=True)
        shutil.copyfile(database, host / "data" / database.name)
        (host / "compose.yml").write_text("services: {}\n", encoding="utf-8")
        container = self.describe(name, host)
        (host / "ps").write_text(f"{container['Id']}\n", encoding="ascii")
        (host / "container-inspect").write_text(json.dumps([container]), encoding="utf-8")
        (host / "image-inspect").write_text(json.dumps([self.image]), encoding="utf-8")
        python = PYTHON.format(
            host=shlex.quote(str(host)), programs=shlex.quote(str(programs)), python=shlex.quote(sys.executable)
        )
        write_program(host / "python", python)
        return {"ansible_python_interpreter": str(host / "python")}

    def describe(self, name: str, host: Path) -> dict[str, Any]:
        """What Docker says of the container of a host."""
        container: dict[str, Any] = copy.deepcopy(self.container)
        container["Mounts"][0]["Source"] = str(host / "data")
        for binding in container["NetworkSettings"]["Ports"]["8080/tcp"]:
            binding["HostPort"] = self.port
        labels = container["Config"]["Labels"]
        labels["com.docker.compose.project"] = name
        labels["com.docker.compose.project.working_dir"] = str(host)
        labels["com.docker.compose.project.config_files"] = str(host / "compose.yml")
        return container

    def command(self, playbook: list[str]) -> list[str]:
        """The command that runs a playbook with the state of these hosts, and not of this machine, where it is kept."""
        return ["unshare", "--mount", "sh", "-c", OWN_STATE, str(self.state), *playbook]


def is_possible() -> bool:
    """Whether this process may mount something where nobody else sees it."""
    return os.geteuid() == 0 and succeeds(["unshare", "--mount", "true"])


@contextmanager
def simulated(folder: Path, count: int) -> Iterator[Simulation]:
    """Make `folder` and in it so many hosts, whose Opstage answers within the block; afterwards nothing is left."""
    folder.mkdir()
    with state_folder(), answering(ANSWERS) as url:
        try:
            simulation = Simulation(folder, url)
            simulation.make(count)
            yield simulation
        finally:
            shutil.rmtree(folder)


@contextmanager
def state_folder() -> Iterator[None]:
    """Have a folder to mount the hosts' state at."""
    made = not STATE.exists()
    STATE.mkdir(mode=0o700, exist_ok=True)
    try:
        yield
    finally:
        if made:
            with suppress(OSError):
                STATE.rmdir()


@contextmanager
def answering(answers: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """The address at which somebody answers as Opstage does, until the end of the block."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer with what belongs to the path."""
            body = json.dumps({"success": True, "data": answers[self.path]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def make_small_database(path: Path) -> None:
    """Make a database in WAL mode, small since the controller has nothing to do with its size."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE audit_events (id INTEGER PRIMARY KEY, metadata TEXT NOT NULL)")
        connection.execute(
            "WITH RECURSIVE numbers (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM numbers LIMIT ?)"
            " INSERT INTO audit_events SELECT value, hex(randomblob(40)) FROM numbers",
            (ROWS,),
        )


def write_program(path: Path, text: str) -> None:
    """Write a script that can be run."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
