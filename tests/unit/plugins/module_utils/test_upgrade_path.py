# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_path import (
    find_path,
    is_moving_target,
    stop_problems,
    target_problems,
    version_problems,
    versions_after,
)

TAGS = [
    "edge",
    "0.3",
    "0.3.1",
    "0.10.0",
    "sha-0123abc",
    "0.3.0",
    "0.2.0",
    "0.4.0-rc.1",
    "0.4.0",
    "0.2.1",
    "main",
    "0.4",
]


@pytest.mark.parametrize("target", ["0.3.0", "0.4.0-rc.1", "1.0.0"])
def test_a_version_is_a_target(target: str) -> None:
    assert target_problems(target, [], None) == []


@pytest.mark.parametrize("target", ["edge", "main", "latest", "sha-0123abc", "v0.3.0", "0.3.0.1"])
def test_a_moving_tag_must_be_acknowledged_by_its_name(target: str) -> None:
    for acknowledged in ([], ["0.3.0"], [f"{target}x"]):
        (problem,) = target_problems(target, acknowledged, TAGS)
        assert problem.startswith(f"opstage_version: {target!r} is no version of Opstage")
        assert problem.endswith(f"set opstage_upgrade_acknowledge to {target!r} as well.")
        assert not is_moving_target(target, acknowledged)
    assert target_problems(target, ["0.3.0", target], TAGS) == []
    assert is_moving_target(target, ["0.3.0", target])


def test_a_moving_alias_names_the_versions_that_there_are() -> None:
    """Also when it was acknowledged: there is a version to name."""
    for acknowledged in ([], ["0.3"]):
        (problem,) = target_problems("0.3", acknowledged, TAGS)
        assert problem.endswith(" The registry has of 0.3: 0.3.0, 0.3.1.")
        assert not is_moving_target("0.3", acknowledged)
    assert target_problems("0.5", [], TAGS)[0].endswith(" The registry has of 0.5: no version.")
    assert target_problems("0.3", [], None)[0].endswith(" the registry did not list its tags.")


@pytest.mark.parametrize("target", ["", "a b", "../0.3.0", "x" * 129])
def test_what_is_no_tag_cannot_be_acknowledged(target: str) -> None:
    (problem,) = target_problems(target, [target], TAGS)
    assert "set opstage_upgrade_acknowledge" not in problem


@pytest.mark.parametrize(
    ("current", "target", "part"),
    [
        ("0.2.0", "0.3.0", "minor"),
        ("0.2.9", "0.10.0", "minor"),
        ("0.4.0", "1.0.0", "major"),
        ("1.2.0", "2.2.0", "major"),
        ("1.2.0", "1.3.0", "minor"),
    ],
)
def test_a_change_of_minor_or_major_is_acknowledged_by_the_version(current: str, target: str, part: str) -> None:
    for acknowledged in ([], [current], ["edge"], [target[:-2]]):
        (problem,) = version_problems(current, target, acknowledged)
        assert problem.startswith(f"{current} to {target} is a change of {part}")
        assert f"set opstage_upgrade_acknowledge to {target!r}" in problem
        assert problem.endswith(f", found {acknowledged[0]}." if acknowledged else f"to {target!r}.")
    assert version_problems(current, target, ["0.0.1", target]) == []


@pytest.mark.parametrize(("current", "target"), [("0.2.0", "0.2.1"), ("0.3.0-rc.1", "0.3.0"), ("0.2.0", "0.2.0")])
def test_a_patch_needs_no_acknowledgement(current: str, target: str) -> None:
    assert version_problems(current, target, []) == []


@pytest.mark.parametrize(("target", "current"), [("0.1.0", "0.2.0"), ("0.9.0", "0.10.0"), ("0.3.0-rc.1", "0.3.0")])
def test_a_downgrade(target: str, current: str) -> None:
    (problem,) = version_problems(current, target, [target])
    assert problem.startswith(f"opstage_version {target} is older than {current}, which runs")


@pytest.mark.parametrize("current", [None, "", "edge"])
def test_what_runs_is_not_known(current: str | None) -> None:
    (problem,) = version_problems(current, "0.3.0", ["0.3.0"])
    assert problem.startswith("The version that runs is not known")
    assert version_problems(current, "edge", []) == []


@pytest.mark.parametrize(
    ("stops", "path"),
    [
        ([], ["0.4.0"]),
        (["0.3.0"], ["0.3.0", "0.4.0"]),
        (["0.3.1", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.3.0"], ["0.3.0", "0.3.1", "0.4.0"]),
        (["0.10.0", "0.1.0"], ["0.4.0"]),
        (["0.3", "next", "0.3.2"], ["0.3.2", "0.4.0"]),
    ],
)
def test_the_stops_between_are_on_the_path(stops: list[str], path: list[str]) -> None:
    assert find_path("0.2.0", "0.4.0", stops) == path


def test_the_path_where_there_is_no_between() -> None:
    assert find_path(None, "0.4.0", ["0.3.0"]) == ["0.4.0"]
    assert find_path("0.2.0", "edge", ["0.3.0"]) == ["edge"]
    assert find_path("0.4.0", "0.2.0", ["0.3.0"]) == ["0.2.0"]


def test_a_stop_that_is_no_version() -> None:
    first, second = stop_problems(["0.3", "0.3.0", "edge"])
    assert "'0.3' is no version" in first
    assert "'edge' is no version" in second


def test_versions_between() -> None:
    assert versions_after("0.2.0", ["0.4.0"], TAGS) == ["0.2.1", "0.3.0", "0.3.1", "0.4.0"]
    assert versions_after("0.3.0", ["0.10.0"], TAGS) == ["0.3.1", "0.4.0", "0.10.0"]
    assert versions_after("0.3.1", ["0.4.0-rc.1"], TAGS) == ["0.4.0-rc.1"]
    assert versions_after("0.2.0", ["0.3.5", "0.4.0"], []) == ["0.3.5", "0.4.0"]
    assert versions_after("0.2.0", ["0.2.0"], TAGS) == []
    assert versions_after("0.4.0", ["0.2.0"], TAGS) == []
    assert versions_after(None, ["0.4.0"], TAGS) == []
    assert versions_after("0.2.0", ["edge"], TAGS) == []
