# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The version in Settings → Diagnostics, where the documented upgrade ends: only an account of the console sees it."""

from __future__ import annotations

from typing import Callable

from .docker_command import inspect
from .network_namespace import call_in_network_of
from .opstage_api import URL_IN_CONTAINER
from .opstage_session import Account, OpstageSessionError, logged_in


class DiagnosticsError(Exception):
    """Diagnostics cannot be seen, or shows another version."""


def diagnosed_version(url: str, account: Account, warn: Callable[[str], None], ca_file: str | None = None) -> str:
    """Return the version that Diagnostics shows; see opstage_session.logged_in. Raises OpstageSessionError."""
    with logged_in(url, account, warn, ca_file) as session:
        return str(session.runtime().get("version"))


def require_version_in(container: str, account: Account, expected: str) -> None:
    """Raise DiagnosticsError unless Diagnostics shows the version that is expected, asked from inside the network of a
    running container that nobody else can reach. Raises DockerError.
    """
    pid = inspect("container", [container])[0]["State"]["Pid"]
    try:
        # A session that cannot be ended goes when the container is replaced by one for clients, which is next.
        found = call_in_network_of(pid, lambda: diagnosed_version(URL_IN_CONTAINER, account, _ignore))
    except (OpstageSessionError, OSError) as error:
        raise DiagnosticsError(f"Diagnostics of the container {container} cannot be seen: {error}") from error
    if found != expected:
        raise DiagnosticsError(
            f"Diagnostics of the container {container} shows version {found}, expected {expected}, which is what "
            "/api/system/version reports."
        )


def _ignore(_warning: str) -> None:
    """Warn nobody."""
