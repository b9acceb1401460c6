# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP interface, call by call."""

from __future__ import annotations

import http.cookiejar
import json
import re
import sqlite3
import time
import urllib.request
from pathlib import Path

import pytest
from standin.container import PASSWORD, USERNAME, Answer, Client, Container, Laboratory

RUNTIME = "/api/admin/diagnostics/runtime"
BACKUP = "/api/admin/backup/sqlite"


def logged_in(container: Container, username: str = USERNAME) -> Client:
    client = container.client()
    assert client.login(username).status == 200
    return client


def audited(container: Container, action: str) -> list[dict[str, str]]:
    return container.sql(f"select * from audit_events where action = '{action}' order by createdAt")


def test_health_is_up(serving: Container) -> None:
    assert serving.client().get("/health").data == {"status": "UP"}


def test_first_version_has_no_short_health(serving_first: Container) -> None:
    assert serving_first.client().get("/health").error == (404, "NOT_FOUND")


def test_system_health_says_more_from_the_second_version_on(serving: Container) -> None:
    health = serving.client().get("/api/system/health").data
    assert (health["status"], health["version"], health["edition"]) == ("UP", "0.3.0", "ce")
    assert health["database"]["status"] == "UP"
    assert health["database"]["kind"] == "sqlite"
    assert health["database"]["latencyMs"] >= 0
    assert health["uptimeSeconds"] >= 0


def test_system_health_of_the_first_version_is_thin(serving_first: Container) -> None:
    health = serving_first.client().get("/api/system/health").data
    assert set(health) == {"status", "timestamp"}
    assert health["status"] == "UP"


def test_version_names_commit_and_build_time(serving: Container) -> None:
    version = serving.client().get("/api/system/version").data
    assert (version["version"], version["edition"]) == ("0.3.0", "ce")
    assert set(version) == {"version", "edition", "commit", "buildTime"}


def test_version_of_the_first_version_is_thin(serving_first: Container) -> None:
    assert serving_first.client().get("/api/system/version").data == {"version": "0.1.0", "edition": "CE"}


def test_build_time_may_be_absent(laboratory: Laboratory) -> None:
    version = laboratory.run("0.2.0").wait_for_answer().get("/api/system/version").data
    assert set(version) == {"version", "edition", "commit"}


def test_unknown_route_gives_an_error_envelope(serving: Container) -> None:
    assert serving.client().get("/api/none").error == (404, "NOT_FOUND")


def test_login_gives_token_role_and_cookie(serving: Container) -> None:
    answer = serving.client().login()
    assert answer.data["user"]["role"] == "owner"
    assert answer.data["csrfToken"]
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("opstage_session=")
    assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))


def test_ordinary_cookie_jar_does_not_send_the_cookie_back(serving: Container) -> None:
    port = serving.client().port
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    body = json.dumps({"username": USERNAME, "password": PASSWORD}).encode()
    opener.open(f"http://127.0.0.1:{port}/api/admin/auth/login", body).close()
    assert [cookie.name for cookie in jar] == ["opstage_session"]
    request = urllib.request.Request(f"http://127.0.0.1:{port}{RUNTIME}")
    jar.add_cookie_header(request)
    assert not request.has_header("Cookie")


@pytest.mark.parametrize(("username", "password"), [(USERNAME, "wrong-password"), ("nobody", PASSWORD)])
def test_wrong_login_is_unauthorized(serving: Container, username: str, password: str) -> None:
    assert serving.client().login(username, password).error == (401, "UNAUTHORIZED")


def test_login_without_fields_or_json_is_a_bad_request(serving: Container) -> None:
    assert serving.client().request("POST", "/api/admin/auth/login", {}).error == (400, "BAD_REQUEST")
    assert serving.client().request("POST", "/api/admin/auth/login", "text").error == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("tag", "failed", "succeeded", "backed_up"),
    [
        ("0.1.0", "AUTH_LOGIN_FAILED", "AUTH_LOGIN_SUCCEEDED", "SQLITE_BACKUP_CREATED"),
        ("0.5.0", "auth.login.failed", "auth.login.succeeded", "backup.sqlite.created"),
    ],
)
def test_every_login_and_backup_is_audited_and_no_attempt_is_one_too_many(
    laboratory: Laboratory, tag: str, failed: str, succeeded: str, backed_up: str
) -> None:
    container = laboratory.run(tag)
    client = container.wait_for_answer()
    assert {client.login(password="wrong").status for attempt in range(10)} == {401}
    assert client.login().status == 200
    assert client.request("POST", BACKUP).status == 200
    assert len(audited(container, failed)) == 10
    assert len(audited(container, succeeded)) == 1
    assert len(audited(container, backed_up)) == 1


def test_logout_needs_the_token_and_ends_the_session(serving: Container) -> None:
    client = logged_in(serving)
    assert client.request("POST", "/api/admin/auth/logout", token=False).error == (403, "CSRF_INVALID")
    assert client.request("POST", "/api/admin/auth/logout").status == 200
    assert client.get(RUNTIME).error == (401, "UNAUTHORIZED")


def test_forged_cookie_opens_no_session(serving: Container) -> None:
    client = logged_in(serving)
    client.headers["cookie"] = client.headers["cookie"].rpartition(".")[0] + ".forged"
    assert client.get(RUNTIME).error == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("username", [USERNAME, "operator"])
def test_diagnostics_are_for_operator_and_owner(serving: Container, username: str) -> None:
    runtime = logged_in(serving, username).get(RUNTIME).data
    assert (runtime["version"], runtime["edition"], runtime["platform"]) == ("0.3.0", "ce", "linux")
    assert {"node", "arch", "uptimeSeconds", "pid", "memory", "config"} <= set(runtime)
    assert {"host", "port", "databaseUrl", "staticDir", "backupDir", "maintenance"} <= set(runtime["config"])
    assert runtime["config"]["maintenance"] == {"intervalSeconds": 60}


def test_diagnostics_refuse_strangers_and_viewers(serving: Container) -> None:
    assert serving.client().get(RUNTIME).error == (401, "UNAUTHORIZED")
    assert logged_in(serving, "viewer").get(RUNTIME).error == (403, "FORBIDDEN")


def test_backup_refuses_strangers_missing_tokens_and_other_roles(serving: Container) -> None:
    assert serving.client().request("POST", BACKUP).error == (401, "UNAUTHORIZED")
    assert logged_in(serving).request("POST", BACKUP, token=False).error == (403, "CSRF_INVALID")
    for username in ("operator", "viewer"):
        assert logged_in(serving, username).request("POST", BACKUP).error == (403, "FORBIDDEN")


def filename_of(answer: Answer) -> str:
    disposition = answer.headers["content-disposition"]
    found = re.fullmatch(r"attachment; filename=(opstage-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d{3}Z\.db)", disposition)
    assert found, disposition
    return found.group(1)


def test_backup_is_a_whole_database_under_its_time(serving: Container, tmp_path: Path) -> None:
    answer = logged_in(serving).request("POST", BACKUP)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert filename_of(answer)
    copy = tmp_path / "copy.db"
    copy.write_bytes(answer.body)
    with sqlite3.connect(copy) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("select count(*) from users").fetchone() == (3,)
    database.close()


def test_backup_keeps_wal_mode_in_its_header(serving: Container) -> None:
    assert logged_in(serving).request("POST", BACKUP).body[18:20] == b"\x02\x02"


def test_copies_pile_up_on_the_server(laboratory: Laboratory) -> None:
    container = laboratory.run("0.3.0")
    client = container.wait_for_answer()
    client.login()
    names = []
    for _backup in range(3):
        names.append(filename_of(client.request("POST", BACKUP)))
        time.sleep(0.002)
    assert container.execute("ls", "/app/data/backups").split() == names


def test_backup_succeeds_while_rows_are_written(laboratory: Laboratory, tmp_path: Path) -> None:
    container = laboratory.run("0.3.0", environment={"OPSTAGE_STANDIN_WRITES_PER_SECOND": "200"})
    client = container.wait_for_answer()
    client.login()
    before = client.request("POST", "/standin/writes").data["number"]
    copy = tmp_path / "copy.db"
    copy.write_bytes(client.request("POST", BACKUP).body)
    with sqlite3.connect(copy) as database:
        assert database.execute("select max(number) from standin_writes").fetchone()[0] >= before
    database.close()


def test_health_is_degraded_when_a_background_write_fails_and_down_when_reads_do(laboratory: Laboratory) -> None:
    container = laboratory.run("0.3.0", environment={"OPSTAGE_STANDIN_MAINTENANCE_SECONDS": "0.2"})
    client = container.wait_for_answer()
    container.sql("drop table system_settings")
    time.sleep(0.5)
    degraded = client.get("/api/system/health")
    assert (degraded.status, degraded.data["status"]) == (200, "DEGRADED")
    container.sql("alter table workspaces rename to gone")
    down = client.get("/api/system/health")
    assert (down.status, down.data["status"], down.data["database"]["status"]) == (200, "DOWN", "DOWN")
