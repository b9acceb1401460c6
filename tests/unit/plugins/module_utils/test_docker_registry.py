# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Docker Engine answered, repeated over a Unix socket.

The answers were recorded from Docker 20.10.24, asked about a docker-registry 2.8 and about registries that refuse.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import socketserver
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.docker_registry import (
    EngineSettings,
    RegistryRefusedError,
    RegistryUnreachableError,
    RemoteImage,
    RemoteImageError,
    RemoteImageMissingError,
    find_remote_image,
    get_engine_settings,
    host_platform,
    local_image_size,
)
from ansible_collections.capsule.opstage.plugins.module_utils.image_reference import ImageReferenceError

Answer = tuple[int, bytes]

HOST = "registry.testbed:5000"
REPOSITORY = f"{HOST}/xtrape-com/xtrape-capsule-ce"
REFERENCE = f"{REPOSITORY}:0.2.0"
DIGEST = "sha256:f73a16975c880371f74cd93f7158642a91e2e98611edc023a0a2066e31cbd613"
INDEX_DIGEST = "sha256:844e10aff141eba4195cee711da4d668b759682809ba77e510f74709d7ccf341"
PASSWORD = "correct ????~~~~ battery"

VERSION = (
    b'{"Platform":{"Name":""},"Version":"20.10.24+dfsg1","ApiVersion":"1.41","MinAPIVersion":"1.12",'
    b'"GitCommit":"5d6db84","GoVersion":"go1.19.8","Os":"linux","Arch":"amd64"}\n'
)
IMAGE = (
    b'{"Descriptor":{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","digest":"'
    + DIGEST.encode()
    + b'","size":945},"Platforms":[{"architecture":"amd64","os":"linux"}]}\n'
)
INDEX = (
    b'{"Descriptor":{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"'
    + INDEX_DIGEST.encode()
    + b'","size":1207},"Platforms":[{"architecture":"amd64","os":"linux"},{"architecture":"arm64","os":"linux",'
    b'"variant":"v8"},{"architecture":"arm","os":"linux","variant":"v6"},{"architecture":"arm","os":"linux","variant":"v7"},'
    b'{"architecture":"unknown","os":"unknown"}]}\n'
)


def saying(status: int, words: str) -> Answer:
    """A failure as the Engine reports it."""
    return status, json.dumps({"message": words}).encode()


def decoded(login: str) -> Any:
    """What the header has, in the alphabet of addresses; the Engine passes over one in another."""
    assert not set(login) & set("+/")
    return json.loads(base64.urlsafe_b64decode(login))


class Engine:
    """A server on a Unix socket; `asked` has the path and the registry credentials of each request."""

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, Answer] = {"/version": (200, VERSION)}
        self.asked: list[tuple[str, dict[str, Any] | None]] = []
        self.hold = threading.Event()
        self.hold.set()
        engine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                login = self.headers.get("X-Registry-Auth")
                engine.asked.append((self.path, None if login is None else decoded(login)))
                status, body = engine.answers.get(self.path, saying(404, "page not found"))
                if self.path != "/version":
                    engine.hold.wait(30)
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    self.send_header("Api-Version", "1.41")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output free of it."""

        self.server = socketserver.ThreadingUnixStreamServer(str(path), Handler)

    def has(self, reference: str, answer: Answer) -> None:
        self.answers[f"/v1.41/distribution/{reference}/json"] = answer

    @property
    def login(self) -> dict[str, Any] | None:
        """The credentials that came with the last request."""
        return self.asked[-1][1]


@pytest.fixture
def docker_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Docker's config.json, which does not exist yet; the credential helpers are those in `bin`."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    return tmp_path / ".docker"


@pytest.fixture
def engine(tmp_path: Path, docker_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    engine = Engine(path)
    engine.has(REFERENCE, (200, IMAGE))
    with engine.server:
        thread = threading.Thread(target=engine.server.serve_forever, args=(0.01,))
        thread.start()
        yield engine
        engine.hold.set()
        engine.server.shutdown()
        thread.join()


def configure(folder: Path, settings: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def add_helper(folder: Path, name: str, script: str) -> None:
    """A credential helper that keeps its argument and what it reads in `bin/asked`."""
    program = folder / "bin" / f"docker-credential-{name}"
    program.write_text(f'#!/bin/sh\n{{ echo "$1"; cat; }} >{folder}/bin/asked\n{script}\n')
    program.chmod(0o755)


def failure(engine: Engine, answer: Answer, kind: type[Exception], reference: str = REFERENCE) -> str:
    engine.has(reference, answer)
    with pytest.raises(kind) as caught:
        find_remote_image(reference)
    assert caught.type is kind
    return str(caught.value)


class TestAnswers:
    def test_one_manifest(self, engine: Engine) -> None:
        assert find_remote_image(REFERENCE) == RemoteImage(DIGEST, ["linux/amd64"])
        assert engine.asked == [("/version", None), (f"/v1.41/distribution/{REFERENCE}/json", None)]

    def test_an_index_with_variants_and_attestations(self, engine: Engine) -> None:
        engine.has(REFERENCE, (200, INDEX))
        assert find_remote_image(REFERENCE) == RemoteImage(INDEX_DIGEST, ["linux/amd64", "linux/arm64", "linux/arm"])

    @pytest.mark.parametrize("platforms", [b"null", b"[]"])
    def test_no_platforms(self, engine: Engine, platforms: bytes) -> None:
        engine.has(
            REFERENCE, (200, b'{"Descriptor":{"digest":"' + DIGEST.encode() + b'"},"Platforms":' + platforms + b"}")
        )
        assert find_remote_image(REFERENCE) == RemoteImage(DIGEST, [])

    def test_by_digest(self, engine: Engine) -> None:
        engine.has(f"{REPOSITORY}@{DIGEST}", (200, IMAGE))
        assert find_remote_image(f"{REPOSITORY}@{DIGEST}").digest == DIGEST

    def test_the_engine_s_own_version_of_the_interface(self, engine: Engine) -> None:
        engine.answers = {
            "/version": (200, VERSION.replace(b'"1.41"', b'"1.52"')),
            f"/v1.52/distribution/{REFERENCE}/json": (200, INDEX),
        }
        assert find_remote_image(REFERENCE).digest == INDEX_DIGEST

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"null",
            b"{}",
            b'{"Descriptor":null,"Platforms":[]}',
            b'{"Descriptor":{"digest":"sha256:12"},"Platforms":[]}',
            b'{"Descriptor":{"digest":"' + DIGEST.encode() + b'"},"Platforms":[{"os":"linux"}]}',
        ],
    )
    def test_another_answer(self, engine: Engine, body: bytes) -> None:
        assert "is not understood" in failure(engine, (200, body), DockerError)

    def test_no_reference(self, engine: Engine) -> None:
        with pytest.raises(ImageReferenceError):
            find_remote_image(f"{HOST}/../../containers/json?a=")
        assert engine.asked == []

    def test_platform_of_the_host(self, engine: Engine) -> None:
        assert host_platform() == "linux/amd64"
        engine.answers["/version"] = (200, VERSION.replace(b'"amd64"', b'"arm64"'))
        assert host_platform() == "linux/arm64"


class TestFailures:
    @pytest.mark.parametrize("words", ["manifest unknown: manifest unknown", "name unknown"])
    def test_missing(self, engine: Engine, words: str) -> None:
        assert failure(engine, saying(404, words), RemoteImageMissingError) == (
            f'{REFERENCE} is not in its registry: the Docker Engine says "{words}" (HTTP 404). Expected a tag that was '
            "published: see the name and the tag."
        )

    @pytest.mark.parametrize("answer", [saying(404, "page not found"), (404, b"Not Found\n"), (404, b"{}")])
    def test_an_engine_that_cannot_ask(self, engine: Engine, answer: Answer) -> None:
        """The registry was not asked, so nothing is known about the tag."""
        assert REFERENCE in failure(engine, answer, DockerError)

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (401, "unauthorized"),
            (403, "denied"),
            (
                403,
                "errors:\ndenied: requested access to the resource is denied\nunauthorized: authentication required\n",
            ),
            (429, "toomanyrequests: You have reached your pull rate limit."),
            (500, f'Head "https://{HOST}/v2/a/b/manifests/1": no basic auth credentials'),
            (500, f'Head "https://{HOST}/v2/a/b/manifests/1": unauthorized'),
            (500, f'Head "https://{HOST}/v2/a/b/manifests/1": denied: denied'),
            (
                500,
                "error parsing HTTP 403 response body: invalid character '<' looking for beginning of value: \"<p>\"",
            ),
            (500, "received unexpected HTTP status: 403 Forbidden"),
        ],
    )
    def test_refused(self, engine: Engine, status: int, words: str) -> None:
        assert failure(engine, saying(status, words), RegistryRefusedError) == (
            f"The registry does not let this host read {REFERENCE}: the Docker Engine says "
            f'"{" ".join(words.split())}" (HTTP {status}). Run `docker login {HOST}` on the host, as the user that '
            "runs this, with an account that may read it; see too that there is such a repository."
        )

    @pytest.mark.parametrize("repository", ["xtrape/opstage-ce", "docker.io/xtrape/opstage-ce"])
    def test_refused_by_docker_hub(self, engine: Engine, repository: str) -> None:
        words = failure(engine, saying(401, "unauthorized"), RegistryRefusedError, f"{repository}:1")
        assert "`docker login` on the host" in words

    @pytest.mark.parametrize(
        "words",
        [
            'Get "http://127.0.0.1:9/v2/": dial tcp 127.0.0.1:9: connect: connection refused',
            'Get "https://ghcr.io/v2/": dial tcp: lookup ghcr.io on 10.255.255.53:53: no such host',
            'Get "https://172.18.0.2:5000/v2/": http: server gave HTTP response to HTTPS client',
            'Get "https://172.18.0.1:46625/v2/": x509: certificate signed by unknown authority',
            'Get "https://172.18.0.1:46625/v2/": dial tcp 172.18.0.1:46625: connect: permission denied',
            'Get "https://unauthorized.example/v2/": net/http: TLS handshake timeout',
            "received unexpected HTTP status: 503 Service Unavailable",
            'error parsing HTTP 404 response body: unexpected end of JSON input: ""',
            "missing signature key",
        ],
    )
    def test_unreachable(self, engine: Engine, words: str) -> None:
        assert failure(engine, saying(500, words), RegistryUnreachableError) == (
            f'The registry gave no usable answer about {REFERENCE}: the Docker Engine says "{words}" (HTTP 500). See '
            "that this host reaches the registry and that the Docker Engine trusts its certificate."
        )

    def test_a_registry_that_keeps_the_engine_waiting(self, engine: Engine) -> None:
        engine.hold.clear()
        with pytest.raises(RegistryUnreachableError, match=r"gave the Docker Engine no answer within 0\.2 s"):
            find_remote_image(REFERENCE, timeout=0.2)

    def test_the_engine_does_not_take_the_reference(self, engine: Engine) -> None:
        assert "invalid reference format" in failure(engine, saying(400, "invalid reference format"), DockerError)

    def test_each_kind_is_a_remote_image_error(self) -> None:
        for kind in (RemoteImageMissingError, RegistryUnreachableError, RegistryRefusedError):
            assert issubclass(kind, RemoteImageError)

    def test_a_page_is_not_repeated_in_full(self, engine: Engine) -> None:
        page = 'error parsing HTTP 502 response body: "' + "<p>sorry</p>\n" * 1000
        assert len(failure(engine, saying(500, page), RegistryUnreachableError)) < 1000


class TestSettings:
    INFO: ClassVar[dict[str, Any]] = {
        "DockerRootDir": "/var/lib/docker",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"],
            "IndexConfigs": {
                "docker.io": {"Name": "docker.io", "Mirrors": [], "Secure": True, "Official": True},
                HOST: {"Name": HOST, "Mirrors": [], "Secure": False, "Official": False},
            },
            "Mirrors": None,
        },
        "HttpProxy": "http://xxxxx:xxxxx@proxy:3128",
        "NoProxy": "registry.testbed",
    }

    def test_what_counts_for_images(self, engine: Engine) -> None:
        engine.answers["/info"] = (200, json.dumps(self.INFO).encode())
        assert get_engine_settings() == EngineSettings(
            data_root="/var/lib/docker",
            insecure_registries=frozenset({HOST}),
            insecure_networks=("::1/128", "127.0.0.0/8"),
            http_proxy="http://xxxxx:xxxxx@proxy:3128",
            https_proxy="",
            no_proxy="registry.testbed",
        )

    @pytest.mark.parametrize("body", [b'{"DockerRootDir":"/d","RegistryConfig":null}', b'{"DockerRootDir":"/d"}'])
    def test_what_is_not_said(self, engine: Engine, body: bytes) -> None:
        engine.answers["/info"] = (200, body)
        assert get_engine_settings() == EngineSettings("/d", frozenset(), (), "", "", "")

    @pytest.mark.parametrize("answer", [(200, b"{}"), (200, b"<p>"), saying(500, "no"), saying(404, "no")])
    def test_another_answer(self, engine: Engine, answer: Answer) -> None:
        engine.answers["/info"] = answer
        with pytest.raises(DockerError):
            get_engine_settings()

    def test_size_of_an_image_that_is_here(self, engine: Engine) -> None:
        engine.answers[f"/images/{REPOSITORY}@{DIGEST}/json"] = (200, b'{"Id":"sha256:1","Size":1234}')
        assert local_image_size(f"{REPOSITORY}@{DIGEST}") == 1234
        engine.answers[f"/images/{DIGEST}/json"] = saying(404, f"No such image: {DIGEST}")
        assert local_image_size(DIGEST) is None

    @pytest.mark.parametrize("answer", [(200, b"{}"), (200, b'{"Size":null}'), saying(500, "no")])
    def test_size_that_is_not_said(self, engine: Engine, answer: Answer) -> None:
        engine.answers[f"/images/{DIGEST}/json"] = answer
        with pytest.raises(DockerError):
            local_image_size(DIGEST)


class TestEngine:
    def test_none(self, tmp_path: Path, docker_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
        with pytest.raises(DockerError, match=rf"cannot be asked at {tmp_path}/none\.sock: .*No such file"):
            find_remote_image(REFERENCE)
        with pytest.raises(DockerError, match="No such file"):
            host_platform()

    @pytest.mark.parametrize(
        ("host", "named"),
        [
            ("tcp://user:hidden@10.0.0.1:2375", "tcp"),
            ("ssh://root@host", "ssh"),
            ("/run/docker.sock", "no"),
            ("unix://", "unix"),
        ],
    )
    def test_another_way_to_it(self, host: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(DockerError, match=f"names an Engine by {named} scheme, expected unix://PATH") as caught:
            find_remote_image(REFERENCE)
        assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize("answer", [saying(500, "no"), (200, b"<html>"), (200, b"[]")])
    def test_something_else_at_the_socket(self, engine: Engine, answer: Answer) -> None:
        engine.answers["/version"] = answer
        with pytest.raises(DockerError, match="is this a Docker Engine"):
            host_platform()

    @pytest.mark.parametrize("version", [b"", b"{}", b"null", b'"1.41/../x"'])
    def test_a_version_that_is_none(self, engine: Engine, version: bytes) -> None:
        engine.answers["/version"] = (200, b'{"ApiVersion":' + (version or b'""') + b"}")
        with pytest.raises(DockerError, match="expected a version such as"):
            find_remote_image(REFERENCE)
        with pytest.raises(DockerError, match="'Os' is missing"):
            host_platform()

    def test_it_listens_and_never_answers(
        self, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine.server.shutdown()
        with pytest.raises(DockerError, match=r"gave no answer within 0\.2 s: is it running\?"):
            find_remote_image(REFERENCE, timeout=0.2)


class TestLogin:
    @pytest.mark.parametrize("name", [HOST, f"https://{HOST}", f"http://{HOST}/v2/"])
    def test_of_a_registry(self, engine: Engine, docker_folder: Path, name: str) -> None:
        configure(docker_folder, {"auths": {name: {"auth": encoded(f"reader:{PASSWORD}:x")}, "ghcr.io": {}}})
        find_remote_image(REFERENCE)
        assert engine.login == {"username": "reader", "password": f"{PASSWORD}:x", "serveraddress": HOST}
        assert engine.asked[0] == ("/version", None)

    def test_a_password_that_was_padded(self, engine: Engine, docker_folder: Path) -> None:
        configure(docker_folder, {"auths": {HOST: {"auth": encoded("reader:right\0\0")}}})
        find_remote_image(REFERENCE)
        assert engine.login == {"username": "reader", "password": "right", "serveraddress": HOST}

    def test_its_own_folder(
        self, engine: Engine, docker_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        configure(docker_folder, {"auths": {HOST: {"auth": encoded("wrong:wrong")}}})
        configure(tmp_path / "other", {"auths": {HOST: {"auth": encoded("reader:right")}}})
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "other"))
        find_remote_image(REFERENCE)
        assert engine.login == {"username": "reader", "password": "right", "serveraddress": HOST}

    @pytest.mark.parametrize("repository", ["xtrape/opstage-ce", "docker.io/a/b", "index.docker.io/a/b"])
    def test_of_docker_hub(self, engine: Engine, docker_folder: Path, repository: str) -> None:
        hub = "https://index.docker.io/v1/"
        configure(docker_folder, {"auths": {hub: {"auth": encoded("reader:right")}}})
        engine.has(f"{repository}:1", (200, IMAGE))
        find_remote_image(f"{repository}:1")
        assert engine.login == {"username": "reader", "password": "right", "serveraddress": hub}

    def test_with_a_token(self, engine: Engine, docker_folder: Path) -> None:
        configure(docker_folder, {"auths": {HOST: {"auth": encoded("0000:"), "identitytoken": "a token"}}})
        find_remote_image(REFERENCE)
        assert engine.login == {
            "username": "0000",
            "password": "",
            "identitytoken": "a token",
            "serveraddress": HOST,
        }

    @pytest.mark.parametrize(
        "settings",
        [{}, {"auths": {}}, {"auths": {"ghcr.io": {"auth": encoded("a:b")}}}, {"auths": {HOST: {}}}],
    )
    def test_none(self, engine: Engine, docker_folder: Path, settings: Mapping[str, object]) -> None:
        configure(docker_folder, settings)
        find_remote_image(REFERENCE)
        assert engine.login is None

    @pytest.mark.parametrize(
        "settings",
        [
            [],
            {"auths": []},
            {"auths": {HOST: "secret-1"}},
            {"auths": {HOST: {"auth": "secret-1"}}},
            {"auths": {HOST: {"auth": encoded("secret-1")}}},
            {"auths": {HOST: {"auth": 5}}},
            {"credHelpers": "secret-1"},
        ],
    )
    def test_that_cannot_be_read(self, engine: Engine, docker_folder: Path, settings: object) -> None:
        """The registry is asked without; only where it then refuses is that worth telling."""
        configure(docker_folder, settings)
        assert find_remote_image(REFERENCE).digest == DIGEST
        assert engine.login is None
        words = failure(engine, saying(401, "unauthorized"), RegistryRefusedError)
        assert f"asked without credentials: {docker_folder}/config.json is not as `docker login` writes it." in words
        assert "secret-1" not in words

    def test_that_may_not_be_read(self, engine: Engine, docker_folder: Path) -> None:
        docker_folder.mkdir()
        os.symlink("config.json", docker_folder / "config.json")
        words = failure(engine, saying(401, "unauthorized"), RegistryRefusedError)
        assert f"{docker_folder}/config.json cannot be read: Too many levels of symbolic links" in words

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (401, RegistryRefusedError),
            (404, RemoteImageMissingError),
            (500, RegistryUnreachableError),
            (400, DockerError),
        ],
    )
    def test_is_never_shown(self, engine: Engine, docker_folder: Path, status: int, kind: type[Exception]) -> None:
        configure(docker_folder, {"auths": {HOST: {"auth": encoded(f"reader:{PASSWORD}"), "identitytoken": "tok-1"}}})
        answer = saying(status, f"bad: {PASSWORD} tok-1, invalid proxy address http://me:tok-2@proxy:3128")
        words = failure(engine, answer, kind)
        assert PASSWORD not in words
        assert "tok-1" not in words
        assert "bad: *** ***, invalid proxy address http://***@proxy:3128" in words


class TestHelpers:
    GIVEN = json.dumps({"ServerURL": HOST, "Username": "reader", "Secret": "kept elsewhere"})

    def test_for_all(self, engine: Engine, docker_folder: Path, tmp_path: Path) -> None:
        configure(docker_folder, {"auths": {HOST: {}}, "credsStore": "pass"})
        add_helper(tmp_path, "pass", f"echo '{self.GIVEN}'")
        find_remote_image(REFERENCE)
        assert engine.login == {"username": "reader", "password": "kept elsewhere", "serveraddress": HOST}
        assert (tmp_path / "bin" / "asked").read_text() == f"get\n{HOST}"

    def test_for_one_registry_comes_first(self, engine: Engine, docker_folder: Path, tmp_path: Path) -> None:
        configure(docker_folder, {"credsStore": "missing", "credHelpers": {HOST: "own", "ghcr.io": "missing"}})
        add_helper(tmp_path, "own", """echo '{"Username":"<token>","Secret":"a token"}'""")
        find_remote_image(REFERENCE)
        assert engine.login == {"identitytoken": "a token", "serveraddress": HOST}

    def test_none_for_one_registry(self, engine: Engine, docker_folder: Path) -> None:
        auths = {HOST: {"auth": encoded("reader:right")}}
        configure(docker_folder, {"auths": auths, "credsStore": "missing", "credHelpers": {HOST: ""}})
        find_remote_image(REFERENCE)
        assert engine.login == {"username": "reader", "password": "right", "serveraddress": HOST}

    def test_it_has_none(self, engine: Engine, docker_folder: Path, tmp_path: Path) -> None:
        configure(docker_folder, {"credsStore": "pass"})
        add_helper(tmp_path, "pass", "echo credentials not found in native keychain; exit 1")
        find_remote_image(REFERENCE)
        assert engine.login is None
        assert "without credentials" not in failure(engine, saying(401, "unauthorized"), RegistryRefusedError)

    @pytest.mark.parametrize(
        ("script", "reason"),
        [
            (
                "echo secret-1; echo secret-1 >&2; exit 3",
                f"`docker-credential-pass get` failed for {HOST} with exit code 3",
            ),
            ("echo secret-1", f"`docker-credential-pass get` gave no user name and secret for {HOST}"),
            (
                """echo '{"Secret":"secret-1"}'""",
                f"`docker-credential-pass get` gave no user name and secret for {HOST}",
            ),
            ("""echo '["secret-1"]'""", f"`docker-credential-pass get` gave no user name and secret for {HOST}"),
            (
                "exec sleep 30",
                "docker-credential-pass, which Docker's config.json names, cannot be run: no answer within 2 s",
            ),
        ],
    )
    def test_it_fails(self, engine: Engine, docker_folder: Path, tmp_path: Path, script: str, reason: str) -> None:
        configure(docker_folder, {"credsStore": "pass"})
        add_helper(tmp_path, "pass", script)
        engine.has(REFERENCE, saying(401, "unauthorized"))
        with pytest.raises(RegistryRefusedError) as caught:
            find_remote_image(REFERENCE, timeout=2)
        assert f"It was asked without credentials: {reason}." in str(caught.value)
        assert "secret-1" not in str(caught.value)

    def test_it_is_missing(self, engine: Engine, docker_folder: Path) -> None:
        configure(docker_folder, {"credsStore": "missing"})
        assert find_remote_image(REFERENCE).digest == DIGEST
        words = failure(engine, saying(401, "unauthorized"), RegistryRefusedError)
        assert "docker-credential-missing, which Docker's config.json names, cannot be run: it is not on PATH." in words
