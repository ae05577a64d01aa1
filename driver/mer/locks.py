"""Locks between processes: flock on a file of ours. The kernel gives one back however its holder ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

PAUSE_SECONDS = 0.02
"""Between two tries: flock itself waits without a deadline."""


def open_lock(file: Path, *, make: bool = True) -> int:
    """Open a lock's file, made if it is missing; the descriptor is not inherited.

    Raises:
        FileNotFoundError: it is missing, and not to be made. OSError: it cannot be opened, or is a symbolic link.
    """
    return os.open(file, os.O_RDWR | (os.O_CREAT if make else 0) | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int, kind: int, *, seconds: float = 0) -> bool:
    """Take a lock (fcntl.LOCK_SH or LOCK_EX), waiting for it at most `seconds`, and tell whether it was had."""
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(PAUSE_SECONDS)
        else:
            return True
