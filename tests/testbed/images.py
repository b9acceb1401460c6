# SPDX-License-Identifier: GPL-3.0-or-later
"""The host image: a whole Debian with systemd, sshd, Docker Engine, Compose and the registry's program."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
from pathlib import Path

from testbed.engine import data_folder, docker, exists
from testbed.machine import BYTES_TO_BUILD, CACHE, install, require_space
from testbed.process import CommandError, TestbedError, say

RECIPE = Path(__file__).resolve().parent / "host"
REPOSITORY = "opstage-testbed/host"
LABEL = "opstage-testbed"
SUITE = "trixie"
ONLY_SINCE = {"bookworm": {"docker-cli", "docker-compose"}}
"""By suite, those of PACKAGES that it has not yet: there docker.io has the client, and nothing has Compose."""
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "python3",
    "docker.io",
    "docker-cli",
    "docker-compose",
    "docker-registry",
    "iptables",
    "ca-certificates",
    "openssh-server",
    "procps",
    "iproute2",
    "sqlite3",
    "age",
    "restic",
)
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")


def build_command(suite: str = SUITE) -> list[str]:
    """The mmdebstrap command that writes the host's root file system to standard output as a tar."""
    packages = [package for package in PACKAGES if package not in ONLY_SINCE.get(suite, ())]
    return [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(packages)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        '--aptopt=Acquire::Languages "none"',
        f'--customize-hook=sh {shlex.quote(str(RECIPE / "configure.sh"))} "$1"',
        suite,
        "-",
    ]


def recipe_hash(suite: str) -> str:
    """Twelve hexadecimal digits over everything that determines the host image."""
    digest = hashlib.sha256("\0".join(build_command(suite)).replace(str(RECIPE), "").encode())
    for path in sorted(path for path in RECIPE.rglob("*") if path.is_file()):
        digest.update(f"\0{path.relative_to(RECIPE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def ensure_mmdebstrap() -> None:
    """Install mmdebstrap where it is missing."""
    if shutil.which("mmdebstrap") is None:
        install(["mmdebstrap"])


def ensure_host_image(suite: str = SUITE) -> str:
    """Return the name of the host image, built where the engine does not have it yet.

    Raises TestbedError where it cannot be built.
    """
    name = f"{REPOSITORY}:{recipe_hash(suite)}"
    if not exists("image", name):
        require_space(data_folder(), BYTES_TO_BUILD)
        ensure_mmdebstrap()
        say(f"build the host image {name}, about half a minute")
        docker("tag", build(suite), name)
    return name


def build(suite: str) -> str:
    """Pipe the new root file system into ``docker import`` and return the image's id.

    The name is given by the caller, once both programs have succeeded, so a named image is a whole one.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / "host-image.log"
    with log.open("wb") as stream:
        # A session of its own, because mmdebstrap ends its whole process group when it fails.
        builder = subprocess.Popen(build_command(suite), stdout=subprocess.PIPE, stderr=stream, start_new_session=True)
        importer = subprocess.run(
            ["docker", "import", "--change", f"LABEL {LABEL}=host", "-"],
            stdin=builder.stdout,
            capture_output=True,
            check=False,
        )
        if builder.stdout:
            builder.stdout.close()
        status = builder.wait()
    if importer.returncode:
        raise CommandError(["docker", "import"], importer.returncode, importer.stderr.decode(errors="replace"))
    image = importer.stdout.decode().strip()
    if status:
        docker("image", "rm", image)
        raise TestbedError(f"mmdebstrap could not build the host image: {first_error(log)} (all of it: {log})")
    return image


def first_error(log: Path) -> str:
    """The line with which mmdebstrap says what went wrong first; those after it only follow from that."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("E: ")]
    return (errors or lines or ["no output"])[0]


def remove_images(repository: str | None) -> list[str]:
    """Remove the testbed's images: those with its label, and those of ``repository``. Returns the names removed."""
    listed = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    labelled = docker("image", "ls", "--filter", f"label={LABEL}", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    names = sorted({name for name in listed if repository and name.startswith(f"{repository}:")} | set(labelled))
    names = [name for name in names if "<none>" not in name]
    for name in names:
        docker("image", "rm", "--force", name)
    nameless = docker("image", "ls", "--quiet", "--filter", f"label={LABEL}").split()
    for image in dict.fromkeys(nameless):
        docker("image", "rm", "--force", image)
    return names
