"""Who may write to the store at the same time: any number who add, or one who collects garbage.

Without it gc could remove a blob between the moment when an add finds it there and the moment when the list that needs
it is written. The lock is the kernel's (flock): it is gone with the process that held it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from mer.content.shelf import writing
from mer.core.errors import Busy
from mer.locks import open_lock, try_lock

WAIT_SECONDS = 30.0
"""How long an add waits for gc, which only lists and unlinks."""


@contextlib.contextmanager
def locked(path: Path, *, alone: bool, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock while the block runs: shared with others who add, or alone.

    Raises:
        Busy: somebody else holds it for longer than `wait_seconds`.
        ContentUnwritable: the lock's file cannot be opened.
    """
    with writing(path):
        descriptor = open_lock(path)
    try:
        if not try_lock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, seconds=wait_seconds):
            raise Busy(f"another process works on the content store at {path.parent}; try again later")
        yield
    finally:
        os.close(descriptor)
