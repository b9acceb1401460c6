# SPDX-License-Identifier: GPL-3.0-or-later
"""A session in Opstage's console: over HTTP and HTTPS, and whatever an answer can be instead."""

from __future__ import annotations

import json
import os
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import opstage_session
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_session import (
    Account,
    OpstageSession,
    OpstageSessionError,
    logged_in,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError, Deadline
from console_testing import (
    BACKUP,
    FILE_NAME,
    LOGIN,
    LOGOUT,
    PASSWORD,
    RUNTIME,
    TOKEN,
    USERNAME,
    Console,
    PrivateAuthority,
    Reply,
    accepted,
    refusal,
    serving_console,
)
from opstage_testing import saying, unused_url

ACCOUNT = Account(USERNAME, PASSWORD)
CONTENT = os.urandom(3_000_000)
WHOLE_SESSION = [f"POST {LOGIN}", f"POST {BACKUP}", f"POST {LOGOUT}"]


@pytest.fixture
def console() -> Iterator[Console]:
    with serving_console(Console(CONTENT)) as console:
        yield console


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> PrivateAuthority:
    return PrivateAuthority(tmp_path_factory.mktemp("authority"))


def unexpected(warning: str) -> None:
    raise AssertionError(warning)


def download(session: OpstageSession, seconds: float | None = None) -> tuple[str | None, int, bytes]:
    with session.requested_backup(Deadline(seconds)) as backup:
        return backup.name, backup.size, b"".join(backup.blocks)


def runtime(session: OpstageSession) -> dict[str, Any]:
    return session.runtime()


def failure(
    url: str, use: Callable[[OpstageSession], object] = download, account: Account = ACCOUNT, **options: Any
) -> str:
    """What is said, with `URL` for the address; never the password."""
    warnings: list[str] = []
    with pytest.raises(OpstageSessionError) as caught, logged_in(url, account, warnings.append, **options) as session:
        use(session)
    assert warnings == []
    error: BaseException | None = caught.value
    while error is not None:
        assert account.password not in repr(error)
        error = error.__cause__ or error.__context__
    return str(caught.value).replace(url, "URL")


class TestSession:
    def test_download_and_diagnostics(self, console: Console) -> None:
        with logged_in(console.url, ACCOUNT, unexpected) as session:
            assert session.role == "owner"
            assert session.runtime()["version"] == "0.3.0"
            assert download(session) == (FILE_NAME, len(CONTENT), CONTENT)
            assert console.sessions == 1
        assert console.sessions == 0
        assert console.asked == [f"POST {LOGIN}", f"GET {RUNTIME}", f"POST {BACKUP}", f"POST {LOGOUT}"]

    def test_an_address_with_a_path(self, console: Console) -> None:
        console.instead["/console" + LOGIN] = refusal(401, "UNAUTHORIZED")
        for slash in ("", "/"):
            said = failure(f"{console.url}/console{slash}")
            assert said.startswith(f"URL{LOGIN[len(slash) :]} answered HTTP 401 UNAUTHORIZED: ")

    def test_the_environment_s_proxy_is_not_asked(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, unused_url())
        with logged_in(console.url, ACCOUNT, unexpected) as session:
            assert download(session)[2] == CONTENT

    def test_the_session_ends_after_a_failure(self, console: Console) -> None:
        with pytest.raises(KeyError), logged_in(console.url, ACCOUNT, unexpected):
            raise KeyError
        assert (console.sessions, console.asked[-1]) == (0, f"POST {LOGOUT}")

    def test_the_session_ends_when_a_download_is_given_up(self, console: Console) -> None:
        def give_up(session: OpstageSession) -> None:
            with session.requested_backup(Deadline(None)) as backup:
                next(backup.blocks)
                raise KeyError

        with pytest.raises(KeyError), logged_in(console.url, ACCOUNT, unexpected) as session:
            give_up(session)
        assert console.sessions == 0

    def test_a_logout_that_fails_is_a_warning(self, console: Console) -> None:
        console.instead[LOGOUT] = refusal(500, "INTERNAL_ERROR")
        warnings: list[str] = []
        with logged_in(console.url, ACCOUNT, warnings.append) as session:
            assert download(session)[2] == CONTENT
        (warning,) = warnings
        assert warning.startswith("The session of 'admin' was not ended, it ends with the service's next start: ")
        assert warning.endswith(f"{LOGOUT} answered HTTP 500 INTERNAL_ERROR, expected 200.")
        assert PASSWORD not in warning

    def test_a_logout_that_fails_does_not_hide_the_failure(self, console: Console) -> None:
        console.instead[LOGOUT] = refusal(500, "INTERNAL_ERROR")
        warnings: list[str] = []
        with pytest.raises(KeyError), logged_in(console.url, ACCOUNT, warnings.append):
            raise KeyError
        assert len(warnings) == 1

    def test_a_session_that_is_over_needs_no_end(self, console: Console) -> None:
        with logged_in(console.url, ACCOUNT, unexpected):
            console.sessions = 0

    def test_the_password_is_not_shown(self) -> None:
        assert PASSWORD not in repr(ACCOUNT)


class TestRefusals:
    @pytest.mark.parametrize("account", [Account(USERNAME, "another-password"), Account("nobody", PASSWORD)])
    def test_wrong_password(self, console: Console, account: Account) -> None:
        assert failure(console.url, account=account) == (
            f"URL{LOGIN} answered HTTP 401 UNAUTHORIZED: the user name {account.username!r} or the password is wrong. "
            "Set opstage_admin_username and opstage_admin_password to those of an account."
        )
        assert console.asked == [f"POST {LOGIN}"]

    @pytest.mark.parametrize(
        ("role", "use", "path", "needed"),
        [
            ("viewer", runtime, RUNTIME, "operator or owner"),
            ("viewer", download, BACKUP, "owner"),
            ("operator", download, BACKUP, "owner"),
        ],
    )
    def test_a_role_that_may_not(
        self, console: Console, role: str, use: Callable[[OpstageSession], object], path: str, needed: str
    ) -> None:
        console.role = role
        assert failure(console.url, use) == (
            f"URL{path} answered HTTP 403 FORBIDDEN: the user 'admin' has the role {role}, needed is {needed}. Set "
            "opstage_admin_username and opstage_admin_password to an account with that role."
        )
        assert console.sessions == 0

    def test_a_token_that_gets_lost(self, console: Console) -> None:
        console.instead[BACKUP] = refusal(403, "CSRF_INVALID")
        said = failure(console.url)
        assert said.startswith(f"URL{BACKUP} answered HTTP 403 CSRF_INVALID: the token that it gave at the login")
        assert "x-csrf-token" in said

    def test_a_session_that_is_lost(self, console: Console) -> None:
        console.instead[BACKUP] = refusal(401, "UNAUTHORIZED")
        said = failure(console.url)
        assert said.startswith(f"URL{BACKUP} answered HTTP 401 UNAUTHORIZED: it does not know the session")

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("path", [LOGIN, BACKUP])
    def test_a_redirect(self, console: Console, status: int, path: str) -> None:
        console.instead[path] = status, {"location": "https://u:p@elsewhere.example/x?secret=1"}, b""
        assert failure(console.url) == (
            f"URL{path} redirects to 'https://***@elsewhere.example/x' (HTTP {status}), which is not followed: the "
            "password is for one address only. Set opstage_url to the address at which Opstage itself answers."
        )

    @pytest.mark.parametrize(
        ("reply", "words"),
        [
            ((404, {}, b"<html>"), "answered HTTP 404: See that opstage_url"),
            (refusal(429, "TOO_MANY"), "answered HTTP 429 TOO_MANY: See that"),
            ((400, {}, json.dumps({"error": {"code": PASSWORD}}).encode()), "answered HTTP 400: See that"),
            ((200, {}, b"<html>Welcome</html>"), "answered something that is not JSON. See that opstage_url"),
            ((200, {}, b'{"success": false}'), "is this Opstage?. See that"),
            (accepted({"csrfToken": TOKEN}), "without a csrfToken and the cookie opstage_session. See that"),
            (accepted({}, **{"set-cookie": "opstage_session=1"}), "without a csrfToken and the cookie"),
            (accepted({"csrfToken": "1"}, **{"set-cookie": "other=1"}), "without a csrfToken and the cookie"),
            (accepted({"csrfToken": "1\r\n2"}, **{"set-cookie": "opstage_session=1"}), "without a csrfToken"),
            (accepted({"csrfToken": 1}, **{"set-cookie": "opstage_session=1"}), "without a csrfToken"),
        ],
    )
    def test_another_answer_to_the_login(self, console: Console, reply: Reply, words: str) -> None:
        console.instead[LOGIN] = reply
        assert words in failure(console.url)

    @pytest.mark.parametrize("user", [None, "admin", {}, {"role": None}, {"role": "own\ner"}])
    def test_a_role_that_is_not_said(self, console: Console, user: object) -> None:
        cookie = {"set-cookie": "opstage_session=session-id.signature"}
        console.instead[LOGIN] = accepted({"csrfToken": TOKEN, "user": user}, **cookie)
        console.sessions, console.role = 1, "viewer"
        assert "has the role unknown, needed is owner" in failure(console.url)

    def test_diagnostics_that_are_no_json(self, console: Console) -> None:
        console.instead[RUNTIME] = 200, {}, b"<html>"
        assert f"URL{RUNTIME} answered something that is not JSON. See that" in failure(console.url, runtime)

    def test_a_failure_of_the_service(self, console: Console) -> None:
        console.instead[BACKUP] = refusal(500, "INTERNAL_ERROR")
        assert failure(console.url) == f"URL{BACKUP} answered HTTP 500 INTERNAL_ERROR: The container's log says why."


class TestDownload:
    def test_shorter_than_announced(self, console: Console) -> None:
        console.headers["content-length"] = str(len(CONTENT) + 1)
        said = failure(console.url)
        assert f"{len(CONTENT)} bytes of the backup" in said or f"{len(CONTENT)} of {len(CONTENT) + 1} bytes" in said

    @pytest.mark.parametrize(
        ("headers", "words"),
        [
            ({"content-type": "text/html"}, "answered 'text/html' in the encoding 'identity', expected application"),
            ({"content-type": None}, "answered 'no content-type'"),
            ({"content-encoding": "gzip"}, "in the encoding 'gzip', expected application/octet-stream as it is"),
            ({"content-length": None}, "did not say how long the backup is"),
            ({"content-length": "many"}, "did not say how long the backup is"),
        ],
    )
    def test_another_content(self, console: Console, headers: dict[str, str | None], words: str) -> None:
        console.headers = headers
        assert words in failure(console.url)
        assert console.sessions == 0

    @pytest.mark.parametrize(
        ("disposition", "name"),
        [
            (f'attachment; filename="{FILE_NAME}"', FILE_NAME),
            ("attachment; filename=../../etc/passwd", None),
            ("attachment; filename=a/b", None),
            ("attachment; filename=..", None),
            ("attachment; filename=.hidden", None),
            ("attachment", None),
            (None, None),
        ],
    )
    def test_a_name_is_a_plain_file_s_or_none(
        self, console: Console, disposition: str | None, name: str | None
    ) -> None:
        console.headers["content-disposition"] = disposition
        with logged_in(console.url, ACCOUNT, unexpected) as session:
            assert download(session)[0] == name

    def test_a_deadline(self, console: Console) -> None:
        late = pytest.raises(DatabaseFileError, match="not finished within the timeout of 0")
        with late, logged_in(console.url, ACCOUNT, unexpected) as session:
            download(session, 0)
        assert console.sessions == 0

    def test_a_deadline_on_the_way(self, console: Console) -> None:
        def stream(file: Any) -> None:
            for number in range(3):
                file.write(CONTENT[number * 1_000_000 : (number + 1) * 1_000_000])
                time.sleep(0.3)

        console.stream = stream
        late = pytest.raises(DatabaseFileError, match=r"not finished within the timeout of 0\.5")
        with late, logged_in(console.url, ACCOUNT, unexpected) as session:
            download(session, 0.5)

    def test_silence_on_the_way(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        def stream(file: Any) -> None:
            file.write(CONTENT[: 1 << 20])
            time.sleep(1)

        console.stream = stream
        monkeypatch.setattr(opstage_session, "ANSWER_TIMEOUT", 0.2)
        said = failure(console.url)
        assert said.startswith(
            f"After 1048576 of {len(CONTENT)} bytes of the backup: URL{BACKUP} did not answer within"
        )

    def test_memory_does_not_grow_with_the_backup(self, console: Console) -> None:
        block, count = b"x" * (1 << 20), 100

        def stream(file: Any) -> None:
            for _number in range(count):
                file.write(block)

        console.stream = stream
        console.headers["content-length"] = str(count * len(block))
        with logged_in(console.url, ACCOUNT, unexpected) as session, session.requested_backup(Deadline(None)) as backup:
            tracemalloc.start()
            try:
                assert sum(map(len, backup.blocks)) == count * len(block)
                assert tracemalloc.get_traced_memory()[1] < 8 * len(block)
            finally:
                tracemalloc.stop()


class TestConnection:
    def test_nobody_listens(self) -> None:
        said = failure(unused_url())
        assert said.startswith(f"URL{LOGIN} did not answer: [Errno 111] Connection refused. See that opstage_url")

    def test_something_that_is_no_http(self) -> None:
        with saying(b"220 mail.example ESMTP\r\n") as url:
            assert failure(url).startswith(f"URL{LOGIN} did not answer: ")

    def test_silence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opstage_session, "ANSWER_TIMEOUT", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as server:
            said = failure(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert said.startswith(f"URL{LOGIN} did not answer within 0.2 s. See that opstage_url")

    @pytest.mark.parametrize(
        "url",
        ["127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://host:port", f"http://admin:{PASSWORD}@127.0.0.1", ""],
    )
    def test_no_address(self, url: str) -> None:
        with pytest.raises(OpstageSessionError, match="opstage_url") as caught, logged_in(url, ACCOUNT, unexpected):
            pass
        assert PASSWORD not in str(caught.value)


class TestTls:
    def test_a_private_authority(self, authority: PrivateAuthority) -> None:
        with serving_console(Console(CONTENT), authority.certificate()) as console:
            with logged_in(console.url, ACCOUNT, unexpected, str(authority.file)) as session:
                assert session.runtime()["edition"] == "ce"
                assert download(session) == (FILE_NAME, len(CONTENT), CONTENT)
            assert console.sessions == 0

    def test_one_that_the_host_does_not_know(self, authority: PrivateAuthority) -> None:
        with serving_console(Console(CONTENT), authority.certificate()) as console:
            said = failure(console.url)
            assert console.asked == []
        assert said.startswith(
            f"URL{LOGIN} has a certificate that this host does not trust: unable to get local issuer"
        )
        assert "the PEM file that opstage_ca_file names" in said

    @pytest.mark.parametrize(
        ("address", "days", "words"), [("192.0.2.1", 30, "mismatch"), ("127.0.0.1", -1, "expired")]
    )
    def test_another_s_or_an_old_certificate(
        self, authority: PrivateAuthority, address: str, days: int, words: str
    ) -> None:
        with serving_console(Console(), authority.certificate(address, days)) as console:
            assert words in failure(console.url, ca_file=str(authority.file))
            assert console.asked == []

    def test_no_tls_at_an_https_address(self, console: Console) -> None:
        assert "does not speak TLS as expected: " in failure(console.url.replace("http:", "https:"))

    def test_tls_at_an_http_address(self, authority: PrivateAuthority) -> None:
        with serving_console(Console(), authority.certificate()) as console:
            assert "did not answer: " in failure(console.url.replace("https:", "http:"))

    def test_a_file_of_authorities_that_is_none(self, tmp_path: Path) -> None:
        empty = tmp_path / "empty.pem"
        empty.write_text("")
        for file in (empty, tmp_path, tmp_path / "missing.pem"):
            said = failure("https://127.0.0.1:1", ca_file=str(file))
            assert said.startswith(f"The file of CA certificates, {file}, cannot be used: ")
