# SPDX-License-Identifier: GPL-3.0-or-later
"""What a switch records before each step, and what is said to be left when one fails; molecule has real containers."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import journal, upgrade_switch, way_back
from ansible_collections.capsule.opstage.plugins.module_utils.compose_image import ComposeImageError
from ansible_collections.capsule.opstage.plugins.module_utils.deployment_lock import take_lock
from ansible_collections.capsule.opstage.plugins.module_utils.diagnostics import DiagnosticsError
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError
from ansible_collections.capsule.opstage.plugins.module_utils.journal import find_unfinished, read_entries
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_session import Account
from ansible_collections.capsule.opstage.plugins.module_utils.readiness import NotReadyError, Readiness
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_switch import Switch, SwitchError, switch
from sqlite_testing import make_database, names_in, numbers_in

SOURCE = {"version": "0.2.0", "tag": "0.2.0", "digest": None, "image_id": "sha256:1", "image_digest": None}
TARGET = {"version": "0.3.0", "tag": "0.3.0", "digest": "sha256:" + "3" * 64}
ISOLATION = "/state/isolation.yml"
STARTED_AGAIN = [
    *("back: pin 0.2.0", "back: tag repo:0.2.0 sha256:1", "back: start, pull missing", "back: healthy 0.2.0"),
]


class Engine:
    """In the place of Docker: what was asked of it, in order; `does` is done at a step, and may raise."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.asked: list[str] = []
        self.known: list[int] = []
        """Before which of these the host was told of the container."""
        self.does: dict[str, Callable[[], object]] = {}
        self.timeouts: list[float] = []
        self.has_served = True

    def step(self, name: str) -> None:
        self.asked.append(name)
        self.does.get(name, lambda: None)()

    def write(self, *statements: str) -> None:
        """Write to the database, as one that closes it in good order."""
        with contextlib.closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    def wait(self, timeout: float, isolated: bool) -> Readiness:
        self.timeouts.append(timeout)
        self.step("healthy alone" if isolated else "healthy")
        return Readiness("UP", "0.3.0", "ce", 0.5)

    def pin(self) -> None:
        self.step("pin")

    def pinned(self, tag: str) -> SimpleNamespace:
        self.step(f"back: pin {tag}")
        return SimpleNamespace(image=f"repo:{tag}")

    def healthy_again(self, version: str | None) -> Readiness:
        self.step(f"back: healthy {version}")
        return Readiness("UP", version or "", "ce", 0.1)


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Switch:
    """A deployment whose database has twenty rows, and its lock."""
    monkeypatch.setattr(journal, "STATE_ROOT", str(tmp_path / "state"))
    project, data = tmp_path / "project", tmp_path / "data"
    project.mkdir()
    data.mkdir()
    (project / "compose.yml").write_text("services: {web: {image: 'repo:0.2.0'}}\n")
    holder, _previous = take_lock(journal.state_folder("opstage"), "upgrade", "root", "here", None)
    deployment = {
        **{"project": "opstage", "project_dir": str(project), "config_files": [str(project / "compose.yml")]},
        **{
            "environment_files": [],
            "service": "web",
            "image": "repo:0.2.0",
            "repository": "repo",
            "tag": "0.2.0",
            "digest": None,
        },
        **{"image_id": "sha256:" + "1" * 64, "version": "0.2.0", "version_source": "api", "edition": "ce"},
        **{
            "database": str(make_database(data / "opstage.db", 20, "WAL")),
            "url": "http://127.0.0.1:8080",
            "ca_file": None,
        },
    }
    return Switch(
        deployment=deployment,
        source=SOURCE,
        target=TARGET,
        lock=holder.token,
        root=str(tmp_path / "backups"),
        isolation=ISOLATION,
        timeout=60,
        collection_version="0.1.0",
        rehearsal_seconds=0.5,
        details={"source": {"url": "http://127.0.0.1:8080"}},
    )


@pytest.fixture
def engine(wanted: Switch, monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine(Path(wanted.deployment["database"]))
    made.does["stop"] = lambda: made.write("INSERT INTO entries VALUES (21, 'written last')")
    replacements: dict[str, Any] = {
        "run_docker": lambda arguments: made.step(" ".join(arguments)),
        "stop_service": lambda _deployment: made.step("stop"),
        "start_service": lambda _deployment, overrides: made.step(f"start {' '.join(overrides)}".strip()),
        "find_container": lambda *_names: "opstage-web-1",
        "describe_container": lambda *_names: {"Name": "/opstage-web-1"},
        "make_known": lambda _container: made.known.append(len(made.asked)),
        "wait_until_ready": lambda _url, _version, timeout, _container, isolated, _ca_file: made.wait(
            timeout, isolated
        ),
        "has_served": lambda _container: made.has_served,
        "require_version_in": lambda container, account, version: made.step(
            f"diagnostics {container} {account.username} {version}"
        ),
    }
    for name, function in replacements.items():
        monkeypatch.setattr(upgrade_switch, name, function)
    on_the_way_back: dict[str, Any] = {
        "find_container": lambda *_names: "opstage-web-1",
        "describe_container": lambda *_names: {"Name": "/opstage-web-1"},
        "make_known": lambda _container: made.known.append(len(made.asked)),
        "stop_service": lambda _deployment: made.step("back: stop"),
        "pin_image": lambda _project, _service, tag, _digest: made.pinned(tag),
        "give_tag_back": lambda image, image_id, _digest: made.step(f"back: tag {image} {image_id}"),
        "start_service": lambda _deployment, pull: made.step(f"back: start, pull {pull}"),
        "wait_until_ready": lambda _url, version, _timeout, _container, ca_file: made.healthy_again(version),
    }
    for name, function in on_the_way_back.items():
        monkeypatch.setattr(way_back, name, function)
    return made


def entries() -> list[dict[str, Any]]:
    return read_entries(journal.journal_path("opstage"))


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def failed(wanted: Switch, engine: Engine) -> SwitchError:
    with pytest.raises(SwitchError) as caught:
        switch(wanted, engine.pin)
    return caught.value


def test_a_switch(wanted: Switch, engine: Engine) -> None:
    recorded: dict[str, Any] = {}
    for step in ("pin", "stop", "start /state/isolation.yml", "start"):
        before = engine.does.get(step, lambda: None)
        engine.does[step] = lambda step=step, before=before: (recorded.update({step: entries()[-1]}), before())
    engine.does["healthy"] = lambda: engine.write("INSERT INTO entries VALUES (22, 'after')")
    switched = switch(wanted, engine.pin)
    assert engine.asked == [
        f"tag repo@{TARGET['digest']} repo:0.3.0",
        *("pin", "stop", "start /state/isolation.yml", "healthy alone", "start", "healthy"),
    ]
    assert [engine.asked[number] for number in engine.known] == ["healthy"]
    assert numbers_in(Path(switched.point.database)) == list(range(1, 22))
    assert switched.point.manifest["reason"] == "pre-upgrade"
    assert switched.changes == {"entries": {"added": 1, "changed": 0, "removed": 0}}
    assert (switched.version, switched.downtime > 0) == ("0.3.0", True)
    assert recorded["pin"]["left"] == recorded["stop"]["left"]
    assert recorded["stop"]["left"] == {"action": "start", "serve": SOURCE, "outcome": "failed"}
    folder = recorded["start"]["left"]["complete"]
    assert recorded["start /state/isolation.yml"]["left"] == {
        **{"action": "replace", "complete": folder, "keep_damaged": True, "serve": SOURCE, "outcome": "failed"},
    }
    assert recorded["start"]["left"] == {
        **{"action": "start", "complete": folder, "serve": TARGET, "outcome": "finished"},
    }
    last = entries()[-1]
    assert (last["status"], last["recovery_point"], last["run"]) == ("finished", switched.point.path, wanted.lock)
    assert last["downtime_seconds"] == pytest.approx(switched.downtime, abs=0.001)
    assert all(entry["source"] == {"url": "http://127.0.0.1:8080"} for entry in entries())
    assert find_unfinished(entries()) is None
    assert names_in(Path(wanted.root, "opstage")) == [Path(switched.point.path).name]


@pytest.mark.parametrize(("rehearsal", "expected"), [(0.5, 60), (30.0, 90), (None, 60)])
def test_a_long_rehearsal_is_a_longer_timeout(
    wanted: Switch, engine: Engine, rehearsal: float | None, expected: float
) -> None:
    switch(dataclasses.replace(wanted, rehearsal_seconds=rehearsal), engine.pin)
    assert engine.timeouts == [expected, expected]


def test_a_database_that_cannot_be_copied_changes_nothing(wanted: Switch, engine: Engine) -> None:
    engine.database.write_bytes(b"no database")
    error = failed(wanted, engine)
    assert (error.left, error.point, engine.asked[1:], entries()) == ("nothing", None, [], [])


@pytest.mark.parametrize("step", ["pin", "stop"])
def test_before_the_copy_is_taken_the_old_version_is_started_again(wanted: Switch, engine: Engine, step: str) -> None:
    engine.does[step] = raising(ComposeImageError("not this one"))
    error = failed(wanted, engine)
    assert (error.left, error.point, str(error)) == ("started", None, "not this one")
    assert engine.asked[-4:] == STARTED_AGAIN
    assert (entries()[-1]["status"], entries()[-1]["cause"]) == ("failed", "not this one")
    assert names_in(Path(wanted.root, "opstage")) == []


@pytest.mark.parametrize("step", ["start /state/isolation.yml", "healthy alone"])
def test_before_clients_are_let_in_the_copy_is_put_back(wanted: Switch, engine: Engine, step: str) -> None:
    def fail() -> None:
        engine.write("DELETE FROM entries")
        raise NotReadyError("not healthy", ["its last words"])

    engine.does[step] = fail
    recorded: list[dict[str, Any]] = []
    for later in ("back: stop", "back: pin 0.2.0"):
        engine.does[later] = lambda: recorded.append(entries()[-1]["left"])
    error = failed(wanted, engine)
    assert (error.left, error.logs, str(error)) == ("replaced", ["its last words"], "not healthy")
    assert error.point is not None
    assert engine.asked[-5:] == ["back: stop", *STARTED_AGAIN]
    assert numbers_in(Path(error.point.database)) == numbers_in(engine.database) == list(range(1, 22))
    assert (recorded[0]["database"], recorded[0]["sha256"]) == (error.point.database, error.point.sha256)
    assert (recorded[0]["action"], recorded[0]["outcome"], recorded[0]["serve"]) == ("replace", "failed", SOURCE)
    assert recorded[1] == {**recorded[0], "action": "start"}
    last = entries()[-1]
    assert (last["status"], last["cause"], last["container_logs"]) == ("failed", "not healthy", ["its last words"])
    assert last["recovery_point"] == error.point.path
    (kept,) = [name for name in names_in(engine.database.parent) if name.endswith("~")]
    assert numbers_in(engine.database.parent / kept) == []


@pytest.mark.parametrize("step", ["back: stop", "back: start, pull missing", "back: healthy 0.2.0"])
def test_what_fails_on_the_way_back_is_for_the_next_run(wanted: Switch, engine: Engine, step: str) -> None:
    engine.does["healthy alone"] = raising(NotReadyError("not healthy", []))
    engine.does[step] = raising(DockerError("the Engine is gone"))
    error = failed(wanted, engine)
    assert (error.left, error.point is not None) == ("later", True)
    assert str(error) == "not healthy Then, on the way back: the Engine is gone"
    unfinished = find_unfinished(entries())
    assert unfinished is not None
    assert (unfinished["left"]["outcome"], unfinished["left"]["serve"]) == ("failed", SOURCE)


def test_with_an_account_diagnostics_are_looked_at_before_clients_are_let_in(wanted: Switch, engine: Engine) -> None:
    with_account = dataclasses.replace(wanted, account=Account("admin", "correct-horse-battery"))
    switch(with_account, engine.pin)
    look = "diagnostics opstage-web-1 admin 0.3.0"
    assert engine.asked[3:] == ["start /state/isolation.yml", "healthy alone", look, "start", "healthy"]
    assert "correct-horse-battery" not in str(entries()) + repr(with_account)


def test_another_version_in_diagnostics_is_rolled_back(wanted: Switch, engine: Engine) -> None:
    engine.does["diagnostics opstage-web-1 admin 0.3.0"] = raising(DiagnosticsError("another version"))
    error = failed(dataclasses.replace(wanted, account=Account("admin", "correct-horse-battery")), engine)
    assert (error.left, str(error), "start" in engine.asked) == ("replaced", "another version", False)


def test_clients_who_could_not_come_in_wrote_nothing(wanted: Switch, engine: Engine) -> None:
    engine.does["start"] = raising(DockerError("the port is taken"))
    engine.has_served = False
    error = failed(wanted, engine)
    assert (error.left, entries()[-1]["status"]) == ("replaced", "failed")


@pytest.mark.parametrize("step", ["start", "healthy"])
def test_what_clients_may_have_written_is_not_undone(wanted: Switch, engine: Engine, step: str) -> None:
    engine.does[step] = raising(NotReadyError("unhealthy now", []))
    error = failed(wanted, engine)
    assert error.left == "stay"
    assert error.point is not None
    last = entries()[-1]
    assert (last["status"], last["recovery_point"], last["cause"]) == ("finished", error.point.path, "unhealthy now")


@pytest.mark.parametrize(
    ("statement", "drops", "left"),
    [
        ("DELETE FROM entries WHERE number > 15", (), "replaced"),
        ("DELETE FROM entries WHERE number > 15", ("entries",), None),
        ("INSERT INTO entries VALUES (99, 'migrated')", (), None),
    ],
)
def test_without_a_rehearsal_the_data_is_looked_at_before_clients_are_let_in(
    wanted: Switch, engine: Engine, statement: str, drops: tuple[str, ...], left: str | None
) -> None:
    engine.does["start /state/isolation.yml"] = lambda: engine.write(statement)
    unrehearsed = dataclasses.replace(wanted, rehearsal_seconds=None, drops=drops)
    if left is None:
        switch(unrehearsed, engine.pin)
        return
    error = failed(unrehearsed, engine)
    assert (error.left, "start" in engine.asked) == (left, False)
    assert "The migrations drop rows: entries: 6 removed" in str(error)


def test_what_the_next_run_is_to_complete(wanted: Switch, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade_switch, "complete_recovery_point", lambda *_arguments: raising(OSError("no room"))())
    error = failed(wanted, engine)
    assert (error.left, str(error)) == ("later", "no room")
    unfinished = find_unfinished(entries())
    assert unfinished is not None
    assert (unfinished["left"]["action"], unfinished["left"]["outcome"]) == ("start", "finished")
    assert Path(unfinished["left"]["complete"], "taken", "opstage.db").exists()


def test_a_lost_lock_ends_it_before_anything_is_touched(wanted: Switch, engine: Engine) -> None:
    error = failed(dataclasses.replace(wanted, lock="somebody else's"), engine)
    assert (error.left, engine.asked[1:], entries()) == ("nothing", [], [])
    assert "does not hold the lock" in str(error)
