# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copy the bytes of one file into another as fast as the file system can."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time

from .sqlite_files import Deadline, Progress, ProgressReport
from .write_back import WriteBack

CHUNK_BYTES = 8 << 20

# ioctl_ficlone(2): _IOW(0x94, 9, int)
_FICLONE = 0x40049409

# What a kernel, a file system or a sandbox answers when it cannot copy within itself (copy_file_range(2)).
_NOT_SUPPORTED = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY)


class ByteCopier:
    """Copies from one descriptor into another, at the same offsets, and reports how far it has come.

    ``total`` bytes are what ``report`` counts against; ``write_back`` brings them to the disk meanwhile. Raises
    DatabaseFileError at the deadline, OSError.
    """

    def __init__(
        self,
        source: int,
        dest: int,
        total: int,
        deadline: Deadline,
        report: ProgressReport | None = None,
        write_back: WriteBack | None = None,
    ) -> None:
        self._source = source
        self._dest = dest
        self._total = total
        self._deadline = deadline
        self._report = report
        self._write_back = write_back
        self._started = time.monotonic()
        self._in_kernel = hasattr(os, "copy_file_range")

    def copy(self, start: int, end: int) -> int:
        """Copy the bytes from ``start`` to ``end``, or to the end of the source; returns where it came to."""
        offset = start
        self.tell(offset)
        while offset < end:
            copied = self._chunk(offset, min(CHUNK_BYTES, end - offset))
            if copied == 0:
                break
            offset += copied
            self._deadline.check()
            if self._write_back is not None:
                self._write_back.advance(offset)
            self.tell(offset)
        return offset

    def tell(self, offset: int) -> None:
        """Report that the bytes before ``offset`` are copied."""
        if self._report is not None:
            self._report(Progress("copying", offset, self._total, time.monotonic() - self._started))

    def _chunk(self, offset: int, count: int) -> int:
        if self._in_kernel:
            try:
                copied: int = os.copy_file_range(self._source, self._dest, count, offset, offset)
                if copied:
                    return copied
            except OSError as error:
                if error.errno not in _NOT_SUPPORTED:
                    raise
            # Some file systems answer 0 before the end: read() decides.
            self._in_kernel = False
        return self._read_and_write(offset, min(count, 1 << 20))

    def _read_and_write(self, offset: int, count: int) -> int:
        block = memoryview(os.pread(self._source, count, offset))
        written = 0
        while written < len(block):
            written += os.pwrite(self._dest, block[written:], offset + written)
        return written


def clone(source: int, dest: int) -> bool:
    """Let ``dest`` share the blocks of ``source``, all at one moment; False where the file system cannot."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(dest, _FICLONE, source)
        return True
    return False
