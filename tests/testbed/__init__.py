# SPDX-License-Identifier: GPL-3.0-or-later
"""Real hosts, a real registry and real traffic for the demo, the scenarios and the benches."""
