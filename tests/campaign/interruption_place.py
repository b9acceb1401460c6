# SPDX-License-Identifier: GPL-3.0-or-later
"""The host on which operations are cut off: starting points that are put back, playbooks, and the cuts themselves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from campaign.interruption_trials import BACKUP, CONNECTION, CREATE, HOST, OUTAGES, REGISTRY, RESTORE, ROLLBACK, UPGRADE
from testbed import hosts, inventory, traffic
from testbed.engine import docker
from testbed.load import ACKNOWLEDGED, served_version
from testbed.machine import CHECKOUT
from testbed.network import registry_address
from testbed.process import TestbedError, run, succeeds, wait_for

NAME = "interruptions"
OLD, NEW = "0.2.0", "0.3.0"
BROKEN = "0.3.1-exits"
"""The tag whose image NEW names where it has moved."""
ROWS = 2000
WRITES_PER_SECOND = 200
WRITES_BEFORE = 200
"""Acknowledged before an operation's starting point: none of them may ever be lost."""
SECONDS_FOR_A_PLAYBOOK = 300
FAILED, UNREACHABLE = 2, 4
"""Exit status of ansible-playbook where a task fails, and where a host does not answer."""
LOGS = CHECKOUT / ".cache" / "logs"
PROJECT = "/opt/opstage"
JOURNAL = "/var/lib/opstage/opstage/journal.jsonl"
LOCK = "/var/lib/opstage/opstage/lock.json"
POINTS = "/var/backups/opstage"
PLAYBOOKS = {CREATE: RESTORE}
"""Where it has not the operation's name."""
VARIABLES: dict[str, dict[str, Any]] = {
    UPGRADE: {"opstage_version": NEW, "opstage_upgrade_acknowledge": NEW},
    ROLLBACK: {},
    RESTORE: {"opstage_recovery_point": "latest"},
    BACKUP: {"opstage_backup_method": "offline"},
}
LED_TO_BY = {RESTORE: (BACKUP, {}), ROLLBACK: (UPGRADE, VARIABLES[UPGRADE])}
"""What must have been done before the operation can begin."""

SAVED = "/var/cache/opstage-interruptions"
STATE_OF_A_DEPLOYMENT = (
    "opt/opstage var/lib/opstage var/backups/opstage var/lib/docker/volumes/opstage_opstage-data/_data"
)
CONTAINERS = "docker ps --all --quiet --filter label=com.docker.compose.project=opstage"
SAVE = f"""
set -e
mkdir -p {SAVED}
{CONTAINERS} | xargs docker rm --force
cd /
ls -d {STATE_OF_A_DEPLOYMENT} 2>/dev/null | tar --create --file "{SAVED}/$0.tar" --files-from -
"""
LOAD = f"""
set -e
{CONTAINERS} | xargs --no-run-if-empty docker rm --force
cd /
rm -rf {STATE_OF_A_DEPLOYMENT}
tar --extract --file "{SAVED}/$0.tar"
docker compose --project-directory {PROJECT} up --detach --pull never
"""
EMPTY = f"""
set -e
{CONTAINERS} | xargs --no-run-if-empty docker rm --force
docker network ls --quiet --filter label=com.docker.compose.project=opstage | xargs --no-run-if-empty docker network rm
docker volume rm --force opstage_opstage-data
cd /
rm -rf {STATE_OF_A_DEPLOYMENT}
"""
KEEP_POINT = f"cp --archive {POINTS}/opstage/*-manual {SAVED}/point"
BACKGROUND = "'system_settings', 'agents', 'health_reports'"
"""Tables that Opstage writes on its own."""
TABLES_THAT_DIFFER = f"""
set -e
now=/var/lib/docker/volumes/opstage_opstage-data/_data/opstage.db
then="file:{SAVED}/point/opstage.db?immutable=1"
for table in $(sqlite3 "$then" "select name from sqlite_master where type = 'table' and name not in ({BACKGROUND})"); do
    query="select * from $table order by 1"
    was=$(sqlite3 "$then" "$query" | sha256sum)
    is=$(sqlite3 -readonly -cmd ".timeout 5000" "$now" "$query" | sha256sum)
    [ "$is" = "$was" ] || echo "$table"
done
"""
START_ALWAYS = f"""
set -e
sed -i 's/restart: unless-stopped/restart: always/' {PROJECT}/compose.yml
docker compose --project-directory {PROJECT} up --detach --pull never
"""
MOVED_TAG = "/usr/local/lib/moved_tag.py"
# The Engine is root's, and what asks the registry for it is not.
REDIRECTION = (
    "OUTPUT --destination $0 --protocol tcp --dport 5000 --match owner --uid-owner 0 --jump REDIRECT --to 5001"
)
MOVE_TAG = f"""
set -e
systemd-run --quiet --unit=moved-tag --uid=nobody python3 {MOVED_TAG} 5001 "$0:5000" {NEW} {BROKEN}
until (: </dev/tcp/127.0.0.1/5001) 2>/dev/null; do sleep 0.05; done
iptables --table nat --insert {REDIRECTION}
"""
MOVE_TAG_BACK = f"""
set -e
iptables --table nat --delete {REDIRECTION}
systemctl stop moved-tag.service
"""
CUT_CONNECTIONS = "systemctl stop ssh.service; pkill -KILL '^sshd'; true"
CUT_CONNECTIONS_IN_A_MODULE = f"""
echo ready
tries=0
until pgrep '^python3' >/dev/null || [ $tries -ge 150 ]; do sleep 0.02; tries=$((tries + 1)); done
{CUT_CONNECTIONS}
"""
"""Ansible's module is the only Python on the host, but a task may have none: then the next task is cut off."""


class Place:
    """The only host of the testbed ``name``, with its Opstage."""

    def __init__(self, name: str) -> None:
        (self.host,) = hosts.existing(name)
        self.name = name
        self.log = LOGS / f"{name}.log"
        self.folder = inventory.folder_of(name) / "campaign"
        """What is noted of playbooks and writers, and what is brought to a new host."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        self.variables = {
            **VARIABLES,
            CREATE: {
                "opstage_recovery_point": str(self.folder / "point"),
                "opstage_recovery_point_on_controller": True,
            },
        }
        self.url = f"http://{self.host.address}:8080"
        self.kept: dict[str, list[int]] = {}
        """For each starting point that is saved the writes that were acknowledged before."""
        self.writers = 0

    def playbook(self, name: str, variables: dict[str, Any], halt_at: str = "") -> subprocess.Popen[bytes]:
        """Start a playbook of the collection, or of the testbed where the name is a path."""
        path = name if "/" in name else f"playbooks/{PLAYBOOKS.get(name, name)}.yml"
        environment = {
            **os.environ,
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback_plugins"),
            "KILLER_TASKS": str(self.folder / "tasks"),
            "KILLER_TASK": halt_at,
        }
        (self.folder / "tasks").write_text("", encoding="utf-8")
        with self.log.open("ab") as stream:
            stream.write(f"== {name} {variables} {halt_at}\n".encode())
            stream.flush()
            return subprocess.Popen(
                [
                    str(CHECKOUT / ".venv" / "bin" / "ansible-playbook"),
                    *("-i", str(inventory.folder_of(self.name) / "inventory.yml"), path, "-e", json.dumps(variables)),
                ],
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )

    def tasks(self) -> list[tuple[float, str]]:
        """The tasks that the last playbook began: time.monotonic(), and the name without that of the collection."""
        lines = (self.folder / "tasks").read_text(encoding="utf-8").splitlines()
        parts = [line.split(" ", 1) for line in lines]
        return [(float(at), task.removeprefix("TASK: ").removeprefix("capsule.opstage.")) for at, task in parts]

    def wait_for_halt(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the controller halts at its task, or has ended; returns whether it halts."""
        wait_for(
            lambda: has_halted(process) or process.poll() is not None,
            "the controller halts or ends",
            seconds=SECONDS_FOR_A_PLAYBOOK,
            last_words=lambda: f"see {self.log}",
            interval=0.02,
        )
        return process.returncode is None

    def must(self, name: str, variables: dict[str, Any]) -> None:
        """Run a playbook that must end well. Raises TestbedError."""
        status = end_of(self.playbook(name, variables))
        if status:
            raise TestbedError(f"{name} ended with status {status}; see {self.log}")

    def on_host(self, *command: str) -> str:
        """What a command on the host prints. Raises CommandError."""
        return docker("exec", self.host.container, *command)

    def put_back(self, operation: str) -> list[int]:
        """Bring the deployment to where the operation begins. Returns the writes that were acknowledged until then."""
        if operation == CREATE:
            return self.take_away()
        name = operation if operation in LED_TO_BY else UPGRADE
        if name not in self.kept:
            if name in LED_TO_BY:
                kept = self.put_back(UPGRADE)
                self.must(*LED_TO_BY[name])
            else:
                self.must(
                    "tests/testbed/deploy.yml",
                    {"testbed_fresh": True, "testbed_version": OLD, "testbed_seed_rows": ROWS},
                )
                kept = self.write_some()
            self.on_host("sh", "-c", SAVE, name)
            self.kept[name] = kept
        self.on_host("sh", "-c", LOAD, name)
        return self.kept[name]

    def take_away(self) -> list[int]:
        """Leave the host with Docker and images alone; what it had is in a recovery point on the controller.

        Returns the acknowledged writes that are in it.
        """
        if CREATE not in self.kept:
            self.kept[CREATE] = self.put_back(RESTORE)
            self.on_host("sh", "-c", KEEP_POINT)
            docker("cp", f"{self.host.container}:{SAVED}/point", self.variables[CREATE]["opstage_recovery_point"])
        self.on_host("sh", "-c", EMPTY)
        return self.kept[CREATE]

    def tables_that_differ(self) -> list[str]:
        """The tables whose rows are not those that the recovery point for a new host has."""
        return self.on_host("sh", "-c", TABLES_THAT_DIFFER).split()

    def staged(self) -> list[str]:
        """What is left on the host of recovery points that came from the controller."""
        return self.on_host("find", POINTS, "-maxdepth", "1", "-name", ".*").split()

    def start_always(self) -> None:
        """Change Docker's policy: the service starts with the host, even if it was stopped."""
        self.on_host("sh", "-c", START_ALWAYS)

    def write_some(self) -> list[int]:
        """Have WRITES_BEFORE writes acknowledged, and return them."""
        with self.writer() as state:
            wait_for(
                lambda: len(acknowledged(state)) >= WRITES_BEFORE,
                f"{self.url} acknowledges {WRITES_BEFORE} writes",
                seconds=60,
                last_words=lambda: traffic.last_line(state),
            )
        return acknowledged(state)

    @contextmanager
    def writer(self) -> Iterator[Path]:
        """Somebody who writes all the time; yields the folder in which is noted what was acknowledged."""
        self.writers += 1
        state = self.folder / f"traffic-{self.writers}"
        traffic.start(state, self.url, WRITES_PER_SECOND)
        try:
            yield state
        finally:
            traffic.stop(state)

    def cut(self, process: subprocess.Popen[bytes], kind: str) -> int | None:
        """Make a cut of that kind now; ``process`` is the controller, which runs, has halted or has ended.

        Returns with the host reachable, and the controller's exit status.
        """
        if kind == CONNECTION:
            return self.cut_connections(process)
        if kind in OUTAGES:
            with self.without_registry() if kind == REGISTRY else self.moved_tag():
                process.send_signal(signal.SIGCONT)
                return end_of(process)
        if kind == HOST:
            docker("kill", self.host.container)
        process.kill()
        process.wait()
        if kind == HOST:
            self.forget_connections()
            hosts.start_stopped([self.host])
            hosts.wait_until_ready([self.host], inventory.can_log_in)
        return process.returncode

    def cut_connections(self, process: subprocess.Popen[bytes]) -> int | None:
        """Cut and refuse all SSH connections until the controller has ended: if it has halted, in its next module."""
        halted = has_halted(process)
        script = CUT_CONNECTIONS_IN_A_MODULE if halted else CUT_CONNECTIONS
        command = ["docker", "exec", self.host.container, "sh", "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as cutting:
            if halted and cutting.stdout is not None:
                cutting.stdout.readline()
                process.send_signal(signal.SIGCONT)
            status = end_of(process)
        self.on_host("systemctl", "start", "ssh.service")
        return status

    def forget_connections(self) -> None:
        """End what is left of SSH connections to a host that is gone: they would be used for the next playbook."""
        for path in (inventory.SOCKETS / self.name).iterdir():
            succeeds(["ssh", "-o", f"ControlPath={path}", "-O", "exit", "testbed"], timeout=10)

    @contextmanager
    def without_registry(self) -> Iterator[None]:
        """Let the host reach its registry no more: this host only, other testbeds have the same."""
        rule = ("OUTPUT", "--destination", registry_address(), "--jump", "REJECT")
        self.on_host("iptables", "--insert", *rule)
        try:
            yield
        finally:
            self.on_host("iptables", "--delete", *rule)

    @contextmanager
    def moved_tag(self) -> Iterator[None]:
        """Let the host find another image under the tag of the upgrade's target: this host only."""
        docker("cp", str(Path(__file__).with_name("moved_tag.py")), f"{self.host.container}:{MOVED_TAG}")
        self.on_host("bash", "-c", MOVE_TAG, registry_address())
        try:
            yield
        finally:
            self.on_host("bash", "-c", MOVE_TAG_BACK, registry_address())

    def journal(self) -> list[dict[str, Any]]:
        """The deployment's journal."""
        text = self.on_host("sh", "-c", f"if [ -e {JOURNAL} ]; then cat {JOURNAL}; fi")
        return [json.loads(line) for line in text.splitlines()]

    def is_locked(self) -> bool:
        """Whether somebody holds the deployment's lock."""
        return bool(self.on_host("sh", "-c", f"if [ -e {LOCK} ]; then echo held; fi"))

    def version(self) -> str:
        """What the running Opstage says that it is; empty where it does not answer."""
        return served_version(self.url)

    def pinned(self) -> str:
        """The tag of the image that Compose would start."""
        text = self.on_host("docker", "compose", "--project-directory", PROJECT, "config", "--images")
        return text.strip().partition("@")[0].rpartition(":")[2]

    def writes_in(self, recovery_point: str) -> set[int]:
        """The writes that a recovery point has."""
        database = f"file:{recovery_point}/opstage.db?immutable=1"
        return {int(line) for line in self.on_host("sqlite3", database, "select number from standin_writes").split()}

    def versions(self) -> dict[str, str]:
        """What the trials are made with."""
        ansible = run([str(CHECKOUT / ".venv" / "bin" / "ansible-playbook"), "--version"]).splitlines()[0]
        return {
            "Opstage (stand-in)": f"{OLD}, upgraded to {NEW}",
            "controller": f"ansible-{ansible.rpartition('[')[2].rstrip(']')}",
            "host": f"Debian {self.on_host('cat', '/etc/debian_version')}, Docker Engine "
            f"{self.on_host('docker', 'version', '--format', '{{.Server.Version}}')}, Compose "
            f"{self.on_host('docker', 'compose', 'version', '--short')}, "
            f"{self.on_host('python3', '--version')}",
        }


def acknowledged(state: Path) -> list[int]:
    """The numbers of the writes that were acknowledged, in this order."""
    return [int(number) for number in (state / ACKNOWLEDGED).read_text(encoding="ascii").split()]


def end_of(process: subprocess.Popen[bytes]) -> int | None:
    """Wait until the playbook has ended and return its exit status; one that takes too long is killed."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=SECONDS_FOR_A_PLAYBOOK)
    process.kill()
    return process.wait()


def has_halted(process: subprocess.Popen[bytes]) -> bool:
    """Whether the controller halts at its task; False where it runs or has ended."""
    return (
        process.poll() is None and os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is not None
    )
