# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the subcommands of ``opstage-ops`` have in common: how they are described, and how they end."""

from __future__ import annotations

import argparse
import enum
import math
import signal
from dataclasses import dataclass
from typing import Any, Callable, NoReturn, Sequence

PROGRAM = "opstage-ops"


class ExitCode(enum.IntEnum):
    """How the command ends, and what that means; those with the name of a Reason stand for it."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> ExitCode:
        """One member: its number and what it means."""
        code = int.__new__(cls, number)
        code._value_ = number
        code.meaning = meaning
        return code

    DONE = 0, "done"
    BAD_USAGE = 2, "bad usage; nothing was begun"
    MISSING = 3, "the source, the destination's folder, or the user or group named does not exist"
    NOT_A_DATABASE = 4, "the source is not a database"
    LOCKED = 5, "somebody else's lock did not end in 30 s, or in most of --timeout; try again"
    IN_USE = 6, "the file to replace is in use by a process; stop that first"
    NO_SPACE = 7, "not enough space"
    DAMAGED_SOURCE = 8, "the source is damaged, or does not have the SHA-256 expected"
    DAMAGED_COPY = 9, "the copy was found damaged, while its source may be sound; nothing was published"
    TIMEOUT = 10, "not done within --timeout"
    REFUSED = 11, "refused for safety"
    EXISTS = 12, "the destination exists, and --overwrite was not given"
    SYSTEM = 13, "another error of the system"
    NO_DEPLOYMENT = 14, "no Opstage was found, or the Docker Engine does not answer"
    BUSY = 15, "another operation works on the deployment"
    UNFINISHED = 16, "an operation on the deployment was cut off; the next run of a playbook ends it"
    RECOVERY_POINT = 17, "a recovery point is missing, damaged, too old, or could not be made or removed"
    ROLLBACK = 18, "the rollback failed, and the message says what is left"
    HUNG_UP = 128 + signal.SIGHUP, "ended by SIGHUP"
    INTERRUPTED = 128 + signal.SIGINT, "ended by Ctrl-C (SIGINT)"
    TERMINATED = 128 + signal.SIGTERM, "ended by SIGTERM"


@dataclass(frozen=True)
class Outcome:
    """What the command has to say: one object for programs; for people, lines on standard output and error."""

    code: ExitCode
    result: dict[str, Any]
    lines: Sequence[str] = ()
    complaints: Sequence[str] = ()


class UsageError(Exception):
    """The arguments make no sense; ``usage`` says what would."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class TextRequest(BaseException):
    """The arguments ask for the help or the version, and for nothing else; like SystemExit, no error."""


class CommandError(Exception):
    """A subcommand cannot do what it was asked for."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class CommandParser(argparse.ArgumentParser):
    """Raises instead of writing and exiting, so that one place decides on form and exit code."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            add_help=False, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )
        self.add_argument("-h", "--help", action=ShowText, text=self.format_help, help="show this text and end")

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help", self.format_usage())


class ShowText(argparse.Action):
    """An option that asks for a text."""

    def __init__(self, text: Callable[[], str], **options: Any) -> None:
        super().__init__(nargs=0, **options)
        self._text = text

    def __call__(self, *_arguments: object) -> NoReturn:
        """Raise TextRequest."""
        raise TextRequest(self._text())


def success(result: dict[str, Any], lines: Sequence[str], warnings: Sequence[str] = ()) -> Outcome:
    """It was done, with these warnings."""
    complaints = [f"{PROGRAM}: warning: {warning}" for warning in warnings]
    return Outcome(ExitCode.DONE, {**result, "warnings": list(warnings)}, lines, complaints)


def seconds(text: str) -> float:
    """The value of an option that is a number of seconds."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return number
