# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tell other processes how far an operation has come, in a small file which they may read at any time."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from dataclasses import asdict
from types import TracebackType
from typing import Callable

from .sqlite_files import Progress

SILENT_SECONDS = 2.0
INTERVAL_SECONDS = 1.0
PHASES = ("waiting", "copying", "verifying")

_HIGHEST = (1 << 63) - 1


class ProgressFile:
    """A report of progress (sqlite_files.ProgressReport) that keeps the newest state in the file ``path``.

    The file holds one JSON object, the fields of Progress; a reader sees the old one or the new one, whole. It is made,
    0600, after SILENT_SECONDS, replaced every INTERVAL_SECONDS at most, and gone at the end of the context: what is
    quick makes none. A file that was there before is never replaced. Nothing that goes wrong here ends the operation:
    it is told by ``warn``, and no more is written. Without a ``path``, nobody wants to know.
    """

    def __init__(self, path: str | None, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._path = os.path.abspath(path) if path else ""
        self._due = time.monotonic() + SILENT_SECONDS if path else math.inf
        self._made = False

    def __enter__(self) -> ProgressFile:
        return self

    def __call__(self, progress: Progress) -> None:
        """Write the state, if that is due."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + INTERVAL_SECONDS
        try:
            self._write(json.dumps(asdict(progress)) + "\n")
        except OSError as error:
            self._due = math.inf
            self._warn(f"the progress file {self._path} could not be written, the work went on without it: {error}")

    def _write(self, text: str) -> None:
        """Replace the file by one with ``text``, under a name that nobody can foresee until it is complete."""
        if not self._made:
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            self._made = True
        descriptor, staged = tempfile.mkstemp(prefix=".progress-", dir=os.path.dirname(self._path))
        try:
            with open(descriptor, "w", encoding="ascii") as stream:
                stream.write(text)
            os.rename(staged, self._path)
        except BaseException:
            os.unlink(staged)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._made:
            try:
                os.unlink(self._path)
            except OSError as problem:
                self._warn(f"the progress file {self._path} could not be removed: {problem}")


def parse_progress(text: str) -> Progress | None:
    """The progress that a progress file of another host tells; None where ``text`` is anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != {"phase", "done", "total", "seconds"}:
        return None
    if found["phase"] not in PHASES or not (_is_integer(found["done"]) and _is_integer(found["total"])):
        return None
    seconds = found["seconds"]
    if not _is_integer(seconds) and not (isinstance(seconds, float) and 0 <= seconds <= _HIGHEST):
        return None
    return Progress(found["phase"], found["done"], found["total"], seconds)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _HIGHEST
