# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A repository of the program restic (https://restic.net), and what lies in it.

The address, the password and what else opens the repository reach restic by its environment alone: they are in no
argument, no file and no error. Nothing is cached, so what is read comes out of the repository.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, Callable, Mapping, Sequence

from .command import CommandTimeoutError, CompletedCommand, Take, stream_command
from .retention_policy import Policy

_PROGRAM = "restic"

_SECONDS_TO_ANSWER = 60.0
_SECONDS_FOR_LOCK = 300.0
"""How long somebody else's lock is waited for: one that removes data of a shared repository lets nobody else work."""
_SECONDS_BETWEEN_TRIES = 2.0

# https://restic.readthedocs.io/en/stable/075_scripting.html#exit-codes; older versions have only the words.
_LOCKED_STATUS = 11
_LOCKED = re.compile("already locked")
_WRONG_PASSWORD = re.compile("wrong password|no key found")

_CREDENTIALS = re.compile(r"(?<=://).+(?=@)", re.DOTALL)
_CREDENTIALS_IN_WORDS = re.compile(r"(?<=://)[^\s/@]+(?=@)")
_HIDDEN = "***"
_SHORTEST_SECRET = 4
"""A shorter value of the environment is a setting; to hide it would make errors unreadable."""

_NO_LIMIT = 2**31 - 1
_PIECE_BYTES = 1 << 20

Receive = Callable[[str, IO[bytes]], None]
"""What takes the files of a snapshot one after the other: the path in it, without a slash first, and the content."""


class ResticError(Exception):
    """A repository cannot be used as asked for. The text holds no secret."""


@dataclass(frozen=True)
class Snapshot:
    """One snapshot in a repository; `id` is 64 hexadecimal digits."""

    id: str
    host: str
    tags: tuple[str, ...]


def credentials_of(address: str) -> str:
    """Return what stands between `://` and the last `@` of a repository's address; empty where nothing does."""
    found = _CREDENTIALS.search(address)
    return found.group() if found else ""


class ResticRepository:
    """The repository at `address`, as restic writes it, which `password` opens.

    `environment` is what the place asks for besides, such as AWS_ACCESS_KEY_ID. All methods raise ResticError.
    `changeable` False has nothing written to it, not even a lock.
    """

    def __init__(
        self, address: str, password: str, environment: Mapping[str, str] | None = None, changeable: bool = True
    ) -> None:
        if not address or not password:
            raise ResticError(
                "A restic repository needs its address and its password: set opstage_restic_repository and "
                "opstage_restic_password."
            )
        if shutil.which(_PROGRAM) is None:
            raise ResticError(
                "The restic command was not found on this host: install it, on Debian and Ubuntu the package `restic` "
                "(https://restic.net)."
            )
        given = dict(environment or {})
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RESTIC_")}
        self._environment = {
            **inherited,
            **given,
            "RESTIC_REPOSITORY": address,
            "RESTIC_PASSWORD": password,
            # `backup --time` reads the time of the place, and `forget` counts days by what stands in the snapshot.
            "TZ": "UTC",
        }
        credentials = credentials_of(address)
        parts = [credentials, credentials.partition(":")[2]]
        secrets = {password, *parts, *map(urllib.parse.unquote, parts)}
        secrets |= {value for value in given.values() if len(value) >= _SHORTEST_SECRET}
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)
        self._is_changeable = changeable
        self._options = ["--no-cache"] if changeable else ["--no-cache", "--no-lock"]
        self.shown = self._hide(address)
        """The address without secrets."""

    def require(self, initialize: bool) -> bool:
        """Whether the repository was there; with `initialize`, it is made where there is none.

        Otherwise raises ResticError unless it answers and the password opens it.
        """
        asked = self._run(["cat", "config"], timeout=_SECONDS_TO_ANSWER)
        if asked.status == 0:
            return True
        if not initialize or self._is_wrong_password(asked):
            raise ResticError(self._explain("opened", asked))
        if self._is_changeable:
            # Never touches a repository that is there.
            made = self._run(["init"], timeout=_SECONDS_TO_ANSWER)
            if made.status != 0:
                raise ResticError(f"{self._explain('opened', asked)} Nor could one be made there: {self._words(made)}.")
        return False

    def snapshots(self, tag: str) -> list[Snapshot]:
        """Return the snapshots that have the tag, in the order of the times that they have."""
        listed: Any = self._answer("listed", ["snapshots", "--json", "--tag", tag])
        try:
            return [
                Snapshot(entry["id"], entry["hostname"], tuple(entry.get("tags") or ()))
                for entry in json.loads(listed) or ()
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise ResticError(
                f"restic lists the snapshots of {self.shown} in a way that is not known: {error!r}."
            ) from error

    def send(self, folder: str, names: Sequence[str], host: str, tags: Sequence[str], moment: str) -> str:
        """Send the files `names` in `folder` as one snapshot of the time `moment`, `2026-11-22 02:15:00.000000`.

        The time is in UTC. In the snapshot they have the same names, wherever the folder lies. Returns its id.
        """
        marks = [argument for tag in tags for argument in ("--tag", tag)]
        # Every point has files of its own: there is no use in comparing their times with an earlier one's.
        command = ["backup", "--force", "--json", "--quiet", "--host", host, "--time", moment, *marks, "--", *names]
        output = bytearray()
        completed = self._run(command, output.extend, folder=folder)
        identifier = _summarized_id(bytes(output))
        if completed.status != 0:
            # Exit code 3: some files could not be read, and restic has kept a snapshot of the others.
            if identifier:
                self.remove(identifier)
            raise ResticError(self._explain("written to", completed))
        if not identifier:
            raise ResticError(f"restic does not say under which id it has sent {folder} to {self.shown}.")
        return identifier

    def remove(self, identifier: str) -> None:
        """Take a snapshot off the list if the repository lets this host do that; what it held stays until a prune."""
        self._run(["forget", identifier])

    def read(self, identifier: str, receive: Receive) -> None:
        """Hand each file of a snapshot to `receive`, as the repository has it; memory does not grow with it.

        Whatever is no plain file is passed over. Raises what `receive` raises, too.
        """
        reading, writing = os.pipe()

        def take(piece: bytes) -> None:
            left = memoryview(piece)
            while left:
                left = left[os.write(writing, left) :]

        with ThreadPoolExecutor(max_workers=1) as executor:
            receiving = executor.submit(_receive_files, reading, receive)
            try:
                completed = self._run(["dump", identifier, "/"], take)
            except BrokenPipeError:
                completed = None
            finally:
                os.close(writing)
            failure = receiving.exception()
        if completed is not None and completed.status != 0:
            raise ResticError(
                f"{self._explain('read', completed)} `restic check --read-data` tells what is damaged in a repository."
            )
        if isinstance(failure, (tarfile.TarError, EOFError)):
            raise ResticError(f"What restic reads from {self.shown} is no tar archive: {failure}.") from failure
        if failure is not None:
            raise failure

    def forget(self, host: str, tags: Sequence[str], policy: Policy) -> None:
        """Remove those snapshots of a host, with all the tags, that the policy does not keep, and their data."""
        rules = [
            argument
            for name, count in policy.counts.items()
            if count
            for argument in (f"--keep-{name}", str(count if count > 0 else _NO_LIMIT))
        ]
        if policy.within is not None:
            rules += ["--keep-within", str(policy.within)]
        marks = ["--host", host, "--tag", ",".join(tags), "--group-by", "host"]
        self._answer("pruned", ["forget", "--prune", "--quiet", *marks, *rules])

    def _answer(self, done: str, arguments: Sequence[str]) -> bytes:
        output = bytearray()
        completed = self._run(arguments, output.extend)
        if completed.status != 0:
            raise ResticError(self._explain(done, completed))
        return bytes(output)

    def _run(
        self,
        arguments: Sequence[str],
        take: Take = len,
        timeout: float | None = None,
        folder: str | None = None,
    ) -> CompletedCommand:
        """Run restic, waiting for locks of others and removing those whose owner was killed."""
        until = time.monotonic() + _SECONDS_FOR_LOCK
        completed = self._run_once(arguments, take, timeout, folder)
        while self._is_locked(completed) and time.monotonic() < until:
            # Removes just the locks of processes that have ended on this host, and those not renewed for 30 minutes.
            self._run_once(["unlock"], len, _SECONDS_TO_ANSWER, None)
            time.sleep(_SECONDS_BETWEEN_TRIES)
            completed = self._run_once(arguments, take, timeout, folder)
        return completed

    def _run_once(
        self, arguments: Sequence[str], take: Take, timeout: float | None, folder: str | None
    ) -> CompletedCommand:
        command = [_PROGRAM, *self._options, *arguments]
        try:
            return stream_command(command, timeout, take, folder=folder, environment=self._environment)
        except CommandTimeoutError as error:
            raise ResticError(
                f"The restic repository {self.shown} cannot be reached: {error}. Look at its address, the network and "
                "the server."
            ) from error

    def _is_locked(self, completed: CompletedCommand) -> bool:
        return completed.status == _LOCKED_STATUS or (
            completed.status != 0 and _LOCKED.search(self._words(completed)) is not None
        )

    def _is_wrong_password(self, completed: CompletedCommand) -> bool:
        return _WRONG_PASSWORD.search(self._words(completed)) is not None

    def _explain(self, done: str, completed: CompletedCommand) -> str:
        """Return why the repository could not be `done`, and what to do."""
        if self._is_wrong_password(completed):
            return (
                f"The restic repository {self.shown} is not opened by the password that was given. Give the one that "
                "it was made with, or one that was added to it."
            )
        if self._is_locked(completed):
            return (
                f"The restic repository {self.shown} is locked by somebody else for more than "
                f"{_SECONDS_FOR_LOCK:g} s: {self._words(completed)}. Try again when that has ended."
            )
        if completed.status < 0:
            ending = f"was ended by signal {-completed.status}"
        else:
            ending = f"failed with exit code {completed.status}"
        return f"The restic repository {self.shown} could not be {done}, restic {ending}: {self._words(completed)}."

    def _words(self, completed: CompletedCommand) -> str:
        """Return what restic gave as its reason, without secrets."""
        lines = [line.strip() for line in completed.stderr.decode(errors="replace").splitlines()]
        return self._hide("; ".join(filter(None, lines)).rstrip(".")) or "no reason given"

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return _CREDENTIALS_IN_WORDS.sub(_HIDDEN, text)


def _summarized_id(output: bytes) -> str:
    """The id of the snapshot in what `restic backup --json` writes, empty where there is none."""
    for line in output.splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and message.get("message_type") == "summary":
            return str(message.get("snapshot_id") or "")
    return ""


def _receive_files(reading: int, receive: Receive) -> None:
    with open(reading, "rb") as stream:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    receive(member.name.lstrip("/"), content)
        # To its end, or restic would find its output closed.
        while stream.read(_PIECE_BYTES):
            continue
