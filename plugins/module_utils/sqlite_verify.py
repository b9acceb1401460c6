# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prove that one file is a whole SQLite database, without writing anything beside it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from typing import Iterator

from .sqlite_files import (
    DatabaseFileError,
    Deadline,
    Reason,
    database_uri,
    errors_raised_as,
    logs_with_content,
    opened_plain_file,
    require_unmoved,
    sha256_of,
)

MAGIC = b"SQLite format 3\x00"
HEADER_BYTES = 100
VERIFY_LEVELS = ("full", "quick", "none")

_REPORTED_PROBLEMS = 5
_STEPS_BETWEEN_CHECKS = 100_000


class VerificationError(DatabaseFileError):
    """A file is not a whole, self-contained database."""


@dataclass(frozen=True)
class DatabaseFacts:
    """What was found in a database file.

    ``integrity`` is ``ok``, or ``not checked`` at level ``none``. ``foreign_key_violations`` counts rows
    whose parent is missing: the application's own data, faithfully copied, hence no error; None where
    it was not or, for a mistake in the schema, could not be counted.
    """

    size: int
    sha256: str
    page_size: int
    page_count: int
    user_version: int
    application_id: int
    integrity: str
    tables: int
    foreign_key_violations: int | None


@dataclass(frozen=True)
class Header:
    """Fields of a database's first 100 bytes (https://sqlite.org/fileformat2.html#the_database_header).

    ``page_count`` is None where the header's own count is not valid.
    """

    page_size: int
    page_count: int | None
    write_ahead_log: bool


def read_header(descriptor: int, path: str) -> Header:
    """Read the header of an open file. Raises DatabaseFileError when it is not that of a database."""
    header = os.pread(descriptor, HEADER_BYTES, 0)
    if not header:
        raise DatabaseFileError(Reason.NOT_A_DATABASE, f"{path} is empty (0 bytes); an SQLite database is expected")
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise DatabaseFileError(
            Reason.NOT_A_DATABASE,
            f"{path} is not an SQLite database: it begins with {header[:16]!r}, expected is {MAGIC!r}",
        )
    stored = int.from_bytes(header[16:18], "big")
    page_size = 65536 if stored == 1 else stored
    if page_size < 512 or page_size & (page_size - 1):
        raise DatabaseFileError(
            Reason.DAMAGED_SOURCE,
            f"{path} claims a page size of {page_size}; a power of two from 512 to 65536 is expected",
        )
    counted = header[24:28] == header[92:96]
    page_count = int.from_bytes(header[28:32], "big")
    return Header(page_size, page_count if counted and page_count else None, header[18] == 2)


def verify_database(path: str, level: str, deadline: Deadline | None = None) -> DatabaseFacts:
    """Check the self-contained database file at ``path`` and take its facts.

    ``level`` is ``full`` (integrity_check), ``quick`` (quick_check) or ``none`` (header and size only). The file
    must not be written meanwhile. Raises VerificationError, also when a log that belongs to it lies beside it.
    """
    deadline = deadline or Deadline(None)
    with errors_raised_as(VerificationError, f"verifying {path}"), opened_plain_file(path) as descriptor:
        logs = logs_with_content(path)
        if logs:
            raise DatabaseFileError(
                Reason.REFUSED,
                f"{', '.join(logs)} holds changes that are not in the file itself; "
                "make one self-contained file of them with sqlite_backup",
            )
        before = os.fstat(descriptor)
        facts = _facts(descriptor, path, level, deadline)
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DatabaseFileError(Reason.REFUSED, "it was written to meanwhile; verify a copy that nobody writes to")
        return facts


def _facts(descriptor: int, path: str, level: str, deadline: Deadline) -> DatabaseFacts:
    header = read_header(descriptor, path)
    size = os.fstat(descriptor).st_size
    page_count = header.page_count or size // header.page_size
    if size != header.page_size * page_count:
        raise DatabaseFileError(
            Reason.DAMAGED_SOURCE,
            f"its size is {size} bytes, its header says {page_count} pages of {header.page_size} bytes "
            f"({header.page_size * page_count} bytes)",
        )
    with contextlib.closing(_connect(path, deadline)) as connection, _interruptions_as_timeout(deadline):
        if level != "none":
            _check_integrity(connection, level)
        facts = DatabaseFacts(
            size=size,
            sha256=sha256_of(descriptor, deadline),
            page_size=header.page_size,
            page_count=page_count,
            user_version=_value(connection, "PRAGMA user_version"),
            application_id=_value(connection, "PRAGMA application_id"),
            integrity="not checked" if level == "none" else "ok",
            tables=count_tables(connection),
            foreign_key_violations=None if level == "none" else _count_foreign_key_violations(connection),
        )
        require_unmoved(path, descriptor)
    return facts


def _connect(path: str, deadline: Deadline) -> sqlite3.Connection:
    """Open without locks, sidecars or any write (immutable); nothing in the schema is trusted."""
    connection = sqlite3.connect(database_uri(path, mode="ro", immutable="1"), uri=True, isolation_level=None)
    connection.text_factory = _decode
    connection.set_progress_handler(lambda: int(deadline.expired()), _STEPS_BETWEEN_CHECKS)
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    return connection


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")


@contextlib.contextmanager
def _interruptions_as_timeout(deadline: Deadline) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            deadline.check()
        raise


def _value(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def count_tables(connection: sqlite3.Connection) -> int:
    """How many tables the schema has, virtual ones included."""
    return _value(connection, "SELECT count(*) FROM sqlite_master WHERE type = 'table'")


def _check_integrity(connection: sqlite3.Connection, level: str) -> None:
    check = "integrity_check" if level == "full" else "quick_check"
    problems: list[str] = [row[0] for row in connection.execute(f"PRAGMA {check}")]
    if problems != ["ok"]:
        more = f" and {len(problems) - _REPORTED_PROBLEMS} more" if len(problems) > _REPORTED_PROBLEMS else ""
        raise DatabaseFileError(
            Reason.DAMAGED_SOURCE,
            f"PRAGMA {check} expects ok and found: {'; '.join(problems[:_REPORTED_PROBLEMS])}{more}",
        )


def _count_foreign_key_violations(connection: sqlite3.Connection) -> int | None:
    try:
        return sum(1 for _row in connection.execute("PRAGMA foreign_key_check"))
    except sqlite3.OperationalError as error:
        if "foreign key mismatch" in str(error) or "no such module" in str(error):
            return None
        raise
