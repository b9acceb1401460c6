# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copy a database while it is written to, and only the tail of its log once nobody writes any more.

A read transaction is held from before the copy to after the tail, so the log is not begun anew in a way that would lose
a change made since: every page that differs from the copy is in the log as it lies at the end (docs/raw-copy.md).
"""

from __future__ import annotations

import contextlib
import os
from types import TracebackType

from .byte_copy import ByteCopier
from .durable_files import sync_folder
from .sqlite_copy import copy_under, is_on_local_file_system, opened_source
from .sqlite_files import DatabaseFileError, Deadline, ProgressReport, Reason, StagedFile, errors_raised_as
from .sqlite_hold import Hold, frames_committed
from .sqlite_holders import describe_holders, find_holders
from .sqlite_snapshot import SnapshotError, plan_snapshot, prove_copy
from .write_back import WriteBack

_WRITE_AHEAD_LOG = b"\x02\x02"
_NO_LOG = b"\x01\x01"
_FORMAT_OFFSET = 18
"""Where a database's header says whether it has a write-ahead log: fileformat2.html#file_format_version_numbers."""


class HeldCopy:
    """A verified copy at ``dest`` of the live database ``source``, whose changes since are kept in its log meanwhile.

    Made when the context begins, which takes as long as the database is large; ``progress`` is called now and then. The
    copy stays when the context ends. Raises SnapshotError; then there is no copy.
    """

    def __init__(self, source: str, dest: str, progress: ProgressReport | None = None) -> None:
        self.source = os.path.abspath(source)
        self.dest = dest
        self._progress = progress
        self._deadline = Deadline(None)
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> HeldCopy:
        with errors_raised_as(SnapshotError, f"copy of {self.source} to {self.dest}"), contextlib.ExitStack() as opened:
            final = plan_snapshot(self.source, self.dest, overwrite=False, verify="quick")
            self._live = opened.enter_context(opened_source(self.source))
            staged = opened.enter_context(StagedFile(os.path.dirname(final)))
            self._hold = opened.enter_context(
                Hold(
                    self._live.path,
                    self._live.descriptor,
                    self._live.folder,
                    self._deadline,
                    target=staged.path,
                    report=self._progress,
                )
            )
            with WriteBack(staged.descriptor) as write_back:
                copied = copy_under(self._hold, self._live, staged, self._deadline, self._progress, write_back)
                prove_copy(copied, staged, self.source, "quick", self._deadline, self._progress, write_back)
            staged.publish(os.path.basename(final), replace=False)
            self._is_held = copied.journal_mode == "wal" and is_on_local_file_system(self.source)
            if not self._is_held:
                # Without a log to wait in, changes would have to wait for the end of the transaction.
                self._hold.end()
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened.close()

    def add_tail(self) -> bool:
        """Put the log beside the copy, which is then the database as it is now: whoever opens it merges the two.

        False when that cannot be had this way, as in rollback-journal mode; then the copy is what it was, and the whole
        database is to be copied. Raises SnapshotError, also when a process has the database open.
        """
        with errors_raised_as(SnapshotError, f"copy of {self.source}-wal"):
            holders = [holder for holder in find_holders(self.source) if holder.pid != self._hold.pid]
            if holders:
                raise DatabaseFileError(Reason.IN_USE, f"{describe_holders(holders)}; stop what uses the database")
            if not self._is_held or not self._hold.is_proven("wal"):
                return False
            with self._live.opened_log("-shm") as memory:
                self._hold.require_opened(memory, self.source + "-shm")
                frames = frames_committed(memory)
            if frames == 0:
                return True
            self._copy_log()
            if self._frames_of_copy() >= frames:
                return True
            os.unlink(self.dest + "-wal")
            self._write_format(_NO_LOG)
            return False

    def _copy_log(self) -> None:
        """Bring log and header to the disk."""
        log = self.dest + "-wal"
        with self._live.opened_log("-wal") as descriptor:
            self._hold.require_opened(descriptor, self.source + "-wal")
            target = os.open(log, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                ByteCopier(descriptor, target, size, self._deadline).copy(0, size)
                os.fsync(target)
            finally:
                os.close(target)
        self._write_format(_WRITE_AHEAD_LOG)

    def _frames_of_copy(self) -> int:
        """How many frames of the copied log SQLite finds whole: it may find fewer than the index of the live one says.

        See sqlite_copy._Copy._copy_with_log.
        """
        with contextlib.ExitStack() as opened:
            copy = opened.enter_context(opened_source(self.dest))
            hold = opened.enter_context(Hold(copy.path, copy.descriptor, copy.folder, self._deadline))
            hold.begin()
            memory = opened.enter_context(copy.opened_log("-shm"))
            frames = frames_committed(memory)
        os.unlink(self.dest + "-shm")
        return frames

    def _write_format(self, version: bytes) -> None:
        descriptor = os.open(self.dest, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, version, _FORMAT_OFFSET)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(os.path.dirname(self.dest))
