# SPDX-License-Identifier: GPL-3.0-or-later
"""Discovery, from what Docker said of the containers of data/deployments/compose.yml."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils import deployment, journal
from ansible_collections.capsule.opstage.plugins.module_utils.deployment import (
    DiscoveryError,
    NoDeploymentError,
    UnseenDataError,
    choose_container,
    describe_deployment,
    discover_deployment,
    find_container,
    label,
    list_containers,
    locate_database,
    locate_folder,
    service_url,
)
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_api import ServiceStatus
from console_testing import Console, PrivateAuthority, serving_console
from opstage_testing import (
    RecordedDocker,
    answers,
    recorded_container,
    recorded_containers,
    recorded_image,
    serving,
    unused_url,
)

REPOSITORY = "127.0.0.1:44675/xtrape-com/xtrape-capsule-ce"
SERVING = ServiceStatus("UP", "0.2.0", "ce")


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedDocker:
    return RecordedDocker(tmp_path / "docker", monkeypatch)


def placed(container: dict[str, Any], root: Path) -> dict[str, Any]:
    """The container with its folders on the host below `root`, where they are made."""
    mounts = []
    for mount in container["Mounts"]:
        source = Path(f"{root}{mount['Source']}") if mount["Source"] else None
        if source and source.suffix == ".db":
            source.parent.mkdir(parents=True, exist_ok=True)
            source.touch()
        elif source:
            source.mkdir(parents=True)
        mounts.append({**mount, "Source": str(source or "")})
    return {**container, "Mounts": mounts}


def elsewhere(container: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The container as one of a project in another folder."""
    labels = {**container["Config"]["Labels"], "com.docker.compose.project.working_dir": str(folder)}
    return {**container, "Config": {**container["Config"], "Labels": labels}}


def describe(container: Mapping[str, Any], status: ServiceStatus | None = SERVING) -> dict[str, Any]:
    image = recorded_image(container["Image"])
    return describe_deployment(container, image, "/data", "/data/none.db", "http://u", status).as_dict()


class TestChoose:
    def test_the_only_one(self) -> None:
        containers = [recorded_container("published"), recorded_container("without-title")]
        assert choose_container(containers, None, None) is containers[0]

    @pytest.mark.parametrize(
        ("project_dir", "service", "has_none"),
        [
            (None, None, False),
            ("/nowhere", None, False),
            (None, "other", False),
            (None, None, True),
            ("/nowhere", None, True),
            (None, "other", True),
        ],
    )
    def test_a_host_without_any_is_told_from_a_wrong_choice(
        self, project_dir: str | None, service: str | None, has_none: bool
    ) -> None:
        containers = [recorded_container("without-title")]
        if not has_none:
            containers += [recorded_container("published"), recorded_container("unpublished")]
        with pytest.raises(DiscoveryError) as caught:
            choose_container(containers, project_dir, service)
        assert (caught.type is NoDeploymentError) is has_none

    @pytest.mark.parametrize("containers", [[], [recorded_container("without-title")]])
    def test_none(self, containers: list[dict[str, Any]]) -> None:
        words = f"No container of Opstage was found among {len(containers)} containers of Compose services"
        with pytest.raises(DiscoveryError, match=words) as caught:
            choose_container(containers, None, None)
        assert "project folder any, service any with the image title Opstage CE" in str(caught.value)

    def test_several_are_named(self) -> None:
        containers = [recorded_container("unpublished"), recorded_container("published")]
        with pytest.raises(DiscoveryError) as caught:
            choose_container(containers, None, None)
        assert "2 containers of Opstage were found, expected one" in str(caught.value)
        assert "service published in /srv/opstage, service unpublished in /srv/opstage." in str(caught.value)

    def test_a_project_folder_narrows_also_by_a_link(self, tmp_path: Path) -> None:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
        (tmp_path / "link").symlink_to("second")
        container = recorded_container("published")
        containers = [elsewhere(container, tmp_path / name) for name in ("first", "second")]
        for named in ("second", "second/", "link", "first/../second"):
            assert choose_container(containers, f"{tmp_path}/{named}", None) is containers[1]
        with pytest.raises(DiscoveryError, match=f"project folder {tmp_path}, service any"):
            choose_container(containers, str(tmp_path), None)

    def test_a_project_that_was_started_by_a_link_is_found_by_its_folder(self, tmp_path: Path) -> None:
        (tmp_path / "project").mkdir()
        (tmp_path / "link").symlink_to("project")
        container = elsewhere(recorded_container("published"), tmp_path / "link")
        assert choose_container([container], str(tmp_path / "project"), None) is container

    def test_a_service_narrows(self) -> None:
        chosen = choose_container(recorded_containers()[:3], None, "killed")
        assert chosen["Name"] == "/opstage-killed-1"

    def test_a_named_service_is_believed_without_the_title(self) -> None:
        containers = [recorded_container("published"), recorded_container("without-title")]
        assert choose_container(containers, None, "without-title") is containers[1]
        with pytest.raises(DiscoveryError, match="service opstage"):
            choose_container(containers, None, "opstage")

    def test_a_container_without_labels(self) -> None:
        container = recorded_container("published")
        bare = {**container, "Config": {**container["Config"], "Labels": None}}
        assert choose_container([bare, container], None, None) is container


class TestList:
    def test_one_that_compose_was_replacing_is_left_out(self, docker: RecordedDocker) -> None:
        old = recorded_container("published")
        labels = {**old["Config"]["Labels"], "com.docker.compose.replace": old["Id"]}
        new = {**old, "Id": "f" * 64, "Name": f"/{old['Id'][:12]}_opstage-published-1"}
        new["Config"] = {**old["Config"], "Labels": labels}
        docker.has_containers([old, new])
        assert list_containers() == [new]
        assert find_container("opstage", "published") == new["Name"][1:]
        with pytest.raises(DiscoveryError, match="The service web of the project opstage has no container any more"):
            find_container("opstage", "web")

    def test_docker_is_asked_to_leave_out_one_off_containers(self, docker: RecordedDocker) -> None:
        recorded = recorded_containers()
        services = [item for item in recorded if label(item, "com.docker.compose.oneoff") == "False"]
        assert len(services) == len(recorded) - 1
        docker.has_containers(services)
        assert list_containers() == services
        filters = "--filter label=com.docker.compose.service --filter label=com.docker.compose.oneoff=False"
        assert docker.calls[0] == f"ps --all --quiet --no-trunc {filters}"

    def test_a_host_without_containers(self, docker: RecordedDocker) -> None:
        docker.has_containers([])
        assert list_containers() == []
        assert len(docker.calls) == 1


class TestDatabase:
    @pytest.mark.parametrize(
        ("service", "folder", "database"),
        [
            ("published", "/var/lib/docker/volumes/opstage_opstage-data/_data", "opstage.db"),
            ("unpublished", "/srv/opstage/data", "opstage.db"),
            ("never-started", "/srv/opstage/data", "opstage.db"),
            ("relative-url", "/srv/opstage/data", "sub/live.db"),
            ("nested-mounts", "/srv/opstage/data", "opstage.db"),
        ],
    )
    def test_lies_in_the_mount(self, service: str, folder: str, database: str, tmp_path: Path) -> None:
        container = placed(recorded_container(service), tmp_path)
        assert locate_database(container) == (f"{tmp_path}{folder}", f"{tmp_path}{folder}/{database}")

    def test_a_folder_whose_name_only_begins_alike_does_not_hold_it(self, tmp_path: Path) -> None:
        container = placed(recorded_container("nested-mounts"), tmp_path)
        container["Config"]["Env"] = ["DATABASE_URL=file:/app/database-of-old/opstage.db"]
        app = f"{tmp_path}/srv/opstage/app"
        assert locate_database(container) == (app, f"{app}/database-of-old/opstage.db")

    def test_the_documented_place_without_the_variable(self, tmp_path: Path) -> None:
        container = placed(recorded_container("without-title"), tmp_path)
        assert not [name for name in container["Config"]["Env"] if name.startswith("DATABASE_URL")]
        assert locate_database(container)[1] == f"{tmp_path}/srv/opstage/data/opstage.db"

    @pytest.mark.parametrize(
        ("service", "words"),
        [
            ("in-memory", "/app/data/opstage.db of opstage-in-memory-1 lies in no mount"),
            ("mounted-memory", "a mount of type tmpfs"),
            ("single-file", "is the single file /app/data/opstage.db"),
            ("other-database", "DATABASE_URL of opstage-other-database-1 does not begin with file:"),
        ],
    )
    def test_cannot_be_reached(self, service: str, words: str, tmp_path: Path) -> None:
        with pytest.raises(DiscoveryError, match=words) as caught:
            locate_database(placed(recorded_container(service), tmp_path))
        assert "hunter2" not in str(caught.value)

    def test_a_volume_that_is_on_another_machine(self) -> None:
        with pytest.raises(
            DiscoveryError, match="of type volume at '/var/lib/docker/volumes/opstage_killed-data/_data'"
        ):
            locate_database(recorded_container("killed"))


class TestFolder:
    @pytest.mark.parametrize(
        ("service", "inside", "folder"),
        [
            ("unpublished", "/app/data/backups", "/srv/opstage/data/backups"),
            ("unpublished", "./data/backups", "/srv/opstage/data/backups"),
            ("unpublished", "/app/data/", "/srv/opstage/data"),
            ("nested-mounts", "data/backups", "/srv/opstage/data/backups"),
            ("nested-mounts", "data/../backups", "/srv/opstage/app/backups"),
            ("published", "data/backups", "/var/lib/docker/volumes/opstage_opstage-data/_data/backups"),
        ],
    )
    def test_lies_in_the_mount(self, service: str, inside: str, folder: str, tmp_path: Path) -> None:
        assert locate_folder(placed(recorded_container(service), tmp_path), inside) == f"{tmp_path}{folder}"

    def test_a_link_in_the_mount_is_not_followed(self, tmp_path: Path) -> None:
        container = placed(recorded_container("unpublished"), tmp_path)
        (tmp_path / "srv/opstage/data/backups").symlink_to("/etc")
        assert locate_folder(container, "data/backups") == f"{tmp_path}/srv/opstage/data/backups"

    @pytest.mark.parametrize(
        ("service", "inside", "words"),
        [
            ("unpublished", "/var/backups", "folder /var/backups of opstage-unpublished-1 lies in no mount"),
            ("unpublished", "data/../..", "folder / of"),
            ("mounted-memory", "data/backups", "a mount of type tmpfs"),
        ],
    )
    def test_cannot_be_seen(self, service: str, inside: str, words: str, tmp_path: Path) -> None:
        with pytest.raises(UnseenDataError, match=words):
            locate_folder(placed(recorded_container(service), tmp_path), inside)


class TestUrl:
    @pytest.mark.parametrize(
        ("service", "url"),
        [
            ("published", "http://127.0.0.1:18080"),
            ("killed", "http://127.0.0.1:18081"),
            ("on-an-address", "http://192.0.2.7:18082"),
            ("on-the-ipv6-loopback", "http://[::1]:18083"),
            ("on-every-ipv6-address", "http://[::1]:18084"),
            ("in-the-host-network", "http://127.0.0.1:8080"),
            ("unpublished", "http://172.19.0.3:8080"),
        ],
    )
    def test_of_the_service(self, service: str, url: str) -> None:
        assert service_url(recorded_container(service)) == url

    def test_the_port_that_docker_chose_is_the_one(self) -> None:
        container = recorded_container("published")
        container["HostConfig"]["PortBindings"]["8080/tcp"] = [{"HostIp": "", "HostPort": ""}]
        assert service_url(container) == "http://127.0.0.1:18080"

    def test_a_stopped_container_will_be_bound_to_every_address(self) -> None:
        container = recorded_container("published")
        container["NetworkSettings"]["Ports"] = recorded_container("killed")["NetworkSettings"]["Ports"]
        assert container["HostConfig"]["PortBindings"]["8080/tcp"] == [{"HostIp": "", "HostPort": "18080"}]
        assert service_url(container) == "http://127.0.0.1:18080"

    def test_a_stopped_container_with_a_port_yet_to_be_chosen(self) -> None:
        container = recorded_container("killed")
        container["HostConfig"]["PortBindings"]["8080/tcp"] = [{"HostIp": "127.0.0.1", "HostPort": ""}]
        with pytest.raises(DiscoveryError, match="set opstage_url"):
            service_url(container)

    def test_another_port_is_not_the_service(self) -> None:
        container = recorded_container("killed")
        bindings = container["HostConfig"]["PortBindings"]
        bindings["9090/tcp"] = bindings.pop("8080/tcp")
        with pytest.raises(DiscoveryError, match="publishes no port for 8080/tcp"):
            service_url(container)

    def test_neither_port_nor_address(self) -> None:
        with pytest.raises(DiscoveryError, match="opstage-never-started-1 publishes no port for 8080/tcp and has no"):
            service_url(recorded_container("never-started"))


class TestDescription:
    def test_of_a_running_one(self) -> None:
        assert describe(recorded_container("published")) == {
            "project": "opstage",
            "project_dir": "/srv/opstage",
            "config_files": ["/srv/opstage/compose.yml"],
            "environment_files": [],
            "service": "published",
            "container": "opstage-published-1",
            "container_status": "running",
            "container_health": "unhealthy",
            "container_started": "2026-11-22T17:14:14.633021455Z",
            "isolated": False,
            "image": f"{REPOSITORY}:0.2.0",
            "repository": REPOSITORY,
            "tag": "0.2.0",
            "digest": "sha256:edc27dcb528efbd59735f2cd54f074c525320b40ba29590ddb852d0ff6320af1",
            "image_id": "sha256:56546b14135159b619bd6a5b769a273d5684c996a8bbb17655949c387fcfb443",
            "data_dir": "/data",
            "database": "/data/none.db",
            "database_size": None,
            "url": "http://u",
            "ca_file": None,
            "status": "UP",
            "version": "0.2.0",
            "version_source": "api",
            "edition": "ce",
        }

    def test_of_a_stopped_one(self) -> None:
        found = describe(recorded_container("killed"), None)
        assert (found["container_status"], found["status"], found["edition"]) == ("exited", None, None)
        assert describe(recorded_container("never-started"), None)["container_health"] is None

    def test_a_digest_is_that_of_the_own_repository(self) -> None:
        """The image is in the registry too, under another name, whose digest says nothing here."""
        container = recorded_container("unpublished")
        assert recorded_image(container["Image"])["RepoDigests"]
        assert describe(container)["digest"] is None

    @pytest.mark.parametrize(
        ("status", "labelled", "image", "expected"),
        [
            (ServiceStatus("UP", "0.3.1", "ce"), "0.2.0", "repo:0.1.0", ("0.3.1", "api")),
            (ServiceStatus("UP", "", "ce"), "0.2.0", "repo:0.1.0", ("0.2.0", "label")),
            (None, "0.2.0", "repo:0.1.0", ("0.2.0", "label")),
            (None, "", "repo:0.1.0", ("0.1.0", "tag")),
            (None, "", "repo:0.1.0@sha256:" + "0" * 64, ("0.1.0", "tag")),
            (None, "", "repo", (None, "tag")),
        ],
    )
    def test_version(
        self, status: ServiceStatus | None, labelled: str, image: str, expected: tuple[str | None, str]
    ) -> None:
        container = recorded_container("published")
        container["Config"]["Image"] = image
        container["Config"]["Labels"]["org.opencontainers.image.version"] = labelled
        found = describe(container, status)
        assert (found["version"], found["version_source"]) == expected

    def test_files_in_the_order_of_compose(self) -> None:
        container = recorded_container("published")
        labels = container["Config"]["Labels"]
        labels["com.docker.compose.project.config_files"] = "/p/compose.yml,/p/production.yml"
        labels["com.docker.compose.project.environment_file"] = "/p/live.env,/p/a.env"
        found = describe(container)
        assert found["config_files"] == ["/p/compose.yml", "/p/production.yml"]
        assert found["environment_files"] == ["/p/live.env", "/p/a.env"]


class TestDiscover:
    def placed(self, docker: RecordedDocker, tmp_path: Path, url: str) -> Path:
        """A host with one Opstage, published at `url`, and another service; returns the folder of its data."""
        container = placed(recorded_container("published"), tmp_path)
        container["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"] = url.rpartition(":")[2]
        docker.has_containers([container, recorded_container("without-title")])
        docker.says("image-inspect", json.dumps([recorded_image(container["Image"])]))
        return Path(container["Mounts"][0]["Source"])

    def test_a_running_one(self, docker: RecordedDocker, tmp_path: Path) -> None:
        with serving(answers("0.2.1", "DEGRADED")) as service:
            data = self.placed(docker, tmp_path, service.url)
            (data / "opstage.db").write_bytes(b"x" * 4096)
            found = discover_deployment()
        assert (found.url, found.status, found.version, found.version_source) == (
            service.url,
            "DEGRADED",
            "0.2.1",
            "api",
        )
        assert (found.data_dir, found.database) == (str(data), str(data / "opstage.db"))
        assert found.database_size == 4096
        assert [call.split()[0] for call in docker.calls] == ["ps", "container", "image"]

    def test_one_that_does_not_answer(self, docker: RecordedDocker, tmp_path: Path) -> None:
        data = self.placed(docker, tmp_path, unused_url())
        (data / "opstage.db").symlink_to("/etc/passwd")
        found = discover_deployment()
        assert (found.status, found.version, found.version_source) == (None, "0.2.0", "label")
        assert found.database_size == len("/etc/passwd")

    def test_an_address_that_the_operator_gave(self, docker: RecordedDocker, tmp_path: Path) -> None:
        self.placed(docker, tmp_path, unused_url())
        with serving(answers("0.2.1")) as service:
            found = discover_deployment(url=service.url)
        assert (found.url, found.version) == (service.url, "0.2.1")

    def test_an_address_with_a_certificate_of_a_private_authority(self, docker: RecordedDocker, tmp_path: Path) -> None:
        authority = PrivateAuthority(tmp_path)
        self.placed(docker, tmp_path, unused_url())
        with serving_console(Console(instead=answers("0.2.1")), authority.certificate()) as console:
            found = discover_deployment(url=console.url, ca_file=str(authority.file))
            assert (found.status, found.ca_file) == ("UP", str(authority.file))
            assert discover_deployment(url=console.url).status is None

    @pytest.mark.parametrize("service", ["in-memory", "mounted-memory", "single-file", "killed"])
    def test_data_that_the_host_cannot_see(self, docker: RecordedDocker, tmp_path: Path, service: str) -> None:
        container = recorded_container(service)
        container = container if service == "killed" else placed(container, tmp_path)
        docker.has_containers([container])
        docker.says("image-inspect", json.dumps([recorded_image(container["Image"])]))
        with pytest.raises(UnseenDataError, match="where opstage_backup_method is api"):
            discover_deployment(url=unused_url())
        found = discover_deployment(url=unused_url(), require_data=False)
        assert (found.data_dir, found.database, found.database_size) == ("", "", None)
        assert found.container == f"opstage-{service}-1"

    def test_another_database_is_an_error_in_any_case(self, docker: RecordedDocker, tmp_path: Path) -> None:
        container = placed(recorded_container("other-database"), tmp_path)
        docker.has_containers([container])
        docker.says("image-inspect", json.dumps([recorded_image(container["Image"])]))
        with pytest.raises(DiscoveryError, match="does not begin with file:"):
            discover_deployment(url=unused_url(), require_data=False)

    def test_nothing_secret_is_returned(self, docker: RecordedDocker, tmp_path: Path) -> None:
        self.placed(docker, tmp_path, unused_url())
        assert "hunter2" in (docker.folder / "container-inspect").read_text()
        assert "hunter2" not in str(discover_deployment())


class TestAfterAnUpgradeThatWasCutOff:
    """The container is the one that was started where no client reaches it."""

    @pytest.fixture
    def isolated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.setattr(journal, "STATE_ROOT", str(tmp_path))
        monkeypatch.setattr(deployment, "STATE_ROOT", str(tmp_path))
        container = copy.deepcopy(recorded_container("published"))
        container["HostConfig"].update(NetworkMode="none", PortBindings={})
        container["NetworkSettings"].update(Ports={}, Networks={})
        container["Config"]["Labels"]["com.docker.compose.project.config_files"] += f",{tmp_path}/opstage/isolation.yml"
        return container

    def test_the_address_is_that_of_the_journal(self, isolated: dict[str, Any]) -> None:
        path = journal.journal_path(label(isolated, "com.docker.compose.project"))
        assert deployment.recorded_url(isolated) is None
        journal.append_entry(path, "upgrade", "started", "1", {"source": {"url": "http://127.0.0.1:9090"}})
        assert deployment.recorded_url(isolated) == "http://127.0.0.1:9090"
        assert deployment.recorded_url(recorded_container("published")) is None

    def test_the_override_is_not_one_of_the_projects_files(self, isolated: dict[str, Any]) -> None:
        image = recorded_image(isolated["Image"])
        found = deployment.describe_deployment(isolated, image, "/data", "/data/opstage.db", "http://127.0.0.1:1", None)
        own = label(recorded_container("published"), "com.docker.compose.project.config_files")
        assert found.config_files == own.split(",")
