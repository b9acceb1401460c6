# SPDX-License-Identifier: GPL-3.0-or-later
"""What the prober makes of its probes."""

from __future__ import annotations

from testbed.load import outages, versions_in_order


def test_no_failure_is_no_outage_however_far_apart_the_successes() -> None:
    assert outages([1.0, 9.0], [], 0.0, 10.0) == []


def test_an_outage_lasts_from_the_last_success_to_the_next() -> None:
    assert outages([1.0, 2.0, 5.0, 6.0], [2.5, 3.0, 4.9], 0.0, 7.0) == [(2.0, 5.0)]


def test_answers_may_come_out_of_order() -> None:
    assert outages([6.0, 2.0, 1.0, 5.0], [4.0, 3.0], 0.0, 7.0) == [(2.0, 5.0)]


def test_two_outages_are_told_apart() -> None:
    assert outages([1.0, 2.0, 3.0], [1.5, 2.5], 0.0, 4.0) == [(1.0, 2.0), (2.0, 3.0)]


def test_the_limits_of_the_observation_bound_an_outage() -> None:
    assert outages([2.0, 3.0], [1.0, 4.0], 0.5, 5.0) == [(0.5, 2.0), (3.0, 5.0)]
    assert outages([], [1.0, 2.0], 0.5, 5.0) == [(0.5, 5.0)]


def test_versions_are_listed_at_each_change() -> None:
    seen = [(3.0, "0.3.0"), (1.0, "0.2.0"), (2.0, "0.2.0"), (4.0, "0.2.0")]
    assert versions_in_order(seen) == ["0.2.0", "0.3.0", "0.2.0"]
