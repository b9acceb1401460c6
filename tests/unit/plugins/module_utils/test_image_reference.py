# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.image_reference import (
    ImageReference,
    ImageReferenceError,
    parse_image_reference,
    validate_digest,
    validate_tag,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("opstage", None, "opstage", None, None),
        ("opstage:0.2.0", None, "opstage", "0.2.0", None),
        ("xtrape/opstage-ce:local", None, "xtrape/opstage-ce", "local", None),
        (
            "ghcr.io/xtrape-com/xtrape-capsule-ce:0.3.0",
            "ghcr.io",
            "ghcr.io/xtrape-com/xtrape-capsule-ce",
            "0.3.0",
            None,
        ),
        ("registry.testbed:5000/a/b", "registry.testbed:5000", "registry.testbed:5000/a/b", None, None),
        (
            f"registry.testbed:5000/a/b:0.2.0@{DIGEST}",
            "registry.testbed:5000",
            "registry.testbed:5000/a/b",
            "0.2.0",
            DIGEST,
        ),
        (f"localhost/b@{DIGEST}", "localhost", "localhost/b", None, DIGEST),
        ("[::1]:5000/b:1", "[::1]:5000", "[::1]:5000/b", "1", None),
        ("Registry/b:1", "Registry", "Registry/b", "1", None),
        ("127.0.0.1:5000/a__b/c---d/e.f:v_1.2-x", "127.0.0.1:5000", "127.0.0.1:5000/a__b/c---d/e.f", "v_1.2-x", None),
        ("host:5000", None, "host", "5000", None),
    ],
)
def test_parts_and_back(text: str, registry: str | None, repository: str, tag: str | None, digest: str | None) -> None:
    reference = parse_image_reference(text)
    assert (reference.registry, reference.repository, reference.tag, reference.digest) == (
        registry,
        repository,
        tag,
        digest,
    )
    assert reference.format() == str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":0.2.0",
        "repo:",
        "repo@",
        "repo:0.2.0@",
        "repo:0.2.0@sha256:abc",
        f"repo@md5:{'a' * 64}",
        f"repo:1@{DIGEST.upper()}",
        f"repo:1@{DIGEST}@{DIGEST}",
        "Repo:1",
        "repo/:1",
        "/repo:1",
        "a//b:1",
        "-host.example/b:1",
        "host.example:port/b:1",
        "repo:1\n",
        "repo :1",
        "repo:1 ",
        "repo:.1",
        "repo:-1",
        "repo:${TAG}",
        "repo:é",
        "https://host.example/b:1",
        "repo:" + "1" * 129,
        "a" * 256 + ":1",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ImageReferenceError, match=r"expected .*"):
        parse_image_reference(text)


def test_limits_are_inclusive() -> None:
    assert parse_image_reference("a" * 255 + ":" + "t" * 128).tag == "t" * 128


def test_the_message_says_what_was_found() -> None:
    with pytest.raises(ImageReferenceError, match=r"'0\.3\.0 ' is no image tag"):
        validate_tag("0.3.0 ")
    with pytest.raises(ImageReferenceError, match="'sha512:00' is no image digest"):
        validate_digest("sha512:00")


def test_parts_are_validated_whichever_way_a_reference_is_made() -> None:
    reference = ImageReference("repo", "0.2.0", DIGEST)
    assert dataclasses.replace(reference, tag="0.3.0", digest=None).format() == "repo:0.3.0"
    with pytest.raises(ImageReferenceError):
        dataclasses.replace(reference, tag="0.3.0\n")


@pytest.mark.parametrize(
    "text",
    [
        "user:hunter2@registry.example/opstage:0.2.0",
        "user:hunter2!@registry.example/opstage:0.2.0",
        "user:hun@ter2@registry.example/opstage:0.2.0",
        f"user:hunter2@registry.example/opstage@{DIGEST}",
        f"https://user:hunter2 @registry.example/opstage@{DIGEST}",
    ],
)
def test_a_password_is_not_shown(text: str) -> None:
    with pytest.raises(ImageReferenceError) as caught:
        parse_image_reference(text)
    for part in ("hunter2", "hun", "ter2"):
        assert part not in str(caught.value)
