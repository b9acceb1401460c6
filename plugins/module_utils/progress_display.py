# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Show people how far an operation has come: one redrawn line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import os
import select
import time

from .sqlite_files import Progress

USUAL_COLUMNS = 80
REDRAW_SECONDS = 0.1
SILENT_SECONDS = 5.0
LOG_SECONDS = 10.0

_BAR_COLUMNS = range(10, 31)
_PHASE_COLUMNS = len("verifying")


def format_bytes(count: float) -> str:
    """A number of bytes in powers of 1000, as disks are sold: ``999 bytes``, ``1.5 kB``, ``209.7 MB``."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def format_duration(seconds: float) -> str:
    """Seconds as ``0:07``, ``12:34`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def facts_of(progress: Progress) -> list[str]:
    """What is known about the progress, the most telling first."""
    percent, left, rate = progress.percent, progress.seconds_left, progress.bytes_per_second
    facts = []
    if percent is None:
        facts.append(f"for {format_duration(progress.seconds)}")
    else:
        facts.append(f"{int(percent)} %")
    if left is not None:
        facts.append(f"{format_duration(left)} left")
    if progress.total:
        facts.append(f"{format_bytes(progress.done)} of {format_bytes(progress.total)}")
    if rate is not None:
        facts.append(f"{format_bytes(rate)}/s")
    return facts


def progress_line(progress: Progress, columns: int) -> str:
    """The progress in at most ``columns`` characters; what tells least is left out first, a bar takes what is free."""
    facts = facts_of(progress)
    text = f"{progress.phase:{_PHASE_COLUMNS}} {facts[0]:>5}"
    while len(facts) > 1 and len(f"{text} {', '.join(facts[1:])}") > columns:
        facts.pop()
    rest = f" {', '.join(facts[1:])}" if facts[1:] else ""
    bar_columns = min(columns - len(f"{text} []{rest}"), _BAR_COLUMNS[-1])
    if progress.percent is not None and bar_columns in _BAR_COLUMNS:
        text += f" [{'#' * int(bar_columns * progress.percent / 100):{bar_columns}}]"
    return (text + rest)[:columns]


class ProgressBar:
    """One line of the terminal ``descriptor``, redrawn at each call and erased by ``close``."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._phase = ""
        self._drawn = 0.0

    def __call__(self, progress: Progress) -> None:
        """Redraw the line, unless that was done a moment ago."""
        now = time.monotonic()
        at_end = progress.total > 0 and progress.done >= progress.total
        if progress.phase == self._phase and now - self._drawn < REDRAW_SECONDS and not at_end:
            return
        self._phase, self._drawn = progress.phase, now
        self._draw(progress_line(progress, self._columns()))

    def close(self) -> None:
        """Erase the line, and what was typed into it."""
        if self._phase:
            self._draw("")

    def _draw(self, line: str) -> None:
        """Draw over the whole line, and go back to its beginning: what is typed then is drawn over next."""
        _write_if_possible(self._descriptor, f"\r{line:{self._columns()}}\r")

    def _columns(self) -> int:
        """How many characters a line can have now; a terminal that does not know its own width says 0.

        The last column stays free: some terminals wrap as soon as it is written to.
        """
        try:
            columns = os.get_terminal_size(self._descriptor).columns
        except OSError:
            columns = 0
        return max(1, (columns or USUAL_COLUMNS) - 1)


class ProgressLog:
    """A line for a log every LOG_SECONDS, the first after SILENT_SECONDS: what is quick stays quiet."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._next = time.monotonic() + SILENT_SECONDS

    def __call__(self, progress: Progress) -> None:
        """Write a line if one is due."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LOG_SECONDS
            _write_if_possible(self._descriptor, f"{progress.phase}: {', '.join(facts_of(progress))}\n")

    def close(self) -> None:
        """Nothing remains to be done."""


def _write_if_possible(descriptor: int, text: str) -> None:
    """A terminal that is gone, or one that was stopped, is no reason to end or to stop what is being done."""
    with contextlib.suppress(OSError):
        if select.select([], [descriptor], [], 0)[1]:
            os.write(descriptor, text.encode("ascii"))
