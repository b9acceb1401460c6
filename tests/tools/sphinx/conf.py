# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx makes HTML of what tests/tools/documentation.py has put together; nothing is fetched for it."""

from __future__ import annotations

from typing import Any

project = "capsule.opstage"
author = "The capsule.opstage contributors"
title = "capsule.opstage"
html_short_title = "capsule.opstage"
html_theme = "sphinx_rtd_theme"
html_show_sphinx = False
html_use_smartypants = False
extensions = ["sphinx_antsibull_ext", "myst_parser"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
highlight_language = "text"
myst_heading_anchors = 3
# The body of a runbook stands in a page of ours, with its own headings.
suppress_warnings = ["myst.header"]
smartquotes = False

OWN = "ansible_collections.capsule.opstage"


def leave_as_text(_app: Any, _environment: Any, node: Any, content: Any) -> Any:
    """A reference into Ansible's own documentation, which is not here, is only its text."""
    return content if node["reftype"] == "ref" and not node["reftarget"].startswith(OWN) else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", leave_as_text)
