# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bench says of upgrades: the client's downtime, the table, the goal."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from bench import downtime
from bench.results import Results
from bench.upgrades import document, parse
from testbed.demo import FROM, TO


@contextmanager
def opstage(version: str, port: int = 0) -> Iterator[int]:
    """Serve the health of a version; yields the port."""
    body = json.dumps({"success": True, "data": {"status": "UP", "version": version}}).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            serving.join()


def test_downtime_is_what_lies_between_the_answers_of_two_versions() -> None:
    done = threading.Event()
    ports: list[int] = []

    def serve_one_after_the_other() -> None:
        with opstage(FROM) as port:
            ports.append(port)
            upgraded.wait(30)
        time.sleep(0.5)
        with opstage(TO, ports[0]):
            done.wait(30)

    upgraded = threading.Event()
    service = threading.Thread(target=serve_one_after_the_other)
    service.start()
    try:
        while not ports:
            time.sleep(0.01)
        seconds = downtime.seconds_without_service(f"http://127.0.0.1:{ports[0]}", upgraded.set)
    finally:
        upgraded.set()
        done.set()
        service.join()
    assert 0.5 <= seconds < 1.5


def measured() -> Results:
    results = Results()
    for megabytes, plain, ours in ((1, (0.2, 0.3, 9.0), (0.9, 1.2, 1.3)), (1000, (0.3,), (1.4,))):
        for seconds in plain:
            results.add_time(downtime.PART, downtime.measure(downtime.PLAIN, megabytes), seconds)
        for seconds in ours:
            results.add_time(downtime.PART, downtime.measure(downtime.PLAYBOOK, megabytes), seconds)
            results.add_time(downtime.PART, downtime.measure(downtime.OWN_CLOCK, megabytes), seconds - 0.1)
    return results


def test_the_table_has_median_worst_and_ratio_of_each_way_that_was_measured() -> None:
    assert downtime.rows(measured())[1:] == [
        (downtime.PLAIN, "1 MB", "0.30", "9.00", "1.00", ""),
        (downtime.PLAYBOOK, "1 MB", "1.20", "1.30", "4.00", "1.10"),
        (downtime.PLAIN, "1 GB", "0.30", "0.30", "1.00", ""),
        (downtime.PLAYBOOK, "1 GB", "1.40", "1.40", "4.67", "1.30"),
    ]


def test_each_size_has_a_goal_of_its_own() -> None:
    verdicts = [goal.reached for goal in downtime.goals(measured())]
    assert verdicts == ["reached", "not measured", "NOT reached"]


def test_the_page_has_the_table() -> None:
    assert f"| {downtime.PLAYBOOK} | 1 MB | 1.20 | 1.30 | 4.00 | 1.10 |" in document(measured(), "make bench")


def test_sizes_are_in_order_and_begin_at_one() -> None:
    assert parse(["--sizes", "100,1,100"]).sizes == [1, 100]
    with pytest.raises(SystemExit):
        parse(["--sizes", "0"])
