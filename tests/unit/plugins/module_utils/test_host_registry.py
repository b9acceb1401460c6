# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry on a port of 127.0.0.1, which answers as distribution 2.8 and as those with a token server do."""

from __future__ import annotations

import base64
import http.server
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import host_registry
from ansible_collections.capsule.opstage.plugins.module_utils.docker_registry import EngineSettings
from ansible_collections.capsule.opstage.plugins.module_utils.host_registry import Registry, RegistryQuestionError

ENGINE = EngineSettings("/var/lib/docker", frozenset(), ("127.0.0.0/8", "::1/128"), "", "", "")
STRICT = EngineSettings("/var/lib/docker", frozenset(), (), "", "", "")
NAME = "xtrape-com/xtrape-capsule-ce"
LIST = f"/v2/{NAME}/tags/list"
FIRST = f"{LIST}?n=1000"
ONE, TWO = ("sha256:" + digit * 64 for digit in "12")
PASSWORD = "correct-horse"


class Server:
    """`answers` are by path: status, headers, JSON; `asked` has path and authorization of each request."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], Any]] = {}
        self.token: str | None = None
        self.challenge = ""
        self.asked: list[tuple[str, str | None]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                authorization = self.headers.get("Authorization")
                server.asked.append((self.path, authorization))
                status, headers, document = server.answers.get(self.path, (404, {}, {"errors": []}))
                if self.path.startswith("/v2/") and server.token is not None and authorization != server.token:
                    status, headers, document = 401, {"WWW-Authenticate": server.challenge}, {"errors": []}
                body = document if isinstance(document, bytes) else json.dumps(document).encode()
                with suppress(ConnectionError):
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(body)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output free of it."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"

    def has(self, path: str, document: Any, status: int = 200, **headers: str) -> None:
        self.answers[path] = (status, headers, document)

    def registry(self, engine: EngineSettings = ENGINE) -> Registry:
        return Registry(f"{self.host}/{NAME}", engine)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()


@pytest.fixture(autouse=True)
def docker_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Docker's config.json, which does not exist yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setattr(host_registry, "CERTIFICATES", str(tmp_path / "certs.d"))
    return tmp_path / "docker"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with server.running():
        yield server


def log_in(folder: Path, host: str) -> str:
    """Leave what `docker login` does; returns the header that goes with it."""
    folder.mkdir()
    pair = base64.b64encode(f"somebody:{PASSWORD}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": pair}}}))
    return f"Basic {pair}"


def failure(registry: Registry) -> str:
    with pytest.raises(RegistryQuestionError) as caught:
        registry.tags()
    return str(caught.value)


class TestTags:
    def test_one_page(self, server: Server) -> None:
        server.has(FIRST, {"name": NAME, "tags": ["0.2.0", "edge"]})
        assert server.registry().tags() == ["0.2.0", "edge"]
        assert server.asked == [(FIRST, None)]

    @pytest.mark.parametrize("document", [{"name": NAME, "tags": None}, {"name": NAME, "tags": []}])
    def test_none(self, server: Server, document: Any) -> None:
        server.has(FIRST, document)
        assert server.registry().tags() == []

    @pytest.mark.parametrize("base", ["", "http://{host}"])
    def test_pages(self, server: Server, base: str) -> None:
        """A link may be relative or not."""
        address = base.format(host=server.host)
        server.has(FIRST, {"tags": ["0.1.0"]}, Link=f'<{address}{LIST}?last=0.1.0&n=1>; rel="next"')
        server.has(f"{LIST}?last=0.1.0&n=1", {"tags": ["0.2.0"]}, Link=f"<{LIST}?last=0.2.0&n=1>;rel=next")
        server.has(f"{LIST}?last=0.2.0&n=1", {"tags": ["0.3.0"]})
        assert server.registry().tags() == ["0.1.0", "0.2.0", "0.3.0"]

    @pytest.mark.parametrize("link", ["http://example.com/v2/x", "//example.com/v2/x", "/elsewhere", FIRST])
    def test_a_page_that_is_somewhere_else(self, server: Server, link: str) -> None:
        server.has(FIRST, {"tags": ["0.1.0"]}, Link=f'<{link}>; rel="next"')
        assert "goes on at" in failure(server.registry())

    def test_pages_without_end(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host_registry, "TOTAL_SECONDS", 0.2)
        server.has(FIRST, {"tags": ["0.1.0"]}, Link=f'<{LIST}?a>; rel="next"')
        server.has(f"{LIST}?a", {"tags": ["0.1.0"]}, Link=f'<{LIST}?b>; rel="next"')
        server.has(f"{LIST}?b", {"tags": ["0.1.0"]}, Link=f'<{LIST}?a>; rel="next"')
        assert "did not list all tags within 0.2 s" in failure(server.registry())

    @pytest.mark.parametrize("document", [b"<html>", [], {"tags": "all"}, {"tags": [1]}])
    def test_another_answer(self, server: Server, document: Any) -> None:
        server.has(FIRST, document)
        failure(server.registry())

    @pytest.mark.parametrize("status", [404, 403, 500, 429])
    def test_a_refusal(self, server: Server, status: int) -> None:
        server.has(FIRST, {}, status)
        assert f"answered HTTP {status}" in failure(server.registry())

    def test_nobody_there(self) -> None:
        server = Server()
        server.server.server_close()
        assert "did not answer" in failure(server.registry())

    def test_no_answer_in_time(self) -> None:
        with silent_listener() as host:
            assert "did not answer" in failure(Registry(f"{host}/{NAME}", ENGINE, timeout=0.2))


@contextmanager
def silent_listener() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


class TestTrust:
    def test_only_an_insecure_registry_is_asked_without_tls(self, server: Server) -> None:
        server.has(FIRST, {"tags": ["0.1.0"]})
        assert "did not answer" in failure(server.registry(STRICT))
        assert server.asked == []
        by_name = EngineSettings("/", frozenset({server.host}), (), "", "", "")
        assert server.registry(by_name).tags() == ["0.1.0"]

    def test_with_tls(self, tmp_path: Path) -> None:
        key, certificate = tmp_path / "key", tmp_path / "certificate"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )  # fmt: skip
        server = Server()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.server.socket = context.wrap_socket(server.server.socket, server_side=True)
        server.has(FIRST, {"tags": ["0.1.0"]})
        with server.running():
            assert "CERTIFICATE_VERIFY_FAILED" in failure(server.registry(STRICT))
            assert server.registry(ENGINE).tags() == ["0.1.0"]
            folder = tmp_path / "certs.d" / server.host
            folder.mkdir(parents=True)
            (folder / "ca.crt").write_bytes(certificate.read_bytes())
            assert server.registry(STRICT).tags() == ["0.1.0"]

    def test_the_engine_s_proxy(self, server: Server) -> None:
        through = EngineSettings("/", frozenset({"registry.test"}), (), f"http://{server.host}", "", "")
        server.has(f"http://registry.test{FIRST}", {"tags": ["0.1.0"]})
        assert Registry(f"registry.test/{NAME}", through).tags() == ["0.1.0"]
        for left_out in ("registry.test", ".test", "*.test", "other, test"):
            around = EngineSettings("/", frozenset({"registry.test"}), (), f"http://{server.host}", "", left_out)
            assert "did not answer" in failure(Registry(f"registry.test/{NAME}", around))

    def test_docker_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def get(_registry: Registry, address: str, *_arguments: str) -> tuple[dict[str, Any], dict[str, str]]:
            asked.append(address)
            return {"tags": []}, {}

        monkeypatch.setattr(Registry, "_get", get)
        for repository in ("opstage", "docker.io/xtrape/opstage"):
            Registry(repository, STRICT).tags()
        assert asked == [
            "https://registry-1.docker.io/v2/library/opstage/tags/list?n=1000",
            "https://registry-1.docker.io/v2/xtrape/opstage/tags/list?n=1000",
        ]


class TestLogin:
    def guard(self, server: Server, token: str = "Bearer secret-token") -> None:
        server.token = token
        server.challenge = f'Bearer realm="http://{server.host}/token",service="registry",scope="ignored"'
        server.has(FIRST, {"tags": ["0.1.0"]}, Link=f"<{LIST}?last=0.1.0>; rel=next")
        server.has(f"{LIST}?last=0.1.0", {"tags": ["0.2.0"]})

    def query(self) -> str:
        return f"/token?scope=repository%3A{NAME.replace('/', '%2F')}%3Apull&service=registry"

    @pytest.mark.parametrize("name", ["token", "access_token"])
    def test_a_token_for_everybody(self, server: Server, name: str) -> None:
        self.guard(server)
        server.has(self.query(), {name: "secret-token"})
        assert server.registry().tags() == ["0.1.0", "0.2.0"]
        assert server.asked == [
            (FIRST, None),
            (self.query(), None),
            (FIRST, "Bearer secret-token"),
            (f"{LIST}?last=0.1.0", "Bearer secret-token"),
        ]

    def test_a_token_for_a_user(self, server: Server, docker_folder: Path) -> None:
        login = log_in(docker_folder, server.host)
        self.guard(server)
        server.has(self.query(), {"token": "secret-token"})
        assert server.registry().tags() == ["0.1.0", "0.2.0"]
        assert server.asked[1] == (self.query(), login)

    def test_name_and_password(self, server: Server, docker_folder: Path) -> None:
        login = log_in(docker_folder, server.host)
        self.guard(server, login)
        server.challenge = 'Basic realm="Registry"'
        assert server.registry().tags() == ["0.1.0", "0.2.0"]

    def test_no_login(self, server: Server) -> None:
        self.guard(server)
        server.challenge = 'Basic realm="Registry"'
        assert "wants a login that this host does not have" in failure(server.registry())

    def test_a_login_that_is_refused(self, server: Server, docker_folder: Path) -> None:
        log_in(docker_folder, server.host)
        self.guard(server)
        assert "gave no token" in failure(server.registry())
        server.has(self.query(), {"token": "another"})
        words = failure(server.registry())
        assert "answered HTTP 401" in words
        assert PASSWORD not in words

    @pytest.mark.parametrize("realm", ["file:///etc/passwd", "ftp://example.com/token", "", "https://["])
    def test_a_realm_to_which_nothing_is_sent(self, server: Server, docker_folder: Path, realm: str) -> None:
        log_in(docker_folder, server.host)
        self.guard(server)
        server.challenge = f'Bearer realm="{realm}",service="registry"'
        failure(server.registry())
        assert len(server.asked) == 1

    def test_a_redirection_gets_no_authorization(self, server: Server) -> None:
        self.guard(server)
        server.has(self.query(), {"token": "secret-token"})
        server.has(FIRST, b"", 307, Location=f"http://{server.host}/elsewhere")
        server.has("/elsewhere", {"tags": ["0.1.0"]})
        assert server.registry().tags() == ["0.1.0"]
        assert server.asked[-1] == ("/elsewhere", None)


class TestSize:
    MANIFEST: ClassVar[dict[str, Any]] = {"config": {"size": 10}, "layers": [{"size": 200}, {"size": 3000}]}

    def test_one_manifest(self, server: Server) -> None:
        server.has(f"/v2/{NAME}/manifests/{ONE}", self.MANIFEST)
        assert server.registry().layers_size(ONE, "linux/amd64") == 3210

    def test_an_index(self, server: Server) -> None:
        platforms = [("unknown", "unknown"), ("linux", "arm64"), ("linux", "amd64")]
        digests = ["sha256:x", "sha256:y", TWO]
        listed = [
            {"digest": digest, "platform": {"os": system, "architecture": architecture}}
            for digest, (system, architecture) in zip(digests, platforms, strict=True)
        ]
        server.has(f"/v2/{NAME}/manifests/{ONE}", {"manifests": listed})
        server.has(f"/v2/{NAME}/manifests/{TWO}", self.MANIFEST)
        assert server.registry().layers_size(ONE, "linux/amd64") == 3210
        with pytest.raises(RegistryQuestionError, match="nothing for linux/s390x"):
            server.registry().layers_size(ONE, "linux/s390x")

    @pytest.mark.parametrize(
        "document",
        [
            {},
            {"config": {"size": 1}, "layers": [{"size": "many"}]},
            {"config": {"size": 1}, "layers": None},
            {"manifests": [1]},
            {"manifests": None},
            {"manifests": [{"platform": {"os": "linux", "architecture": "amd64"}}]},
        ],
    )
    def test_another_answer(self, server: Server, document: Any) -> None:
        server.has(f"/v2/{NAME}/manifests/{ONE}", document)
        with pytest.raises(RegistryQuestionError):
            server.registry().layers_size(ONE, "linux/amd64")
