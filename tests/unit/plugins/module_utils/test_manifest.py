# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.collection import VERSION
from ansible_collections.capsule.opstage.plugins.module_utils.manifest import (
    MANIFEST_VERSION,
    REASONS,
    SCHEMA,
    ManifestError,
    NewerManifestError,
    find_problems,
    format_manifest,
    parse_manifest,
)

PUBLISHED = Path(__file__).resolve().parents[4] / "docs" / "manifest.schema.json"

KEYWORDS = {
    "additionalProperties",
    "enum",
    "format",
    "if",
    "items",
    "minimum",
    "pattern",
    "properties",
    "required",
    "then",
    "type",
}
ANNOTATIONS = {"$schema", "description", "title"}

MANIFEST: dict[str, Any] = {
    "manifest_version": 2,
    "id": "2026-11-22T02-15-00-000123Z-pre-upgrade",
    "created": "2026-11-22T02:15:00.000100Z",
    "reason": "pre-upgrade",
    "method": "offline",
    "host": "console-1",
    "project": "opstage",
    "project_dir": "/srv/opstage",
    "service": "web",
    "image": {
        "image": "registry.example:5000/xtrape-capsule-ce:0.2.0@sha256:" + "0" * 64,
        "tag": "0.2.0",
        "digest": "sha256:" + "0" * 64,
        "image_id": "sha256:" + "1" * 64,
    },
    "opstage": {"version": "0.2.0", "version_source": "api", "edition": "ce"},
    "database": {
        "name": "opstage.db",
        "size": 8192,
        "sha256": "2" * 64,
        "page_size": 4096,
        "page_count": 2,
        "user_version": 0,
        "application_id": -1,
        "source_journal_mode": "wal",
        "copied_by": "raw",
        "verify": "full",
        "integrity": "ok",
        "foreign_key_violations": 0,
        "schema_sha256": "3" * 64,
        "tables": {"users": {"columns": ["id", "username"], "rows": 3}, "words": {"columns": None, "rows": None}},
        "access": {"uid": 100, "gid": 101, "mode": "0644"},
        "folder_access": {"uid": 100, "gid": 101, "mode": "0755"},
    },
    "encryption": None,
    "project_files": [{"name": ".env", "source": "/srv/opstage/.env", "kind": "environment"}],
    "collection_version": "0.1.0",
    "duration_seconds": 0.125,
}

DRILL = {"time": "2026-11-23T02:15:00.000100Z", "seconds": 1.5, "version": "0.2.0", "outcome": "passed"}

Place = tuple["str | int", ...]


def first_version() -> dict[str, Any]:
    """A manifest as it was written before version 2."""
    manifest = copy.deepcopy(MANIFEST)
    manifest["manifest_version"] = 1
    for name in ("verify", "foreign_key_violations", "schema_sha256", "tables", "access", "folder_access"):
        del manifest["database"][name]
    del manifest["project_dir"], manifest["encryption"], manifest["project_files"][0]["kind"]
    return manifest


def changed(place: str, value: object, manifest: dict[str, Any] | None = None) -> dict[str, Any]:
    """A copy of the manifest with another value at `place`, as in `database.size`; numbers are indexes."""
    result = copy.deepcopy(manifest or MANIFEST)
    parent: Any = result
    *above, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    for step in above:
        parent = parent[step]
    parent[last] = value
    return result


def without(place: str, manifest: dict[str, Any] | None = None) -> dict[str, Any]:
    result = copy.deepcopy(manifest or MANIFEST)
    parent: Any = result
    *above, last = place.split(".")
    for step in above:
        parent = parent[step]
    del parent[last]
    return result


def problems(manifest: object) -> list[str]:
    return list(find_problems(manifest, SCHEMA))


def refusal(manifest: object) -> str:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(json.dumps(manifest).encode())
    return str(caught.value)


def schemas_in(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema and all schemas in it."""
    yield schema
    inner = [*schema.get("properties", {}).values()]
    inner += [schema[name] for name in ("items", "if", "then", "additionalProperties") if schema.get(name)]
    for child in inner:
        yield from schemas_in(child)


class TestSchema:
    def test_is_published(self) -> None:
        assert PUBLISHED.read_text() == json.dumps(SCHEMA, indent=2) + "\n", (
            "write it anew: json.dumps(SCHEMA, indent=2)"
        )

    def test_has_only_keywords_that_are_known_here(self) -> None:
        used = {name for schema in schemas_in(SCHEMA) for name in schema}
        assert used == KEYWORDS | ANNOTATIONS

    def test_patterns_are_anchored(self) -> None:
        """JSON Schema searches for a pattern; here the whole text must fit."""
        patterns = [schema["pattern"] for schema in schemas_in(SCHEMA) if "pattern" in schema]
        assert [pattern for pattern in patterns if not (pattern.startswith("^") and pattern.endswith("$"))] == []
        assert len(patterns) > 5

    def test_every_property_is_described(self) -> None:
        for schema in schemas_in({name: value for name, value in SCHEMA.items() if name not in ("if", "then")}):
            for name, expected in schema.get("properties", {}).items():
                assert expected["description"].endswith("."), name

    def test_is_one_of_draft_2020_12(self) -> None:
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        with pytest.raises(jsonschema.SchemaError):
            jsonschema.Draft202012Validator.check_schema({**SCHEMA, "required": "id"})


class TestValid:
    @pytest.mark.parametrize("manifest", [MANIFEST, first_version()])
    def test_back(self, manifest: dict[str, Any]) -> None:
        content = format_manifest(manifest)
        assert parse_manifest(content) == manifest
        assert content.endswith(b"}\n")

    @pytest.mark.parametrize("reason", REASONS)
    def test_reasons(self, reason: str) -> None:
        assert problems(changed("reason", reason)) == []
        assert {"manual", "scheduled", "pre-upgrade", "pre-restore", "pre-rollback"} == set(REASONS)

    @pytest.mark.parametrize(
        "place",
        [
            "image.tag",
            "image.digest",
            "opstage.version",
            "opstage.edition",
            "database.foreign_key_violations",
            "database.tables.users.columns",
            "database.tables.users.rows",
        ],
    )
    def test_what_may_be_unknown(self, place: str) -> None:
        assert problems(changed(place, None)) == []

    @pytest.mark.parametrize("manifest", [MANIFEST, first_version()])
    @pytest.mark.parametrize("drill", [DRILL, {**DRILL, "version": None, "outcome": "failed", "error": "no room"}])
    def test_a_drill_is_recorded_in_any(self, manifest: dict[str, Any], drill: dict[str, Any]) -> None:
        drilled = {**manifest, "drill": drill}
        assert parse_manifest(format_manifest(drilled)) == drilled

    def test_any_name_of_a_table(self) -> None:
        name = 'a.b " \n ä \\xff'
        manifest = changed("database.tables", {name: {"columns": ["ä", ""], "rows": 0}})
        assert parse_manifest(format_manifest(manifest)) == manifest


class TestRefused:
    @pytest.mark.parametrize("manifest", [MANIFEST, first_version()])
    def test_each_field_that_is_missing(self, manifest: dict[str, Any]) -> None:
        places = [
            *manifest,
            *(f"{part}.{name}" for part in ("image", "opstage", "database") for name in manifest[part]),
        ]
        assert len(places) > 20
        for place in places:
            assert refusal(without(place, manifest)).startswith(f"is not valid: {place}: is missing"), place

    def test_what_version_2_added_is_not_asked_of_version_1(self) -> None:
        assert problems(first_version()) == []
        assert problems(changed("manifest_version", 2, first_version())) == [
            "project_dir: is missing",
            "encryption: is missing",
            "database.verify: is missing",
            "database.foreign_key_violations: is missing",
            "database.schema_sha256: is missing",
            "database.tables: is missing",
            "database.access: is missing",
            "database.folder_access: is missing",
            "project_files[0].kind: is missing",
        ]

    @pytest.mark.parametrize(
        ("place", "value", "expected"),
        [
            ("id", "../etc", 'id: found "../etc", expected text of the form ^[0-9]{4}-'),
            ("reason", "whim", 'reason: found "whim", expected "manual" or "scheduled" or '),
            ("created", "yesterday", 'created: found "yesterday", expected text of the form '),
            (
                "created",
                "2026-02-30T00:00:00.000000Z",
                'created: found "2026-02-30T00:00:00.000000Z", expected a time that',
            ),
            ("created", "2026-11-22T02:15:00.000100Z\n", "created: found "),
            ("created", "\uff12026-11-22T02:15:00.000100Z", "created: found "),
            ("manifest_version", 0, "manifest_version: found 0, expected 1 or 2"),
            ("manifest_version", True, "manifest_version: found true, expected integer"),
            ("manifest_version", "2", 'manifest_version: found "2", expected integer'),
            ("project", "", 'project: found "", expected text of the form ^[^/]+$'),
            ("database", [], "database: found an array, expected object"),
            ("database", "x", 'database: found "x", expected object'),
            ("database.sha256", "A" * 64, f'database.sha256: found "{"A" * 64}", expected text of the form ^[0-9a-f]'),
            ("database.sha256", None, "database.sha256: found null, expected string"),
            ("database.sha256", "0" * 9000, f'database.sha256: found "{"0" * 79}…, expected text'),
            ("database.size", 511, "database.size: found 511, expected 512 or more"),
            ("database.size", True, "database.size: found true, expected integer"),
            ("database.size", "8192", 'database.size: found "8192", expected integer'),
            ("database.name", "/etc/passwd", 'database.name: found "/etc/passwd", expected "opstage.db"'),
            ("database.more", 1, "database.more: is unknown, expected are name, size, "),
            ("database.tables.users", None, "database.tables.users: found null, expected object"),
            ("database.tables.users.rows", -1, "database.tables.users.rows: found -1, expected 0 or more"),
            ("database.tables.users.columns", [1], "database.tables.users.columns[0]: found 1, expected string"),
            ("project_files.0.name", "a/b", 'project_files[0].name: found "a/b", expected text of the form ^[^/]+$'),
            ("project_files.0", {}, "project_files[0].name: is missing"),
            ("drill", None, "drill: found null, expected object"),
            ("drill", {**DRILL, "outcome": "x"}, 'drill.outcome: found "x", expected "passed" or "failed"'),
            ("drill", {**DRILL, "time": "now"}, 'drill.time: found "now", expected text of the form '),
            ("drill", {**DRILL, "seconds": -1}, "drill.seconds: found -1, expected 0 or more"),
            ("drill", {**DRILL, "logs": []}, "drill.logs: is unknown, expected are time, seconds, "),
            ("duration_seconds", -0.5, "duration_seconds: found -0.5, expected 0 or more"),
            ("a key \n", 1, '"a key \\n": is unknown, expected are manifest_version, id'),
        ],
    )
    def test_the_place_is_named(self, place: str, value: object, expected: str) -> None:
        assert refusal(changed(place, value)).startswith(f"is not valid: {expected}")

    @pytest.mark.parametrize("value", [[], None, "text", 1, True])
    def test_no_object(self, value: object) -> None:
        assert refusal(value).startswith("is not valid: the whole: found ")

    def test_many_problems_are_cut(self) -> None:
        assert refusal({}).endswith("; and 11 more")

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"\xff\xfe", b'{"manifest_version": NaN}', b"[" * 100_000, b"9" * 100_000, b"\x00"]
    )
    def test_no_json(self, content: bytes) -> None:
        with pytest.raises(ManifestError, match=r"^is (no JSON|not valid): "):
            parse_manifest(content)

    def test_nothing_invalid_is_written(self) -> None:
        with pytest.raises(ManifestError, match=r"database\.size: found 0"):
            format_manifest(changed("database.size", 0))


class TestNewer:
    @pytest.mark.parametrize(
        ("maker", "named"),
        [("1.2.3", "1.2.3"), (None, "version unknown"), ("x\n" * 9, "version unknown"), ("", "version unknown")],
    )
    def test_is_said_whatever_else_it_holds(self, maker: object, named: str) -> None:
        manifest = {"manifest_version": MANIFEST_VERSION + 1, "collection_version": maker, "new": {}}
        with pytest.raises(NewerManifestError) as caught:
            parse_manifest(json.dumps(manifest).encode())
        assert str(caught.value) == (
            f"was made by a newer collection ({named}): it has manifest version 3, this collection ({VERSION}) reads 2 "
            "and older. Update the collection."
        )


class TestSecrets:
    @pytest.mark.parametrize(
        "image",
        ["user:hunter2@registry.example/opstage:0.2.0", "https://user:hunter2@registry.example/opstage", "a@hunter2@b"],
    )
    def test_no_credentials_in_an_image(self, image: str) -> None:
        text = refusal(changed("image.image", image))
        assert "image.image: found " in text
        assert "hunter2" not in text
        with pytest.raises(ManifestError):
            format_manifest(changed("image.image", image))

    def test_nothing_that_is_not_expected(self) -> None:
        text = refusal(changed("environment", {"OPSTAGE_SESSION_SECRET": "hunter2"}))
        assert "environment: is unknown" in text
        assert "hunter2" not in text


class TestAsAnotherValidator:
    """A validator of all of JSON Schema agrees on manifests with random changes."""

    VALUES = (
        None,
        True,
        0,
        -1,
        1,
        2,
        511,
        512,
        0.5,
        "",
        "x",
        "ok",
        "0.2.0",
        "a/b",
        "a@b",
        "0" * 64,
        [],
        ["x"],
        [1],
        {},
        {"x": 1},
    )

    def places(self, value: object, place: Place = ()) -> Iterator[Place]:
        if place:
            yield place
        if isinstance(value, dict):
            for name, child in value.items():
                yield from self.places(child, (*place, name))
        elif isinstance(value, list):
            for number, child in enumerate(value):
                yield from self.places(child, (*place, number))

    def mutate(self, manifest: dict[str, Any], choices: random.Random) -> None:
        *above, last = choices.choice(list(self.places(manifest)))
        parent: Any = manifest
        for step in above:
            parent = parent[step]
        action = choices.choice(("set", "remove", "add"))
        if action == "remove":
            del parent[last]
        elif action == "add" and isinstance(parent, dict):
            parent[choices.choice(("extra", "rows", "tables", "id"))] = copy.deepcopy(choices.choice(self.VALUES))
        else:
            parent[last] = copy.deepcopy(choices.choice(self.VALUES))

    def test_agrees(self) -> None:
        validator = jsonschema.Draft202012Validator(SCHEMA)
        choices = random.Random(20261122)
        verdicts = []
        for _number in range(1500):
            manifest = copy.deepcopy(choices.choice((MANIFEST, {**MANIFEST, "drill": DRILL}, first_version())))
            for _change in range(choices.choice((1, 1, 1, 2, 3))):
                self.mutate(manifest, choices)
            verdicts.append(validator.is_valid(manifest))
            assert (problems(manifest) == []) == verdicts[-1], json.dumps(manifest)
        assert 50 < sum(verdicts) < 1450
