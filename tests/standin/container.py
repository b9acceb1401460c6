# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers of the Opstage stand-in on the machine's engine, and a client that speaks to them."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = "opstage-testbed/opstage"
USERNAME = "admin"
PASSWORD = "correct-horse-battery"
ENVIRONMENT = {
    "OPSTAGE_SESSION_SECRET": "0123456789abcdef0123456789abcdef",
    "OPSTAGE_ADMIN_USERNAME": USERNAME,
    "OPSTAGE_ADMIN_PASSWORD": PASSWORD,
}
OPTIONS = ("--label", "opstage-testbed=1", "--publish", "127.0.0.1::8080")
UNREACHABLE = ("--network", "none")
"""For a container that is not to be spoken to: it starts in half the time."""

RUN_SQL = """
const { DatabaseSync } = require("node:sqlite");
const database = new DatabaseSync("/app/data/opstage.db", { timeout: 5000 });
process.stdout.write(JSON.stringify(database.prepare(process.argv[1]).all()));
"""


def docker(*arguments: str) -> str:
    """Run the engine's command. Returns its output without the last line end; raises CalledProcessError."""
    done = subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.rstrip("\n")


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The condition's first true value. Raises TimeoutError after so many seconds, naming ``what`` was waited for."""
    end = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def data(self) -> Any:
        """What a successful envelope carries."""
        envelope = json.loads(self.body)
        assert envelope["success"] is True, envelope
        assert set(envelope) == {"success", "data"}
        return envelope["data"]

    @property
    def error(self) -> tuple[int, str]:
        """Status and code of an error envelope."""
        envelope = json.loads(self.body)
        assert envelope["success"] is False, envelope
        assert set(envelope) == {"success", "error"}
        assert set(envelope["error"]) == {"code", "message"}
        return self.status, envelope["error"]["code"]


@dataclass
class Client:
    """Speaks to one port; after a login it sends the session's cookie and, if told to, its token."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)
    csrf_token: str = ""

    def request(self, method: str, path: str, body: object = None, token: bool = True) -> Answer:
        """One request on a connection of its own; ``body`` is sent as JSON."""
        headers = {**self.headers, **({"x-csrf-token": self.csrf_token} if token and self.csrf_token else {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        """GET."""
        return self.request("GET", path)

    def login(self, username: str = USERNAME, password: str = PASSWORD) -> Answer:
        """Log in and keep the session, where that succeeds."""
        answer = self.request("POST", "/api/admin/auth/login", {"username": username, "password": password})
        if answer.status == 200:
            self.headers["cookie"] = answer.headers["set-cookie"].partition(";")[0]
            self.csrf_token = answer.data["csrfToken"]
        return answer


@dataclass(frozen=True)
class Container:
    """One container of the stand-in."""

    name: str

    def client(self) -> Client:
        """A client without a session; the port changes with every start."""
        return Client(int(docker("port", self.name, "8080").splitlines()[0].rpartition(":")[2]))

    def health(self) -> str | None:
        """The status that the API reports, or None while nothing answers."""
        with suppress(OSError, http.client.HTTPException, subprocess.CalledProcessError):
            status: str = self.client().get("/api/system/health").data["status"]
            return status
        return None

    def wait_for_answer(self, seconds: float = 15) -> Client:
        """Wait until the API answers, whatever it says; fails at once when the container has ended."""

        def answers_or_ended() -> bool:
            return self.health() is not None or not self.state()["Running"]

        wait_for(answers_or_ended, seconds, f"answer of {self.name}")
        assert self.state()["Running"], self.logs()
        return self.client()

    def wait_for_end(self, seconds: float = 15) -> int:
        """Wait until the container has ended by itself; returns the exit code."""
        wait_for(lambda: not self.state()["Running"], seconds, f"end of {self.name}")
        code: int = self.state()["ExitCode"]
        return code

    def inspect(self) -> dict[str, Any]:
        """What the engine knows about the container."""
        description: dict[str, Any] = json.loads(docker("container", "inspect", self.name))[0]
        return description

    def state(self) -> dict[str, Any]:
        """The engine's ``State``."""
        state: dict[str, Any] = self.inspect()["State"]
        return state

    def logs(self) -> str:
        """Everything that was logged."""
        return docker("logs", self.name)

    def log_times(self, message: str) -> list[str]:
        """The times of the log lines with this message."""
        lines = [json.loads(line) for line in self.logs().splitlines()]
        return [line["time"] for line in lines if line["message"] == message]

    def execute(self, *command: str) -> str:
        """Run a command in the container."""
        return docker("exec", self.name, *command)

    def sql(self, statement: str) -> list[dict[str, Any]]:
        """Run SQL on the live database, from a second process in the container."""
        rows: list[dict[str, Any]] = json.loads(
            self.execute("node", "--disable-warning=ExperimentalWarning", "-e", RUN_SQL, statement)
        )
        return rows

    def copy_out(self, source: str, target: Path) -> Path:
        """Copy a file or folder out of the container, running or not."""
        docker("cp", f"{self.name}:{source}", str(target))
        return target


class Laboratory:
    """Makes containers and volumes, and removes them all when it is closed."""

    def __init__(self) -> None:
        self.containers: list[str] = []
        self.volumes: list[str] = []

    def volume(self) -> str:
        """The name of a new volume; the engine makes it at the first run with it."""
        name = f"standin-{uuid.uuid4().hex[:12]}"
        self.volumes.append(name)
        return name

    def run(
        self,
        tag: str,
        volume: str | None = None,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> Container:
        """Start a container, by default with a volume of its own; a variable whose value is empty is left out."""
        name = f"standin-{uuid.uuid4().hex[:12]}"
        variables = {**ENVIRONMENT, **(environment or {})}
        arguments = [*OPTIONS, "--name", name, "--volume", f"{volume or self.volume()}:/app/data", *options]
        for variable, value in variables.items():
            arguments += ["--env", f"{variable}={value}"] if value else []
        self.containers.append(name)
        docker("run", "--detach", *arguments, f"{REPOSITORY}:{tag}")
        return Container(name)

    def close(self) -> None:
        """Remove every container and volume, those of a failed test included.

        Each container has a volume, and the removal of a volume in use fails: so nothing is left without an error.
        """
        if self.containers:
            subprocess.run(["docker", "rm", "--force", *self.containers], check=False, capture_output=True, timeout=60)
            docker("volume", "rm", "--force", *self.volumes)
