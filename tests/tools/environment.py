# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the environment in which the Makefile's targets run.

    environment.py check          stop unless this machine can run the testbed
    environment.py demo           .venv with what `make demo` needs
    environment.py development    .venv with what `make test` needs as well

Runs under the system's Python 3.11 or newer before anything else is there, so it imports the
standard library only. What cannot be had ends the program with one line that names it.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from testbed.machine import CHECKOUT, install, require_root, require_space, warn_unless_supported
from testbed.process import CommandError, TestbedError, run_logged, say

ENVIRONMENT = CHECKOUT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
CONSTRAINTS = CHECKOUT / "requirements" / "constraints.txt"
LOGS = CHECKOUT / ".cache" / "logs"
COLLECTION_LINK = CHECKOUT / ".collections" / "ansible_collections" / "capsule" / "opstage"

BYTES_OF_ENVIRONMENT = 1024**3
"""Free space for .venv (0.5 GiB were measured) and the environments of ansible-test (0.2 GiB)."""

PACKAGES = {
    "demo": {"ssh": "openssh-client"},
    "development": {
        "ssh": "openssh-client",
        "age": "age",
        "restic": "restic",
        "git": "git",
        "shellcheck": "shellcheck",
        "strace": "strace",
        "mkfs.ext4": "e2fsprogs",
    },
}
"""The Debian package that brings each command, by what the environment is made for."""

SIGNS = {
    "no network": ("name resolution", "Network is unreachable", "NewConnectionError", "timed out"),
    "too little disk": ("No space left on device",),
}
"""What pip and venv write, by the cause that it points to."""


def main() -> int:
    """Run the command line; returns the exit status. An error is one line on standard error."""
    parser = argparse.ArgumentParser(description="Make the environment in which the Makefile's targets run.")
    parser.add_argument("command", choices=["check", *PACKAGES])
    command = parser.parse_args().command
    try:
        if command == "check":
            require_root()
            warn_unless_supported()
        else:
            prepare(command)
    except TestbedError as error:
        say(f"error: {error}")
        return 1
    return 0


def prepare(purpose: str) -> None:
    """Leave with .venv holding the pinned packages, and the collection found under its full name."""
    missing = find_missing_packages(PACKAGES[purpose])
    if missing:
        require_root()
        install(missing)
    if not environment_works():
        require_space(ENVIRONMENT, BYTES_OF_ENVIRONMENT)
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        attempt([find_base_python(), "-m", "venv", str(ENVIRONMENT)], f"{ENVIRONMENT} could not be made")
    install_requirements(CHECKOUT / "requirements" / f"{purpose}.txt")
    link_collection()


def find_missing_packages(commands: dict[str, str]) -> list[str]:
    """Return the Debian packages to install for the commands, and for making virtual environments."""
    missing = [package for command, package in commands.items() if shutil.which(command) is None]
    if importlib.util.find_spec("ensurepip") is None:
        missing.append(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")
    return missing


def find_base_python() -> str:
    """Return this Python, or where it is that of a virtual environment, the one which that was made from."""
    if sys.prefix == sys.base_prefix:
        return sys.executable
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")


def environment_works() -> bool:
    """Whether .venv has a Python, 3.11 or newer, that runs pip."""
    if not PYTHON.exists():
        return False
    command = [str(PYTHON), "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def install_requirements(requirements: Path) -> None:
    """Install the pinned requirements into .venv.

    Compiling all 20,000 files of the `ansible` package would take longer than installing them;
    Python compiles the few that are used when they are.
    """
    say(f"install the Python packages of {requirements.relative_to(CHECKOUT)} into .venv")
    options = ["--no-compile", "--disable-pip-version-check", "--constraint", str(CONSTRAINTS)]
    command = [str(PYTHON), "-m", "pip", "install", *options, "--requirement", str(requirements)]
    attempt(command, "the Python packages could not be installed")


def attempt(command: Sequence[str], failure: str) -> None:
    """Run the command with its output in a log; raises TestbedError with the cause where it fails."""
    try:
        run_logged(command, LOGS / "environment.log")
    except CommandError as error:
        raise TestbedError(f"{failure}: {find_cause(error)}") from error


def find_cause(error: CommandError) -> str:
    """Return the likely cause of a failure, in a few words, and the command's own last line."""
    for cause, signs in SIGNS.items():
        if any(sign in error.output for sign in signs):
            return f"{cause}? {error}"
    return str(error)


def link_collection() -> None:
    """Let Ansible find this checkout under the collection's full name; ansible.cfg names the folder."""
    COLLECTION_LINK.parent.mkdir(parents=True, exist_ok=True)
    if not COLLECTION_LINK.is_symlink():
        COLLECTION_LINK.symlink_to("../../..", target_is_directory=True)


if __name__ == "__main__":
    sys.exit(main())
