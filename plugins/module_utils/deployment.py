# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Find the Opstage that a host runs, and everything about it that an operation needs, from its container."""

from __future__ import annotations

import os
import posixpath
from dataclasses import asdict, dataclass
from typing import Any, Mapping

from .docker_command import inspect, run_docker
from .image_reference import parse_image_reference
from .journal import STATE_ROOT, find_unfinished, journal_path, read_entries
from .opstage_api import OpstageUnreachableError, ServiceStatus, get_service_status

IMAGE_TITLE = "Opstage CE"
"""The label org.opencontainers.image.title of every published image."""

SERVICE_PORT = "8080/tcp"
DEFAULT_DATABASE_URL = "file:/app/data/opstage.db"
LABEL_PROJECT = "com.docker.compose.project"
LABEL_SERVICE = "com.docker.compose.service"
LABEL_FOLDER = "com.docker.compose.project.working_dir"
LABEL_FILES = "com.docker.compose.project.config_files"
LABEL_REPLACE = "com.docker.compose.replace"
LABEL_ENVIRONMENT_FILES = "com.docker.compose.project.environment_file"


class DiscoveryError(Exception):
    """No deployment, more than one, or one that cannot be operated from its host."""


class NoDeploymentError(DiscoveryError):
    """The host has no Opstage at all."""


class UnseenDataError(DiscoveryError):
    """A file or folder of the container is none on its host."""


@dataclass(frozen=True)
class Deployment:
    """One Opstage CE: a service of a Compose project on this host.

    project_dir, config_files, environment_files, data_dir and database are absolute paths on the host, the last two
    empty where it cannot see them; sizes are bytes. digest: `sha256:…` of the image in its repository, None for an
    image that no registry knows. container_started: when it was last, RFC 3339, year 1 where it never was. isolated: it
    has no network, so no client reaches it. container_health is Docker's word and a hint only: the published sample's
    health check is wrong. status: `UP`, `DEGRADED` or `DOWN` as the API says, None when it does not answer. version: as
    the API says, else the image's label, else the tag; version_source says which (`api`, `label`, `tag`). ca_file: see
    opstage_api.trusting; for url.
    """

    project: str
    project_dir: str
    config_files: list[str]
    environment_files: list[str]
    service: str
    container: str
    container_status: str
    container_started: str
    container_health: str | None
    isolated: bool
    image: str
    repository: str
    tag: str | None
    digest: str | None
    image_id: str
    data_dir: str
    database: str
    database_size: int | None
    url: str
    ca_file: str | None
    status: str | None
    version: str | None
    version_source: str
    edition: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values."""
        return asdict(self)


def discover_deployment(
    project_dir: str | None = None,
    service: str | None = None,
    url: str | None = None,
    require_data: bool = True,
    ca_file: str | None = None,
) -> Deployment:
    """Find the one deployment on this host, running or stopped, and describe it.

    `project_dir`, `service` and `url` narrow the search or override what is found. Without `require_data`, one whose
    database the host cannot see is described without it. ca_file: see opstage_api.trusting.
    Raises DiscoveryError, NoDeploymentError and UnseenDataError among them, DockerError, JournalError.
    """
    container = choose_container(list_containers(), project_dir, service)
    images = inspect("image", [container["Image"]])
    data_dir, database = _data_on_host(container, require_data)
    address = url or recorded_url(container) or service_url(container)
    answer = ask(address, ca_file)
    return describe_deployment(container, images[0], data_dir, database, address, answer, ca_file)


def _data_on_host(container: Mapping[str, Any], required: bool) -> tuple[str, str]:
    """What locate_database returns; empty where the host cannot see it, and need not."""
    try:
        return locate_database(container)
    except UnseenDataError as error:
        if required:
            raise UnseenDataError(
                f"{error} Only a backup is possible as it is: the service makes the copy itself where "
                "opstage_backup_method is api."
            ) from error
        return "", ""


def ask(url: str, ca_file: str | None) -> ServiceStatus | None:
    """Return what the service at `url` says of itself, None when it does not answer."""
    try:
        return get_service_status(url, ca_file=ca_file)
    except OpstageUnreachableError:
        return None


def list_containers() -> list[dict[str, Any]]:
    """Return Docker's description of every container that Compose made for a service, running or not.

    Where Compose was cut off while it replaced one, the old one is left out: the next `up` ends that.
    """
    arguments = ["ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={LABEL_SERVICE}"]
    arguments += ["--filter", "label=com.docker.compose.oneoff=False"]
    containers = inspect("container", run_docker(arguments).split())
    replaced = {label(container, LABEL_REPLACE) for container in containers}
    return [container for container in containers if container["Id"] not in replaced]


def find_container(project: str, service: str) -> str:
    """Return the name of the container that Compose made for the service; raises DiscoveryError, DockerError."""
    return name_of(describe_container(project, service))


def describe_container(project: str, service: str) -> dict[str, Any]:
    """Return Docker's description of that container; raises DiscoveryError, DockerError."""
    wanted = (project, service)
    for container in list_containers():
        if (label(container, LABEL_PROJECT), label(container, LABEL_SERVICE)) == wanted:
            return container
    raise DiscoveryError(f"The service {service} of the project {project} has no container any more.")


def label(container: Mapping[str, Any], name: str) -> str:
    """Return a label of the container, empty where it has none."""
    return str((container["Config"].get("Labels") or {}).get(name, ""))


def choose_container(containers: list[dict[str, Any]], project_dir: str | None, service: str | None) -> dict[str, Any]:
    """Return the container of the only Opstage among `containers`.

    An Opstage is known by its image's title; where the operator names the service, the name is believed instead.
    Raises DiscoveryError when none or several are left, NoDeploymentError when there was none to choose from.
    """
    titled = [item for item in containers if label(item, "org.opencontainers.image.title") == IMAGE_TITLE]
    matching = [item for item in containers if label(item, LABEL_SERVICE) == service] if service else titled
    has_any = bool(matching or titled)
    if project_dir is not None:
        wanted = os.path.realpath(project_dir)
        matching = [item for item in matching if os.path.realpath(label(item, LABEL_FOLDER)) == wanted]
    if len(matching) == 1:
        return matching[0]
    sought = f"project folder {project_dir or 'any'}, service {service or 'any with the image title ' + IMAGE_TITLE}"
    if not matching:
        problem = DiscoveryError if has_any else NoDeploymentError
        raise problem(
            f"No container of Opstage was found among {len(containers)} containers of Compose services ({sought}). "
            "Create it with `docker compose up --no-start` in its project folder, or set opstage_project_dir "
            "and opstage_service to what `docker ps --all` shows."
        )
    found = ", ".join(
        sorted(f"service {label(item, LABEL_SERVICE)} in {label(item, LABEL_FOLDER)}" for item in matching)
    )
    raise DiscoveryError(
        f"{len(matching)} containers of Opstage were found, expected one ({sought}): {found}. "
        "Name one with opstage_project_dir and, if need be, opstage_service."
    )


def container_environment(container: Mapping[str, Any], name: str) -> str | None:
    """Return one environment variable of the container."""
    for assignment in container["Config"].get("Env") or []:
        key, _separator, value = assignment.partition("=")
        if key == name:
            return str(value)
    return None


def locate_database(container: Mapping[str, Any]) -> tuple[str, str]:
    """Return where the data directory and the database lie on the host.

    Follows DATABASE_URL, which is what Opstage reads, through the container's mounts. Raises DiscoveryError, as
    UnseenDataError when the database is not in a mounted directory that the host can see.
    """
    address = container_environment(container, "DATABASE_URL") or DEFAULT_DATABASE_URL
    if not address.startswith("file:"):
        raise DiscoveryError(f"DATABASE_URL of {name_of(container)} does not begin with file: as SQLite's does.")
    inside = _path_inside(container, address[len("file:") :].split("?", 1)[0])
    mount = _mount_of(container, inside)
    if mount is None:
        raise UnseenDataError(
            f"The database {inside} of {name_of(container)} lies in no mount, so it goes with the container and the "
            "host cannot see it. Mount a volume or a host directory at its folder."
        )
    if mount["Destination"] == inside:
        raise UnseenDataError(
            f"The mount of {name_of(container)} is the single file {inside}: its log (-wal) stays inside the "
            "container, where the host cannot see it. Mount the whole folder instead."
        )
    return _on_host(container, mount, inside)


def locate_folder(container: Mapping[str, Any], folder: str) -> str:
    """Return where a folder of the container lies on the host.

    `folder` is as a process of the container names it, perhaps from its working directory on. Below what is mounted,
    links are not followed: those are the container's. Raises UnseenDataError.
    """
    inside = _path_inside(container, folder)
    mount = _mount_of(container, inside)
    if mount is None:
        raise UnseenDataError(f"The folder {inside} of {name_of(container)} lies in no mount: the host cannot see it.")
    return _on_host(container, mount, inside)[1]


def _path_inside(container: Mapping[str, Any], path: str) -> str:
    return posixpath.normpath(posixpath.join(container["Config"].get("WorkingDir") or "/", path))


def _mount_of(container: Mapping[str, Any], inside: str) -> Mapping[str, Any] | None:
    """The mount that a path of the container lies in, or is."""
    mounts = [item for item in container.get("Mounts") or [] if _lies_in(inside, item["Destination"])]
    return max(mounts, key=lambda item: len(item["Destination"])) if mounts else None


def _on_host(container: Mapping[str, Any], mount: Mapping[str, Any], inside: str) -> tuple[str, str]:
    """Where a mount lies on the host, and a path of the container in it; raises UnseenDataError."""
    if mount["Type"] not in ("volume", "bind") or not os.path.isdir(mount["Source"]):
        raise UnseenDataError(
            f"The data of {name_of(container)} is a mount of type {mount['Type']} at {mount.get('Source')!r}, "
            "which is no folder on this host. Expected a named volume of the local driver or a host directory."
        )
    folder = os.path.realpath(mount["Source"])
    return folder, os.path.normpath(os.path.join(folder, posixpath.relpath(inside, mount["Destination"])))


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def name_of(container: Mapping[str, Any]) -> str:
    """Return the container's name as `docker ps` shows it."""
    return str(container["Name"]).lstrip("/")


def recorded_url(container: Mapping[str, Any]) -> str | None:
    """Return where the service was reached before an operation that was cut off took its network away."""
    if container["HostConfig"].get("NetworkMode") != "none":
        return None
    unfinished = find_unfinished(read_entries(journal_path(label(container, LABEL_PROJECT))))
    source = unfinished["details"].get("source") or {} if unfinished else {}
    return source.get("url")


def service_url(container: Mapping[str, Any]) -> str:
    """Return the address at which this host reaches the service.

    The published port, as Docker bound it or, for a stopped container, as it will; else the container's own
    address. Raises DiscoveryError when there is neither.
    """
    network = container["NetworkSettings"]
    bindings = (network.get("Ports") or {}).get(SERVICE_PORT)
    bindings = bindings or (container["HostConfig"].get("PortBindings") or {}).get(SERVICE_PORT)
    for binding in bindings or []:
        address, port = binding.get("HostIp", ""), binding.get("HostPort", "")
        if port and ":" not in address:
            return f"http://{'127.0.0.1' if address in ('', '0.0.0.0') else address}:{port}"
        if port:
            return f"http://[{'::1' if address == '::' else address}]:{port}"
    if container["HostConfig"].get("NetworkMode") == "host":
        return "http://127.0.0.1:8080"
    for endpoint in (network.get("Networks") or {}).values():
        if endpoint.get("IPAddress"):
            return f"http://{endpoint['IPAddress']}:8080"
    raise DiscoveryError(
        f"{name_of(container)} publishes no port for {SERVICE_PORT} and has no address while it is stopped: "
        "set opstage_url to where this host reaches it."
    )


def describe_deployment(
    container: Mapping[str, Any],
    image: Mapping[str, Any],
    data_dir: str,
    database: str,
    url: str,
    answer: ServiceStatus | None,
    ca_file: str | None = None,
) -> Deployment:
    """Put together what Docker and the service's own answer say."""
    state = container["State"]
    reference = parse_image_reference(container["Config"]["Image"])
    version, source = _version(answer, label(container, "org.opencontainers.image.version"), reference.tag)
    return Deployment(
        project=label(container, LABEL_PROJECT),
        project_dir=label(container, LABEL_FOLDER),
        config_files=_paths(label(container, LABEL_FILES)),
        environment_files=_paths(label(container, LABEL_ENVIRONMENT_FILES)),
        service=label(container, LABEL_SERVICE),
        container=name_of(container),
        container_status=state["Status"],
        container_started=state["StartedAt"],
        container_health=(state.get("Health") or {}).get("Status"),
        isolated=container["HostConfig"].get("NetworkMode") == "none",
        image=container["Config"]["Image"],
        repository=reference.repository,
        tag=reference.tag,
        digest=_digest(image, reference.repository),
        image_id=image["Id"],
        data_dir=data_dir,
        database=database,
        database_size=os.lstat(database).st_size if os.path.lexists(database) else None,
        url=url,
        ca_file=ca_file,
        status=answer.status if answer else None,
        version=version,
        version_source=source,
        edition=answer.edition if answer else None,
    )


def _paths(text: str) -> list[str]:
    """Return the project's own files: an operation that was cut off may have left the collection's overrides."""
    return [path for path in text.split(",") if path and not path.startswith(f"{STATE_ROOT}/")]


def _digest(image: Mapping[str, Any], repository: str) -> str | None:
    """Return the digest under which `repository` holds the image; Docker lists one for each repository."""
    for known in image.get("RepoDigests") or []:
        name, _separator, digest = known.partition("@")
        if name == repository:
            return str(digest)
    return None


def _version(answer: ServiceStatus | None, labelled: str, tag: str | None) -> tuple[str | None, str]:
    if answer is not None and answer.version:
        return answer.version, "api"
    if labelled:
        return labelled, "label"
    return tag, "tag"
