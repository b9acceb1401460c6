# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Override files for Compose, by which a target image is pulled and first started before the project names it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from .durable_files import make_private_folder, replace_file

TARGET_IMAGE = "target-image.yml"
ISOLATION = "isolation.yml"


@dataclass(frozen=True)
class Overrides:
    """Where the override files lie."""

    target_image: str
    isolation: str


def overrides_in(folder: str) -> Overrides:
    """Say where the override files lie in the state folder of a project, whether they are there or not."""
    return Overrides(os.path.join(folder, TARGET_IMAGE), os.path.join(folder, ISOLATION))


def write_overrides(folder: str, service: str, image: str) -> Overrides:
    """Write both override files for `service` into `folder`, 0600 in a folder 0700; those that say so already stay.

    Raises OSError, PrivateFolderError.
    """
    overrides = overrides_in(folder)
    make_private_folder(folder)
    for path, content in (
        (overrides.target_image, target_image_override(service, image)),
        (overrides.isolation, isolation_override(service)),
    ):
        if _read(path) != content:
            replace_file(path, content)
    return overrides


def target_image_override(service: str, image: str) -> bytes:
    """Return the override that gives `service` another image."""
    return f"services:\n  {json.dumps(service)}:\n    image: {json.dumps(image)}\n".encode()


def isolation_override(service: str) -> bytes:
    """Return the override that leaves `service` without any network.

    `!reset` takes away what the project's own files give; Compose has it since 2.18
    (https://docs.docker.com/reference/compose-file/merge/#reset-value), and 2.20 takes a list only, not null.
    """
    return (
        f"services:\n  {json.dumps(service)}:\n    network_mode: none\n    networks: !reset []\n    ports: !reset []\n"
    ).encode()


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
