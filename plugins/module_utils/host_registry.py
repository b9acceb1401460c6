# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What the Docker Engine does not ask a registry for: its tags and the sizes of its layers, asked by this host itself.

The Engine's own settings and logins are followed: insecure registries, certificates, proxy. Where that is not enough (a
proxy with a password, a login by identity token) the registry is not understood, and whoever asks does without.
Protocol: https://github.com/opencontainers/distribution-spec, https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import base64
import glob
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from typing import Any, Iterator, Mapping, Sequence, Union

from .docker_registry import DOCKER_HUB_NAMES, EngineSettings, LoginError, find_login
from .image_reference import parse_image_reference

CERTIFICATES = "/etc/docker/certs.d"
"""Folder of one folder for each registry, with the certificates that the Engine trusts and shows there."""

DEFAULT_TIMEOUT = 10.0
"""Seconds that one answer may take."""

TOTAL_SECONDS = 60.0
"""Seconds after which no further page of tags is asked for."""

ANSWER_LIMIT = 4 << 20
"""Bytes that are read of an answer; the distribution specification asks no more of a manifest."""

PAGE_SIZE = 1000
"""Tags that are asked for at a time; a registry may give fewer."""

_MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

_PARAMETER = re.compile(r'([A-Za-z_]+)="([^"]*)"')

_NEXT_PAGE = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')


_Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


class RegistryQuestionError(Exception):
    """The registry gave this host no answer that can be used."""


class Registry:
    """The registry of one repository, asked by HTTP.

    Each answer may take `timeout` seconds. All methods raise RegistryQuestionError.
    """

    def __init__(self, repository: str, engine: EngineSettings, timeout: float = DEFAULT_TIMEOUT) -> None:
        registry = parse_image_reference(repository).registry
        path = repository if registry is None else repository[len(registry) + 1 :]
        self._name = path
        self._registry = registry
        self._host = str(registry)
        if registry in DOCKER_HUB_NAMES:
            self._host = "registry-1.docker.io"
            self._name = path if "/" in path else f"library/{path}"
        addresses = list(_addresses(self._host))
        insecure = _is_insecure(self._host, addresses, engine)
        self._bases = [f"{scheme}://{self._host}" for scheme in (("https", "http") if insecure else ("https",))]
        self._timeout = timeout
        self._authorization = ""
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(_proxies(self._host, addresses, engine)),
            urllib.request.HTTPSHandler(context=_tls_context(self._host, insecure)),
        )

    def tags(self) -> list[str]:
        """Return all tags of the repository, in the registry's order."""
        end = time.monotonic() + TOTAL_SECONDS
        found: list[str] = []
        path = f"/v2/{self._name}/tags/list?n={PAGE_SIZE}"
        while path:
            if time.monotonic() > end:
                raise RegistryQuestionError(f"{self._host} did not list all tags within {TOTAL_SECONDS:g} s")
            document, headers = self._ask(path)
            tags = document.get("tags") or []
            if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
                raise RegistryQuestionError(f"{self._host}{path} is no list of tags")
            found += tags
            path = self._next_page(path, headers)
        return found

    def layers_size(self, digest: str, platform: str) -> int:
        """Return how many bytes the image is to transfer: its layers and its configuration, packed.

        `digest` is that of its manifest, or of an index that has one for `platform`, such as `linux/amd64`.
        """
        document = self._manifest(digest)
        if "manifests" in document:
            document = self._manifest(self._for_platform(document, digest, platform))
        try:
            sizes = [int(part["size"]) for part in [document["config"], *document["layers"]]]
        except (KeyError, TypeError, ValueError) as error:
            raise RegistryQuestionError(f"the manifest {digest} of {self._host} names no sizes of layers") from error
        return sum(size for size in sizes if size > 0)

    def _manifest(self, digest: str) -> dict[str, Any]:
        return self._ask(f"/v2/{self._name}/manifests/{digest}", ", ".join(_MANIFEST_TYPES))[0]

    def _for_platform(self, index: Mapping[str, Any], digest: str, platform: str) -> str:
        """The digest of the first manifest of the index for the platform, whatever its variant."""
        try:
            for entry in index["manifests"]:
                named = entry.get("platform") or {}
                if f"{named.get('os')}/{named.get('architecture')}" == platform:
                    return str(entry["digest"])
        except (KeyError, TypeError, AttributeError) as error:
            raise RegistryQuestionError(f"the index {digest} of {self._host} is not understood") from error
        raise RegistryQuestionError(f"the index {digest} of {self._host} has nothing for {platform}")

    def _next_page(self, path: str, headers: Mapping[str, str]) -> str:
        """The path of the page after `path`, empty for none; a link to somewhere else is not followed."""
        match = _NEXT_PAGE.search(headers.get("Link") or "")
        if match is None:
            return ""
        address = urllib.parse.urljoin(f"{self._bases[0]}{path}", match.group(1))
        following: str = address[len(self._bases[0]) :]
        if not address.startswith(f"{self._bases[0]}/v2/") or following == path:
            raise RegistryQuestionError(f"{self._host} says that its list of tags goes on at {address}")
        return following

    def _ask(self, path: str, accept: str = "application/json") -> tuple[dict[str, Any], Mapping[str, str]]:
        """The JSON at a path of the registry, with the answer's headers; gives a proof of who asks where it must."""
        try:
            return self._get_from_any(path, accept)
        except urllib.error.HTTPError as error:
            if error.code != http.client.UNAUTHORIZED or self._authorization:
                raise RegistryQuestionError(f"{self._host}{path} answered HTTP {error.code}") from error
            self._authorization = self._authorize(error.headers.get_all("WWW-Authenticate") or [])
        try:
            return self._get_from_any(path, accept)
        except urllib.error.HTTPError as error:
            raise RegistryQuestionError(f"{self._host}{path} answered HTTP {error.code}") from error

    def _get_from_any(self, path: str, accept: str) -> tuple[dict[str, Any], Mapping[str, str]]:
        """An insecure registry is asked with TLS first, as the Engine does. Raises HTTPError, RegistryQuestionError."""
        failure: Exception | None = None
        for base in self._bases:
            try:
                answer = self._get(f"{base}{path}", accept, self._authorization)
            except urllib.error.HTTPError:
                self._bases = [base]
                raise
            except (OSError, ValueError, http.client.HTTPException) as error:
                failure = error
            else:
                self._bases = [base]
                return answer
        raise RegistryQuestionError(f"{self._host} did not answer: {failure}") from failure

    def _get(self, address: str, accept: str, authorization: str) -> tuple[dict[str, Any], Mapping[str, str]]:
        """Raises HTTPError, OSError, HTTPException, RegistryQuestionError. A redirection gets no authorization."""
        request = urllib.request.Request(address, headers={"Accept": accept, "User-Agent": "capsule.opstage"})
        if authorization:
            request.add_unredirected_header("Authorization", authorization)
        with self._opener.open(request, timeout=self._timeout) as response:
            body, headers = response.read(ANSWER_LIMIT), response.headers
        try:
            document = json.loads(body)
        except ValueError as error:
            raise RegistryQuestionError(f"{address} answered something that is not JSON") from error
        if not isinstance(document, dict):
            raise RegistryQuestionError(f"{address} answered JSON of another kind than was expected")
        return document, headers

    def _authorize(self, challenges: list[str]) -> str:
        """What is to be sent for the registry's challenges: the login itself, or a token that is fetched with it."""
        for challenge in challenges:
            scheme, _space, rest = challenge.partition(" ")
            if scheme.lower() == "bearer":
                return f"Bearer {self._token(dict(_PARAMETER.findall(rest)))}"
            if scheme.lower() == "basic" and self._login():
                return self._login()
        raise RegistryQuestionError(f"{self._host} wants a login that this host does not have")

    def _token(self, parameters: Mapping[str, str]) -> str:
        realm = parameters.get("realm", "")
        if not realm.startswith(("https://", "http://") if self._bases[0].startswith("http://") else "https://"):
            raise RegistryQuestionError(f"{self._host} wants the login to be sent to {realm!r}, without protection")
        query = {"scope": f"repository:{self._name}:pull"}
        if "service" in parameters:
            query["service"] = parameters["service"]
        address = f"{realm}{'&' if '?' in realm else '?'}{urllib.parse.urlencode(query)}"
        try:
            document, _headers = self._get(address, "application/json", self._login())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise RegistryQuestionError(f"{realm} gave no token: {error}") from error
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str):
            raise RegistryQuestionError(f"{realm} gave no token")
        return token

    def _login(self) -> str:
        """The user's name and password as a header has them, empty for none."""
        try:
            login = find_login(self._registry, self._timeout) or {}
        except LoginError as error:
            raise RegistryQuestionError(str(error)) from error
        if not login.get("username") or not login.get("password"):
            return ""
        pair = f"{login['username']}:{login['password']}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _addresses(host: str) -> Iterator[_Address]:
    """The addresses of a host, whose name may have a port behind it; none where it has none."""
    with suppress(OSError, UnicodeError):
        for found in socket.getaddrinfo(_name_of(host), None, type=socket.SOCK_STREAM):
            yield ipaddress.ip_address(str(found[4][0]).partition("%")[0])


def _name_of(host: str) -> str:
    return urllib.parse.urlsplit(f"//{host}").hostname or ""


def _is_insecure(host: str, addresses: Sequence[_Address], engine: EngineSettings) -> bool:
    """Whether the Engine asks the host without a proof of who it is: by its name, or by an address that it has."""
    if host in engine.insecure_registries:
        return True
    networks = [ipaddress.ip_network(network, strict=False) for network in engine.insecure_networks]
    return any(address in network for address in addresses for network in networks)


def _proxies(host: str, addresses: Sequence[_Address], engine: EngineSettings) -> dict[str, str]:
    """The Engine's proxies by scheme; none for a host that it asks itself."""
    name = _name_of(host)
    for entry in (entry.strip().lstrip("*.") for entry in engine.no_proxy.split(",")):
        if entry and (entry in (name, host) or name.endswith(f".{entry}")):
            return {}
    if any(address.is_loopback for address in addresses):
        return {}
    return {scheme: proxy for scheme, proxy in (("http", engine.http_proxy), ("https", engine.https_proxy)) if proxy}


def _tls_context(host: str, insecure: bool) -> ssl.SSLContext:
    """What the Engine trusts for the host, and what it shows to it; a file that cannot be read is left out."""
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    folder = os.path.join(CERTIFICATES, host)
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.crt"))):
        with suppress(OSError):
            context.load_verify_locations(path)
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.cert"))):
        with suppress(OSError):
            context.load_cert_chain(path, f"{os.path.splitext(path)[0]}.key")
    return context
