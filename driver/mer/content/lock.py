"""Who may write to the store at the same time: any number who add, or one who collects garbage.

Without it gc could remove a blob between the moment when an add finds it there and the moment when the list that needs
it is written. The lock is the kernel's (flock): it is gone with the process that held it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mer.content.shelf import writing
from mer.core.errors import Busy

WAIT_SECONDS = 30.0
"""How long an add waits for gc, which only lists and unlinks."""

_RETRY_SECONDS = 0.02


@contextlib.contextmanager
def locked(path: Path, *, alone: bool, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock while the block runs: shared with others who add, or alone.

    Raises:
        Busy: somebody else holds it for longer than `wait_seconds`.
        ContentUnwritable: the lock's file cannot be opened.
    """
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, path, wait_seconds)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, kind: int, path: Path, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)  # a blocking flock has no deadline
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise Busy(f"another process works on the content store at {path.parent}; try again later") from error
            time.sleep(_RETRY_SECONDS)
