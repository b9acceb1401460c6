# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import itertools

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.semantic_version import (
    Version,
    VersionError,
    parse_version,
)

# The example of https://semver.org, rule 11, between two versions in which tens must not be taken for text.
ASCENDING = [
    "0.9.0",
    "0.10.0",
    "1.0.0-2",
    "1.0.0-10",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.2",
    "1.0.10",
    "2.0.0-rc.1",
]


def test_order() -> None:
    for lower, higher in itertools.combinations(ASCENDING, 2):
        smaller, greater = parse_version(lower), parse_version(higher)
        assert smaller < greater, (lower, higher)
        assert greater > smaller, (lower, higher)
        assert smaller <= greater, (lower, higher)
        assert smaller != greater, (lower, higher)


@pytest.mark.parametrize("text", ASCENDING)
def test_written_as_read(text: str) -> None:
    assert str(parse_version(text)) == text
    assert parse_version(text) == parse_version(text)


def test_parts() -> None:
    assert parse_version("0.3.4-slow.1") == Version(0, 3, 4, "slow.1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.3",
        "edge",
        "main",
        "sha-1234567",
        "v0.3.0",
        "0.3.0+build",
        "00.3.0",
        "0.03.0",
        "0.3.0-",
        "0.3.0-a..b",
        "0.3.0-rc_1",
        " 0.3.0",
        "0.3.0\n",
        "0.3.0.1",
        "-1.0.0",
        "0.1\u0663.0",
    ],
)
def test_no_version(text: str) -> None:
    with pytest.raises(VersionError, match=r"expected <major>\.<minor>\.<patch>") as caught:
        parse_version(text)
    assert repr(text) in str(caught.value)
