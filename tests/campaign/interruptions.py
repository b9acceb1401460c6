# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut operations off at every task and at random moments, let another playbook run, and count what was lost.

    interruptions.py                   the whole campaign
    interruptions.py --one-in 8        an eighth of it
    interruptions.py --only upgrade:7  one trial, as it is listed; a task can be given by a part of its name, too

On a host of the testbed, under a writer of 200 acknowledged writes a second. After each cut the backup playbook runs,
which must find what was cut off and bring it to its end. Exit status 0 when nothing was lost, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from testbed import hosts, traffic
from testbed.command import down, up
from testbed.inventory import STATE
from testbed.load import ACKNOWLEDGED
from testbed.machine import CHECKOUT
from testbed.process import TestbedError, run, say

NAME = "interruptions"
OLD, NEW = "0.2.0", "0.3.0"
ROWS = 2000
WRITES_PER_SECOND = 200
SEED = 20261123
LOGS = CHECKOUT / ".cache" / "logs"
TASKS_FILE = "tasks"
DATABASE = "/var/lib/docker/volumes/opstage_opstage-data/_data/opstage.db"
JOURNAL = "/var/lib/opstage/opstage/journal.jsonl"
LOCK = "/var/lib/opstage/opstage/lock.json"
OPERATIONS: dict[str, dict[str, str]] = {
    "upgrade": {"opstage_version": NEW},
    "rollback": {},
    "restore": {"opstage_recovery_point": "latest"},
    "backup": {"opstage_backup_method": "offline"},
}
DROPPING = ("restore", "rollback")
"""What is written after their recovery point is dropped by these, as they say."""


@dataclass
class Trial:
    """One cut: at the task ``moment``, its number or a part of its name, or so many seconds after the start."""

    operation: str
    moment: str | float
    task: str = ""
    outcome: str = ""
    acknowledged: int = 0
    lost: int = 0
    flaws: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """How it is asked for again."""
        return f"{self.operation}:{self.moment}" + ("s" if isinstance(self.moment, float) else "")


class Field:
    """The host on which all trials are made, and the Opstage on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inventory = STATE / NAME / "inventory.yml"
        (self.host,) = hosts.existing(NAME)
        self.url = f"http://{self.host.address}:8080"
        self.log = LOGS / "interruptions.log"
        self.trial = 0

    def playbook(self, name: str, variables: dict[str, Any], kill_at: str = "") -> subprocess.Popen[bytes]:
        """Start a playbook of the collection, or of the testbed where the name is a path."""
        path = name if "/" in name else f"playbooks/{name}.yml"
        environment = {
            **os.environ,
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback_plugins"),
            "KILLER_TASKS": str(self.folder / TASKS_FILE),
            "KILLER_TASK": kill_at,
        }
        (self.folder / TASKS_FILE).unlink(missing_ok=True)
        with self.log.open("ab") as stream:
            stream.write(f"== {name} {variables} {kill_at}\n".encode())
            stream.flush()
            return subprocess.Popen(
                [
                    str(CHECKOUT / ".venv" / "bin" / "ansible-playbook"),
                    *("-i", str(self.inventory), path, "-e", json.dumps(variables)),
                ],
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )

    def tasks(self) -> list[str]:
        """The tasks that the last playbook began."""
        return (self.folder / TASKS_FILE).read_text(encoding="utf-8").splitlines()

    def must(self, name: str, variables: dict[str, Any]) -> None:
        """Run a playbook that must end well. Raises TestbedError."""
        status = self.playbook(name, variables).wait()
        if status:
            raise TestbedError(f"{name} ended with status {status}; see {self.log}")

    def deploy(self, version: str) -> None:
        """Put a new Opstage on the host."""
        variables = {"testbed_fresh": True, "testbed_version": version, "testbed_seed_rows": ROWS}
        self.must("tests/testbed/deploy.yml", variables)

    def on_host(self, *command: str) -> str:
        """What a command on the host prints. Raises CommandError."""
        return run(["docker", "exec", self.host.container, *command])

    def journal(self) -> list[dict[str, Any]]:
        """The deployment's journal."""
        text = self.on_host("sh", "-c", f"if [ -e {JOURNAL} ]; then cat {JOURNAL}; fi")
        return [json.loads(line) for line in text.splitlines()]

    def version(self) -> str:
        """What the running Opstage says that it is; empty where it does not answer."""
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/api/system/version", timeout=5) as answer:
            return str(json.load(answer)["data"]["version"])
        return ""

    def pinned(self) -> str:
        """The image that Compose would start."""
        text = self.on_host("docker", "compose", "--project-directory", "/opt/opstage", "config", "--images")
        return text.strip().rpartition(":")[2]


def prepare(place: Field, operation: str) -> None:
    """Bring the deployment to where the operation begins."""
    place.deploy(OLD)
    if operation == "rollback":
        place.must("upgrade", OPERATIONS["upgrade"])


def count_tasks(place: Field, operation: str) -> list[str]:
    """The tasks of the operation when it is not disturbed."""
    prepare(place, operation)
    if operation == "restore":
        place.must("backup", {})
    place.must(operation, OPERATIONS[operation])
    return place.tasks()


def attempt(place: Field, trial: Trial) -> None:
    """Make one trial, and note in it what came of it."""
    prepare(place, trial.operation)
    place.trial += 1
    state = place.folder / f"traffic-{place.trial}"
    traffic.start(state, place.url, WRITES_PER_SECOND)
    try:
        kept = before_operation(place, trial.operation, state)
        cut_off(place, trial)
        status = place.playbook("backup", {}).wait()
    finally:
        traffic.stop(state)
    if status:
        trial.flaws.append(f"the next run ended with status {status}")
        return
    judge(place, trial, state, kept)


def before_operation(place: Field, operation: str, state: Path) -> int:
    """Make what a restore goes back to; returns how many writes were acknowledged before, which must be kept."""
    if operation not in DROPPING:
        return 0
    kept = len((state / ACKNOWLEDGED).read_text(encoding="ascii").split())
    if operation == "restore":
        place.must("backup", {})
        return kept
    return 0


def cut_off(place: Field, trial: Trial) -> None:
    """Run the operation and kill its controller."""
    variables = OPERATIONS[trial.operation]
    if isinstance(trial.moment, str):
        process = place.playbook(trial.operation, variables, kill_at=trial.moment)
        if process.wait() != -signal.SIGKILL:
            trial.flaws.append("it was not cut off: there is no such task")
        return
    process = place.playbook(trial.operation, variables)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=trial.moment)
    process.kill()
    process.wait()


def judge(place: Field, trial: Trial, state: Path, kept: int) -> None:
    """Compare what is there with what must be there."""
    entries = place.journal()
    ends = [entry for entry in entries if entry["status"] in ("finished", "failed")]
    own = [entry for entry in ends if entry["operation"] == trial.operation]
    trial.outcome = own[-1]["status"] if own else "not begun"
    runs = {entry["run"] for entry in entries}
    if runs != {entry["run"] for entry in ends}:
        trial.flaws.append("the journal has an operation without an end")
    if place.on_host("sh", "-c", f"if [ -e {LOCK} ]; then echo held; fi"):
        trial.flaws.append("the lock was left behind")
    version, pinned = place.version(), place.pinned()
    expected = NEW if (trial.operation == "upgrade") == (trial.outcome == "finished") else OLD
    if trial.operation in ("restore", "backup"):
        expected = OLD
    if (version, pinned) != (expected, expected):
        trial.flaws.append(f"serves {version!r}, pinned is {pinned}, expected is {expected}: {trial.outcome}")
        return
    check = traffic.check(state, url=place.url)
    missing = set(check["missing"])
    trial.acknowledged = check["acknowledged"]
    if trial.operation in DROPPING and trial.outcome == "finished":
        numbers = [int(line) for line in (state / ACKNOWLEDGED).read_text(encoding="ascii").split()]
        missing &= set(numbers[:kept])
    trial.lost = len(missing)


def trials_of(place: Field, operations: Sequence[str], one_in: int) -> list[Trial]:
    """All trials: each task of each operation, and as many random moments."""
    chance = random.Random(SEED)
    trials = []
    for operation in operations:
        began = time.monotonic()
        tasks = count_tasks(place, operation)
        lasted = time.monotonic() - began
        trials += [Trial(operation, str(number), task) for number, task in enumerate(tasks, 1)]
        trials += [Trial(operation, round(chance.uniform(1.0, lasted), 1)) for _number in range(len(tasks) // 2)]
    return trials[chance.randrange(one_in) :: one_in] if one_in > 1 else trials


def table(trials: Sequence[Trial]) -> str:
    """The outcome as text."""
    width = max(len(trial.key) for trial in trials)
    lines = [f"{'cut':{width}} {'outcome':10} {'acknowledged':>12} {'lost':>5}  at"]
    for trial in trials:
        lines.append(
            f"{trial.key:{width}} {trial.outcome:10} {trial.acknowledged:12} {trial.lost:5}  {trial.task}"
            + "".join(f"\n    FLAW: {flaw}" for flaw in trial.flaws)
        )
    flaws = sum(len(trial.flaws) for trial in trials)
    lost = sum(trial.lost for trial in trials)
    acknowledged = sum(trial.acknowledged for trial in trials)
    lines.append(f"{len(trials)} cuts, {acknowledged} writes acknowledged, {lost} lost, {flaws} flaws")
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="interruptions.py", description="Cut operations off and count what was lost.")
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="these only")
    parser.add_argument("--one-in", type=int, default=1, metavar="N", help="a part of it")
    parser.add_argument("--only", action="append", metavar="KEY", help="this trial")
    return parser.parse_args(arguments)


def interrupt(_number: int, _frame: object) -> None:
    """A signal that asks to end is as if a person had pressed Ctrl-C."""
    raise KeyboardInterrupt


def chosen(keys: Sequence[str]) -> list[Trial]:
    """The trials that were asked for by their keys."""
    trials = []
    for key in keys:
        operation, _colon, moment = key.partition(":")
        in_seconds = re.fullmatch(r"([0-9.]+)s", moment)
        trials.append(Trial(operation, float(in_seconds[1]) if in_seconds else moment))
    return trials


def main() -> int:
    """Run the campaign."""
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, interrupt)
    LOGS.mkdir(parents=True, exist_ok=True)
    (LOGS / "interruptions.log").unlink(missing_ok=True)
    try:
        up(NAME, 1, OLD)
        folder = STATE / NAME / "campaign"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        place = Field(folder)
        trials = (
            chosen(options.only)
            if options.only
            else trials_of(place, options.operation or list(OPERATIONS), options.one_in)
        )
        for trial in trials:
            attempt(place, trial)
            say(f"{trial.key}: {trial.outcome}, {trial.lost} lost {' '.join(trial.flaws)}")
    except TestbedError as error:
        say(f"error: {error}")
        return 1
    finally:
        down(NAME)
    sys.stdout.write(table(trials) + "\n")
    return int(any(trial.lost or trial.flaws for trial in trials))


if __name__ == "__main__":
    raise SystemExit(main())
