# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the tests of the SQLite core on the Pythons that it supports, and on SQLites from 3.31 on.

    versions.py [--python 3.8 ...] [--sqlite 3.31.1 ...] [--tests GLOB]

Every Python runs them on the oldest SQLite, and the newest Python on every SQLite; with --python and --sqlite, each of
these on each of those. Pythons are found on PATH and among pyenv's, and get pytest in an environment of their own. An
SQLite is built once from the source that a release of better-sqlite3 carries, and loaded in the place of the system's:
npm and a C compiler are needed. All that lies in .cache/versions. Exit status 1 when a test fails anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from testbed.machine import CHECKOUT
from testbed.process import CommandError, TestbedError, run_logged

CACHE = CHECKOUT / ".cache" / "versions"
TESTS = CHECKOUT / "tests" / "unit" / "plugins" / "module_utils"

PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")

SYSTEM = "system"
"""Whatever SQLite the Python loads by itself."""

RELEASES = {
    "3.31.1": "7.0.0",
    "3.34.0": "7.1.2",
    "3.37.2": "7.5.0",
    "3.45.1": "9.4.3",
    "3.46.1": "11.3.0",
    "3.53.2": "12.11.1",
}
"""SQLite by the release of better-sqlite3 that has its source: as in Ubuntu 20.04, Debian 11, Ubuntu 22.04, Ubuntu
24.04, Debian 13, and the newest that an application was seen to write with."""

OPTIONS = (
    "SQLITE_ENABLE_COLUMN_METADATA",
    "SQLITE_ENABLE_DBSTAT_VTAB",
    "SQLITE_ENABLE_DESERIALIZE",
    "SQLITE_ENABLE_FTS3",
    "SQLITE_ENABLE_FTS3_PARENTHESIS",
    "SQLITE_ENABLE_FTS4",
    "SQLITE_ENABLE_FTS5",
    "SQLITE_ENABLE_JSON1",
    "SQLITE_ENABLE_LOAD_EXTENSION",
    "SQLITE_ENABLE_MATH_FUNCTIONS",
    "SQLITE_ENABLE_RTREE",
    "SQLITE_ENABLE_UNLOCK_NOTIFY",
    "SQLITE_LIKE_DOESNT_MATCH_BLOBS",
    "SQLITE_SECURE_DELETE",
    "SQLITE_THREADSAFE=1",
    "SQLITE_USE_URI",
)
"""As Debian builds it."""

SECONDS_FOR_TESTS = 1800


@dataclass(frozen=True)
class Outcome:
    """What came of the tests on one Python with one SQLite, and how many seconds they took."""

    python: str
    sqlite: str
    passed: int
    failed: int
    skipped: int
    seconds: float

    def __str__(self) -> str:
        """One row of the table."""
        counts = f"{self.passed:7} {self.failed:7} {self.skipped:8}"
        return f"{self.python:8} {self.sqlite:8} {counts} {self.seconds:8.0f}"


def main() -> int:
    """Run the command line; returns the exit status. An error is one line on standard error."""
    parser = argparse.ArgumentParser(description="Run the tests of the SQLite core on Pythons and SQLites.")
    parser.add_argument("--python", nargs="+", choices=PYTHONS, metavar="VERSION", help=", ".join(PYTHONS))
    sqlites = (*RELEASES, SYSTEM)
    parser.add_argument("--sqlite", nargs="+", choices=sqlites, metavar="VERSION", help=", ".join(sqlites))
    parser.add_argument("--tests", default="test_sqlite_*.py", metavar="GLOB", help="the files to run")
    arguments = parser.parse_args()
    try:
        pythons = find_pythons(arguments.python or PYTHONS)
        pairs = choose_pairs(list(pythons), arguments.python, arguments.sqlite)
        files = sorted(map(str, TESTS.glob(arguments.tests)))
        write(f"{'python':8} {'sqlite':8} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
        outcomes = [run_tests(pythons[python], python, sqlite, files) for python, sqlite in pairs]
    except TestbedError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return int(any(outcome.failed or not outcome.passed for outcome in outcomes))


def find_pythons(versions: Sequence[str]) -> dict[str, Path]:
    """The interpreters that are there, by version. Raises TestbedError where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = {}
    for version in versions:
        folders = [*sorted(pyenv.glob(f"{version}.*/bin")), *map(Path, os.get_exec_path())]
        candidates = [folder / f"python{version}" for folder in folders]
        working = next(filter(is_working, candidates), None)
        if working is not None:
            found[version] = working
    if not found:
        raise TestbedError(f"no Python {', '.join(versions)} on PATH or among pyenv's; install one")
    return found


def is_working(python: Path) -> bool:
    """Whether it is an interpreter with sqlite3; pyenv's stand-ins on PATH need not be."""
    command = [str(python), "-c", "import sqlite3, venv"]
    return python.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


def choose_pairs(
    found: Sequence[str], pythons: Sequence[str] | None, sqlites: Sequence[str] | None
) -> list[tuple[str, str]]:
    """Each of these Pythons with each of those SQLites; where neither is said, the outer edges."""
    oldest, newest = next(iter(RELEASES)), found[-1]
    return [
        (python, sqlite)
        for python in found
        for sqlite in sqlites or (*RELEASES, SYSTEM)
        if pythons or sqlites or sqlite == oldest or python == newest
    ]


def run_tests(python: Path, version: str, sqlite: str, files: Sequence[str]) -> Outcome:
    """Run the tests once and write a row of the table. Raises TestbedError where they cannot be run at all."""
    environment = dict(os.environ)
    if sqlite != SYSTEM:
        environment["LD_LIBRARY_PATH"] = str(built_sqlite(sqlite))
    interpreter = prepared_python(python, version)
    loaded = loaded_sqlite(interpreter, environment)
    if sqlite not in (SYSTEM, loaded):
        raise TestbedError(f"{python} loads SQLite {loaded} and not {sqlite}: it has one built in; use another Python")
    report, log = CACHE / f"{version}-{sqlite}.xml", CACHE / f"{version}-{sqlite}.log"
    report.unlink(missing_ok=True)
    started = time.monotonic()
    with log.open("w") as output:
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        subprocess.run(
            [str(interpreter), "-m", "pytest", *options, *files],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=SECONDS_FOR_TESTS,
            check=False,
        )
    outcome = read_outcome(report, version, loaded, time.monotonic() - started)
    write(f"{outcome}{f'  {log.relative_to(CHECKOUT)}' if outcome.failed else ''}")
    return outcome


def read_outcome(report: Path, python: str, sqlite: str, seconds: float) -> Outcome:
    """Count what pytest has reported; a run without a report is one failure."""
    if not report.exists():
        return Outcome(python, sqlite, 0, 1, 0, seconds)
    suites = xml.etree.ElementTree.parse(report).getroot().iter("testsuite")
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in suites:
        for name in counts:
            counts[name] += int(suite.get(name, "0"))
    failed = counts["failures"] + counts["errors"]
    return Outcome(python, sqlite, counts["tests"] - failed - counts["skipped"], failed, counts["skipped"], seconds)


def loaded_sqlite(python: Path, environment: dict[str, str]) -> str:
    """The version of the SQLite which an interpreter has in that environment."""
    command = [str(python), "-c", "import sqlite3; print(sqlite3.sqlite_version)"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def prepared_python(python: Path, version: str) -> Path:
    """The interpreter of an environment with pytest, made where it is not there."""
    folder = CACHE / f"python-{version}"
    interpreter = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        attempt([str(python), "-m", "venv", str(folder)])
        attempt([str(interpreter), "-m", "pip", "install", "--disable-pip-version-check", "pytest"])
        (folder / "ready").touch()
    return interpreter


def built_sqlite(version: str) -> Path:
    """The folder of a shared library of that SQLite, built where it is not there."""
    folder = CACHE / f"sqlite-{version}"
    library = folder / "libsqlite3.so.0"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        extract_source(version, folder)
        source = (folder / "sqlite3.h").read_text(encoding="utf-8")
        found = re.search(r'#define SQLITE_VERSION +"([0-9.]+)"', source)
        if found is None or found.group(1) != version:
            raise TestbedError(
                f"better-sqlite3 {RELEASES[version]} has not the source of SQLite {version}; name another"
            )
        options = ["-O1", "-fPIC", "-shared", "-Wl,-soname,libsqlite3.so.0", *(f"-D{option}" for option in OPTIONS)]
        made = folder / "made.so"
        attempt(["cc", *options, "-o", str(made), str(folder / "sqlite3.c"), "-lpthread", "-ldl", "-lm"])
        made.rename(library)
    return folder


def extract_source(version: str, folder: Path) -> None:
    """Fetch the release that carries the source, and leave that in the folder."""
    release = f"better-sqlite3-{RELEASES[version]}.tgz"
    attempt(["npm", "pack", "--silent", "--pack-destination", str(folder), f"better-sqlite3@{RELEASES[version]}"])
    with contextlib.ExitStack() as opened:
        archive = opened.enter_context(tarfile.open(folder / release))
        for member in archive.getmembers():
            if Path(member.name).name == "sqlite3.tar.gz":
                archive = opened.enter_context(tarfile.open(fileobj=archive.extractfile(member)))
        for member in archive.getmembers():
            content = archive.extractfile(member)
            if content is not None and Path(member.name).name in ("sqlite3.c", "sqlite3.h"):
                (folder / Path(member.name).name).write_bytes(content.read())
    (folder / release).unlink()


def attempt(command: Sequence[str]) -> None:
    """Run the command with its output in a log; raises TestbedError where it fails."""
    log = CACHE / "prepare.log"
    try:
        run_logged(command, log)
    except CommandError as error:
        raise TestbedError(f"{error}; all of its output is in {log.relative_to(CHECKOUT)}") from error


def write(text: str) -> None:
    """Write one line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
