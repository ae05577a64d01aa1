"""Takes descriptors 0 and 1 away before anything else is imported, and points fd 1 at fd 2.

They carry frames. A library that prints while it is imported (from C, past sys.stdout) would spoil them; so from here
on whatever writes to fd 1 lands in the log, and whatever reads fd 0 sees its end.
"""

from __future__ import annotations

import os


def take() -> tuple[int, int]:
    """Return descriptors of their own for the frames to read and to write; children do not inherit them."""
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink
