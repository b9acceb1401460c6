# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that the testbed runs on: what it must have, and Debian's packages that it may lack."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed.process import CommandError, TestbedError, run_logged, say

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache" / "testbed"
INSTALLED_PACKAGES = CACHE / "installed-packages"
WATCH_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
OLD_WATCH_LIMIT = CACHE / "inotify-max-user-instances"
WATCHES_PER_HOST = 8
WATCHES_OF_OTHERS = 64
LOCK = Path("/run/lock/opstage-testbed.lock")

BYTES_TO_BUILD = 6 * 1024**3
"""Free space that building the images and starting a fleet of six asks for; 4 GiB were measured."""
BYTES_TO_START = 1024**3
"""Free space for starting hosts from images that exist."""


def require_root() -> None:
    """Raise TestbedError unless this process may manage the machine's packages, engine and network."""
    if os.geteuid() != 0:
        raise TestbedError(f"must run as root, not as user id {os.geteuid()}; run it again with sudo or as root")


def warn_unless_supported() -> None:
    """Say so where the machine is not one that the testbed was tried on. Not an error."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    if release.get("ID") != "debian" or release.get("VERSION_ID") not in {"12", "13"}:
        say(f"warning: tried on Debian 12 and 13 only, this is {release.get('PRETTY_NAME', 'unknown')}")


def require_space(folder: Path, needed: int) -> None:
    """Raise TestbedError where the file system of ``folder`` has less than ``needed`` bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TestbedError(
            f"too little disk: {folder} has {free / 1024**3:.1f} GiB free, {needed / 1024**3:.0f} GiB are needed; "
            "make room and run it again"
        )


def install(packages: Sequence[str]) -> None:
    """Install Debian packages, without what they only recommend, and note their names for ``clean``.

    Raises TestbedError where apt cannot: no apt, no network, no such package.
    """
    if shutil.which("apt-get") is None:
        raise TestbedError(f"missing: {' '.join(packages)}; there is no apt-get here to install them with")
    say(f"install Debian packages: {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    log = CACHE / "apt.log"
    try:
        run_logged(["apt-get", "update", "--error-on=any"], log, environment)
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
        run_logged(command, log, environment)
    except CommandError as error:
        reason = f"is there a network? {error}"
        raise TestbedError(f"could not install {' '.join(packages)} with apt: {reason}") from error
    with INSTALLED_PACKAGES.open("a", encoding="utf-8") as stream:
        stream.writelines(f"{package}\n" for package in packages)


def installed_packages() -> list[str]:
    """The names of the Debian packages that the testbed installed on this machine, sorted."""
    if not INSTALLED_PACKAGES.exists():
        return []
    return sorted(set(INSTALLED_PACKAGES.read_text(encoding="utf-8").split()))


def allow_watches(hosts: int) -> None:
    """Raise the machine's limit on inotify instances, where it is too low for that many hosts.

    systemd cannot start without: a host was seen to hold 6 of root's 128. The old limit is noted for ``clean``.
    """
    limit = int(WATCH_LIMIT.read_text(encoding="ascii"))
    needed = WATCHES_PER_HOST * hosts + WATCHES_OF_OTHERS
    if limit < needed:
        if not OLD_WATCH_LIMIT.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            OLD_WATCH_LIMIT.write_text(f"{limit}\n", encoding="ascii")
        WATCH_LIMIT.write_text(f"{needed}\n", encoding="ascii")
        say(f"raise {WATCH_LIMIT} from {limit} to {needed}")


def restore_watches() -> None:
    """Put back the limit that ``allow_watches`` found, where it raised it."""
    if OLD_WATCH_LIMIT.exists():
        WATCH_LIMIT.write_text(OLD_WATCH_LIMIT.read_text(encoding="ascii"), encoding="ascii")
        OLD_WATCH_LIMIT.unlink()


@contextmanager
def exclusive() -> Iterator[None]:
    """Let one process at a time change what all testbeds share: images, network, registry, addresses."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
