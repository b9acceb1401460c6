# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of one testbed: its key, the hosts' keys and the inventory that names them all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from testbed.hosts import Host
from testbed.machine import CHECKOUT, install
from testbed.process import run, succeeds

STATE = CHECKOUT / ".testbed"
SOCKETS = Path("/run/opstage-testbed")
"""Control sockets lie here: the path of a socket may have 107 characters, and a checkout may lie deep."""


def folder_of(testbed: str) -> Path:
    """The folder of the testbed."""
    return STATE / testbed


def ensure_folder(testbed: str) -> str:
    """Make the folder with a key pair and the secrets of the run, where missing. Returns the public key."""
    folder = folder_of(testbed)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    (SOCKETS / testbed).mkdir(parents=True, exist_ok=True, mode=0o700)
    key = folder / "id_ed25519"
    if not key.exists():
        if shutil.which("ssh-keygen") is None:
            install(["openssh-client"])
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"opstage-testbed-{testbed}", "-f", str(key)])
    if not (folder / "secrets.json").exists():
        write(folder / "secrets.json", json.dumps(new_secrets(), indent=2) + "\n")
    return key.with_suffix(".pub").read_text(encoding="utf-8")


def new_secrets() -> dict[str, str]:
    """What an Opstage of this testbed is started with, under the names of Ansible variables."""
    return {
        "testbed_session_secret": secrets.token_hex(32),
        "testbed_admin_username": "owner",
        "testbed_admin_password": secrets.token_urlsafe(18),
    }


def ssh_options(testbed: str) -> list[str]:
    """The options of ssh for the hosts of ``testbed``: their real keys only, one lasting connection to each."""
    return [
        "-o", f'UserKnownHostsFile="{folder_of(testbed) / "known_hosts"}"',
        "-o", "StrictHostKeyChecking=yes",
        "-o", "IdentitiesOnly=yes",
        "-o", "ControlMaster=auto",
        "-o", "ControlPersist=60s",
        "-o", f"ControlPath={SOCKETS / testbed}/%C",
        "-o", "ServerAliveInterval=5",
        "-o", "ServerAliveCountMax=3",
    ]  # fmt: skip


def can_log_in(host: Host, key: str) -> bool:
    """Whether root's key opens a session on the host at its address, and the host shows ``key`` there."""
    with tempfile.NamedTemporaryFile("w", prefix="known-hosts-", encoding="ascii") as known_hosts:
        known_hosts.write(f"{host.address} {key}\n")
        known_hosts.flush()
        command = [
            "ssh", "-F", "none", "-i", str(folder_of(host.testbed) / "id_ed25519"),
            "-o", f"UserKnownHostsFile={known_hosts.name}", "-o", "StrictHostKeyChecking=yes",
            "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", f"root@{host.address}", "true",
        ]  # fmt: skip
        return succeeds(command, timeout=20)


def write_inventory(testbed: str, keys: dict[Host, str], default_version: str) -> Path:
    """Write the hosts' keys and the inventory, as JSON, which is YAML. Returns the inventory's path."""
    folder = folder_of(testbed)
    hosts = sorted(keys, key=lambda host: host.number)
    write(folder / "known_hosts", "".join(f"{host.address} {keys[host]}\n" for host in hosts))
    variables = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(folder / "id_ed25519"),
        "ansible_ssh_common_args": " ".join(
            f"'{option}'" if '"' in option else option for option in ssh_options(testbed)
        ),
        "testbed_version": default_version,
        "testbed_secrets_file": str(folder / "secrets.json"),
    }
    addresses = {host.alias: {"ansible_host": host.address} for host in hosts}
    inventory = {"opstage": {"hosts": addresses, "vars": variables}}
    path = folder / "inventory.yml"
    header = "# SPDX-License-Identifier: GPL-3.0-or-later\n# Written by tests/testbed/testbed.py up.\n"
    write(path, header + json.dumps(inventory, indent=2) + "\n")
    return path


def write(path: Path, text: str) -> None:
    """Put ``text`` at ``path``, mode 0600, in one step."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    Path(name).replace(path)


def remove_folder(testbed: str) -> None:
    """End the lasting connections to the hosts and remove the testbed's folder."""
    sockets = SOCKETS / testbed
    if sockets.is_dir():
        for socket in sockets.iterdir():
            succeeds(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "testbed"], timeout=10)
        shutil.rmtree(sockets, ignore_errors=True)
    shutil.rmtree(folder_of(testbed), ignore_errors=True)
    for parent in (SOCKETS, STATE):
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
