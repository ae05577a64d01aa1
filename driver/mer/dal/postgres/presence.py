"""Who uses the embedded server: each process holds a shared lock on one file for as long as it may connect.

The kernel gives the lock back however a process ends. Whoever gets it alone knows that nobody is there, and keeps
newcomers waiting while he stops the server (docs/decisions/05-idle-stop.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from pathlib import Path

from mer.core.errors import DatabaseUnreachable
from mer.locks import open_lock, try_lock


class Presence:
    """This process's use of one server. It ends with `leave`, with this object, or with the process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._held: weakref.finalize[[int], Presence] | None = None

    def enter(self, *, seconds: float) -> None:
        """Be there from now on; being there twice is no fault. The folder exists and is checked.

        Raises:
            DatabaseUnreachable: somebody stops the server, and takes longer than `seconds`.
        """
        if self._held is not None and self._held.alive:
            return
        descriptor = open_lock(self._file)
        if not try_lock(descriptor, fcntl.LOCK_SH, seconds=seconds):
            os.close(descriptor)
            raise DatabaseUnreachable(
                f"the embedded PostgreSQL has been stopping for {seconds:g} s",
                hint=f"Who stops it holds {self._file}.",
            )
        os.utime(descriptor)
        self._held = weakref.finalize(self, _leave, descriptor)

    def leave(self) -> None:
        """Be gone; leaving twice is no fault."""
        if self._held is not None:
            self._held()


def _leave(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the folder may be gone already
        os.utime(descriptor)  # the idle time begins now
    os.close(descriptor)
