# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The steps of an upgrade on one host, and how each is done and undone by hand, without Ansible.

The commands name what a host says of itself, whatever characters are in it, and do nothing else in a shell than to name it.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Mapping, Sequence

from .changelogs import presentable
from .compose_image import PinResult
from .compose_overrides import ISOLATION, isolation_override
from .markdown import code, fenced
from .opstage_api import URL_IN_CONTAINER

FOLDER = "by-hand"
"""Below the folder of all recovery points: what is kept by hand. It is no project's, so nothing ever removes it."""

TOOLS = ("docker version", "docker compose version", "sqlite3 --version", "curl --version")
"""What the commands need on the host; `VACUUM INTO` is in SQLite since 3.27."""

_USER_IN_URL = "***@"


@dataclass(frozen=True)
class RunbookRequest:
    """What the runbook of one host is made of.

    host: its name in the inventory. deployment: the fields of deployment.Deployment. plan: those of
    upgrade_preflight.UpgradePlan. changelog: what there is to read of the versions on the way. root: the folder of all
    recovery points. timeout: seconds within which a started Opstage must be healthy. window: a maintenance window
    (maintenance_window.parse_window), None for any time. database_bytes: of the database and its log together. pins:
    how the project's files would name the image of each step of the path, from what they say now; empty for unknown.
    """

    host: str
    deployment: Mapping[str, Any]
    plan: Mapping[str, Any]
    changelog: str
    root: str
    rehearse: bool
    timeout: int
    window: str | None
    database_bytes: int
    pins: Sequence[PinResult] = ()


@dataclass(frozen=True)
class _Step:
    """One row of the table; `by_hand` is Markdown that says how to do it without Ansible."""

    title: str
    happens: str
    checked: str
    service: str
    way_back: str
    by_hand: str


@dataclass(frozen=True)
class _Leg:
    """From one version of the path to the next: `old` and `new` are images of the plan, as its source and target are.

    stamp: makes names new. folder: where what leads back is kept by hand. tag_back: the command that gives the old tag back to the old image,
    empty where it cannot have moved. pin: how the project's files name the new image, None for unknown.
    """

    request: RunbookRequest
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    stamp: str
    folder: str
    tag_back: str
    pin: PinResult | None


def _name(image: Mapping[str, Any]) -> str:
    """What to call the version that an image has, in Markdown."""
    return code(str(image["version"] or image["tag"] or image["image"]))


def _legs(request: RunbookRequest, now: datetime) -> list[_Leg]:
    plan, deployment = request.plan, request.deployment
    stamp = f"{now:%Y%m%dT%H%M%SZ}"
    legs = []
    before = plan["source"]
    for number, step in enumerate(plan["path"]):
        folder = posixpath.join(request.root, FOLDER, f"{deployment['project']}-{stamp}", f"to-{step['tag']}")
        tag_back = ""
        if number == 0 and before["tag"] is not None and before["pinned_digest"] is None:
            tag_back = shell_line("docker", "tag", before["image_id"], f"{deployment['repository']}:{before['tag']}")
        pin = request.pins[number] if number < len(request.pins) else None
        legs.append(_Leg(request, before, step, stamp, folder, tag_back, pin))
        before = step
    return legs


def _number_steps(request: RunbookRequest, now: datetime) -> list[_Step]:
    legs = _legs(request, now)
    steps = [_look(request, legs)]
    for leg in legs:
        steps += [_pull(leg), _copy_online(leg)]
        steps += [_rehearse(leg)] if request.rehearse else []
        steps += [_pin(leg), _stop(leg), _start_isolated(leg), _let_in(leg), _complete(leg)]
    return steps


def _compose(leg: _Leg, *arguments: str, overrides: Sequence[str] = ()) -> str:
    """A `docker compose` command for the deployment's project."""
    deployment = leg.request.deployment
    words = ["docker", "compose", "--project-directory", deployment["project_dir"]]
    words += ["--project-name", deployment["project"]]
    for path in deployment["environment_files"]:
        words += ["--env-file", path]
    for path in [*deployment["config_files"], *overrides]:
        words += ["--file", path]
    return shell_line(*words, *arguments)


def _up(leg: _Leg, overrides: Sequence[str] = ()) -> str:
    """Nothing is pulled or built, and no other service is touched."""
    options = ["--detach", "--no-deps", "--no-build", "--pull", "never"]
    return _compose(leg, "up", *options, leg.request.deployment["service"], overrides=overrides)


def _answer(leg: _Leg, path: str) -> str:
    """Wait until the service answers clients, and print what."""
    url = presentable(leg.request.deployment["url"]).replace(_USER_IN_URL, "")
    loop = 'until curl --fail --silent "$0"; do sleep 1; done; echo'
    return shell_line("timeout", str(leg.request.timeout), "sh", "-c", loop, f"{url}{path}")


def _answer_inside(leg: _Leg, container: str, path: str) -> str:
    """Wait until the service answers in its container, which has no network, and print what."""
    script = f'fetch("{URL_IN_CONTAINER}{path}").then(answer => answer.text()).then(console.log)'
    loop = 'until docker exec "$0" node -e "$1"; do sleep 1; done'
    return shell_line("timeout", str(leg.request.timeout), "sh", "-c", loop, container, script)


def _expected(image: Mapping[str, Any]) -> str:
    """What the answers for health and version must be."""
    version = f"`version` {code(image['version'])}" if image["version"] else "the version that is meant"
    return f"Of what is answered, the health must have `status` `UP` in its `data`, the other {version}."


def _database(leg: _Leg, suffix: str = "") -> str:
    return f"{leg.request.deployment['database']}{suffix}"


def _kept(leg: _Leg, name: str = "") -> str:
    """A path in the folder of what leads back; the database's copy has the database's own name."""
    return posixpath.join(leg.folder, name or posixpath.basename(leg.request.deployment["database"]))


def _kept_file(leg: _Leg, pin: PinResult) -> str:
    return posixpath.join(leg.folder, f"was-{posixpath.basename(pin.file)}")


def _look(request: RunbookRequest, legs: Sequence[_Leg]) -> _Step:
    first = legs[0]
    by_hand = _commands(
        "umask 077",
        " && ".join(TOOLS),
        shell_line("mkdir", "-p", posixpath.dirname(posixpath.dirname(first.folder))),
        shell_line("mkdir", posixpath.dirname(first.folder), *(leg.folder for leg in legs)),
        shell_line("df", "-Pk", first.folder, posixpath.dirname(request.deployment["database"])),
        _answer(first, "/api/system/health"),
        _answer(first, "/api/system/version"),
    )
    said = (
        "All tools answer. The folders that are made hold what leads back; where they exist already, this runbook was "
        "begun before: see how far, or have a new one made. There is room on both disks: as much as the recovery points "
        f"take, and twice the database beside it. {_expected(first.old)}"
    )
    return _Step(
        "Look first",
        "Takes the lock and looks for all that can be known to fail",
        "registry, digests, room, memory, health, the database, the session secret, the project's files, the window, "
        "the acknowledgement of the changelogs",
        "serves",
        "nothing to undo",
        f"{said}\n\n{by_hand}",
    )


def _pull(leg: _Leg) -> _Step:
    has_digest = "@" in leg.new["image"]
    return _Step(
        f"Pull {_name(leg.new)}",
        f"Pulls {code(leg.new['image'])}",
        "the digest, by the Engine" if has_digest else "that the registry has it",
        "serves",
        "nothing to undo: the image stays on the host",
        "\n\n".join(
            [
                "The image is on the host before anything stops. Do not prune images until the upgrade has proven "
                "itself: the old one leads back.",
                _commands(shell_line("docker", "pull", leg.new["image"])),
            ]
        ),
    )


def _copy_online(leg: _Leg) -> _Step:
    copy = posixpath.join(leg.folder, "online.db")
    sql = "VACUUM INTO '{}'".format(copy.replace("'", "''"))
    return _Step(
        "Copy while it runs",
        "Makes a recovery point while clients go on writing",
        "the copy: integrity, foreign keys, SHA-256",
        "serves",
        "nothing to undo: the recovery point stays",
        "\n\n".join(
            [
                "The first command copies the database as it is at one moment, its log included, and lets clients write "
                "meanwhile; `cp` of a live database does not. The second checks the copy, and prints `ok` and nothing "
                "else.",
                _commands(shell_line("sqlite3", "-readonly", _database(leg), sql), _check(copy)),
            ]
        ),
    )


def _check(database: str) -> str:
    return shell_line("sqlite3", "-readonly", database, "PRAGMA integrity_check; PRAGMA foreign_key_check;")


def _check_quickly(database: str) -> str:
    """What takes a tenth of the time, while the service is down."""
    return shell_line("sqlite3", "-readonly", database, "PRAGMA quick_check; PRAGMA foreign_key_check;")


def _fold(database: str) -> str:
    """Bring a copy and its log into one file, and check it."""
    return shell_line("sqlite3", database, "PRAGMA journal_mode=DELETE; PRAGMA quick_check; PRAGMA foreign_key_check;")


def _rehearse(leg: _Leg) -> _Step:
    deployment = leg.request.deployment
    folder = posixpath.join(leg.folder, "rehearsal")
    relative = posixpath.relpath(deployment["database"], deployment["data_dir"])
    copy = posixpath.join(folder, relative)
    name = f"{deployment['project']}-by-hand"
    variables = "{{range .Config.Env}}{{println .}}{{end}}"
    own = shell_line("docker", "container", "inspect", "--format", variables, deployment["container"])
    inherited = shell_line("docker", "image", "inspect", "--format", variables, deployment["image_id"])
    source = deployment["data_dir"].replace("\\", "\\\\").replace('"', '\\"')
    place = f'{{{{range .Mounts}}}}{{{{if eq .Source "{source}"}}}}{{{{.Destination}}}}{{{{end}}}}{{{{end}}}}'
    mounted = shell_line("docker", "container", "inspect", "--format", place, deployment["container"])
    mount = f'{shell_word(f"type=bind,source={folder},destination=")}"$({mounted})"'
    environment = shell_word(posixpath.join(leg.folder, "environment"))
    by_hand = _commands(
        f"{shell_line('mkdir', '-p', posixpath.dirname(copy))} && "
        f"{shell_line('cp', posixpath.join(leg.folder, 'online.db'), copy)}",
        f"{shell_line('chown', '-R', f'--reference={_database(leg)}', folder)} && {shell_line('chmod', '0755', folder)}",
        f'{own} | grep -vxF "$({inherited})" > {environment}',
        f"{shell_line('docker', 'run', '--detach', '--name', name, '--pull', 'never', '--network', 'none')} "
        f"--env-file {environment} --mount {mount} {shell_word(leg.new['image'])}",
        _answer_inside(leg, name, "/api/system/health"),
        _answer_inside(leg, name, "/api/system/version"),
        shell_line("docker", "stop", name),
        _fold(copy),
        f"{shell_line('docker', 'rm', '--force', '--volumes', name)}; {shell_line('rm', '-r', folder)}; rm {environment}",
    )
    return _Step(
        f"Rehearse {_name(leg.new)}",
        "Starts the new version on a copy of the data, without any network; removes container and copy",
        "health, version, integrity, foreign keys, that no row is gone",
        "serves",
        "nothing to undo: a failure ends the upgrade here, and nothing was touched",
        "\n\n".join(
            [
                "Gives the copy to a container of the new image, with the variables of the present one and without any "
                f"network. {_expected(leg.new)} The check prints `delete`, `ok` and nothing else. Where anything "
                f"differs, {code(shell_line('docker', 'logs', name))} says why; the last line removes it all.",
                by_hand,
            ]
        ),
    )


def _pin(leg: _Leg) -> _Step:
    shown = _compose(leg, "config", "--images", leg.request.deployment["service"])
    return _Step(
        f"Name {_name(leg.new)} in the project's files",
        "Keeps the project's files, copies the database, and writes tag and digest",
        "Compose: nothing else in the project changes",
        "serves",
        f"the old name is written again, and {_name(leg.old)} started: its data was not touched",
        "\n\n".join([_pin_by_hand(leg), _commands(*_pin_commands(leg), shown)]),
    )


def _pin_by_hand(leg: _Leg) -> str:
    if leg.pin is None:
        return (
            "Where the project's files name the image is not known. Keep a copy of the file that does "
            f"in {code(leg.folder)}, and have it name {code(leg.new['image'])}. The command shows what Compose makes of it."
        )
    change = f"line {leg.pin.line} of {code(leg.pin.file)} becomes {code(leg.pin.after)}"
    expected = f"the last command prints {code(leg.new['image'])}"
    if _sed_script(leg) is None:
        return f"Keeps the file as it is, so that it can be put back. Edit it then: {change}. After that {expected}."
    return f"Keeps the file as it is, so that it can be put back, and changes it: {change}, and {expected}."


def _pin_commands(leg: _Leg) -> list[str]:
    if leg.pin is None:
        return []
    kept = _kept_file(leg, leg.pin)
    commands = [shell_line("cp", "-p", leg.pin.file, kept)]
    script = _sed_script(leg)
    if script is not None:
        commands.append(f"{shell_line('sed', script, kept)} > {shell_word(leg.pin.file)}")
    return commands


def _sed_script(leg: _Leg) -> str | None:
    """The script by which sed changes the line, whatever version it names; None where it cannot."""
    pin = leg.pin
    if pin is None or not (pin.before + pin.after).isprintable():
        return None
    earlier = [other for other in leg.request.pins[: leg.request.pins.index(pin)] if other.file == pin.file]
    before = earlier[-1].after if earlier else pin.before
    pattern = re.sub(r"[\\.*\[^$/]", r"\\\g<0>", before)
    replacement = re.sub(r"[\\&/]", r"\\\g<0>", pin.after)
    return f"{pin.line}s/{pattern}/{replacement}/"


def _stop(leg: _Leg) -> _Step:
    log = _database(leg, "-wal")
    users = shell_line("-maxdepth", "1", "-samefile", _database(leg))
    return _Step(
        f"Stop {_name(leg.old)}",
        "Stops the service, and copies what was written to the database's log meanwhile",
        "that the copy has every acknowledged write",
        "**down**",
        f"the old name is written again, and {_name(leg.old)} started: its data was not touched",
        "\n\n".join(
            [
                "The second command prints nothing when nobody has the database open. The third copies the database "
                "*with its log*: Opstage leaves most of what was written last in there, and the database alone is an "
                "older one or empty. The fourth brings log and copy into one file and checks it: it prints `delete`, "
                "`ok` and nothing else.",
                _commands(
                    _compose(leg, "stop", leg.request.deployment["service"]),
                    f"find -L /proc/[0-9]*/fd {users} 2>/dev/null",
                    f"{shell_line('cp', '-a', _database(leg), _kept(leg))} && "
                    f"if [ -e {shell_word(log)} ]; then {shell_line('cp', '-a', log, _kept(leg) + '-wal')}; fi && sync",
                    _fold(_kept(leg)),
                ),
            ]
        ),
    )


def _start_isolated(leg: _Leg) -> _Step:
    deployment = leg.request.deployment
    override = posixpath.join(leg.folder, ISOLATION)
    content = isolation_override(deployment["service"]).decode().rstrip("\n")
    judged = "" if leg.request.rehearse else ", that no row is gone"
    return _Step(
        f"Start {_name(leg.new)} where no client reaches it",
        "Starts the new version without any network: its migrations run",
        f"health, version{judged}",
        "**down**",
        f"data, image and files of {_name(leg.old)} are put back and started: no write is lost, since no client wrote",
        "\n\n".join(
            [
                f"The first command writes an override that leaves the service without a network. "
                f"{_expected(leg.new)} The last prints `ok` and nothing else.",
                _commands(
                    f"cat > {shell_word(override)} <<'END'\n{content}\nEND",
                    _up(leg, [override]),
                    _answer_inside(leg, deployment["container"], "/api/system/health"),
                    _answer_inside(leg, deployment["container"], "/api/system/version"),
                    _check_quickly(_database(leg)),
                ),
            ]
        ),
    )


def _let_in(leg: _Leg) -> _Step:
    return _Step(
        "Let clients in",
        "Creates the container anew with its networks",
        "health and version, as a client sees them",
        f"**down**, then serves {_name(leg.new)}",
        "as before, until clients were served; after that only a rollback, which drops what they wrote",
        "\n\n".join(
            [
                f"From here on clients write into the new database. {_expected(leg.new)}",
                _commands(_up(leg), _answer(leg, "/api/system/health"), _answer(leg, "/api/system/version")),
            ]
        ),
    )


def _complete(leg: _Leg) -> _Step:
    return _Step(
        "Complete the recovery point",
        "Makes a recovery point of the copy from the stop, and writes the journal",
        "the copy and the migrated database: integrity, foreign keys, SHA-256",
        f"serves {_name(leg.new)}",
        f"a rollback to {_name(leg.old)}, which drops every write since clients were let in",
        "\n\n".join(
            [
                f"Sign in: Settings, Diagnostics must show {_name(leg.new)}. The copy is on the disk already; this is its "
                "SHA-256, to be kept with it.",
                _commands(f"{shell_line('sha256sum', _kept(leg))} | tee {shell_word(_kept(leg) + '.sha256')} && sync"),
            ]
        ),
    )


def _way_back_by_hand(leg: _Leg) -> str:
    database, log, index = _database(leg), _database(leg, "-wal"), _database(leg, "-shm")
    failed, back = f"{database}.failed-{leg.stamp}", f"{database}.back-{leg.stamp}"
    put_back = [
        _compose(leg, "stop", leg.request.deployment["service"]),
        f"test ! -e {shell_word(failed)} && {shell_line('mv', database, failed)} && "
        f"if [ -e {shell_word(log)} ]; then {shell_line('mv', log, failed + '-wal')}; fi && "
        f"{shell_line('rm', '-f', index)}",
        f"{shell_line('cp', '-a', _kept(leg), back)} && sync && {shell_line('mv', back, database)} && sync",
    ]
    pinned = "" if leg.pin is None else shell_line("cp", "-p", _kept_file(leg, leg.pin), leg.pin.file)
    start = [pinned, leg.tag_back, _up(leg), _answer(leg, "/api/system/health"), _answer(leg, "/api/system/version")]
    edited = "" if leg.pin is not None else " Before the start, have the project's file name the old image again."
    return "\n\n".join(
        [
            f"**As long as {_name(leg.new)} was never started on the data**, there is nothing to put back but the "
            f"project's file.{edited} {_expected(leg.old)}",
            _commands(*start),
            f"**Once it was started on the data**, the database is put back too, as it was at the stop of "
            f"{_name(leg.old)}. Every write since is dropped, and is then only in {code(failed)}, with its log beside "
            "it. The log must not stay where it is: it would be taken for that of the database which is put back, and "
            f"undo or damage it. The copy gets its name once it is whole.{edited}",
            _commands(*put_back, *start),
        ]
    )


def shell_word(text: str) -> str:
    """Return one word of bash that is `text`, in one line of characters that can be seen."""
    if text.isprintable():
        return shlex.quote(text)
    quoted = "".join(_ansi_c(char) for char in text)
    return f"$'{quoted}'"


def _ansi_c(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def shell_line(*words: str) -> str:
    """Return one command of bash."""
    return " ".join(map(shell_word, words))


