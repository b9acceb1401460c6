# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The subcommands of ``opstage-ops`` that know the deployment: its recovery points, made, shown, proven and pruned."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import getpass
import os
import socket
import time
from datetime import datetime, timezone
from typing import Any, Callable, ContextManager, Iterator, Sequence

from .backup_record import read_record
from .command_outcome import CommandError, CommandParser, ExitCode, Outcome, seconds, success
from .compose_image import ComposeImageError
from .deployment import DiscoveryError
from .deployment_lock import DeploymentLockError, LockHeldError, find_holder, find_process, release_lock, take_lock
from .deployment_status import describe_status
from .docker_command import DockerError
from .durable_files import PrivateFolderError
from .host_backup import PruningError, UnfinishedOperationError, back_up, find_deployment
from .host_rollback import HostRollback, NothingToUndoError, undo_upgrade
from .journal import JournalError, find_unfinished, journal_path, read_entries, state_folder
from .operations_settings import DEFAULT_ROOT, SETTINGS_FOLDER, Settings, SettingsError, find_settings
from .opstage_session import OpstageSessionError
from .progress_display import format_bytes
from .readiness import NotReadyError
from .recovery_point import (
    FolderEntry,
    RecoveryPoint,
    RecoveryPointError,
    examine_recovery_points,
    find_newest,
    find_recovery_point,
)
from .recovery_point_away import SendingError, send_and_prune
from .recovery_point_verification import verify_recovery_point
from .restic import ResticError, ResticRepository
from .retention import Retention, apply_retention, described
from .retention_policy import Decision, RetentionError, parse_duration, parse_policy
from .scheduled_backup import Attempts
from .sqlite_files import ProgressReport
from .upgrade_rollback import RollbackError

SECONDS_BETWEEN_LOOKS = 1.0
PERIODS = {"hourly": "hours", "daily": "days", "weekly": "weeks", "monthly": "months", "yearly": "years"}
RULES = ("last", *PERIODS, "within")


CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (LockHeldError, ExitCode.BUSY),
    (UnfinishedOperationError, ExitCode.UNFINISHED),
    (DiscoveryError, ExitCode.NO_DEPLOYMENT),
    (DockerError, ExitCode.NO_DEPLOYMENT),
    (SettingsError, ExitCode.BAD_USAGE),
    (NothingToUndoError, ExitCode.RECOVERY_POINT),
    (RecoveryPointError, ExitCode.RECOVERY_POINT),
    (RetentionError, ExitCode.RECOVERY_POINT),
    (PruningError, ExitCode.RECOVERY_POINT),
    (OpstageSessionError, ExitCode.RECOVERY_POINT),
    (PrivateFolderError, ExitCode.REFUSED),
    (SendingError, ExitCode.SYSTEM),
    (DeploymentLockError, ExitCode.SYSTEM),
    (JournalError, ExitCode.SYSTEM),
    (RollbackError, ExitCode.ROLLBACK),
    (ComposeImageError, ExitCode.ROLLBACK),
    (NotReadyError, ExitCode.ROLLBACK),
)


@contextlib.contextmanager
def _codes() -> Iterator[None]:
    """Give the errors of the core the exit codes of the command."""
    try:
        yield
    except Exception as error:
        for kind, code in CODES:
            if isinstance(error, kind):
                raise CommandError(code, str(error)) from error
        raise


def describe_commands(commands: Any, epilog: str) -> None:
    """Add the subcommands to those of the parser."""
    backup = _add(commands, "backup", _backup, epilog, "make a recovery point", _BACKUP)
    backup.add_argument(
        "--scheduled",
        action="store_true",
        help="made by the timer: recorded, measured and announced as the settings say",
    )
    backup.add_argument(
        "--wait", type=seconds, metavar="SECONDS", help="for another operation on the deployment to end (not at all)"
    )
    _add(commands, "list", _list, epilog, "list the recovery points", _LIST)
    verify = _add(commands, "verify", _verify, epilog, "prove recovery points", _VERIFY)
    verify.add_argument("point", metavar="POINT", nargs="?", default="latest", help="an id, a path, or latest (latest)")
    verify.add_argument("--all", action="store_true", help="all recovery points")
    prune = _add(commands, "prune", _prune, epilog, "remove recovery points", _PRUNE)
    prune.add_argument("--last", type=int, metavar="NUMBER", help="keep so many of the newest")
    for rule, periods in PERIODS.items():
        prune.add_argument(
            f"--{rule}", type=int, metavar="NUMBER", help=f"keep the newest of each of so many {periods}"
        )
    prune.add_argument("--within", metavar="TIME", help="keep all that are no older than this, such as 14d")
    prune.add_argument("--check", action="store_true", help="change nothing and say what would happen")
    rollback = _add(commands, "rollback", _rollback, epilog, "undo the last upgrade", _ROLLBACK)
    rollback.add_argument("--unless-confirmed", metavar="RUN", help="only this upgrade, unless it was confirmed")
    rollback.add_argument("--service", metavar="NAME", help="the service in the project")
    rollback.add_argument("--url", metavar="ADDRESS", help="where this host reaches it")
    rollback.add_argument("--ca-file", metavar="FILE", help="the CAs that alone are trusted there (those of the host)")
    rollback.add_argument(
        "--health-timeout",
        type=seconds,
        default=120.0,
        metavar="SECONDS",
        help="within which the older version must be healthy (120)",
    )
    status = _add(commands, "status", _status, epilog, "say how it is", _STATUS)
    status.add_argument("--max-age", metavar="TIME", help="fail where the newest recovery point is older, such as 26h")


_BACKUP = (
    "Make a recovery point of the running Opstage on this host, verified before it gets its name, then remove those\n"
    "that the retention in the settings does not keep, and send it to the restic repository in the settings. Writers\n"
    "are not made to wait."
)
_LIST = "List the recovery points, the newest last, and what else lies in their folder."
_VERIFY = "Read recovery points from the disk, compare their checksums, and check their databases."
_PRUNE = (
    "Remove the recovery points that no rule keeps; the rules are those of restic forget. Without any, those in the\n"
    "settings. The newest verified one always stays, as does what a rollback of the last upgrade needs."
)
_ROLLBACK = (
    "Undo the last upgrade of Opstage on this host: database, image and version. What was written since is kept in a\n"
    "recovery point first. An operation that was cut off is brought to its end before."
)
_STATUS = "Say how Opstage is, how old its newest recovery point is, and what needs a person."


def _add(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace, ProgressReport], Outcome],
    epilog: str,
    summary: str,
    description: str,
) -> CommandParser:
    """One subcommand with the options that all of these have."""

    def run_with_codes(options: argparse.Namespace, report: ProgressReport) -> Outcome:
        with _codes():
            return run(options, report)

    parser: CommandParser = commands.add_parser(name, help=summary, epilog=epilog)
    parser.description = description
    parser.set_defaults(run=run_with_codes)
    parser.add_argument(
        "--project", metavar="NAME", help=f"the Compose project; its settings are {SETTINGS_FOLDER}/NAME.json"
    )
    parser.add_argument("--project-dir", metavar="FOLDER", help="its folder, where the host has several")
    parser.add_argument("--root", metavar="FOLDER", help=f"where all recovery points lie ({DEFAULT_ROOT})")
    parser.add_argument("--json", action="store_true", help="write one JSON object, also when it fails")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    """The settings of the project, as far as the command line does not say otherwise."""
    settings = find_settings(options.project)
    given = {"project_dir": options.project_dir, "root": options.root}
    return dataclasses.replace(
        settings, **{name: os.path.abspath(path) for name, path in given.items() if path is not None}
    )


def _project(settings: Settings) -> str:
    """The project's name: Docker is asked only where nobody has named it."""
    return settings.project if settings.project is not None else find_deployment(settings).project


def _backup(options: argparse.Namespace, report: ProgressReport) -> Outcome:
    settings = _settings(options)
    warnings: list[str] = []
    pruned: list[Decision] = []
    sent: list[str] = []

    def hold(project: str) -> ContextManager[object]:
        return _locked(project, "backup", options.wait or 0.0)

    def make() -> RecoveryPoint:
        reason = "scheduled" if options.scheduled else "manual"
        backup = back_up(settings, reason, hold, warnings.append, report)
        pruned.extend(backup.retention.removed if backup.retention is not None else [])
        # Without the lock: a slow line keeps nobody from the deployment.
        sent.extend(_sent(settings, backup.point))
        return backup.point

    if options.scheduled:
        project = _project(settings)
        point = Attempts(settings, project, warnings.append).report(make)
    else:
        point = make()
    database = point.manifest["database"]
    lines = [
        f"{point.path}: {format_bytes(database['size'])} in {point.manifest['duration_seconds']:.1f} s",
        *(f"removed: {decision.id}" for decision in pruned),
        *(f"sent to the restic repository: {snapshot}" for snapshot in sent),
    ]
    result = {
        **_described(point),
        "path": point.path,
        "removed": [decision.id for decision in pruned],
        "snapshot": sent[0] if sent else None,
    }
    return success(result, lines, warnings)


def _sent(settings: Settings, point: RecoveryPoint) -> list[str]:
    """The snapshot as which the recovery point lies in the repository of the settings now. Raises SendingError."""
    wanted = settings.repository
    if wanted is None:
        return []
    try:
        repository = ResticRepository(wanted.address, wanted.password, wanted.environment)
    except ResticError as error:
        raise SendingError(
            f"The recovery point {point.path} was not sent: {error} It is whole on this host."
        ) from error
    return [send_and_prune(point, repository, wanted.initialize, wanted.policy).snapshot]


@contextlib.contextmanager
def _locked(project: str, operation: str, patience: float = 0.0, gone: str | None = None) -> Iterator[str]:
    """Hold the lock of the deployment, which need not be there any more; gives the token.

    Raises LockHeldError when somebody else still holds it after so many seconds. gone: see deployment_lock.take_lock.
    """
    folder, deadline = state_folder(project), time.monotonic() + patience
    token = _take_lock(folder, operation, deadline, gone)
    try:
        yield token
    finally:
        release_lock(folder, token)


def _take_lock(folder: str, operation: str, deadline: float, gone: str | None) -> str:
    while True:
        try:
            user, host = getpass.getuser(), socket.gethostname()
            return take_lock(folder, operation, user, host, find_process(os.getpid()), gone)[0].token
        except LockHeldError:
            if time.monotonic() > deadline:
                raise
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _rollback(options: argparse.Namespace, report: ProgressReport) -> Outcome:
    found = _settings(options)
    settings = dataclasses.replace(
        found,
        service=options.service or found.service,
        url=options.url or found.url,
        ca_file=options.ca_file or found.ca_file,
    )
    # Where its own controller is gone, the upgrade that is to be undone holds the lock.
    with _locked(_project(settings), "rollback", gone=options.unless_confirmed) as token:
        undone = undo_upgrade(
            HostRollback(
                lambda: find_deployment(settings),
                settings.root,
                token,
                options.health_timeout,
                options.unless_confirmed,
                report,
            )
        )
    kept = undone.rolled_back.kept if undone.rolled_back is not None else None
    lines = [f"Opstage {undone.version} serves again"]
    if kept is not None and kept.path is not None:
        lines.append(f"dropped, and kept in {kept.path}: {kept.dropped}")
    result = {
        "version": undone.version,
        "kept": kept and kept.path,
        "dropped": kept and kept.dropped,
    }
    return success(result, lines)


def _list(options: argparse.Namespace, _report: ProgressReport) -> Outcome:
    settings = _settings(options)
    entries = examine_recovery_points(settings.root, _project(settings))
    others = [entry for entry in entries if entry.point is None]
    points = [entry for entry in entries if entry.point is not None]
    rows = [("ID", "VERSION", "SIZE", "TOOK", "METHOD", "VERIFIED", "ENCRYPTED"), *map(_row, points)]
    result = {
        "recovery_points": [_described(entry.point) for entry in points if entry.point is not None],
        "others": [{"path": entry.path, "state": entry.state, "reason": entry.reason} for entry in others],
    }
    return success(result, _table(rows) if points else ["no recovery points"], [entry.reason for entry in others])


def _row(entry: FolderEntry) -> tuple[str, ...]:
    manifest: dict[str, Any] = entry.point.manifest if entry.point is not None else {}
    return (
        manifest["id"],
        manifest["opstage"]["version"] or "?",
        format_bytes(manifest["database"]["size"]),
        f"{manifest['duration_seconds']:.1f} s",
        manifest["method"],
        "yes" if entry.point is not None and entry.point.is_verified else "no",
        "no" if manifest.get("encryption") is None else "yes",
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the columns of the rows below each other."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _described(point: RecoveryPoint) -> dict[str, Any]:
    """What a program wants to know of a recovery point."""
    manifest = point.manifest
    return {
        **{name: manifest[name] for name in ("id", "created", "reason", "method", "duration_seconds")},
        "version": manifest["opstage"]["version"],
        "size": manifest["database"]["size"],
        "sha256": point.sha256,
        "verified": point.is_verified,
        "encrypted": point.is_encrypted,
    }


def _verify(options: argparse.Namespace, report: ProgressReport) -> Outcome:
    settings = _settings(options)
    if options.all:
        entries = examine_recovery_points(settings.root, _project(settings))
        points = [entry.point for entry in entries if entry.point is not None]
        problems = [entry.reason for entry in entries if entry.state == "damaged"]
    else:
        project = "" if os.path.isabs(options.point) else _project(settings)
        points, problems = [find_recovery_point(settings.root, project, options.point)], []
    sound = []
    for point in points:
        try:
            verify_recovery_point(point, report)
            sound.append(point)
        except RecoveryPointError as error:
            problems.append(str(error))
    if problems:
        raise RecoveryPointError(f"{len(problems)} damaged, {len(sound)} sound: {' '.join(problems)}")
    lines = [f"{point.manifest['id']}: sound, sha256: {point.sha256}" for point in sound]
    return success({"sound": [point.manifest["id"] for point in sound]}, lines or ["no recovery points"])


def _prune(options: argparse.Namespace, _report: ProgressReport) -> Outcome:
    settings = _settings(options)
    given = {rule: getattr(options, rule) for rule in RULES if getattr(options, rule) is not None}
    policy = parse_policy(given or settings.retention)
    project, now = _project(settings), datetime.now(timezone.utc)
    if options.check:
        retention = apply_retention(project, settings.root, policy, now, check_mode=True)
    else:
        with _locked(project, "prune"):
            retention = apply_retention(project, settings.root, policy, now)
    return success(_retained(retention), _retention_lines(retention, options.check), retention.warnings)


def _retained(retention: Retention) -> dict[str, Any]:
    return {"kept": described(retention.kept), "removed": described(retention.removed), "freed": retention.freed}


def _retention_lines(retention: Retention, check: bool) -> list[str]:
    removed = "would be removed" if check else "removed"
    lines = [
        f"{decision.id}: {'kept' if decision.keep else removed}: {', '.join(decision.reasons)}"
        for decision in retention.decisions
    ]
    return [*lines, f"{len(retention.removed)} {removed}, {format_bytes(retention.freed)}"]


def _status(options: argparse.Namespace, _report: ProgressReport) -> Outcome:
    settings = _settings(options)
    bound = parse_duration(options.max_age) if options.max_age is not None else None
    if options.max_age is not None and bound is None:
        raise SettingsError(f"--max-age is {options.max_age!r}, of no length; expected is such as 26h.")
    deployment, now = find_deployment(settings), datetime.now(timezone.utc)
    newest = find_newest(settings.root, deployment.project)
    unfinished = find_unfinished(read_entries(journal_path(deployment.project)))
    holder = find_holder(state_folder(deployment.project))
    summary = describe_status(deployment.as_dict(), newest, unfinished, holder, now)
    if bound is not None:
        _require_young(summary, newest, options.max_age, bound.before(now))
    result = {
        "deployment": deployment.as_dict(),
        "newest_recovery_point": None if newest is None else _described(newest),
        "unfinished_operation": unfinished and {name: unfinished[name] for name in ("operation", "time")},
        "lock": None if holder is None else dataclasses.asdict(holder),
        "last_scheduled_backup": read_record(deployment.project),
    }
    return success(result, [summary])


def _require_young(summary: str, newest: RecoveryPoint | None, max_age: str, oldest: datetime) -> None:
    """Raise RecoveryPointError unless the newest recovery point was made since ``oldest``."""
    if newest is None or newest.created < oldest:
        raise RecoveryPointError(f"{summary}. The newest recovery point is older than {max_age}, or there is none.")
