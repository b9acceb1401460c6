# SPDX-License-Identifier: GPL-3.0-or-later
"""The testbed's own network, with addresses that survive the restart of a host."""

from __future__ import annotations

import ipaddress

from testbed.engine import docker, exists
from testbed.images import LABEL

NETWORK = "opstage-testbed"
ADDRESS_LABEL = "opstage-testbed.address"
RESERVED = 10
"""The first addresses of the network: the gateway's and the registry's."""


def ensure_network() -> None:
    """Create the network where it is missing.

    The engine assigns fixed addresses only in a network whose subnet was asked for, but only when it chooses the
    subnet itself does it keep clear of the machine's routes. So it chooses first, and the choice is asked for then.
    """
    if exists("network", NETWORK):
        return
    docker("network", "create", NETWORK)
    try:
        subnet = docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", NETWORK)
    finally:
        docker("network", "rm", NETWORK)
    docker("network", "create", "--subnet", subnet, "--label", LABEL, NETWORK)


def subnet() -> ipaddress.IPv4Network:
    """The network's addresses."""
    text = docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", NETWORK)
    return ipaddress.IPv4Network(text)


def registry_address() -> str:
    """The registry's fixed address."""
    return str(subnet()[2])


def free_addresses(count: int) -> list[str]:
    """``count`` addresses that no container of the testbed has, running or not. Call it with the lock held."""
    names = docker("ps", "--all", "--filter", f"label={LABEL}", "--format", f'{{{{.Label "{ADDRESS_LABEL}"}}}}')
    taken = set(names.split())
    found: list[str] = []
    for address in list(subnet())[RESERVED:-1]:
        if len(found) == count:
            break
        if str(address) not in taken:
            found.append(str(address))
    return found


def remove_network() -> None:
    """Remove the network; nothing may be attached to it any more."""
    if exists("network", NETWORK):
        docker("network", "rm", NETWORK)
