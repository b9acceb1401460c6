# SPDX-License-Identifier: GPL-3.0-or-later
"""The host backs up by itself, says so when it cannot, makes up for what it missed; and a removal leaves nothing."""

from __future__ import annotations

import json

import pytest

UNIT = "opstage-backup-opstage"
METRICS = "/var/lib/opstage-metrics/opstage-opstage.prom"
WORST_EXPOSURE = 5.0
"""Of a service that reads any process's open files and a container's data; without the hardening it is 9.6."""


@pytest.fixture
def scheduled(opstage):
    if opstage.variables["schedule_is_removed"]:
        pytest.skip("this host's schedule is removed")
    return opstage


@pytest.fixture
def removed(opstage):
    if not opstage.variables["schedule_is_removed"]:
        pytest.skip("this host's schedule stays")
    return opstage


def settings(scheduled):
    return json.loads(scheduled.output("cat /etc/opstage-ops/opstage.json"))


def metrics(text):
    return {
        line.split("{")[0].removeprefix("opstage_"): float(line.split()[-1])
        for line in text.splitlines()
        if not line.startswith("#")
    }


def test_recovery_points_are_made_and_pruned(scheduled):
    points = scheduled.points("scheduled", "api")
    assert len(points) == 2
    assert scheduled.query(f"{points[-1]}/opstage.db", "pragma integrity_check") == "ok"
    modes = scheduled.output(f"stat -c %a {points[-1]} {points[-1]}/opstage.db {points[-1]}/manifest.json").split()
    assert modes == ["700", "600", "600"]
    assert scheduled.output(f"find {scheduled.data_folder}/backups -name '*.db'") == ""


def test_they_are_sent_to_the_other_host(scheduled):
    secrets = settings(scheduled)["restic"]
    opened = f"env RESTIC_PASSWORD={secrets['password']} restic --no-cache --repo {secrets['address']}"
    tags = [tag for snapshot in json.loads(scheduled.output(f"{opened} snapshots --json")) for tag in snapshot["tags"]]
    assert f"id:{scheduled.points('scheduled')[-1].rpartition('/')[2]}" in tags


def test_a_failure_to_send_is_loud_and_the_recovery_point_stays(scheduled):
    told = metrics(scheduled.output("cat /root/alone-opstage-opstage.prom"))
    assert told["backup_last_attempt_success"] == 0
    record = json.loads(scheduled.output("cat /root/alone-backup-status.json"))
    words = f"The recovery point {scheduled.points('scheduled')[0]} was not sent: "
    assert (record["outcome"], record["error"].startswith(words)) == ("failure", True), record
    assert "It is whole on this host" in record["error"]
    assert words in scheduled.output(f"journalctl --output cat --unit {UNIT}.service")


def test_a_failure_is_loud(scheduled):
    told = metrics(scheduled.output("cat /root/full-opstage-opstage.prom"))
    assert told["backup_last_attempt_success"] == 0
    assert told["backup_last_success_timestamp_seconds"] < told["backup_last_attempt_timestamp_seconds"]
    record = json.loads(scheduled.output("cat /root/full-backup-status.json"))
    assert (record["outcome"], "Too little room" in record["error"]) == ("failure", True)


def test_what_was_missed_is_made_up_for(scheduled):
    assert scheduled.host.service(f"{UNIT}.timer").is_enabled
    assert scheduled.host.service(f"{UNIT}.timer").is_running
    told = metrics(scheduled.output(f"cat {METRICS}"))
    assert told["backup_last_attempt_success"] == 1
    record = json.loads(scheduled.output("cat /var/lib/opstage/opstage/backup-status.json"))
    assert f"/{record['recovery_point']}" in scheduled.points("scheduled")[-1]


def test_addresses_are_reached_and_secrets_stay_secret(scheduled):
    said = scheduled.output(f"journalctl --output cat --unit {UNIT}.service")
    assert "Too little room" in said
    assert "did not reach" not in said
    secrets = ["system/version?", settings(scheduled)["password"], settings(scheduled)["restic"]["password"]]
    shown = said + scheduled.output(f"systemctl cat {UNIT}.service {UNIT}.timer; systemctl show {UNIT}.service")
    shown += scheduled.output("cat /var/lib/opstage/opstage/backup-status.json") + scheduled.output(f"cat {METRICS}")
    assert [secret for secret in secrets if secret in shown] == []
    assert scheduled.output("stat -c '%a %U' /etc/opstage-ops /etc/opstage-ops/opstage.json").split() == [
        *("700", "root"),
        *("600", "root"),
    ]


def test_metrics_are_for_everybody(scheduled):
    assert scheduled.output(f"setpriv --reuid=65534 --clear-groups cat {METRICS}") == scheduled.output(f"cat {METRICS}")


def test_the_service_may_do_little_else(scheduled):
    line = scheduled.output(f"systemd-analyze security --no-pager {UNIT}.service").splitlines()[-1]
    assert float(line.split("for")[1].split(":")[1].split()[0]) < WORST_EXPOSURE


def test_the_command_is_there_by_hand(scheduled):
    assert "Opstage 0.2.0, UP; newest recovery point" in scheduled.output("opstage-ops status --max-age 1d")
    assert "sound, sha256: " in scheduled.output("opstage-ops verify --no-progress")
    assert not scheduled.host.file("/var/lib/opstage/opstage/lock.json").exists


def test_a_removal_leaves_nothing_but_recovery_points(removed):
    assert len(removed.points("scheduled")) == 2
    names = ("opstage-backup*", "opstage-ops*", "opstage-metrics", "opstage-opstage.prom", "backup-status*")
    sought = " -o ".join(f"-name '{name}'" for name in names)
    left = removed.output(f"find / -xdev \\( -path /proc -o -path /var/log \\) -prune -o \\( {sought} \\) -print")
    assert left == ""
    assert UNIT not in removed.output("systemctl list-units --all --plain --no-legend")
