# SPDX-License-Identifier: GPL-3.0-or-later
"""What the campaign of interruptions counts, asks for by its keys, and writes down."""

from __future__ import annotations

import pytest
from campaign.interruption_report import document, text
from campaign.interruption_trials import CONNECTION, CREATE, HOST, Course, Trial, trial_of, whole_campaign
from campaign.interruptions import lost, not_dropped
from testbed.machine import CHECKOUT
from testbed.process import TestbedError

COURSES = {
    "upgrade": Course(["one", "Switch | Stop and start", "three"], 12.0, [1.0, 10.0, 11.3]),
    "backup": Course(["one", "two"], 5.0, [1.0, 3.0]),
}
WITHIN_THE_SWITCH = [
    *("upgrade:Switch | Stop~0.3s", "upgrade:Switch | Stop~0.6s", "upgrade:Switch | Stop~0.9s"),
    *("upgrade:Switch | Stop~1.2s", "host/upgrade:Switch | Stop~0.6s", "host/upgrade:Switch | Stop~1.2s"),
]


@pytest.mark.parametrize(
    ("key", "trial"),
    [
        ("upgrade:7", Trial("upgrade", "7")),
        ("upgrade:7+registry", Trial("upgrade", "7", registry_down=True)),
        ("host/restore:Put in place | Replace", Trial("restore", "Put in place | Replace", HOST)),
        ("host/upgrade:7+always", Trial("upgrade", "7", HOST, always=True)),
        ("host/upgrade:Switch | Stop~1.2s+always", Trial("upgrade", "Switch | Stop", HOST, always=True, delay=1.2)),
        ("create:Stage | Copy", Trial(CREATE, "Stage | Copy")),
        ("upgrade:7~0.3s", Trial("upgrade", "7", delay=0.3)),
        ("connection/backup:3.5s+registry+always", Trial("backup", 3.5, CONNECTION, registry_down=True, always=True)),
    ],
)
def test_a_trial_is_asked_for_by_the_key_under_which_it_is_listed(key: str, trial: Trial) -> None:
    assert trial_of(key) == trial
    assert trial.key == key


@pytest.mark.parametrize("key", ["upgrade", "upgrade:", "power/upgrade:7", "status:7", "upgrade:7~s"])
def test_a_key_of_no_trial_is_refused(key: str) -> None:
    with pytest.raises(TestbedError, match="is no trial"):
        trial_of(key)


def test_the_whole_is_every_task_and_the_same_random_moments_each_time() -> None:
    trials = whole_campaign(COURSES, (), 1)
    keys = [trial.key for trial in trials]
    assert keys[:8] == [
        *("upgrade:1", "upgrade:2", "upgrade:3"),
        *("host/upgrade:1", "host/upgrade:2", "host/upgrade:3", "host/backup:1", "host/backup:2"),
    ]
    assert keys[8:14] == WITHIN_THE_SWITCH
    assert len(keys) == 8 + 6 + 100
    assert [trial.key for trial in whole_campaign(COURSES, (), 1)] == keys
    assert {trial.kind for trial in trials[14:]} == {"controller", "host", "connection"}
    assert all(1.0 <= float(trial.moment) <= COURSES[trial.operation].seconds for trial in trials[14:])


def test_no_policy_is_changed_on_an_empty_host() -> None:
    course = {CREATE: Course(["one", "two"], 9.0, [1.0, 3.0])}
    trials = whole_campaign(course, (), 1)
    assert [trial.key for trial in trials[:2]] == ["create:1", "create:2"]
    assert not any(trial.always for trial in trials)
    assert any(trial.registry_down for trial in trials)


def test_within_the_switch_are_the_kinds_and_operations_that_were_asked_for() -> None:
    assert [trial.key for trial in whole_campaign(COURSES, [HOST], 1) if trial.delay] == WITHIN_THE_SWITCH[4:]
    assert not [trial for trial in whole_campaign({"backup": COURSES["backup"]}, (), 1) if trial.delay]
    assert not [trial for trial in whole_campaign(COURSES, (), 1, random_only=True) if trial.delay]


def test_a_course_whose_switch_has_another_name_is_refused() -> None:
    for operation, task in (("upgrade", r"Switch \| Stop"), ("rollback", "Stop, keep what is there")):
        renamed = {operation: Course(["one", "two"], 12.0, [1.0, 10.0])}
        with pytest.raises(TestbedError, match=rf"the {operation} has no task '{task}', but 'one', 'two'"):
            whole_campaign(renamed, (), 1)


def test_a_task_takes_until_the_next_one_begins_or_all_ends() -> None:
    assert [round(COURSES["upgrade"].duration(number), 3) for number in range(3)] == [9.0, 1.3, 0.7]


def test_a_part_of_one_kind_is_taken_from_all_its_trials() -> None:
    everything = [trial.key for trial in whole_campaign(COURSES, [CONNECTION], 1)]
    part = [trial.key for trial in whole_campaign(COURSES, [CONNECTION], 7)]
    assert len(everything) == 5 + 100
    assert len(part) in (15, 16)
    assert set(part) < set(everything)
    assert all(key.startswith("connection/") for key in part)


def test_a_write_is_lost_when_it_is_missing_or_its_number_was_given_away_again() -> None:
    assert lost([1, 2, 3], []) == 0
    assert lost([1, 2, 3], [2, 9]) == 1
    assert lost([1, 2, 3, 2, 3, 4], []) == 2


NUMBERS = [*range(201, 1001), *range(201, 301)]


@pytest.mark.parametrize("operation", ["restore", "rollback"])
def test_only_what_was_written_before_a_restore_replaced_the_database_may_be_gone(operation: str) -> None:
    assert not_dropped(Trial(operation, "7", outcome="finished"), NUMBERS) == list(range(201, 301))
    assert not_dropped(Trial(operation, "7", outcome="failed"), NUMBERS) == NUMBERS
    assert not_dropped(Trial(operation, "7", outcome="finished"), [1, 3, 2, 5, 4]) == []


@pytest.mark.parametrize("operation", ["upgrade", "backup"])
def test_an_upgrade_and_a_backup_may_lose_nothing(operation: str) -> None:
    assert not_dropped(Trial(operation, "7", outcome="finished"), NUMBERS) == NUMBERS
    assert lost(NUMBERS, []) == 100


def test_the_page_sums_up_and_names_no_path_of_this_machine() -> None:
    trials = [
        Trial("upgrade", "7", task="upgrade : Switch | Pin", outcome="failed", acknowledged=900),
        Trial("upgrade", 3.5, HOST, True, outcome="finished", acknowledged=90, lost=2, flaws=[f"see {CHECKOUT}/log"]),
    ]
    page = document(trials, {"machine": "2 cores"}, "the command")
    assert "| upgrade, controller | 1 | 0 | 0 | 0 | 0 | 1 | 0 | 900 | 0 | 0 |" in page
    assert "| all | 2 | 1 | 1 | 0 | 1 | 1 | 0 | 990 | 2 | 1 |" in page
    assert "| upgrade:7 | failed | 900 | 0 | upgrade : Switch \\| Pin |" in page
    assert "- host/upgrade:3.5s+registry: see log" in page
    assert str(CHECKOUT) not in page
    listed = text(trials)
    assert "FLAW: host/upgrade:3.5s+registry: see log" in listed
    assert listed.endswith("2 cuts, 990 writes acknowledged, 2 lost, 1 flaws")
