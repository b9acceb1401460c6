# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one operation of the snapshot engine in this process, so that the campaign can do to it what the world does.

    operation.py            standard input is a socket

Writes the line ``ready`` to the socket once all is imported, reads one line there, a JSON object (``operation``:
``snapshot`` or ``restore``, ``arguments``, ``stop_at_progress``), and answers with one: ``result``, or ``error`` with
``reason``; whatever is not a DatabaseFileError ends it with a traceback. The socket is used by sendto() and
recvfrom() only: calls that no fault is injected into. Runs under any Python that the engine supports.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".collections"))

from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import DatabaseFileError
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_restore import restore_database
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_snapshot import create_snapshot

OPERATIONS: dict[str, Callable[..., Any]] = {"snapshot": create_snapshot, "restore": restore_database}


class StoppingProgress:
    """Stops this process (SIGSTOP) at the progress report of the given number; somebody else lets it go on."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, progress: object) -> None:
        """Count one report."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGSTOP)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run the operation; returns what it returned or raised."""
    arguments = dict(request["arguments"])
    if request["stop_at_progress"]:
        arguments["progress"] = StoppingProgress(request["stop_at_progress"])
    try:
        return {"result": dataclasses.asdict(OPERATIONS[request["operation"]](**arguments))}
    except DatabaseFileError as error:
        return {"error": str(error), "reason": error.reason.name}


def main() -> None:
    """Serve one request."""
    with socket.socket(fileno=0) as connection:
        connection.sendall(b"ready\n")
        request = b""
        while not request.endswith(b"\n"):
            block = connection.recv(65536)
            if not block:
                return
            request += block
        connection.sendall(json.dumps(answer(json.loads(request))).encode() + b"\n")


if __name__ == "__main__":
    main()
