# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Opstage's public HTTP interface: health and version, asked as a client would."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

URL_IN_CONTAINER = "http://127.0.0.1:8080"
"""Where the service answers inside its own container."""

ANSWER_LIMIT = 1 << 20
"""Bytes that are read of an answer; a health answer has a few hundred."""


class OpstageUnreachableError(Exception):
    """Opstage gave no usable answer."""


@dataclass(frozen=True)
class ServiceStatus:
    """What a running Opstage says of itself.

    status: `UP`, `DEGRADED` or `DOWN`. version: as reported, for example `0.2.0`.
    edition: `ce`, in lower case whatever the version writes (0.1.0 writes `CE`).
    """

    status: str
    version: str
    edition: str


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **keywords: Any) -> urllib.request.Request | None:
        return None


def trusting(ca_file: str | None) -> ssl.SSLContext:
    """Return what a service over TLS is asked with: it must prove who it is.

    To the CAs that the host trusts, or to those in the PEM file `ca_file` alone. Raises OpstageUnreachableError where
    that file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise OpstageUnreachableError(
            f"The file of CA certificates, {ca_file}, cannot be used: {error.strerror or error}. Set opstage_ca_file "
            "to a PEM file on this host"
        ) from error


def distrusted(url: str, error: ssl.SSLCertVerificationError) -> str:
    """Return what is wrong with the certificate at `url`, without a full stop."""
    return (
        f"{url} has a certificate that this host does not trust: {error.verify_message}. Expected is one for this very "
        "host name, from a CA of this host or one in the PEM file that opstage_ca_file names"
    )


def _opener_for(url: str, ca_file: str | None) -> urllib.request.OpenerDirector:
    """What asks the service itself, never a proxy, and goes nowhere else."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirect()]
    if url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=trusting(ca_file)))
    return urllib.request.build_opener(*handlers)


def _get_data(opener: urllib.request.OpenerDirector, url: str, timeout: float) -> dict[str, Any]:
    """Return `data` of the JSON envelope at `url`."""
    try:
        with opener.open(url, timeout=timeout) as response:
            body = response.read(ANSWER_LIMIT)
    except urllib.error.HTTPError as error:
        raise OpstageUnreachableError(f"{url} answered HTTP {error.code}, expected 200") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", None)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise OpstageUnreachableError(distrusted(url, cause)) from error
        raise OpstageUnreachableError(f"{url} did not answer: {error}") from error
    return data_of(url, body)


def data_of(url: str, body: bytes) -> dict[str, Any]:
    """Return `data` of the successful JSON envelope that `url` answered; raises OpstageUnreachableError."""
    try:
        envelope = json.loads(body)
    except ValueError as error:
        raise OpstageUnreachableError(f"{url} answered something that is not JSON") from error
    data = envelope.get("data") if isinstance(envelope, dict) else None
    if not isinstance(data, dict) or envelope.get("success") is not True:
        raise OpstageUnreachableError(f'{url} answered without {{"success": true, "data": …}}: is this Opstage?')
    return data


def require_listening(url: str, timeout: float) -> None:
    """Raise OpstageUnreachableError unless somebody accepts a connection at `url` within `timeout` seconds.

    A packet that is lost while Docker still sets up the port is repeated after a second only, the next connection finds
    the port at once: ask this before a request, where less than a second counts.
    """
    try:
        place = urllib.parse.urlsplit(url)
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname or "", port), timeout).close()
    except (OSError, ValueError) as error:
        raise OpstageUnreachableError(f"{url} did not answer: {error}") from error


def get_service_status(url: str, timeout: float = 5.0, ca_file: str | None = None) -> ServiceStatus:
    """Ask the Opstage at base address `url` for its health and version.

    Both calls are public and exist since 0.1.0, whose health answer carries no version. Each may take `timeout`
    seconds. ca_file: see trusting. Raises OpstageUnreachableError.
    """
    base = url.rstrip("/")
    opener = _opener_for(base, ca_file)
    health = _get_data(opener, f"{base}/api/system/health", timeout)
    version = _get_data(opener, f"{base}/api/system/version", timeout)
    return ServiceStatus(
        status=str(health.get("status", "")),
        version=str(version.get("version", "")),
        edition=str(version.get("edition", "")).lower(),
    )
