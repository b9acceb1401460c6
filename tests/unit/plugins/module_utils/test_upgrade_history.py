# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_history import (
    moved_tag_problems,
    seconds_of_last_upgrade,
)

REPOSITORY = "registry:5000/opstage"
OLD, NEW, OTHER = ("sha256:" + letter * 64 for letter in "abc")


def side(tag: str, digest: str | None, image: str | None = None) -> dict[str, Any]:
    return {"tag": tag, "digest": digest, "image": image or f"{REPOSITORY}:{tag}"}


def entry(status: str, minute: int, run: str = "r1", operation: str = "upgrade", **details: Any) -> dict[str, Any]:
    time = f"2026-11-22T02:{minute:02}:30.500000Z"
    return {"time": time, "operation": operation, "status": status, "run": run, **details}


def moved(entries: list[dict[str, Any]], digest: str | None = NEW, acknowledge: tuple[str, ...] = ()) -> list[str]:
    return moved_tag_problems(entries, REPOSITORY, "0.3.0", digest, acknowledge)


class TestMovedTag:
    @pytest.mark.parametrize("seen_as", ["source", "target"])
    @pytest.mark.parametrize("status", ["started", "step", "finished", "failed"])
    @pytest.mark.parametrize("image", [f"{REPOSITORY}:0.3.0", f"{REPOSITORY}:0.3.0@{OLD}"])
    def test_another_digest_than_an_earlier_run_saw(self, seen_as: str, status: str, image: str) -> None:
        (problem,) = moved([entry(status, 15, run="r7", **{seen_as: side("0.3.0", OLD, image)})])
        for words in (OLD, NEW, "(run r7)", "2026-11-22T02:15:30.500000Z", f"{REPOSITORY}:0.3.0 has moved"):
            assert words in problem
        assert problem.endswith(f"set opstage_upgrade_acknowledge to {NEW} as well.")

    def test_the_new_digest_is_acknowledged(self) -> None:
        entries = [entry("finished", 15, target=side("0.3.0", OLD))]
        assert moved(entries, acknowledge=("0.3.0", NEW)) == []
        for other in ("0.3.0", OLD, OTHER):
            assert len(moved(entries, acknowledge=(other,))) == 1

    def test_the_newest_run_counts(self) -> None:
        first, second = (entry("failed", minute, target=side("0.3.0", seen)) for minute, seen in ((1, OLD), (2, NEW)))
        assert moved([first, second]) == []
        (problem,) = moved([second, first])
        assert OLD in problem

    @pytest.mark.parametrize(
        "seen",
        [
            side("0.2.0", OLD),
            side("0.3.0", NEW),
            side("0.3.0", None),
            side("0.3.0", OLD, "registry:5000/other:0.3.0"),
            side("0.3.0", OLD, "no image at all"),
            {"tag": "0.3.0", "digest": OLD},
            "0.3.0",
            None,
        ],
    )
    def test_nothing_against_it(self, seen: Any) -> None:
        assert moved([entry("finished", 15, target=seen), entry("finished", 16)]) == []

    def test_other_operations_do_not_count(self) -> None:
        assert moved([entry("finished", 15, operation="restore", target=side("0.3.0", OLD))]) == []

    def test_unknown_is_no_judgement(self) -> None:
        assert moved([entry("finished", 15, target=side("0.3.0", OLD))], digest=None) == []
        assert moved([]) == []


class TestSeconds:
    def test_none_yet(self) -> None:
        assert seconds_of_last_upgrade([]) is None
        assert seconds_of_last_upgrade([entry("started", 1), entry("failed", 2)]) is None
        others = [entry("started", 1, operation="backup"), entry("finished", 2, operation="backup")]
        assert seconds_of_last_upgrade(others) is None

    def test_from_its_start_to_its_end(self) -> None:
        entries = [
            entry("started", 1),
            entry("finished", 11),
            entry("started", 20, run="r2"),
            entry("started", 21, run="r3", operation="backup"),
            entry("step", 22, run="r2"),
            entry("finished", 23, run="r2"),
            entry("started", 30, run="r4"),
            entry("failed", 35, run="r4"),
        ]
        assert seconds_of_last_upgrade(entries) == 180.0

    def test_the_last_of_several_switches_of_one_run(self) -> None:
        entries = [entry("started", 1), entry("finished", 5), entry("started", 6), entry("finished", 8)]
        assert seconds_of_last_upgrade(entries) == 120.0

    def test_one_that_a_later_run_ended_does_not_count(self) -> None:
        entries = [entry("started", 1), entry("finished", 3), entry("started", 4, run="r2")]
        assert seconds_of_last_upgrade([*entries, entry("finished", 59, run="r2", cause="It was cut off")]) == 120.0

    def test_a_journal_that_does_not_tell(self) -> None:
        assert seconds_of_last_upgrade([entry("finished", 3)]) is None
        assert seconds_of_last_upgrade([entry("started", 9), entry("finished", 3)]) is None
        odd = {**entry("started", 1), "time": "yesterday"}
        assert seconds_of_last_upgrade([odd, entry("finished", 3)]) is None
