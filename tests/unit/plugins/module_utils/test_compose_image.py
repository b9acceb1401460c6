# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import compose_command
import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import compose_image
from ansible_collections.capsule.opstage.plugins.module_utils.compose_image import (
    ComposeImageError,
    ComposeProject,
    pin_image,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4
OTHER_DIGEST = "sha256:" + "f" * 64
REPOSITORY = "ghcr.io/xtrape-com/xtrape-capsule-ce"

# In every text «…» stands round the characters that are to change, and round nothing else.
PUBLISHED_SAMPLE = f"""\
# Opstage CE
services:
  opstage:
    image: {REPOSITORY}:«0.2.0»   # keep in step with the docs
    container_name: opstage
    restart: unless-stopped
    ports:
      - "8080:8080"
    environment:
      OPSTAGE_SESSION_SECRET: ${{OPSTAGE_SESSION_SECRET:-a-secret-of-at-least-32-characters}}
    volumes:
      - opstage-data:/app/data
    healthcheck:
      test: ["CMD", "node", "/app/healthcheck.js"]
      interval: 30s

volumes:
  opstage-data:
"""

COMPOSE_CASES = {
    "published-sample": PUBLISHED_SAMPLE,
    "windows-line-ends": PUBLISHED_SAMPLE.replace("\n", "\r\n"),
    "byte-order-mark": "\ufeff" + PUBLISHED_SAMPLE,
    "no-final-line-end": PUBLISHED_SAMPLE.rstrip("\n").replace(
        "\nvolumes:\n  opstage-data:", "\nvolumes: {opstage-data: }"
    ),
    "image-at-the-very-end": "services:\n  opstage:\n    ports: ['8080:8080']\n    image: repo:«0.2.0»",
    "double-quotes": 'services:\n  opstage:\n    image: "repo:«0.2.0»" # "repo:0.2.0"\n',
    "single-quotes": "services:\n  opstage:\n    image: 'localhost:5000/repo:«0.2.0»'\n",
    "quoted-keys": '"services":\n  \'opstage\':\n    "image": repo:«0.2.0»\n',
    "space-before-colon": "services :\n  opstage :\n    image : repo:«0.2.0»\n",
    "tabs-round-the-value": "services:\n  opstage:\n    image:\trepo:«0.2.0»\t# tabs\n",
    "wide-indentation": "services:\n        opstage:\n             image:    repo:«0.2.0»   \n",
    "one-space": "services:\n opstage:\n  image: repo:«0.2.0»\n",
    "document-markers": "%YAML 1.1\n---\nservices:\n  opstage:\n    image: repo:«0.2.0»\n...\n",
    "comments-everywhere": (
        "# image: repo:0.2.0\nservices: # image\n# services:\n  #  opstage:\n  opstage: # x\n\n"
        "      # image: repo:0.2.0\n# outdented\n    image: repo:«0.2.0» #image: repo:0.2.0\n"
    ),
    "other-services": (
        "services:\n  proxy:\n    image: repo:0.2.0\n  opstage:\n    image: repo:«0.2.0»\n"
        "  opstage-ce:\n    image: repo:0.2.0\n"
    ),
    "image-in-other-places": (
        "x-defaults:\n  opstage:\n    image: repo:0.2.0\nservices:\n  opstage:\n    labels:\n      image: repo:0.2.0\n"
        "    build:\n      context: .\n      labels:\n      - image=repo:0.2.0\n    image: repo:«0.2.0»\n"
        "volumes:\n  opstage:\n    labels:\n      image: repo:0.2.0\n"
    ),
    "block-scalars": (
        "services:\n  opstage:\n    command: |\n      services:\n        opstage:\n          image: repo:0.2.0\n\n"
        "    entrypoint: >-\n      run\n       image: repo:0.2.0\n    image: repo:«0.2.0»\n"
    ),
    "block-scalar-in-sequence": (
        "services:\n  opstage:\n    command:\n    - |\n      a\n    - >2\n        image: repo:0.2.0\n"
        "    image: repo:«0.2.0»\n"
    ),
    "sequence-at-the-column-of-its-key": (
        "services:\n  opstage:\n    ports:\n    - target: 8080\n      published: '8080'\n    image: repo:«0.2.0»\n"
    ),
    "flow-over-lines-with-closing-bracket-at-the-key": (
        "services:\n  opstage:\n    command: [\n      'image: repo:0.2.0', # ]\n      \"]\",\n    ]\n"
        "    image: repo:«0.2.0»\n"
    ),
    "quoted-text-over-lines": (
        'services:\n  opstage:\n    x-note: "a\n      image: repo:0.2.0 \\" \n\n      b"\n'
        "    x-more: 'it''s\n      image: x'\n    image: repo:«0.2.0»\n"
    ),
    "plain-text-over-lines": "services:\n  opstage:\n    command: a\n      image\n      b\n    image: repo:«0.2.0»\n",
    "flow-service": 'services:\n  opstage: {ports: ["8080:8080"], image: "repo:«0.2.0»", labels: {image: x}} # c\n',
    "flow-plain": "services:\n  opstage: {image: localhost:5000/repo:«0.2.0», command: [a, b]}\n",
    "flow-services": 'services: {proxy: {image: repo:0.2.0}, \'opstage\': {"image":"repo:«0.2.0»"}}\n',
    "json": '{\n  "services": {\n    "opstage": {\n      "image": "repo:«0.2.0»",\n      "tty": true\n    }\n  }\n}\n',
    "anchor-elsewhere": (
        "x-logging: &logging\n  driver: json-file\n"
        "services:\n  opstage:\n    logging: *logging\n    image: repo:«0.2.0»\n"
    ),
    "merge-key-without-image": (
        "x-base: &base\n  restart: always\n  image: repo:0.1.0\n"
        "services:\n  opstage:\n    <<: *base\n    image: repo:«0.2.0»\n"
    ),
    "value-on-the-next-line": "services:\n  opstage:\n    image: # here\n      repo:«0.2.0»\n    restart: always\n",
    "profile": "services:\n  opstage:\n    profiles: [production]\n    image: repo:«0.2.0»\n",
    "default": "services:\n  opstage:\n    image: repo:${OPSTAGE_TAG:-«0.2.0»}\n",
    "default-if-unset": 'services:\n  opstage:\n    image: "repo:${OPSTAGE_TAG-«0.2.0»}"\n',
    "default-in-default": "services:\n  opstage:\n    image: repo:${OPSTAGE_TAG:-${TAG:-«0.2.0»}}\n",
    "default-of-whole-image": "services:\n  opstage:\n    image: ${OPSTAGE_IMAGE:-repo:«0.2.0»}\n",
    "registry-from-default": "services:\n  opstage:\n    image: ${REGISTRY:-localhost:5000}/repo:«0.2.0»\n",
    "other-characters": "# Größe \U0001f600\nservices:\n  opstage:\n    labels: {größe: 大}\n    image: repo:«0.2.0»\n",
}

COMPOSE_WITH_TAG = (
    "services:\n  opstage:\n    image: repo:${OPSTAGE_TAG:-0.1.0}\n    environment:\n      PASSWORD: ${PASSWORD:-}\n"
)
ENVIRONMENT_CASES = {
    "plain": "# tags\nOPSTAGE_TAG=«0.2.0»\nPASSWORD=hunter2\n",
    "windows-line-ends": "PASSWORD=hunter2\r\nOPSTAGE_TAG=«0.2.0»\r\n",
    "no-final-line-end": "PASSWORD=hunter2\nOPSTAGE_TAG=«0.2.0»",
    "byte-order-mark": "\ufeffOPSTAGE_TAG=«0.2.0»\n",
    "export": "export OPSTAGE_TAG=«0.2.0»\n",
    "double-quotes": 'OPSTAGE_TAG="«0.2.0»" # the tag\n',
    "single-quotes": "OPSTAGE_TAG='«0.2.0»'\n",
    "comment-behind": "OPSTAGE_TAG=«0.2.0» # was 0.2.0\n",
    "spaces": "  OPSTAGE_TAG = «0.2.0»  \n",
    "colon": "OPSTAGE_TAG: «0.2.0»\n",
    "last-counts": "OPSTAGE_TAG=0.2.0\n#OPSTAGE_TAG=0.2.0\nOPSTAGE_TAG=«0.2.0»\n",
    "similar-names": "MY_OPSTAGE_TAG=0.2.0\nOPSTAGE_TAG=«0.2.0»\nOPSTAGE_TAG_OLD=0.2.0\n",
    "text-over-lines": "PASSWORD='a\nOPSTAGE_TAG=0.1.0\n# '\nOPSTAGE_TAG=«0.2.0»\n",
    "escaped-quotes": 'PASSWORD="a\\"\nOPSTAGE_TAG=0.1.0\n"\nOPSTAGE_TAG=«0.2.0»\n',
    "other-variables": "PASSWORD=${HOME}-$$\nEMPTY=\nOPSTAGE_TAG=«0.2.0»\nUNSET\n",
    "latin-1": "# Gr\udcf6\udcdfe\nOPSTAGE_TAG=«0.2.0»\n",
}


def write(path: Path, text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    path.write_bytes(data)
    return data


def unmarked(text: str) -> str:
    return text.replace("«", "").replace("»", "")


def marked_replaced(text: str, replacement: str) -> bytes:
    head, _mark, rest = text.partition("«")
    _inside, _mark, tail = rest.partition("»")
    return f"{head}{replacement}{tail}".encode("utf-8", "surrogateescape")


def project(folder: Path, **settings: object) -> ComposeProject:
    environment = {**compose_command.environment(), **settings.pop("environment", {})}
    return ComposeProject(str(folder), environment=environment, **settings)


def configured_image(folder: Path, service: str = "opstage", *options: str) -> str:
    """What Compose itself makes of the project."""
    command = ["docker", "compose", *options, "--profile", "*", "config", "--format", "json"]
    environment = compose_command.environment()
    document = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True).stdout
    return json.loads(document)["services"][service]["image"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = contents(folder)
    yield
    assert contents(folder) == before


def refusal(folder: Path, service: str = "opstage", tag: str = "0.3.0", **settings: object) -> str:
    with unchanged(folder), pytest.raises(ComposeImageError) as caught:
        pin_image(project(folder, **settings), service, tag)
    return str(caught.value)


@pytest.mark.parametrize("case", COMPOSE_CASES)
def test_tag_in_the_compose_file(tmp_path: Path, case: str) -> None:
    text = COMPOSE_CASES[case]
    write(tmp_path / "compose.yml", unmarked(text))
    result = pin_image(project(tmp_path), "opstage", "0.3.0-rc.1")
    assert contents(tmp_path) == {"compose.yml": marked_replaced(text, "0.3.0-rc.1")}
    assert configured_image(tmp_path) == result.image
    assert (result.changed, result.previous_tag, result.tag) == (True, "0.2.0", "0.3.0-rc.1")
    assert result.image == result.previous_image.replace(":0.2.0", ":0.3.0-rc.1")
    assert result.file == str(tmp_path / "compose.yml")
    assert result.line == text.partition("«")[0].count("\n") + 1
    assert (result.variable is not None) == ("default" in case and "registry" not in case)


@pytest.mark.parametrize("case", ENVIRONMENT_CASES)
def test_tag_in_the_environment_file(tmp_path: Path, case: str) -> None:
    text = ENVIRONMENT_CASES[case]
    compose = write(tmp_path / "compose.yml", COMPOSE_WITH_TAG)
    write(tmp_path / ".env", unmarked(text))
    result = pin_image(project(tmp_path), "opstage", "0.3.0")
    assert contents(tmp_path) == {"compose.yml": compose, ".env": marked_replaced(text, "0.3.0")}
    assert configured_image(tmp_path) == result.image == "repo:0.3.0"
    assert (result.variable, result.previous_image) == ("OPSTAGE_TAG", "repo:0.2.0")
    assert result.file == str(tmp_path / ".env")
    assert result.line == text.partition("«")[0].count("\n") + 1


@pytest.mark.parametrize(
    ("image", "assignment"),
    [
        ("repo:$OPSTAGE_TAG", "OPSTAGE_TAG=«0.2.0»"),
        ("repo:${OPSTAGE_TAG}", "OPSTAGE_TAG=«0.2.0»"),
        ("'repo:${OPSTAGE_TAG:?no tag}'", "OPSTAGE_TAG=«0.2.0»"),
        ("repo:${OPSTAGE_TAG?no}", "OPSTAGE_TAG=«0.2.0»"),
        ("${IMAGE}", "IMAGE=localhost:5000/repo:«0.2.0»"),
        ("${REGISTRY}/${NAME}:${OPSTAGE_TAG}", "REGISTRY=localhost:5000\nNAME=repo\nOPSTAGE_TAG=«0.2.0»"),
        ("${REGISTRY}/repo:${OPSTAGE_TAG}", "REGISTRY=${NAME:-local}host\nOPSTAGE_TAG=«0.2.0»"),
        ("repo:${OTHER:-$OPSTAGE_TAG}", "OPSTAGE_TAG=«0.2.0»"),
        ("${REPO_AND_COLON}0.2.0", None),
    ],
)
def test_forms_of_variables(tmp_path: Path, image: str, assignment: str | None) -> None:
    compose = f"services:\n  opstage:\n    image: {image}\n"
    environment = assignment or "REPO_AND_COLON='repo:'"
    expected = {".env": environment.encode(), "compose.yml": compose.encode().replace(b"0.2.0", b"0.3.0")}
    if assignment:
        expected = {".env": marked_replaced(environment, "0.3.0"), "compose.yml": compose.encode()}
    write(tmp_path / "compose.yml", compose)
    write(tmp_path / ".env", unmarked(environment))
    result = pin_image(project(tmp_path), "opstage", "0.3.0")
    assert contents(tmp_path) == expected
    assert configured_image(tmp_path) == result.image


def test_an_empty_variable_leaves_the_choice_to_the_default(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:${OPSTAGE_TAG:-0.2.0}\n")
    environment = write(tmp_path / ".env", "OPSTAGE_TAG=\n")
    result = pin_image(project(tmp_path), "opstage", "0.3.0")
    assert (result.file, result.variable) == (str(tmp_path / "compose.yml"), "OPSTAGE_TAG")
    assert (tmp_path / ".env").read_bytes() == environment
    assert configured_image(tmp_path) == "repo:0.3.0"


@pytest.mark.parametrize(
    ("image", "tag", "digest", "expected"),
    [
        ("repo«»", "0.3.0", None, ":0.3.0"),
        ("repo«»", "0.3.0", DIGEST, f":0.3.0@{DIGEST}"),
        ('"localhost:5000/repo«»"', "0.3.0", None, ":0.3.0"),
        ("repo:«0.2.0»", "0.3.0", DIGEST, f"0.3.0@{DIGEST}"),
        (f"repo:«0.2.0@{OTHER_DIGEST}»", "0.3.0", DIGEST, f"0.3.0@{DIGEST}"),
        (f"repo:«0.2.0@{OTHER_DIGEST}»", "0.3.0", None, "0.3.0"),
        (f"repo«@{OTHER_DIGEST}»", "0.3.0", None, ":0.3.0"),
        (f"repo:${{OPSTAGE_TAG:-«0.2.0@{OTHER_DIGEST}»}}", "0.3.0", DIGEST, f"0.3.0@{DIGEST}"),
        (f"repo:«0.3.0@{OTHER_DIGEST}»", "0.3.0", DIGEST, f"0.3.0@{DIGEST}"),
    ],
)
def test_digests_and_images_without_a_tag(
    tmp_path: Path, image: str, tag: str, digest: str | None, expected: str
) -> None:
    text = f"services:\n  opstage:\n    image: {image} # c\n"
    write(tmp_path / "compose.yml", unmarked(text))
    result = pin_image(project(tmp_path), "opstage", tag, digest)
    assert (tmp_path / "compose.yml").read_bytes() == marked_replaced(text, expected)
    assert configured_image(tmp_path) == result.image
    assert result.image.endswith(f"repo:{tag}" + (f"@{digest}" if digest else ""))
    assert result.previous_digest == (OTHER_DIGEST if OTHER_DIGEST in image else None)
    assert pin_image(project(tmp_path), "opstage", tag, digest).changed is False


def test_a_pinned_digest_in_a_variable_is_replaced_and_removed_again(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:${OPSTAGE_TAG}\n")
    original = write(tmp_path / ".env", "OPSTAGE_TAG=0.2.0\n")
    pin_image(project(tmp_path), "opstage", "0.3.0", DIGEST)
    assert configured_image(tmp_path) == f"repo:0.3.0@{DIGEST}"
    back = pin_image(project(tmp_path), "opstage", "0.2.0")
    assert back.previous_digest == DIGEST
    assert (tmp_path / ".env").read_bytes() == original


def test_a_second_run_and_check_mode_change_nothing(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", PUBLISHED_SAMPLE.replace("«", "").replace("»", ""))
    with unchanged(tmp_path):
        predicted = pin_image(project(tmp_path), "opstage", "0.3.0", check_mode=True)
    real = pin_image(project(tmp_path), "opstage", "0.3.0")
    assert predicted == real
    inode = (tmp_path / "compose.yml").stat().st_ino
    with unchanged(tmp_path):
        again = pin_image(project(tmp_path), "opstage", "0.3.0")
    assert (again.changed, again.before, again.previous_tag) == (False, again.after, "0.3.0")
    assert (tmp_path / "compose.yml").stat().st_ino == inode


# Files


def test_the_last_file_with_an_image_is_changed(tmp_path: Path) -> None:
    base = write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:0.1.0\n    restart: always\n")
    write(tmp_path / "compose.override.yml", "services:\n  opstage:\n    image: repo:0.2.0\n")
    result = pin_image(project(tmp_path), "opstage", "0.3.0")
    assert result.file == str(tmp_path / "compose.override.yml")
    assert (tmp_path / "compose.yml").read_bytes() == base
    assert configured_image(tmp_path) == "repo:0.3.0"


def test_an_override_without_an_image_leaves_the_base_to_be_changed(tmp_path: Path) -> None:
    write(tmp_path / "docker-compose.yml", "services:\n  opstage:\n    image: repo:0.2.0\n")
    write(tmp_path / "docker-compose.override.yml", "services:\n  opstage:\n    restart: always\n")
    assert pin_image(project(tmp_path), "opstage", "0.3.0").file == str(tmp_path / "docker-compose.yml")
    assert configured_image(tmp_path) == "repo:0.3.0"


def test_named_files_and_environment_files_in_other_folders(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / "deploy").mkdir(parents=True)
    write(
        folder / "deploy" / "one.yml",
        "services:\n  opstage:\n    image: repo:${TAG}\n    volumes: ['./data:/app/data']\n",
    )
    write(tmp_path / "production.env", "TAG=0.2.0\n")
    default = write(folder / ".env", "TAG=0.1.0\n")
    settings = {"files": ["deploy/one.yml"], "env_files": [".env", "../production.env"], "project_name": "live"}
    result = pin_image(project(folder, **settings), "opstage", "0.3.0")
    assert result.previous_image == "repo:0.2.0"
    assert (tmp_path / "production.env").read_bytes() == b"TAG=0.3.0\n"
    assert (folder / ".env").read_bytes() == default
    options = ("-f", "deploy/one.yml", "--env-file", ".env", "--env-file", "../production.env")
    assert configured_image(folder, "opstage", *options) == "repo:0.3.0"


def test_compose_file_variable_in_the_environment_file(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:0.2.0\n")
    write(tmp_path / "live.yml", "services:\n  opstage:\n    image: other:0.2.0\n")
    write(tmp_path / ".env", "COMPOSE_FILE=compose.yml:live.yml\n")
    assert pin_image(project(tmp_path), "opstage", "0.3.0").file == str(tmp_path / "live.yml")
    assert configured_image(tmp_path) == "other:0.3.0"


def test_environment_files_named_by_the_process_environment(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:${TAG}\n")
    default = write(tmp_path / ".env", "TAG=0.2.0\n")
    write(tmp_path / "live.env", "TAG=0.2.0\n")
    chosen = project(tmp_path, environment={"COMPOSE_ENV_FILES": "live.env"})
    assert pin_image(chosen, "opstage", "0.3.0").file == str(tmp_path / "live.env")
    assert (tmp_path / ".env").read_bytes() == default


def test_owner_mode_and_link_stay(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    real = tmp_path / "secrets" / "production.env"
    write(real, "TAG=0.2.0\n")
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 100, 101)
    before = real.stat()
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".env").symlink_to("../secrets/production.env")
    write(folder / "compose.yml", "services:\n  opstage:\n    image: repo:${TAG}\n    env_file: .env\n")
    result = pin_image(project(folder), "opstage", "0.3.0")
    after = real.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.readlink(folder / ".env") == "../secrets/production.env"
    assert real.read_bytes() == b"TAG=0.3.0\n"
    assert result.file == str(folder / ".env")
    assert sorted(contents(tmp_path)) == ["project/.env", "project/compose.yml", "secrets/production.env"]


def test_extended_attributes_stay(tmp_path: Path) -> None:
    path = tmp_path / "compose.yml"
    write(path, "services:\n  opstage:\n    image: repo:0.2.0\n")
    try:
        os.setxattr(path, "user.origin", b"git")
    except OSError as error:
        pytest.skip(f"this file system has no user attributes: {error}")
    pin_image(project(tmp_path), "opstage", "0.3.0")
    assert os.getxattr(path, "user.origin") == b"git"


def test_temporary_copies_are_private_and_proven_before_they_are_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:${TAG}\n")
    write(tmp_path / ".env", "TAG=0.2.0\nPASSWORD=hunter2\n")
    seen = []
    prove = compose_image._prove

    def observe(observed: ComposeProject, edit: object, path: str, *others: object) -> None:
        seen.append((os.stat(path).st_mode & 0o777, Path(path).read_bytes(), (tmp_path / ".env").read_bytes()))
        prove(observed, edit, path, *others)

    monkeypatch.setattr(compose_image, "_prove", observe)
    pin_image(project(tmp_path), "opstage", "0.3.0")
    assert seen == [(0o600, b"TAG=0.3.0\nPASSWORD=hunter2\n", b"TAG=0.2.0\nPASSWORD=hunter2\n")]


# Refusals


REFUSALS = {
    "two-variables": (
        "image: repo:${MAJOR}.${MINOR}",
        "MAJOR=0\nMINOR=2",
        r"compose\.yml:3: .*several parts .*MAJOR.*MINOR",
    ),
    "text-and-variable": ("image: repo:0.${MINOR}", "MINOR=2", r"compose\.yml:3: .*several parts .*'repo:0\.'.*MINOR"),
    "tag-and-digest-apart": (f"image: repo:${{TAG}}@{DIGEST}", "TAG=0.2.0", r"compose\.yml:3: .*several parts"),
    "empty-variable-behind": ("image: repo:0.2.0${SUFFIX}", "SUFFIX=", r"compose\.yml:3: .*several parts"),
    "empty-variable-without-tag": ("image: repo${SUFFIX:-}", "", r"compose\.yml:3: .*(several parts|comes from)"),
    "value-of-variables": ("image: repo:${TAG}", "V=0.2.0\nTAG=${V}", r"compose\.yml:3: .*TAG.*\.env:2 is itself made"),
    "value-with-escapes": ("image: repo:${TAG}", 'TAG="0.2\\.0"', r"compose\.yml:3: "),
    "unset": ("image: repo:${TAG}", "", r"compose\.yml:3: .*'repo:'|.*TAG is empty: it is not set"),
    "alternative": ("image: repo:${TAG:+0.2.0}", "TAG=x", r"compose\.yml:3: .*not of the form"),
    "anchor": ("image: &image repo:0.2.0", "", r"compose\.yml:3: .*no simple text"),
    "tag-of-yaml": ("image: !!str repo:0.2.0", "", r"compose\.yml:3: .*no simple text"),
    "folded": ("image: >-\n      repo:0.2.0", "", r"compose\.yml:3: .*no simple text \(found: block"),
    "escapes": ('image: "repo\\x3a0.2.0"', "", r"compose\.yml:3: .*no simple text"),
    "quote-in-quotes": ("image: 'repo:${TAG:-0.2.0''}'", "TAG=0.2.0", r"compose\.yml:3: .*no simple text"),
    "used-in-a-label": (
        "image: repo:${TAG}\n    labels: {version: '${TAG}'}",
        "TAG=0.2.0",
        r"\.env:1: .*variable TAG .*version",
    ),
    "handed-to-the-container": (
        "image: repo:${TAG}\n    environment: [TAG]",
        "TAG=0.2.0",
        r"\.env:1: .*environment\.TAG",
    ),
    "used-by-another-service": (
        "image: repo:${TAG}\n  worker:\n    image: repo:${TAG}",
        "TAG=0.2.0",
        r"\.env:1: .*variable TAG .*services\.worker\.image",
    ),
    "used-by-another-variable": (
        "image: repo:${TAG}\n  worker:\n    image: repo:${WORKER}",
        "TAG=0.2.0\nWORKER=${TAG}-slim",
        r"\.env:1: .*services\.worker\.image",
    ),
    "no-image": ("build: .", "", r"'opstage' has no image"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(tmp_path: Path, case: str) -> None:
    body, environment, message = REFUSALS[case]
    write(tmp_path / "compose.yml", f"services:\n  opstage:\n    {body}\n")
    write(tmp_path / ".env", environment)
    assert re.search(message, refusal(tmp_path), re.DOTALL)


SHARED_IMAGES = {
    "merge-key": (
        "x-base: &base\n  image: repo:0.2.0\nservices:\n  opstage:\n    <<: *base\n",
        r"compose\.yml:5: .*comes from elsewhere \(<<: \*base\)",
    ),
    "merge-key-in-flow": (
        "x-base: &base\n  image: repo:0.2.0\nservices:\n  opstage: {<<: *base}\n",
        r"compose\.yml:4: .*comes from elsewhere",
    ),
    "alias-of-service": (
        "x-base: &base\n  image: repo:0.2.0\nservices:\n  opstage: *base\n",
        r"compose\.yml:4: .*comes from elsewhere",
    ),
    "alias-of-image": (
        "x-image: &image repo:0.2.0\nservices:\n  opstage:\n    image: *image\n",
        r"compose\.yml:4: .*no simple text \(found: alias",
    ),
    "extends": (
        "services:\n  base:\n    image: repo:0.2.0\n  opstage:\n    extends:\n      service: base\n",
        r"compose\.yml:5: .*comes from elsewhere",
    ),
    "extended-by-another-service": (
        "services:\n  opstage:\n    image: repo:0.2.0\n  worker:\n    extends: {service: opstage}\n",
        r"compose\.yml:3: changing the tag .*services\.worker\.image",
    ),
    "merged-by-another-service": (
        "services:\n  opstage: &base\n    image: repo:0.2.0\n  worker:\n    <<: *base\n",
        r"compose\.yml:3: changing the tag .*services\.worker\.image",
    ),
    "extended-by-file": (
        "services:\n  opstage:\n    image: repo:0.2.0\n"
        "  worker:\n    extends:\n      file: compose.yml\n      service: opstage\n",
        r"compose\.yml:6: a service extends one of .*compose\.yml",
    ),
    "two-documents": (
        "services:\n  opstage:\n    image: repo:0.1.0\n---\nservices:\n  opstage:\n    image: repo:0.2.0\n",
        r"compose\.yml:3: .*no simple text \(found: plain, plain",
    ),
}


@pytest.mark.parametrize("case", SHARED_IMAGES)
def test_an_image_that_is_shared_is_refused(tmp_path: Path, case: str) -> None:
    text, message = SHARED_IMAGES[case]
    write(tmp_path / "compose.yml", text)
    assert re.search(message, refusal(tmp_path), re.DOTALL)


def test_an_image_of_an_included_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", "include:\n  - opstage.yml\n")
    write(tmp_path / "opstage.yml", "services:\n  opstage:\n    image: repo:0.2.0\n")
    assert "compose.yml:1: the image of 'opstage' comes from elsewhere (include:)" in refusal(tmp_path)
    assert pin_image(project(tmp_path, files=["opstage.yml"]), "opstage", "0.3.0").changed


def test_a_variable_of_the_process_environment_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:${TAG}\n")
    write(tmp_path / ".env", "TAG=0.1.0\n")
    message = refusal(tmp_path, environment={"TAG": "0.2.0"})
    assert re.search(r"compose\.yml:3: .*variable TAG.*environment of the process.*Set TAG", message)
    assert "comes from the variable TAG" in refusal(tmp_path, tag="0.2.0", environment={"TAG": "0.2.0"})


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert re.search(r"missing does not exist", refusal(tmp_path / "missing"))
    assert re.search(r"has no Compose file: expected compose\.yaml or compose\.yml", refusal(tmp_path))
    write(tmp_path / "compose.yml", "services:\n  b: {image: x}\n  a: {image: x}\n")
    assert "no service 'opstage', but a, b: name one of them" in refusal(tmp_path)
    assert re.search(r"absent\.env cannot be read: No such file", refusal(tmp_path, env_files=["absent.env"]))


def test_invalid_tags_and_digests_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:0.2.0\n")
    for tag in ("", "0.3.0 # x", "0.3.0\n", "${TAG}", "a@b"):
        assert "is no image tag" in refusal(tmp_path, tag=tag)
    with pytest.raises(ComposeImageError, match="is no image digest"):
        pin_image(project(tmp_path), "opstage", "0.3.0", "sha256:12")


def test_a_project_that_compose_refuses_is_refused_in_its_words(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:0.2.0\n    colour: red\n")
    assert re.search(r"Compose refuses the project in .*colour", refusal(tmp_path), re.DOTALL)


def test_a_host_without_docker_or_without_compose_is_told_so(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:0.2.0\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    assert re.search(
        "docker command cannot be run .*No such file", refusal(tmp_path, environment={"PATH": str(programs)})
    )
    write(programs / "docker", "#!/bin/sh\necho 'docker: unknown command: docker compose' >&2\nexit 1\n")
    (programs / "docker").chmod(0o755)
    assert "`docker compose` does not work on this host" in refusal(tmp_path, environment={"PATH": str(programs)})


def test_a_fifo_in_the_place_of_a_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:0.2.0\n")
    os.mkfifo(tmp_path / ".env")
    assert re.search(r"\.env is no regular file", refusal(tmp_path))


# Failures of the machine


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("tempfile.mkstemp", errno.EACCES),
        ("os.fsync", errno.ENOSPC),
        ("os.chmod", errno.EPERM),
        ("os.replace", errno.EROFS),
    ],
)
def test_an_error_of_the_system_leaves_every_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:0.2.0\n")

    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    expected = project(tmp_path)
    monkeypatch.setattr(f"{compose_image.__name__}.{function}", fail)
    with (
        unchanged(tmp_path),
        pytest.raises(ComposeImageError, match=f"compose.yml cannot be written: {os.strerror(code)}"),
    ):
        pin_image(expected, "opstage", "0.3.0")


def test_a_file_that_cannot_grow_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:0.2.0\n" + "#" * 8192)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        message = refusal(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.search(r"compose\.yml cannot be written: File too large", message)


def test_a_file_that_somebody_else_changes_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:0.2.0\n")
    prove = compose_image._prove

    def change(*arguments: object) -> None:
        prove(*arguments)
        write(tmp_path / "compose.yml", "services:\n  opstage:\n    image: repo:0.2.1\n")

    monkeypatch.setattr(compose_image, "_prove", change)
    with pytest.raises(ComposeImageError, match="changed by somebody else"):
        pin_image(project(tmp_path), "opstage", "0.3.0")
    assert contents(tmp_path) == {"compose.yml": b"services:\n  opstage:\n    image: repo:0.2.1\n"}


# Secrets


@pytest.mark.parametrize(
    ("compose", "environment", "before", "after"),
    [
        (
            "services:\n  opstage: {environment: {PASSWORD: hunter2}, image: 'repo:0.2.0', command: hunter2} # x\n",
            "",
            "image: 'repo:0.2.0'",
            "image: 'repo:0.3.0'",
        ),
        (
            "services:\n  opstage:\n    image: repo:${TAG} # hunter2\n    env_file: .env\n",
            'PASSWORD=hunter2\nexport TAG="0.2.0" # hunter2\nTOKEN=hunter2',
            'export TAG="0.2.0"',
            'export TAG="0.3.0"',
        ),
    ],
)
def test_the_result_shows_the_changed_statement_only(
    tmp_path: Path, compose: str, environment: str, before: str, after: str
) -> None:
    write(tmp_path / "compose.yml", compose)
    write(tmp_path / ".env", environment)
    result = pin_image(project(tmp_path), "opstage", "0.3.0")
    assert (result.before, result.after) == (before, after)
    assert "hunter2" not in repr(result)


def test_a_refused_proof_names_places_and_no_values(tmp_path: Path) -> None:
    write(
        tmp_path / "compose.yml",
        "services:\n  opstage:\n    image: repo:${TAG}\n    environment: {PASSWORD: 'hunter2-${TAG}'}\n",
    )
    write(tmp_path / ".env", "TAG=0.2.0\n")
    message = refusal(tmp_path)
    assert "services.opstage.environment.PASSWORD" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("variables", "environment", "complaint"),
    [
        ("PASSWORD: 'hunter2${'", "", "invalid interpolation format for services.opstage.environment.PASSWORD"),
        ("A: b", "PASS$WORD=hunter2", "unexpected character"),
        ("A: b", "PASSWORD='hunter2", "unterminated quoted value"),
        ("A: b", "PASSWORD=hunter2${", "nvalid template"),
        ("A: b: c", "PASSWORD=a$hunter2", "mapping values are not allowed"),
    ],
)
def test_compose_words_are_passed_on_without_what_they_quote(
    tmp_path: Path, variables: str, environment: str, complaint: str
) -> None:
    write(
        tmp_path / "compose.yml",
        f"services:\n  opstage:\n    image: repo:0.2.0\n    environment:\n      {variables}\n",
    )
    write(tmp_path / ".env", environment)
    message = refusal(tmp_path)
    assert complaint in message
    assert "hunter2" not in message


# Many layouts


def random_project(choose: random.Random) -> tuple[str, str]:
    """Return a marked Compose file and a marked environment file; the mark is in one of them."""
    step = " " * choose.randint(1, 6)
    quote = choose.choice(["", "'", '"'])
    key = choose.choice(["opstage", "'opstage'", '"opstage"'])
    in_environment = choose.random() < 0.5
    literal = "«0.2.0»" if not in_environment else "0.1.0"
    image = choose.choice([f"repo:${{TAG:-{literal}}}", f"h.example:5000/a/b:${{TAG-{literal}}}"])
    if not in_environment and choose.random() < 0.5:
        image = "h.example/a:«0.2.0»"
    fillers = [
        f"{step}{step}restart: always # image: repo:9\n",
        f"{step}{step}command: |\n{step}{step}{step}image: repo:9\n\n",
        f"{step}{step}ports:\n{step}{step}- '8080:8080'\n",
        f"{step}{step}labels: {{image: 'repo:9',\n{step}{step} a: b\n{step}{step}}}\n",
        "# image: repo:9\n",
        "\n",
        f'{step}{step}x-note: "a\n{step}{step}{step}image: \\" b"\n',
        f"{step}{step}environment:\n{step}{step}{step}IMAGE: repo:9\n{step}{step}{step}image: repo:9\n",
    ]
    body = choose.sample(fillers, choose.randint(0, len(fillers)))
    body.insert(
        choose.randint(0, len(body)), f"{step}{step}image: {quote}{image}{quote}{choose.choice(['', ' # c'])}\n"
    )
    services = [f"{step}{key}:\n{''.join(body)}", f"{step}web:\n{step}{step}image: repo:0.2.0\n"]
    choose.shuffle(services)
    end = choose.choice(["\n", "\r\n"])
    lines = ["SECRET='a\nTAG=9\n'\n", "# TAG=9\n", "EMPTY=\n", "OTHER=0.2.0 # x\n"]
    choose.shuffle(lines)
    if in_environment:
        mark = choose.choice(["TAG=«0.2.0»\n", 'export TAG = "«0.2.0»" # c\n', "TAG: '«0.2.0»'\n"])
        lines.insert(choose.randint(0, len(lines)), mark)
    compose = f"services:\n{''.join(services)}".replace("\n", end)
    return compose, "".join(lines).replace("\n", choose.choice(["\n", "\r\n"]))


@pytest.mark.parametrize("seed", range(16))
def test_any_layout_survives_there_and_back(tmp_path: Path, seed: int) -> None:
    compose, environment = random_project(random.Random(seed))
    write(tmp_path / "compose.yml", unmarked(compose))
    write(tmp_path / ".env", unmarked(environment))
    original = contents(tmp_path)
    result = pin_image(project(tmp_path), "opstage", "1.20.300", DIGEST)
    replacement = f"1.20.300@{DIGEST}"
    assert contents(tmp_path) == {
        "compose.yml": marked_replaced(compose, replacement) if "«" in compose else original["compose.yml"],
        ".env": marked_replaced(environment, replacement) if "«" in environment else original[".env"],
    }
    assert configured_image(tmp_path) == result.image
    assert pin_image(project(tmp_path), "opstage", "0.2.0").previous_image == result.image
    assert contents(tmp_path) == original
