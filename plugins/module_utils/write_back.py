# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring a file to the disk while it is still being written."""

from __future__ import annotations

import functools
import os
import select
import time
from types import TracebackType

from .sqlite_files import Deadline
from .sqlite_worker import Channel, Child

BYTES_BETWEEN = 16 << 20
LONGEST_PAUSE_SECONDS = 1.0


class WriteBack:
    """A child process that syncs the open file ``descriptor``, so that the disk need not wait for the last byte.

    Whoever writes never waits for it before the end. Raises DatabaseFileError with what the disk says.
    """

    def __init__(self, descriptor: int) -> None:
        self.child = Child(functools.partial(_sync, descriptor), "bringing it to the disk")
        self._asked_at = 0
        self._is_busy = False
        self._pause = 0.0

    def __enter__(self) -> WriteBack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.child.end()

    def advance(self, offset: int) -> None:
        """So many bytes are written by now: sync them, unless it is still busy with those before."""
        if self._is_busy and select.select([self.child.channel], [], [], 0)[0]:
            self.child.received()
            self._is_busy = False
        if not self._is_busy and offset - self._asked_at >= BYTES_BETWEEN:
            self.child.send({"last": False, "pause": 0.0})
            self._asked_at = offset
            self._is_busy = True

    def let_others_first(self, seconds: float) -> None:
        """Give others, who had to wait for a lock for so long, as much time for their own syncs before the last one."""
        self._pause = min(seconds, LONGEST_PAUSE_SECONDS)

    def begin_last(self) -> None:
        """All is written: sync the file for good. The child's next ``result`` says that it is done."""
        self.child.send({"last": True, "pause": self._pause})

    def finish(self, deadline: Deadline) -> None:
        """Sync the file for good, and wait for it."""
        self.begin_last()
        while "result" not in self.child.answer(deadline):
            pass


def _sync(descriptor: int, channel: Channel) -> None:
    """What the child does: sync whenever it is asked to, until the parent is gone."""
    while True:
        request = channel.receive()
        if request is None:
            return
        time.sleep(request["pause"])
        os.fsync(descriptor)
        channel.send({"result": {}} if request["last"] else {"part": 0.0})
