# SPDX-License-Identifier: GPL-3.0-or-later
"""The running traffic: writers that remember what was acknowledged, and a prober that sees what a client sees."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from testbed.process import TestbedError

ACKNOWLEDGED = "acknowledged.txt"
SUMMARY = "summary.json"
MODE = "mode.txt"
NUMBERED, LOGINS = "numbered rows", "failed logins"
PROBE_INTERVAL = 0.02
CONNECT_TIMEOUT = 0.9
"""Seconds; less than the first retransmission of a lost SYN, so that a new try is a new connection."""
ANSWER_TIMEOUT = 5.0
"""Seconds. A service that is slow within this bound is up; the summary tells its slowest answer."""
WRITES_PER_CONNECTION = 50

NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError)


class Connection(http.client.HTTPConnection):
    """A connection with one bound on being opened, and another on each answer."""

    def __init__(self, url: str, answer_timeout: float = ANSWER_TIMEOUT) -> None:
        parts = urlsplit(url)
        super().__init__(parts.hostname or "", parts.port or 80, timeout=CONNECT_TIMEOUT)
        self.answer_timeout = answer_timeout

    def connect(self) -> None:
        """Open the connection. Raises OSError."""
        super().connect()
        opened: socket.socket = self.sock
        opened.settimeout(self.answer_timeout)


def ask(connection: Connection, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Send one request and return the status and the decoded JSON, ``{}`` where the answer is none.

    Raises one of NETWORK_ERRORS.
    """
    content = None if body is None else json.dumps(body).encode()
    connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
    answer = connection.getresponse()
    text = answer.read()
    try:
        decoded = json.loads(text)
    except ValueError:
        decoded = {}
    return answer.status, decoded if isinstance(decoded, dict) else {}


def deadlines(rate: float, stopped: threading.Event) -> Iterator[None]:
    """Yield ``rate`` times a second by the monotonic clock, until ``stopped``.

    What is missed while the caller is held up is left out: an outage is not followed by a burst.
    """
    due = time.monotonic()
    while not stopped.wait(max(0.0, due - time.monotonic())):
        yield
        due = max(due + 1 / rate, time.monotonic())


@dataclass
class Prober:
    """Asks for the health at fixed moments, however long an answer takes; every probe is a new connection."""

    url: str
    stopped: threading.Event
    reachable: threading.Event = field(default_factory=threading.Event)
    successes: list[tuple[float, str]] = field(default_factory=list)
    """When an answer UP came (monotonic seconds), and the version in it."""
    slowest: float = 0.0
    """How long the slowest of these answers took, in seconds."""
    failures: list[float] = field(default_factory=list)
    """When a probe began that failed."""

    def run(self) -> None:
        """Probe until ``stopped``."""
        with ThreadPoolExecutor(max_workers=int((CONNECT_TIMEOUT + ANSWER_TIMEOUT) / PROBE_INTERVAL)) as pool:
            for _moment in deadlines(1 / PROBE_INTERVAL, self.stopped):
                pool.submit(self.probe)

    def probe(self) -> None:
        """One probe."""
        began = time.monotonic()
        try:
            version = self.version_if_up()
        except NETWORK_ERRORS:
            version = None
        if version is None:
            self.failures.append(began)
        else:
            ended = time.monotonic()
            self.successes.append((ended, version))
            self.slowest = max(self.slowest, ended - began)
            self.reachable.set()

    def version_if_up(self) -> str | None:
        """The version that the service says, None where it does not say UP. Raises one of NETWORK_ERRORS."""
        connection = Connection(self.url)
        try:
            _status, health = ask(connection, "GET", "/api/system/health")
            data = health.get("data") or {}
            if data.get("status") != "UP":
                return None
            if "version" not in data:
                _status, answer = ask(connection, "GET", "/api/system/version")
                data = answer.get("data") or {}
            return str(data.get("version", "unknown"))
        finally:
            connection.close()


def served_version(url: str) -> str:
    """The version of the Opstage that is up at ``url``; empty where none is."""
    with suppress(*NETWORK_ERRORS):
        return Prober(url, threading.Event()).version_if_up() or ""
    return ""


def outages(successes: list[float], failures: list[float], began: float, ended: float) -> list[tuple[float, float]]:
    """The intervals without service as a client sees them, in order.

    Each is the gap between two successes that follow each other in which a failed probe began; ``began`` and
    ``ended``, the limits of the observation, stand for a success that is not there. All in monotonic seconds.
    """
    moments = sorted(successes)
    found: set[tuple[float, float]] = set()
    for failure in failures:
        after = bisect_right(moments, failure)
        found.add((moments[after - 1] if after else began, moments[after] if after < len(moments) else ended))
    return sorted(found)


class Writer:
    """Writes rows on several connections, each write once, and records the numbers that were acknowledged.

    A write whose answer did not come may or may not be there: it counts as failed and is not recorded.
    """

    def __init__(self, url: str, rate: float, record: Path, stopped: threading.Event) -> None:
        self.url = url
        self.rate = rate
        self.stopped = stopped
        self.numbered = True
        self.logins = itertools.count(1)
        self.failed = itertools.count()
        self.descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def choose_endpoint(self) -> None:
        """Find out what to write: numbered rows, or failed logins where there is no such endpoint (the real image)."""
        connection = Connection(self.url)
        try:
            status, answer = ask(connection, "GET", "/standin/writes")
        finally:
            connection.close()
        self.numbered = status == 200 and isinstance((answer.get("data") or {}).get("count"), int)

    def run(self) -> None:
        """Write until ``stopped``."""
        workers = max(4, round(self.rate / WRITES_PER_CONNECTION))
        threads = [threading.Thread(target=self.work, args=(self.rate / workers,)) for _worker in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.fsync(self.descriptor)
        os.close(self.descriptor)

    def work(self, rate: float) -> None:
        """Write on one connection, a new one after each failure, until ``stopped``."""
        connection = Connection(self.url)
        for _moment in deadlines(rate, self.stopped):
            try:
                number = self.write(connection)
            except NETWORK_ERRORS:
                number = None
            if number is None:
                next(self.failed)
                connection.close()
                connection = Connection(self.url)
            else:
                os.write(self.descriptor, f"{number}\n".encode())
        connection.close()

    def write(self, connection: Connection) -> int | None:
        """Write one row. Returns its number once it is committed, None for a refusal. Raises NETWORK_ERRORS."""
        if self.numbered:
            status, answer = ask(connection, "POST", "/standin/writes")
            number = (answer.get("data") or {}).get("number")
            return number if status == 200 and isinstance(number, int) else None
        number = next(self.logins)
        credentials = {"username": f"traffic-{number}", "password": "not the password"}
        status, _answer = ask(connection, "POST", "/api/admin/auth/login", credentials)
        return number if status == 401 else None


def versions_in_order(successes: list[tuple[float, str]]) -> list[str]:
    """The versions that answered, one entry for each change."""
    return [version for version, _group in itertools.groupby(version for _moment, version in sorted(successes))]


def summarize(writer: Writer, prober: Prober, state: Path, began: float, ended: float) -> dict[str, Any]:
    """What the traffic saw, for SUMMARY; moments are seconds since its start."""
    numbers = [int(line) for line in (state / ACKNOWLEDGED).read_text(encoding="ascii").split()]
    down = outages([moment for moment, _version in prober.successes], prober.failures, began, ended)
    lengths = [end - start for start, end in down]
    return {
        "mode": NUMBERED if writer.numbered else LOGINS,
        "seconds": round(ended - began, 3),
        "acknowledged": len(numbers),
        "first": min(numbers, default=None),
        "last": max(numbers, default=None),
        "failed": next(writer.failed),
        "probes": len(prober.successes) + len(prober.failures),
        "slowest_answer_seconds": round(prober.slowest, 3),
        "downtime_seconds": round(sum(lengths), 3),
        "longest_outage_seconds": round(max(lengths, default=0.0), 3),
        "outages": [
            {"start": round(start - began, 3), "end": round(end - began, 3), "seconds": round(end - start, 3)}
            for start, end in down
        ],
        "versions_seen": versions_in_order(prober.successes),
    }


def run_load(state: Path, url: str, rate: float) -> None:
    """Write and probe until SIGTERM or SIGINT, then leave SUMMARY in ``state``.

    Raises TestbedError for a rate that is not positive.
    """
    if rate <= 0:
        raise TestbedError(f"the rate is {rate:g}, expected a positive number of writes a second")
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_arguments: stopped.set())
    prober = Prober(url, stopped)
    probing = threading.Thread(target=prober.run)
    probing.start()
    while not prober.reachable.wait(0.1) and not stopped.is_set():
        pass
    began = time.monotonic()
    writer = Writer(url, rate, state / ACKNOWLEDGED, stopped)
    if not stopped.is_set():
        writer.choose_endpoint()
        (state / MODE).write_text(NUMBERED if writer.numbered else LOGINS, encoding="ascii")
    writer.run()
    probing.join()
    prober.failures = [moment for moment in prober.failures if moment >= began]
    content = json.dumps(summarize(writer, prober, state, began, time.monotonic()), indent=2)
    unfinished = state / f"{SUMMARY}.unfinished"
    unfinished.write_text(content + "\n", encoding="utf-8")
    unfinished.replace(state / SUMMARY)
