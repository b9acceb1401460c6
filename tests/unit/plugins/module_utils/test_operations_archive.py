# SPDX-License-Identifier: GPL-3.0-or-later
"""The command in one file: it runs alone with any Python, and replaces nothing but itself."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION
from ansible_collections.capsule.opstage.plugins.module_utils.operations_archive import (
    ArchiveError,
    build_archive,
    describe_archive,
    install_archive,
    installed_archive,
    remove_archive,
)
from sqlite_testing import PYTHONS, interpreters, make_database, numbers_in


@pytest.mark.parametrize("python", [pytest.param(path, id=Path(path).name) for path in interpreters(PYTHONS)])
def test_alone_with_any_python(tmp_path: Path, python: str) -> None:
    command = tmp_path / "opstage-ops"
    assert install_archive(str(command), build_archive(python))
    make_database(tmp_path / "live.db", 20, "WAL")
    ended = subprocess.run(
        [command, "snapshot", "live.db", "copy.db", "--json"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "error"},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads(ended.stdout)["integrity"] == "ok"
    assert numbers_in(tmp_path / "copy.db") == list(range(1, 21))
    usage = subprocess.run([command, "prune", "--help"], capture_output=True, check=True, text=True)
    assert "restic forget" in usage.stdout


def test_the_same_sources_give_the_same_file() -> None:
    assert build_archive("/usr/bin/python3") == build_archive("/usr/bin/python3")
    assert build_archive("/usr/bin/python3").startswith(b"#!/usr/bin/python3 -I\n")


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    path, archive = tmp_path / "opstage-ops", build_archive(sys.executable)
    assert install_archive(str(path), archive, check=True)
    assert os.listdir(tmp_path) == []
    assert install_archive(str(path), archive)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert not install_archive(str(path), archive)
    path.chmod(0o700)
    assert install_archive(str(path), archive)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert install_archive(str(path), build_archive("/usr/bin/python3"))
    assert remove_archive(str(path), check=True)
    assert remove_archive(str(path))
    assert not remove_archive(str(path))
    assert os.listdir(tmp_path) == []


def test_another_program_stays(tmp_path: Path) -> None:
    path = tmp_path / "opstage-ops"
    path.write_text("#!/bin/sh\n")
    for change in (
        lambda: install_archive(str(path), build_archive(sys.executable)),
        lambda: remove_archive(str(path)),
    ):
        with pytest.raises(ArchiveError, match="another program"):
            change()
    assert path.read_text() == "#!/bin/sh\n"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match="leads nowhere"):
        install_archive(str(path), build_archive(sys.executable))


def test_a_diff_tells_one_from_another(tmp_path: Path) -> None:
    archive = build_archive(sys.executable)
    assert describe_archive(archive).startswith(f'VERSION = "{VERSION}", sha256 ')
    assert describe_archive(archive) != describe_archive(build_archive("/usr/bin/python3"))
    assert describe_archive(installed_archive(str(tmp_path / "opstage-ops"))) == ""
