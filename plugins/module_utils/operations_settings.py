# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What ``opstage-ops`` is told of a deployment: a file for each project on its host, which the role schedule writes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Mapping

from .retention_policy import Policy, RetentionError, parse_policy

SETTINGS_FOLDER = "/etc/opstage-ops"
DEFAULT_ROOT = "/var/backups/opstage"
PING_EVENTS = ("start", "success", "failure")

_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)


class SettingsError(Exception):
    """A file of settings is missing, cannot be read, or holds what is no setting."""


@dataclass(frozen=True)
class Repository:
    """A restic repository: address, password and environment as for restic.ResticRepository.

    initialize: make it where there is none. retention: the rules of retention.Policy, for what lies there.
    """

    address: str = field(repr=False)
    password: str = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    initialize: bool = False
    retention: Mapping[str, Any] = field(default_factory=dict)

    @property
    def policy(self) -> Policy | None:
        """What is to be kept there, None for everything."""
        return parse_policy(self.retention) if self.retention else None


@dataclass(frozen=True)
class Settings:
    """How one deployment is backed up on its host.

    project: name of the Compose project, which the file has for its name; None where the host's only Opstage is meant.
    project_dir, service, url, ca_file: as for deployment.discover_deployment. root: folder of all recovery points.
    retention: the rules of retention.Policy; all recovery points are kept where it is empty. prune_console_copies: also
    those that the console's endpoint left. recipients: public keys for which recovery points are encrypted.
    metrics_file: absolute path of the file for Prometheus, None for none. ping: addresses by the names in PING_EVENTS,
    each of which may be missing; whoever knows one can pretend, so they are secret. method: `online`, or `api` with an
    owner's username and password. restic: the fields of Repository, to which recovery points are sent; empty for none.
    """

    project: str | None = None
    project_dir: str | None = None
    service: str | None = None
    url: str | None = None
    ca_file: str | None = None
    root: str = DEFAULT_ROOT
    retention: Mapping[str, Any] = field(default_factory=dict)
    prune_console_copies: bool = False
    recipients: tuple[str, ...] = ()
    metrics_file: str | None = None
    ping: Mapping[str, str] = field(default_factory=dict)
    method: str = "online"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    restic: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def repository(self) -> Repository | None:
        """Where recovery points are sent, None for nowhere; parse_settings has seen that it is one."""
        given = {name: value for name, value in self.restic.items() if value is not None}
        variables = {name: str(value) for name, value in given.pop("environment", {}).items()}
        return Repository(**given, environment=variables) if given else None

    @property
    def policy(self) -> Policy | None:
        """What is to be kept, None for everything; parse_settings has seen that it is a policy."""
        return parse_policy(self.retention) if self.retention else None


def settings_path(project: str) -> str:
    """The file with the settings of a project. Raises SettingsError where that cannot be a project's name."""
    if not _PROJECT.fullmatch(project):
        raise SettingsError(
            f"{project!r} cannot be the name of a Compose project: expected small letters, digits, - and _."
        )
    return os.path.join(SETTINGS_FOLDER, f"{project}.json")


def find_settings(project: str | None) -> Settings:
    """The settings of a project; without a name those of the only one that has any, else the defaults.

    Raises SettingsError, also where several projects have settings and none is named.
    """
    if project is not None:
        path = settings_path(project)
        return read_settings(path) if os.path.lexists(path) else Settings(project=project)
    try:
        names = sorted(name for name in os.listdir(SETTINGS_FOLDER) if name.endswith(".json"))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise SettingsError(f"{SETTINGS_FOLDER} cannot be read: {error.strerror}.") from error
    if len(names) > 1:
        raise SettingsError(
            f"{len(names)} projects have settings in {SETTINGS_FOLDER}: {', '.join(names)}. Name one with --project."
        )
    return read_settings(os.path.join(SETTINGS_FOLDER, names[0])) if names else Settings()


def read_settings(path: str) -> Settings:
    """The settings in a file; raises SettingsError, which never repeats an address."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except OSError as error:
        raise SettingsError(f"The settings {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SettingsError(f"The settings {path} are no JSON: {error}.") from error
    try:
        return dataclasses.replace(parse_settings(found), project=os.path.basename(path)[: -len(".json")])
    except SettingsError as error:
        raise SettingsError(f"The settings {path} cannot be used: {error}") from error


def parse_settings(found: Any) -> Settings:
    """The settings that a JSON object holds; null and an empty text stand for a default. Raises SettingsError."""
    if not isinstance(found, dict):
        raise SettingsError("expected is one JSON object.")
    known = [known.name for known in dataclasses.fields(Settings) if known.name != "project"]
    given = {name: value for name, value in found.items() if value not in (None, "")}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise SettingsError(f"{unknown[0]!r} is no setting; those are {', '.join(known)}.")
    for name, value in given.items():
        _require_kind(name, value)
    recipients = given.pop("recipients", [])
    settings = Settings(**given, recipients=tuple(recipients))
    for name in ("root", "project_dir", "ca_file", "metrics_file"):
        _require_absolute(name, getattr(settings, name))
    _require_policy(settings)
    _require_addresses(settings.ping)
    _require_method(settings)
    _require_repository(settings)
    return settings


def _require_kind(name: str, value: object) -> None:
    kinds = {"retention": dict, "ping": dict, "restic": dict, "recipients": list, "prune_console_copies": bool}
    kind = kinds.get(name, str)
    texts = value if name == "recipients" and isinstance(value, list) else []
    if not isinstance(value, kind) or not all(isinstance(text, str) for text in texts):
        expected = {dict: "an object", list: "a list of texts", bool: "true or false", str: "a text"}[kind]
        raise SettingsError(f"{name} is no {type(value).__name__}; expected is {expected}.")


def _require_absolute(name: str, path: str | None) -> None:
    if path is not None and not os.path.isabs(path):
        raise SettingsError(f"{name} is {path!r}; expected is an absolute path.")


def _require_policy(settings: Settings) -> None:
    try:
        _policy = settings.policy
    except RetentionError as error:
        raise SettingsError(f"retention: {error}") from error


def _require_addresses(ping: Mapping[str, Any]) -> None:
    for event, address in ping.items():
        if event not in PING_EVENTS:
            raise SettingsError(f"ping has {event!r}; expected are {', '.join(PING_EVENTS)}.")
        if not isinstance(address, str) or urllib.parse.urlsplit(address).scheme not in ("http", "https"):
            raise SettingsError(f"ping has no address for {event}; expected is one with http:// or https://.")


def _require_method(settings: Settings) -> None:
    if settings.method not in ("online", "api"):
        raise SettingsError(f"method is {settings.method!r}; expected is online or api.")
    if settings.method == "api" and not (settings.username and settings.password):
        raise SettingsError("method is api, which needs username and password of an owner.")


def _require_repository(settings: Settings) -> None:
    known = [known.name for known in dataclasses.fields(Repository)]
    unknown = [name for name in settings.restic if name not in known]
    if unknown:
        raise SettingsError(f"restic has {unknown[0]!r}; expected are {', '.join(known)}.")
    if settings.restic and not all(isinstance(settings.restic.get(name), str) for name in ("address", "password")):
        raise SettingsError("restic needs the texts address and password.")
    for name, kind, expected in (
        ("environment", dict, "an object"),
        ("retention", dict, "an object"),
        ("initialize", bool, "true or false"),
    ):
        value = settings.restic.get(name)
        if not (value is None or isinstance(value, kind)):
            raise SettingsError(f"{name} of restic is no {type(value).__name__}; expected is {expected}.")
    try:
        _policy = settings.repository.policy if settings.repository is not None else None
    except RetentionError as error:
        raise SettingsError(f"retention of restic: {error}") from error
