# SPDX-License-Identifier: GPL-3.0-or-later
"""A real registry: ``registry.testbed:5000`` for the hosts, a port on 127.0.0.1 for the machine's engine."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

from testbed.engine import docker, exists, is_running, label_of, last_log
from testbed.images import LABEL
from testbed.network import ADDRESS_LABEL, NETWORK, registry_address
from testbed.process import CommandError, TestbedError, wait_for

CONTAINER = "opstage-testbed-registry"
VOLUME = "opstage-testbed-registry"
PORT_LABEL = "opstage-testbed.port"
REPOSITORY = "xtrape-com/xtrape-capsule-ce"
SECONDS_TO_START = 30
MANIFEST_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
)


def ensure_registry(image: str) -> None:
    """Leave with the registry answering; ``image`` is the host image, which has the registry's program."""
    if not exists("container", CONTAINER):
        create(image)
    if not is_running(CONTAINER) or not answers():
        start()


def create(image: str) -> None:
    """Create the registry's container on a port of 127.0.0.1 that is free now, and keep to that one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = registry_address()
    docker(
        "create",
        f"--name={CONTAINER}",
        f"--network={NETWORK}",
        f"--ip={address}",
        "--network-alias=registry.testbed",
        f"--publish=127.0.0.1:{port}:5000",
        f"--label={LABEL}=registry",
        f"--label={PORT_LABEL}={port}",
        f"--label={ADDRESS_LABEL}={address}",
        f"--volume={VOLUME}:/var/lib/registry",
        image,
        "/usr/bin/docker-registry",
        "serve",
        "/etc/opstage-testbed-registry.yml",
    )


def port() -> int:
    """The registry's port on 127.0.0.1. Raises TestbedError where there is no registry."""
    try:
        return int(label_of(CONTAINER, PORT_LABEL))
    except CommandError as error:
        raise TestbedError("there is no registry yet; run 'testbed.py up NAME' first") from error


def push_repository() -> str:
    """The repository's name for pushes from the machine's engine."""
    return f"127.0.0.1:{port()}/{REPOSITORY}"


def request(
    method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[bytes, str]:
    """Ask the registry and return the answer's body and content type.

    Raises urllib.error.HTTPError for an answer other than success, OSError where nothing answers.
    """
    url = f"http://127.0.0.1:{port()}/v2/{path}"
    asked = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(asked, timeout=30) as answer:
        return answer.read(), answer.headers.get("Content-Type", "")


def answers() -> bool:
    """Whether the registry answers on the machine's port."""
    try:
        request("GET", "")
    except OSError:
        return False
    return True


def tags() -> set[str]:
    """The tags in Opstage's repository."""
    try:
        body, _headers = request("GET", f"{REPOSITORY}/tags/list")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return set()
        raise
    return set(json.loads(body)["tags"] or [])


def start() -> None:
    """Start the registry and wait until it answers."""
    port()
    docker("start", CONTAINER)
    wait_for(answers, "the registry answers", seconds=SECONDS_TO_START, last_words=lambda: last_log(CONTAINER))


def stop() -> None:
    """Stop the registry; its contents stay."""
    port()
    docker("stop", CONTAINER)


def move(tag: str, source_tag: str) -> None:
    """Push the image of ``source_tag`` under ``tag``. Raises TestbedError where ``source_tag`` is not there."""
    try:
        manifest, media_type = request(
            "GET", f"{REPOSITORY}/manifests/{source_tag}", headers={"Accept": ", ".join(MANIFEST_TYPES)}
        )
        request("PUT", f"{REPOSITORY}/manifests/{tag}", manifest, {"Content-Type": media_type})
    except urllib.error.HTTPError as error:
        known = ", ".join(sorted(tags())) or "none"
        raise TestbedError(f"no tag '{source_tag}' to move '{tag}' to ({error}); there are: {known}") from error
    except OSError as error:
        raise TestbedError(f"the registry does not answer ({error}); run 'testbed.py registry start'") from error


def describe() -> str:
    """One line about the registry."""
    if not exists("container", CONTAINER):
        return "none"
    if not is_running(CONTAINER):
        return f"stopped (127.0.0.1:{port()})"
    return f"127.0.0.1:{port()}, registry.testbed:5000 for the hosts; tags {', '.join(sorted(tags())) or 'none'}"


def remove_registry() -> str | None:
    """Remove the registry with its contents. Returns the repository that was pushed to, None where there was none."""
    repository = None
    if exists("container", CONTAINER):
        repository = push_repository()
        docker("rm", "--force", "--volumes", CONTAINER)
    if exists("volume", VOLUME):
        docker("volume", "rm", VOLUME)
    return repository
