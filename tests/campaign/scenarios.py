# SPDX-License-Identifier: GPL-3.0-or-later
"""The situations in which a snapshot or a restore is disturbed, and how to judge what is there afterwards."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.databases import (
    Content,
    DamagedError,
    Template,
    Writer,
    copy_files,
    fingerprint,
    read_rows,
    writing,
)
from campaign.execution import Outcome, Strike, execute
from campaign.settings import Settings

OWNER = 1234
MODE = 0o640
SECONDS_UNTIL_WRITER_IS_BLOCKED = 10.0

TEMPLATES = (
    Template("wal", "wal", "old"),
    Template("wal-killed", "wal-killed", "old"),
    Template("rollback", "rollback", "old"),
    Template("rollback-killed", "rollback-killed", "old"),
    Template("copy", "rollback", "new", count=150),
    Template("large", "wal-killed", "old", count=2000, page_size=4096),
)
NEW = Content("new", 150, 150)


class Flaw(enum.Enum):
    """What must not happen; each is a column of the table."""

    STRAY = "stray files"
    PARTIAL = "partial files"
    LOST = "rows lost"
    OTHER = "other faults"


Problem = tuple[Flaw, str]


@dataclass(frozen=True)
class Expectation:
    """What a fault allows.

    ``causes``: an error's text has one of them; ``reasons``: its reason is one of them. ``succeeds``: nobody is at
    fault, so it must succeed; ``fails``: why it must not. ``leaves_staged``: the fault itself prevents that a staged
    file is removed at once. ``source_destroyed``: by the fault, so only the copy is judged. ``source``: what somebody
    else wrote there meanwhile, if that was changed; ``copy``: what the copy may have beyond what the source had at
    first. ``replaced_in_error``: a restore may fail with the new database in place, since what failed was to make
    that durable.
    """

    causes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    succeeds: bool = False
    fails: str = ""
    leaves_staged: bool = False
    source_destroyed: bool = False
    source: Content | None = None
    copy: tuple[Content, ...] = ()
    replaced_in_error: bool = False


@dataclass(frozen=True)
class Verdict:
    """One trial's end, whether the fault came at all, and what was wrong.

    ``ended`` is ``killed``, ``failed``, ``succeeded``, or ``carried over``: it succeeded with the damaged content that
    nothing could tell from an undamaged one.
    """

    ended: str
    struck: bool
    problems: tuple[Problem, ...]
    detail: str = ""


@dataclass
class Stage:
    """A scenario set up in folders of its own: ``data`` with the live database, ``copies`` with copies of it."""

    settings: Settings
    request: dict[str, Any]
    data: Path
    copies: Path
    writer: Writer | None = None
    before: dict[str, str] = field(default_factory=dict)
    repair: Callable[[], None] | None = None
    """Ends a fault that lasts."""

    @property
    def live(self) -> Path:
        """The live database."""
        return self.data / "app.db"

    @property
    def final(self) -> Path:
        """The copy: what a snapshot makes, or a restore takes."""
        return self.copies / "copy.db"

    def clean_run(self, **changes: Any) -> Outcome:
        """The operation once more, undisturbed, with other arguments where given."""
        return execute(self.settings, {**self.request, "arguments": {**self.request["arguments"], **changes}})


def template_of(name: str) -> Template:
    """The template of that name."""
    return next(template for template in TEMPLATES if template.name == name)


class Templates:
    """The databases that trials begin with, made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: set[str] = set()

    def put(self, name: str, dest: Path) -> None:
        """Copy the template's files to ``dest``."""
        template = template_of(name)
        path = self._folder / f"{name}.db"
        if name not in self._made:
            self._folder.mkdir(exist_ok=True)
            template.make(path)
            self._made.add(name)
        copy_files(path, dest)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of a database in the state of ``template``; ``writer`` goes on writing to it.

    ``dest`` is ``absent``, ``existing`` (to be overwritten) or ``folder``.
    """

    name: str
    template: str
    dest: str = "absent"
    writer: bool = False

    @contextlib.contextmanager
    def staged(self, settings: Settings, templates: Templates, data: Path, copies: Path) -> Iterator[Stage]:
        """The scenario, ready to run."""
        arguments: dict[str, Any] = {"source": str(data / "app.db"), "dest": str(copies / "copy.db")}
        templates.put(self.template, data / "app.db")
        if self.dest == "existing":
            templates.put("copy", copies / "copy.db")
            arguments["overwrite"] = True
        if self.dest == "folder":
            arguments["dest"] = str(copies)
        request = {"operation": "snapshot", "arguments": arguments, "stop_at_progress": 0}
        stage = Stage(settings, request, data, copies, before=fingerprint(data / "app.db"))
        with contextlib.ExitStack() as stack:
            if self.writer:
                stage.writer = stack.enter_context(writing(stage.live, "old", settings.scratch / "acknowledged"))
                await_progress(stage.writer, 3)
            yield stage

    def judge(self, stage: Stage, outcome: Outcome, expectation: Expectation) -> list[Problem]:
        """What is wrong after the trial."""
        problems = common_problems(outcome, expectation)
        problems += self._after_error(stage, outcome, expectation)
        first = template_of(self.template).count
        current = expectation.source or Content("old", first, first)
        if stage.writer is not None:
            problems += writer_problems(stage.writer)
            stage.writer.kill()
            # A row may have been committed when the kill came before its acknowledgement.
            current = Content("old", stage.writer.acknowledged, stage.writer.acknowledged + 1)
        if not expectation.source_destroyed:
            problems += self._source_problems(stage, current, expectation)
        most = first if stage.writer is None else current.most
        problems += self._named_problems(stage, outcome, [Content("old", first, most), *expectation.copy])
        if not expectation.source_destroyed:
            problems += self._next_run_problems(stage, current)
        return problems

    def _after_error(self, stage: Stage, outcome: Outcome, expectation: Expectation) -> list[Problem]:
        if outcome.error is None or expectation.leaves_staged:
            return []
        problems = [(Flaw.STRAY, f"{name} at once") for name in staged_names(stage.data) + staged_names(stage.copies)]
        named = ["copy.db"] if self.dest == "existing" else []
        if published_names(stage.copies) != named:
            problems.append((Flaw.OTHER, f"it failed, but there is {published_names(stage.copies)}: {outcome.error}"))
        return problems

    def _source_problems(self, stage: Stage, current: Content, expectation: Expectation) -> list[Problem]:
        problems = content_problems(stage.live, [current], "the source")
        # A hot journal is rolled back by whoever reads the database next, so only the content is the same then.
        untouched = stage.writer is None and expectation.source is None and self.template != "rollback-killed"
        if untouched and fingerprint(stage.live) != stage.before:
            problems.append((Flaw.OTHER, f"the source was touched: {stage.before} became {fingerprint(stage.live)}"))
        return problems

    def _named_problems(self, stage: Stage, outcome: Outcome, known: list[Content]) -> list[Problem]:
        """Every file that has a final name must be whole; the one that was reported, as reported."""
        problems: list[Problem] = []
        allowed = [*known, NEW] if self.dest == "existing" and outcome.result is None else known
        for name in published_names(stage.copies):
            problems += content_problems(stage.copies / name, allowed, "the copy", Flaw.PARTIAL)
        if outcome.result is not None:
            dest = Path(outcome.result["dest"])
            if not dest.is_file() or hashlib.sha256(dest.read_bytes()).hexdigest() != outcome.result["sha256"]:
                problems.append((Flaw.PARTIAL, f"{dest} is not what was reported"))
        return problems

    def _next_run_problems(self, stage: Stage, current: Content) -> list[Problem]:
        named = published_names(stage.copies)
        outcome = stage.clean_run(dest=str(stage.copies / "next.db"))
        problems = succeeded_problems(outcome)
        problems += [(Flaw.STRAY, name) for name in staged_names(stage.copies) + staged_names(stage.data)]
        problems += unexpected_names(stage.copies, [*named, "next.db"])
        problems += unexpected_names(stage.data, [])
        if outcome.result is not None:
            problems += content_problems(stage.copies / "next.db", [current], "the next copy", Flaw.PARTIAL)
        return problems


@dataclass(frozen=True)
class Restore:
    """A restore of the copy over a database in the state of ``template``; empty for none.

    ``keep`` asks for what was there to be kept; ``damaged`` means that SQLite cannot read what was there.
    """

    name: str
    template: str
    keep: bool = False
    damaged: bool = False

    @contextlib.contextmanager
    def staged(self, settings: Settings, templates: Templates, data: Path, copies: Path) -> Iterator[Stage]:
        """The scenario, ready to run."""
        live, copy = data / "app.db", copies / "copy.db"
        templates.put("copy", copy)
        if self.template:
            templates.put(self.template, live)
            for file in data.iterdir():
                os.chown(file, OWNER, OWNER)
            live.chmod(MODE)
        if self.damaged:
            with live.open("r+b") as damaged:
                damaged.write(b"damaged " * 128)
        arguments = {
            "source": str(copy),
            "dest": str(live),
            "expected_sha256": hashlib.sha256(copy.read_bytes()).hexdigest(),
            "keep_previous": self.keep,
        }
        request = {"operation": "restore", "arguments": arguments, "stop_at_progress": 0}
        yield Stage(settings, request, data, copies, before=fingerprint(live))

    def judge(self, stage: Stage, outcome: Outcome, expectation: Expectation) -> list[Problem]:
        """What is wrong after the trial."""
        problems = common_problems(outcome, expectation)
        replaced = self._is_new(stage)
        problems += self._place_problems(stage, replaced)
        if outcome.error is not None:
            if not expectation.leaves_staged:
                problems += [(Flaw.STRAY, f"{name} at once") for name in staged_names(stage.data)]
            if replaced and not expectation.replaced_in_error:
                problems.append((Flaw.OTHER, f"it said that nothing was replaced, but it was: {outcome.error}"))
        if outcome.result is not None:
            problems += self._result_problems(stage, outcome.result)
        problems += self._kept_problems(stage)
        problems += self._next_run_problems(stage)
        return problems

    def _is_new(self, stage: Stage) -> bool:
        with contextlib.suppress(DamagedError, FileNotFoundError):
            return NEW.is_that_of(read_rows(stage.live))
        return False

    def _is_old(self, stage: Stage, path: Path) -> bool:
        """Whether the database that was in place is at the path.

        One that SQLite cannot read loses its log there once both are whole under another name.
        """
        if not self.template:
            return not path.exists()
        if self.damaged:
            whole = [fingerprint(other) == stage.before for other in (path, *kept_paths(stage.data))]
            return whole[0] or (any(whole) and fingerprint(path) == {"": stage.before[""]})
        try:
            return template_of(self.template).content.is_that_of(read_rows(path))
        except DamagedError:
            return False

    def _place_problems(self, stage: Stage, replaced: bool) -> list[Problem]:
        """The old database or the new one, whole."""
        problems = content_problems(stage.final, [NEW], "the copy")
        if not replaced and not self._is_old(stage, stage.live):
            found = sorted(fingerprint(stage.live))
            problems.append((Flaw.LOST, f"neither the old database nor the new one is in place, but {found}"))
        return problems

    def _result_problems(self, stage: Stage, result: dict[str, Any]) -> list[Problem]:
        problems: list[Problem] = []
        if not self._is_new(stage):
            problems.append((Flaw.LOST, "it succeeded without the new database in place"))
        if list(fingerprint(stage.live)) != [""]:
            problems.append((Flaw.OTHER, f"a log lies beside the new database: {fingerprint(stage.live)}"))
        if self.template and attributes_of(stage.live) != (OWNER, OWNER, MODE):
            problems.append((Flaw.OTHER, f"owner, group, mode are {attributes_of(stage.live)}"))
        if self.keep and self.template and result["changed"] and not result["backup_file"]:
            problems.append((Flaw.LOST, "what was there was not kept"))
        return problems

    def _kept_problems(self, stage: Stage) -> list[Problem]:
        """Every file under the name of a kept database is the old one, whole."""
        return [
            (Flaw.PARTIAL, f"{path.name} is not the old database")
            for path in kept_paths(stage.data)
            if not self._is_old(stage, path)
        ]

    def _next_run_problems(self, stage: Stage) -> list[Problem]:
        outcome = stage.clean_run()
        problems = succeeded_problems(outcome)
        if outcome.result is not None:
            problems += self._result_problems(stage, outcome.result)
        problems += self._kept_problems(stage)
        kept = [path.name for path in kept_paths(stage.data)]
        if self.template and not self.damaged and len(kept) != self.keep:
            problems.append((Flaw.STRAY if len(kept) > self.keep else Flaw.LOST, f"kept databases: {kept}"))
        problems += [(Flaw.STRAY, name) for name in staged_names(stage.data) + staged_names(stage.copies)]
        logs = [name + suffix for name in kept for suffix in ("-wal", "-journal")]
        return problems + unexpected_names(stage.data, [*kept, *logs])


Scenario = Snapshot | Restore
Mount = Callable[[Path], contextlib.AbstractContextManager[object]]

SNAPSHOTS = (
    Snapshot("closed WAL", "wal"),
    Snapshot("hot WAL", "wal-killed"),
    Snapshot("hot WAL over a copy", "wal-killed", dest="existing"),
    Snapshot("hot WAL into a folder", "wal-killed", dest="folder"),
    Snapshot("WAL with a writer", "wal", writer=True),
    Snapshot("rollback journal", "rollback"),
    Snapshot("hot journal", "rollback-killed"),
    Snapshot("journal with a writer", "rollback", writer=True),
)
RESTORES = (
    Restore("to no file", ""),
    Restore("over a closed WAL", "wal"),
    Restore("over a hot WAL", "wal-killed"),
    Restore("over a hot WAL, kept", "wal-killed", keep=True),
    Restore("over a hot journal", "rollback-killed"),
    Restore("over a hot journal, kept", "rollback-killed", keep=True),
    Restore("over a closed file, kept", "rollback", keep=True),
    Restore("over a damaged one, kept", "wal-killed", keep=True, damaged=True),
    Restore("over a damaged one", "wal-killed", damaged=True),
)


def await_progress(writer: Writer, more: int) -> bool:
    """Wait until the writer has acknowledged more rows; False where it does not within a bound."""
    goal, end = writer.acknowledged + more, time.monotonic() + SECONDS_UNTIL_WRITER_IS_BLOCKED
    while writer.acknowledged < goal:
        if time.monotonic() > end or not writer.alive:
            return False
        time.sleep(0.002)
    return True


def writer_problems(writer: Writer) -> list[Problem]:
    """A writer must go on after whatever happened to the snapshot."""
    return [] if await_progress(writer, 2) else [(Flaw.OTHER, "the writer is blocked or has failed")]


def common_problems(outcome: Outcome, expectation: Expectation) -> list[Problem]:
    """What may never be, whatever the operation was."""
    problems: list[Problem] = []
    if outcome.hung:
        problems.append((Flaw.OTHER, "it hung"))
    if outcome.orphans:
        problems.append((Flaw.OTHER, f"processes lived on: {', '.join(outcome.orphans)}"))
    if outcome.answer is None and outcome.status > 0:
        problems.append((Flaw.OTHER, f"it broke with status {outcome.status}: {outcome.errors[-800:]}"))
    if outcome.result is not None and expectation.fails:
        problems.append((Flaw.OTHER, f"it succeeded although {expectation.fails}"))
    if outcome.error is not None:
        if expectation.succeeds:
            problems.append((Flaw.OTHER, f"it failed: {outcome.error}"))
        elif expectation.causes and not any(cause in outcome.error.lower() for cause in expectation.causes):
            problems.append((Flaw.OTHER, f"no cause ({' or '.join(expectation.causes)}) in: {outcome.error}"))
        if expectation.reasons and outcome.reason not in expectation.reasons:
            problems.append((Flaw.OTHER, f"the reason is {outcome.reason}, not {expectation.reasons}: {outcome.error}"))
    return problems


def succeeded_problems(outcome: Outcome) -> list[Problem]:
    """The next clean run must succeed."""
    if outcome.result is not None and not outcome.orphans:
        return []
    return [(Flaw.OTHER, f"the next run failed: {outcome.error}{outcome.errors[-800:]} {outcome.orphans}")]


def content_problems(path: Path, allowed: Sequence[Content], what: str, flaw: Flaw = Flaw.LOST) -> list[Problem]:
    """The file is a whole database with one of the contents."""
    try:
        found = read_rows(path)
    except (DamagedError, FileNotFoundError) as error:
        return [(flaw, f"{what} is damaged: {error}")]
    if any(content.is_that_of(found) for content in allowed):
        return []
    return [(flaw, f"{what} has {len(found)} rows, not the content of any of {allowed}")]


def staged_names(folder: Path) -> list[str]:
    """Names of files that are not published."""
    return sorted(name for name in os.listdir(folder) if name.startswith(".sqlite-"))


def published_names(folder: Path) -> list[str]:
    """Names of all other files."""
    return sorted(name for name in os.listdir(folder) if not name.startswith(".sqlite-"))


def kept_paths(data: Path) -> list[Path]:
    """Databases that a restore kept."""
    return sorted(data.glob("app.db.*~"))


def unexpected_names(folder: Path, allowed: Sequence[str]) -> list[Problem]:
    """Files which nobody has asked for; the live database's own are expected in any folder."""
    own = [f"app.db{suffix}" for suffix in ("", "-wal", "-shm", "-journal")]
    return [(Flaw.STRAY, name) for name in published_names(folder) if name not in (*allowed, *own)]


def attributes_of(path: Path) -> tuple[int, int, int]:
    """Owner, group and mode."""
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@contextlib.contextmanager
def prepared(
    settings: Settings,
    templates: Templates,
    scenario: Scenario,
    mounted: Mount = contextlib.nullcontext,
    origin_mounted: Mount = contextlib.nullcontext,
) -> Iterator[Stage]:
    """The scenario in fresh folders, which are removed at the end.

    The folder that it writes to is ``mounted``, that which it reads from ``origin_mounted``.
    """
    folder = settings.scratch / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    data, copies = folder / "data", folder / "copies"
    data.mkdir(parents=True)
    copies.mkdir()
    origin, target = (data, copies) if isinstance(scenario, Snapshot) else (copies, data)
    try:
        with (
            mounted(target),
            origin_mounted(origin),
            scenario.staged(settings, templates, data, copies) as stage,
        ):
            yield stage
    finally:
        shutil.rmtree(folder)


def run_trial(
    stage: Stage,
    scenario: Scenario,
    expect: Callable[[Outcome], Expectation],
    strike: Strike | None = None,
    during_stop: Callable[[], None] | None = None,
) -> Verdict:
    """Disturb the operation of a prepared scenario, and judge."""
    outcome = execute(stage.settings, stage.request, strike, during_stop)
    if stage.repair is not None:
        stage.repair()
    problems = scenario.judge(stage, outcome, expect(outcome))
    return Verdict(ending_of(outcome), bool(outcome.calls), tuple(problems), outcome.error or "")


def ending_of(outcome: Outcome) -> str:
    """How an operation ended, in one word."""
    if outcome.result is not None:
        return "succeeded"
    return "failed" if outcome.error is not None else "killed"
