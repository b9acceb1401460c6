# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command ``opstage-ops`` as one file: the core in an archive that Python runs (PEP 441)."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import os
import zipfile
from typing import Any, Iterator

from .collection import VERSION
from .command_line import main
from .durable_files import replace_file, sync_folder

PACKAGE = "opstage_ops"

_CORE, _START = main.__module__.rsplit(".", 1)
_MODE = 0o755
_TIME = (1980, 1, 1, 0, 0, 0)
_MAIN = f"""\
# SPDX-License-Identifier: GPL-3.0-or-later
import signal
import sys

# Until the command itself has begun and once it has ended, Ctrl-C needs no traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from {PACKAGE}.{_START} import main

sys.exit(main(sys.argv[1:]))
"""


class ArchiveError(Exception):
    """Another program has the name that the command is to have."""


def build_archive(interpreter: str) -> bytes:
    """The file for the Python ``interpreter`` (absolute path): the same sources always give the same bytes."""
    archive = io.BytesIO()
    archive.write(f"#!{interpreter} -I\n".encode())
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as stream:
        _add(stream, "__main__.py", _MAIN)
        _add(stream, f"{PACKAGE}/__init__.py", f'VERSION = "{VERSION}"\n')
        for name, source in sorted(_sources()):
            _add(stream, f"{PACKAGE}/{name}.py", source)
    return archive.getvalue()


def _add(stream: zipfile.ZipFile, name: str, source: str) -> None:
    stream.writestr(zipfile.ZipInfo(name, _TIME), source, zipfile.ZIP_DEFLATED)


def _sources() -> Iterator[tuple[str, str]]:
    """The modules of the core that the command needs, with their sources, wherever they were loaded from."""
    found: set[str] = set()
    left = [_START]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        source = _source(name)
        left += _neighbours(source)
        yield name, source


def _source(name: str) -> str:
    """The source of a module, which lies in a folder, or in the archive that Ansible sends to a host."""
    specification: Any = importlib.util.find_spec(f"{_CORE}.{name}")
    return str(specification.loader.get_source(specification.name))


def _neighbours(source: str) -> Iterator[str]:
    """The modules of the core that one imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            yield node.module


def installed_archive(path: str) -> bytes | None:
    """The command at ``path``, None where there is none. Raises ArchiveError where there is something else, OSError."""
    try:
        with open(path, "rb") as stream:
            found = stream.read()
    except FileNotFoundError:
        if os.path.islink(path):
            raise ArchiveError("it is a link that leads nowhere. Remove it, or name another path.") from None
        return None
    if not _is_archive(found):
        raise ArchiveError("it is another program. Remove it, or name another path.")
    return found


def _is_archive(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as stream:
            return f"{PACKAGE}/__init__.py" in stream.namelist()
    except zipfile.BadZipFile:
        return False


def install_archive(path: str, archive: bytes, check: bool = False) -> bool:
    """Put the command at ``path``, executable for everybody; returns whether that changes anything.

    Raises ArchiveError where another program is there, OSError.
    """
    changed = installed_archive(path) != archive or os.stat(path).st_mode & 0o7777 != _MODE
    if changed and not check:
        replace_file(path, archive, mode=_MODE)
    return changed


def remove_archive(path: str, check: bool = False) -> bool:
    """Remove the command at ``path``; returns whether there was one. Raises as install_archive does."""
    changed = installed_archive(path) is not None
    if changed and not check:
        os.unlink(path)
        sync_folder(os.path.dirname(path))
    return changed


def describe_archive(archive: bytes | None) -> str:
    """One line that tells one build of the command from another, for a diff; empty for None."""
    if archive is None:
        return ""
    with zipfile.ZipFile(io.BytesIO(archive)) as stream:
        version = stream.read(f"{PACKAGE}/__init__.py").decode(errors="replace").strip()
    return f"{version}, sha256 {hashlib.sha256(archive).hexdigest()}\n"
