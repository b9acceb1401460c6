# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_api import (
    ANSWER_LIMIT,
    OpstageUnreachableError,
    ServiceStatus,
    get_service_status,
)
from console_testing import Console, PrivateAuthority, serving_console
from opstage_testing import Answer, answer, answers, saying, serving, unused_url

HEALTH = "/api/system/health"
VERSION = "/api/system/version"


def failure(given: dict[str, Answer]) -> str:
    with serving(given) as service:
        with pytest.raises(OpstageUnreachableError) as caught:
            get_service_status(service.url)
        return str(caught.value).replace(service.url, "URL")


@pytest.mark.parametrize("status", ["UP", "DEGRADED", "DOWN"])
def test_health_and_version(status: str) -> None:
    with serving(answers("0.3.0", status)) as service:
        assert get_service_status(service.url) == ServiceStatus(status, "0.3.0", "ce")
        assert service.asked == [HEALTH, VERSION]


def test_thinner_answers_of_0_1_0_at_an_address_with_a_slash() -> None:
    given = {
        HEALTH: answer({"status": "UP", "timestamp": "2026-11-22T17:14:14.633Z"}),
        VERSION: answer({"version": "0.1.0", "edition": "CE"}),
    }
    with serving(given) as service:
        assert get_service_status(service.url + "/") == ServiceStatus("UP", "0.1.0", "ce")


def test_the_version_endpoint_decides() -> None:
    with serving({**answers("0.3.0"), VERSION: answer({"version": "0.9.9", "edition": "ce"})}) as service:
        assert get_service_status(service.url).version == "0.9.9"


def test_what_is_missing_is_empty() -> None:
    with serving({HEALTH: answer({}), VERSION: answer({})}) as service:
        assert get_service_status(service.url) == ServiceStatus("", "", "")


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'"UP"',
        b"null",
        b'{"success": false, "error": {"code": "UNAUTHORIZED", "message": "no"}}',
        b'{"success": false, "data": {"status": "UP"}}',
        b'{"success": "true", "data": {"status": "UP"}}',
        b'{"data": {"status": "UP"}}',
        b'{"success": true, "data": "UP"}',
        b'{"success": true, "data": null}',
    ],
)
def test_another_envelope(body: bytes) -> None:
    words = 'answered without {"success": true, "data": …}: is this Opstage?'
    assert failure({**answers(), HEALTH: (200, {}, body)}) == f"URL{HEALTH} {words}"
    assert failure({**answers(), VERSION: (200, {}, body)}) == f"URL{VERSION} {words}"


@pytest.mark.parametrize("body", [b"", b"<html>Welcome</html>", b'{"success": true', b"\xff\xfe\xfd"])
def test_no_json(body: bytes) -> None:
    assert failure({**answers(), HEALTH: (200, {}, body)}) == f"URL{HEALTH} answered something that is not JSON"


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_an_error_is_told_with_its_number(status: int) -> None:
    assert failure({**answers(), HEALTH: answer({"status": "UP"}, status)}) == (
        f"URL{HEALTH} answered HTTP {status}, expected 200"
    )


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_not_followed(status: int) -> None:
    with serving(answers()) as elsewhere:
        redirect = (status, {"Location": elsewhere.url + HEALTH}, b"")
        assert failure({**answers(), HEALTH: redirect}) == f"URL{HEALTH} answered HTTP {status}, expected 200"
        assert elsewhere.asked == []


def test_a_huge_answer_is_not_read_to_its_end() -> None:
    body = json.dumps({"success": True, "data": {"status": "UP", "padding": " " * ANSWER_LIMIT}}).encode()
    assert failure({**answers(), HEALTH: (200, {}, body)}) == f"URL{HEALTH} answered something that is not JSON"


def test_an_answer_just_within_the_limit() -> None:
    frame = len(answer({"status": "UP", "padding": ""})[2])
    full = answer({"status": "UP", "padding": " " * (ANSWER_LIMIT - frame)})
    assert len(full[2]) == ANSWER_LIMIT
    with serving({**answers(), HEALTH: full}) as service:
        assert get_service_status(service.url).status == "UP"


def test_nobody_listens() -> None:
    url = unused_url()
    with pytest.raises(OpstageUnreachableError, match=r"did not answer: .*refused"):
        get_service_status(url)


@pytest.mark.parametrize(
    "words",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{",
        b"HTTP/1.1 200 OK\r\n" + b"X-Header: 1\r\n" * 200 + b"\r\n",
    ],
    ids=["another protocol", "closed at once", "ended in its answer", "too many headers"],
)
def test_a_server_that_breaks_off_or_speaks_something_else(words: bytes) -> None:
    with saying(words) as url, pytest.raises(OpstageUnreachableError, match=f"{url}{HEALTH} did not answer: "):
        get_service_status(url)


def test_a_server_that_accepts_and_keeps_silent() -> None:
    begin = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(OpstageUnreachableError, match="timed out"):
            get_service_status(url, timeout=0.2)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "http://127.0.0.1:port", "http://", "gopher://127.0.0.1"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(OpstageUnreachableError, match="did not answer: "):
        get_service_status(url)


def test_a_proxy_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answers("0.9.9")) as proxy, serving(answers("0.2.0")) as service:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert get_service_status(service.url).version == "0.2.0"
        assert proxy.asked == []


class TestTls:
    def test_a_private_authority(self, tmp_path: Path) -> None:
        authority = PrivateAuthority(tmp_path)
        with serving_console(Console(instead=answers("0.3.0")), authority.certificate()) as console:
            assert get_service_status(console.url, ca_file=str(authority.file)).version == "0.3.0"

    def test_one_that_the_host_does_not_know(self, tmp_path: Path) -> None:
        with serving_console(Console(instead=answers()), PrivateAuthority(tmp_path).certificate()) as console:
            with pytest.raises(OpstageUnreachableError) as caught:
                get_service_status(console.url)
            assert console.asked == []
        said = str(caught.value).replace(console.url, "URL")
        assert said.startswith(f"URL{HEALTH} has a certificate that this host does not trust: unable to get local")
        assert said.endswith("the PEM file that opstage_ca_file names")

    def test_a_file_of_authorities_that_is_none(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing.pem"
        with pytest.raises(OpstageUnreachableError, match="cannot be used: No such file"):
            get_service_status("https://127.0.0.1:1", ca_file=str(missing))
        with pytest.raises(OpstageUnreachableError, match="did not answer"):
            get_service_status("http://127.0.0.1:1", ca_file=str(missing))
