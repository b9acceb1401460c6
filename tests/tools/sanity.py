# SPDX-License-Identifier: GPL-3.0-or-later
"""Run `ansible-test sanity` on a copy of what the repository holds.

    sanity.py [ARGUMENT ...]    the arguments are handed on to `ansible-test sanity`

ansible-test wants the collection in a folder named ansible_collections/capsule/opstage. The copy
holds the files that git tracks or would track, so neither caches nor the link of ansible.cfg get in
the way. Everything that ansible-test keeps in a home directory lies under .cache as well.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.repository import CHECKOUT, list_files

WORK = CHECKOUT / ".cache" / "sanity"
COLLECTION = WORK / "ansible_collections" / "capsule" / "opstage"
HOME = WORK / "home"

GET_PIP = '''\
"""Put pip {version} into the empty virtual environment that runs this; see tests/tools/sanity.py."""

import subprocess
import sys

subprocess.run([sys.executable, "-m", "ensurepip"], check=True)
subprocess.run([sys.executable, "-m", "pip", "install", "pip=={version}"], check=True)
'''


def main() -> int:
    """Copy, prepare the home directory and run; returns the exit status of ansible-test."""
    copy_repository()
    prepare_home()
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "HOME": str(HOME), "PATH": os.pathsep.join([str(binaries), "/usr/bin", "/bin"])}
    command = [str(binaries / "ansible-test"), "sanity", "--color", "no", "--python", "default", *sys.argv[1:]]
    return subprocess.run(command, cwd=COLLECTION, env=environment, stdin=subprocess.DEVNULL, check=False).returncode


def copy_repository() -> None:
    """Make COLLECTION hold what git tracks or would track here, and nothing else."""
    shutil.rmtree(COLLECTION, ignore_errors=True)
    for name in list_files():
        destination = COLLECTION / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, destination, follow_symlinks=False)
    # Without a repository of its own, the copy counts as ignored by the one around it.
    subprocess.run(["git", "init", "--quiet"], cwd=COLLECTION, check=True)


def prepare_home() -> None:
    """Give ansible-test the user's pip settings and the script with which it puts pip into its environments.

    ansible-test downloads that script from a site of its own unless it is in its cache; a machine
    may reach PyPI and not that site. A script that is there already stays.
    """
    settings = HOME / ".config" / "pip"
    if not settings.is_symlink():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.symlink_to(Path("~/.config/pip").expanduser())
    cache = HOME / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in find_pip_versions():
        script = cache / f"get_pip_{version.replace('.', '_')}.py"
        if not script.exists():
            script.write_text(GET_PIP.format(version=version))


def find_pip_versions() -> set[str]:
    """Return the versions of pip that the installed ansible-test asks for, read from its source."""
    specification = importlib.util.find_spec("ansible_test")
    if specification is None or not specification.submodule_search_locations:
        raise SystemExit("error: ansible-test is not installed in the environment that runs this; use `make sanity`.")
    folder = Path(specification.submodule_search_locations[0])
    source = (folder / "_internal" / "python_requirements.py").read_text()
    return set(re.findall(r"\bpip='([0-9.]+)'", source))


if __name__ == "__main__":
    sys.exit(main())
