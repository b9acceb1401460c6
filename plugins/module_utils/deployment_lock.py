# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One operation at a time on a deployment: a file on its host says who works on it, and for what.

A playbook is many short processes on the host, so no lock of the kernel can be held for it. The file names the process
that holds the lock instead, on the host or on the controller, so that it can be seen whether it is still there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import signal
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Iterator, Mapping

from .durable_files import PrivateFolderError, is_full, make_private_folder, replace_file, sync_folder

LOCK_NAME = "lock.json"
LEASE = timedelta(hours=1)
"""After so long without a sign of life a holder that cannot be looked for is taken for dead."""

RUN_VARIABLE = "OPSTAGE_RUN"
"""The environment variable in which every process that works under the lock on the host has the token."""

TOKEN_BYTES = 8

SECONDS_TO_END = 10.0
"""For what is left of a dead run, before it is killed."""

_REMOVE_IT = "See that nobody works on the deployment, then remove the file."
# States of a process in proc_pid_stat(5).
_ENDED = ("Z", "X")
_MUTEX_NAME = "lock.mutex"
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


class DeploymentLockError(Exception):
    """The lock cannot be read or written, or is not held any more."""


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for another one.

    ``machine`` is the content of /etc/machine-id, empty where there is none; ``boot`` the kernel's random id of this
    boot; ``namespace`` the pid namespace; ``started`` the start in clock ticks since the boot (proc_pid_stat(5)).
    """

    machine: str
    boot: str
    namespace: str
    pid: int
    started: int


@dataclass(frozen=True)
class Holder:
    """Who holds the lock: ``user`` on ``host``, for ``operation``, ``since`` then, with a last sign of life ``seen``.

    Times are UTC, ISO 8601. ``process`` is None where the holder's system does not tell. ``token`` is random; whoever
    works under the lock shows it.
    """

    token: str
    operation: str
    user: str
    host: str
    since: str
    seen: str
    process: Process | None

    def __str__(self) -> str:
        return f"{self.operation} by {self.user} from {self.host}, since {self.since}"


class LockHeldError(DeploymentLockError):
    """Somebody else holds the lock; ``holder`` says who."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(
            f"Another operation works on this deployment: {holder}, with the last sign of life at {holder.seen}. Wait "
            f"until it has ended. If you know that it is dead, set opstage_take_over_lock to {holder.token}."
        )
        self.holder = holder


def find_process(pid: int) -> Process | None:
    """The process with this id; None where there is none, or it has ended and nobody took note yet, or no /proc."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            # The name, which is in brackets, may hold anything.
            fields = stream.read().rpartition(")")[2].split()
        if fields[0] in _ENDED:
            return None
        return Process(
            machine=_content("/etc/machine-id"),
            boot=_content("/proc/sys/kernel/random/boot_id"),
            namespace=os.readlink("/proc/self/ns/pid"),
            pid=pid,
            started=int(fields[19]),
        )
    except (OSError, IndexError):
        return None


def is_gone(process: Process) -> bool | None:
    """Whether the process has ended; None where it cannot be seen from here."""
    here = find_process(os.getpid())
    if here is not None and process.boot == here.boot and process.namespace == here.namespace:
        return find_process(process.pid) != process
    if here is not None and process.machine and process.machine == here.machine and process.boot != here.boot:
        return True
    return None


def take_lock(
    folder: str,
    operation: str,
    user: str,
    host: str,
    process: Process | None,
    gone: str | None = None,
    token: str | None = None,
) -> tuple[Holder, Holder | None]:
    """Take the lock of the deployment whose state is in `folder` (journal.state_folder), with `token` or a random one.

    Returns who holds it now, and from whom it was taken over, if from anybody.

    It is taken over from a holder whose process is gone, who gave no sign of life for LEASE and cannot be looked for,
    or whose token is `gone`: then the caller knows that it is. What still runs of it on this host is ended: see
    RUN_VARIABLE. Who holds it already keeps it, with the same token. Raises LockHeldError, DeploymentLockError.
    """
    now = _utc_now()
    with _mutex(folder) as path:
        previous = _read(path)
        if previous is not None and process is not None and previous.process == process:
            holder = dataclasses.replace(previous, operation=operation, seen=now)
            _write(path, holder)
            return holder, None
        if previous is not None:
            _require_dead(previous, gone)
        holder = Holder(
            token or secrets.token_hex(TOKEN_BYTES), operation, user, host, since=now, seen=now, process=process
        )
        # Written first: what is left of the previous run can then record nothing any more.
        _write(path, holder)
        if previous is not None:
            _end_processes(previous.token)
    return holder, previous


def require_free(folder: str, process: Process | None, gone: str | None = None) -> None:
    """Raise LockHeldError, DeploymentLockError where take_lock would; nothing is made or changed."""
    holder = find_holder(folder)
    if holder is not None and (process is None or holder.process != process):
        _require_dead(holder, gone)


def _require_dead(holder: Holder, gone: str | None) -> None:
    if holder.token != gone and not _is_dead(holder):
        raise LockHeldError(holder)


def renew_lock(folder: str, token: str) -> None:
    """Give a sign of life; where the disk is full, none, since the lock is held all the same.

    Raises DeploymentLockError when it is not held with this token any more.
    """
    with _mutex(folder) as path:
        holder = _read(path)
        if holder is None or holder.token != token:
            now_held = f"it is held for {holder}" if holder else "nobody holds it"
            raise DeploymentLockError(
                f"This operation does not hold the lock {path} any more: {now_held}. Nothing further is changed. "
                "See with the status playbook what was left, and run the playbook again."
            )
        try:
            _write(path, dataclasses.replace(holder, seen=_utc_now()))
        except OSError as error:
            if not is_full(error):
                raise


def release_lock(folder: str, token: str) -> bool:
    """Let the lock go, if it is held with this token; returns whether it was. Raises DeploymentLockError."""
    with _mutex(folder) as path:
        holder = _read(path)
        if holder is None or holder.token != token:
            return False
        os.unlink(path)
        sync_folder(os.path.dirname(path))
        return True


def find_holder(folder: str) -> Holder | None:
    """Who holds the lock, be he alive or dead. Raises DeploymentLockError."""
    return _read(os.path.join(folder, LOCK_NAME))


def _end_processes(token: str) -> None:
    """End what a dead run left at work on this host: a module goes on when its controller is gone."""
    end = time.monotonic() + SECONDS_TO_END
    while True:
        left = list(_processes_of(token))
        if not left:
            return
        late = time.monotonic() > end
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        if time.monotonic() > 2 * SECONDS_TO_END + end:
            raise DeploymentLockError(
                f"Processes of an operation whose controller is gone cannot be ended: {left}. See what they wait for."
            )
        time.sleep(0.1)


def _processes_of(token: str) -> Iterator[int]:
    """The processes on this host that have the token in RUN_VARIABLE."""
    wanted = f"{RUN_VARIABLE}={token}".encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as stream:
                if wanted in stream.read().split(b"\0"):
                    yield int(name)


def _is_dead(holder: Holder) -> bool:
    """Whether nobody comes back to this lock; the time counts only where the process cannot be seen from here."""
    gone = is_gone(holder.process) if holder.process is not None else None
    if gone is not None:
        return gone
    seen = datetime.strptime(holder.seen, _TIME_FORMAT).replace(tzinfo=timezone.utc)
    return datetime.now(timezone.utc) - seen > LEASE


@contextlib.contextmanager
def _mutex(folder: str) -> Iterator[str]:
    """Be the only one to look at the lock and change it; yields the path of the lock."""
    try:
        make_private_folder(folder)
        descriptor = os.open(
            os.path.join(folder, _MUTEX_NAME), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield os.path.join(folder, LOCK_NAME)
        finally:
            os.close(descriptor)
    except (OSError, PrivateFolderError) as error:
        raise DeploymentLockError(f"The lock in {folder} cannot be used: {error}") from error


def _read(path: str) -> Holder | None:
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DeploymentLockError(f"The lock {path} cannot be read: {error}. {_REMOVE_IT}") from error
    return _holder(found, path)


def _holder(found: Any, path: str) -> Holder:
    try:
        process = Process(**found["process"]) if found["process"] is not None else None
        datetime.strptime(found["seen"], _TIME_FORMAT)
        return Holder(**{**found, "process": process})
    except (KeyError, TypeError, ValueError) as error:
        raise DeploymentLockError(
            f"The lock {path} is none that this version of the collection knows: {error!r}. {_REMOVE_IT}"
        ) from error


def _write(path: str, holder: Holder) -> None:
    replace_file(path, json.dumps(dataclasses.asdict(holder), sort_keys=True).encode() + b"\n")


def _utc_now() -> str:
    return datetime.now(timezone.utc).strftime(_TIME_FORMAT)


def _content(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read().strip()
    except FileNotFoundError:
        return ""


def as_process(fields: Mapping[str, Any] | None) -> Process | None:
    """The process that a module was told of, None for None. Raises DeploymentLockError."""
    try:
        return None if fields is None else Process(**fields)
    except TypeError as error:
        raise DeploymentLockError(f"This is no process: {error}.") from error
