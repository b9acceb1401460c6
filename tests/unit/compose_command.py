# SPDX-License-Identifier: GPL-3.0-or-later
"""A working `docker compose` for unit tests: the machine's own, or else a pinned one that only these tests see.

`docker compose config` needs no Engine, and Compose is one static program.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

from testbed.compose import fetch_compose, write_program

VERSION = "2.40.3"
SHA256 = "dba9d98e1ba5bfe11d88c99b9bd32fc4a0624a30fafe68eea34d61a3e42fd372"
"""Of the program, for Linux on x86-64."""

CACHE = Path(__file__).resolve().parents[2] / ".cache" / f"compose-{VERSION}"


@functools.cache
def search_path() -> str:
    """Return the PATH on which `docker compose` works."""
    path = os.environ["PATH"]
    if _works(path):
        return path
    if not (CACHE / "docker").exists():
        _install()
    path = f"{CACHE}{os.pathsep}{path}"
    if not _works(path):
        raise RuntimeError(f"Compose {VERSION} does not run on this machine: install the Docker Compose plugin.")
    return path


def environment() -> dict[str, str]:
    """Return the environment for a process that is to find `docker compose`, without any setting of Compose."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "OPSTAGE_"))}
    return {**settings, "PATH": search_path()}


def _works(path: str) -> bool:
    try:
        found = subprocess.run(
            ["docker", "compose", "version"], env={**os.environ, "PATH": path}, capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return found.returncode == 0


def _install() -> None:
    """Put the program, and a `docker` that hands `compose` over to it, into the cache."""
    program = fetch_compose(VERSION, SHA256)
    write_program(CACHE / "docker", f'#!/bin/sh\nshift\nexec "{program}" "$@"\n'.encode())
