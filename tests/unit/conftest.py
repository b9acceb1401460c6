# SPDX-License-Identifier: GPL-3.0-or-later
"""Make ``ansible_collections.capsule.opstage`` importable from a checkout in any folder.

The collection's modules import each other by that name. A plain checkout does not lie
under such a path, so a link to it is placed in a temporary folder on ``sys.path``.
"""

from __future__ import annotations

import atexit
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def link_collection(checkout: Path) -> Path:
    """Create ``<temporary folder>/ansible_collections/capsule/opstage`` as a link to the checkout.

    The folder is removed when the interpreter ends. Returns the temporary folder.
    """
    root = Path(tempfile.mkdtemp(prefix="opstage-collections-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    namespace = root / "ansible_collections" / "capsule"
    namespace.mkdir(parents=True)
    (namespace / "opstage").symlink_to(checkout, target_is_directory=True)
    return root


def put_first(root: Path) -> None:
    """Let ``root`` provide ``ansible_collections``, in front of any installed one."""
    for name in [name for name in sys.modules if name.split(".")[0] == "ansible_collections"]:
        del sys.modules[name]
    sys.path.insert(0, str(root))


# Where the tests were started in the background, their processes would ignore Ctrl-C as well.
signal.signal(signal.SIGINT, signal.default_int_handler)

COLLECTIONS_ROOT = link_collection(CHECKOUT)
put_first(COLLECTIONS_ROOT)
sys.path.insert(1, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def collections_root() -> Path:
    """The folder to name in ``ANSIBLE_COLLECTIONS_PATH`` so that Ansible finds this checkout."""
    return COLLECTIONS_ROOT
