# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command ``opstage-ops``: the core without Ansible, for people, scripts and timers."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
from dataclasses import asdict
from types import FrameType
from typing import Callable, Iterator, Sequence

from .collection import VERSION
from .command_outcome import (
    PROGRAM,
    CommandError,
    CommandParser,
    ExitCode,
    Outcome,
    ShowText,
    TextRequest,
    UsageError,
    seconds,
    success,
)
from .deployment_commands import describe_commands
from .file_attributes import gid_of, permissions_of, uid_of
from .progress_display import ProgressBar, ProgressLog, format_bytes
from .sqlite_files import VERIFY_LEVELS, DatabaseFileError, Progress, Reason, explain_os_error
from .sqlite_holders import describe_holders, find_holders
from .sqlite_restore import restore_database
from .sqlite_snapshot import create_snapshot

GRACE_SECONDS = 1.0

_DESCRIPTION = (
    "Recovery points of the Opstage on this host, and consistent, verified copies of any live SQLite database."
)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


ENDING_SIGNALS = {
    signal.SIGHUP: ExitCode.HUNG_UP,
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
}


class EndedBySignal(BaseException):
    """Somebody wants the command to end; like KeyboardInterrupt, no error."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Signals that end the command, raised as EndedBySignal in its main thread so that it cleans up on its way out.

    The core reports its progress again and again, and can be left there; only where it has not for GRACE_SECONDS,
    the exception strikes wherever it is. After that, no signal disturbs the cleaning up. One that is ignored, as
    SIGHUP is under nohup, stays so.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._process = os.getpid()

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Within this context."""
        handlers = {number: self._note for number in ENDING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._strike)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise EndedBySignal when there was a signal."""
        if self.number is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise EndedBySignal(self.number)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            os._exit(128 + number)
        if self.number is None:
            self.number = signal.Signals(number)
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    def _strike(self, _number: int, _frame: FrameType | None) -> None:
        self.check()


def main(arguments: Sequence[str], stdout: int = 1, stderr: int = 2) -> int:
    """Run the command with its ``arguments`` on two descriptors; returns its exit code, see ExitCode."""
    _occupy_standard_descriptors()
    signals = Signals()
    try:
        with signals.raised():
            return _told(_outcome(arguments, signals, stderr), _wants_json(arguments), stdout, stderr)
    except EndedBySignal as end:
        return ENDING_SIGNALS[end.number]


def _outcome(arguments: Sequence[str], signals: Signals, stderr: int) -> Outcome:
    """Do what the arguments ask for."""
    try:
        return _run(_parser().parse_args(arguments), signals, stderr)
    except TextRequest as request:
        return Outcome(ExitCode.DONE, {"text": str(request)}, lines=str(request).splitlines())
    except UsageError as error:
        return _failure(ExitCode.BAD_USAGE, str(error), error.usage.splitlines())
    except CommandError as error:
        return _failure(error.code, str(error))
    except EndedBySignal as end:
        return _ended(end.number)
    except (DatabaseFileError, OSError) as error:
        if signals.number is not None:
            return _ended(signals.number)
        reason, text = explain_os_error(error) if isinstance(error, OSError) else (error.reason, str(error))
        return _failure(ExitCode[reason.name], text)


def _run(options: argparse.Namespace, signals: Signals, stderr: int) -> Outcome:
    """Run the subcommand, showing its progress."""
    signals.check()
    display = None
    if options.progress:
        display = ProgressBar(stderr) if os.isatty(stderr) else ProgressLog(stderr)

    def report(progress: Progress) -> None:
        signals.check()
        if display is not None:
            display(progress)

    run: Callable[[argparse.Namespace, Callable[[Progress], None]], Outcome] = options.run
    try:
        return run(options, report)
    finally:
        if display is not None:
            display.close()


def _snapshot(options: argparse.Namespace, report: Callable[[Progress], None]) -> Outcome:
    snapshot = create_snapshot(
        options.source,
        options.dest,
        overwrite=options.overwrite,
        verify=options.verify,
        timeout=options.timeout,
        mode=options.mode,
        progress=report,
    )
    warnings = []
    if snapshot.foreign_key_violations:
        warnings.append(
            f"{options.source} has {snapshot.foreign_key_violations} rows with foreign keys whose parent is missing; "
            "they were copied as they are"
        )
    lines = (
        f"{snapshot.dest}: {format_bytes(snapshot.size)} in {snapshot.elapsed:.1f} s",
        f"integrity: {snapshot.integrity}, method: {snapshot.method}, sha256: {snapshot.sha256}",
    )
    return success(asdict(snapshot), lines, warnings)


def _restore(options: argparse.Namespace, report: Callable[[Progress], None]) -> Outcome:
    restoration = restore_database(
        options.source,
        options.dest,
        expected_sha256=options.sha256,
        keep_previous=options.backup,
        uid=uid_of(options.owner),
        gid=gid_of(options.group),
        mode=options.mode,
        check=options.check,
        timeout=options.timeout,
        progress=report,
    )
    holders = find_holders(restoration.dest) if options.check and restoration.changed else []
    warnings = []
    if holders:
        warnings.append(f"without --check this would be refused as long as {describe_holders(holders)}")
    done = "would be restored" if options.check else "restored"
    lines = [f"{restoration.dest}: {done if restoration.changed else 'no change, it is the same already'}"]
    if restoration.backup_file is not None:
        lines.append(f"what was there: {restoration.backup_file}")
    lines.append(f"{format_bytes(restoration.size)}, sha256: {restoration.sha256}")
    return success(asdict(restoration), lines, warnings)


def _failure(code: ExitCode, message: str, usage: Sequence[str] = ()) -> Outcome:
    """An error; ``reason`` is that of the modules, or the code's own name."""
    reason = Reason[code.name].value if code.name in Reason.__members__ else code.name.lower().replace("_", " ")
    return Outcome(code, {"error": message, "reason": reason}, complaints=[*usage, f"{PROGRAM}: error: {message}"])


def _ended(number: signal.Signals) -> Outcome:
    return _failure(ENDING_SIGNALS[number], f"ended by {number.name} before it was done")


def _parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code:3}  {code.meaning}" for code in ExitCode)
    epilog = f"exit codes:\n{codes}"
    parser = CommandParser(prog=PROGRAM, description=_DESCRIPTION, epilog=epilog)
    parser.add_argument("--version", action=ShowText, text=lambda: f"{PROGRAM} {VERSION}\n", help="show it and end")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    _describe_snapshot(commands.add_parser("snapshot", help="copy a live database", epilog=epilog))
    _describe_restore(commands.add_parser("restore", help="put a copy in the place of a database", epilog=epilog))
    describe_commands(commands, epilog)
    return parser


def _describe_snapshot(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Copy the live database SRC to the file DEST, or into the folder DEST, as one self-contained file that is\n"
        "verified and synced before it gets its name. Writers in WAL mode are not made to wait."
    )
    parser.set_defaults(run=_snapshot)
    parser.add_argument("source", metavar="SRC", help="the live database; links are not followed")
    parser.add_argument("dest", metavar="DEST", help="the file to create; in a folder it gets a name with the time")
    parser.add_argument("--overwrite", action="store_true", help="replace DEST if it exists and nobody has it open")
    parser.add_argument(
        "--verify", choices=VERIFY_LEVELS, default="full", help="the copy's check before it gets its name (full)"
    )
    parser.add_argument(
        "--mode", type=_permissions, default=0o600, metavar="OCTAL", help="permissions of the copy (0600)"
    )
    _add_common_options(parser)


def _describe_restore(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Put a copy of the database file SRC in the place of the database DEST, which no process may have open.\n"
        "Killed at any moment, it leaves the old database or the new one."
    )
    parser.set_defaults(run=_restore)
    parser.add_argument("source", metavar="SRC", help="the copy to restore, one self-contained file")
    parser.add_argument("dest", metavar="DEST", help="the database to replace, or to create")
    parser.add_argument("--sha256", type=_sha256, metavar="HEX", help="the SHA-256 that SRC must have")
    parser.add_argument("--backup", action="store_true", help="keep what was there under a name with the time")
    parser.add_argument("--owner", metavar="NAME|UID", help="owner (that of what was there, or of the folder)")
    parser.add_argument("--group", metavar="NAME|GID", help="group (that of what was there, or of the folder)")
    parser.add_argument(
        "--mode", type=_permissions, metavar="OCTAL", help="permissions (those of what was there, or 0600)"
    )
    parser.add_argument("--check", action="store_true", help="change nothing and say what would happen")
    _add_common_options(parser)


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="give up after so long; a lock is waited for no longer than for nine tenths of it",
    )
    parser.add_argument("--json", action="store_true", help="write one JSON object, also when it fails")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress")


def _permissions(text: str) -> int:
    permissions = permissions_of(text)
    if permissions is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no octal number such as 0600")
    return permissions


def _sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 64 hexadecimal digits")
    return text


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether ``--json`` is among them; needed also where they cannot be parsed. Names may follow ``--``."""
    before_names = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in before_names


def _occupy_standard_descriptors() -> None:
    """Open those of 0, 1 and 2 that were closed: a database opened there would be written to as an output."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def _told(outcome: Outcome, as_json: bool, stdout: int, stderr: int) -> int:
    """Write the outcome; returns the exit code. A reader who has gone does not matter, a full disk does."""
    if not as_json:
        _write_or_give_up(stderr, _printable_lines(outcome.complaints))
    try:
        _write(stdout, json.dumps(outcome.result) + "\n" if as_json else _printable_lines(outcome.lines))
    except BrokenPipeError:
        return outcome.code
    except OSError as error:
        _write_or_give_up(stderr, f"{PROGRAM}: error: cannot write to standard output: {error}\n")
        return outcome.code or ExitCode.SYSTEM
    return outcome.code


def _write_or_give_up(descriptor: int, text: str) -> None:
    """For what has no other place to complain to."""
    with contextlib.suppress(OSError):
        _write(descriptor, text)


def _write(descriptor: int, text: str) -> None:
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        data = text.encode(sys.getfilesystemencoding(), "backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]


def _printable_lines(lines: Sequence[str]) -> str:
    """Lines that a terminal only shows: names of files and processes may hold anything."""
    return "".join(_UNPRINTABLE.sub(_escaped, line) + "\n" for line in lines)


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")
