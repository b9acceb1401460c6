# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems that really are full, turn read-only or lose their power while an operation writes to them."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from campaign.execution import Outcome, Scope, Strike
from campaign.scenarios import (
    RESTORES,
    SNAPSHOTS,
    Expectation,
    Restore,
    Scenario,
    Snapshot,
    Stage,
    Verdict,
    prepared,
    run_trial,
)
from campaign.walks import CAUSES, CHANGING, STARTING, Campaign, Report, Walk, calls_made, numbers, place_of

PAGE_BYTES = 4096
"""What a tmpfs counts in."""
ROOMY_PAGES = 4096
MOST_PAGES = 64

IMAGE_BYTES = 16 << 20
LOOP_DEVICES = Path("/dev/loop-control")
SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, linux/fs/ext4/ext4.h: _IOR('X', 125, __u32)
BLOCK_OF_FILE = 1  # FIBMAP, ioctl(2): _IO(0x00, 1)
WITHOUT_LOG_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH: as a power cut

FILLER = "filler"

FULL_SNAPSHOT = Snapshot("large hot WAL", "large")
FULL_RESTORES = (Restore("over a large hot WAL, kept", "large", keep=True), RESTORES[0])


@dataclass(frozen=True)
class FullWalk:
    """On a tmpfs with more and more pages free, until there is enough."""

    scenario: Scenario
    step: int

    @property
    def fault(self) -> str:
        """What is done."""
        return "file system full"

    @property
    def where(self) -> str:
        """To what."""
        return place_of(self.scenario)

    def trials(self, campaign: Campaign) -> Iterator[Report]:
        """Make the trials that the campaign wants."""
        for pages in range(0, ROOMY_PAGES, self.step):
            key = f"{self.fault}: {self.where}: {pages} pages free"
            if not campaign.wants(key):
                continue
            with prepared(campaign.settings, campaign.templates, self.scenario, mounted_tmpfs) as stage:
                filler = target_of(stage, self.scenario) / FILLER
                fill(filler, pages)
                stage.repair = filler.unlink
                verdict = run_trial(stage, self.scenario, expect_no_space)
            yield Report(key, verdict)
            if verdict.ended == "succeeded":
                break


@dataclass(frozen=True)
class UnreadableWalk:
    """The disk cannot give what lies behind a place in a file that is read, for each of its places."""

    scenario: Scenario
    suffix: str

    @property
    def fault(self) -> str:
        """What is done."""
        return "disk unreadable"

    @property
    def where(self) -> str:
        """To what."""
        return f"{place_of(self.scenario)}{f': {self.suffix}' if self.suffix else ''}"

    def trials(self, campaign: Campaign) -> Iterator[Report]:
        """Make the trials that the campaign wants."""
        for number in range(MOST_PAGES):
            key = f"{self.fault}: {self.where}: from page {number}"
            if not campaign.wants(key):
                continue
            with prepared(campaign.settings, campaign.templates, self.scenario, origin_mounted=mounted_image) as stage:
                origin = stage.live if isinstance(self.scenario, Snapshot) else stage.final
                file = Path(f"{origin}{self.suffix}")
                if number * PAGE_BYTES >= file.stat().st_size:
                    break
                sync(file.parent)
                whole = cut_off(file, number * PAGE_BYTES)
                stage.repair = functools.partial(put_back, file.parent, whole)
                yield Report(key, run_trial(stage, self.scenario, expect_unreadable))


@dataclass(frozen=True)
class Damage:
    """What is done to a file system while an operation is stopped, and how that is ended before the result is judged.

    ``mounted`` gives it a folder of its own kind, ``words`` are those of the errors that follow.
    """

    text: str
    mounted: Callable[[Path], contextlib.AbstractContextManager[object]]
    do: Callable[[Path], None]
    undo: Callable[[Path], None]
    words: tuple[str, ...]


@dataclass(frozen=True)
class StopWalk:
    """At each call that changes something, the operation is stopped, and its file system damaged meanwhile."""

    scenario: Scenario
    damage: str

    @property
    def fault(self) -> str:
        """What is done."""
        return DAMAGES[self.damage].text

    @property
    def where(self) -> str:
        """To what."""
        return place_of(self.scenario)

    def trials(self, campaign: Campaign) -> Iterator[Report]:
        """Make the trials that the campaign wants."""
        for name, count in calls_made(campaign, self.scenario, (*CHANGING, *STARTING), Scope.ANY).items():
            for number in numbers():
                key = f"{self.fault}: {self.where}: {name} {number}"
                if number > count:
                    break
                if campaign.wants(key):
                    strike = Strike((name,), number, "signal=SIGSTOP", Scope.ANY)
                    yield Report(key, self._trial(campaign, strike))

    def _trial(self, campaign: Campaign, strike: Strike) -> Verdict:
        damage = DAMAGES[self.damage]
        with prepared(campaign.settings, campaign.templates, self.scenario, damage.mounted) as stage:
            folder = target_of(stage, self.scenario)
            sync(folder)
            stage.repair = functools.partial(damage.undo, folder)
            expect = functools.partial(expect_after_damage, damage)
            return run_trial(stage, self.scenario, expect, strike, functools.partial(damage.do, folder))


def expect_no_space(_outcome: Outcome) -> Expectation:
    """It fails for want of space, or succeeds."""
    return Expectation(causes=(*CAUSES["ENOSPC"], "no space"), reasons=("NO_SPACE",))


def expect_after_damage(damage: Damage, outcome: Outcome) -> Expectation:
    """It names what failed, or had done all before that."""
    if not outcome.calls:
        return Expectation(succeeds=True)
    return Expectation(causes=damage.words, leaves_staged=True, replaced_in_error=True)


def expect_unreadable(_outcome: Outcome) -> Expectation:
    """It names what failed, or had no need of it."""
    return Expectation(causes=CAUSES["EIO"])


def target_of(stage: Stage, scenario: Scenario) -> Path:
    """The folder that the operation writes to."""
    return stage.copies if isinstance(scenario, Snapshot) else stage.data


@contextlib.contextmanager
def mounted_tmpfs(folder: Path) -> Iterator[None]:
    """A file system in memory."""
    size = f"size={ROOMY_PAGES * PAGE_BYTES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{size},mode=0700", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        unmount(folder)


def fill(filler: Path, pages_left: int = 0) -> None:
    """Take all of a tmpfs but some pages."""
    with filler.open("wb") as file:
        pages = os.fstatvfs(file.fileno()).f_bavail - pages_left
        if pages > 0:
            os.posix_fallocate(file.fileno(), 0, pages * PAGE_BYTES)


@contextlib.contextmanager
def mounted_image(folder: Path) -> Iterator[None]:
    """An ext4 in a file."""
    image = image_of(folder)
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    mount_image(folder)
    try:
        yield
    finally:
        unmount(folder)
        image.unlink()


def image_of(folder: Path) -> Path:
    """Where the image lies that is mounted on the folder."""
    return folder.parent / f"{folder.name}.ext4"


def mount_image(folder: Path) -> None:
    """Mount it, replaying its journal; SQLite and its caller see what a power cut left."""
    command = ["losetup", "--find", "--show", "--direct-io=on", str(image_of(folder))]
    device = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    try:
        subprocess.run(["mount", "-o", "noauto_da_alloc", device, str(folder)], check=True)
    finally:
        # A device that is mounted goes when it is unmounted.
        subprocess.run(["losetup", "--detach", device], check=True)
    with contextlib.suppress(FileNotFoundError):
        (folder / "lost+found").rmdir()


def unmount(folder: Path) -> None:
    """Unmount what is mounted on the folder."""
    subprocess.run(["umount", str(folder)], check=True)


def sync(folder: Path) -> None:
    """Bring all of a file system to its disk."""
    subprocess.run(["sync", "--file-system", str(folder)], check=True)


def cut_off(file: Path, offset: int) -> bytes:
    """Let the disk fail to give what is behind an offset of a file, and perhaps more; returns all of the disk."""
    image = image_of(file.parent)
    whole = image.read_bytes()
    descriptor = os.open(file, os.O_RDONLY)
    try:
        block_bytes = os.fstatvfs(descriptor).f_bsize
        answer = fcntl.ioctl(descriptor, BLOCK_OF_FILE, struct.pack("I", offset // block_bytes))
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    os.truncate(image, struct.unpack("I", answer)[0] * block_bytes)
    return whole


def put_back(folder: Path, whole: bytes) -> None:
    """Give the file system a good disk with the old content."""
    unmount(folder)
    image_of(folder).write_bytes(whole)
    mount_image(folder)


def cut_power(folder: Path) -> None:
    """Let nothing that is not on the disk yet come to it, and everything fail from now on."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_LOG_FLUSH))
    finally:
        os.close(descriptor)


def start_again(folder: Path) -> None:
    """What a machine does after a power cut; one that was not cut off before is cut off now."""
    with contextlib.suppress(OSError):
        cut_power(folder)
    unmount(folder)
    mount_image(folder)


def turn_read_only(folder: Path) -> None:
    """What ext4 does by itself when it meets an error (ext4(5), errors=remount-ro), with files open for writing."""
    subprocess.run(["mount", "-o", "remount,abort", str(folder)], check=True)


def check_and_mount(folder: Path) -> None:
    """What an administrator does then."""
    unmount(folder)
    check = subprocess.run(["e2fsck", "-fy", str(image_of(folder))], capture_output=True, text=True, check=False)
    if check.returncode > 1:
        raise RuntimeError(f"e2fsck ended with status {check.returncode}: {check.stdout}{check.stderr}")
    mount_image(folder)


def protect(folder: Path) -> None:
    """Let no name in the folder be made or removed; files that are open can be written."""
    subprocess.run(["chattr", "+i", str(folder)], check=True)


def unprotect(folder: Path) -> None:
    """End that."""
    subprocess.run(["chattr", "-i", str(folder)], check=True)


DAMAGES = {
    "filled": Damage(
        "file system filled midway",
        mounted_tmpfs,
        lambda folder: fill(folder / FILLER),
        lambda folder: (folder / FILLER).unlink(missing_ok=True),
        (*CAUSES["ENOSPC"], "no space"),
    ),
    "read-only": Damage(
        "read-only midway", mounted_image, turn_read_only, check_and_mount, (*CAUSES["EROFS"], *CAUSES["EIO"])
    ),
    "protected": Damage(
        "folder immutable midway", mounted_image, protect, unprotect, ("operation not permitted", "disk i/o error")
    ),
    "power": Damage("power cut midway", mounted_image, cut_power, start_again, (*CAUSES["EIO"], *CAUSES["EROFS"])),
}


def filesystem_walks() -> list[Walk]:
    """All walks with a file system of their own; without loop devices only those in memory."""
    walks: list[Walk] = [FullWalk(FULL_SNAPSHOT, 12), *(FullWalk(restore, 4) for restore in FULL_RESTORES)]
    for scenario in (SNAPSHOTS[1], SNAPSHOTS[2], RESTORES[3], RESTORES[5], RESTORES[7]):
        walks += [StopWalk(scenario, name) for name in DAMAGES if name == "filled" or LOOP_DEVICES.exists()]
    if LOOP_DEVICES.exists():
        walks += [
            UnreadableWalk(SNAPSHOTS[5], ""),
            UnreadableWalk(SNAPSHOTS[1], ""),
            UnreadableWalk(SNAPSHOTS[1], "-wal"),
        ]
        walks.append(UnreadableWalk(RESTORES[2], ""))
    return walks
