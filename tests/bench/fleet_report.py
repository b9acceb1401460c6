# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fleet costs its controller: goals, tables, the page for the documentation, JSON."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from bench.database import MEGABYTE
from bench.fleet_hosts import BACKUP, STATUS, UPGRADE
from bench.fleet_runs import Run
from bench.goals import Goal
from bench.report import as_markdown, goal_rows

PING = "ping"
TIMES_PING = {STATUS: 2, BACKUP: 4, UPGRADE: 16}
MINUTES = 30
"""What a run may take before it is divided."""

MEASURES: dict[str, Callable[[Run], float]] = {
    "CPU": lambda run: run.cpu_seconds,
    "wall": lambda run: run.seconds,
}


@dataclass(frozen=True)
class Cell:
    """One simulated fleet: its hosts, and the forks of each of so many runs at once, each for a slice of them."""

    hosts: int
    forks: int
    slices: int = 1

    def limits(self, group: str) -> list[str]:
        """The patterns of the slices' hosts; Ansible counts from 0, and the last one is in it."""
        starts = [number * self.hosts // self.slices for number in range(self.slices + 1)]
        return [f"{group}[{start}:{end - 1}]" for start, end in itertools.pairwise(starts)]

    def __str__(self) -> str:
        return (
            f"{self.hosts} hosts, "
            + (f"{self.slices} slices at once, " if self.slices > 1 else "")
            + (f"{self.forks} forks" + (" each" if self.slices > 1 else ""))
        )


@dataclass
class Results:
    """All that was measured: facts, runs over SSH by hosts and playbook, simulated ones by cell and playbook."""

    facts: dict[str, str] = field(default_factory=dict)
    runs: dict[tuple[int, str], list[Run]] = field(default_factory=dict)
    simulated: dict[tuple[Cell, str], Run] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def per_host(self, hosts: int, playbook: str, measure: str) -> float | None:
        """The median of the seconds per host over SSH; None where none were measured."""
        found = [MEASURES[measure](run) / hosts for run in self.runs.get((hosts, playbook), [])]
        return statistics.median(found) if found else None

    def sizes(self) -> list[int]:
        """The numbers of hosts over SSH, the smallest first."""
        return sorted({hosts for hosts, _playbook in self.runs})

    def playbooks(self) -> list[str]:
        """What was run over SSH, in order."""
        return list(dict.fromkeys(playbook for _hosts, playbook in self.runs))


def goals(results: Results) -> Iterator[Goal]:
    """Per host at the most hosts: each playbook against a ping, and each against itself with the fewest hosts."""
    sizes = results.sizes()
    most = sizes[-1] if sizes else 0
    for measure in MEASURES:
        for playbook, limit in TIMES_PING.items():
            ours, ping = (results.per_host(most, name, measure) for name in (playbook, PING))
            yield compare(describe_goal(playbook, measure, sizes[-1:]), limit, "times a ping's", ours, ping)
    if len(sizes) < 2:
        return
    for measure in MEASURES:
        for playbook in TIMES_PING:
            few, many = (results.per_host(hosts, playbook, measure) for hosts in (sizes[0], most))
            title = describe_goal(playbook, measure, sizes[-1:])
            yield compare(title, 1, f"times that at {sizes[0]} hosts", many, few)


def describe_goal(playbook: str, measure: str, most: Sequence[int]) -> str:
    """What is measured, with the number of hosts where there is one."""
    return f"`{playbook}`, {measure} per host" + "".join(f" at {hosts} hosts" for hosts in most)


def compare(measure: str, limit: float, unit: str, ours: float | None, base: float | None) -> Goal:
    """A goal that is a ratio of two times in seconds, which are small."""
    if ours is None or not base:
        return Goal(measure, limit, unit, None)
    return Goal(measure, limit, unit, ours / base, f"{ours:.3f} s against {base:.3f} s")


def ssh_rows(results: Results) -> list[Sequence[str]]:
    """What a run over SSH costs per host."""
    rows: list[Sequence[str]] = [
        ("playbook", "hosts", "CPU, s/host", "times ping", "wall, s/host", "times ping", "memory, MB")
    ]
    for hosts in results.sizes():
        for playbook in results.playbooks():
            rows.append(
                (playbook, str(hosts), *ratios(results, hosts, playbook), memory(results.runs[hosts, playbook]))
            )
    return rows


def ratios(results: Results, hosts: int, playbook: str) -> Iterator[str]:
    """Seconds per host, and how many times a ping's, for each measure."""
    for measure in MEASURES:
        ours, ping = (results.per_host(hosts, name, measure) or 0.0 for name in (playbook, PING))
        yield f"{ours:.3f}"
        yield f"{ours / ping:.1f}" if ping else ""


def memory(runs: Sequence[Run]) -> str:
    """The most memory of the controller and its forks in any of these runs."""
    return f"{max(run.memory.resident for run in runs) / MEGABYTE:.0f}"


def simulated_rows(results: Results) -> list[Sequence[str]]:
    """What the simulated fleets cost."""
    rows: list[Sequence[str]] = [
        ("simulated", "playbook", "wall, s", "s/host", "cores busy", "private, MB", "resident, MB")
    ]
    for (cell, playbook), run in results.simulated.items():
        rows.append(
            (
                str(cell),
                playbook,
                f"{run.seconds:.0f}",
                f"{run.seconds / cell.hosts:.2f}",
                f"{run.cpu_seconds / run.seconds:.1f}",
                f"{run.memory.private / MEGABYTE:.0f}",
                f"{run.memory.resident / MEGABYTE:.0f}",
            )
        )
    return rows


def findings(results: Results) -> Iterator[str]:
    """What follows from the numbers, as sentences."""
    for playbook in (STATUS, BACKUP):
        runs = {cell: run for (cell, name), run in results.simulated.items() if name == playbook}
        yield from growth(playbook, runs)
    hosts = {playbook: hosts_in_time(results, playbook) for playbook in (STATUS, BACKUP)}
    for playbook, most in hosts.items():
        if most:
            yield f"At this pace one run of `{playbook}` does {most} hosts in {MINUTES} minutes."
    for name, reason in results.absent.items():
        yield f"Not measured: {name}: {reason}"


def growth(playbook: str, runs: dict[Cell, Run]) -> Iterator[str]:
    """How memory grows with hosts and with forks, and what slices on one machine are good for."""
    for one, other in pairs(runs):
        more = runs[other].memory.private - runs[one].memory.private
        if (one.forks, one.slices) == (other.forks, other.slices):
            per_host = more / (other.hosts - one.hosts) / 1000
            yield f"`{playbook}`: from {one.hosts} to {other.hosts} hosts {per_host:.0f} kB of memory more per host."
        elif (one.hosts, one.slices) == (other.hosts, other.slices):
            per_fork = more / (other.forks - one.forks) / MEGABYTE
            ratio = runs[other].seconds / runs[one].seconds
            yield (
                f"`{playbook}`, {one.hosts} hosts: {other.forks} forks take {ratio:.2f} times as long as {one.forks}, "
                f"and {per_fork:.1f} MB of memory per fork more."
            )
        elif one.hosts == other.hosts and one.forks * one.slices == other.forks * other.slices:
            ratio = runs[other].seconds / runs[one].seconds
            yield (
                f"`{playbook}`, {one.hosts} hosts: {other.slices} slices at once on this machine, with the same forks "
                f"in all, take {ratio:.2f} times as long as one run."
            )


def pairs(runs: dict[Cell, Run]) -> Iterator[tuple[Cell, Cell]]:
    """All pairs of cells, the one with fewer slices, hosts and forks first."""
    cells = sorted(runs, key=lambda cell: (cell.slices, cell.hosts, cell.forks))
    for number, one in enumerate(cells):
        for other in cells[number + 1 :]:
            yield one, other


def hosts_in_time(results: Results, playbook: str) -> int | None:
    """How many hosts one run does in MINUTES, to two digits, by the largest simulated fleet; None for unknown."""
    found = [(cell, run) for (cell, name), run in results.simulated.items() if name == playbook and cell.slices == 1]
    if not found:
        return None
    cell, run = max(found, key=lambda pair: pair[0].hosts)
    most = MINUTES * 60 * cell.hosts / run.seconds
    return int(float(f"{most:.2g}"))


def document(results: Results, command: str) -> str:
    """The page for the documentation."""
    facts = [f"- {name}: {value}" for name, value in results.facts.items()]
    most = hosts_in_time(results, BACKUP)
    said = f"On this machine that is from about {most} hosts on" if most else "How many hosts that is was not measured"
    parts = (
        "# A fleet and its controller",
        INTRODUCTION.format(command=command).strip(),
        "\n".join(facts),
        "## Goals",
        as_markdown(goal_rows(goals(results)), "---"),
        "## Over SSH",
        SSH.strip(),
        as_markdown(ssh_rows(results)),
        "## Simulated",
        SIMULATED.strip(),
        as_markdown(simulated_rows(results)),
        "\n".join(f"- {line}" for line in findings(results)),
        SETTINGS.strip(),
        SLICES.format(minutes=MINUTES, said=said).strip(),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


INTRODUCTION = """
What a run over many hosts costs the controller, and from which size on to divide it. Every number on this page was
made by one run of

```
{command}
```

which writes this page. Trust the ratios: another machine has other seconds.
"""

SSH = """
Real hosts with an Opstage each, on the same machine as their controller, whose cores they share: so the seconds of CPU,
which are those of `ansible-playbook`, its forks and `ssh` alone, say more than those on the wall. Each run makes its
own connections and finds Python on the hosts. `ping` is a play of the one task `ansible.builtin.ping`. The upgrade
rehearses, and is in one wave; only its first round pulls the image. Figures are medians, memory the peak of
`ansible-playbook` and its forks.
"""

SIMULATED = """
Local connections, each host with data of its own and what a Docker Engine once said. The modules run on the controller
as well and are in the seconds, not in the memory: that is of `ansible-playbook` and its forks, where what they share
counts once; private is what is no mapped file. No host has to be asked for its Python.
"""

SETTINGS = """
## Settings that count

In the `ansible.cfg` of the controller; the collection's playbooks gather no facts.

```
[defaults]
forks = 20

[ssh_connection]
pipelining = true
ssh_args = -o ControlMaster=auto -o ControlPersist=10m
```

- `forks`: Ansible's own are 5. A fork works on the controller for a part of each task and waits for the host in the
  rest: use more the farther and the slower the hosts are. Once the controller's cores are busy, more only take memory.
- `pipelining`: a module goes through the connection that runs it. Without it each task makes a folder, copies and
  removes: several times the round trips. `requiretty` in a host's sudoers prevents it.
- `ControlPersist`: one connection for all tasks of a host. Let it outlast the longest task, or the wait for the next
  turn of a host where there are more hosts than forks.
- `ansible_python_interpreter: /usr/bin/python3` as a variable of the group saves each host one round trip in each run.
"""

SLICES = """
## AWX and ansible-runner

One `ansible-playbook` begins a task on all hosts before the next one, and collects every result in one process. Divide
the fleet where a run of a whole takes longer than you would wait, here {minutes} minutes. {said}. Slices
on one machine share its cores; more controllers are what makes them fast.

- AWX: set *Job slicing* of the job template to the number of slices, at most one for each node that runs jobs, and
  *Forks* as above. AWX starts a workflow of so many jobs, each with a part of the inventory, and a job that fails does
  not end the others.
- ansible-runner: one run for each slice, with a limit of its own. Ansible counts from 0, and both ends belong to it:

  ```
  ansible-runner run fleet -p capsule.opstage.backup --ident backup-1 --forks 20 --limit 'opstage[0:499]'
  ansible-runner run fleet -p capsule.opstage.backup --ident backup-2 --forks 20 --limit 'opstage[500:999]'
  ```

`backup.yml`, `schedule.yml` and `drill.yml` may be sliced: their hosts have nothing to do with each other
(`opstage_drill_sample` is then of each slice). `status.yml` makes one report for each slice, and does not see that a
tag is another image in another slice: give each slice files of its own. Do not slice `upgrade.yml`: each slice would
have a canary and a limit of failures of its own; `opstage_serial` keeps its waves small instead. Backups need no
controller at all where `schedule.yml` has set up the hosts' own timer.
"""


def as_json(results: Results) -> str:
    """Everything that was measured, for programs."""
    content = {
        "facts": results.facts,
        "ssh": [
            {"hosts": hosts, "playbook": playbook, "runs": [asdict(run) for run in runs]}
            for (hosts, playbook), runs in results.runs.items()
        ],
        "simulated": [
            {**asdict(cell), "playbook": playbook, **asdict(run)} for (cell, playbook), run in results.simulated.items()
        ],
        "goals": [{**asdict(goal), "verdict": goal.reached} for goal in goals(results)],
        "absent": results.absent,
    }
    return json.dumps(content, indent=2, allow_nan=False)
