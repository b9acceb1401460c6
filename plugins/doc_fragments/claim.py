# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What modules have in common that take the lock of a deployment."""

from __future__ import annotations


class ModuleDocFragment:
    """Used as ``capsule.opstage.claim``."""

    DOCUMENTATION = r"""
options:
  take_over:
    description: The token of a holder that is known to have ended, as the error says it.
    type: str
  claimant:
    description: Who asks; filled in by the action plugin.
    type: dict
    suboptions:
      user:
        description: Name of the user.
        type: str
        default: unknown
      host:
        description: Name of the host on which the playbook runs.
        type: str
        default: unknown
      process:
        description: The process that ends with the playbook.
        type: dict
      token:
        description: What the lock is to be held with; random when not given.
        type: str
"""
