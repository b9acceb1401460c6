# SPDX-License-Identifier: GPL-3.0-or-later
"""What came of the cuts, as text for a terminal and as Markdown for the documentation."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence

from bench.report import as_markdown, as_text
from campaign.interruption_place import WRITES_BEFORE, WRITES_PER_SECOND
from campaign.interruption_trials import ALWAYS, KINDS, OPERATIONS, REGISTRY_DOWN, Trial
from testbed.machine import CHECKOUT

OUTCOMES = ("finished", "failed", "not begun")
SUMS = ("cuts", "at random", "registry down", "always", *OUTCOMES, "acknowledged", "lost", "flaws")


def machine() -> dict[str, str]:
    """What the trials were made on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {"machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}"}


def sums(trials: Sequence[Trial]) -> Sequence[str]:
    """The figures of some trials together, those of SUMS."""
    figures = (
        len(trials),
        sum(isinstance(trial.moment, float) for trial in trials),
        sum(trial.registry_down for trial in trials),
        sum(trial.always for trial in trials),
        *(sum(trial.outcome == outcome for trial in trials) for outcome in OUTCOMES),
        sum(trial.acknowledged for trial in trials),
        sum(trial.lost for trial in trials),
        sum(len(trial.flaws) for trial in trials),
    )
    return [f"{figure}" for figure in figures]


def sum_rows(trials: Sequence[Trial]) -> list[Sequence[str]]:
    """A row for each operation and kind of cut, and one for all."""
    rows: list[Sequence[str]] = [("operation, cut", *SUMS)]
    for operation in OPERATIONS:
        for kind in KINDS:
            chosen = [trial for trial in trials if (trial.operation, trial.kind) == (operation, kind)]
            if chosen:
                rows.append((f"{operation}, {kind}", *sums(chosen)))
    return [*rows, ("all", *sums(trials))]


def cut_rows(trials: Sequence[Trial]) -> list[Sequence[str]]:
    """A row for each cut."""
    rows: list[Sequence[str]] = [("cut", "outcome", "acknowledged", "lost", "last task begun")]
    for trial in trials:
        rows.append((trial.key, trial.outcome, f"{trial.acknowledged}", f"{trial.lost}", trial.task))
    return rows


def flaw_lines(trials: Sequence[Trial]) -> list[str]:
    """A line for each flaw, without the paths of this machine."""
    return [f"{trial.key}: {flaw.replace(f'{CHECKOUT}/', '')}" for trial in trials for flaw in trial.flaws]


def text(trials: Sequence[Trial]) -> str:
    """All of it for a terminal."""
    *_figures, acknowledged, lost, flaws = sums(trials)
    last = f"{len(trials)} cuts, {acknowledged} writes acknowledged, {lost} lost, {flaws} flaws"
    flawed = "".join(f"FLAW: {line}\n" for line in flaw_lines(trials))
    return f"{as_text(cut_rows(trials))}\n\n{as_text(sum_rows(trials))}\n\n{flawed}{last}"


def document(trials: Sequence[Trial], facts: Mapping[str, str], command: str) -> str:
    """The page for the documentation."""
    kinds = [kind for kind in KINDS if any(trial.kind == kind for trial in trials)]
    parts = (
        "# Interruptions",
        INTRODUCTION.format(command=command, rate=WRITES_PER_SECOND, before=WRITES_BEFORE).strip(),
        "\n".join(f"- {kind}: {KINDS[kind]}" for kind in kinds),
        JUDGEMENT.strip(),
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        "## By operation and kind of cut",
        as_markdown(sum_rows(trials)),
        "## Every cut",
        READING.format(down=REGISTRY_DOWN, always=ALWAYS).strip(),
        as_markdown([[cell.replace("|", "\\|") for cell in row] for row in cut_rows(trials)], "---"),
        *(["## Flaws", "\n".join(f"- {line}" for line in flaw_lines(trials))] if flaw_lines(trials) else []),
    )
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """
What is left when an operation is cut off: every number on this page was made by one run of

```
{command}
```

which writes this page. On hosts with their own systemd, sshd and Docker Engine an Opstage gets {rate} writes a second,
and it is noted which of them it acknowledges. An operation begins, is cut off at one of its tasks or at a random
moment, and then the backup playbook runs, which has to find out what was cut off and bring it to its end. Before each
cut the deployment is put back to the same starting point, which has {before} acknowledged writes already. `create` is a
restore of a recovery point from the controller onto a host that has nothing but Docker and the image; nobody writes
there yet, and the same restore is what runs next. The cuts are:
"""

JUDGEMENT = """
Then there must be: no lock; an end in the journal to everything that began there; an Opstage that serves, in the
version that its Compose file names, which is the old one unless the upgrade has finished or the rollback has not; and
every acknowledged write. One whose number the database gave away again counts as lost. A restore or rollback that has
finished drops what was written from its recovery point until it replaced the database, and nothing else; that must be
in the recovery point which it makes of what was there. After `create` all rows but those that Opstage writes on its own
must be as in the recovery point, and nothing of what was brought to the host for it may be left.

The host is a container, which is killed. All its processes end at once and what it has in memory file systems is gone,
but the machine's kernel goes on and writes its cache to the disk: a power cut that also loses what was not synced is
not among these cuts.
"""

READING = """
A cut is named as `--only` takes it: `upgrade:7` is before the seventh task of the upgrade, `upgrade:7.3s` 7.3 s after
its start, `upgrade:Switch | Stop~1.2s` 1.2 s after that task of it began, with `host/` or `connection/` before it where
it is not the controller alone that is killed. Where the connection is cut at a task, the task's module is already at
work on the host, and goes on alone. After `{down}` the host cannot reach its registry while the next playbook runs;
with `{always}` the project's policy is `restart: always`, by which Docker starts with the host also a service that was
stopped, and not `unless-stopped`. An operation that was cut off before it noted in the journal that it begins has not
begun.
"""
