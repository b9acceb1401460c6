# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut operations off at every task and at random moments, let another playbook run, and count what was lost.

    interruptions.py                        the whole campaign
    interruptions.py --one-in 8             an eighth of it
    interruptions.py --kind connection      a cut of the SSH connection at every task, and at random moments
    interruptions.py --only upgrade:7       one trial, as it is listed; a task can be given by a part of its name, too
    interruptions.py --only 'upgrade:Switch | Stop~1.2s'
                                            1.2 s after that task of it began
    interruptions.py --only registry/upgrade:7
                                            the registry is out of reach from that task on, and the upgrade goes on
    interruptions.py --only host/restore:3.5s+registry+always
                                            the host restarted 3.5 s after the start, under `restart: always`; then its
                                            registry is out of reach

On hosts of the testbed, under a writer of 200 acknowledged writes a second. After each cut the backup playbook runs,
which must find what was cut off and bring it to its end. A restore onto an empty host has no writer, and is run again
itself. Exit status 0 when nothing was lost, 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import queue
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from campaign import interruption_report as report
from campaign.interruption_place import (
    FAILED,
    NAME,
    NEW,
    OLD,
    PLAYBOOKS,
    UNREACHABLE,
    Place,
    acknowledged,
    end_of,
)
from campaign.interruption_trials import (
    BACKUP,
    CONNECTION,
    CONTROLLER,
    CREATE,
    HOST,
    KINDS,
    OPERATIONS,
    REGISTRY,
    RESTORE,
    ROLLBACK,
    SEED,
    TAG,
    UPGRADE,
    Course,
    Trial,
    trial_of,
    whole_campaign,
)
from testbed.command import down, up
from testbed.process import TestbedError, say
from testbed.reconcile import check_url

DROPPING = (RESTORE, ROLLBACK)
"""What was written since their recovery point is dropped by these, as they say."""
STEP_BACK = 100
"""The writers' numbers come in this much disorder where nothing was dropped."""

ENDINGS = {
    CONTROLLER: (-signal.SIGKILL,),
    # Where the host is gone, ansible-playbook may see that before it is killed.
    HOST: (-signal.SIGKILL, UNREACHABLE),
    CONNECTION: (UNREACHABLE,),
    REGISTRY: (FAILED,),
    TAG: (FAILED,),
}
"""With which status an operation ends that is cut off so, where it does not end well."""


def course_of(place: Place, operation: str) -> Course:
    """The operation when it is not disturbed."""
    place.put_back(operation)
    began = time.monotonic()
    place.must(operation, place.variables[operation])
    seconds, tasks = time.monotonic() - began, place.tasks()
    return Course([task for _at, task in tasks], seconds, [at - began for at, _task in tasks])


def attempt(place: Place, trial: Trial) -> None:
    """Make one trial, and note in it what came of it."""
    kept = place.put_back(trial.operation)
    if trial.always:
        place.start_always()
    if trial.operation == CREATE:
        cut_off_and_go_on(place, trial, CREATE, place.variables[CREATE])
        judge(place, trial, kept, [])
        judge_created(place, trial)
        return
    with place.writer() as state:
        cut_off_and_go_on(place, trial, BACKUP, {})
    judge(place, trial, kept, acknowledged(state))


def cut_off_and_go_on(place: Place, trial: Trial, playbook: str, variables: dict[str, Any]) -> None:
    """Cut the trial's operation off, and run the playbook that comes next."""
    cut_off(place, trial)
    with place.without_registry() if trial.registry_down else contextlib.nullcontext():
        status = end_of(place.playbook(playbook, variables))
    if status:
        trial.flaws.append(f"the next run ended with status {status}")


def cut_off(place: Place, trial: Trial) -> None:
    """Begin the operation and cut it off."""
    if isinstance(trial.moment, str):
        process = place.playbook(trial.operation, place.variables[trial.operation], halt_at=trial.moment)
        if not place.wait_for_halt(process):
            trial.flaws.append("it was not cut off: there is no such task")
        elif trial.delay:
            process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=trial.delay)
    else:
        process = place.playbook(trial.operation, place.variables[trial.operation])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=trial.moment)
    status = place.cut(process, trial.kind)
    trial.task = (place.tasks() or [(0.0, "none yet")])[-1][1]
    if status != 0 and status not in ENDINGS[trial.kind]:
        trial.flaws.append(f"it ended with status {status}, not by the cut")


def judge(place: Place, trial: Trial, kept: Sequence[int], numbers: Sequence[int]) -> None:
    """Compare what is there with what must be there.

    ``kept`` are the writes that were acknowledged before the starting point, ``numbers`` those since, as they came.
    """
    entries = place.journal()
    ends = [entry for entry in entries if entry["status"] in ("finished", "failed")]
    own = [entry for entry in ends if entry["operation"] == PLAYBOOKS.get(trial.operation, trial.operation)]
    if trial.operation == CREATE:
        # The next run was another one.
        del own[-1:]
    trial.outcome = own[-1]["status"] if own else "not begun"
    trial.acknowledged = len(numbers)
    if {entry["run"] for entry in entries} != {entry["run"] for entry in ends}:
        trial.flaws.append("the journal has an operation without an end")
    if place.is_locked():
        trial.flaws.append("the lock was left behind")
    version, pinned = place.version(), place.pinned()
    expected = NEW if (trial.operation, trial.outcome == "finished") in ((UPGRADE, True), (ROLLBACK, False)) else OLD
    if (version, pinned) != (expected, expected):
        trial.flaws.append(f"serves {version!r}, pinned is {pinned}, expected is {expected}: {trial.outcome}")
    if version:
        wanted = [*kept, *not_dropped(trial, numbers)]
        trial.lost = lost(wanted, check_url([*kept, *numbers], place.url)["missing"])
        dropped = numbers[: len(kept) + len(numbers) - len(wanted)]
        if dropped:
            trial.lost += lost(dropped, set(dropped) - place.writes_in(own[-1]["present"]))


def judge_created(place: Place, trial: Trial) -> None:
    """Compare what was restored onto an empty host with the recovery point."""
    differ, staged = place.tables_that_differ(), place.staged()
    if differ:
        trial.flaws.append(f"not as in the recovery point: {', '.join(differ)}")
    if staged:
        trial.flaws.append(f"left behind: {', '.join(staged)}")


def not_dropped(trial: Trial, numbers: Sequence[int]) -> Sequence[int]:
    """Those of the acknowledged writes that must be there: after a restore those since it, otherwise all.

    With the older database the service goes on from an older number. What came before is dropped, and must be in the
    recovery point that the restore made of what was there.
    """
    if trial.operation not in DROPPING or trial.outcome != "finished":
        return numbers
    pairs = enumerate(itertools.pairwise(numbers), 1)
    step, place = max(((before - after, place) for place, (before, after) in pairs), default=(0, 0))
    return numbers[place:] if step > STEP_BACK else []


def lost(wanted: Sequence[int], missing: Collection[int]) -> int:
    """How many of these writes are gone. One whose number was given to another is gone, too."""
    present = set(wanted) - set(missing)
    return len(wanted) - len(present)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="interruptions.py", description="Cut operations off and count what was lost.")
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="these only")
    parser.add_argument("--kind", action="append", choices=KINDS, help="these cuts only, at every task of all")
    parser.add_argument("--one-in", type=int, default=1, metavar="N", help="a part of it")
    parser.add_argument("--random-only", action="store_true", help="the random moments only")
    parser.add_argument("--only", action="append", metavar="KEY", help="this trial")
    parser.add_argument("--hosts", type=int, default=2, metavar="N", help="on so many at once, 2 where nothing is said")
    parser.add_argument("--document", type=Path, metavar="FILE", help="write the page docs/interruptions.md to FILE")
    return parser.parse_args(arguments)


def interrupt(_number: int, _frame: object) -> None:
    """A signal that asks to end is as if a person had pressed Ctrl-C."""
    raise KeyboardInterrupt


def campaign(options: argparse.Namespace, names: Sequence[str]) -> tuple[list[Trial], dict[str, str]]:
    """Make all the trials, each on one of the testbeds ``names``. Returns them, and what they were made with.

    Raises TestbedError where nothing goes.
    """
    began, start = time.monotonic(), datetime.now(UTC)
    places = [Place(name) for name in names]
    if options.only:
        trials = [trial_of(key) for key in options.only]
    else:
        courses = {operation: course_of(places[0], operation) for operation in options.operation or OPERATIONS}
        trials = whole_campaign(courses, options.kind or (), options.one_in, options.random_only)
    make(trials, places)
    facts = {
        "when": f"{start:%Y-%m-%d}, {(time.monotonic() - began) / 60:.0f} minutes, on {len(places)} hosts at once",
        "seed of the random moments": f"{SEED}",
        **report.machine(),
        **places[0].versions(),
    }
    return trials, facts


def make(trials: Sequence[Trial], places: Sequence[Place]) -> None:
    """Make these trials in order, as many at once as there are places."""
    free: queue.SimpleQueue[Place] = queue.SimpleQueue()
    for place in places:
        free.put(place)

    def make_one(numbered: tuple[int, Trial]) -> None:
        number, trial = numbered
        place = free.get()
        try:
            attempt(place, trial)
        except TestbedError as error:
            trial.flaws.append(f"the trial broke off: {error}")
        finally:
            free.put(place)
        say(f"{number} of {len(trials)}: {trial.key}: {trial.outcome}, {trial.lost} lost {' '.join(trial.flaws)}")

    pool = ThreadPoolExecutor(len(places))
    try:
        list(pool.map(make_one, enumerate(trials, 1)))
    finally:
        # Whoever interrupts this takes the hosts away, by which what still runs ends.
        pool.shutdown(wait=False, cancel_futures=True)


def main() -> int:
    """Run the command line; the host is gone afterwards in any case."""
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, interrupt)
    names = [f"{NAME}-{number}" for number in range(1, options.hosts + 1)]
    try:
        for name in names:
            up(name, 1, OLD)
        trials, facts = campaign(options, names)
    except TestbedError as error:
        say(f"error: {error}")
        return 1
    finally:
        for name in names:
            down(name)
    sys.stdout.write(report.text(trials) + f"\nseed of the random moments: {SEED}\n")
    if options.document:
        command = shlex.join(["python", "tests/campaign/interruptions.py", *sys.argv[1:]])
        options.document.write_text(report.document(trials, facts, command), encoding="utf-8")
    return int(any(trial.lost or trial.flaws for trial in trials))


if __name__ == "__main__":
    raise SystemExit(main())
