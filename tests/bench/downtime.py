# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a client is without service while Opstage goes from one version to the next: by hand, and by playbook."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.downtime_host import BenchHost, bench_host
from bench.goals import Goal
from bench.results import Results, describe_size
from testbed.demo import TO
from testbed.load import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Prober, deadlines, outages
from testbed.process import wait_for

PART = "downtime"
SIZES = (1, 100, 1000)
PROBES_PER_SECOND = 20
SECONDS_AROUND = 1.0
"""How long the service is watched before an upgrade, and after the new version answered."""
SECONDS_TO_ANSWER = 120
SECONDS_BEYOND_PLAIN = 1.0

PLAIN = "up -d"
BY_HAND = "stop, copy, pull, up -d"
PLAYBOOK = "upgrade.yml"
OWN_CLOCK = "upgrade.yml, by its own clock"
WAYS = (PLAIN, BY_HAND, PLAYBOOK)

DESCRIPTIONS = {
    PLAIN: "the tag is changed in the project's file, then `docker compose up -d`: nothing is kept to go back to",
    BY_HAND: "the documented procedure: `docker compose stop`, `cp` of database and log and `sync` of the copies, the "
    "tag changed, `docker compose pull`, `docker compose up -d`",
    PLAYBOOK: "`playbooks/upgrade.yml` of this collection with its defaults, run from another machine by SSH",
}


class Client(Prober):
    """Asks as often as the goal says; each of its requests is a new connection."""

    def run(self) -> None:
        """Ask until ``stopped``."""
        with ThreadPoolExecutor(max_workers=int((CONNECT_TIMEOUT + ANSWER_TIMEOUT) * PROBES_PER_SECOND)) as pool:
            for _moment in deadlines(PROBES_PER_SECOND, self.stopped):
                pool.submit(self.probe)

    def sees(self, version: str) -> bool:
        """Whether the newest answer is that version's."""
        return bool(self.successes) and max(self.successes)[1] == version


def measure_downtime(results: Results, sizes: Sequence[int], rounds: int, say: Callable[[str], None]) -> None:
    """All ways by turns on databases of ``sizes`` megabytes, on a host of its own. Raises TestbedError."""
    with bench_host(max(sizes)) as host:
        results.facts[PART] = f"{host.versions()}"
        for megabytes in sizes:
            say(f"{describe_size(megabytes)}: downtime of an upgrade, {len(WAYS)} ways, {rounds} rounds")
            host.fill(megabytes)
            for number in range(rounds):
                shift = number % len(WAYS)
                for way in WAYS[shift:] + WAYS[:shift]:
                    measure_way(results, host, way, megabytes)


def measure_way(results: Results, host: BenchHost, way: str, megabytes: int) -> None:
    """One upgrade, from the same starting point as all others. Raises TestbedError."""
    upgrades = {PLAIN: host.upgrade_plainly, BY_HAND: host.upgrade_by_hand, PLAYBOOK: host.upgrade_by_playbook}
    host.put_back()
    results.add_time(PART, measure(way, megabytes), seconds_without_service(host.url, upgrades[way]))
    if way == PLAYBOOK:
        results.add_time(PART, measure(OWN_CLOCK, megabytes), host.recorded_downtime())


def measure(way: str, megabytes: int) -> str:
    """Under which name the times of a way are kept."""
    return f"{way}, {describe_size(megabytes)}"


def seconds_without_service(url: str, upgrade: Callable[[], None]) -> float:
    """How long a client of ``url`` has no answer UP around ``upgrade``; returns once the new version answers.

    From the last answer before to the first one after, so up to two intervals of the client are in it. Raises
    TestbedError where one or the other version does not answer.
    """
    stopped = threading.Event()
    client = Client(url, stopped)
    asking = threading.Thread(target=client.run)
    asking.start()
    try:
        wait_for(
            client.reachable.is_set,
            f"{url} answers",
            seconds=SECONDS_TO_ANSWER,
            last_words=lambda: f"requests that failed: {len(client.failures)}",
        )
        began = time.monotonic()
        time.sleep(SECONDS_AROUND)
        upgrade()
        wait_for(
            lambda: client.sees(TO),
            f"{url} answers with version {TO}",
            seconds=SECONDS_TO_ANSWER,
            last_words=lambda: f"the last answers: {sorted(client.successes)[-1:]}",
        )
        time.sleep(SECONDS_AROUND)
    finally:
        stopped.set()
        asking.join()
    answers = [moment for moment, _version in client.successes]
    failures = [moment for moment in client.failures if moment >= began]
    return sum(end - start for start, end in outages(answers, failures, began, time.monotonic()))


def rows(results: Results) -> list[Sequence[str]]:
    """The table, the ways of one size together; the heading alone where nothing was measured."""
    sizes = dict.fromkeys(name.rpartition(", ")[2] for part, name in results.times if part == PART)
    found: list[Sequence[str]] = [
        ("way", "database", "median, s", "worst, s", f"times {PLAIN}", "by its own clock, s"),
    ]
    for size in sizes:
        plain = results.time(PART, f"{PLAIN}, {size}")
        own = results.time(PART, f"{OWN_CLOCK}, {size}")
        for way in WAYS:
            seconds = results.time(PART, f"{way}, {size}")
            if seconds is not None:
                worst = max(results.times[PART, f"{way}, {size}"])
                ratio = f"{seconds / plain:.2f}" if plain else ""
                clock = f"{own:.2f}" if way == PLAYBOOK and own is not None else ""
                found.append((way, size, f"{seconds:.2f}", f"{worst:.2f}", ratio, clock))
    return found


def goals(results: Results) -> Iterator[Goal]:
    """How much longer clients wait for the playbook than for the least that Compose can do: alike at every size."""
    for megabytes in SIZES:
        ours, plain = (results.time(PART, measure(way, megabytes)) for way in (PLAYBOOK, PLAIN))
        what = f"downtime of {PLAYBOOK} beyond that of `{PLAIN}`, {describe_size(megabytes)}"
        if ours is None or plain is None:
            yield Goal(what, SECONDS_BEYOND_PLAIN, "s", None)
        else:
            yield Goal(what, SECONDS_BEYOND_PLAIN, "s", ours - plain, f"{ours:.2f} s against {plain:.2f} s")
