# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers that are whole Debian hosts."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from testbed.engine import docker, is_running, last_log
from testbed.images import LABEL
from testbed.network import ADDRESS_LABEL, NETWORK, free_addresses
from testbed.process import CommandError, TestbedError, wait_for

TESTBED_LABEL = "opstage-testbed.name"
NUMBER_LABEL = "opstage-testbed.number"
SECONDS_TO_BOOT = 120
PRIVILEGES = (
    # CAP_SYS_RESOURCE is left out, and with it --privileged: not every machine has it to give.
    "--cap-add=ALL",
    "--cap-drop=SYS_RESOURCE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
    # Its own control group namespace: what runs in the host is limited, counted and removed with the host.
    "--cgroupns=private",
)
KEY_IF_READY = (
    "systemctl is-active --quiet ssh.service docker.service && docker version >/dev/null"
    " && cat /etc/ssh/ssh_host_ed25519_key.pub"
)


@dataclass(frozen=True)
class Host:
    """One host: its testbed, its number from 1, and its address on the testbed's network."""

    testbed: str
    number: int
    address: str

    @property
    def alias(self) -> str:
        """The name in the inventory."""
        return f"{self.testbed}-{self.number}"

    @property
    def container(self) -> str:
        """The name of the container, and the host name."""
        return f"opstage-testbed-{self.alias}"


def check_name(testbed: str) -> None:
    """Raise TestbedError unless ``testbed`` can be part of host names, folder names and socket paths."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", testbed):
        raise TestbedError(
            f"'{testbed}' is no name for a testbed: expected up to 20 small letters, digits and hyphens, a letter first"
        )


def existing(testbed: str | None = None) -> list[Host]:
    """The hosts of one testbed, or of all, running or not, in order."""
    labels = f'{{{{.Label "{TESTBED_LABEL}"}}}} {{{{.Label "{NUMBER_LABEL}"}}}} {{{{.Label "{ADDRESS_LABEL}"}}}}'
    chosen = f"label={TESTBED_LABEL}" + (f"={testbed}" if testbed else "")
    lines = docker("ps", "--all", "--filter", chosen, "--format", labels).splitlines()
    hosts = [Host(name, int(number), address) for name, number, address in map(str.split, lines)]
    return sorted(hosts, key=lambda host: (host.testbed, host.number))


def create_missing(testbed: str, count: int, image: str, public_key: str) -> list[Host]:
    """Create the hosts 1 to ``count`` that are not there yet. Returns those. Call it with the lock held."""
    present = {host.number for host in existing(testbed)}
    missing = [number for number in range(1, count + 1) if number not in present]
    hosts = [
        Host(testbed, number, address) for number, address in zip(missing, free_addresses(len(missing)), strict=True)
    ]
    for host in hosts:
        create(host, image)
        docker("cp", "-", f"{host.container}:/root", stdin=authorized_keys(public_key))
    return hosts


def create(host: Host, image: str) -> None:
    """Create the container of ``host``, not started yet."""
    docker(
        "create",
        f"--name={host.container}",
        f"--hostname={host.container}",
        f"--network={NETWORK}",
        f"--ip={host.address}",
        f"--label={LABEL}=host",
        f"--label={TESTBED_LABEL}={host.testbed}",
        f"--label={NUMBER_LABEL}={host.number}",
        f"--label={ADDRESS_LABEL}={host.address}",
        *PRIVILEGES,
        "--env=container=docker",
        # systemd 257 refuses to start on control groups of version 1 without it.
        "--env=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
        "--tmpfs=/run",
        "--tmpfs=/tmp",
        # The inner engine's overlay2 does not work on the overlay of the outer one.
        "--volume=/var/lib/docker",
        "--stop-signal=SIGRTMIN+3",
        "--stop-timeout=60",
        image,
        "/bin/sh",
        "/usr/local/sbin/testbed-init",
    )


def authorized_keys(public_key: str) -> bytes:
    """A tar with root's ``.ssh/authorized_keys``, owner and modes as sshd asks for."""
    content = public_key.encode()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        folder = tarfile.TarInfo(".ssh")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(folder)
        entry = tarfile.TarInfo(".ssh/authorized_keys")
        entry.size, entry.mode = len(content), 0o600
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def start_stopped(hosts: list[Host]) -> None:
    """Start those hosts that do not run."""
    running = docker("ps", "--filter", f"label={TESTBED_LABEL}", "--format", "{{.Names}}").split()
    each([host for host in hosts if host.container not in running], lambda host: docker("start", host.container))


def wait_until_ready(hosts: list[Host], login: Callable[[Host, str], bool]) -> dict[Host, str]:
    """Wait until sshd and the inner engine of every host answer and ``login`` succeeds.

    ``login`` is called with a host and its public SSH key, which was read from the host itself and not over the
    network. Returns these keys. Raises TestbedError, with the container's last log lines, for a host that ends or
    takes too long.
    """
    keys: dict[Host, str] = {}

    def wait_for_host(host: Host) -> None:
        def ready() -> bool:
            try:
                key = " ".join(docker("exec", host.container, "sh", "-c", KEY_IF_READY).split()[:2])
            except CommandError as error:
                if not is_running(host.container):
                    text = f"{host.container} ended while it started; {last_log(host.container)}"
                    raise TestbedError(text) from error
                return False
            keys[host] = key
            return login(host, key)

        def last_words() -> str:
            return f"{failed_units(host)}; {last_log(host.container)}"

        wait_for(ready, f"{host.container} is up", seconds=SECONDS_TO_BOOT, last_words=last_words, interval=0.25)

    each(hosts, wait_for_host)
    return keys


def failed_units(host: Host) -> str:
    """The units of the host that failed or are still being started, on one line."""
    try:
        units = docker("exec", host.container, "systemctl", "list-units", "--plain", "--no-legend",
                       "--state=failed,activating", timeout=10)  # fmt: skip
    except CommandError as error:
        return f"systemd does not answer: {error}"
    return f"units failed or starting: {', '.join(line.split()[0] for line in units.splitlines()) or 'none'}"


def remove(hosts: list[Host]) -> None:
    """Remove the hosts with their anonymous volumes."""
    each(hosts, lambda host: docker("rm", "--force", "--volumes", host.container))


def each(hosts: list[Host], action: Callable[[Host], object]) -> None:
    """Do ``action`` for all hosts side by side. Raises the first error, after all have ended."""
    if not hosts:
        return
    with ThreadPoolExecutor(max_workers=min(16, len(hosts))) as pool:
        futures = [pool.submit(action, host) for host in hosts]
    for future in futures:
        future.result()
