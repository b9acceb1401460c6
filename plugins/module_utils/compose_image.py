# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Pin the image of a service in a Compose project, changing nothing but the characters of its tag.

The edit is computed on the text, and Compose itself is the judge of it: before anything is written, `docker compose
config` must say the same of the edited project as of the original one, but for the image of this one service.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping, Sequence

from .command import CommandTimeoutError, CompletedCommand, run_command
from .compose_interpolation import InterpolationError, Origin, Piece, SourceFile, Variables, interpolate
from .compose_yaml import QUOTED_KINDS, Node, scan
from .image_reference import ImageReference, ImageReferenceError, parse_image_reference, validate_digest, validate_tag

CONFIG_TIMEOUT = 60.0
"""Seconds that one `docker compose config` may take."""

# https://docs.docker.com/compose/intro/compose-application-model/ and, for the overrides' order, compose-go's
# cli/options.go: the first name that exists is taken.
DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
DEFAULT_OVERRIDES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
DEFAULT_ENVIRONMENT_FILE = ".env"

# What Compose 2.20 to 2.40 say before they quote a file's text.
_QUOTATION = re.compile(
    r"(unterminated quoted value|[Ii]nvalid template:|in variable name|You may need to escape any \$ with another \$\.)"
    r".*",
    re.DOTALL,
)


class ComposeImageError(Exception):
    """The image cannot be pinned; nothing was changed."""


@dataclass(frozen=True)
class ComposeProject:
    """What `docker compose` would be told. Relative paths start at project_dir; None leaves the choice to Compose."""

    project_dir: str
    files: Sequence[str] | None = None
    env_files: Sequence[str] | None = None
    project_name: str | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @classmethod
    def of(cls, deployment: Mapping[str, Any]) -> ComposeProject:
        """Return the project of a deployment (the fields of deployment.Deployment)."""
        files, env_files = deployment["config_files"], deployment["environment_files"] or None
        return cls(deployment["project_dir"], files, env_files, deployment["project"])

    def resolve(self, path: str) -> str:
        """Return `path` as Compose takes it."""
        return os.path.join(os.path.abspath(self.project_dir), path)


@dataclass(frozen=True)
class PinResult:
    """What was (in check mode: would be) changed.

    file and line say where the tag stands, variable whose value or default it is there, None when it stands in the
    Compose file as such. before and after: the one statement that differs, and nothing else of files that hold secrets.
    """

    changed: bool
    image: str
    previous_image: str
    tag: str | None
    previous_tag: str | None
    previous_digest: str | None
    file: str
    line: int
    variable: str | None
    before: str
    after: str


@dataclass(frozen=True)
class _Edit:
    """`file.text[start:end]` becomes `replacement`."""

    origin: Origin
    start: int
    end: int
    replacement: str
    variable: str | None

    @property
    def file(self) -> SourceFile:
        return self.origin.file

    def data(self) -> bytes:
        return self.file.replaced(self.start, self.end, self.replacement)

    def before(self) -> str:
        return self.file.text[self.origin.statement_start : self.origin.statement_end]

    def after(self) -> str:
        text = self.file.text
        head, tail = text[self.origin.statement_start : self.start], text[self.end : self.origin.statement_end]
        return f"{head}{self.replacement}{tail}"


@dataclass(frozen=True)
class ProvenPin:
    """A change of the image that Compose was asked about and that is not yet made; `result` is what it will be."""

    result: PinResult
    _edit: _Edit

    def publish(self) -> None:
        """Make it. Raises ComposeImageError, also where somebody else has changed the file; then it stays as it is."""
        if self.result.changed:
            with _temporary_copy(self._edit.file, self._edit.data()) as path:
                _publish(path, self._edit.file)


def pin_image(
    project: ComposeProject, service: str, tag: str, digest: str | None = None, check_mode: bool = False
) -> PinResult:
    """Do what prove_pin says, and make the change unless in check mode."""
    pin = prove_pin(project, service, tag, digest)
    if not check_mode:
        pin.publish()
    return pin.result


def prove_pin(project: ComposeProject, service: str, tag: str, digest: str | None = None) -> ProvenPin:
    """See how to make `service` run the image of `tag`, and of `digest` where one is given; nothing is changed.

    A digest in the present reference is replaced by `digest`, or removed where none is given: the engine would go on
    running the old image for it, whatever the tag. Raises ComposeImageError when the edit cannot be made or proven.
    """
    _validate(tag, digest)
    compose_files, env_files = _read_project(project)
    before = _compose_config(project, project.files and _paths(compose_files), project.env_files and _paths(env_files))
    _require_image(before, service)
    file, node = _find_image(compose_files, service)
    image = str(before["services"][service]["image"])
    pieces = _resolve(file, node, Variables(project.environment, env_files), image)
    present = _parse(image, pieces, file.place(node.start))
    wanted = ImageReference(present.repository, tag, digest)
    edit = _plan(present, wanted, pieces, file.place(node.start))
    if wanted != present:
        expected = copy.deepcopy(before)
        expected["services"][service]["image"] = wanted.format()
        _refuse_extended(edit.file, compose_files, project)
        with _temporary_copy(edit.file, edit.data()) as path:
            _prove(project, edit, path, (compose_files, env_files), expected)
    return ProvenPin(_result(edit, present, wanted), edit)


def _result(edit: _Edit, present: ImageReference, wanted: ImageReference) -> PinResult:
    return PinResult(
        changed=wanted != present,
        image=wanted.format(),
        previous_image=present.format(),
        tag=wanted.tag,
        previous_tag=present.tag,
        previous_digest=present.digest,
        file=edit.file.path,
        line=edit.file.line(edit.start),
        variable=edit.variable,
        before=edit.before(),
        after=edit.after(),
    )


def _validate(tag: str, digest: str | None) -> None:
    try:
        validate_tag(tag)
        if digest is not None:
            validate_digest(digest)
    except ImageReferenceError as error:
        raise ComposeImageError(str(error)) from error


def _paths(files: Sequence[SourceFile]) -> list[str]:
    return [file.path for file in files]


# What Compose reads


def _read_project(project: ComposeProject) -> tuple[list[SourceFile], list[SourceFile]]:
    """Return the Compose files and the environment files, each in Compose's order."""
    if not os.path.isdir(project.project_dir):
        raise ComposeImageError(f"The project's folder {project.project_dir} does not exist.")
    env_files = [_read(project.resolve(path)) for path in project.env_files or _default_env_files(project)]
    variables = Variables(project.environment, env_files)
    files = [_read(project.resolve(path)) for path in project.files or _default_files(project, variables)]
    return files, env_files


def _default_env_files(project: ComposeProject) -> list[str]:
    """COMPOSE_ENV_FILES and COMPOSE_DISABLE_ENV_FILE count in the environment of the process only."""
    if project.environment.get("COMPOSE_ENV_FILES"):
        return project.environment["COMPOSE_ENV_FILES"].split(",")
    disabled = project.environment.get("COMPOSE_DISABLE_ENV_FILE", "").lower() in ("1", "t", "true")
    path = project.resolve(DEFAULT_ENVIRONMENT_FILE)
    return [] if disabled or not os.path.exists(path) or os.path.isdir(path) else [path]


def _default_files(project: ComposeProject, variables: Variables) -> list[str]:
    listed = variables.get("COMPOSE_FILE")
    if listed is not None and listed.text:
        separator = variables.get("COMPOSE_PATH_SEPARATOR")
        return listed.text.split(separator.text if separator and separator.text else os.pathsep)
    found = [name for name in DEFAULT_FILES if os.path.exists(project.resolve(name))]
    if not found:
        raise ComposeImageError(
            f"{project.project_dir} has no Compose file: expected {' or '.join(DEFAULT_FILES)}; or name it in files."
        )
    overrides = [name for name in DEFAULT_OVERRIDES if os.path.exists(project.resolve(name))]
    return found[:1] + overrides[:1]


def _read(path: str) -> SourceFile:
    """Read a regular file, through symbolic links; a device or FIFO in its place is refused without being opened."""
    real_path = os.path.realpath(path)
    try:
        if not stat.S_ISREG(os.stat(real_path).st_mode):
            raise ComposeImageError(
                f"{path} is no regular file: name the project's real Compose and environment files."
            )
        with open(real_path, "rb") as stream:
            return SourceFile(path, real_path, stream.read())
    except OSError as error:
        raise ComposeImageError(f"{path} cannot be read: {error.strerror}.") from error


def _compose_config(
    project: ComposeProject, files: Sequence[str] | None, env_files: Sequence[str] | None
) -> dict[str, Any]:
    """Return the project as Compose understands it, with the services of all profiles."""
    command = ["docker", "compose", "--project-directory", os.path.abspath(project.project_dir)]
    command += [] if project.project_name is None else ["--project-name", project.project_name]
    command += [word for path in files or [] for word in ("--file", path)]
    command += [word for path in env_files or [] for word in ("--env-file", path)]
    completed = _run(project, [*command, "--profile", "*", "config", "--format", "json"])
    if completed.status != 0:
        if _run(project, ["docker", "compose", "version"]).status != 0:
            raise ComposeImageError(
                "`docker compose` does not work on this host: install the Docker Compose plugin, version 2.20 or newer."
            )
        words = _without_values(completed.stderr.decode(errors="replace"))
        raise ComposeImageError(f"Compose refuses the project in {project.project_dir}: {words}")
    document: dict[str, Any] = json.loads(completed.stdout)
    return document


def _without_values(words: str) -> str:
    """Leave out of Compose's complaint what it quotes from the files, and its warnings: both may hold secrets."""
    complaint = "\n".join(line for line in words.splitlines() if "level=warning" not in line)
    return _QUOTATION.sub(r"\1 (what stands there is not shown)", complaint.strip())


def _run(project: ComposeProject, command: Sequence[str]) -> CompletedCommand:
    """Run in the project's folder, where relative names in COMPOSE_FILE start."""
    try:
        return run_command(command, CONFIG_TIMEOUT, folder=project.project_dir, environment=project.environment)
    except OSError as error:
        raise ComposeImageError(
            f"The docker command cannot be run on this host ({error.strerror}): install Docker and its Compose plugin."
        ) from error
    except CommandTimeoutError as error:
        raise ComposeImageError(f"`{' '.join(command)}` gave {error}.") from error


def _require_image(config: Mapping[str, Any], service: str) -> None:
    services = config.get("services") or {}
    if service not in services:
        known = ", ".join(sorted(services)) or "none at all"
        raise ComposeImageError(f"The project has no service {service!r}, but {known}: name one of them.")
    if not services[service].get("image"):
        raise ComposeImageError(f"The service {service!r} has no image: give it one in the Compose file.")


# Where the image is written


def _find_image(files: Sequence[SourceFile], service: str) -> tuple[SourceFile, Node]:
    """Return the scalar that gives the image: that of the last file which has one."""
    path = ("services", service, "image")
    for file in reversed(files):
        nodes = scan(file.text)
        found = [node for node in nodes if node.path == path]
        if found:
            return file, _single_scalar(file, found, service)
    for file in reversed(files):
        for node in scan(file.text):
            if _brings_image(node, service):
                statement = file.text[node.statement_start : node.statement_end].strip()
                raise ComposeImageError(
                    f"{file.place(node.statement_start)}: the image of {service!r} comes from elsewhere ({statement}), "
                    f"where it may be shared: write `image:` into the service itself."
                )
    raise ComposeImageError(
        f"{', '.join(_paths(files))}: no `image:` was found under services, {service}: write it there, in block style."
    )


def _single_scalar(file: SourceFile, found: Sequence[Node], service: str) -> Node:
    written = [node for node in found if node.kind != "empty"]
    text = file.text
    if len(written) == 1 and not any(node.has_properties for node in found):
        node = written[0]
        value = text[node.start : node.end]
        escapes = {"single": "''", "double": "\\"}.get(node.kind)
        if node.kind in ("plain", *QUOTED_KINDS) and "\n" not in value and not (escapes and escapes in value):
            first = found[0]
            return Node(node.path, node.kind, node.start, node.end, first.statement_start, node.statement_end, False)
    kinds = ", ".join(node.kind for node in written) or "nothing"
    raise ComposeImageError(
        f"{file.place(found[0].statement_start)}: the image of {service!r} is no simple text (found: {kinds}; anchors, "
        f"aliases, tags, escapes and texts of several lines are not changed): write it as `image: repository:tag`."
    )


def _brings_image(node: Node, service: str) -> bool:
    """Whether a service may get its image by this node: a merge key, `extends`, an alias or an include."""
    inherited = [
        ("services", service, "<<"),
        ("services", service, "extends"),
        ("services", "<<"),
        ("<<",),
        ("include",),
    ]
    aliased = node.kind == "alias" and node.path in (("services",), ("services", service))
    return node.path in inherited or aliased


def _resolve(file: SourceFile, node: Node, variables: Variables, image: str) -> list[Piece]:
    """Return the pieces of the image, which must be what Compose made of them."""
    place = file.place(node.start)
    origin = Origin(file, node.start, node.statement_start, node.statement_end)
    try:
        pieces = interpolate(origin, node.end, variables)
    except InterpolationError as error:
        raise ComposeImageError(f"{file.place(error.offset)}: {error}: use one of these forms in the image.") from error
    unknown = [index for index, piece in enumerate(pieces) if piece.text is None]
    if len(unknown) == 1:
        pieces = _fill(pieces, unknown[0], image)
    found = "".join(piece.text or "" for piece in pieces)
    if found != image:
        raise ComposeImageError(
            f"{place}: the image reads {found!r} here, but Compose says {image!r}: something that is not followed here "
            f"gives it. Write the image into the service itself, in the last Compose file."
        )
    return pieces


def _fill(pieces: Sequence[Piece], index: int, image: str) -> list[Piece]:
    """Give the one piece that only Compose knows what the others leave of the image."""
    head = "".join(piece.text or "" for piece in pieces[:index])
    tail = "".join(piece.text or "" for piece in pieces[index + 1 :])
    piece = pieces[index]
    text = image[len(head) : len(image) - len(tail)]
    return [*pieces[:index], Piece(text, piece.variable, None, piece.obstacle), *pieces[index + 1 :]]


def _parse(image: str, pieces: Sequence[Piece], place: str) -> ImageReference:
    try:
        return parse_image_reference(image)
    except ImageReferenceError as error:
        unset = [f" The variable {piece.variable} is empty: {_reason(piece)}." for piece in pieces if not piece.text]
        raise ComposeImageError(
            f"{place}: {error}{''.join(unset)} Correct the image or set the variable first."
        ) from error


def _reason(piece: Piece) -> str:
    return piece.obstacle if piece.origin is None else f"see {piece.origin.file.place(piece.origin.offset)}"


# The edit


def _plan(present: ImageReference, wanted: ImageReference, pieces: Sequence[Piece], place: str) -> _Edit:
    """Return the edit that makes the present reference the wanted one; it must lie within one piece."""
    start = len(present.repository) + (0 if present.tag is None else 1)
    end = len(present.format())
    replacement = wanted.format()[start:]
    touched = []
    position = 0
    for piece in pieces:
        after = position + len(piece.text or "")
        if (position < end and after > start) or start <= position == after <= end or position < after == start == end:
            touched.append((piece, position))
        position = after
    if len(touched) != 1:
        parts = ", ".join(_describe(piece) for piece, _position in touched)
        raise ComposeImageError(
            f"{place}: the tag (with its digest) of {present.format()!r} is put together from several parts ({parts}): "
            f"let it come from one place, for example `{present.repository}:${{OPSTAGE_TAG}}`."
        )
    piece, position = touched[0]
    if piece.origin is None:
        raise ComposeImageError(
            f"{place}: the tag comes from the variable {piece.variable}, which cannot be changed: {piece.obstacle}. "
            f"Set {piece.variable} to a plain value in an environment file, or write the tag into the Compose file."
        )
    offset = piece.origin.offset - position
    return _Edit(piece.origin, offset + start, offset + end, replacement, piece.variable)


def _describe(piece: Piece) -> str:
    return f"the variable {piece.variable}" if piece.variable else f"the text {piece.text!r}"


def _refuse_extended(edited: SourceFile, files: Sequence[SourceFile], project: ComposeProject) -> None:
    """Refuse to change a file from which another one takes services by name: the proof, on a copy, would not see it."""
    for file in files:
        for node in scan(file.text):
            if node.path[-2:] != ("extends", "file"):
                continue
            name = file.text[node.start : node.end]
            for folder in (project.project_dir, os.path.dirname(file.real_path)):
                if os.path.realpath(os.path.join(folder, name)) == edited.real_path:
                    raise ComposeImageError(
                        f"{file.place(node.start)}: a service extends one of {edited.path}, and would be changed with "
                        f"it: leave `file:` out, or give that service what it needs."
                    )


# The proof


@contextmanager
def _temporary_copy(file: SourceFile, data: bytes) -> Iterator[str]:
    """Give the path of a private file with `data` beside `file`; it is gone afterwards, unless it was renamed."""
    try:
        folder, name = os.path.split(file.real_path)
        descriptor, path = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    except OSError as error:
        raise _write_error(file, error) from error
    try:
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise _write_error(file, error) from error
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _prove(
    project: ComposeProject,
    edit: _Edit,
    copy_path: str,
    sources: tuple[Sequence[SourceFile], Sequence[SourceFile]],
    expected: Mapping[str, Any],
) -> None:
    """Let Compose read the project with the edited copy in the original's place; raises when it is not as expected."""
    files, env_files = ([copy_path if file is edit.file else file.path for file in group] for group in sources)
    found = _compose_config(project, files, env_files)
    differences = sorted(_differences(expected, found))
    if differences:
        subject = f"the variable {edit.variable}" if edit.variable else "the tag"
        raise ComposeImageError(
            f"{edit.file.place(edit.start)}: changing {subject} here would also change, or fail to change as wanted, "
            f"{', '.join(differences)}. Nothing was written: give each of these places a tag or variable of its own."
        )


def _differences(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield the paths at which two documents differ; never their values, which may be secret."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() | found.keys():
            inner = f"{path}.{key}" if path else str(key)
            if key in expected and key in found:
                yield from _differences(expected[key], found[key], inner)
            else:
                yield inner
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif expected != found:
        yield path


# The writing


def _publish(path: str, file: SourceFile) -> None:
    """Give the proven copy the original's owner, mode and extended attributes, and then its name."""
    try:
        with open(file.real_path, "rb") as stream:
            if stream.read() != file.data:
                raise ComposeImageError(f"{file.path} was changed by somebody else meanwhile: run this again.")
            original = os.fstat(stream.fileno())
        own = os.stat(path)
        if (own.st_uid, own.st_gid) != (original.st_uid, original.st_gid):
            os.chown(path, original.st_uid, original.st_gid)
        for name in _extended_attributes(file.real_path):
            os.setxattr(path, name, os.getxattr(file.real_path, name))
        os.chmod(path, stat.S_IMODE(original.st_mode))
        os.replace(path, file.real_path)
        _sync_folder(os.path.dirname(file.real_path))
    except OSError as error:
        raise _write_error(file, error) from error


def _extended_attributes(path: str) -> list[str]:
    """Return the names of the access list, the SELinux label and the like; none where the file system has no such."""
    try:
        return os.listxattr(path)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(file: SourceFile, error: OSError) -> ComposeImageError:
    return ComposeImageError(
        f"{file.path} cannot be written: {error.strerror}. It was left as it is; make room or give the right to write."
    )
