# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures what the playbooks cost their controller: ``make bench``.

Over SSH, on hosts of the testbed, in seconds and seconds of CPU for each host, against a play of one ping; and memory
and time for very many simulated hosts. What it makes, hosts too, is gone at the end, also when it is interrupted.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import fleet_report, report
from bench.bench import private_folder
from bench.database import MEGABYTE
from bench.fleet_hosts import BACKUP, ROLLBACK, STATUS, UPGRADE, playbook, real_hosts
from bench.fleet_report import PING, Cell, Results, goals
from bench.fleet_runs import Run, measure
from bench.fleet_simulation import GROUP, is_possible, simulated
from bench.program import run_program, write
from testbed.machine import CHECKOUT, require_space
from testbed.process import run

SSH, SIMULATION = "ssh", "simulation"
PARTS = (SSH, SIMULATION)
HOSTS = (5, 20)
SIMULATED_HOSTS = (100, 1000)
ROUNDS = 3
FORKS = 20
DEFAULT_FORKS = 5
"""Ansible's own."""
SLICES = 4
BYTES_PER_HOST = 1_500_000
"""Room asked for: what a simulated host with its state and its recovery point takes."""
OVER_SSH = (PING, BACKUP, STATUS, UPGRADE, ROLLBACK)
"""In an order in which each finds what it needs, and after which the hosts are as before."""

PING_PLAY = """
- name: Ping
  hosts: {group}
  become: true
  gather_facts: false
  tasks:
    - name: Ping
      ansible.builtin.ping:
"""


class Session:
    """What one run of the program does, in order."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.parts: set[str] = set(options.only or PARTS)
        self.started = time.monotonic()
        self.results = Results()
        self.log = folder / "log"
        self.ping = folder / "ping.yml"

    def say(self, text: str) -> None:
        """Write a line at once, with the seconds since the start."""
        write(f"[{time.monotonic() - self.started:5.0f} s] {text}")

    def measure(self) -> Results:
        """Measure what was asked for."""
        self.results.facts.update(facts(self.options))
        self.ping.write_text(PING_PLAY.format(group=GROUP).lstrip(), encoding="utf-8")
        if SSH in self.parts:
            self.measure_over_ssh()
        if SIMULATION in self.parts:
            self.measure_simulated()
        self.results.facts["took"] = f"{time.monotonic() - self.started:.0f} s"
        return self.results

    def measure_over_ssh(self) -> None:
        """All playbooks by turns, with few hosts and with all."""
        self.say(f"make {max(self.options.hosts)} hosts")
        with real_hosts(max(self.options.hosts)) as inventory:
            for number in range(self.options.rounds):
                for hosts in self.options.hosts:
                    for name in OVER_SSH:
                        command = playbook(inventory, self.path(name), self.options.forks, f"{GROUP}[0:{hosts - 1}]")
                        found = self.run_at_once([command])
                        self.results.runs.setdefault((hosts, name), []).append(found)
                        self.say(f"round {number + 1}, {hosts} hosts, {name}: {describe(found)}")

    def measure_simulated(self) -> None:
        """The fleets one after the other, each made anew."""
        if not is_possible():
            self.results.absent["simulation"] = "this process may not have mounts of its own (unshare --mount), as root"
            return
        for cell in cells(self.options.simulated, self.options.forks):
            self.say(f"make {cell.hosts} simulated hosts")
            with simulated(self.folder / "simulated", cell.hosts) as simulation:
                for name in (BACKUP, STATUS):
                    commands = [
                        simulation.command(playbook(simulation.inventory, self.path(name), cell.forks, limit))
                        for limit in cell.limits(GROUP)
                    ]
                    found = self.run_at_once(commands)
                    self.results.simulated[(cell, name)] = found
                    self.say(f"{cell}, {name}: {describe(found)}")

    def path(self, name: str) -> Path:
        """Where a playbook lies."""
        return self.ping if name == PING else CHECKOUT / "playbooks" / name

    def run_at_once(self, commands: Sequence[Sequence[str]]) -> Run:
        """Run playbooks at the same time, and measure all together. Raises TestbedError where one ends red."""
        self.log.unlink(missing_ok=True)
        return measure(commands, CHECKOUT, self.log)


def cells(sizes: Sequence[int], forks: int) -> list[Cell]:
    """The simulated fleets: a small one with Ansible's forks, with those asked for, and in slices; then larger ones."""
    few, *others = sorted(sizes)
    small = [Cell(few, DEFAULT_FORKS), Cell(few, forks), Cell(few, max(1, forks // SLICES), min(few, SLICES))]
    return list(dict.fromkeys([*small, *(Cell(hosts, forks) for hosts in others)]))


def describe(found: Run) -> str:
    """One run in short."""
    resident = found.memory.resident / MEGABYTE
    return f"{found.seconds:.1f} s, {found.cpu_seconds:.1f} s of CPU, {resident:.0f} MB"


def facts(options: argparse.Namespace) -> dict[str, str]:
    """What the numbers depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    ansible = run([str(CHECKOUT / ".venv" / "bin" / "ansible-playbook"), "--version"]).splitlines()
    return {
        "controller": f"{os.cpu_count()} cores, {memory:.0f} GiB, {run(['uname', '-sr'])}",
        "Ansible": f"{ansible[0].partition('[')[2].rstrip(']')}, Python {sys.version.split()[0]}",
        "forks": f"{options.forks}",
        "rounds": f"{options.rounds} over SSH, 1 simulated",
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="fleet.py", description="Measure what a fleet costs its controller.")

    def numbers(text: str) -> list[int]:
        return sorted({int(number) for number in text.split(",")})

    parser.add_argument("--rounds", type=int, default=ROUNDS, help="over SSH (%(default)s)")
    parser.add_argument("--forks", type=int, default=FORKS, help="of ansible-playbook (%(default)s)")
    for name, sizes, what in (("hosts", HOSTS, "over SSH"), ("simulated", SIMULATED_HOSTS, "simulated")):
        text = f"numbers of hosts {what} ({','.join(map(str, sizes))})"
        parser.add_argument(f"--{name}", type=numbers, default=list(sizes), metavar="N,N", help=text)
    parser.add_argument("--only", action="append", choices=PARTS, help="this part only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    parser.add_argument("--document", type=Path, metavar="FILE", help="write the page docs/fleet.md to FILE")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.forks, *options.hosts, *options.simulated) < 1:
        parser.error("numbers begin at 1")
    return options


def bench(options: argparse.Namespace) -> None:
    """Measure and report."""
    with private_folder([0], ()) as folder:
        require_space(folder, max(options.simulated) * BYTES_PER_HOST)
        results = Session(folder, options).measure()
    tables = {"Over SSH": fleet_report.ssh_rows(results), "Simulated": fleet_report.simulated_rows(results)}
    for title, rows in tables.items():
        if len(rows) > 1:
            write(f"\n{title}\n{report.as_text(rows)}")
    write("\n" + "\n".join([*fleet_report.findings(results), "", *map(str, goals(results))]))
    if options.json:
        options.json.write_text(fleet_report.as_json(results) + "\n", encoding="utf-8")
    if options.document:
        command = f"make bench BENCH_FLEET={shlex.quote(shlex.join(sys.argv[1:]))}"
        options.document.write_text(fleet_report.document(results, command), encoding="utf-8")


def main() -> int:
    """Run the command line."""
    options = parse(sys.argv[1:])
    return run_program("fleet", lambda: bench(options))


if __name__ == "__main__":
    sys.exit(main())
