# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of the testbed; ``python3 tests/testbed/testbed.py --help`` lists them."""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from testbed import hosts, inventory, registry
from testbed.engine import answers, data_folder, ensure_engine, is_running, stop_own_engine
from testbed.images import SUITE, ensure_host_image, remove_images
from testbed.machine import (
    BYTES_TO_START,
    CACHE,
    allow_watches,
    exclusive,
    installed_packages,
    require_root,
    require_space,
    restore_watches,
    warn_unless_supported,
)
from testbed.network import ensure_network, remove_network
from testbed.opstage_images import ensure_opstage_images
from testbed.process import TestbedError, say
from testbed.traffic import end_all


def up(name: str, count: int, default_version: str, suite: str = SUITE) -> None:
    """Leave with ``count`` hosts of the testbed ``name`` that answer, new ones of that Debian, and their inventory."""
    started = time.monotonic()
    hosts.check_name(name)
    warn_unless_supported()
    with exclusive():
        ensure_engine()
        require_space(data_folder(), BYTES_TO_START)
        image = ensure_host_image(suite)
        ensure_network()
        public_key = inventory.ensure_folder(name)
        created = hosts.create_missing(name, count, image, public_key)
        fleet = hosts.existing(name)
        allow_watches(len(hosts.existing()))
        hosts.start_stopped(fleet)
        registry.ensure_registry(image)
        ensure_opstage_images()
    keys = hosts.wait_until_ready(fleet, inventory.can_log_in)
    path = inventory.write_inventory(name, keys, default_version)
    say(f"{name}: {len(fleet)} hosts up, {len(created)} of them new, after {time.monotonic() - started:.1f} s")
    sys.stdout.write(f"{path}\n")


def down(name: str) -> None:
    """Remove the hosts of one testbed, the traffic that they are under, and its folder."""
    hosts.check_name(name)
    end_all(inventory.STATE / name)
    if answers():
        hosts.remove(hosts.existing(name))
    inventory.remove_folder(name)


def down_all() -> None:
    """Remove the hosts of all testbeds and their folders."""
    names = {host.testbed for host in hosts.existing()} if answers() else set()
    if inventory.STATE.is_dir():
        names |= {path.name for path in inventory.STATE.iterdir() if path.is_dir()}
    for name in sorted(names):
        down(name)


def stop() -> None:
    """Leave nothing running where no host is left: neither registry and network, nor an Engine of the testbed's own."""
    with exclusive():
        if not answers() or hosts.existing():
            return
        registry.remove_registry()
        remove_network()
        restore_watches()
        stop_own_engine()


def clean() -> None:
    """Remove all that the testbed made on this machine, and say what stays."""
    with exclusive():
        down_all()
        if answers():
            repository = registry.remove_registry()
            remove_network()
            removed = remove_images(repository)
            say(f"removed {len(removed)} images")
        restore_watches()
        stopped = stop_own_engine()
    if stopped:
        say(f"stopped the engine that the testbed had started (process {stopped})")
    packages = installed_packages()
    shutil.rmtree(CACHE, ignore_errors=True)
    shutil.rmtree(inventory.STATE, ignore_errors=True)
    if packages:
        say(f"these Debian packages were installed and stay: {' '.join(packages)}")
        say(f"to remove them too: apt-get purge --autoremove {' '.join(packages)}")


def status() -> None:
    """Print one line for the registry and one for each host."""
    if not answers():
        sys.stdout.write("engine: does not answer\n")
        return
    sys.stdout.write(f"registry: {registry.describe()}\n")
    for host in hosts.existing():
        state = "running" if is_running(host.container) else "stopped"
        sys.stdout.write(f"{host.alias}: {host.address} {host.container} {state}\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="testbed.py", description="Hosts, registry and images to test Opstage on.")
    commands = top.add_subparsers(dest="command", required=True)
    command = commands.add_parser("up", help="make and start hosts; writes .testbed/NAME/inventory.yml")
    command.add_argument("name")
    command.add_argument("--hosts", type=int, default=1, metavar="N")
    command.add_argument("--default-version", default="0.2.0", metavar="VERSION")
    command = commands.add_parser("down", help="remove the hosts of a testbed")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?")
    which.add_argument("--all", action="store_true")
    commands.add_parser("stop", help="stop registry and Engine where no host is left; images stay for the next time")
    commands.add_parser("clean", help="remove everything that the testbed made on this machine")
    commands.add_parser("status", help="list what there is")
    actions = commands.add_parser("registry", help="stop, start, or move a tag").add_subparsers(
        dest="action", required=True
    )
    actions.add_parser("stop", help="an outage of the registry begins")
    actions.add_parser("start", help="and ends")
    move = actions.add_parser("move", help="push another tag's image under TAG")
    move.add_argument("tag", metavar="TAG")
    move.add_argument("source_tag", metavar="SOURCE_TAG")
    return top


def perform(options: argparse.Namespace) -> None:
    """Do what the command line says."""
    require_root()
    if options.command == "up":
        up(options.name, options.hosts, options.default_version)
    elif options.command == "down" and options.all:
        down_all()
    elif options.command == "down":
        down(options.name)
    elif options.command == "stop":
        stop()
    elif options.command == "clean":
        clean()
    elif options.command == "status":
        status()
    elif options.action == "stop":
        registry.stop()
    elif options.action == "start":
        registry.start()
    else:
        registry.move(options.tag, options.source_tag)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the result is the exit status. An error is one line on standard error."""
    try:
        perform(parser().parse_args(arguments))
    except TestbedError as error:
        say(f"error: {error}")
        return 1
    return 0
