# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What modules have in common that find the deployment on a host."""

from __future__ import annotations


class ModuleDocFragment:
    """Used as ``capsule.opstage.discovery``."""

    DOCUMENTATION = r"""
requirements:
  - The C(docker) command on the host.
options:
  project_dir:
    description:
      - The Compose project's folder on the host.
      - Not needed where the host has exactly one Opstage.
    type: path
  service:
    description:
      - The name of the service in the Compose project.
      - Only needed where the image does not carry the title of Opstage CE, or the project has several.
    type: str
  url:
    description:
      - Address at which the host reaches the service, for example V(http://127.0.0.1:8080).
      - Taken from the published port when not given.
    type: str
  ca_file:
    description:
      - PEM file on the host with the certificates of the CAs that alone are trusted, where the address of the service
        begins with V(https://).
      - Those that the host trusts when not given. There is no way to do without a check.
    type: path
  root:
    description: Folder below which the recovery points of all projects lie.
    type: path
    default: /var/backups/opstage
"""
