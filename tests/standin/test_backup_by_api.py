# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup by the owner's endpoint, and a look at Diagnostics, of a container on a real Engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.console_backup import ConsoleBackup
from ansible_collections.capsule.opstage.plugins.module_utils.deployment import locate_folder
from ansible_collections.capsule.opstage.plugins.module_utils.diagnostics import DiagnosticsError, require_version_in
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_session import Account, OpstageSessionError
from ansible_collections.capsule.opstage.plugins.module_utils.readiness import wait_until_ready
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point import RecoveryPoint
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_creation import create_recovery_point
from ansible_collections.capsule.opstage.plugins.module_utils.recovery_point_verification import verify_recovery_point
from standin.container import PASSWORD, REPOSITORY, UNREACHABLE, USERNAME, Container, Laboratory

OWNER = Account(USERNAME, PASSWORD)


def make(container: Container, tag: str, root: Path, account: Account = OWNER) -> tuple[RecoveryPoint, list[str]]:
    """A recovery point of a container whose data is looked for by the service alone, and the warnings."""
    description = container.inspect()
    deployment = {
        **{"project": container.name, "project_dir": str(root), "config_files": [], "environment_files": []},
        **{"service": "web", "container": container.name, "image": f"{REPOSITORY}:{tag}", "tag": tag, "digest": None},
        **{"image_id": description["Image"], "version": tag, "version_source": "api", "edition": "ce"},
        **{"data_dir": "", "database": "", "url": f"http://127.0.0.1:{container.client().port}"},
        "ca_file": None,
    }
    warnings: list[str] = []
    way = ConsoleBackup(deployment, account, warnings.append)
    return create_recovery_point(deployment, str(root), "manual", "api", "0.1.0", obtain=way), warnings


def copies_of(container: Container) -> list[Path]:
    """What the service keeps of its backups, as its host sees them."""
    return list(Path(locate_folder(container.inspect(), "data/backups")).glob("*"))


@pytest.mark.parametrize("tag", ["0.1.0", "0.4.0"])
def test_while_the_service_writes(laboratory: Laboratory, tag: str, tmp_path: Path) -> None:
    environment = {"OPSTAGE_STANDIN_WRITES_PER_SECOND": "100", "OPSTAGE_STANDIN_SEED_ROWS": "20000"}
    container = laboratory.run(tag, environment=environment)
    container.wait_for_answer()
    before = container.sql("select count(*) as rows from audit_events")[0]["rows"]
    point, warnings = make(container, tag, tmp_path)
    verify_recovery_point(point)
    assert warnings == []
    assert point.manifest["database"]["tables"]["audit_events"]["rows"] >= before
    assert point.manifest["database"]["source_journal_mode"] == "wal"
    actions = container.sql("select distinct action from audit_events where upper(action) like '%BACKUP%'")
    assert [row["action"] for row in actions] == [
        "SQLITE_BACKUP_CREATED" if tag == "0.1.0" else "backup.sqlite.created"
    ]
    assert copies_of(container) == []


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (Account("viewer", PASSWORD), "has the role viewer, needed is owner"),
        (Account("operator", PASSWORD), "has the role operator, needed is owner"),
        (Account(USERNAME, "another-password"), "or the password is wrong"),
    ],
)
def test_who_may_not(serving: Container, account: Account, words: str, tmp_path: Path) -> None:
    with pytest.raises(OpstageSessionError, match=words):
        make(serving, "0.3.0", tmp_path, account)
    assert list((tmp_path / serving.name).iterdir()) == []


def test_a_copy_where_the_host_sees_nothing(laboratory: Laboratory, tmp_path: Path) -> None:
    container = laboratory.run(
        "0.3.0", options=("--tmpfs", "/app/copies:mode=1777", "--env", "OPSTAGE_BACKUP_DIR=copies")
    )
    container.wait_for_answer()
    point, (warning,) = make(container, "0.3.0", tmp_path)
    verify_recovery_point(point)
    assert f"The folder /app/copies of {container.name} lies in no mount" in warning
    (kept,) = container.execute("ls", "/app/copies").split()
    assert kept in warning


def test_diagnostics_where_no_client_reaches_them(laboratory: Laboratory) -> None:
    container = laboratory.run("0.3.0", options=UNREACHABLE)
    version = wait_until_ready("", "0.3.0", 30, container.name, isolated=True).version
    require_version_in(container.name, OWNER, version)
    with pytest.raises(DiagnosticsError, match=r"shows version 0\.3\.0, expected 0\.4\.0"):
        require_version_in(container.name, OWNER, "0.4.0")
    with pytest.raises(DiagnosticsError, match="or the password is wrong"):
        require_version_in(container.name, Account(USERNAME, "another-password"), version)
