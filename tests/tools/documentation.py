# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the HTML of the guide, the modules and the roles into .cache/docs/html. Warnings are errors.

What it needs is pinned in requirements/documentation.txt and has an environment of its own, since Sphinx and the tools
of .venv want different versions of docutils. Once that is installed, no network is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from testbed.machine import CHECKOUT
from testbed.process import TestbedError, say
from tools.environment import attempt, find_base_python, link_collection

COLLECTION = "capsule.opstage"
REQUIREMENTS = CHECKOUT / "requirements" / "documentation.txt"
DOCUMENTS = CHECKOUT / "docs"
FOLDER = CHECKOUT / ".cache" / "docs"
ENVIRONMENT = FOLDER / "venv"
INSTALLED = ENVIRONMENT / "installed.txt"
SOURCE = FOLDER / "source"
HTML = FOLDER / "html"
SETTINGS = Path(__file__).parent / "sphinx"

# Beside the guide, a page is a file of docs/; there it is named by its path, in Sphinx by its document.
PAGE = re.compile(r"`([^`<]+) <\.\./\.\./([a-z-]+)\.md>`__")
FILE = re.compile(r"`([^`<]+) <\.\./\.\./([a-z.-]+)>`__")
HEADING_OF_PLUGINS = ".. _plugin_index"


def main() -> int:
    """Build it; returns the exit status. An error is one line on standard error."""
    try:
        prepare()
        run("antsibull-docs", "lint-collection-docs", str(CHECKOUT))
        for folder in (SOURCE, HTML):
            shutil.rmtree(folder, ignore_errors=True)
        SOURCE.mkdir(parents=True)
        arguments = ["--use-current", "--squash-hierarchy", "--fail-on-error", "--dest-dir", str(SOURCE), COLLECTION]
        run("antsibull-docs", "collection", *arguments)
        add_pages()
        options = ["-W", "--keep-going", "--quiet", "--jobs", "auto", "-c", str(SETTINGS), "-d", str(FOLDER / "trees")]
        run("sphinx-build", *options, str(SOURCE), str(HTML))
    except TestbedError as error:
        say(f"error: {error}")
        return 1
    say(f"{HTML.relative_to(CHECKOUT)}/index.html")
    return 0


def prepare() -> None:
    """Leave with ENVIRONMENT holding what is pinned. Raises TestbedError."""
    link_collection()
    wanted = REQUIREMENTS.read_text()
    if INSTALLED.exists() and INSTALLED.read_text() == wanted:
        return
    say(f"install the Python packages of {REQUIREMENTS.relative_to(CHECKOUT)}")
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    attempt([find_base_python(), "-m", "venv", str(ENVIRONMENT)], f"{ENVIRONMENT} could not be made")
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--no-compile", "--disable-pip-version-check"]
    attempt([*pip, "--requirement", str(REQUIREMENTS)], "the Python packages could not be installed")
    INSTALLED.write_text(wanted)


def run(program: str, *arguments: str) -> None:
    """Run a program of ENVIRONMENT, which says itself what is wrong. Raises TestbedError."""
    binaries = ENVIRONMENT / "bin"
    environment = {**os.environ, "PATH": os.pathsep.join([str(binaries), os.environ["PATH"]])}
    command = [str(binaries / program), *arguments]
    if subprocess.run(command, cwd=CHECKOUT, env=environment, stdin=subprocess.DEVNULL, check=False).returncode:
        raise TestbedError(f"{program} found what is to be mended, see above")


def add_pages() -> None:
    """Put what lies in docs/ beside the guide into SOURCE, and have the guide's links lead there."""
    shutil.copytree(DOCUMENTS, SOURCE, ignore=shutil.ignore_patterns("docsite"), dirs_exist_ok=True)
    for page in (SOURCE / "docsite").glob("*.rst"):
        text = PAGE.sub(r":doc:`\1 </\2>`", page.read_text())
        page.write_text(FILE.sub(r":download:`\1 </\2>`", text))
    names = "\n".join(f"    {path.stem}" for path in sorted(DOCUMENTS.glob("*.md")))
    index = SOURCE / "index.rst"
    before, heading, after = index.read_text().partition(HEADING_OF_PLUGINS)
    section = f"Reference\n---------\n\n.. toctree::\n    :maxdepth: 1\n\n{names}\n\n"
    index.write_text(before + section + heading + after)


if __name__ == "__main__":
    sys.exit(main())
