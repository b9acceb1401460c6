# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare database is in place, a rollback went to the given recovery point, and new hosts serve what others had."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

FETCHED = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "fetched"
KEY = FETCHED.parent / "key"
WRITTEN = "standin_writes"


@pytest.fixture
def fetched(opstage):
    """The recovery point that came from another host; skips hosts that restored their own."""
    if "restore_from" not in opstage.variables:
        pytest.skip("not a new host")
    return FETCHED / opstage.variables["restore_from"]


@pytest.fixture
def decrypted(fetched, tmp_path):
    """The database in it."""
    if not (fetched / "opstage.db.age").exists():
        return fetched / "opstage.db"
    command = ["age", "--decrypt", "--identity", KEY, "--output", tmp_path / "opstage.db", fetched / "opstage.db.age"]
    subprocess.run(command, check=True)
    return tmp_path / "opstage.db"


@pytest.fixture
def own(opstage):
    """The database that was restored last; skips new hosts."""
    if "restore_from" in opstage.variables:
        pytest.skip("a new host")
    if opstage.name.endswith("1"):
        return f"{opstage.points('manual')[0]}/opstage.db"
    return "/root/downloaded.db"


def test_opstage_serves(opstage):
    assert opstage.get("/api/system/health")["status"] == "UP"
    assert opstage.get("/api/system/version")["version"] == "0.2.0"


def test_data_is_what_was_restored(opstage, own):
    rows = opstage.written(own)
    assert rows
    assert opstage.written(opstage.database)[: len(rows)] == rows


def test_what_was_written_since_is_kept(opstage, own):
    """Clients wrote until after the restore of the bare database: the test above could fail."""
    kept = opstage.points("pre-restore")
    assert len(kept) == 2
    assert len(opstage.written(f"{kept[-1]}/opstage.db")) > len(opstage.written(own))


def test_a_refused_restore_is_in_the_journal_and_nothing_else_of_it(opstage, own):
    ends = [entry for entry in opstage.journal() if entry["status"] in ("finished", "failed")]
    found = [(entry["operation"], entry["status"]) for entry in ends]
    assert found[:2] == [("restore", "failed"), ("restore", "finished")]
    assert "bus_events" in ends[0]["cause"]


def test_new_host_has_every_row(opstage, decrypted):
    with closing(sqlite3.connect(f"file:{decrypted}?mode=ro&immutable=1", uri=True)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = WRITTEN if WRITTEN in tables else "users"
        rows = ["|".join(map(str, row)) for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid")]
    assert rows
    assert opstage.query(opstage.database, f"select * from {table} order by rowid").splitlines() == rows


def test_new_host_has_the_project_and_the_image(opstage, fetched):
    manifest = json.loads((fetched / "manifest.json").read_text())
    for file in manifest["project_files"]:
        kept = fetched / "project" / file["name"]
        assert opstage.host.file(file["source"]).mode == 0o600
        if kept.exists():
            assert opstage.host.file(file["source"]).content == kept.read_bytes()
        else:
            assert kept.with_name(f"{kept.name}.age").read_bytes().startswith(b"age-encryption.org/v1")
    digests = opstage.output(
        "docker image inspect --format '{{join .RepoDigests \" \"}}' $(docker ps --quiet | "
        "xargs docker inspect --format '{{.Image}}')"
    )
    assert manifest["image"]["digest"] in digests


def test_new_host_has_nothing_else(opstage, fetched):
    assert opstage.output("find /var/backups/opstage -mindepth 2").split() == []
    assert not any(name.startswith(".staged") for name in opstage.output("ls -A /var/backups/opstage").split())


def test_database_belongs_to_opstage(opstage):
    owner = opstage.output(f"stat -c '%u:%g' {opstage.database} {opstage.data_folder}").split()
    assert owner == ["100:101", "100:101"]


def test_nobody_holds_the_lock(opstage):
    assert not opstage.host.file("/var/lib/opstage/opstage/lock.json").exists


def test_what_was_fetched_is_encrypted_where_that_was_asked_for(opstage, fetched):
    encrypted = "opstage_encryption_identity_file" in opstage.variables
    assert (fetched / "opstage.db").exists() is not encrypted
    assert (fetched / "opstage.db.age").exists() is encrypted
    private = KEY.read_text().splitlines()[-1].encode()
    assert not any(private in path.read_bytes() for path in fetched.rglob("*") if path.is_file())
    assert (
        opstage.host.run(
            f"grep --recursive --quiet {private.decode()} /root /tmp /opt /var/backups /var/lib/opstage"
        ).rc
        == 1
    )
