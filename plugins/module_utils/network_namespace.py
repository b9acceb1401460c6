# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Do something from inside a container's network."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Mapping, TypeVar

_CLONE_NEWNET = 0x40000000
"""setns(2): the descriptor must be that of a network namespace."""

_DISCARD_PORT = 9

Answer = TypeVar("Answer")


def call_in_network_of(pid: int, function: Callable[[], Answer]) -> Answer:
    """Return what `function` returns when called in the network namespace of process `pid`.

    A network namespace belongs to a thread, so the function runs in one of its own and this process stays where it
    is. Needs root. Raises OSError when the process is gone, and whatever the function raises.
    """

    def enter_and_call() -> Answer:
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"cannot enter the network of process {pid}: {os.strerror(number)}")
        return function()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(enter_and_call).result()


def make_known(container: Mapping[str, Any]) -> None:
    """Have the host find a container that was started a moment ago; `container` is Docker's description of it.

    A client that comes between Docker's rule for the port and the container's interface makes the host ask who has the
    address, and nobody answers; Linux asks again after a second, and every client waits for that. A packet from the
    container to its gateway tells. It only helps: what goes wrong here is no failure.
    """
    networks = container["NetworkSettings"]["Networks"].values()
    gateways = [(socket.AF_INET, network.get("Gateway")) for network in networks]
    gateways += [(socket.AF_INET6, network.get("IPv6Gateway")) for network in networks]

    def send() -> None:
        for family, gateway in gateways:
            if gateway:
                with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"", (gateway, _DISCARD_PORT))

    with contextlib.suppress(OSError):
        call_in_network_of(container["State"]["Pid"], send)
