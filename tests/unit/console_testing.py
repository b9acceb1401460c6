# SPDX-License-Identifier: GPL-3.0-or-later
"""Opstage's console as a real server over HTTP and HTTPS, which can do each thing wrong, and a private CA."""

from __future__ import annotations

import contextlib
import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USERNAME = "admin"
PASSWORD = "correct-horse-battery"
TOKEN = "tok.en-of_this-session"
COOKIE = "session-id.signature"
FILE_NAME = "opstage-2026-11-22T17-14-14-633Z.db"
LOGIN, LOGOUT = "/api/admin/auth/login", "/api/admin/auth/logout"
RUNTIME, BACKUP = "/api/admin/diagnostics/runtime", "/api/admin/backup/sqlite"

ROLES = {RUNTIME: ("owner", "operator"), BACKUP: ("owner",), LOGOUT: ("owner", "operator", "viewer")}

Reply = tuple[int, dict[str, str], bytes]


def refusal(status: int, code: str) -> Reply:
    """A refusal, which repeats the password in its words."""
    error = {"code": code, "message": f"no, {PASSWORD}"}
    return status, {"content-type": "application/json"}, json.dumps({"success": False, "error": error}).encode()


def accepted(data: object, **headers: str) -> Reply:
    body = json.dumps({"success": True, "data": data}).encode()
    return 200, {"content-type": "application/json", **headers}, body


@dataclass
class Console:
    """What the console does: `content` is its backup, `instead` answers a path in another way.

    `asked` has each request's method and path, `sessions` how many are open; `made` is called when a backup is asked
    for, `stream` writes it in place of `content`; a value of None in `headers` takes that away from the backup's.
    """

    content: bytes = b""
    role: str = "owner"
    backup_dir: str = "./data/backups"
    version: str = "0.3.0"
    instead: dict[str, Reply] = field(default_factory=dict)
    headers: dict[str, str | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sessions: int = 0
    made: Callable[[], None] = lambda: None
    stream: Callable[[Any], None] | None = None
    url: str = ""

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> Reply:
        self.asked.append(f"{method} {path}")
        if path in self.instead:
            return self.instead[path]
        if path == LOGIN:
            return self.login(json.loads(body))
        if path not in ROLES:
            return refusal(404, "NOT_FOUND")
        if not self.sessions or headers["cookie"] != f"opstage_session={COOKIE}":
            return refusal(401, "UNAUTHORIZED")
        if method == "POST" and headers["x-csrf-token"] != TOKEN:
            return refusal(403, "CSRF_INVALID")
        if self.role not in ROLES[path]:
            return refusal(403, "FORBIDDEN")
        if path == LOGOUT:
            self.sessions -= 1
            return accepted({"loggedOut": True})
        if path == RUNTIME:
            return accepted({"version": self.version, "edition": "ce", "config": {"backupDir": self.backup_dir}})
        self.made()
        return 200, self.backup_headers(), self.content

    def login(self, given: dict[str, str]) -> Reply:
        if (given["username"], given["password"]) != (USERNAME, PASSWORD):
            return refusal(401, "UNAUTHORIZED")
        self.sessions += 1
        cookie = f"opstage_session={COOKIE}; Path=/; HttpOnly; Secure; SameSite=Lax"
        data = {"csrfToken": TOKEN, "user": {"id": "usr_1", "username": USERNAME, "role": self.role}}
        return accepted(data, **{"set-cookie": cookie})

    def backup_headers(self) -> dict[str, str]:
        usual = {
            "content-type": "application/octet-stream",
            "content-disposition": f"attachment; filename={FILE_NAME}",
            "content-length": str(len(self.content)),
            **self.headers,
        }
        return {name: value for name, value in usual.items() if value is not None}


def _handler(console: Console) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            status, headers, content = console.answer(self.command, self.path, self.headers, body)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.path == BACKUP and console.stream is not None:
                    console.stream(self.wfile)
                else:
                    self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *arguments: object) -> None:
            """Keep the tests' output free of it."""

    return Handler


class _QuietServer(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that ends the handshake is what some tests are about."""


@contextlib.contextmanager
def serving_console(console: Console, certificate: Path | None = None) -> Iterator[Console]:
    """Serve until the end of the block, over TLS with a certificate and its key in one PEM file."""
    server = _QuietServer(("127.0.0.1", 0), _handler(console))
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    console.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield console
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class PrivateAuthority:
    """A CA that no host trusts; `file` is its certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A private CA")])
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        extensions = [x509.BasicConstraints(True, None), usage]
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._signed(self._name, self._key, extensions, 30))

    def certificate(self, address: str = "127.0.0.1", days: int = 30) -> Path:
        """A PEM file with a certificate for an address, and its key; negative days are over."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "console")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        signed = self._signed(subject, key, [names], days)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = self.folder / f"{address}-{days}.pem"
        file.write_bytes(signed + private)
        return file

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extensions: list[x509.ExtensionType], days: int
    ) -> bytes:
        now = datetime.now(UTC)
        public, serial = key.public_key(), x509.random_serial_number()
        begin, end = now - timedelta(60), now + timedelta(days)
        builder = x509.CertificateBuilder(self._name, subject, public, serial, begin, end)
        for extension in extensions:
            critical = not isinstance(extension, x509.SubjectAlternativeName)
            builder = builder.add_extension(extension, critical)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        signed = builder.add_extension(issuer, False).sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)
