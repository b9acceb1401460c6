# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Wait until a started Opstage serves, as a client would see it, and give up early when it cannot."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from .docker_command import DockerError, container_logs, inspect
from .network_namespace import call_in_network_of
from .opstage_api import (
    URL_IN_CONTAINER,
    OpstageUnreachableError,
    ServiceStatus,
    get_service_status,
    require_listening,
)

POLL_INTERVAL = 0.05
"""Seconds between two questions to the API: the resolution of the downtime that an operator sees."""

FIRST_CONNECTION_TIMEOUT = 0.2
LAST_CONNECTION_TIMEOUT = 5.0
"""Seconds for the connection of a question: twice as many after each that came to nothing for want of time."""

CONTAINER_INTERVAL = 1.0
"""Seconds between two looks at the container, each of which starts a process."""

RESTART_LIMIT = 3
"""Restarts by Docker after which a container is taken to fail at every start."""

SOAK_INTERVAL = 1.0
UNHEALTHY_SECONDS_ALLOWED = 5.0
"""While a service is watched: a moment without an answer is no failure yet."""

LOG_LINES = 20


class NotReadyError(Exception):
    """Opstage did not become healthy in the expected version; `logs` has the container's last lines."""

    def __init__(self, message: str, logs: list[str]) -> None:
        super().__init__(message)
        self.logs = logs


@dataclass(frozen=True)
class Readiness:
    """A healthy service. elapsed: seconds waited."""

    status: str
    version: str
    edition: str
    elapsed: float


def wait_until_ready(
    url: str,
    expected_version: str | None,
    timeout: float,
    container: str,
    isolated: bool = False,
    ca_file: str | None = None,
) -> Readiness:
    """Wait until the API at `url` says `UP` and reports `expected_version` (any version when None).

    `timeout` is in seconds. `container` names the container whose death ends the wait early. `isolated`: ask the
    service's own port from inside the container's network, for a container without any other; `url` is then not used.
    ca_file: see opstage_api.trusting.
    Raises NotReadyError: after the timeout, at once when a healthy service reports another version, and as soon as
    the container has died for good.
    """
    url = URL_IN_CONTAINER if isolated else url
    begin = time.monotonic()
    next_look = begin + CONTAINER_INTERVAL
    patience = FIRST_CONNECTION_TIMEOUT
    inside = _Inside(container)
    while True:
        try:
            answer = inside.ask() if isolated else _ask(url, patience, ca_file)
            found = f"status {answer.status or 'missing'}, version {answer.version or 'missing'}"
            if answer.status == "UP":
                _require_version(answer.version, expected_version, url, container)
                return Readiness(answer.status, answer.version, answer.edition, time.monotonic() - begin)
        except OpstageUnreachableError as error:
            found = str(error)
            if isinstance(error.__cause__, socket.timeout):
                patience = min(2 * patience, LAST_CONNECTION_TIMEOUT)
        now = time.monotonic()
        if now >= next_look:
            _require_alive(container)
            next_look = now + CONTAINER_INTERVAL
        if now - begin >= timeout:
            raise NotReadyError(
                f"Opstage was not healthy within {timeout:g} s: {found}; expected status UP at {url}.",
                _last_logs(container),
            )
        time.sleep(POLL_INTERVAL)


def watch_health(
    url: str, expected_version: str | None, seconds: float, container: str, ca_file: str | None = None
) -> None:
    """Ask the service for so many seconds whether it is still healthy in the version, and its container the same.

    Raises NotReadyError, DockerError.
    """
    end = time.monotonic() + seconds
    started = _started(container)
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SOAK_INTERVAL))
        wait_until_ready(url, expected_version, UNHEALTHY_SECONDS_ALLOWED, container, ca_file=ca_file)
        if _started(container) != started:
            raise NotReadyError(
                f"The container {container} was started again while it was watched. See in its log why.",
                _last_logs(container),
            )


def _started(container: str) -> str:
    return str(inspect("container", [container])[0]["State"]["StartedAt"])


def _ask(url: str, connection_timeout: float, ca_file: str | None) -> ServiceStatus:
    require_listening(url, connection_timeout)
    return get_service_status(url, ca_file=ca_file)


class _Inside:
    """Asks from inside the container's network; looks for its process again only where that has ended."""

    def __init__(self, container: str) -> None:
        self._container = container
        self._pid = 0

    def ask(self) -> ServiceStatus:
        """Raises OpstageUnreachableError, also while the container does not run, NotReadyError where there is none."""
        self._pid = self._pid or self._find()
        try:
            return call_in_network_of(self._pid, lambda: get_service_status(URL_IN_CONTAINER))
        except OSError as error:
            self._pid = 0
            raise OpstageUnreachableError(
                f"the container {self._container} ended while it was asked: {error}"
            ) from error

    def _find(self) -> int:
        try:
            pid: int = inspect("container", [self._container])[0]["State"]["Pid"]
        except DockerError as error:
            raise NotReadyError(f"The container {self._container} is gone: {error}", []) from error
        if not pid:
            raise OpstageUnreachableError(f"the container {self._container} is not running")
        return pid


def _require_version(version: str, expected: str | None, url: str, container: str) -> None:
    if expected is not None and version != expected:
        raise NotReadyError(
            f"{url}/api/system/version reports version {version}, expected {expected}: "
            "the image does not hold the version that its tag says.",
            _last_logs(container),
        )


def _require_alive(container: str) -> None:
    """Raise NotReadyError when the container has ended for good or ends at every start."""
    try:
        description = inspect("container", [container])[0]
    except DockerError as error:
        raise NotReadyError(f"The container {container} is gone: {error}", []) from error
    state, restarts = description["State"], description.get("RestartCount", 0)
    if state["Status"] in ("exited", "dead") or restarts >= RESTART_LIMIT:
        killed = " (killed by its memory limit)" if state.get("OOMKilled") else ""
        raise NotReadyError(
            f"The container {container} does not stay up: {state['Status']}, last exit code {state['ExitCode']}"
            f"{killed}, restarted {restarts} times.",
            _last_logs(container),
        )


def _last_logs(container: str) -> list[str]:
    return container_logs(container, LOG_LINES)
