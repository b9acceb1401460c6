# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.capsule.opstage.plugins.module_utils.network_namespace import call_in_network_of, make_known
from ansible_collections.capsule.opstage.plugins.module_utils.opstage_api import get_service_status
from opstage_testing import answers, serving_in_own_network


def network() -> str:
    """The network that the calling thread is in; `/proc/self` would be that of the process's first thread."""
    return os.readlink("/proc/thread-self/ns/net")


def test_the_call_is_made_there_and_the_caller_stays_here(tmp_path: Path) -> None:
    here = network()
    with serving_in_own_network(tmp_path / "served", answers("0.3.0")) as pid:
        there = os.readlink(f"/proc/{pid}/ns/net")
        assert there != here
        assert call_in_network_of(pid, network) == there
        assert network() == here
        assert call_in_network_of(pid, lambda: get_service_status("http://127.0.0.1:8080")).version == "0.3.0"
    assert network() == here


def test_what_the_function_raises_comes_out(tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError("in the other network")

    with pytest.raises(ZeroDivisionError, match="in the other network"):
        call_in_network_of(os.getpid(), fail)


def test_a_process_that_is_gone() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(FileNotFoundError):
        call_in_network_of(process.pid, network)


def test_who_may_not_enter_is_told_so() -> None:
    assert os.geteuid() == 0, "only root can become another user"
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            call_in_network_of(os.getpid(), network)
        except OSError as error:
            os._exit(0 if "cannot enter the network of process" in str(error) else 2)
        os._exit(1)
    _pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def container(pid: int, gateway: str, gateway6: str = "") -> dict[str, Any]:
    """As Docker describes one."""
    networks = {"project_default": {"Gateway": gateway, "IPv6Gateway": gateway6}}
    return {"State": {"Pid": pid}, "NetworkSettings": {"Networks": networks}}


def test_a_packet_goes_to_the_gateway() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gateway:
        gateway.settimeout(10)
        gateway.bind(("127.9.9.9", 9))
        make_known(container(os.getpid(), "127.9.9.9"))
        assert gateway.recv(1) == b""


@pytest.mark.parametrize(
    ("pid", "gateway"),
    [(0, "127.0.0.1"), (1 << 22, "127.0.0.1"), (os.getpid(), "nowhere")],
    ids=["no process", "gone", "no address"],
)
def test_what_cannot_be_told_is_no_failure(pid: int, gateway: str) -> None:
    make_known(container(pid, gateway))
