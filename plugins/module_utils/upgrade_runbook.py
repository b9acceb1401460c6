# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""An upgrade on paper: what would be done on a host, what stands in the way, its steps, and the way back.

One Markdown section for each host. What a host says of itself breaks neither the document nor the commands in it, and
nothing in it is secret.
"""

from __future__ import annotations

import math
import posixpath
from datetime import datetime
from typing import Any, Mapping, Sequence

from .changelogs import presentable
from .compose_image import ComposeImageError, ComposeProject, PinResult, pin_image
from .maintenance_window import MaintenanceWindowError, next_opening, parse_window, seconds_left
from .markdown import code, fenced, plain, table
from .upgrade_by_hand import RunbookRequest, Step, find_legs, find_steps, name_of_version, shell_line, way_back_by_hand
from .upgrade_host import size_of_database

_UNITS = ("kB", "MB", "GB", "TB")


_BY_HAND = """\
The commands are for a root shell of bash on this host, in this order. What each must print is said with it: where it
prints anything else, go no further and take the way back. They need `docker` with Compose, `sqlite3` (3.27 or newer)
and `python3`. What waits for Opstage prints its answer, or nothing where there is none in time.

- Nobody may run a playbook on this host meanwhile: the commands take no lock.
- They write no journal: the rollback playbook does not know of what was done by hand, so go back by hand as well.
- What they keep has a copy of all data. Only root may read it; remove it when the upgrade has proven itself."""


def look_at_host(deployment: Mapping[str, Any], plan: Mapping[str, Any]) -> tuple[int, list[PinResult]]:
    """Return `database_bytes` and `pins` of a RunbookRequest; nothing is changed.

    Where the project's files cannot be pinned, which the plan then has among its problems, there are no pins.
    """
    project, service = ComposeProject.of(deployment), deployment["service"]
    try:
        pins = [pin_image(project, service, step["tag"], step["digest"], check_mode=True) for step in plan["path"]]
    except ComposeImageError:
        pins = []
    return size_of_database(deployment["database"]), pins


def format_runbook(request: RunbookRequest, now: datetime) -> str:
    """Return the section of one host; `now` is in UTC."""
    plan = request.plan
    window, window_problems = _describe_window(request.window, plan["predicted_seconds"], now)
    problems = [*plan["problems"], *window_problems]
    parts = [f"## {plain(request.host)}", _format_problems(problems)]
    if not plan["needed"]:
        running = _image_name(plan["source"])
        return _joined([*parts, f"Nothing is to be done: the host runs {running} already."])
    legs = find_legs(request, now)
    steps = find_steps(request, legs)
    parts += ["### What is done", _format_facts(request, window, now)]
    parts += ["### Changelogs", fenced("text", presentable(request.changelog))]
    parts += ["### Steps", _format_steps(steps), "### Rollback", _format_rollback(request)]
    parts += ["### By hand, without Ansible", _BY_HAND]
    for number, step in enumerate(steps, start=1):
        parts += [f"#### {number}. {step.title}", step.by_hand]
    for leg in legs:
        title = f"#### The way back from {name_of_version(leg.new)} to {name_of_version(leg.old)}"
        parts += [title, way_back_by_hand(leg)]
    return _joined(parts)


def format_failure(host: str, reason: str) -> str:
    """Return the section of a host of which no runbook can be made, because of `reason`."""
    return _joined([f"## {plain(host)}", f"There is no runbook for this host: {plain(presentable(reason))}"])


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(parts) + "\n"


def _format_problems(problems: Sequence[str]) -> str:
    if not problems:
        return "Nothing that can be known beforehand stands in the way."
    listed = "\n".join(f"- {plain(presentable(problem))}" for problem in dict.fromkeys(problems))
    return f"**In the way**: the upgrade does not begin before this is settled.\n\n{listed}"


def _format_facts(request: RunbookRequest, window: str, now: datetime) -> str:
    deployment, plan = request.deployment, request.plan
    count, size = 2 * len(plan["path"]), request.database_bytes
    service = f"service {code(deployment['service'])}, container {code(deployment['container'])}"
    kept = code(posixpath.join(request.root, deployment["project"]))
    meanwhile = f"on a copy of the data, which takes up to {_size(2 * size)} meanwhile" if request.rehearse else "none"
    facts = [
        ("Project", f"{code(deployment['project'])} in {code(deployment['project_dir'])}: {service}"),
        ("Image", code(deployment["repository"])),
        ("From", _image_name(plan["source"])),
        ("To", _image_name(plan["target"])),
        ("By way of", ", ".join(code(step["tag"]) for step in plan["path"][:-1]) or "no other version"),
        ("In the registry", _describe_registry(plan)),
        ("Database", f"{code(deployment['database'])}, {_size(size)} with its log"),
        ("Recovery points", f"{count} in {kept}, each up to {_size(size)}, together up to {_size(count * size)}"),
        ("Rehearsal", meanwhile),
        ("Predicted downtime", _predicted(plan["predicted_seconds"])),
        ("Health", f"within {request.timeout} s of each start, or it counts as failed"),
        ("Maintenance window", window),
        ("Looked at", f"{now:%Y-%m-%dT%H:%M:%SZ}"),
    ]
    return table(("", "this host"), ("---", "---"), facts)


def _image_name(image: Mapping[str, Any]) -> str:
    """Version, tag and digest of what `source` or `target` of a plan names."""
    return ", ".join(
        f"{name} {code(image[name]) if image[name] else 'unknown'}" for name in ("version", "tag", "digest")
    )


def _describe_registry(plan: Mapping[str, Any]) -> str:
    missing = [code(step["tag"]) for step in plan["path"] if step["digest"] is None]
    if missing:
        return f"the images of {', '.join(missing)} are not known to be there"
    if not plan["versions_complete"]:
        return "the images of the path; whether there are more versions on the way is not known"
    versions = ", ".join(code(version) for version in plan["versions"])
    return f"the images of the path; versions on the way: {versions}"


def _size(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    short, unit = size / 1000, 0
    while short >= 1000 and unit < len(_UNITS) - 1:
        short, unit = short / 1000, unit + 1
    return f"{size:,} bytes ({short:.1f} {_UNITS[unit]})"


def _predicted(seconds: float | None) -> str:
    if seconds is None:
        return "unknown: no upgrade on this host has ended well yet"
    return f"about {seconds:.1f} s, judging by the last upgrade on this host"


def _describe_window(window: str | None, predicted: float | None, now: datetime) -> tuple[str, list[str]]:
    """What the window is, and what is wrong with it; that it is closed while the runbook is made is not."""
    if window is None:
        return "none: at any time", []
    try:
        parsed = parse_window(window)
        left = seconds_left(parsed, now)
        opens = next_opening(parsed, now)
        length = seconds_left(parsed, opens) if left is None else left
    except MaintenanceWindowError as error:
        return plain(window), [f"opstage_maintenance_window: {error}"]
    begins = f"it opens at {opens:%Y-%m-%dT%H:%M:%SZ}" if left is None else "it is open now"
    if length is None:
        return f"{plain(window)}; it does not open within a year", []
    lasts = "" if math.isinf(length) else f", for {length:.0f} s"
    problems = []
    if predicted is not None and length < predicted:
        problems = [
            f"The maintenance window {window} is open for {length:.0f} s, the upgrade may take {predicted:.0f} s."
        ]
    return f"{plain(window)}; {begins}{lasts}", problems


def _format_rollback(request: RunbookRequest) -> str:
    plan = request.plan
    old, new = name_of_version(plan["source"]), name_of_version(plan["target"])
    command = shell_line("ansible-playbook", "capsule.opstage.rollback", "--limit", request.host)
    several = " It goes back by one version of the path; run it again for the one before." if plan["path"][1:] else ""
    return "\n\n".join(
        [
            f"Until clients reach {new}, what fails is undone by the upgrade itself, and no write is lost: what ran "
            "before serves again with all that it had at its stop. After that, only this goes back:",
            fenced("sh", command),
            "It stops Opstage, makes a recovery point of what is there, puts back the data of the stop, names the old "
            f"image in the project's files, starts {old} and waits until it is healthy. **It drops every write from "
            "the moment clients reached the new version**: it says how many rows that is, and they stay in its own "
            f"recovery point.{several} It asks no registry as long as the old image is on the host.",
        ]
    )


def _format_steps(steps: Sequence[Step]) -> str:
    columns = ("", "step", "what happens", "what is checked", "the service", "the way back from there")
    rows = [
        (str(number), step.title, step.happens, step.checked, step.service, step.way_back)
        for number, step in enumerate(steps, start=1)
    ]
    note = (
        "The playbook takes them one after the other. Wherever it is cut off, the next run of any playbook sees that "
        "in the journal of the host and brings it to its end."
    )
    return "\n\n".join([table(columns, ("---:", *["---"] * 5), rows), note])
