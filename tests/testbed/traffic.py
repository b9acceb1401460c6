# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes to an Opstage at a steady rate, and watches it as a client does, while something is done to it.

``start`` leaves a process behind that goes on until ``stop``; ``check`` compares what was acknowledged with what is in
the database. Any of them can be called from Python as well. The state folder holds ``acknowledged.txt`` (one number a
line), ``summary.json`` after the stop, and the log.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from testbed.load import ACKNOWLEDGED, MODE, NUMBERED, SUMMARY, run_load
from testbed.process import TestbedError, end_recorded_process, record_process, recorded_process, say, wait_for
from testbed.reconcile import check_database, check_url

SECONDS_TO_START = 60
SECONDS_TO_STOP = 30
RECORD = "process.json"
LOG = "traffic.log"


def start(state: Path, url: str, rate: float = 200) -> None:
    """Start to write ``rate`` times a second and to watch. Returns once the first write was acknowledged.

    Raises TestbedError where traffic runs in ``state`` already, or no write is acknowledged within a minute.
    """
    state = state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    pid = recorded_process(state / RECORD)
    if pid is not None:
        raise TestbedError(f"traffic runs in {state} already (process {pid}); stop it first")
    for name in (ACKNOWLEDGED, MODE, SUMMARY, LOG):
        (state / name).unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), "run", "--state", str(state), "--url", url]
    with (state / LOG).open("ab") as log:
        process = subprocess.Popen(
            [*command, "--rate", str(rate)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    record_process(state / RECORD, process.pid)

    def writing() -> bool:
        if process.poll() is not None:
            raise TestbedError(f"traffic ended with status {process.returncode}; {last_line(state)}")
        acknowledged = state / ACKNOWLEDGED
        return acknowledged.exists() and acknowledged.stat().st_size > 0

    try:
        wait_for(writing, f"{url} acknowledges a write", seconds=SECONDS_TO_START, last_words=lambda: last_line(state))
    except TestbedError:
        process.kill()
        process.wait()
        raise


def stop(state: Path) -> dict[str, Any]:
    """End the traffic of ``state`` and return its summary.

    Raises TestbedError where there is none, or it ended on its own without a summary.
    """
    state = state.resolve()
    end_recorded_process(state / RECORD, seconds=SECONDS_TO_STOP, log=state / LOG)
    summary = state / SUMMARY
    if not summary.exists():
        raise TestbedError(f"no traffic was running in {state}: there is no {SUMMARY}; {last_line(state)}")
    content: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return content


def end_all(folder: Path) -> None:
    """End what traffic still runs in the state folders below `folder`. Raises TestbedError where it does not end."""
    for record in folder.glob(f"**/{RECORD}"):
        end_recorded_process(record, seconds=SECONDS_TO_STOP, log=record.with_name(LOG))


def check(state: Path, url: str | None = None, database: Path | None = None, rows_before: int = 0) -> dict[str, Any]:
    """Compare the acknowledged writes of ``state`` with the rows that a service or a database file has.

    Returns ``ok``, ``acknowledged``, ``missing``, ``reissued`` and ``unexpected``; see testbed.reconcile.
    Raises TestbedError where they cannot be read.
    """
    path = state / ACKNOWLEDGED
    if not path.exists():
        raise TestbedError(f"{path} is not there; run 'traffic.py start --state {state}' first")
    numbers = [int(line) for line in path.read_text(encoding="ascii").split()]
    if database is not None:
        numbered = (state / MODE).read_text(encoding="ascii") == NUMBERED
        return check_database(numbers, database, numbered, rows_before)
    if url is not None:
        return check_url(numbers, url)
    raise TestbedError("nothing to compare with: give a URL or a database file")


def last_line(state: Path) -> str:
    """The last line of the traffic's log, for an error message."""
    log = state / LOG
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return f"last line of {log}: {lines[-1] if lines else 'none'}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="traffic.py", description="Write to an Opstage and watch it.")
    commands = top.add_subparsers(dest="command", required=True)
    texts = {
        "start": "start in the background; returns once a write was acknowledged",
        "run": "the same in the foreground, until SIGTERM",
        "stop": "stop, and print the summary as JSON",
        "check": "compare what was acknowledged with what is there; status 1 where a write is lost",
    }
    subparsers = {name: commands.add_parser(name, help=text) for name, text in texts.items()}
    for command in subparsers.values():
        command.add_argument("--state", type=Path, required=True, metavar="FOLDER")
    for name in ("start", "run"):
        subparsers[name].add_argument("--url", required=True, help="such as http://192.0.2.10:8080")
        subparsers[name].add_argument("--rate", type=float, default=200, help="writes a second (200)")
    source = subparsers["check"].add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="ask the stand-in")
    source.add_argument("--database", type=Path, metavar="FILE", help="read a database that nobody writes to")
    subparsers["check"].add_argument(
        "--rows-before", type=int, default=0, help="rows of audit_events before the start (real image only)"
    )
    return top


def perform(options: argparse.Namespace) -> int:
    """Do what the command line says; the result is the exit status."""
    if options.command == "start":
        start(options.state, options.url, options.rate)
        return 0
    if options.command == "run":
        run_load(options.state, options.url, options.rate)
        return 0
    if options.command == "stop":
        result = stop(options.state)
    else:
        result = check(options.state, options.url, options.database, options.rows_before)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0 if result.get("ok", True) else 1


def main(arguments: list[str] | None = None) -> int:
    """Run a command; an error is one line on standard error and status 2."""
    try:
        return perform(parser().parse_args(arguments))
    except TestbedError as error:
        say(f"error: {error}")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
