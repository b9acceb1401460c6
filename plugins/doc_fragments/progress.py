# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What modules have in common whose progress is shown while they run."""

from __future__ import annotations


class ModuleDocFragment:
    """Used as ``capsule.opstage.progress``."""

    DOCUMENTATION = r"""
attributes:
  action:
    support: full
    details:
      - The module does the work. The action plugin shows how far it has come.
  async:
    support: full
    details:
      - How far it has come is not shown then.
  bypass_host_loop:
    support: none
options:
  progress_file:
    description:
      - A file in which the module tells how far it has come, for others to read while it runs. It holds one JSON
        object. C(phase) is V(waiting), for a lock that somebody else holds, V(copying) or V(verifying). C(done) and
        C(total) count its bytes, C(seconds) is how long it has lasted.
      - Made after two seconds, replaced every second, removed at the end. What was there before stays, with a warning.
      - By default a temporary file of a random name. The controller reads it to show the progress of what takes longer
        than ten seconds, with the connections P(ansible.builtin.ssh#connection) and
        P(ansible.builtin.local#connection). Neither is done with an empty string.
    type: path
"""
