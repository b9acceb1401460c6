# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the playbooks from every supported controller, and on every kind of host that is supported: ``make matrix``.

    matrix.py                            all of it
    matrix.py --only 'Compose 2.20.1'    one row, as it is listed
    matrix.py --document FILE            write the page docs/compatibility.md to FILE

On hosts of the testbed an Opstage is backed up, upgraded, rolled back, restored, put on a schedule and taken off it,
and asked for its status; each playbook must end well, and the version that serves must be the one that it should be.
Controllers get an environment of their own in .cache/matrix, with a Python of pyenv's or on PATH. The core by itself,
on more Pythons and SQLites: tests/tools/versions.py. Exit status 1 where a row fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.program import run_program, write
from bench.report import as_markdown, as_text
from testbed import hosts, inventory
from testbed.command import down, up
from testbed.compose import fetch_compose
from testbed.engine import docker
from testbed.load import served_version
from testbed.machine import CHECKOUT
from testbed.process import TestbedError, run, run_logged, say
from tools.versions import find_pythons

CACHE = CHECKOUT / ".cache" / "matrix"
LOGS = CHECKOUT / ".cache" / "logs"
NAME = "matrix"
OLD, NEW = "0.2.0", "0.3.0"
SECONDS_FOR_A_PLAYBOOK = 600
PLUGIN = "/usr/local/lib/docker/cli-plugins/docker-compose"
"""Docker prefers it to the Compose that came with a package."""

PLAYBOOKS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("backup", {"opstage_retention": {"last": 5}}, OLD),
    ("status", {"opstage_max_backup_age": "1h"}, OLD),
    ("upgrade", {"opstage_version": NEW, "opstage_upgrade_acknowledge": NEW}, NEW),
    ("rollback", {}, OLD),
    ("backup", {"opstage_backup_method": "offline"}, OLD),
    ("restore", {"opstage_recovery_point": "latest"}, OLD),
    ("drill", {}, OLD),
    ("schedule", {}, OLD),
    ("schedule", {"opstage_schedule_state": "absent"}, OLD),
)
"""What is run, in this order, with which variables, and the version that must serve then. The newest recovery point
after a rollback is one of the newer version."""


@dataclass(frozen=True)
class Row:
    """One combination. ``package``: release of the package ansible on the controller, ``controller_python`` its Python,
    empty for what the tests have. ``suite``: the host's Debian; ``python`` and ``compose`` on it, empty for Debian's.
    """

    name: str
    package: str = ""
    controller_python: str = ""
    suite: str = "trixie"
    python: str = ""
    compose: str = ""


ROWS = (
    Row("ansible-core 2.18, oldest community.docker", package="11.0.0", controller_python="3.11"),
    Row("ansible-core 2.18", package="11.13.0", controller_python="3.13"),
    Row("ansible-core 2.19", package="12.3.0", controller_python="3.12"),
    Row("ansible-core 2.20", package="13.8.0", controller_python="3.12"),
    Row("ansible-core 2.21, newest community.docker", package="14.5.0", controller_python="3.13"),
    Row("Debian 13"),
    Row("Debian 12", suite="bookworm", compose="2.40.3"),
    Row("Compose 2.20.1", compose="2.20.1"),
    Row("Compose 2.40.3", compose="2.40.3"),
    *(Row(f"Python {version} on the host", python=version) for version in ("3.8", "3.9", "3.10", "3.11", "3.12")),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a row: what it was made of, and the playbook that failed, empty where none did."""

    row: Row
    facts: dict[str, str]
    failed: str
    seconds: float


class Controller:
    """The environment of one release of the package ansible; the tests' own where none is named."""

    def __init__(self, package: str, python: str) -> None:
        self.folder = CACHE / f"ansible-{package}-{python}" if package else CHECKOUT / ".venv"
        if package and not (self.folder / "ready").exists():
            say(f"install ansible {package} under Python {python}")
            shutil.rmtree(self.folder, ignore_errors=True)
            log = LOGS / "matrix-controllers.log"
            run_logged([str(find_pythons([python])[python]), "-m", "venv", str(self.folder)], log)
            run_logged([str(self.folder / "bin" / "pip"), "install", "--quiet", f"ansible=={package}", "requests"], log)
            (self.folder / "ready").touch()

    def facts(self) -> dict[str, str]:
        """The versions of Python, ansible-core and community.docker."""
        script = (
            "import json, platform, ansible.release as core, ansible_collections.community.docker as collection\n"
            "manifest = json.load(open(collection.__path__[0] + '/MANIFEST.json'))\n"
            "print(json.dumps([platform.python_version(), core.__version__, manifest['collection_info']['version']]))"
        )
        python, core, collection = json.loads(run([str(self.folder / "bin" / "python"), "-c", script]))
        return {"controller's Python": python, "ansible-core": core, "community.docker": collection}

    def play(self, testbed: str, playbook: str, variables: dict[str, Any], log: Path) -> int:
        """Run a playbook against the testbed; returns the exit status."""
        command = [
            *(str(self.folder / "bin" / "ansible-playbook"), "-i", str(inventory.folder_of(testbed) / "inventory.yml")),
            *(playbook, "-e", json.dumps(variables)),
        ]
        # The testbed writes no interpreter into its inventory, and a release may warn of one that it discovers.
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        with log.open("ab") as stream:
            stream.write(f"== {shlex.join(command)}\n".encode())
            stream.flush()
            return subprocess.run(
                command,
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                timeout=SECONDS_FOR_A_PLAYBOOK,
                check=False,
            ).returncode


class Target:
    """The only host of a testbed of one suite."""

    def __init__(self, suite: str) -> None:
        self.testbed = f"{NAME}-{suite}"
        up(self.testbed, 1, OLD, suite)
        (self.host,) = hosts.existing(self.testbed)

    def run(self, *command: str) -> str:
        """What a command on the host prints."""
        return docker("exec", self.host.container, *command).strip()

    def use_compose(self, version: str) -> None:
        """Have that Compose on the host, or the one of its Debian."""
        self.run("rm", "--force", PLUGIN)
        if version:
            self.run("mkdir", "--parents", str(Path(PLUGIN).parent))
            docker("cp", str(fetch_compose(version)), f"{self.host.container}:{PLUGIN}")

    def use_python(self, version: str) -> str:
        """Have that Python on the host, or the one of its Debian; returns the path of its interpreter."""
        if not version:
            return "/usr/bin/python3"
        interpreter = find_pythons([version])[version].resolve()
        prefix = interpreter.parents[1]
        self.run("mkdir", "--parents", str(prefix.parent))
        docker("cp", str(prefix), f"{self.host.container}:{prefix.parent}")
        return str(interpreter)

    def facts(self, interpreter: str) -> dict[str, str]:
        """The versions of what is on the host."""
        script = "import platform, sqlite3; print(platform.python_version(), sqlite3.sqlite_version)"
        python, sqlite = self.run(interpreter, "-c", script).split()
        return {
            "Debian": self.run("cat", "/etc/debian_version"),
            "Docker Engine": self.run("docker", "version", "--format", "{{.Server.Version}}"),
            "Compose": self.run("docker", "compose", "version", "--short"),
            "Python": python,
            "SQLite": sqlite,
        }


def attempt(row: Row, target: Target) -> Outcome:
    """Run all playbooks of one row. Raises TestbedError where it cannot be prepared."""
    began = time.monotonic()
    log = LOGS / f"matrix-{ROWS.index(row) + 1}.log"
    log.unlink(missing_ok=True)
    target.use_compose(row.compose)
    interpreter = target.use_python(row.python)
    if Controller("", "").play(target.testbed, "tests/testbed/deploy.yml", {"testbed_fresh": True}, log):
        raise TestbedError(f"{row.name}: Opstage could not be deployed; see {log}")
    controller = Controller(row.package, row.controller_python)
    facts = {**controller.facts(), **target.facts(interpreter)}
    failed = ""
    for playbook, variables, version in PLAYBOOKS:
        said = {**variables, "ansible_python_interpreter": interpreter}
        status = controller.play(target.testbed, f"playbooks/{playbook}.yml", said, log)
        served = served_version(f"http://{target.host.address}:8080")
        if status or served != version:
            failed = f"{playbook}: status {status}, {served or 'nothing'} serves, expected {version}; see {log.name}"
            break
    say(f"{row.name}: {failed or 'passed'} {facts}")
    return Outcome(row, facts, failed, time.monotonic() - began)


def table(outcomes: Sequence[Outcome]) -> list[Sequence[str]]:
    """A row for each combination."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.facts))
    rows: list[Sequence[str]] = [("combination", *names, "playbooks", "seconds")]
    for outcome in outcomes:
        facts = [outcome.facts.get(name, "") for name in names]
        result = f"failed: {outcome.failed}" if outcome.failed else f"{len(PLAYBOOKS)} passed"
        rows.append((outcome.row.name, *facts, result, f"{outcome.seconds:.0f}"))
    return rows


def document(outcomes: Sequence[Outcome], command: str) -> str:
    """The page for the documentation."""
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    return PAGE.format(
        command=command, today=today, old=OLD, new=NEW, table=as_markdown(table(outcomes), "---")
    ).lstrip()


PAGE = """
# Compatibility

What was run, not what is claimed: every line of this table is one run of

```
{command}
```

on {today}. On a host with its own systemd, sshd and Docker Engine, the playbooks back up an Opstage {old}, show its
status, upgrade it to {new}, roll it back, restore the newest recovery point, drill it, put it on a schedule and take it
off again. Each must end well, and the version that it should be must serve then.

{table}

The modules' core is tested on its own with Python 3.8 to 3.13 on the host and with SQLite from 3.31 on:
`python tests/tools/versions.py`.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="matrix.py", description="Run the playbooks in all supported combinations.")
    parser.add_argument("--only", action="append", choices=[row.name for row in ROWS], metavar="NAME", help="this row")
    parser.add_argument("--document", type=Path, metavar="FILE", help="write the page docs/compatibility.md to FILE")
    return parser.parse_args(arguments)


def matrix(options: argparse.Namespace) -> None:
    """Run the rows and report; the hosts are gone afterwards in any case. Raises TestbedError where a row fails."""
    LOGS.mkdir(parents=True, exist_ok=True)
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    outcomes: list[Outcome] = []
    for suite in dict.fromkeys(row.suite for row in rows):
        try:
            target = Target(suite)
            outcomes += [attempt(row, target) for row in rows if row.suite == suite]
        finally:
            down(f"{NAME}-{suite}")
    write(as_text(table(outcomes)))
    if options.document:
        command = shlex.join(["python", "tests/compatibility/matrix.py", *sys.argv[1:]])
        options.document.write_text(document(outcomes, command), encoding="utf-8")
    failed = [outcome.row.name for outcome in outcomes if outcome.failed]
    if failed:
        raise TestbedError(f"failed: {', '.join(failed)}")


def main() -> int:
    """Run the command line."""
    options = parse(sys.argv[1:])
    return run_program("matrix", lambda: matrix(options))


if __name__ == "__main__":
    raise SystemExit(main())
