# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Opstage's console, used as a person would: log in, look at Diagnostics, download a backup, log out.

Each request has a connection of its own, to the service itself: no proxy, no redirect. The cookie is marked `Secure`
even over plain HTTP, where no cookie jar sends it back, so it is kept here. Of what the service says in a refusal only
the code is repeated: it was told the password.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator

from .opstage_api import ANSWER_LIMIT, OpstageUnreachableError, data_of, distrusted, trusting
from .sqlite_files import BLOCK_BYTES, Deadline

ANSWER_TIMEOUT = 30.0
"""Seconds that the service may be silent."""

PREPARATION_TIMEOUT = 900.0
"""Seconds that it may be silent while it copies its database, before it sends the first byte."""

LOGIN_PATH = "/api/admin/auth/login"
LOGOUT_PATH = "/api/admin/auth/logout"
RUNTIME_PATH = "/api/admin/diagnostics/runtime"
BACKUP_PATH = "/api/admin/backup/sqlite"

BACKUP_TYPE = "application/octet-stream"

_COOKIE = "opstage_session"
_ROLES = {RUNTIME_PATH: "operator or owner", BACKUP_PATH: "owner"}
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,39}", re.ASCII)
_HEADER_VALUE = re.compile(r"[!-:<-~]+", re.ASCII)
"""What may stand in a header, in a cookie too: no space, no semicolon, nothing that ends the line."""

_WORD = re.compile(r"[0-9A-Za-z_-]{1,40}", re.ASCII)
_FILE_NAME = re.compile(r'attachment; *filename="?([0-9A-Za-z][0-9A-Za-z._-]{0,200})"?', re.ASCII)

_ADDRESS_ADVICE = "See that opstage_url is Opstage's own address, as this host reaches it."


class OpstageSessionError(Exception):
    """The service did not do what was asked of it in a session; never holds the password."""


@dataclass(frozen=True)
class Account:
    """Who logs in."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Download:
    """A backup that the service sends.

    name: the file's, as the service calls its own copy, None where it gives none that is a plain file name.
    size: bytes. blocks: the content, once; raises OpstageSessionError where it is not so long.
    """

    name: str | None
    size: int
    blocks: Iterator[bytes]


class OpstageSession:
    """What one who has logged in may do; made by logged_in. `role` is `owner`, `operator` or `viewer`."""

    def __init__(self, service: _Service, account: Account, headers: dict[str, str], role: str) -> None:
        self._service = service
        self._account = account
        self._headers = headers
        self.role = role

    def runtime(self) -> dict[str, Any]:
        """Return what Diagnostics shows: `version`, `edition`, `config` and more. Raises OpstageSessionError."""
        with self._answer("GET", RUNTIME_PATH, ANSWER_TIMEOUT) as answer:
            return answer.data()

    @contextlib.contextmanager
    def requested_backup(self, deadline: Deadline) -> Iterator[Download]:
        """Have the service copy its database and send the copy, of which it keeps one itself.

        Memory does not grow with it. Raises OpstageSessionError, DatabaseFileError at the deadline.
        """
        with self._answer("POST", BACKUP_PATH, _seconds(deadline, PREPARATION_TIMEOUT)) as answer:
            size = answer.length_of(BACKUP_TYPE)
            yield Download(answer.file_name(), size, answer.blocks(size, deadline))

    def log_out(self) -> None:
        """End the session; one that the service does not know any more has ended. Raises OpstageSessionError."""
        with self._service.answer("POST", LOGOUT_PATH, self._headers, None, ANSWER_TIMEOUT) as answer:
            if answer.status not in (http.client.OK, http.client.UNAUTHORIZED):
                raise answer.refusal("")

    @contextlib.contextmanager
    def _answer(self, method: str, path: str, timeout: float) -> Iterator[_Answer]:
        with self._service.answer(method, path, self._headers, None, timeout) as answer:
            if answer.status != http.client.OK:
                raise self._refusal(path, answer)
            yield answer

    def _refusal(self, path: str, answer: _Answer) -> OpstageSessionError:
        code = answer.code()
        if answer.status == http.client.FORBIDDEN and code == "FORBIDDEN":
            return answer.refusal(
                f"the user {self._account.username!r} has the role {self.role}, needed is {_ROLES[path]}. Set "
                "opstage_admin_username and opstage_admin_password to an account with that role."
            )
        if answer.status == http.client.FORBIDDEN and code == "CSRF_INVALID":
            return answer.refusal(
                "the token that it gave at the login did not reach it. Something in between drops the header "
                f"x-csrf-token. {_ADDRESS_ADVICE}"
            )
        if answer.status == http.client.UNAUTHORIZED:
            return answer.refusal(
                "it does not know the session that it opened at the login. It was restarted meanwhile, then try again, "
                f"or something in between drops the cookie. {_ADDRESS_ADVICE}"
            )
        if answer.status >= http.client.INTERNAL_SERVER_ERROR:
            return answer.refusal("The container's log says why.")
        return answer.refusal(_ADDRESS_ADVICE)


@contextlib.contextmanager
def logged_in(
    url: str, account: Account, warn: Callable[[str], None], ca_file: str | None = None
) -> Iterator[OpstageSession]:
    """Log in at the base address `url`, and log out at the end, however that comes; `warn` is told where that fails.

    ca_file: see opstage_api.trusting. Raises OpstageSessionError.
    """
    session = _log_in(_Service(url, ca_file), account)
    try:
        yield session
    finally:
        try:
            session.log_out()
        except OpstageSessionError as error:
            warn(f"The session of {account.username!r} was not ended, it ends with the service's next start: {error}")


def _log_in(service: _Service, account: Account) -> OpstageSession:
    body = json.dumps({"username": account.username, "password": account.password}).encode("ascii")
    headers = {"content-type": "application/json"}
    with service.answer("POST", LOGIN_PATH, headers, body, ANSWER_TIMEOUT) as answer:
        if answer.status == http.client.UNAUTHORIZED:
            raise answer.refusal(
                f"the user name {account.username!r} or the password is wrong. Set opstage_admin_username and "
                "opstage_admin_password to those of an account."
            )
        if answer.status != http.client.OK:
            raise answer.refusal(_ADDRESS_ADVICE)
        data = answer.data()
        user = data.get("user")
        role = user.get("role") if isinstance(user, dict) else None
        token, cookie = data.get("csrfToken"), answer.cookie()
        if not isinstance(token, str) or _HEADER_VALUE.fullmatch(token) is None or cookie is None:
            raise OpstageSessionError(
                f"{answer.url} accepted the login without a csrfToken and the cookie {_COOKIE}. {_ADDRESS_ADVICE}"
            )
    known = isinstance(role, str) and _WORD.fullmatch(role) is not None
    return OpstageSession(
        service, account, {"cookie": cookie, "x-csrf-token": token}, str(role) if known else "unknown"
    )


class _Answer:
    """One HTTP answer, read as far as somebody asks."""

    def __init__(self, url: str, response: http.client.HTTPResponse, connection: socket.socket) -> None:
        self.url = url
        self.status = response.status
        self._response = response
        self._socket = connection
        self._content: bytes | None = None

    def data(self) -> dict[str, Any]:
        """`data` of a JSON envelope."""
        try:
            return data_of(self.url, self._body())
        except OpstageUnreachableError as error:
            raise OpstageSessionError(f"{error}. {_ADDRESS_ADVICE}") from error

    def code(self) -> str:
        """The code of a refusal, empty where there is none."""
        try:
            envelope = json.loads(self._body())
            code = envelope["error"]["code"]
        except (ValueError, LookupError, TypeError):
            return ""
        return code if isinstance(code, str) and _CODE.fullmatch(code) else ""

    def refusal(self, advice: str) -> OpstageSessionError:
        """An error that says what was answered; `advice` is what follows from it."""
        location = self._response.headers["location"]
        if 300 <= self.status < 400 and location is not None:
            place = urllib.parse.urljoin(self.url, location)
            return OpstageSessionError(
                f"{self.url} redirects to {_without_credentials(place)!r} (HTTP {self.status}), which is not followed: "
                "the password is for one address only. Set opstage_url to the address at which Opstage itself answers."
            )
        code = self.code()
        answered = f"HTTP {self.status}{' ' + code if code else ''}"
        return OpstageSessionError(f"{self.url} answered {answered}{': ' + advice if advice else ', expected 200.'}")

    def cookie(self) -> str | None:
        """The session's cookie, as it is sent back."""
        for header in self._response.headers.get_all("set-cookie") or []:
            name, _separator, value = header.partition(";")[0].strip().partition("=")
            if name == _COOKIE and _HEADER_VALUE.fullmatch(value):
                return f"{name}={value}"
        return None

    def length_of(self, expected: str) -> int:
        """Bytes of a body of the type that is expected."""
        headers = self._response.headers
        found = headers.get_content_type() if "content-type" in headers else "no content-type"
        if found != expected or headers.get("content-encoding", "identity") != "identity":
            raise OpstageSessionError(
                f"{self.url} answered {found!r} in the encoding {headers.get('content-encoding', 'identity')!r}, "
                f"expected {expected} as it is. {_ADDRESS_ADVICE}"
            )
        if self._response.length is None:
            raise OpstageSessionError(
                f"{self.url} did not say how long the backup is, so that a part could be taken for the whole. "
                f"Something in between drops the header content-length. {_ADDRESS_ADVICE}"
            )
        return self._response.length

    def file_name(self) -> str | None:
        """The name that the service gives the file."""
        match = _FILE_NAME.fullmatch(self._response.headers.get("content-disposition", ""))
        return match.group(1) if match else None

    def blocks(self, size: int, deadline: Deadline) -> Iterator[bytes]:
        """The body, `size` bytes in all."""
        left = size
        while left:
            timeout = _seconds(deadline, ANSWER_TIMEOUT)
            self._socket.settimeout(timeout)
            try:
                with _failures_named(self.url, timeout):
                    block = self._response.read(min(left, BLOCK_BYTES))
            except OpstageSessionError as error:
                deadline.check()
                raise OpstageSessionError(f"After {size - left} of {size} bytes of the backup: {error}") from error
            if not block:
                raise OpstageSessionError(
                    f"{self.url} sent {size - left} bytes of the backup and ended, announced were {size}. Try again; "
                    "if it stays so, look at the container's log and memory, and at what is in between."
                )
            left -= len(block)
            yield block

    def _body(self) -> bytes:
        if self._content is None:
            with _failures_named(self.url, ANSWER_TIMEOUT):
                self._content = self._response.read(ANSWER_LIMIT)
        return self._content


class _Service:
    """Where requests go; certificates are checked always."""

    def __init__(self, url: str, ca_file: str | None) -> None:
        self._base = url.rstrip("/")
        try:
            place = urllib.parse.urlsplit(self._base)
            port = place.port
        except ValueError as error:
            raise OpstageSessionError(
                f"{_without_credentials(url)!r} is no address: {error}. {_ADDRESS_ADVICE}"
            ) from error
        if place.scheme not in ("http", "https") or not place.hostname or "@" in place.netloc:
            raise OpstageSessionError(
                f"{_without_credentials(url)!r} is no address of Opstage: expected is http:// or https://, a host, and "
                "no user name. Set opstage_url."
            )
        self._host, self._port, self._path = place.hostname, port, place.path
        self._tls = _trusting(ca_file) if place.scheme == "https" else None

    @contextlib.contextmanager
    def answer(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None,
        timeout: float,
    ) -> Iterator[_Answer]:
        """Send a request; the connection ends with the context. Raises OpstageSessionError where nothing answers."""
        url = f"{self._base}{path}"
        with contextlib.closing(self._connection(timeout)) as connection:
            with _failures_named(url, timeout):
                connection.connect()
                opened = connection.sock
                connection.request(method, f"{self._path}{path}", body, {**headers, "connection": "close"})
                response = connection.getresponse()
            with contextlib.closing(response):
                yield _Answer(url, response, opened)

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)


def _seconds(deadline: Deadline, at_most: float) -> float:
    """Seconds to wait for a socket, which takes 0 to mean something else. Raises DatabaseFileError at the deadline."""
    deadline.check()
    return max(0.001, deadline.remaining(at_most))


def _trusting(ca_file: str | None) -> ssl.SSLContext:
    try:
        return trusting(ca_file)
    except OpstageUnreachableError as error:
        raise OpstageSessionError(f"{error}.") from error


@contextlib.contextmanager
def _failures_named(url: str, timeout: float) -> Iterator[None]:
    """Raise what goes wrong on the way as OpstageSessionError."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise OpstageSessionError(f"{distrusted(url, error)}.") from error
    except ssl.SSLError as error:
        raise OpstageSessionError(
            f"{url} does not speak TLS as expected: {error.reason or error}. {_ADDRESS_ADVICE}"
        ) from error
    except socket.timeout as error:
        raise OpstageSessionError(f"{url} did not answer within {timeout:g} s. {_ADDRESS_ADVICE}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise OpstageSessionError(
            f"{url} did not answer: {error or type(error).__name__}. {_ADDRESS_ADVICE}"
        ) from error


def _without_credentials(url: str) -> str:
    """The address without what may stand before an @, and without a query."""
    return re.sub(r"//[^/]*@", "//***@", url.partition("?")[0])
