# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How all hosts of a fleet are, whom a person has to look at first, as a table and as JSON."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Mapping, Sequence

from .collection import VERSION
from .deployment_status import counted, format_age
from .manifest import TIME_FORMAT
from .markdown import escaped
from .status_limits import SEVERITIES, problem, urgency

WELL = "ok"
"""What stands in the place of a severity where there is no problem."""

_FIELDS = (
    "time",
    "summary",
    "deployment",
    "unfinished_operation",
    "lock",
    "recovery_points",
    "newest_verified",
    "room",
    "timer",
    "last_scheduled_backup",
)
_COLUMNS = ("HOST", "STATE", "VERSION", "HEALTH", "NEWEST VERIFIED", "POINTS", "FIT", "TIMER")
_UNKNOWN = "-"
_LISTED_HOSTS = 5
_LONGEST_WORDS = 400
"""Characters that are shown of what a host or a connection said."""


def make_report(results: Mapping[str, Mapping[str, Any] | None], made: datetime) -> dict[str, Any]:
    """Return how a fleet is, as JSON can hold it.

    results: by host, what the module `deployment_status` returned there, or why it returned nothing, as Ansible has it
    (`unreachable`, `failed`, `msg`); None where it was not run. made: now, UTC.

    - ``made``, ``collection_version``
    - ``counts``: of hosts, by `critical`, `warning` and `ok`
    - ``digests``: each tag that has several digests: ``repository``, ``tag``, and ``hosts`` by digest
    - ``hosts``: what needs a person first before the rest: ``host``, ``severity``, ``problems`` (see status_limits),
      and what host_status.collect_status returns, None where it is not known
    """
    rows = [_row(host, result) for host, result in results.items()]
    digests = find_differing_digests(rows)
    for row in rows:
        row["problems"] += _digest_problem(row, digests)
        found = {one["severity"] for one in row["problems"]}
        row["severity"] = next((severity for severity in SEVERITIES if severity in found), WELL)
    rows.sort(key=lambda row: (urgency(row["problems"]), row["host"]))
    return {
        "made": made.strftime(TIME_FORMAT),
        "collection_version": VERSION,
        "counts": {name: sum(row["severity"] == name for row in rows) for name in (*SEVERITIES, WELL)},
        "digests": digests,
        "hosts": rows,
    }


def _row(host: str, result: Mapping[str, Any] | None) -> dict[str, Any]:
    """A host with its own problems; the severity is for later."""
    row: dict[str, Any] = {"host": host, "severity": WELL, "problems": [], **dict.fromkeys(_FIELDS)}
    if result is None:
        row["problems"] = [problem("unknown", "It was not asked: run the playbook again.")]
    elif result.get("unreachable"):
        said = _words(result)
        row["problems"] = [problem("unreachable", f"It cannot be reached: {said}. See that it runs and lets you in.")]
    elif "problems" not in result:
        said = _words(result)
        row["problems"] = [
            problem("unknown", f"It could not be asked: {said}. Mend that, then run the playbook again.")
        ]
    else:
        row.update({name: result[name] for name in _FIELDS}, problems=list(result["problems"]))
    return row


def _words(result: Mapping[str, Any]) -> str:
    """What Ansible says of a host that gave no answer, in one line without a full stop."""
    words = " ".join(str(result.get("msg") or "no reason is given").split())
    return f"{words[:_LONGEST_WORDS]}…" if len(words) > _LONGEST_WORDS else words.rstrip(".")


def find_differing_digests(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the tags that do not name the same image on all hosts, with the hosts of each digest, most hosts first."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        image = row["deployment"]
        if image is not None and image["tag"] is not None and image["digest"] is not None:
            digests = found.setdefault((image["repository"], image["tag"]), {})
            digests.setdefault(image["digest"], []).append(row["host"])
    return [
        {
            "repository": repository,
            "tag": tag,
            "hosts": {
                name: sorted(digests[name]) for name in sorted(digests, key=lambda one: (-len(digests[one]), one))
            },
        }
        for (repository, tag), digests in sorted(found.items())
        if len(digests) > 1
    ]


def _digest_problem(row: Mapping[str, Any], differing: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The problem of a host whose digest is not that of most hosts; of each host where no digest is that of most."""
    image = row["deployment"]
    for found in differing if image is not None else ():
        if (image["repository"], image["tag"]) == (found["repository"], found["tag"]) and image["digest"] is not None:
            sizes = [len(hosts) for hosts in found["hosts"].values()]
            if image["digest"] == next(iter(found["hosts"])) and sizes[0] > sizes[1]:
                return []
            others = counted(sum(sizes) - len(found["hosts"][image["digest"]]), "other host")
            text = (
                f"The tag {image['tag']} is {short_digest(image['digest'])} here and another image on {others}: find "
                "out which is meant, and pin tag and digest in the project's file on all hosts."
            )
            return [problem("digest", text)]
    return []


def short_digest(digest: str) -> str:
    """A digest as Docker shortens it: `sha256:` and 12 characters."""
    algorithm, _separator, value = digest.partition(":")
    return f"{algorithm}:{value[:12]}"


def list_hosts(hosts: Sequence[str]) -> str:
    """Hosts for people: their names, how many there are where they are many."""
    return ", ".join(hosts) if len(hosts) <= _LISTED_HOSTS else counted(len(hosts), "host")


def in_need(report: Mapping[str, Any]) -> list[str]:
    """Return the hosts with a problem, what needs a person first before the rest."""
    return [row["host"] for row in report["hosts"] if row["problems"]]


def describe_counts(report: Mapping[str, Any]) -> str:
    """Return how many hosts there are in which state: `12 hosts: 2 critical, 1 warning, 9 ok`."""
    states = ", ".join(f"{count} {name}" for name, count in report["counts"].items() if count)
    return f"{counted(len(report['hosts']), 'host')}: {states}"


def format_json(report: Mapping[str, Any]) -> bytes:
    """Return the report as a JSON document."""
    return json.dumps(report, indent=2).encode("ascii") + b"\n"


def format_table(report: Mapping[str, Any]) -> list[str]:
    """Return the report as lines for a terminal, without anything that could control it.

    A fleet is a table, a single host one line; then what is wrong, host by host.
    """
    rows = report["hosts"]
    if len(rows) == 1 and rows[0]["summary"] is not None:
        lines = [f"{rows[0]['host']}: {rows[0]['summary']}"]
    else:
        lines = [*_aligned([_COLUMNS, *map(_cells, rows)]), "", describe_counts(report)]
    for row in rows:
        lines += [f"{row['host']}: {found['severity']}: {found['text']}" for found in row["problems"]]
    for found in report["digests"]:
        for digest, hosts in found["hosts"].items():
            lines.append(f"{found['repository']}:{found['tag']} is {digest} on {list_hosts(hosts)}")
    return [escaped(line) for line in lines]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    newest, room, timer = row["newest_verified"], row["room"], row["timer"]
    return (
        row["host"],
        row["severity"],
        show_version(row),
        show_health(row),
        _UNKNOWN if newest is None else f"{format_age(newest['age_seconds'])} ago",
        _UNKNOWN if row["recovery_points"] is None else str(len(row["recovery_points"])),
        _UNKNOWN if room is None or room["fit"] is None else str(room["fit"]),
        _UNKNOWN if timer is None else timer["state"],
    )


def show_version(row: Mapping[str, Any]) -> str:
    """A host's version for people."""
    return str(row["deployment"]["version"] or "unknown") if row["deployment"] is not None else _UNKNOWN


def show_health(row: Mapping[str, Any]) -> str:
    """A host's health for people: what the service says, else that it gives no answer."""
    return str(row["deployment"]["status"] or "no answer") if row["deployment"] is not None else _UNKNOWN


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines in which each column is as wide as its widest cell."""
    shown = [[escaped(cell) for cell in cells] for cells in table]
    widths = [max(map(len, column)) for column in zip(*shown)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths)).rstrip() for cells in shown]
