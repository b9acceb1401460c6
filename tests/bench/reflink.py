# SPDX-License-Identifier: GPL-3.0-or-later
"""A file system with reflinks: XFS in a file, mounted for as long as it is measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.database import MEGABYTE
from testbed.machine import install, require_root
from testbed.process import run

LEAST_MEGABYTES = 600
"""mkfs.xfs makes none smaller than 300 MB; the copies want room too."""


@contextmanager
def mounted_xfs(folder: Path, megabytes: int) -> Iterator[Path]:
    """A new XFS of that size. Raises TestbedError where the machine cannot make or mount one."""
    require_root()
    if shutil.which("mkfs.xfs") is None:
        install(["xfsprogs"])
    image, mount_point = folder / "xfs.img", folder / "xfs"
    with image.open("wb") as stream:
        stream.truncate(max(LEAST_MEGABYTES, megabytes) * MEGABYTE)
    mount_point.mkdir()
    try:
        run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)])
        run(["mount", "-o", "loop", str(image), str(mount_point)])
        try:
            yield mount_point
        finally:
            run(["umount", str(mount_point)])
    finally:
        mount_point.rmdir()
        image.unlink()
