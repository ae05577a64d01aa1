"""Compiled modules: Python keeps them beside the cache, unless the disk is about to be full.

CPython up to 3.11, and the first of 3.12 and 3.13, take a write that a full disk cut short for a whole one (gh-126606): the
module gets its name, and every worker that imports it later fails with EOFError, long after there is room again.
"""

from __future__ import annotations

import os
import sys

ROOM = 256 << 20
"""Bytes that must be free: a large framework compiles to about half of that, and several workers may start at once."""


def spare_the_disk(room: int = ROOM) -> None:
    """Keep no compiled modules from now on where less than `room` bytes are free."""
    if sys.pycache_prefix is None:
        return
    try:
        found = os.statvfs(sys.pycache_prefix)
    except OSError:  # it is made with the first module; and whoever cannot look, cannot write
        return
    if found.f_bavail * found.f_frsize < room:
        sys.dont_write_bytecode = True
