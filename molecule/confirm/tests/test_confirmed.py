# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal tells the story of both upgrades; the one that was confirmed stays."""

from __future__ import annotations


def test_the_confirmed_version_serves(opstage):
    assert opstage.get("/api/system/version")["version"] == "0.3.0"
    assert "OPSTAGE_TAG=0.3.0@sha256:" in opstage.output("cat /opt/opstage/.env")


def test_journal(opstage):
    told = [(entry["operation"], entry["status"]) for entry in opstage.journal() if entry["status"] != "step"]
    assert told == [
        ("upgrade", "started"),
        ("upgrade", "finished"),
        ("rollback", "started"),
        ("rollback", "finished"),
        ("upgrade", "started"),
        ("upgrade", "finished"),
        ("upgrade", "confirmed"),
    ]


def test_what_the_unconfirmed_version_wrote_is_kept(opstage):
    (kept,) = opstage.points("pre-rollback")
    assert opstage.manifest(kept)["opstage"]["version"] == "0.3.0"


def test_nothing_waits_any_more(opstage):
    assert "opstage-confirm" not in opstage.output("systemctl list-units --all --plain --no-legend")
    for name in ("opstage-ops", "lock.json"):
        assert not opstage.host.file(f"/var/lib/opstage/opstage/{name}").exists
