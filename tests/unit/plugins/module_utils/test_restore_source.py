# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint, RecoveryPointError
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.restore_source import (
    RestoreSource,
    describe_migrations,
    find_restore_source,
    must_fit_schema,
    require_room,
    require_same_or_newer,
)
from ansible_collections.capsule.opstage.plugins.module_utils.sqlite_contents import TABLES_ADDED
from sqlite_testing import fingerprint, make_database, mounted_tmpfs, names_in

PINNED = "registry.example:5000/opstage:0.3.0@sha256:" + "4" * 64


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def downloaded(folder: Path, version: str = "0.3.0") -> Path:
    """A bare database with the tables of that version."""
    path = folder / f"opstage-{version}.db"
    with closing(sqlite3.connect(path)) as connection:
        for added, tables in TABLES_ADDED.items():
            for table in tables if added <= version else ():
                connection.execute(f"CREATE TABLE {table} (id TEXT PRIMARY KEY)")
    return path


def point_of(root: Path, tmp_path: Path, version: str | None = "0.3.0", image: str = PINNED) -> RecoveryPoint:
    (tmp_path / "compose.yml").write_text("services: {}\n")
    deployment = {
        **{"project": "opstage", "project_dir": str(tmp_path), "config_files": [str(tmp_path / "compose.yml")]},
        **{"environment_files": [], "service": "web", "image": image, "tag": "0.3.0", "digest": None},
        **{"image_id": "1" * 64, "version": version, "version_source": "label", "edition": None},
        "database": str(make_database(tmp_path / "live.db", 5)),
    }
    return create_recovery_point(deployment, str(root), "manual", "online", "0.1.0")


def find(root: Path, wanted: object, version: str | None = None) -> tuple[RestoreSource, list[str]]:
    warnings: list[str] = []
    return find_restore_source(str(root), "opstage", str(wanted), version, warnings.append), warnings


def refused(root: Path, wanted: object, version: str | None = None) -> str:
    with pytest.raises(RecoveryPointError) as caught:
        find(root, wanted, version)
    return str(caught.value)


class TestRecoveryPoint:
    @pytest.mark.parametrize("by", ["latest", "id", "path"])
    def test_by_any_name(self, root: Path, tmp_path: Path, by: str) -> None:
        point = point_of(root, tmp_path)
        wanted = {"latest": "latest", "id": os.path.basename(point.path), "path": point.path}[by]
        found, warnings = find(root, wanted)
        assert (found.path, found.database, warnings) == (point.path, point.database, [])
        assert (found.version, found.version_source, found.manifest) == ("0.3.0", "label", point.manifest)
        assert found.sha256 == point.manifest["database"]["sha256"]
        assert found.image() == {
            "repository": "registry.example:5000/opstage",
            "tag": "0.3.0",
            "digest": "sha256:" + "4" * 64,
        }

    def test_a_damaged_one(self, root: Path, tmp_path: Path) -> None:
        point = point_of(root, tmp_path)
        with open(point.database, "r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            stream.write(b"x")
        assert f"The recovery point {point.path} is damaged" in refused(root, "latest")

    def test_one_of_an_unknown_version_is_what_the_operator_says(self, root: Path, tmp_path: Path) -> None:
        point_of(root, tmp_path, version=None)
        assert find(root, "latest")[0].version is None
        found, _warnings = find(root, "latest", "0.2.0")
        assert (found.version, found.version_source) == ("0.2.0", "operator")

    def test_the_operator_contradicts_the_manifest(self, root: Path, tmp_path: Path) -> None:
        point_of(root, tmp_path)
        assert find(root, "latest", "0.3.0")[0].version == "0.3.0"
        assert "is from Opstage 0.3.0, as its manifest says; found '0.2.0'" in refused(root, "latest", "0.2.0")


class TestBareDatabase:
    def test_its_version_is_worked_out(self, root: Path, tmp_path: Path) -> None:
        path = downloaded(tmp_path)
        before = fingerprint(path)
        found, warnings = find(root, path)
        assert (found.path, found.database, found.manifest, found.image()) == (str(path), str(path), None, None)
        assert (found.version, found.oldest_version, found.version_source) == ("0.3.0", "0.1.0", "tables")
        assert found.sha256 == before[path.name][0]
        (warning,) = warnings
        assert "has the tables of Opstage 0.1.0, 0.2.0, 0.3.0. It is taken for one of 0.3.0" in warning
        assert fingerprint(path) == before
        assert names_in(tmp_path) == [path.name]

    def test_what_the_operator_says_counts(self, root: Path, tmp_path: Path) -> None:
        found, warnings = find(root, downloaded(tmp_path), "0.2.0")
        assert (found.version, found.oldest_version, found.version_source) == ("0.2.0", "0.2.0", "operator")
        assert warnings == []

    def test_one_that_is_newer_than_is_known(self, root: Path, tmp_path: Path) -> None:
        path = downloaded(tmp_path, "0.4.0")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE tenants (id)")
        assert "Say with opstage_recovery_point_version which one it is from." in refused(root, path)
        assert find(root, path, "0.5.0")[0].version == "0.5.0"

    def test_one_of_something_else(self, root: Path, tmp_path: Path) -> None:
        path = make_database(tmp_path / "other.db", 5)
        for version in (None, "0.3.0"):
            assert "is no database of Opstage: it lacks the tables workspaces" in refused(root, path, version)

    @pytest.mark.parametrize("content", [b"", b"x" * 5000])
    def test_no_database(self, root: Path, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "notes.db"
        path.write_bytes(content)
        assert f"{path} cannot be restored: " in refused(root, path)

    def test_a_damaged_one(self, root: Path, tmp_path: Path) -> None:
        path = downloaded(tmp_path)
        with open(path, "r+b") as stream:
            stream.seek(4096)
            stream.write(b"\xff" * 4096)
        assert f"{path} cannot be restored: " in refused(root, path)

    def test_one_with_a_part_in_its_log(self, root: Path, tmp_path: Path) -> None:
        path = downloaded(tmp_path)
        (tmp_path / f"{path.name}-wal").write_bytes(b"x" * 5000)
        assert "make one self-contained file of" in refused(root, path)

    def test_a_link_is_not_followed(self, root: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.db"
        link.symlink_to(downloaded(tmp_path))
        assert f"{link} cannot be read as a recovery point" in refused(root, link)


def source(version: str | None, *, oldest: str | None = None, by: str = "api", bare: bool = False) -> RestoreSource:
    manifest: dict[str, Any] | None = None if bare else {}
    return RestoreSource("/p", "/p/opstage.db", "0" * 64, version, oldest or version, by, manifest)


class TestVersionGuard:
    @pytest.mark.parametrize(
        ("made_by", "here"),
        [
            ("0.2.0", "0.2.0"),
            ("0.2.0", "0.3.0"),
            ("0.9.0", "0.10.0"),
            ("0.3.0-rc.1", "0.3.0"),
            ("0.3.0-rc.1", "0.3.0-rc.2"),
            ("0.3.0", "0.3.1-rc.1"),
        ],
    )
    def test_the_same_or_a_newer_one_may_open_it(self, made_by: str, here: str) -> None:
        require_same_or_newer(source(made_by), here)

    @pytest.mark.parametrize(
        ("made_by", "here"),
        [("0.3.0", "0.2.0"), ("0.10.0", "0.9.0"), ("0.3.0", "0.3.0-rc.1"), ("0.3.1-rc.1", "0.3.0"), ("1.0.0", "0.9.9")],
    )
    def test_an_older_one_may_not(self, made_by: str, here: str) -> None:
        with pytest.raises(RecoveryPointError, match=f"is from Opstage {made_by}, newer than {here}, which would"):
            require_same_or_newer(source(made_by), here)

    def test_unless_the_operator_says_so_in_words(self) -> None:
        require_same_or_newer(source("0.4.0"), "0.3.0", "0.4.0")
        for words in ("0.3.0", "yes", ""):
            with pytest.raises(RecoveryPointError, match=r"is from Opstage 0\.4\.0, newer than 0\.3\.0"):
                require_same_or_newer(source("0.4.0"), "0.3.0", words)

    def test_one_that_may_be_newer_is_taken_for_newer(self) -> None:
        found = source("0.3.0", oldest="0.1.0", by="tables", bare=True)
        require_same_or_newer(found, "0.3.0")
        with pytest.raises(RecoveryPointError, match=r"from 0\.1\.0 to 0\.3\.0, which have the same tables; 0\.2\.0"):
            require_same_or_newer(found, "0.2.0")

    @pytest.mark.parametrize(
        ("found", "here", "acknowledged", "expected"),
        [
            (source("0.2.0"), "0.3.0", None, False),
            (source("0.3.0"), "0.3.0", None, True),
            (source("0.3.0"), "0.3.0", "0.3.0", False),
            (source("0.4.0"), "0.3.0", "0.4.0", False),
            (source("0.2.0", by="operator", bare=True), "0.3.0", None, True),
            (source("0.2.0", by="operator", bare=True), "0.3.0", "0.2.0", False),
        ],
    )
    def test_whether_its_schema_must_be_known(
        self, found: RestoreSource, here: str, acknowledged: str | None, expected: bool
    ) -> None:
        assert must_fit_schema(found, here, acknowledged) is expected

    @pytest.mark.parametrize(
        ("made_by", "here", "named"),
        [
            ("0.2.0", "0.2.9", None),
            ("0.2.0", "0.3.0", None),
            ("0.4.0", "0.3.0", None),
            ("0.2.5", "0.4.1", "the migrations of 0.3, 0.4 run on it"),
            ("0.9.0", "0.12.0-rc.1", "the migrations of 0.10, 0.11, 0.12 run on it"),
            ("0.4.0", "1.0.0", "the migrations of every version up to 1.0 run on it"),
        ],
    )
    def test_migrations_of_more_than_one_minor_are_named(self, made_by: str, here: str, named: str | None) -> None:
        text = describe_migrations(source(made_by), here)
        if named is None:
            assert text is None
        else:
            assert text is not None
            assert named in text

    def test_one_that_may_be_older_is_taken_for_older(self) -> None:
        text = describe_migrations(source("0.3.0", oldest="0.1.0", by="tables", bare=True), "0.4.0")
        assert text is not None
        assert "the migrations of 0.2, 0.3, 0.4 run on it" in text

    @pytest.mark.parametrize(
        ("made_by", "here"), [(None, "0.2.0"), ("0.2.0", None), ("", "0.2.0"), ("0.2", "0.2.0"), ("0.2.0", "edge")]
    )
    def test_what_cannot_be_compared_is_refused(self, made_by: str | None, here: str | None) -> None:
        with pytest.raises(RecoveryPointError, match="The versions cannot be compared"):
            require_same_or_newer(source(made_by), here)


def test_a_manifest_that_is_read_back_gives_the_same(root: Path, tmp_path: Path) -> None:
    point = point_of(root, tmp_path, image="opstage:0.3.0")
    found, _warnings = find(root, point.path)
    assert found.manifest == json.loads((Path(point.path) / "manifest.json").read_text())
    assert found.image() == {"repository": "opstage", "tag": "0.3.0", "digest": None}


def test_room_beside_what_is_replaced(root: Path, tmp_path: Path) -> None:
    found, _warnings = find(root, downloaded(tmp_path))
    require_room(found, str(tmp_path / "opstage.db"))
    with (
        mounted_tmpfs(tmp_path / "small", "64k") as small,
        pytest.raises(
            RecoveryPointError, match=f"cannot be put in the place of {small}/opstage.db: no space in {small}: "
        ),
    ):
        require_room(found, str(small / "opstage.db"))
