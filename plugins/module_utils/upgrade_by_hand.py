# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The steps of an upgrade on one host, and how each is done and undone by hand, without Ansible.

In the commands stands what a host says of itself, quoted for bash, whatever characters are in it.
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

TOOLS = ("docker version", "docker compose version", "sqlite3 --version", "python3 --version")

_USER_IN_URL = "***@"

# A host that Ansible manages has Python, and need not have curl.
_ASK = (
    "import sys; from urllib.request import ProxyHandler, build_opener; "
    "print(build_opener(ProxyHandler({})).open(sys.argv[1], timeout=5).read().decode())"
)

_FULL_CHECK = "PRAGMA integrity_check; PRAGMA foreign_key_check;"
_QUICK_CHECK = "PRAGMA quick_check; PRAGMA foreign_key_check;"
_FOLD = f"PRAGMA journal_mode=DELETE; {_QUICK_CHECK}"


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
class Step:
    """A step of the upgrade, all in Markdown; `service` is how it is meanwhile, `by_hand` how to do it by hand."""

    title: str
    happens: str
    checked: str
    service: str
    way_back: str
    by_hand: str


@dataclass(frozen=True)
class Leg:
    """From one version of the path to the next: `old` and `new` are images, as source and target of the plan are.

    folder: where what leads back is kept by hand; stamp: what makes other names unique. tag_back: the command that
    gives the old tag back to the old image, empty where it cannot have moved. pin: how the project's files name the new
    image, None for unknown; pinned_before: what stands there until then.
    """

    request: RunbookRequest
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    folder: str
    stamp: str
    tag_back: str
    pin: PinResult | None
    pinned_before: str

    @property
    def database(self) -> str:
        """The live database."""
        return str(self.request.deployment["database"])

    @property
    def copy(self) -> str:
        """The copy of the database as it was at the stop."""
        return posixpath.join(self.folder, posixpath.basename(self.database))

    @property
    def service(self) -> str:
        """The name of the service."""
        return str(self.request.deployment["service"])


def name_of_version(image: Mapping[str, Any]) -> str:
    """Return what to call the version of an image, in Markdown."""
    return code(str(image["version"] or image["tag"] or image["image"]))


def find_legs(request: RunbookRequest, now: datetime) -> list[Leg]:
    """Return the legs of the plan's path; `now` makes the names of what is kept."""
    deployment, before = request.deployment, request.plan["source"]
    legs: list[Leg] = []
    stamp, tag_back, pinned = f"{now:%Y%m%dT%H%M%SZ}", "", ""
    if before["tag"] is not None and before["pinned_digest"] is None:
        tag_back = shell_line("docker", "tag", before["image_id"], f"{deployment['repository']}:{before['tag']}")
    for number, step in enumerate(request.plan["path"]):
        folder = posixpath.join(request.root, FOLDER, f"{deployment['project']}-{stamp}", f"to-{step['tag']}")
        pin = request.pins[number] if number < len(request.pins) else None
        legs.append(Leg(request, before, step, folder, stamp, tag_back, pin, pinned or (pin.before if pin else "")))
        before, tag_back, pinned = step, "", pin.after if pin else ""
    return legs


def find_steps(request: RunbookRequest, legs: Sequence[Leg]) -> list[Step]:
    """Return the steps of all legs, which are at least one."""
    steps = [_look(legs)]
    for leg in legs:
        steps += [_pull(leg), _copy_online(leg)]
        steps += [_rehearse(leg)] if request.rehearse else []
        steps += [_pin(leg), _stop(leg), _start_isolated(leg), _let_in(leg), _complete(leg)]
    return steps


# Commands


def shell_word(text: str) -> str:
    """Return one word of bash that is `text`, in one line of characters that can be seen."""
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_ansi_c, text))}'"


def _ansi_c(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def shell_line(*words: str) -> str:
    """Return one command of bash."""
    return " ".join(map(shell_word, words))


def _commands(said: str, *lines: str) -> str:
    """What is to be known of the commands, and they themselves, without those that are empty."""
    return f"{said}\n\n{fenced('sh', chr(10).join(line for line in lines if line))}"


def _chained(*commands: str) -> str:
    """Commands each of which is run only where the one before went well."""
    return " &&\n".join(command for command in commands if command)


def _compose(leg: Leg, *arguments: str, overrides: Sequence[str] = ()) -> str:
    """A `docker compose` command for the deployment's project."""
    deployment = leg.request.deployment
    words = ["docker", "compose", "--project-directory", deployment["project_dir"]]
    words += ["--project-name", deployment["project"]]
    for path in deployment["environment_files"]:
        words += ["--env-file", path]
    for path in [*deployment["config_files"], *overrides]:
        words += ["--file", path]
    return shell_line(*words, *arguments)


def _up(leg: Leg, *overrides: str) -> str:
    """Nothing is pulled or built, and no other service is touched."""
    options = ["--detach", "--no-deps", "--no-build", "--pull", "never"]
    return _compose(leg, "up", *options, leg.service, overrides=overrides)


def _answers(leg: Leg) -> list[str]:
    """Wait until the service answers clients, and print what it says of its health and version."""
    deployment = leg.request.deployment
    url, ca_file = presentable(deployment["url"]).replace(_USER_IN_URL, ""), deployment["ca_file"]
    loop = 'until python3 -c "$0" "$1" 2>/dev/null; do sleep 1; done'
    trust = [] if ca_file is None else ["env", f"SSL_CERT_FILE={presentable(ca_file)}"]
    wait = [*trust, "timeout", str(leg.request.timeout), "sh", "-c", loop, _ASK]
    return [shell_line(*wait, f"{url}/api/system/{name}") for name in ("health", "version")]


def _answers_inside(leg: Leg, container: str) -> list[str]:
    """The same of a container without a network, from inside, where Opstage's image has Node.js."""
    script = 'fetch("{}").then(answer => answer.text()).then(console.log)'
    loop = 'until docker exec "$0" node -e "$1" 2>/dev/null; do sleep 1; done'
    wait = ["timeout", str(leg.request.timeout), "sh", "-c", loop, container]
    urls = [f"{URL_IN_CONTAINER}/api/system/{name}" for name in ("health", "version")]
    return [shell_line(*wait, script.format(url)) for url in urls]


def _expected(image: Mapping[str, Any]) -> str:
    """What the answers must be."""
    version = f"`version` {code(image['version'])}" if image["version"] else "the version that is meant"
    return f"Of the two answers the first must have `status` `UP` in its `data`, the second {version}."


# Steps


def _look(legs: Sequence[Leg]) -> Step:
    leg = legs[0]
    folder = posixpath.dirname(leg.folder)
    return Step(
        "Look first",
        "Takes the lock, and looks for all that can be known to fail",
        "registry, digests, room, memory, health, database, session secret, project, window, acknowledgement",
        "serves",
        "nothing to undo",
        _commands(
            "All tools answer. The folders that are made hold what leads back; where they exist already, this was "
            "begun before: see how far, or have a new runbook made. There is room on both disks: as much as the "
            f"recovery points and the rehearsal take, and twice the database beside it. {_expected(leg.old)}",
            "umask 077",
            " && ".join(TOOLS),
            _chained(
                shell_line("mkdir", "-p", posixpath.dirname(folder)),
                shell_line("mkdir", folder, *(each.folder for each in legs)),
            ),
            shell_line("df", "-Pk", folder, posixpath.dirname(leg.database)),
            *_answers(leg),
        ),
    )


def _pull(leg: Leg) -> Step:
    image = leg.new["image"]
    return Step(
        f"Pull {name_of_version(leg.new)}",
        f"Pulls {code(image)}",
        "that the registry has it" if leg.new["digest"] is None else "the digest, by the Engine",
        "serves",
        "nothing to undo: the image stays",
        _commands(
            "The image is on the host before anything stops. Prune no images until the upgrade has proven itself: the "
            "old one leads back.",
            shell_line("docker", "pull", image),
        ),
    )


def _online_copy(leg: Leg) -> str:
    return posixpath.join(leg.folder, "online.db")


def _copy_online(leg: Leg) -> Step:
    copy = _online_copy(leg)
    quoted = copy.replace("'", "''")
    return Step(
        "Copy while it runs",
        "Makes a recovery point while clients go on writing",
        "the copy: integrity, foreign keys, SHA-256",
        "serves",
        "nothing to undo: the recovery point stays",
        _commands(
            "The first command copies the database with its log as it is at one moment, while clients go on writing; "
            "`cp` would mix times. The second prints `ok` and nothing else.",
            shell_line("sqlite3", "-readonly", leg.database, f"VACUUM INTO '{quoted}'"),
            shell_line("sqlite3", "-readonly", copy, _FULL_CHECK),
        ),
    )


def _rehearse(leg: Leg) -> Step:
    deployment = leg.request.deployment
    name, image = f"{deployment['project']}-by-hand", leg.new["image"]
    folder = posixpath.join(leg.folder, "rehearsal")
    copy = posixpath.join(folder, posixpath.relpath(leg.database, deployment["data_dir"]))
    environment = shell_word(posixpath.join(leg.folder, "environment"))
    logs = code(shell_line("docker", "logs", name))
    run = shell_line("docker", "run", "--detach", "--name", name, "--pull", "never", "--network", "none")
    return Step(
        f"Rehearse {name_of_version(leg.new)}",
        "Starts it on a copy of the data, without any network; then removes container and copy",
        "health, version, integrity, foreign keys, that no row is gone",
        "serves",
        "nothing to undo: a failure ends the upgrade here",
        _commands(
            "A container of the new image gets the copy, and the variables of the present one, but no network. "
            f"{_expected(leg.new)} The check prints `delete`, `ok` and nothing else. Where anything differs, {logs} "
            "says why. The last line removes it all.",
            _chained(
                shell_line("mkdir", "-p", posixpath.dirname(copy)),
                shell_line("cp", _online_copy(leg), copy),
            ),
            shell_line("chown", "-R", f"--reference={leg.database}", folder),
            f"{_variables('container', deployment['container'])} | "
            f'grep -vxF "$({_variables("image", deployment["image_id"])})" > {environment}',
            f"{run} --env-file {environment} --mount {_mounted(deployment, folder)} {shell_word(image)}",
            *_answers_inside(leg, name),
            shell_line("docker", "stop", name),
            shell_line("sqlite3", copy, _FOLD),
            f"{shell_line('docker', 'rm', '--force', '--volumes', name)}; rm -r {shell_word(folder)} {environment}",
        ),
    )


def _variables(kind: str, name: str) -> str:
    """Print the variables of a container or an image, one a line."""
    return shell_line("docker", kind, "inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", name)


def _mounted(deployment: Mapping[str, Any], folder: str) -> str:
    """The value of --mount that puts a folder in the place of the data's, wherever the container has that."""
    data = deployment["data_dir"].replace("\\", "\\\\").replace('"', '\\"')
    template = '{{range .Mounts}}{{if eq .Source "' + data + '"}}{{.Destination}}{{end}}{{end}}'
    place = shell_line("docker", "container", "inspect", "--format", template, deployment["container"])
    return f'{shell_word(f"type=bind,source={folder},destination=")}"$({place})"'


def _pin(leg: Leg) -> Step:
    return Step(
        f"Name {name_of_version(leg.new)} in the project's files",
        "Keeps the files, begins the copy of the database, and writes tag and digest",
        "Compose: nothing else in the project changes",
        "serves",
        _started_again(leg),
        _commands(
            _pin_by_hand(leg),
            _pin_commands(leg),
            _compose(leg, "config", "--images", leg.service),
        ),
    )


def _started_again(leg: Leg) -> str:
    return f"the old name is written again and {name_of_version(leg.old)} started: its data was not touched"


def _pin_by_hand(leg: Leg) -> str:
    image = code(leg.new["image"])
    if leg.pin is None:
        return (
            "Where the project's files name the image is not known. Keep a copy of the file that does in "
            f"{code(leg.folder)}, and have it name {image}, which the command then prints."
        )
    change = f"line {leg.pin.line} of {code(leg.pin.file)} becomes {code(leg.pin.after)}"
    if _sed_script(leg) is None:
        return f"Keep the file, which leads back, and edit it: {change}. The last command then prints {image}."
    return f"The file is kept, since it leads back, and changed: {change}. The last command prints {image}."


def _kept_file(leg: Leg, pin: PinResult) -> str:
    return posixpath.join(leg.folder, f"project-{posixpath.basename(pin.file)}")


def _pin_commands(leg: Leg) -> str:
    """What is kept is not kept again, once it is changed. What writes through the file keeps its owner and its mode."""
    if leg.pin is None:
        return ""
    kept, script = _kept_file(leg, leg.pin), _sed_script(leg)
    keep = f"test ! -e {shell_word(kept)} && {shell_line('cp', '-p', leg.pin.file, kept)}"
    return keep if script is None else _chained(keep, f"{shell_line('sed', script, kept)} > {shell_word(leg.pin.file)}")


def _sed_script(leg: Leg) -> str | None:
    """The script by which sed changes the line; None where it is more than one."""
    pin = leg.pin
    if pin is None or not (leg.pinned_before + pin.after).isprintable():
        return None
    pattern = re.sub(r"[\\.*\[^$/]", r"\\\g<0>", leg.pinned_before)
    replacement = re.sub(r"[\\&/]", r"\\\g<0>", pin.after)
    return f"{pin.line}s/{pattern}/{replacement}/"


def _users(leg: Leg) -> str:
    """Print who has the database open, by its file and not by its name, which is another one in a container."""
    return f"find -L /proc/[0-9]*/fd {shell_line('-maxdepth', '1', '-samefile', leg.database)} 2>/dev/null"


def _with_log(leg: Leg, destination: str, *command: str) -> str:
    """Do to the database's log, where there is one, what was done to the database."""
    log, moved = f"{leg.database}-wal", f"{destination}-wal"
    done = f"{shell_line(*command, log, moved)} && {shell_line('sync', moved)}"
    return f"if [ -e {shell_word(log)} ]; then {done}; fi"


def _stop(leg: Leg) -> Step:
    return Step(
        f"Stop {name_of_version(leg.old)}",
        "Stops the service, and copies what was written to the database's log last",
        "that the copy has every acknowledged write",
        "**down**",
        _started_again(leg),
        _commands(
            "The second command prints nothing when nobody has the database open. The third copies the database *with "
            "its log*: Opstage leaves what was written last in there, and without it the copy is older, or empty. The "
            "last brings the copy's log into the copy and checks it: it prints `delete`, `ok` and nothing else.",
            _compose(leg, "stop", leg.service),
            _users(leg),
            _chained(
                f"test ! -e {shell_word(leg.copy)}",
                shell_line("cp", "-a", leg.database, leg.copy),
                _with_log(leg, leg.copy, "cp", "-a"),
                shell_line("sync", leg.copy, leg.folder),
            ),
            shell_line("sqlite3", leg.copy, _FOLD),
        ),
    )


def _start_isolated(leg: Leg) -> Step:
    override = posixpath.join(leg.folder, ISOLATION)
    judged = "health, version" if leg.request.rehearse else "health, version, that no row is gone"
    return Step(
        f"Start {name_of_version(leg.new)} where no client reaches it",
        "Starts it without any network; its migrations run",
        judged,
        "**down**",
        f"data, files and image of {name_of_version(leg.old)} are put back and started: no write is lost, since no "
        "client wrote",
        _commands(
            "The first command writes an override that leaves the service without a network. "
            f"{_expected(leg.new)} The last command prints `ok` and nothing else.",
            f"cat > {shell_word(override)} <<'END'\n{isolation_override(leg.service).decode()}END",
            _up(leg, override),
            *_answers_inside(leg, leg.request.deployment["container"]),
            shell_line("sqlite3", "-readonly", leg.database, _QUICK_CHECK),
        ),
    )


def _let_in(leg: Leg) -> Step:
    return Step(
        "Let clients in",
        "Creates the container anew, with its networks",
        "health and version, as a client sees them",
        f"**down**, then serves {name_of_version(leg.new)}",
        "as before, until it has served; from then on only a rollback, which drops what clients wrote",
        _commands(
            f"From here on clients write into the new database. {_expected(leg.new)}",
            _up(leg),
            *_answers(leg),
        ),
    )


def _complete(leg: Leg) -> Step:
    checksum = f"{leg.copy}.sha256"
    return Step(
        "Complete the recovery point",
        "Makes a recovery point of the copy from the stop, and writes the journal",
        "the copy, and the migrated database: integrity, foreign keys, SHA-256",
        f"serves {name_of_version(leg.new)}",
        f"a rollback to {name_of_version(leg.old)}, which drops every write since clients were let in",
        _commands(
            f"Settings, Diagnostics must show {name_of_version(leg.new)} to whoever signs in. The copy from the stop "
            "leads back: its SHA-256 is kept with it.",
            f"{shell_line('sha256sum', leg.copy)} > {shell_word(checksum)} && {shell_line('sync', checksum)}",
        ),
    )


def way_back_by_hand(leg: Leg) -> str:
    """Return how to go back from the leg's new version to the old one, in Markdown."""
    failed, back = f"{leg.database}.failed-{leg.stamp}", f"{leg.database}.back-{leg.stamp}"
    put_back = [
        _compose(leg, "stop", leg.service),
        f'test -z "$({_users(leg)})"',
        f"test ! -e {shell_word(f'{leg.copy}-wal')}",
        shell_line("cp", "-a", leg.copy, back),
        shell_line("sync", back),
        f"test ! -e {shell_word(failed)}",
        shell_line("mv", leg.database, failed),
        _with_log(leg, failed, "mv"),
        shell_line("rm", "-f", f"{leg.database}-shm"),
        shell_line("mv", back, leg.database),
        shell_line("sync", posixpath.dirname(leg.database)),
    ]
    pinned = "" if leg.pin is None else shell_line("cp", "-p", _kept_file(leg, leg.pin), leg.pin.file)
    start = [pinned, leg.tag_back, _up(leg)]
    edit = "" if leg.pin is not None else " First have the project's file name the old image again."
    new, old = name_of_version(leg.new), name_of_version(leg.old)
    untouched = (
        f"**As long as {new} was never started on the data**, nothing is to be put back but the project's file.{edit} "
        f"{_expected(leg.old)}"
    )
    touched = (
        f"**Once {new} was started on the data**, the database is put back too, as it was at the stop of {old}. Every "
        f"write since is dropped, and is then only in {code(failed)}, which has its log beside it. The log must not "
        "stay where it is: it would be taken for that of the database which is put back, and undo or damage it. "
        f"Nothing is started unless all of it went well.{edit}"
    )
    first = _commands(untouched, _chained(*start), *_answers(leg))
    return f"{first}\n\n{_commands(touched, _chained(*put_back, *start), *_answers(leg))}"
