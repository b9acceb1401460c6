# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How a fleet is, as one HTML page: no script, no other file; all that hosts and their owners named is escaped."""

from __future__ import annotations

import html
from datetime import datetime, timedelta, timezone
from typing import Any, Iterator, Mapping, Sequence

from .deployment_status import counted, format_age
from .fleet_status import describe_counts, list_hosts, short_digest, show_health, show_version
from .manifest import TIME_FORMAT
from .markdown import escaped
from .progress_display import format_bytes
from .status_limits import latest_drill

CHART_DAYS = 30
_CHART_WIDTH = 180
_CHART_HEIGHT = 24
_SMALLEST_BAR = 6

_COLUMNS = ("Host", "Opstage", "Newest verified", f"Points, {CHART_DAYS} days", "Room", "Timer")

# The contrast of all text with its ground is 4.5 to 1 or more, in light and dark (WCAG 2.2, 1.4.3).
_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c2126; --faint: #59626b; --line: #d5d9dd;
  --critical: #a3121f; --critical-ground: #fdecec; --warning: #7a4a00; --ok: #1d6634;
  --bar: #3a6ea5 }
@media (prefers-color-scheme: dark) { :root { --ground: #15181b; --text: #e4e7ea; --faint: #9aa4ae; --line: #353b41;
  --critical: #ff9a98; --critical-ground: #351a1c; --warning: #f0c36a; --ok: #86d39b;
  --bar: #7fb0e6 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.25rem 1.5rem; max-width: 80rem; background: var(--ground); color: var(--text);
  font: 0.875rem/1.45 system-ui, sans-serif; font-variant-numeric: tabular-nums }
h1 { margin: 0; font-size: 1.25rem }
h2 { margin: 1.5rem 0 0.25rem; font-size: 1rem }
p { margin: 0.25rem 0 1rem }
table { width: 100%; border-collapse: collapse }
th, td { padding: 0.35rem 0.75rem 0.35rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere }
th:first-child, td:first-child { padding-left: 0.75rem }
thead th { color: var(--faint); font-weight: 600; white-space: nowrap }
tbody { border-top: 1px solid var(--line) }
tbody th { font-weight: 600 }
ul { margin: 0; padding-left: 1.1rem }
svg { display: block; max-width: 100% }
small { display: block; color: var(--faint); font-size: 0.8125rem; font-weight: 400 }
.critical { color: var(--critical) }
.warning { color: var(--warning) }
.ok { color: var(--ok) }
.is-critical { background: var(--critical-ground); box-shadow: inset 3px 0 var(--critical) }
.is-warning { box-shadow: inset 3px 0 var(--warning) }
.problems td { padding-top: 0; padding-bottom: 0.6rem }
.bars { stroke: var(--bar); stroke-width: 2; fill: none }
.flawed { stroke: var(--critical); stroke-width: 2; stroke-dasharray: 2 2; fill: none }
.axis { stroke: var(--line); fill: none }
@media (max-width: 600px) {
  body { padding: 0.75rem }
  table, tbody, tr, th, td { display: block }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
  tbody { border: 1px solid var(--line); border-radius: 4px; margin-bottom: 0.6rem; padding: 0.5rem 0 }
  th, td, .problems td { padding: 0.1rem 0.75rem }
  td[data-name] { display: grid; grid-template-columns: 8.5rem 1fr }
  td[data-name]::before { content: attr(data-name); color: var(--faint) }
  td[data-name] > * { grid-column: 2 }
  th small { display: inline; margin-left: 0.5rem }
}
"""


def format_page(report: Mapping[str, Any]) -> str:
    """Return the page; `report` is what fleet_status.make_report returns."""
    counts, made = describe_counts(report), _parsed(report["made"])
    heads = "".join(f'<th scope="col" role="columnheader">{name}</th>' for name in _COLUMNS)
    bodies = "\n".join(_body(row) for row in report["hosts"])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Opstage: {counts}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Opstage</h1>
<p>{counts}. Made <time datetime="{report["made"]}">{made:%Y-%m-%d %H:%M} UTC</time> by capsule.opstage
{_text(report["collection_version"])}. What needs a person first comes first.</p>
<table role="table">
<thead role="rowgroup"><tr role="row">{heads}</tr></thead>
{bodies}
</table>
{_digests(report["digests"])}</main>
</body>
</html>
"""


def _digests(differing: Sequence[Mapping[str, Any]]) -> str:
    """A section on tags that are not the same image everywhere; empty where there is none."""
    items = [
        f"<li>{_text(found['repository'])}:{_text(found['tag'])} is {_text(short_digest(digest))} on "
        f"{_text(list_hosts(hosts))}</li>"
        for found in differing
        for digest, hosts in found["hosts"].items()
    ]
    return "\n".join(["<h2>One tag, several images</h2>", "<ul>", *items, "</ul>", ""]) if items else ""


def _body(row: Mapping[str, Any]) -> str:
    """The part of the table for a host."""
    severity, columns = row["severity"], len(_COLUMNS)
    items = "".join(f"<li>{_text(one['text'])}</li>" for one in row["problems"])
    problems = f"<ul>{items}</ul>" if items else ""
    # With a space between the two, which stand on one line on a phone.
    state = f'<small class="{severity}">{severity}</small>'
    head = f'<th scope="row" role="rowheader">{_text(row["host"])} {state}</th>'
    if row["deployment"] is None:
        rows = [f'<tr role="row">{head}\n<td role="cell" colspan="{columns - 1}">{problems}</td></tr>']
    else:
        cells = zip(_COLUMNS[1:], (_opstage(row), _newest(row), _points(row), _room(row), _timer(row)))
        known = "\n".join(f'<td role="cell" data-name="{name}">{cell}</td>' for name, cell in cells)
        rows = [f'<tr role="row">{head}\n{known}</tr>']
        if problems:
            rows.append(f'<tr role="row" class="problems"><td role="cell" colspan="{columns}">{problems}</td></tr>')
    return "\n".join([f'<tbody role="rowgroup" class="is-{severity}">', *rows, "</tbody>"])


def _opstage(row: Mapping[str, Any]) -> str:
    operations = [
        f"{lock['operation']} under way, by {lock['user']}"
        for lock in [row["lock"]]
        if lock is not None and lock["alive"]
    ]
    return _cell(f"{show_version(row)}, {show_health(row)}", *operations)


def _newest(row: Mapping[str, Any]) -> str:
    newest = row["newest_verified"]
    if newest is None:
        return _cell("unknown" if row["recovery_points"] is None else "none")
    return _cell(f"{format_age(newest['age_seconds'])} ago", f"{_parsed(newest['created']):%Y-%m-%d %H:%M} UTC")


def _points(row: Mapping[str, Any]) -> str:
    points = row["recovery_points"]
    if points is None:
        return _cell("unknown")
    facts = [f"{len(points)} in all"]
    for fact, count in (
        ("not verified", sum(not point["verified"] for point in points)),
        ("encrypted", sum(bool(point["encrypted"]) for point in points)),
    ):
        facts += [f"{count} {fact}"] if count else []
    drilled = latest_drill(points)
    if drilled is not None:
        facts.append(f"drill {drilled['drill']['outcome']} {_parsed(drilled['drill']['time']):%Y-%m-%d}")
    return _chart(points, _parsed(row["time"])) + f"<small>{_text(', '.join(facts))}</small>"


def _room(row: Mapping[str, Any]) -> str:
    room = row["room"]
    if room is None or room["free"] is None:
        return _cell("unknown")
    free = f"{format_bytes(room['free'])} free"
    return _cell(free) if room["fit"] is None else _cell(f"for {room['fit']} more", free)


def _timer(row: Mapping[str, Any]) -> str:
    timer, record = row["timer"], row["last_scheduled_backup"]
    facts = ["unknown" if timer is None else timer["state"]]
    if timer is not None and timer["next"] is not None:
        facts.append(f"next {_parsed(timer['next']):%Y-%m-%d %H:%M} UTC")
    if record is not None and record["outcome"] == "failure":
        facts.append("last one failed")
    return _cell(*facts)


def _cell(first: str, *others: str) -> str:
    """A cell's content: what matters, and under it what else there is to know."""
    return _text(first) + "".join(f"<small>{_text(other)}</small>" for other in others)


def _chart(points: Sequence[Mapping[str, Any]], end: datetime) -> str:
    """A picture of the points of the last days: a bar each, its height by the size, dashed where it is not verified."""
    begin = end - timedelta(days=CHART_DAYS)
    recent = [point for point in points if point["created"] and begin <= _parsed(point["created"]) <= end]
    largest = max((point["size"] for point in recent), default=1)
    bars: dict[int, tuple[int, bool]] = {}
    for point in recent:
        place = round((_parsed(point["created"]) - begin) / (end - begin) * (_CHART_WIDTH - 2)) + 1
        height = _SMALLEST_BAR + round((_CHART_HEIGHT - 2 - _SMALLEST_BAR) * point["size"] / largest)
        tallest, verified = bars.get(place, (0, True))
        bars[place] = (max(tallest, height), verified and point["verified"])
    label = f"{counted(len(recent), 'recovery point')} in the last {CHART_DAYS} days"
    weeks = "".join(
        f"M{_CHART_WIDTH - 1 - round(days * (_CHART_WIDTH - 2) / CHART_DAYS)} {_CHART_HEIGHT}v-4"
        for days in (7, 14, 21, 28)
    )
    return (
        f'<svg role="img" aria-label="{label}" width="{_CHART_WIDTH}" height="{_CHART_HEIGHT}" '
        f'viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT}"><title>{label}</title>'
        f'<path class="axis" d="M0 {_CHART_HEIGHT - 0.5}h{_CHART_WIDTH}{weeks}"/>'
        f"{''.join(_paths(bars))}</svg>"
    )


def _paths(bars: Mapping[int, tuple[int, bool]]) -> Iterator[str]:
    for name, wanted in (("bars", True), ("flawed", False)):
        drawn = "".join(
            f"M{place} {_CHART_HEIGHT - 1}v-{height}"
            for place, (height, verified) in sorted(bars.items())
            if verified is wanted
        )
        if drawn:
            yield f'<path class="{name}" d="{drawn}"/>'


def _text(text: str) -> str:
    """Any text, to be shown as it is, also in an attribute."""
    return html.escape(escaped(text))


def _parsed(text: str) -> datetime:
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=timezone.utc)
