# SPDX-License-Identifier: GPL-3.0-or-later
"""A real browser without a window: Chromium, asked over a pipe (https://chromedevtools.github.io/devtools-protocol)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testbed.machine import install

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PACKAGE = "chromium-headless-shell"
SECONDS_TO_ANSWER = 60.0
# The browser reads from descriptor 3 and writes to 4.
START = 'in=$1 out=$2; shift 2; exec "$@" 3<"/proc/self/fd/$in" 4>"/proc/self/fd/$out"'
OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
)


class Browser:
    """A tab; `requests` has the address of each thing that the page asked for, itself first."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._received = b""
        self._number = 0
        self._session: str | None = None
        self._loaded = False
        self.requests: list[str] = []
        tab = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Accessibility"):
            self._ask(f"{domain}.enable")

    def show(self, page: Path, width: int, height: int = 800, scheme: str = "light") -> None:
        """Load a file into a window of so many CSS pixels, as one who prefers `light` or `dark`."""
        preferred = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", features=preferred)
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < height
        )
        self.requests, self._loaded = [], False
        self._ask("Page.navigate", url=page.as_uri())
        while not self._loaded:
            self._take()

    def find(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page, as JSON can hold it."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def roles(self) -> list[str]:
        """What a screen reader is told that the parts of the page are."""
        nodes = self._ask("Accessibility.getFullAXTree")["nodes"]
        return [node["role"]["value"] for node in nodes if not node["ignored"]]

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        session = {"sessionId": self._session} if self._session is not None else {}
        message = {"id": self._number, "method": method, "params": parameters, **session}
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._take()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _take(self) -> dict[str, Any]:
        """The next message, events noted on the way."""
        until = time.monotonic() + SECONDS_TO_ANSWER
        while b"\0" not in self._received:
            ready = select.select([self._reading], [], [], max(0, until - time.monotonic()))[0]
            piece = os.read(self._reading, 1 << 16) if ready else b""
            assert piece, "the browser has ended" if ready else f"the browser said nothing for {SECONDS_TO_ANSWER:g} s"
            self._received += piece
        text, _end, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        self._loaded = self._loaded or message.get("method") == "Page.loadEventFired"
        return message


def find_program() -> str:
    """The path of a Chromium, installed where there is none."""
    for _attempt in range(2):
        for name in PROGRAMS:
            found = shutil.which(name)
            if found is not None:
                return found
        install([PACKAGE])
    raise FileNotFoundError(f"the package {PACKAGE} brought none of {', '.join(PROGRAMS)}")


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser that knows nothing from before and leaves nothing behind."""
    program = find_program()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        (child_reads, writing), (reading, child_writes) = os.pipe(), os.pipe()
        ends = (child_reads, child_writes)
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                ["sh", "-c", START, "sh", *map(str, ends), program, *OPTIONS, f"--user-data-dir={folder}/profile"],
                pass_fds=ends,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for end in ends:
            os.close(end)
        try:
            yield Browser(reading, writing)
        finally:
            # It ends when nobody can ask it any more.
            os.close(writing)
            os.close(reading)
            try:
                process.wait(SECONDS_TO_ANSWER)
            finally:
                process.kill()
                process.wait()
