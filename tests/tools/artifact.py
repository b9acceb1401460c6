# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the collection's artifact, `capsule-opstage-VERSION.tar.gz`.

    artifact.py [FOLDER]    the folder to put it into, the checkout unless given

`ansible-galaxy collection build` packs whatever lies in a folder and is not ignored in galaxy.yml. So it gets a copy
with the files that git tracks or would track; caches and empty folders of a checkout cannot get in.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.repository import CHECKOUT, list_files


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the collection's artifact.")
    parser.add_argument("folder", nargs="?", type=Path, default=CHECKOUT)
    sys.stdout.write(f"{build(parser.parse_args().folder)}\n")
    return 0


def build(folder: Path) -> Path:
    """Put the artifact into the folder, in the place of one of the same version, and return its path."""
    galaxy = Path(sys.executable).parent / "ansible-galaxy"
    with tempfile.TemporaryDirectory(prefix="opstage-artifact-") as work:
        source, built = Path(work, "source"), Path(work, "built")
        source.mkdir()
        copy = ["cp", "--parents", "--no-dereference", "--preserve=mode", "--target-directory", str(source)]
        subprocess.run([*copy, *list_files()], cwd=CHECKOUT, check=True)
        command = [str(galaxy), "collection", "build", "--output-path", str(built), str(source)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        (artifact,) = built.iterdir()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / artifact.name).write_bytes(artifact.read_bytes())
    return folder / artifact.name


if __name__ == "__main__":
    sys.exit(main())
