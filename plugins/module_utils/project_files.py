# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The files of a Compose project: copied into a recovery point, and put on a host that has none."""

from __future__ import annotations

import json
import os
import posixpath
from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Sequence

from .command import CommandTimeoutError, run_command
from .compose_yaml import SEQUENCE, Node, scan
from .deployment import DEFAULT_DATABASE_URL
from .durable_files import sync_folder, write_new_file
from .manifest import FILE_KINDS

CONFIG_TIMEOUT = 60.0
"""Seconds that `docker compose config` may take."""

_COMPOSE, _ENVIRONMENT, _SERVICE_ENVIRONMENT = FILE_KINDS
_SCALARS = ("plain", "single", "double")


class ProjectFilesError(Exception):
    """The files of a project cannot be copied or put in place; the text says what is left."""


@dataclass(frozen=True)
class RestoredProject:
    """The project as it is (in check mode: would be) on the host.

    ``config_files`` and ``environment_files`` are for Compose, in its order. ``written`` are the files and folders that
    were not there before. All are absolute paths.
    """

    project: str
    project_dir: str
    service: str
    config_files: list[str]
    environment_files: list[str]
    written: list[str]


def copy_project_files(deployment: Mapping[str, Any], folder: str) -> list[dict[str, str]]:
    """Copy the files of a deployment's project into `folder`, which is made; return what the manifest says of them.

    deployment: the fields of deployment.Deployment. Raises OSError.
    """
    os.mkdir(folder, 0o700)
    copied: dict[str, dict[str, str]] = {}
    names: set[str] = set()
    for kind, source in _files_of(deployment):
        if source in copied:
            continue
        with open(source, "rb") as stream:
            content = stream.read()
        name = _free_name(os.path.basename(source), names)
        names.add(name)
        write_new_file(os.path.join(folder, name), content)
        copied[source] = {"name": name, "source": source, "kind": kind}
    sync_folder(folder)
    return list(copied.values())


def _files_of(deployment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield kind and path of each file."""
    folder = deployment["project_dir"]
    default = os.path.join(folder, ".env")
    for path in deployment["config_files"]:
        yield _COMPOSE, path
    for path in deployment["environment_files"] or ([default] if os.path.isfile(default) else []):
        yield _ENVIRONMENT, path
    for path in deployment["config_files"]:
        with open(path, encoding="utf-8", errors="replace") as stream:
            text = stream.read()
        for named in _environment_files_in(text):
            source = os.path.normpath(os.path.join(folder, named))
            if os.path.isfile(source):
                yield _SERVICE_ENVIRONMENT, source


def _environment_files_in(text: str) -> Iterator[str]:
    """Yield what `env_file` of the services names in the text of a Compose file; where a variable is in it, nothing."""
    for node in scan(text):
        if node.kind in _SCALARS and _names_environment_file(node):
            named = text[node.start : node.end]
            if "$" not in named:
                yield named


def _names_environment_file(node: Node) -> bool:
    """Whether it is `services.*.env_file`, an entry of it, or the `path` of an entry."""
    below = node.path[3:]
    is_below = node.path[:1] == ("services",) and node.path[2:3] == ("env_file",)
    return is_below and below in ((), (SEQUENCE,), (SEQUENCE, "path"))


def _free_name(name: str, taken: set[str]) -> str:
    """A name that is not taken: two files of a project may have one name in different folders."""
    number = 1
    free = name
    while free in taken:
        number += 1
        free = f"{number}-{name}"
    return free


def restore_project(
    point: str, manifest: Mapping[str, Any], project_dir: str | None = None, check: bool = False
) -> RestoredProject:
    """Put the project's files of the recovery point in the folder `point` on this host, 0600, where they lay.

    `project_dir` is another folder for those that lay in the project's; files that are there with the same content
    stay. A host folder that the service mounts for its data is made when it is missing, with the owner that the
    manifest names. `check` only says what would be written. Raises ProjectFilesError.
    """
    was = manifest.get("project_dir")
    if was is None:
        raise ProjectFilesError(
            f"The recovery point {point} does not say where its project lay: an older collection made it. Put the "
            f"files of {os.path.join(point, 'project')} in place, create the container with "
            "`docker compose up --no-start`, and restore then."
        )
    folder = project_dir or was
    targets = [(entry, _target(entry["source"], was, folder)) for entry in manifest["project_files"]]
    contents = {target: _content(os.path.join(point, "project", entry["name"])) for entry, target in targets}
    missing = [target for target, content in contents.items() if not _is_there(target, content)]
    kinds = {kind: [target for entry, target in targets if entry["kind"] == kind] for kind in (_COMPOSE, _ENVIRONMENT)}
    written: list[str] = []
    try:
        if not check:
            for target in missing:
                written += _make_folders(os.path.dirname(target))
                write_new_file(target, contents[target])
                sync_folder(os.path.dirname(target))
                written.append(target)
            written += _make_data_folder(manifest, folder, kinds)
    except (OSError, ProjectFilesError) as error:
        left = f"These were written, and are left: {', '.join(written)}." if written else "Nothing was written."
        raise ProjectFilesError(f"The project cannot be put into {folder}: {error} {left}") from error
    return RestoredProject(
        manifest["project"],
        folder,
        manifest["service"],
        kinds[_COMPOSE],
        kinds[_ENVIRONMENT],
        missing if check else written,
    )


def _target(source: str, was: str, folder: str) -> str:
    """Where a file that lay at `source` goes: what lay in the project's folder `was` into `folder`."""
    relative = os.path.relpath(source, was)
    return source if relative.startswith(os.pardir) else os.path.join(folder, relative)


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise ProjectFilesError(f"The recovery point is not whole: {path} cannot be read: {error.strerror}.") from error


def _is_there(target: str, content: bytes) -> bool:
    """Whether the file is there as it should be. Raises ProjectFilesError when another one is."""
    if not os.path.lexists(target):
        return False
    if os.path.isfile(target) and _content(target) == content:
        return True
    raise ProjectFilesError(
        f"{target} is there already, and is not what the recovery point has. Move it away, or name another folder with "
        "opstage_project_dir. Nothing was written."
    )


def _make_folders(folder: str) -> list[str]:
    """Make a folder and what is missing above it, and return them."""
    if os.path.isdir(folder):
        return []
    made = _make_folders(os.path.dirname(folder))
    os.mkdir(folder, 0o755)
    sync_folder(os.path.dirname(folder))
    return [*made, folder]


def _make_data_folder(manifest: Mapping[str, Any], folder: str, kinds: Mapping[str, Sequence[str]]) -> list[str]:
    """Make the host folder that holds the data, where the service mounts one that is missing."""
    source = _data_folder(_compose_config(manifest["project"], folder, kinds), manifest["service"])
    if source is None or os.path.isdir(source):
        return []
    made = _make_folders(source)
    access = manifest["database"]["folder_access"]
    os.chown(source, access["uid"], access["gid"])
    os.chmod(source, int(access["mode"], 8))
    return made


def _compose_config(project: str, folder: str, kinds: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
    """What Compose makes of the project; it holds secrets."""
    command = ["docker", "compose", "--project-name", project, "--project-directory", folder]
    command += [f"--file={path}" for path in kinds[_COMPOSE]]
    command += [f"--env-file={path}" for path in kinds[_ENVIRONMENT]]
    try:
        completed = run_command([*command, "config", "--format", "json"], CONFIG_TIMEOUT, folder)
        if completed.status == 0:
            config: Mapping[str, Any] = json.loads(completed.stdout)
            return config
        words = "`docker compose config` fails on it; run that there to see why."
    except (OSError, CommandTimeoutError, ValueError) as error:
        words = f"`docker compose config` cannot be run: {error}."
    raise ProjectFilesError(words)


def _data_folder(config: Mapping[str, Any], service: str) -> str | None:
    """The host folder that the service mounts for its database; None for a volume, which Docker makes."""
    described = (config.get("services") or {}).get(service)
    if described is None:
        raise ProjectFilesError(f"It has no service {service}, as the manifest says.")
    address = (described.get("environment") or {}).get("DATABASE_URL") or DEFAULT_DATABASE_URL
    inside = posixpath.normpath(address[len("file:") :].split("?", 1)[0])
    if not posixpath.isabs(inside):
        return None
    mounts = [
        mount
        for mount in described.get("volumes") or []
        if posixpath.commonpath([mount["target"], inside]) == mount["target"]
    ]
    if not mounts:
        return None
    mount = max(mounts, key=lambda item: len(item["target"]))
    return str(mount["source"]) if mount["type"] == "bind" else None
