# SPDX-License-Identifier: GPL-3.0-or-later
"""Opstage's images in the registry: the stand-in, or the real ones from the repository that OPSTAGE_IMAGE names."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from testbed import registry
from testbed.engine import docker, exists
from testbed.machine import CACHE, CHECKOUT, install
from testbed.process import CommandError, TestbedError, run_logged, say, succeeds

SOURCE = Path(__file__).resolve().parent / "opstage"
RECORD = CACHE / "opstage-images.json"
SECONDS_TO_COPY = 600
REAL_TAGS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0")


def ensure_opstage_images() -> None:
    """Leave with all of Opstage's tags in the registry, pushed where the source or the registry is new.

    Raises TestbedError where an image can be neither built nor pulled.
    """
    real = os.environ.get("OPSTAGE_IMAGE", "").strip()
    source = f"mirror of {real}" if real else f"stand-in {source_hash()}"
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if record.get("source") == source and set(record["tags"]) <= registry.tags():
        return
    if real:
        pushed = mirror(real)
    else:
        build()
        pushed = sorted(registry.tags())
    RECORD.write_text(json.dumps({"source": source, "tags": pushed}), encoding="utf-8")


def source_hash() -> str:
    """Twelve hexadecimal digits over all files of the stand-in."""
    digest = hashlib.sha256()
    for path in sorted(path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"\0{path.relative_to(SOURCE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def build() -> None:
    """Build the stand-in's images and push them."""
    say("build and push the images of the Opstage stand-in")
    run_logged(
        [python_with_pip(), str(SOURCE / "build.py"), "--repository", registry.push_repository(),
         "--cache", str(CACHE), "--push"],
        CACHE / "opstage-images.log",
    )  # fmt: skip


def python_with_pip() -> str:
    """A Python that can download packages: this one, the checkout's environment, or Debian's with pip installed."""
    for python in (sys.executable, str(CHECKOUT / ".venv" / "bin" / "python")):
        if succeeds([python, "-m", "pip", "--version"]):
            return python
    install(["python3-pip"])
    return "/usr/bin/python3"


def mirror(real: str) -> list[str]:
    """Copy the tags of the real image that exist into the registry, with their aliases. Returns the tags copied.

    Raises TestbedError where the repository has none of them.
    """
    say(f"OPSTAGE_IMAGE is set: use the real image, mirrored from {real}")
    found: list[str] = []
    problem = ""
    for tag in REAL_TAGS:
        try:
            copy(f"{real}:{tag}", f"{registry.push_repository()}:{tag}")
        except CommandError as error:
            problem = str(error)
            say(f"{real}:{tag} is left out: {error}")
            continue
        registry.move(tag.rpartition(".")[0], tag)
        found.append(tag)
    if not found:
        raise TestbedError(f"OPSTAGE_IMAGE={real} has none of the tags {', '.join(REAL_TAGS)}: {problem}")
    return found


def copy(source: str, destination: str) -> None:
    """Pull ``source`` and push it as ``destination``, keeping the first only where it was there before.

    Raises CommandError where that fails.
    """
    was_there = exists("image", source)
    docker("pull", "--quiet", source, timeout=SECONDS_TO_COPY)
    docker("tag", source, destination)
    docker("push", "--quiet", destination, timeout=SECONDS_TO_COPY)
    if not was_there:
        docker("image", "rm", source)
