# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine's Docker Engine: use the one that runs, install and start one where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from testbed.machine import CACHE, install
from testbed.process import (
    CommandError,
    TestbedError,
    end_recorded_process,
    record_process,
    run,
    say,
    succeeds,
    wait_for,
)

ENGINE_LOG = CACHE / "dockerd.log"
ENGINE_RECORD = CACHE / "dockerd.json"
SERVER_PACKAGES = {"docker.io": "dockerd", "iptables": "iptables"}
"""Debian's packages, each with a program by which its presence is known."""
SECONDS_TO_START = 60
SECONDS_TO_STOP = 30


def docker(*arguments: str, stdin: bytes | None = None, timeout: float = 120) -> str:
    """Run the docker command and return what it printed. Raises CommandError where it fails."""
    return run(["docker", *arguments], stdin=stdin, timeout=timeout)


def answers() -> bool:
    """Whether an engine answers."""
    return shutil.which("docker") is not None and succeeds(["docker", "version", "--format", "{{.Server.Version}}"])


def ensure_engine() -> None:
    """Leave with an engine that answers: the running one, or one installed and started here.

    Raises TestbedError where none can be had.
    """
    if answers():
        return
    if os.environ.get("DOCKER_HOST"):
        raise TestbedError(
            f"no engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}; start it or unset DOCKER_HOST"
        )
    missing = [name for name, program in SERVER_PACKAGES.items() if shutil.which(program) is None]
    if missing:
        install(missing)
    if shutil.which("docker") is None:
        # A package of its own from Debian 13 on, which docker.io only recommends.
        install(["docker-cli"])
    if not answers():
        start_engine()


def start_engine() -> None:
    """Start the installed engine: by systemd where that is the init, otherwise as a process of our own."""
    if Path("/run/systemd/system").is_dir():
        say("start the engine: systemctl start docker")
        run(["systemctl", "start", "docker.service"])
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    say(f"start the engine: dockerd, log in {ENGINE_LOG}")
    with ENGINE_LOG.open("ab") as log:
        process = subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    record_process(ENGINE_RECORD, process.pid)
    wait_for(
        lambda: process.poll() is not None or answers(),
        "the engine answers",
        seconds=SECONDS_TO_START,
        last_words=lambda: f"see {ENGINE_LOG}",
    )
    if process.poll() is not None:
        lines = ENGINE_LOG.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise TestbedError(f"dockerd ended with status {process.returncode}: {lines[-1] if lines else 'no output'}")


def stop_own_engine() -> int | None:
    """Stop the dockerd that the testbed started, and no other. Returns its process id, None where there is none.

    Raises TestbedError where it does not end.
    """
    return end_recorded_process(ENGINE_RECORD, seconds=SECONDS_TO_STOP, log=ENGINE_LOG)


def data_folder() -> Path:
    """The folder where the engine keeps images and volumes."""
    return Path(docker("info", "--format", "{{.DockerRootDir}}"))


def exists(kind: str, name: str) -> bool:
    """Whether the engine has the object; ``kind`` is ``image``, ``container``, ``network`` or ``volume``."""
    return succeeds(["docker", kind, "inspect", name])


def label_of(container: str, label: str) -> str:
    """The value of a container's label, empty where it has none. Raises CommandError where there is no container."""
    return docker("container", "inspect", "--format", f'{{{{index .Config.Labels "{label}"}}}}', container)


def is_running(container: str) -> bool:
    """Whether the container exists and runs."""
    try:
        return docker("container", "inspect", "--format", "{{.State.Running}}", container) == "true"
    except CommandError:
        return False


def last_log(container: str) -> str:
    """The last lines that the container wrote, on one line, for an error message."""
    try:
        completed = subprocess.run(
            ["docker", "logs", "--tail", "3", container], capture_output=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        return f"docker logs {container} did not answer"
    lines = (completed.stdout + completed.stderr).decode(errors="replace").split("\n")
    return f"log of {container}: " + " | ".join(line.strip() for line in lines if line.strip())
