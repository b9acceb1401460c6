# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The manifest of a recovery point: its JSON schema, and a validator of just the keywords that it uses."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Dict, Iterator, Mapping, NoReturn

from .collection import VERSION
from .sqlite_files import NOT_CHECKED, PARTLY_CHECKED, VERIFY_LEVELS

MANIFEST_VERSION = 2
"""Raised with every change of the format: a manifest of a known version has no field that is not known."""

REASONS = ("manual", "scheduled", "pre-upgrade", "pre-restore", "pre-rollback")
METHODS = ("online", "offline", "api")
DRILL_OUTCOMES = PASSED, FAILED = ("passed", "failed")
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"

_REPORTED_PROBLEMS = 5
_REPORTED_CHARACTERS = 80
_PLAIN_NAME = re.compile(r"\w+", re.ASCII)
_VERSION_NAME = re.compile(r"[0-9A-Za-z.+-]{1,40}", re.ASCII)
_UP_TO_LAST_AT = re.compile(r".*@", re.DOTALL)

Schema = Dict[str, Any]


def _described(description: str, **keywords: Any) -> Schema:
    return {"description": description, **keywords}


def _text(description: str, **keywords: Any) -> Schema:
    return _described(description, type="string", **keywords)


def _text_or_null(description: str, **keywords: Any) -> Schema:
    return _described(description, type=["string", "null"], **keywords)


def _number(description: str, minimum: int) -> Schema:
    return _described(description, type="integer", minimum=minimum)


def _object(description: str, properties: dict[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    """An object of these properties and no other; all but the optional ones are required."""
    return _described(
        description,
        type="object",
        required=[name for name in properties if name not in optional],
        properties=properties,
        additionalProperties=False,
    )


_SHA256 = "^[0-9a-f]{64}$"
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$"
_SINCE_VERSION_2 = ("verify", "foreign_key_violations", "schema_sha256", "tables", "access", "folder_access")
FILE_KINDS = ("compose", "environment", "service environment")
"""Files for Compose; files of variables for those; files of variables that a service names as its ``env_file``."""

_TABLE = _object(
    "One table.",
    {
        "columns": _described(
            "Its columns, in their order; null for a virtual table, and where only the application could read it.",
            type=["array", "null"],
            items={"type": "string"},
        ),
        "rows": _described(
            "Its rows; null for a virtual table, and where only the application could count them.",
            type=["integer", "null"],
            minimum=0,
        ),
    },
)

_IMAGE = _object(
    "The image of the service.",
    {
        "image": _text(
            "The reference, without credentials: an @ stands before a digest only.",
            pattern=r"^[^@\s]+(@sha256:[0-9a-f]{64})?$",
        ),
        "tag": _text_or_null("The tag; null for a reference without one.", pattern=r"^[^@/\s]+$"),
        "digest": _text_or_null(
            "The digest in its repository; null for an image that no registry knows.", pattern="^sha256:[0-9a-f]{64}$"
        ),
        "image_id": _text("The id of the image on the host.", pattern="^(sha256:)?[0-9a-f]{64}$"),
    },
)

_OPSTAGE = _object(
    "The Opstage that the database belongs to.",
    {
        "version": _text_or_null("Its version; null where nothing said it."),
        "version_source": _text("What said the version.", enum=["api", "label", "tag"]),
        "edition": _text_or_null("Its edition; null where it did not answer."),
    },
)

_ACCESS = {
    "uid": _number("Id of the owner.", 0),
    "gid": _number("Id of the group.", 0),
    "mode": _text("Permissions, in octal.", pattern="^[0-7]{4}$"),
}

_DATABASE = _object(
    "The copy of the database.",
    {
        "name": _text("Its file.", enum=["opstage.db"]),
        "size": _number("Bytes.", 512),
        "sha256": _text("SHA-256 of the file, in hexadecimal.", pattern=_SHA256),
        "page_size": _number("Bytes.", 512),
        "page_count": _number("How many pages it has.", 1),
        "user_version": _described("PRAGMA user_version.", type="integer"),
        "application_id": _described("PRAGMA application_id.", type="integer"),
        "source_journal_mode": _text("Of the live database.", enum=["wal", "delete"]),
        "copied_by": _text("How it was copied, as `method` of the module sqlite_backup; `received` from the service."),
        "integrity": _text("What the check found.", enum=["ok", PARTLY_CHECKED, NOT_CHECKED]),
        "verify": _text("How the copy was checked before it got its name.", enum=list(VERIFY_LEVELS)),
        "foreign_key_violations": _described(
            "Rows whose parent is missing in the live database too; null where they could not be counted.",
            type=["integer", "null"],
            minimum=0,
        ),
        "schema_sha256": _text(
            "SHA-256 of the schema: of each row of sqlite_master whose name does not begin with sqlite_, the JSON "
            "array [type, name, tbl_name, sql] in ASCII, each run of spaces, tabs, line feeds, form feeds and carriage "
            "returns in sql one space; the arrays sorted, a line feed after each.",
            pattern=_SHA256,
        ),
        "tables": _described(
            "All tables but SQLite's own, whose names begin with sqlite_.",
            type="object",
            additionalProperties=_TABLE,
        ),
        "access": _object("Who might use the live database.", _ACCESS),
        "folder_access": _object("Who might use the folder that it lay in.", _ACCESS),
    },
    optional=_SINCE_VERSION_2,
)

_ENCRYPTION = {
    "description": "How the database and the project's files are encrypted, all under their names and `.age`; null "
    "where they are not. What `database` says is of the database as it was before.",
    "type": ["object", "null"],
    "required": ["tool", "size", "sha256"],
    "properties": {
        "tool": _text("What encrypted them.", enum=["age"]),
        "size": _number("Bytes of the encrypted database.", 1),
        "sha256": _text("SHA-256 of the encrypted database.", pattern=_SHA256),
    },
    "additionalProperties": False,
}

_DRILL = _object(
    "The latest drill: a start of the copy in a throw-away container. Not there where none was made.",
    {
        "time": _text("When it ended, UTC.", pattern=_TIME, format="date-time"),
        "seconds": _described("How long it took, from the first byte that was proven.", type="number", minimum=0),
        "version": _text_or_null("The version of Opstage that was started; null where nothing said it."),
        "outcome": _text("How it ended.", enum=list(DRILL_OUTCOMES)),
        "error": _text("Why it failed."),
    },
    optional=("error",),
)

SCHEMA: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "manifest.json of a recovery point of the Ansible collection capsule.opstage",
    **_object(
        "What a recovery point is and how it was made. It holds no secret and no content of a file.",
        {
            "manifest_version": _described(
                "Version of this format.", type="integer", enum=list(range(1, MANIFEST_VERSION + 1))
            ),
            "id": _text(
                "The name of the recovery point's folder.",
                pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}-[0-9]{6}Z-[a-z-]+$",
            ),
            "created": _text(
                "When it was begun, UTC.",
                pattern=_TIME,
                format="date-time",
            ),
            "reason": _text("Why it was made.", enum=list(REASONS)),
            "method": _text(
                "Whether the service ran meanwhile, was stopped, or made the copy itself.", enum=list(METHODS)
            ),
            "host": _text("Name of the host."),
            "project": _text("Name of the Compose project.", pattern="^[^/]+$"),
            "project_dir": _text("The project's folder on the host."),
            "service": _text("The service in it."),
            "image": _IMAGE,
            "opstage": _OPSTAGE,
            "database": _DATABASE,
            "encryption": _ENCRYPTION,
            "project_files": _described(
                "The project's files, those of a kind in the order of Compose, copied to the folder `project`.",
                type="array",
                items=_object(
                    "One file.",
                    {
                        "name": _text("Its name there.", pattern="^[^/]+$"),
                        "source": _text("Where it lay on the host."),
                        "kind": _text("What Compose takes it for.", enum=list(FILE_KINDS)),
                    },
                    optional=("kind",),
                ),
            ),
            "collection_version": _text("Version of the collection that made it."),
            "duration_seconds": _described("How long it took.", type="number", minimum=0),
            "drill": _DRILL,
        },
        optional=("project_dir", "encryption", "drill"),
    ),
    "if": {"properties": {"manifest_version": {"minimum": 2}}},
    "then": {
        "required": ["project_dir", "encryption"],
        "properties": {
            "database": {"required": list(_SINCE_VERSION_2)},
            "project_files": {"items": {"required": ["kind"]}},
        },
    },
}
"""JSON Schema, draft 2020-12; docs/manifest.schema.json is the same. Every pattern is anchored at both ends."""

_TYPES = {
    "array": (list,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}


class ManifestError(ValueError):
    """A manifest is not what its schema says; the text is the end of a sentence about it."""


class NewerManifestError(ManifestError):
    """A manifest has a version that only a newer collection knows."""


def format_manifest(manifest: Mapping[str, Any]) -> bytes:
    """Return the content of manifest.json; raises ManifestError when it would not be valid."""
    _require_valid(manifest)
    return json.dumps(manifest, indent=2, sort_keys=True).encode("ascii") + b"\n"


def parse_manifest(content: bytes) -> dict[str, Any]:
    """Return what manifest.json says; raises ManifestError, NewerManifestError among them."""
    try:
        manifest = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"is no JSON: {error}") from error
    version = manifest.get("manifest_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version > MANIFEST_VERSION:
        maker = manifest.get("collection_version")
        named = maker if isinstance(maker, str) and _VERSION_NAME.fullmatch(maker) else "version unknown"
        raise NewerManifestError(
            f"was made by a newer collection ({named}): it has manifest version {_shown(version)}, this collection "
            f"({VERSION}) reads {MANIFEST_VERSION} and older. Update the collection."
        )
    _require_valid(manifest)
    return dict(manifest)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _require_valid(manifest: object) -> None:
    problems = list(find_problems(manifest, SCHEMA))
    if problems:
        more = len(problems) - _REPORTED_PROBLEMS
        text = "; ".join(problems[:_REPORTED_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise ManifestError(f"is not valid: {text}")


def find_problems(value: object, schema: Schema, place: str = "") -> Iterator[str]:
    """Yield what is wrong with a value that JSON can hold: `place: found …, expected …`.

    Of JSON Schema, just the keywords in SCHEMA are known, and 1.0 is no integer here. What stands before an @ is not
    shown: it may be a password.
    """
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is_of(value, name) for name in types):
        yield _problem(place, value, " or ".join(types))
        return
    if "enum" in schema and value not in schema["enum"]:
        yield _problem(place, value, " or ".join(map(_shown, schema["enum"])))
    elif isinstance(value, str):
        yield from _text_problems(value, schema, place)
    elif isinstance(value, dict):
        yield from _object_problems(value, schema, place)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from find_problems(item, schema.get("items", {}), f"{place}[{number}]")
    elif isinstance(value, (int, float)) and value < schema.get("minimum", value):
        yield _problem(place, value, f"{schema['minimum']} or more")


def _text_problems(text: str, schema: Schema, place: str) -> Iterator[str]:
    if "pattern" in schema and not re.fullmatch(schema["pattern"], text):
        yield _problem(place, text, f"text of the form {schema['pattern']}")
    elif schema.get("format") == "date-time":
        try:
            datetime.strptime(text, TIME_FORMAT)
        except ValueError:
            yield _problem(place, text, "a time that exists")


def _object_problems(found: Mapping[str, object], schema: Schema, place: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in found:
            yield f"{_place_of(place, name)}: is missing"
    for name, item in found.items():
        expected = properties.get(name, schema.get("additionalProperties", {}))
        if expected is False:
            yield f"{_place_of(place, name)}: is unknown, expected are {', '.join(properties)}"
        else:
            yield from find_problems(item, expected, _place_of(place, name))
    if "if" in schema and not any(find_problems(found, schema["if"], place)):
        yield from find_problems(found, schema["then"], place)


def _is_of(value: object, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and not isinstance(value, bool)


def _place_of(place: str, name: str) -> str:
    shown = name if _PLAIN_NAME.fullmatch(name) else _shown(name)
    return f"{place}.{shown}" if place else shown


def _problem(place: str, value: object, expected: str) -> str:
    return f"{place or 'the whole'}: found {_shown(value)}, expected {expected}"


def _shown(value: object) -> str:
    """A value as JSON, cut where it is long; without what could be a password."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "an array"
    if isinstance(value, str):
        value = _UP_TO_LAST_AT.sub("***@", value)
    text = json.dumps(value)
    return text if len(text) <= _REPORTED_CHARACTERS else f"{text[:_REPORTED_CHARACTERS]}…"
