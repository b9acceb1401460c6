# SPDX-License-Identifier: GPL-3.0-or-later
"""Which cuts there are: how each is asked for by its key, what came of it, and which make up the whole campaign."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from testbed.process import TestbedError

SEED = 20261123
RANDOM_MOMENTS = 100
SECONDS_BEFORE_ANY_TASK = 1.0
"""Ansible itself takes longer to start: no moment is drawn from these."""
CONTROLLER, HOST, CONNECTION, REGISTRY, TAG = "controller", "host", "connection", "registry", "tag"
CUTS = {
    CONTROLLER: "ansible-playbook is killed",
    HOST: "the host loses its power and is started again, and ansible-playbook is killed",
    CONNECTION: "the SSH connection is cut and refused, ansible-playbook ends by itself",
}
OUTAGES = {
    REGISTRY: "the host reaches its registry no more, and the operation goes on",
    TAG: "the tag of the upgrade's target names another image, and the operation goes on",
}
KINDS = {**CUTS, **OUTAGES}
UPGRADE, ROLLBACK, RESTORE, BACKUP, CREATE = OPERATIONS = ("upgrade", "rollback", "restore", "backup", "create")
"""CREATE is a restore onto a host that has Docker alone."""
AT_EVERY_TASK = {
    CONTROLLER: (UPGRADE, ROLLBACK, RESTORE, CREATE),
    HOST: (UPGRADE, ROLLBACK, RESTORE, BACKUP),
}
"""The kinds and operations of the whole campaign, besides its random moments."""
SWITCHES = {UPGRADE: "Switch | Stop", ROLLBACK: "Stop, keep what is there"}
"""The tasks during which the service is down: they do much, and are cut off within, too."""
WITHIN_A_SWITCH = {CONTROLLER: 0.3, HOST: 0.6}
"""How many seconds are between two cuts of a kind in such a task."""
REGISTRY_DOWN, ALWAYS = "+registry", "+always"
CHANCE = 1 / 4
"""That a random moment has the one or the other."""
KEY = re.compile(
    rf"(?:({'|'.join(KINDS)})/)?({'|'.join(OPERATIONS)}):"
    rf"(?:([0-9]+\.?[0-9]*)s|([^~]+?)(?:~([0-9]+\.?[0-9]*)s)?)({re.escape(REGISTRY_DOWN)})?({re.escape(ALWAYS)})?"
)


@dataclass
class Trial:
    """One cut: at the task ``moment``, its number or a part of its name, or so many seconds after the start."""

    operation: str
    moment: str | float
    kind: str = CONTROLLER
    registry_down: bool = False
    """Whether the host cannot reach its registry from the cut on."""
    always: bool = False
    """Whether Docker's policy is to start the service with the host even if it was stopped, `restart: always`."""
    delay: float = 0.0
    """How many seconds after the task ``moment`` began; 0 is before it does anything."""
    task: str = ""
    """The last task that began."""
    outcome: str = ""
    acknowledged: int = 0
    lost: int = 0
    flaws: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """How it is asked for again."""
        kind = "" if self.kind == CONTROLLER else f"{self.kind}/"
        moment = f"{self.moment}s" if isinstance(self.moment, float) else self.moment
        delay = f"~{self.delay}s" if self.delay else ""
        suffixes = (REGISTRY_DOWN if self.registry_down else "") + (ALWAYS if self.always else "")
        return f"{kind}{self.operation}:{moment}{delay}{suffixes}"


def trial_of(key: str) -> Trial:
    """The trial that has this key. Raises TestbedError where there can be none."""
    found = KEY.fullmatch(key)
    if found is None:
        raise TestbedError(
            f"'{key}' is no trial: expected such as upgrade:7, {HOST}/restore:Put in place, {CONNECTION}/backup:3.5s, "
            f"upgrade:{SWITCHES[UPGRADE]}~1.2s or upgrade:7{REGISTRY_DOWN}{ALWAYS}"
        )
    kind, operation, seconds, task, delay, registry_down, always = found.groups()
    moment = float(seconds) if seconds else task
    return Trial(
        operation, moment, kind or CONTROLLER, bool(registry_down), bool(always), delay=float(delay) if delay else 0.0
    )


@dataclass(frozen=True)
class Course:
    """An operation that nobody disturbs: the names of its tasks, how many seconds it takes, and after how many each
    of the tasks began.
    """

    tasks: Sequence[str]
    seconds: float
    begins: Sequence[float]

    def duration(self, number: int) -> float:
        """How many seconds the task takes, the first being 0: until the next one begins or all ends."""
        return [*self.begins, self.seconds][number + 1] - self.begins[number]


def whole_campaign(
    courses: Mapping[str, Course], kinds: Sequence[str], one_in: int, random_only: bool = False
) -> list[Trial]:
    """All trials of the operations in ``courses``, or one of so many: every task, within the switches, at random.

    ``kinds`` are those that are made at every task and at random; none are those of AT_EVERY_TASK, and at random CUTS.
    The same courses give the same trials. Raises TestbedError where an operation has no switch.
    """
    chance = random.Random(SEED)
    trials = []
    for kind in () if random_only else kinds or AT_EVERY_TASK:
        for operation in courses if kinds else AT_EVERY_TASK[kind]:
            if operation in courses:
                trials += [Trial(operation, str(number + 1), kind) for number in range(len(courses[operation].tasks))]
    for operation in () if random_only else SWITCHES:
        if operation in courses:
            trials += within_the_switch(operation, courses[operation], kinds or list(WITHIN_A_SWITCH))
    for _number in range(RANDOM_MOMENTS):
        operation = chance.choice(list(courses))
        moment = round(chance.uniform(SECONDS_BEFORE_ANY_TASK, courses[operation].seconds), 1)
        kind, registry_down = chance.choice(list(kinds or CUTS)), chance.random() < CHANCE
        # On a host that has nothing yet there is no policy to change.
        always = chance.random() < CHANCE and operation != CREATE
        trials.append(Trial(operation, moment, kind, registry_down, always))
    return trials[chance.randrange(one_in) :: one_in]


def within_the_switch(operation: str, course: Course, kinds: Collection[str]) -> list[Trial]:
    """Cuts of these kinds all through the operation's switch. Raises TestbedError where it has none."""
    switch = SWITCHES[operation]
    number = next((number for number, task in enumerate(course.tasks) if switch in task), None)
    if number is None:
        raise TestbedError(f"the {operation} has no task '{switch}', but {', '.join(map(repr, course.tasks))}")
    seconds = course.duration(number)
    return [
        Trial(operation, switch, kind, delay=round(count * apart, 1))
        for kind, apart in WITHIN_A_SWITCH.items()
        if kind in kinds
        for count in range(1, math.ceil(seconds / apart))
    ]
