# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What modules have in common that work on a deployment under its lock."""

from __future__ import annotations


class ModuleDocFragment:
    """Used as ``capsule.opstage.operation``."""

    DOCUMENTATION = r"""
requirements:
  - The C(docker) command with its Compose plugin, 2.18 or newer, on the host.
options:
  deployment:
    description: The deployment, as M(capsule.opstage.deployment_info) returns it.
    type: dict
    required: true
  lock:
    description: The token of the lock, as M(capsule.opstage.deployment_lock) returned it.
    type: str
    required: true
  root:
    description: Folder below which the recovery points of all projects lie.
    type: path
    default: /var/backups/opstage
  timeout:
    description: Seconds within which the service must be healthy.
    type: int
    default: 120
"""
