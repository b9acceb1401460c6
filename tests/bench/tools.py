# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that are measured, each as the commands that it takes to copy a database."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.better_sqlite3 import ensure_better_sqlite3
from testbed.machine import install
from testbed.process import TestbedError

FOLDER = Path(__file__).resolve().parent
SECONDS_OF_PATIENCE = 60

COPY = "copy alone"
UNCHECKED = "snapshot, no check"
QUICK = "snapshot, quick check"
FULL = "snapshot, full check"
API = "Connection.backup"
SHELL = ".backup"
VACUUM = "VACUUM INTO"
NODE = "backup()"
CP = "cp and sync"
NOTHING = "no copy"
IDLE_PYTHON = "idle Python"

DESCRIPTIONS = {
    COPY: "this collection's copy alone, durable under its name",
    UNCHECKED: "`sqlite_backup` with `verify: none`: copy, sha256, durable under its name",
    QUICK: "the same with `verify: quick`: and `quick_check`, `foreign_key_check`",
    FULL: "the same with `verify: full`, the default: and `integrity_check`, `foreign_key_check`",
    API: "Python's `Connection.backup` in one pass",
    SHELL: "the `sqlite3` command's `.backup`",
    VACUUM: "the `sqlite3` command's `VACUUM INTO`",
    NODE: "better-sqlite3's `backup()` from a process of its own",
    CP: "`cp` and `sync FILE`: the limit; not a usable copy while somebody writes",
    NOTHING: "the same writer while nothing is copied",
}


class Tools:
    """Knows the commands of each tool; ``missing`` says why a tool cannot be measured here."""

    def __init__(self) -> None:
        if shutil.which("sqlite3") is None:
            install(["sqlite3"])
        self.missing: dict[str, str] = {}
        try:
            self.node, self.module = ensure_better_sqlite3()
        except TestbedError as error:
            self.missing[NODE] = str(error)

    def commands(self, tool: str, source: Path, dest: Path, seconds_of_nothing: float = 0.0) -> list[list[str]]:
        """What to run, one after the other, to copy ``source`` to the new file ``dest``."""
        shell = ["sqlite3", "-cmd", f".timeout {1000 * SECONDS_OF_PATIENCE}", str(source)]
        commands = {
            COPY: [python("copy", source, dest)],
            UNCHECKED: [python("snapshot", "none", source, dest)],
            QUICK: [python("snapshot", "quick", source, dest)],
            FULL: [python("snapshot", "full", source, dest)],
            API: [python("api", source, dest)],
            SHELL: [[*shell, f".backup '{dest}'"]],
            VACUUM: [[*shell, f"VACUUM INTO '{dest}'"]],
            CP: [["cp", "--reflink=never", str(source), str(dest)], ["sync", str(dest)]],
            NOTHING: [["sleep", str(seconds_of_nothing)]],
        }
        if tool == NODE:
            return [[str(self.node), str(FOLDER / "backup.cjs"), str(self.module), str(source), str(dest)]]
        return commands[tool]

    def available(self, tools: Sequence[str]) -> list[str]:
        """Those of the tools that can be measured here."""
        return [tool for tool in tools if tool not in self.missing]


def python(*arguments: str | Path) -> list[str]:
    """The command for one work of copier.py."""
    return [sys.executable, str(FOLDER / "copier.py"), *map(str, arguments)]
