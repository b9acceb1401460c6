# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Small files and names that are on disk when the call returns."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import BinaryIO, Iterator


def sync_folder(folder: str) -> None:
    """Make the names in `folder` durable; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new_file(path: str, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Write a file that must not exist yet: on disk when the context ends, gone when that ends with an error.

    Its name is on disk once the folder is synced. Raises OSError, FileExistsError among them.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            yield stream
            stream.flush()
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise


def write_new_file(path: str, content: bytes, mode: int = 0o600) -> None:
    """Write a file as new_file does, with this content. Raises OSError, FileExistsError among them."""
    with new_file(path, mode) as stream:
        stream.write(content)


def replace_file(path: str, content: bytes, mode: int = 0o600) -> None:
    """Write a file that is the old one or the new one, whole, whenever the host stops; raises OSError."""
    partial = f"{path}.partial"
    if os.path.lexists(partial):
        os.unlink(partial)
    write_new_file(partial, content, mode)
    os.rename(partial, path)
    sync_folder(os.path.dirname(path))


def is_full(error: OSError) -> bool:
    """Whether a file system has no room, or the user may have no more of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def reserve_room(path: str, size: int) -> None:
    """Let the file `path`, 0600, take `size` bytes of its disk, which removing it sets free; raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


class PrivateFolderError(Exception):
    """A folder that is to hold secrets is a link, belongs to somebody else, or is not named by an absolute path."""


def make_private_folder(folder: str) -> None:
    """Make `folder` and what is missing above it, each 0700.

    Raises PrivateFolderError where it is no folder, another user's, or no absolute path, OSError where it cannot be
    made.
    """
    if not os.path.isabs(folder):
        raise PrivateFolderError(f"{folder!r} cannot hold secrets: expected an absolute path.")
    above = os.path.dirname(folder)
    if not os.path.lexists(above):
        make_private_folder(above)
    # Somebody else may make it at the same moment.
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    state = os.lstat(folder)
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        raise PrivateFolderError(
            f"{folder} must be a folder of user id {os.geteuid()} and no link, since it holds secrets; found "
            f"{stat.filemode(state.st_mode)}, owner {state.st_uid}. Mend it or choose another folder."
        )
    os.chmod(folder, 0o700)
