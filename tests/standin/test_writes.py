# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes: those that a test can count, and those that go on by themselves."""

from __future__ import annotations

import http.client
import json
import threading
import time

from standin.container import Client, Container, Laboratory, docker, wait_for

SECONDS_OF_WRITING = 3


def test_numbers_count_up_and_gaps_are_listed(laboratory: Laboratory) -> None:
    container = laboratory.run("0.2.0")
    client = container.wait_for_answer()
    assert client.get("/standin/writes").data == {"count": 0, "first": None, "last": None}
    assert [client.request("POST", "/standin/writes").data["number"] for row in range(4)] == [1, 2, 3, 4]
    container.sql("delete from standin_writes where number = 2")
    assert client.get("/standin/writes?missing_from=1&to=5").data == {
        "count": 3,
        "first": 1,
        "last": 4,
        "missing": [2, 5],
    }


def test_rate_without_sense_is_refused(serving: Container) -> None:
    for rate in (-1, "many", 5001, None):
        answer = serving.client().request("PUT", "/standin/writer", {"perSecond": rate})
        assert answer.error == (400, "BAD_REQUEST")


def test_background_writer_keeps_its_rate_and_can_be_set(laboratory: Laboratory) -> None:
    client = laboratory.run("0.3.0", environment={"OPSTAGE_STANDIN_WRITES_PER_SECOND": "100"}).wait_for_answer()
    before, begin = client.get("/standin/writes").data["count"], time.monotonic()
    time.sleep(2)
    written, elapsed = client.get("/standin/writes").data["count"] - before, time.monotonic() - begin
    assert 90 <= written / elapsed <= 110
    assert client.request("PUT", "/standin/writer", {"perSecond": 0}).data == {"perSecond": 0}
    assert client.get("/standin/writer").data == {"perSecond": 0}
    stopped = client.get("/standin/writes").data["count"]
    time.sleep(0.3)
    assert client.get("/standin/writes").data["count"] == stopped


def write_until_it_fails(client: Client, acknowledged: list[int]) -> None:
    """Post on one connection, as fast as the answers come; ends when the server is gone."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=5)
    try:
        while True:
            connection.request("POST", "/standin/writes")
            acknowledged.append(json.loads(connection.getresponse().read())["data"]["number"])
    except (OSError, http.client.HTTPException):
        connection.close()


def test_acknowledged_writes_are_there_after_a_kill(laboratory: Laboratory) -> None:
    container = laboratory.run("0.3.0", environment={"OPSTAGE_STANDIN_WRITES_PER_SECOND": "200"})
    acknowledged: list[int] = []
    writer = threading.Thread(target=write_until_it_fails, args=(container.wait_for_answer(), acknowledged))
    writer.start()
    time.sleep(SECONDS_OF_WRITING)
    docker("kill", container.name)
    writer.join()
    assert len(acknowledged) > 200 * SECONDS_OF_WRITING
    docker("start", container.name)
    client = container.wait_for_answer()
    missing = client.get(f"/standin/writes?missing_from=1&to={acknowledged[-1]}").data["missing"]
    assert set(missing) & set(acknowledged) == set()
    assert missing == []


def test_maintenance_writes_by_itself(busy: Container) -> None:
    sweep = "select value from system_settings where key = 'maintenance.lastSweepAt'"
    first = wait_for(lambda: busy.sql(sweep), 5, "first sweep")
    wait_for(lambda: busy.sql(sweep) != first, 5, "second sweep")


def test_heartbeats_and_health_reports_go_on_where_there_are_agents(busy: Container) -> None:
    count = "select count(*) as count from health_reports"
    wait_for(lambda: busy.sql(count)[0]["count"] >= 2040, 5, "two rounds of 20 reports after the 2000 seeded")
    assert busy.sql("select count(*) as count from agents where lastHeartbeatAt is null") == [{"count": 0}]
