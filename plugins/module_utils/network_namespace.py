# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask something from inside a container's network, for a container that nobody else can reach."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, TypeVar

_CLONE_NEWNET = 0x40000000
"""setns(2): the descriptor must be that of a network namespace."""

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
