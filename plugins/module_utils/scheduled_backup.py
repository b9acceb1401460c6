# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tell whoever watches how a scheduled backup went: a record on the host, metrics for Prometheus, pings."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable, Mapping, Sequence

from .backup_record import read_record, record_path
from .collection import VERSION
from .durable_files import make_private_folder, replace_file
from .manifest import TIME_FORMAT
from .operations_settings import Settings
from .recovery_point import FolderEntry, RecoveryPoint, RecoveryPointError, examine_recovery_points, project_root

PING_TIMEOUT = 10.0
"""Seconds for each of the pings, which hold up no backup for longer."""

_CUT_OFF = "it is still at work, or was cut off"

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Attempts:
    """Reports the attempts to back up one deployment, to the places that its settings name.

    What cannot be reported is told to ``warn``, and keeps no backup from being made.
    """

    settings: Settings
    project: str
    warn: Warn

    def report(self, make: Callable[[], RecoveryPoint]) -> RecoveryPoint:
        """Make the backup, and report beforehand that it begins and afterwards how it went; raises what ``make`` does.

        The record says from the beginning on that it failed, so that one which was killed is no success.
        """
        began, moment = time.monotonic(), datetime.now(timezone.utc).strftime(TIME_FORMAT)
        last = read_record(self.project) or {}
        record = {
            "last_attempt": moment,
            "last_success": last.get("last_success"),
            "outcome": "failure",
            "error": _CUT_OFF,
            "duration_seconds": None,
            "recovery_point": last.get("recovery_point"),
            "size": last.get("size"),
        }
        self._write_record(record)
        self._ping("start")
        try:
            point = make()
        except BaseException as error:
            record["error"] = str(error) if isinstance(error, Exception) else "it was ended by a signal"
            self._end(record, began, "failure")
            raise
        record.update(
            last_success=datetime.now(timezone.utc).strftime(TIME_FORMAT),
            outcome="success",
            error=None,
            recovery_point=point.manifest["id"],
            size=point.manifest["database"]["size"],
        )
        self._end(record, began, "success")
        return point

    def _end(self, record: dict[str, Any], began: float, event: str) -> None:
        record["duration_seconds"] = round(time.monotonic() - began, 3)
        self._write_record(record)
        self._write_metrics(record)
        self._ping(event)

    def _write_record(self, record: Mapping[str, Any]) -> None:
        path = record_path(self.project)
        try:
            make_private_folder(os.path.dirname(path))
            replace_file(path, json.dumps(record, indent=2).encode() + b"\n")
        except OSError as error:
            self.warn(f"{path} could not be written: {error.strerror}")

    def _write_metrics(self, record: Mapping[str, Any]) -> None:
        path = self.settings.metrics_file
        if path is None:
            return
        try:
            root = self.settings.root
            entries = examine_recovery_points(root, self.project)
            state = os.statvfs(_existing(project_root(root, self.project)))
            text = format_metrics(self.project, record, entries, state.f_bavail * state.f_frsize, time.time())
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            replace_file(path, text.encode(), mode=0o644)
        except (OSError, RecoveryPointError) as error:
            self.warn(f"the metrics in {path} could not be written: {error}")

    def _ping(self, event: str) -> None:
        address = self.settings.ping.get(event)
        if address is None:
            return
        request = urllib.request.Request(address, headers={"User-Agent": f"opstage-ops/{VERSION}"})
        try:
            with urllib.request.build_opener().open(request, timeout=PING_TIMEOUT):
                pass
        except (OSError, ValueError) as error:
            # The address is a secret, and some errors repeat it.
            problem = f"status {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
            host = urllib.parse.urlsplit(address).hostname
            self.warn(f"the ping for {event} did not reach {host}: {problem}")


def _existing(path: str) -> str:
    """The path, or the nearest folder above it that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def format_metrics(
    project: str, record: Mapping[str, Any], entries: Sequence[FolderEntry], free: int, now: float
) -> str:
    """The text that Prometheus' node exporter reads (text-file collector), gauges all of them.

    ``free`` is in bytes, ``now`` in seconds since the epoch. A value that is not known is left out.
    """
    verified = [entry.point.manifest for entry in entries if entry.point is not None and entry.point.is_verified]
    newest = max((_seconds(manifest["created"]) for manifest in verified), default=None)
    last_success = record["last_success"]
    gauges: list[tuple[str, str, float | None]] = [
        ("backup_last_attempt_timestamp_seconds", "When the last backup began.", _seconds(record["last_attempt"])),
        (
            "backup_last_success_timestamp_seconds",
            "When the last successful backup ended.",
            None if last_success is None else _seconds(last_success),
        ),
        ("backup_last_attempt_success", "Whether the last backup succeeded.", float(record["outcome"] == "success")),
        ("backup_duration_seconds", "How long the last backup took.", record["duration_seconds"]),
        ("backup_database_bytes", "Size of the database in the last successful backup.", record["size"]),
        ("recovery_points", "Whole recovery points.", sum(entry.point is not None for entry in entries)),
        ("recovery_points_verified", "Those whose database was checked.", len(verified)),
        (
            "recovery_point_age_seconds",
            "Age of the newest of those when this was written.",
            None if newest is None else now - newest,
        ),
        ("backup_free_bytes", "Room for further recovery points.", free),
    ]
    lines = []
    for name, meaning, value in gauges:
        if value is not None:
            lines += [
                f"# HELP opstage_{name} {meaning}",
                f"# TYPE opstage_{name} gauge",
                f'opstage_{name}{{project="{project}"}} {value:.15g}',
            ]
    return "\n".join(lines) + "\n"


def _seconds(text: str) -> float:
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=timezone.utc).timestamp()
