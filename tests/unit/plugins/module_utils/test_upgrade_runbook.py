# SPDX-License-Identifier: GPL-3.0-or-later
"""The document around the steps; test_upgrade_by_hand runs what is in them."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.compose_image import PinResult
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_by_hand import RunbookRequest
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_runbook import format_failure, format_runbook
from markdown_it import MarkdownIt

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
"""A Monday."""

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "runbook.md"

REPOSITORY = "registry:5000/opstage"
PRESENT, STOP, TARGET = ("sha256:" + digit * 64 for digit in "123")
DEPLOYMENT: dict[str, Any] = {
    "project": "web",
    "project_dir": "/opt/web",
    "config_files": ["/opt/web/compose.yml", "/opt/web/more.yml"],
    "environment_files": ["/opt/web/own.env"],
    "service": "opstage",
    "container": "web-opstage-1",
    "repository": REPOSITORY,
    "image_id": "sha256:" + "9" * 64,
    "data_dir": "/srv/data",
    "database": "/srv/data/opstage.db",
    "url": "http://127.0.0.1:8080",
    "ca_file": None,
}


def image(version: str, digest: str | None) -> dict[str, Any]:
    name = f"{REPOSITORY}:{version}" + (f"@{digest}" if digest else "")
    return {"version": version, "tag": version, "digest": digest, "image": name}


SOURCE = {**image("0.2.0", PRESENT), "image_id": DEPLOYMENT["image_id"], "pinned_digest": None, "url": ""}
PLAN: dict[str, Any] = {
    "needed": True,
    "problems": [],
    "source": SOURCE,
    "target": image("0.4.0", TARGET),
    "path": [image("0.4.0", TARGET)],
    "versions": ["0.3.0", "0.4.0"],
    "versions_complete": True,
    "predicted_seconds": None,
}
REQUEST = RunbookRequest(
    "web1", DEPLOYMENT, PLAN, "Opstage 0.3.0\n\nMuch.", "/var/backups/opstage", True, 120, None, 1_234_567
)


def runbook(deployment: dict[str, Any] | None = None, plan: dict[str, Any] | None = None, **changes: Any) -> str:
    request = replace(REQUEST, deployment={**DEPLOYMENT, **(deployment or {})}, plan={**PLAN, **(plan or {})})
    return format_runbook(replace(request, **changes), NOW)


def markup(markdown: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(markdown)


def shown(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", text)).strip()


def tables(markdown: str) -> list[list[list[str]]]:
    """The cells of each table's rows, as they are shown, the first row being its head."""
    found = []
    for table in re.findall(r"<table>(.*?)</table>", markup(markdown), re.DOTALL):
        rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
        found.append([[shown(cell) for cell in re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row)] for row in rows])
    return found


def facts(markdown: str) -> dict[str, str]:
    return dict(tables(markdown)[0])


def headings(markdown: str) -> list[tuple[str, str]]:
    return [(level, shown(text)) for level, text in re.findall(r"<h(\d)>(.*?)</h\d>", markup(markdown))]


def test_what_is_done() -> None:
    assert facts(runbook()) == {
        "": "this host",
        "Project": "web in /opt/web: service opstage, container web-opstage-1",
        "Image": REPOSITORY,
        "From": f"version 0.2.0, tag 0.2.0, digest {PRESENT}",
        "To": f"version 0.4.0, tag 0.4.0, digest {TARGET}",
        "By way of": "no other version",
        "In the registry": "the images of the path; versions on the way: 0.3.0, 0.4.0",
        "Database": "/srv/data/opstage.db, 1,234,567 bytes (1.2 MB) with its log",
        "Recovery points": "2 in /var/backups/opstage/web, each up to 1,234,567 bytes (1.2 MB), together up to "
        "2,469,134 bytes (2.5 MB)",
        "Rehearsal": "on a copy of the data, which takes up to 2,469,134 bytes (2.5 MB) meanwhile",
        "Predicted downtime": "unknown: no upgrade on this host has ended well yet",
        "Health": "within 120 s of each start, or it counts as failed",
        "Maintenance window": "none: at any time",
        "Looked at": "2026-11-23T09:30:00Z",
    }


def test_a_path_with_a_stop() -> None:
    text = runbook(plan={"path": [image("0.3.0", STOP), image("0.4.0", TARGET)]})
    assert facts(text)["By way of"] == "0.3.0"
    assert facts(text)["Recovery points"].startswith("4 in ")
    assert "run it again for the one before" in text
    assert "run it again for the one before" not in runbook()
    titles = [row[1] for row in tables(text)[1][1:]]
    assert [title for title in titles if title.startswith(("Pull", "Stop"))] == [
        "Pull 0.3.0",
        "Stop 0.2.0",
        "Pull 0.4.0",
        "Stop 0.3.0",
    ]
    assert [title for _level, title in headings(text)][-2:] == [
        "The way back from 0.3.0 to 0.2.0",
        "The way back from 0.4.0 to 0.3.0",
    ]


def test_what_is_not_known_is_said() -> None:
    plan = {
        "target": {**image("edge", None), "version": None},
        "path": [{**image("edge", None), "version": None}],
        "versions": [],
        "versions_complete": False,
        "predicted_seconds": 3.14,
    }
    found = facts(runbook(plan=plan, rehearse=False, database_bytes=999))
    assert found["To"] == "version unknown, tag edge, digest unknown"
    assert found["In the registry"] == "the images of edge are not known to be there"
    assert found["Predicted downtime"] == "about 3.1 s, judging by the last upgrade on this host"
    assert found["Rehearsal"] == "none"
    assert found["Recovery points"].endswith("together up to 1,998 bytes (2.0 kB)")
    incomplete = facts(runbook(plan={"versions_complete": False}))
    assert incomplete["In the registry"].endswith("whether there are more versions on the way is not known")


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1000, "1,000 bytes (1.0 kB)"), (5 * 10**15, "(5000.0 TB)"), (10**9, "(1.0 GB)")],
)
def test_sizes(size: int, words: str) -> None:
    assert words in facts(runbook(database_bytes=size))["Database"]


def test_steps() -> None:
    head, *rows = tables(runbook())[1]
    assert head == ["", "step", "what happens", "what is checked", "the service", "the way back from there"]
    assert [row[0] for row in rows] == [str(number) for number in range(1, 10)]
    assert [(row[1], row[4]) for row in rows] == [
        ("Look first", "serves"),
        ("Pull 0.4.0", "serves"),
        ("Copy while it runs", "serves"),
        ("Rehearse 0.4.0", "serves"),
        ("Name 0.4.0 in the project's files", "serves"),
        ("Stop 0.2.0", "down"),
        ("Start 0.4.0 where no client reaches it", "down"),
        ("Let clients in", "down, then serves 0.4.0"),
        ("Complete the recovery point", "serves 0.4.0"),
    ]
    assert all(all(row[1:]) for row in rows)
    titles = [title for level, title in headings(runbook()) if level == "4"]
    assert titles == [*(f"{row[0]}. {row[1]}" for row in rows), "The way back from 0.4.0 to 0.2.0"]


def test_without_a_rehearsal() -> None:
    rows = tables(runbook(rehearse=False))[1]
    assert len(rows) == 9
    assert not any("Rehearse" in row[1] for row in rows)
    (isolated,) = (row for row in rows if "no client reaches it" in row[1])
    assert "no row is gone" in isolated[3]


def test_compose_is_told_all_files() -> None:
    assert (
        "docker compose --project-directory /opt/web --project-name web --env-file /opt/web/own.env "
        "--file /opt/web/compose.yml --file /opt/web/more.yml stop opstage\n"
    ) in runbook()


def test_problems_come_first() -> None:
    text = runbook(plan={"problems": ["One.", "Two | *three*\nfour.", "One."]})
    assert re.findall(r"<li>(.*?)</li>", markup(text))[:-3] == ["One.", "Two | *three*\\nfour."]
    assert text.index("In the way") < text.index("What is done")
    assert "stands in the way" not in text
    assert "Nothing that can be known beforehand stands in the way." in runbook()


def test_nothing_to_be_done() -> None:
    text = runbook(plan={"needed": False, "path": [], "versions": [], "problems": ["It is DOWN."]})
    assert headings(text) == [("2", "web1")]
    assert "It is DOWN." in text
    assert "the host runs version `0.2.0`, tag `0.2.0`" in text


@pytest.mark.parametrize(
    ("window", "predicted", "said", "problem"),
    [
        ("Sun 02:00-04:00 UTC", 7200.0, "; it opens at 2026-11-29T02:00:00Z, for 7200 s", None),
        (
            "Sun 02:00-04:00 UTC",
            7201.0,
            "; it opens at 2026-11-29T02:00:00Z, for 7200 s",
            "the upgrade may take 7201 s",
        ),
        ("Mon 09:00-10:00 UTC", None, "; it is open now, for 1800 s", None),
        ("daily 00:00-24:00 UTC", None, "; it is open now", None),
        ("Someday", None, "Someday", "opstage_maintenance_window: 'Someday' is no maintenance window"),
    ],
)
def test_maintenance_window(window: str, predicted: float | None, said: str, problem: str | None) -> None:
    """That it is closed now is no problem: the runbook is made for when it is open."""
    text = runbook(plan={"predicted_seconds": predicted}, window=window)
    assert facts(text)["Maintenance window"] == (said if said == window else f"{window}{said}")
    assert ("**In the way**" in text) == (problem is not None)
    assert (problem or "") in shown(markup(text))


def test_a_rollback_says_what_it_drops() -> None:
    text = runbook(host="web 1")
    assert "ansible-playbook capsule.opstage.rollback --limit 'web 1'\n" in text
    assert "**It drops every write from the moment clients reached the new version**" in text


def test_a_changelog_does_not_break_out() -> None:
    text = runbook(changelog="````\n# Heading\n\n| a | b |\n\x1b[31mred http://user:hush@example.org/")
    assert headings(text) == headings(runbook())
    assert "\x1b" not in text
    assert "hush" not in text


HOSTILE = "a|b`c\n# d\x1b[31m*e*<f>'g\udc80"


@pytest.mark.parametrize("field", ["project_dir", "service", "container", "data_dir", "database", "url"])
def test_a_hostile_name_breaks_nothing(field: str) -> None:
    value = f"/{HOSTILE}" if field != "url" else f"http://user:hush@{HOSTILE}"
    text = runbook({field: value}, host=HOSTILE)
    assert "".join(text.split("\n")).isprintable()
    assert [level for level, _title in headings(text)] == [level for level, _title in headings(runbook())]
    expected = tables(runbook())
    assert [[len(row) for row in table] for table in tables(text)] == [
        [len(row) for row in table] for table in expected
    ]
    assert "hush" not in text
    assert "<f>" not in re.sub(r"<pre>.*?</pre>", "", markup(text), flags=re.DOTALL)


def test_problems_tell_no_password() -> None:
    assert "hush" not in runbook(plan={"problems": ["http://user:hush@web reports DOWN."]})


def test_no_runbook() -> None:
    text = format_failure("web|1", "It *cannot* be reached:\nhttp://user:hush@web")
    assert headings(text) == [("2", "web|1")]
    assert shown(markup(text)).endswith("no runbook for this host: It *cannot* be reached:\\nhttp://***@web")


def test_the_example_in_the_documentation() -> None:
    """All that is shown of the host's section, with dots for what is left out, is what these values give."""
    present = "sha256:45b23dee08af5e43a7fea6c4cf9c25ccf269ee113168c19722f87876677c5cb2"
    wanted = "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    repository = "ghcr.io/xtrape-com/xtrape-capsule-ce"
    source = {"version": "0.2.0", "tag": "0.2.0", "digest": present, "image": f"{repository}:0.2.0"}
    source["image_id"] = "sha256:05455a08881ea9cf0e752bc48e61bbd71a34c029bb13df01e40e3e70e0d007bd"
    target = {"version": "0.3.0", "tag": "0.3.0", "digest": wanted, "image": f"{repository}:0.3.0@{wanted}"}
    before, after = f"image: {source['image']}", f"image: {target['image']}"
    pin = PinResult(True, "", "", "0.3.0", "0.2.0", None, "/opt/opstage/compose.yml", 4, None, before, after)
    text = runbook(
        {
            "project": "opstage",
            "project_dir": "/opt/opstage",
            "config_files": ["/opt/opstage/compose.yml"],
            "environment_files": [],
            "container": "opstage-opstage-1",
            "repository": repository,
            "image_id": source["image_id"],
            "data_dir": "/srv/opstage",
            "database": "/srv/opstage/opstage.db",
        },
        {
            "source": {**source, "pinned_digest": None},
            "target": target,
            "path": [target],
            "versions": ["0.3.0"],
            "predicted_seconds": 2.4,
        },
        window="Sun 02:00-04:00 Europe/Berlin",
        database_bytes=1 << 30,
        pins=[pin],
    )
    example = DOCUMENT.read_text().partition("\n## web1\n")[2].strip()
    parts = (
        example.replace("2026-11-23T09:00:00Z", "2026-11-23T09:30:00Z")
        .replace("T090000Z", "T093000Z")
        .split("\n\n…\n\n")
    )
    assert len(parts) == 4
    assert [part for part in parts if part not in text] == []
