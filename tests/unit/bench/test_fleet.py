# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fleet's bench measures with: its runs, its simulated hosts, its slices and its verdicts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_api import ServiceStatus, get_service_status
from bench import fleet_hosts, fleet_runs, fleet_simulation
from bench.database import MEGABYTE
from bench.fleet import cells
from bench.fleet_hosts import BACKUP, STATUS, UPGRADE
from bench.fleet_report import PING, Cell, Results, document, findings, goals, hosts_in_time
from bench.fleet_runs import Run, measure
from bench.fleet_simulation import ANSWERS, Simulation, answering, state_folder
from bench.memory import Memory
from sqlite_testing import wait_until
from testbed.process import TestbedError, start_ticks

BURN = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid()))\nwhile time.process_time() < 0.4: pass"
HOLD = """
import os, subprocess, sys, time
held = b'x' * 40_000_000
program = subprocess.Popen([sys.executable, '-c', "import time; held = b'z' * 200_000_000; time.sleep(2)"])
if not os.fork():
    mine = b'y' * 20_000_000
time.sleep(1.5)
"""


def run(seconds: float, cpu_seconds: float = 1.0, megabytes: int = 100) -> Run:
    return Run(seconds, cpu_seconds, Memory(megabytes * MEGABYTE, megabytes * MEGABYTE))


def test_what_a_run_leaves_behind_is_counted_and_ended(tmp_path: Path) -> None:
    burn = f"{BURN}\nopen(sys.argv[1] + '.burnt', 'w')\ntime.sleep(600)"
    script = '"$0" -c "$1" "$2" & until [ -e "$2.burnt" ]; do sleep 0.05; done'
    command = ["sh", "-c", script, sys.executable, burn, str(tmp_path / "pid")]
    found = measure([command], tmp_path, tmp_path / "log")
    assert found.cpu_seconds > 0.4
    assert 0.4 < found.seconds < 60
    assert start_ticks(int((tmp_path / "pid").read_text())) is None


def test_memory_of_forks_counts_and_that_of_other_programs_does_not(tmp_path: Path) -> None:
    found = measure([[sys.executable, "-c", HOLD]], tmp_path, tmp_path / "log")
    assert 60 * MEGABYTE < found.memory.private < 120 * MEGABYTE


def test_runs_at_once_are_measured_together(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", BURN, str(tmp_path / name)] for name in ("one", "other")]
    assert measure(commands, tmp_path, tmp_path / "log").cpu_seconds > 0.8


def test_a_run_that_fails_is_known_by_its_last_words(tmp_path: Path) -> None:
    commands = [["true"], [sys.executable, "-c", "raise SystemExit('host unreachable')"]]
    with pytest.raises(TestbedError, match="host unreachable"):
        measure(commands, tmp_path, tmp_path / "log")


def test_a_run_that_is_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", BURN + "\ntime.sleep(600)", str(tmp_path / "pid")]
    command = ["sh", "-c", 'setsid "$@" & wait', "sh", *sleep]
    watcher = subprocess.Popen([sys.executable, fleet_runs.__file__, str(tmp_path / "log"), json.dumps([command])])
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(timeout=60) == 130
    assert start_ticks(int((tmp_path / "pid").read_text())) is None


def test_a_simulated_host_has_a_docker_that_knows_its_own_deployment_and_nothing_else(tmp_path: Path) -> None:
    simulation = Simulation(tmp_path, "http://127.0.0.1:4321")
    simulation.make(2)
    hosts = json.loads(simulation.inventory.read_text())["opstage"]["hosts"]
    assert list(hosts) == ["simulated-0001", "simulated-0002"]
    ask = "import subprocess, sys; sys.exit(subprocess.call(['docker', *sys.argv[1:]]))"
    for name, variables in hosts.items():
        python = [variables["ansible_python_interpreter"], "-c", ask]
        answer = subprocess.run([*python, "container", "inspect", "any"], capture_output=True, check=True).stdout
        (container,) = json.loads(answer)
        assert container["Config"]["Labels"]["com.docker.compose.project"] == name
        assert Path(container["Mounts"][0]["Source"]).joinpath("opstage.db").is_file()
        assert {port["HostPort"] for port in container["NetworkSettings"]["Ports"]["8080/tcp"]} == {"4321"}
        refused = subprocess.run([*python, "compose", "up"], capture_output=True, check=False)
        assert refused.returncode == 1
        assert b"Nothing was recorded" in refused.stderr


def test_the_simulated_opstage_answers() -> None:
    with answering(ANSWERS) as url:
        assert get_service_status(url) == ServiceStatus(status="UP", version="0.2.0", edition="ce")


@pytest.mark.parametrize("is_there", [True, False])
def test_the_folder_for_the_state_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    monkeypatch.setattr(fleet_simulation, "STATE", tmp_path / "state")
    if is_there:
        (tmp_path / "state").mkdir()
    with state_folder():
        assert (tmp_path / "state").is_dir()
    assert (tmp_path / "state").exists() == is_there


@pytest.mark.parametrize("hosts", [1, 4, 10, 1000])
def test_each_host_is_in_one_slice(hosts: int) -> None:
    for cell in cells([hosts], 20):
        ranges = [limit.removeprefix("opstage[").removesuffix("]").split(":") for limit in cell.limits("opstage")]
        assert len(ranges) == cell.slices
        assert [host for first, last in ranges for host in range(int(first), int(last) + 1)] == list(range(hosts))


def test_playbooks_are_judged_per_host_against_a_ping_and_against_fewer_hosts() -> None:
    results = Results()
    for hosts, ping, status in ((5, 2.0, 3.0), (20, 4.0, 8.0)):
        results.runs[hosts, PING] = [run(ping, ping)]
        results.runs[hosts, STATUS] = [run(99.0, 99.0), run(status, status), run(0.1, 0.1)]
    results.runs[20, BACKUP] = [run(16.5, 15.0)]
    results.runs[5, BACKUP] = [run(4.0, 4.0)]
    verdicts = {(goal.measure, goal.unit): goal.reached for goal in goals(results)}
    assert verdicts["`status.yml`, CPU per host at 20 hosts", "times a ping's"] == "reached"
    assert verdicts["`backup.yml`, CPU per host at 20 hosts", "times a ping's"] == "reached"
    assert verdicts["`backup.yml`, wall per host at 20 hosts", "times a ping's"] == "NOT reached"
    assert verdicts["`backup.yml`, CPU per host at 20 hosts", "times that at 5 hosts"] == "reached"
    assert verdicts["`backup.yml`, wall per host at 20 hosts", "times that at 5 hosts"] == "NOT reached"
    assert verdicts[f"`{UPGRADE}`, CPU per host at 20 hosts", "times a ping's"] == "not measured"


def test_without_runs_over_ssh_no_goal_is_judged() -> None:
    assert {goal.reached for goal in goals(Results())} == {"not measured"}
    assert "`status.yml`, CPU per host" in {goal.measure for goal in goals(Results())}


def test_what_hosts_forks_and_slices_cost_is_said() -> None:
    results = Results()
    results.simulated[Cell(100, 5), BACKUP] = run(100.0, megabytes=100)
    results.simulated[Cell(100, 20), BACKUP] = run(50.0, megabytes=130)
    results.simulated[Cell(100, 5, 4), BACKUP] = run(60.0, megabytes=400)
    results.simulated[Cell(1000, 20), BACKUP] = run(600.0, megabytes=220)
    assert hosts_in_time(results, BACKUP) == 3000
    assert hosts_in_time(results, STATUS) is None
    said = "\n".join(findings(results))
    assert "from 100 to 1000 hosts 100 kB of memory more per host" in said
    assert "20 forks take 0.50 times as long as 5, and 2.0 MB of memory per fork more" in said
    assert "4 slices at once on this machine, with the same forks in all, take 1.20 times as long as one run" in said
    assert "does 3000 hosts in 30 minutes" in said


def test_the_page_shows_every_run_and_the_command_that_made_it() -> None:
    results = Results(absent={"simulation": "no mounts"})
    results.runs[5, PING] = [run(1.0)]
    results.simulated[Cell(10, 5), STATUS] = run(7.0)
    page = document(results, "make bench BENCH_FLEET='--rounds 1'")
    assert "make bench BENCH_FLEET='--rounds 1'" in page
    assert "| ping | 5 | 0.200 | 1.0 | 0.200 | 1.0 | 100 |" in page
    assert "| 10 hosts, 5 forks | status.yml | 7 | 0.70 | 0.1 | 100 | 100 |" in page
    assert "Not measured: simulation: no mounts" in page
    assert "How many hosts that is was not measured" in page


@pytest.mark.parametrize("was_there", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_hosts_are_removed_and_a_testbed_that_others_use_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, was_there: bool, fails: bool
) -> None:
    done: list[str] = []

    def up(name: str, count: int, version: str) -> None:
        done.append(f"up {name} {count} {version}")
        if fails:
            raise TestbedError("too little disk")

    monkeypatch.setattr(fleet_hosts, "answers", lambda: was_there)
    monkeypatch.setattr(fleet_hosts, "exists", lambda kind, name: True)
    monkeypatch.setattr(fleet_hosts, "up", up)
    monkeypatch.setattr(fleet_hosts, "run_logged", lambda command, log: done.append("deploy"))
    monkeypatch.setattr(fleet_hosts, "down", lambda name: done.append(f"down {name}"))
    monkeypatch.setattr(fleet_hosts, "stop", lambda: done.append("stop"))
    with suppress(TestbedError), fleet_hosts.real_hosts(3):
        done.append("block")
    assert done == [
        "up fleet 3 0.2.0",
        *([] if fails else ["deploy", "block"]),
        "down fleet",
        *([] if was_there else ["stop"]),
    ]
