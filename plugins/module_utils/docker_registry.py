# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Questions about an image in its registry, asked by the Docker Engine: nothing is pulled.

The Engine that asks is the one that would pull, so its mirrors, proxies, insecure registries and certificates hold.
Its interface: https://docs.docker.com/reference/api/engine/
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import urllib.parse
from dataclasses import dataclass
from typing import Any, Mapping

from .command import CommandTimeoutError, stream_command
from .docker_command import DockerError
from .image_reference import ImageReferenceError, parse_image_reference, validate_digest

DEFAULT_SOCKET = "/var/run/docker.sock"

DEFAULT_TIMEOUT = 30.0
"""Seconds that one answer may take."""

ANSWER_LIMIT = 1 << 20
"""Bytes that are read of an answer; one about an image has a few hundred."""

WORDS_LIMIT = 500
"""Characters that are repeated of what the Engine says; a proxy's whole page can be in it."""

DOCKER_HUB = "https://index.docker.io/v1/"
"""The name under which `docker login` keeps the credentials of Docker Hub."""

DOCKER_HUB_NAMES = (None, "docker.io", "index.docker.io")

_API_VERSION = re.compile(r"[0-9]+\.[0-9]+", re.ASCII)

_REFUSAL = re.compile(
    r"no basic auth credentials|unauthorized|authentication required|(?<!permission )denied|HTTP (?:status: )?40[13]\b",
    re.IGNORECASE,
)
"""A registry's refusal reaches the client as the Engine's own failure, HTTP 500, unless the registry said it itself."""

_SECRETS = ("password", "identitytoken", "registrytoken")


class RemoteImageError(Exception):
    """The registry did not tell which image a reference names."""


class RemoteImageMissingError(RemoteImageError):
    """The registry has nothing under this reference."""


class RegistryUnreachableError(RemoteImageError):
    """The registry gave no usable answer: network, TLS, time, or a fault of its own."""


class RegistryRefusedError(RemoteImageError):
    """The registry tells this host nothing, for want of credentials or of rights."""


class LoginError(Exception):
    """What `docker login` left cannot be read."""


class _NoAnswerError(Exception):
    """The Engine took longer than it may."""


class _MissingError(DockerError):
    """The Engine has nothing at a path."""


@dataclass(frozen=True)
class RemoteImage:
    """What a registry has under a reference.

    digest: of the manifest, or of the index where there are several, as in `repository@digest`. platforms: like
    `linux/amd64`, each once, without variants (`/v8`); empty where the registry does not say.
    """

    digest: str
    platforms: list[str]


@dataclass(frozen=True)
class EngineSettings:
    """What the Engine is set to.

    data_root: absolute path of the folder that holds its images. insecure_registries: hosts (with port) that it asks
    without TLS, or without a proof of who they are; insecure_networks: the same for all hosts in them, such as
    `127.0.0.0/8`. http_proxy, https_proxy: addresses, empty for none, credentials masked; no_proxy: hosts, separated by
    commas, that it asks without a proxy.
    """

    data_root: str
    insecure_registries: frozenset[str]
    insecure_networks: tuple[str, ...]
    http_proxy: str
    https_proxy: str
    no_proxy: str


@dataclass(frozen=True)
class _Answer:
    """HTTP status and JSON of an answer; None for what is not JSON."""

    status: int
    document: Any

    @property
    def words(self) -> str:
        """The Engine's own words where it reports a failure, empty for none."""
        return str(self.document.get("message", "")) if isinstance(self.document, dict) else ""


class _EngineConnection(http.client.HTTPConnection):
    """HTTP to the Unix socket at `path`."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket; raises OSError."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def find_remote_image(reference: str, timeout: float = DEFAULT_TIMEOUT) -> RemoteImage:
    """Ask the registry of `reference` what it has under that name; without a tag and a digest, `latest` is meant.

    The credentials are those of `docker login` of the user who runs this. Should they be unreadable, the registry is
    asked without, as `docker pull` does. Each of the Engine, the registry and a credential helper may take `timeout`
    seconds. Raises RemoteImageMissingError, RegistryUnreachableError or RegistryRefusedError, DockerError where the
    Engine itself does not answer, and ImageReferenceError.
    """
    registry = parse_image_reference(reference).registry
    version = str(_get_engine_version(timeout).get("ApiVersion"))
    if _API_VERSION.fullmatch(version) is None:
        raise DockerError(f"The Docker Engine names its interface {version!r}, expected a version such as '1.41'.")
    login: dict[str, str] | None = None
    note = ""
    try:
        login = find_login(registry, timeout)
    except LoginError as error:
        note = f" It was asked without credentials: {error}."
    path = f"/v{version}/distribution/{urllib.parse.quote(reference, safe='/:@')}/json"
    try:
        answer = _ask(path, timeout, _registry_header(login))
    except _NoAnswerError as error:
        raise RegistryUnreachableError(
            f"The registry of {reference} gave the Docker Engine no answer within {timeout:g} s: see that this host "
            "reaches it."
        ) from error
    if answer.status != http.client.OK:
        raise _failure(reference, registry, answer, login or {}, note)
    return _read_remote_image(reference, answer.document)


def host_platform(timeout: float = DEFAULT_TIMEOUT) -> str:
    """Return what the Engine runs images of, as RemoteImage.platforms has it: `linux/amd64`. Raises DockerError."""
    version = _get_engine_version(timeout)
    try:
        return f"{version['Os']}/{version['Arch']}"
    except KeyError as error:
        raise DockerError(f"The Docker Engine does not say for which platform it is: {error} is missing.") from error


def get_engine_settings(timeout: float = DEFAULT_TIMEOUT) -> EngineSettings:
    """Return the settings of the Engine that count for its images. Raises DockerError."""
    found = _get_document("/info", "its settings", timeout)
    registries = found.get("RegistryConfig") or {}
    hosts = registries.get("IndexConfigs") or {}
    if not found.get("DockerRootDir"):
        raise DockerError("The Docker Engine does not say where its images are: DockerRootDir is missing.")
    return EngineSettings(
        data_root=str(found["DockerRootDir"]),
        insecure_registries=frozenset(str(name) for name, host in hosts.items() if not host.get("Secure", True)),
        insecure_networks=tuple(str(network) for network in registries.get("InsecureRegistryCIDRs") or []),
        http_proxy=str(found.get("HttpProxy") or ""),
        https_proxy=str(found.get("HttpsProxy") or ""),
        no_proxy=str(found.get("NoProxy") or ""),
    )


def local_image_size(reference: str, timeout: float = DEFAULT_TIMEOUT) -> int | None:
    """Return how many bytes the layers of an image take on this host, unpacked; None where it is not here.

    `reference` is a name, a name with a digest, or the image's own id. Raises DockerError.
    """
    path = f"/images/{urllib.parse.quote(reference, safe='/:@')}/json"
    try:
        return int(_get_document(path, f"the image {reference}", timeout)["Size"])
    except _MissingError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise DockerError(f"The Docker Engine does not say how large the image {reference} is.") from error


def _get_document(path: str, subject: str, timeout: float) -> dict[str, Any]:
    """What the Engine itself says at a path that has no version in it. Raises _MissingError, DockerError."""
    try:
        answer = _ask(path, timeout, {})
    except _NoAnswerError as error:
        raise DockerError(f"The Docker Engine gave no answer within {timeout:g} s: is it running?") from error
    if answer.status == http.client.NOT_FOUND:
        raise _MissingError(f"The Docker Engine does not know {subject}.")
    if answer.status != http.client.OK or not isinstance(answer.document, dict):
        raise DockerError(
            f"{_socket_path()} answered HTTP {answer.status} and {answer.words[:WORDS_LIMIT]!r} when asked for "
            f"{subject}: is this a Docker Engine?"
        )
    return answer.document


def _read_remote_image(reference: str, document: Any) -> RemoteImage:
    """An index of BuildKit also has attestations, whose platform is `unknown/unknown`."""
    try:
        digest = validate_digest(document["Descriptor"]["digest"])
        platforms = [f"{platform['os']}/{platform['architecture']}" for platform in document["Platforms"] or []]
    except (KeyError, TypeError, ImageReferenceError) as error:
        raise DockerError(
            f"The Docker Engine's answer about {reference} is not understood: expected a descriptor with a digest, and "
            f"platforms: {error}."
        ) from error
    return RemoteImage(digest, [name for name in dict.fromkeys(platforms) if name != "unknown/unknown"])


def _failure(
    reference: str, registry: str | None, answer: _Answer, login: Mapping[str, str], note: str
) -> RemoteImageError | DockerError:
    """What to raise for an answer other than success."""
    said = f'the Docker Engine says "{_presentable(answer.words, login)}" (HTTP {answer.status}).'
    without_quotes = re.sub('"[^"]*"', "", answer.words)
    if answer.status in (401, 403, 429) or (answer.status == 500 and _REFUSAL.search(without_quotes)):
        command = "docker login" if registry in DOCKER_HUB_NAMES else f"docker login {registry}"
        return RegistryRefusedError(
            f"The registry does not let this host read {reference}: {said}{note} Run `{command}` on the host, as the "
            "user that runs this, with an account that may read it; see too that there is such a repository."
        )
    if answer.status == 404 and answer.words and answer.words != "page not found":
        return RemoteImageMissingError(
            f"{reference} is not in its registry: {said} Expected a tag that was published: see the name and the tag."
        )
    if answer.status >= 500:
        return RegistryUnreachableError(
            f"The registry gave no usable answer about {reference}: {said} See that this host reaches the registry and "
            "that the Docker Engine trusts its certificate."
        )
    return DockerError(f"The Docker Engine cannot be asked about {reference}: {said}")


def _presentable(words: str, login: Mapping[str, str]) -> str:
    """`words` on one line of bounded length, without what is secret."""
    for name in _SECRETS:
        if login.get(name):
            words = words.replace(login[name], "***")
    words = " ".join(re.sub(r"//[^/\s\"@]*@", "//***@", words).split())
    return words if len(words) <= WORDS_LIMIT else f"{words[:WORDS_LIMIT]}…"


def _get_engine_version(timeout: float) -> dict[str, Any]:
    """What the Engine says of itself, over the one path that no version of it will drop."""
    return _get_document("/version", "its version", timeout)


def _ask(path: str, timeout: float, headers: Mapping[str, str]) -> _Answer:
    """Raises _NoAnswerError, and DockerError when there is no Engine at the socket."""
    socket_path = _socket_path()
    connection = _EngineConnection(socket_path, timeout)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        status, body = response.status, response.read(ANSWER_LIMIT)
    except socket.timeout as error:
        raise _NoAnswerError from error
    except (OSError, http.client.HTTPException) as error:
        raise DockerError(
            f"The Docker Engine cannot be asked at {socket_path}: {error}. See that it runs, that DOCKER_HOST names "
            "its socket, and that this user may use it."
        ) from error
    finally:
        connection.close()
    try:
        return _Answer(status, json.loads(body))
    except ValueError:
        return _Answer(status, None)


def _socket_path() -> str:
    host = os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}"
    scheme, separator, path = host.partition("://")
    if scheme != "unix" or not separator or not path:
        raise DockerError(
            f"DOCKER_HOST names an Engine by {scheme if separator else 'no'} scheme, expected unix://PATH: only the "
            f"Engine of this host is asked, for example unix://{DEFAULT_SOCKET}."
        )
    return path


def _registry_header(login: Mapping[str, str] | None) -> dict[str, str]:
    if login is None:
        return {}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}


def find_login(registry: str | None, timeout: float) -> dict[str, str] | None:
    """Return the credentials for `registry`, a host (None for Docker Hub), as the Engine takes them; None for none.

    Raises LoginError where what `docker login` left cannot be read.

    A credential helper for the server comes first, then the one for all, then the configuration itself, as with the
    docker command.
    """
    server = DOCKER_HUB if registry in DOCKER_HUB_NAMES else str(registry)
    path = os.path.join(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"), "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
        helper = settings.get("credHelpers", {}).get(server, settings.get("credsStore"))
        login = _ask_helper(helper, server, timeout) if helper else _read_login(settings.get("auths", {}), server)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoginError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise LoginError(f"{path} is not as `docker login` writes it") from error
    return {**login, "serveraddress": server} if login else None


def _read_login(entries: Mapping[str, Mapping[str, str]], server: str) -> dict[str, str]:
    """Empty for no login. Docker's older commands wrote a whole address where there is a host's name now."""
    hosts = {re.sub(r"^https?://", "", name).split("/")[0]: entry for name, entry in entries.items()}
    entry = entries.get(server, hosts.get(server, {}))
    login = {name: str(entry[name]) for name in ("username", *_SECRETS) if entry.get(name)}
    if entry.get("auth"):
        username, separator, password = base64.b64decode(entry["auth"]).decode().partition(":")
        if not separator:
            raise ValueError
        login.update(username=username, password=password.strip("\0"))
    return login


def _ask_helper(helper: str, server: str, timeout: float) -> dict[str, str]:
    """Empty for no login. What a helper writes is not shown: it may be the secret.

    Protocol: https://github.com/docker/docker-credential-helpers
    """
    program = f"docker-credential-{helper}"
    output = bytearray()
    try:
        completed = stream_command([program, "get"], timeout, output.extend, server.encode())
    except (OSError, CommandTimeoutError) as error:
        reason = "it is not on PATH" if isinstance(error, FileNotFoundError) else str(error)
        raise LoginError(f"{program}, which Docker's config.json names, cannot be run: {reason}") from error
    if completed.status != 0 and b"credentials not found" in output:
        return {}
    if completed.status != 0:
        raise LoginError(f"`{program} get` failed for {server} with exit code {completed.status}")
    try:
        answer = json.loads(output)
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise LoginError(f"`{program} get` gave no user name and secret for {server}") from error
    return {"identitytoken": secret} if username == "<token>" else {"username": username, "password": secret}
