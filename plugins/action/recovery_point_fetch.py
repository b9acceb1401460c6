# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Action plugin: bring a recovery point to the controller; see the module of this name for its options."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.capsule.opstage.plugins.module_utils.durable_files import (
    PrivateFolderError,
    make_private_folder,
    new_file,
    sync_folder,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import (
    IDENTIFIER,
    RecoveryPointError,
    held_for_writing,
    project_root,
    remove_partial_folders,
)
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import named_last
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_files import (
    DatabaseFileError,
    Deadline,
    opened_plain_file,
    sha256_of,
)

PIECE_BYTES = 4 << 20

# Prints a piece of a file. One line, since not every login shell takes two.
READER = (
    "import base64, os, sys; "
    "descriptor = os.open(sys.argv[1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK); "
    "print(base64.b64encode(os.pread(descriptor, int(sys.argv[3]), int(sys.argv[2]))).decode())"
)


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """The module says what there is; this copies it."""

    TRANSFERS_FILES = False
    _supports_async = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Copy the recovery point and return the result; see ActionBase.run."""
        variables = task_vars or {}
        result = dict(super().run(tmp, variables))
        result.update(self._execute_module(task_vars=variables))
        if result.get("failed"):
            return result
        try:
            return {**result, **self._fetch(result, str(variables["inventory_hostname"]))}
        except (RecoveryPointError, PrivateFolderError, DatabaseFileError, OSError) as error:
            return {
                **result,
                "failed": True,
                "msg": f"The recovery point did not get to the controller: {error} {result['path']} is as it was "
                "on the host, and nothing was changed on the controller.",
            }

    def _fetch(self, point: Mapping[str, Any], host: str) -> dict[str, Any]:
        """Copy the point unless it is there; returns what is to be added to the result."""
        folder = str(self._task.args["dest"])
        if not os.path.isabs(folder) or not IDENTIFIER.fullmatch(point["id"]):
            raise RecoveryPointError(f"{folder!r} is no absolute path of a folder, or {point['id']!r} no id.")
        if host in ("", ".", "..") or "/" in host:
            raise RecoveryPointError(f"{host!r} cannot be the name of a folder: choose another inventory_hostname.")
        parent = project_root(os.path.join(folder, host), point["project"])
        destination = os.path.join(parent, point["id"])
        added = {"changed": True, "dest": destination}
        if os.path.lexists(destination):
            _require_same(destination, point["files"])
            return {**added, "changed": False}
        if not self._task.check_mode:
            make_private_folder(parent)
            with held_for_writing(parent):
                remove_partial_folders(parent)
                with named_last(parent, point["id"]) as partial:
                    for file in point["files"]:
                        self._copy(os.path.join(point["path"], file["name"]), partial, file)
                    for name in {os.path.dirname(file["name"]) for file in point["files"]} - {""}:
                        sync_folder(os.path.join(partial, name))
        return added

    def _copy(self, path: str, folder: str, file: Mapping[str, Any]) -> None:
        """Write one file of the host, `path`, to where it belongs in `folder`."""
        name = str(file["name"])
        parts = name.split("/")
        if len(parts) > 2 or not all(parts) or {".", ".."} & set(parts):
            raise RecoveryPointError(f"The host has named {name!r} as a file of a recovery point.")
        if len(parts) > 1:
            make_private_folder(os.path.join(folder, parts[0]))
        digest = hashlib.sha256()
        with new_file(os.path.join(folder, name)) as stream:
            for piece in self._pieces(path, int(file["size"])):
                digest.update(piece)
                stream.write(piece)
        if digest.hexdigest() != file["sha256"]:
            raise RecoveryPointError(
                f"{path} came with SHA-256 {digest.hexdigest()}, expected is {file['sha256']}: it is damaged, or was "
                "changed meanwhile. Verify it on the host with `opstage-ops verify`."
            )

    def _pieces(self, path: str, size: int) -> Iterator[bytes]:
        interpreter = self._used_interpreter.replace("#!", "").strip()
        python = f"{self._compute_environment_string()} {interpreter}".strip()
        for offset in range(0, size, PIECE_BYTES):
            arguments = [READER, path, str(offset), str(min(PIECE_BYTES, size - offset))]
            with self._unseen():
                answer = self._low_level_execute_command(f"{python} -I -S -c {shlex.join(arguments)}")
            if answer["rc"] != 0:
                raise RecoveryPointError(f"{path} could not be read: {answer['stderr'].strip() or 'no reason given'}.")
            try:
                yield base64.b64decode(answer["stdout"].strip(), validate=True)
            except binascii.Error as error:
                raise RecoveryPointError(f"A piece of {path} did not come as it was sent: {error}.") from error

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Keep a connection from writing down what comes, as some do for whoever asks for more words."""
        contexts = [self._play_context, self._connection._play_context]
        before = [context.no_log for context in contexts]
        try:
            for context in contexts:
                context.no_log = True
            yield
        finally:
            for context, value in zip(contexts, before, strict=True):
                context.no_log = value


def _require_same(folder: str, files: list[dict[str, Any]]) -> None:
    for file in files:
        with opened_plain_file(os.path.join(folder, file["name"])) as descriptor:
            found = sha256_of(descriptor, Deadline(None))
        if found != file["sha256"]:
            raise RecoveryPointError(
                f"{folder} is there already, and its {file['name']} has SHA-256 {found}, the one on the host "
                f"{file['sha256']}. Move that folder elsewhere."
            )
