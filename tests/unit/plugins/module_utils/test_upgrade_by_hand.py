# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands are taken from the runbook and run by bash, on real databases; Compose reads the project's real files.

Only what needs an Engine is made up, by a `docker` that notes what it is asked for.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import compose_command
import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.compose_image import PinResult
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_by_hand import (
    RunbookRequest,
    find_legs,
    find_steps,
    shell_word,
    way_back_by_hand,
)
from ansible_collections.capsule.opstage.plugins.module_utils.upgrade_runbook import look_at_host
from console_testing import Console, PrivateAuthority, serving_console
from opstage_testing import answers, serving
from sqlite_testing import HOLDER, fingerprint, killed_deployment, names_in, numbers_in, running

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
REPOSITORY = "registry:5000/opstage"
IMAGE_ID = "sha256:" + "9" * 64
OWNER = 100
AWKWARD = 'it\'s $(touch planted); "a" b'

# Notes its arguments; Compose itself does all but stop and start. A start of a newer version migrates: it writes a row
# for each, and is killed.
DOCKER = """#!{python}
import os, sqlite3, sys
arguments = sys.argv[1:]
with open({calls!r}, "a") as file:
    file.write(" ".join(arguments) + "\\n")
if arguments[0] == "compose" and not {{"up", "stop"}} & set(arguments):
    os.environ["PATH"] = {path!r}
    os.execvp("docker", ["docker", *arguments])
if arguments[:2] == ["container", "inspect"]:
    print("/app/data" if "Destination" in arguments[3] else "OPSTAGE_SESSION_SECRET=secret\\nPATH=/bin")
if arguments[:2] == ["image", "inspect"]:
    print("PATH=/bin")
if arguments[0] == "run" and os.stat({rehearsal!r}).st_uid != {owner}:
    sys.exit("not its owner's to rehearse on")
if "up" in arguments:
    with open({compose!r}) as file:
        text = file.read()
    for number, tag in ((1003, ":0.3.0"), (1004, ":0.4.0")):
        if tag in text:
            database = sqlite3.connect({database!r}, isolation_level=None)
            database.execute("INSERT OR IGNORE INTO entries VALUES (?, 'migrated')", (number,))
            os._exit(0)
"""


class Place:
    """A host with one deployment, killed with everything in the log, and a root shell on it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.project, self.data, self.root = folder / "project", folder / "data", folder / "backups"
        for path in (self.project, self.data, folder / "programs"):
            path.mkdir()
        self.compose = self.project / "compose.yml"
        self.compose.write_text(
            "# Which one it is.\n"
            "services:\n"
            f"  web: {{image: '{REPOSITORY}:0.2.0', network_mode: none}}\n"
            f"  other:\n    image: {REPOSITORY}:0.2.0\n"
        )
        self.compose.chmod(0o640)
        self.database = self.data / "opstage.db"
        self.rows = killed_deployment(self.database)
        for path in (self.data, *self.data.iterdir()):
            os.chown(path, OWNER, OWNER + 1)
        self.numbers = list(range(1, self.rows + 1))
        self.calls_file = folder / "calls"
        self.deployment: dict[str, Any] = {
            "project": "web",
            "project_dir": str(self.project),
            "config_files": [str(self.compose)],
            "environment_files": [],
            "service": "web",
            "container": "web-web-1",
            "repository": REPOSITORY,
            "image_id": IMAGE_ID,
            "data_dir": str(self.data),
            "database": str(self.database),
            "url": url,
            "ca_file": None,
        }
        docker = folder / "programs" / "docker"
        rehearsal = self.root / "by-hand" / "web-20261123T093000Z" / "to-0.3.0" / "rehearsal" / "opstage.db"
        docker.write_text(
            DOCKER.format(
                python=sys.executable,
                calls=str(self.calls_file),
                path=compose_command.search_path(),
                compose=str(self.compose),
                database=str(self.database),
                rehearsal=str(rehearsal),
                owner=OWNER,
            )
        )
        docker.chmod(0o755)

    def request(self, *versions: str, rehearse: bool = True) -> RunbookRequest:
        path = [image(version) for version in versions]
        plan = {"source": {**image("0.2.0"), "image_id": IMAGE_ID, "pinned_digest": None}, "path": path}
        size, pins = look_at_host(self.deployment, plan)
        assert size == sum((self.data / name).stat().st_size for name in ("opstage.db", "opstage.db-wal"))
        return RunbookRequest("web1", self.deployment, plan, "", str(self.root), rehearse, 20, None, size, pins)

    def run(self, *by_hand: str) -> subprocess.CompletedProcess[str]:
        """All commands of the Markdown, in one shell that goes on after a failure, as a person's does."""
        script = "\n".join(block for text in by_hand for block in commands_in(text))
        environment = {**compose_command.environment(), "no_proxy": "*"}
        environment["PATH"] = f"{self.folder / 'programs'}{os.pathsep}{environment['PATH']}"
        return subprocess.run(
            ["bash", "-c", script],
            env=environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def nothing_is_done_by(self, by_hand: str) -> None:
        """Nothing but to stop."""
        before = (fingerprint(self.database, self.compose), numbers_in(self.database), len(self.calls))
        self.run(by_hand)
        asked = self.calls[before[2] :]
        assert (fingerprint(self.database, self.compose), numbers_in(self.database)) == before[:2]
        assert [call.rpartition(" stop ")[2] for call in asked] == ["web"]

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


def image(version: str) -> dict[str, Any]:
    digest = "sha256:" + version[2] * 64
    return {"version": version, "tag": version, "digest": digest, "image": f"{REPOSITORY}:{version}@{digest}"}


def commands_in(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("PATH", compose_command.search_path())
    folder = tmp_path / AWKWARD
    folder.mkdir()
    with serving(answers("0.2.0")) as service:
        yield Place(folder, service.url)


def test_there_and_back(place: Place, tmp_path: Path) -> None:
    before = place.compose.read_bytes()
    request = place.request("0.3.0")
    (leg,) = find_legs(request, NOW)
    steps = find_steps(request, [leg])
    done = place.run(*(step.by_hand for step in steps))
    assert done.stderr == ""
    kept = place.root / "by-hand" / "web-20261123T093000Z" / "to-0.3.0"
    # Every acknowledged write is in what leads back, though the database without its log had none.
    assert numbers_in(Path(leg.copy)) == numbers_in(kept / "online.db") == place.numbers
    assert numbers_in(place.database) == [*place.numbers, 1003]
    present = [leg.copy, str(kept / "online.db"), f"{leg.copy}.sha256", str(kept / "project-compose.yml")]
    assert names_in(kept) == sorted([*(Path(path).name for path in present), "isolation.yml"])
    assert (kept.stat().st_mode & 0o777, Path(leg.copy).stat().st_mode) == (0o700, place.database.stat().st_mode)
    changed = place.compose.read_text()
    assert changed.replace(f":0.3.0@{image('0.3.0')['digest']}", ":0.2.0", 1).encode() == before
    assert place.compose.stat().st_mode & 0o777 == 0o640
    expected = ["ok", "delete", "ok", image("0.3.0")["image"], "delete", "ok", "ok"]
    assert [line for line in done.stdout.splitlines() if line in expected] == expected
    assert done.stdout.count('"status": "UP"') == 2

    # What clients write now is what the way back drops; while somebody has the database open, it does nothing.
    undo = way_back_by_hand(leg).partition("**Once")[2]
    with running(HOLDER, str(place.database), "INSERT INTO entries VALUES (2000, 'client')"):
        place.nothing_is_done_by(undo)
    incomplete = Path(f"{leg.copy}-wal")
    incomplete.touch()
    place.nothing_is_done_by(undo)
    incomplete.unlink()
    back = place.run(undo)
    assert back.stderr == ""
    assert numbers_in(place.database) == place.numbers
    assert (place.database.stat().st_uid, place.database.stat().st_gid) == (OWNER, OWNER + 1)
    failed = place.data / "opstage.db.failed-20261123T093000Z"
    assert numbers_in(failed) == [*place.numbers, 1003, 2000]
    assert names_in(place.data) == ["opstage.db", failed.name, f"{failed.name}-wal"]
    assert place.compose.read_bytes() == before
    assert f"tag {IMAGE_ID} {REPOSITORY}:0.2.0" in place.calls
    assert not list(tmp_path.rglob("planted"))


def test_the_order_of_what_docker_is_asked_for(place: Place) -> None:
    request = place.request("0.3.0")
    legs = find_legs(request, NOW)
    place.run(*(step.by_hand for step in find_steps(request, legs)))
    wanted = {
        "pull": r"pull ",
        "rehearse": r"run ",
        "pinned": r"compose .* config --images web$",
        "stop": r"compose .* stop web$",
        "isolated": r"compose .*isolation\.yml up .* web$",
        "up": r"compose .*compose\.yml up .* web$",
    }
    found = [name for call in place.calls for name, pattern in wanted.items() if re.match(pattern, call)]
    assert found == list(wanted)
    (run,) = (call for call in place.calls if call.startswith("run "))
    assert "--network none" in run
    assert "destination=/app/data" in run
    (pulled,) = (call for call in place.calls if call.startswith("pull "))
    assert pulled == f"pull {image('0.3.0')['image']}"


def test_before_the_new_version_was_started_only_the_file_is_put_back(place: Place) -> None:
    before = place.compose.read_bytes()
    request = place.request("0.3.0", rehearse=False)
    (leg,) = find_legs(request, NOW)
    steps = find_steps(request, [leg])
    isolated = next(number for number, step in enumerate(steps) if "no client reaches it" in step.title)
    assert not any("Rehearse" in step.title for step in steps)
    place.run(*(step.by_hand for step in steps[:isolated]))
    assert place.compose.read_bytes() != before
    done = place.run(way_back_by_hand(leg).partition("**Once")[0])
    assert done.stderr == ""
    assert place.compose.read_bytes() == before
    assert numbers_in(place.database) == place.numbers
    assert place.calls[-1].endswith(" up --detach --no-deps --no-build --pull never web")


def test_what_leads_back_survives_a_second_go(place: Place) -> None:
    """A person who loses the place and begins anew must not put the migrated database over the copy of the old one."""
    request = place.request("0.3.0", rehearse=False)
    (leg,) = find_legs(request, NOW)
    steps = [step.by_hand for step in find_steps(request, [leg])]
    place.run(*steps)
    kept = Path(leg.copy)
    before = (kept.read_bytes(), (kept.parent / "project-compose.yml").read_bytes(), place.compose.read_bytes())
    place.run(*steps)
    after = (kept.read_bytes(), (kept.parent / "project-compose.yml").read_bytes(), place.compose.read_bytes())
    assert after == before
    assert numbers_in(kept) == place.numbers


def test_a_stop_on_the_way_has_its_own_way_back(place: Place) -> None:
    request = place.request("0.3.0", "0.4.0", rehearse=False)
    first, second = find_legs(request, NOW)
    assert (first.old["tag"], first.new["tag"], second.old["tag"], second.new["tag"]) == (
        "0.2.0",
        "0.3.0",
        "0.3.0",
        "0.4.0",
    )
    done = place.run(*(step.by_hand for step in find_steps(request, [first, second])))
    assert done.stderr == ""
    assert f":0.4.0@{image('0.4.0')['digest']}'" in place.compose.read_text()
    assert numbers_in(Path(first.copy)) == place.numbers
    assert numbers_in(Path(second.copy)) == [*place.numbers, 1003]
    place.run(way_back_by_hand(second).partition("**Once")[2])
    assert f":0.3.0@{image('0.3.0')['digest']}'" in place.compose.read_text()
    assert numbers_in(place.database) == [*place.numbers, 1003]
    assert not any(call.startswith("tag ") for call in place.calls)


@pytest.mark.parametrize(("before", "after"), [("image:\n  a", "image:\n  b"), (None, None)])
def test_a_file_that_cannot_be_changed_by_a_command(place: Place, before: str | None, after: str | None) -> None:
    request = place.request("0.3.0")
    (pin,) = request.pins
    pins = [] if before is None or after is None else [replace(pin, before=before, after=after)]
    request = replace(request, pins=pins)
    (leg,) = find_legs(request, NOW)
    step = next(step for step in find_steps(request, [leg]) if "in the project's files" in step.title)
    assert "sed" not in step.by_hand
    assert ("edit it: line 3 of " in step.by_hand) == bool(pins)
    assert ("is not known" in step.by_hand) != bool(pins)
    assert way_back_by_hand(leg).count("have the project's file name the old image again") == (0 if pins else 2)


@pytest.mark.parametrize("text", ["a/b.*[x]^$&\\1", "image: 'a&b' # \\/ |"])
def test_what_is_special_in_a_pattern(place: Place, text: str, tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    file.write_text(f"first\n  {text}\n{text}\n")
    digest = image("0.3.0")["digest"]
    pin = PinResult(True, "new", "old", "0.3.0", "0.2.0", None, str(file), 2, None, text, f"{text}@{digest}")
    request = replace(place.request("0.3.0"), pins=[pin])
    legs = find_legs(request, NOW)
    steps = {step.title: step.by_hand for step in find_steps(request, legs)}
    place.run(steps["Look first"], next(steps[title] for title in steps if title.startswith("Name ")))
    assert file.read_text() == f"first\n  {text}@{digest}\n{text}\n"


@pytest.mark.parametrize("url", ["http://user:hush@127.0.0.1:1", "http://127.0.0.1:1"])
def test_no_password_in_a_command(place: Place, url: str) -> None:
    place.deployment["url"] = url
    request = place.request("0.3.0")
    legs = find_legs(request, NOW)
    text = "".join(step.by_hand for step in find_steps(request, legs)) + way_back_by_hand(legs[0])
    assert " http://127.0.0.1:1/api/system/health\n" in text
    assert "hush" not in text


def test_a_certificate_of_a_private_authority(place: Place, tmp_path: Path) -> None:
    authority = PrivateAuthority(tmp_path)
    place.deployment["ca_file"] = str(authority.file)
    with serving_console(Console(instead=answers("0.3.0")), authority.certificate()) as console:
        place.deployment["url"] = console.url
        (leg,) = find_legs(place.request("0.3.0"), NOW)
        text = way_back_by_hand(leg)
        for line in {line for line in text.splitlines() if f"{console.url}/api/system/" in line}:
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, check=True)
            assert '"version": "0.3.0"' in done.stdout
        assert sorted(console.asked) == ["GET /api/system/health", "GET /api/system/version"]


@pytest.mark.parametrize(
    "text", ["plain", "it's", "", "two words", "a\nb", "\x1b[31m'\\", "ä\u202e", "a\udcffb", "$(x)`y`"]
)
def test_a_word_of_the_shell(text: str) -> None:
    word = shell_word(text)
    assert word.isprintable()
    printed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert printed == os.fsencode(text)


def test_awkward_is_awkward() -> None:
    assert shlex.quote(AWKWARD) != AWKWARD
