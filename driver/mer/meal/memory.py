"""The driver's end of the memory that it shares with a worker: making the files, and never holding up the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Mapping
from typing import Any

from mer_worker.encoded import Encoded
from mer_worker.memory import GRAIN, LEAST_BYTES, MOST_BYTES, OwnFile, TheirFile
from mer_worker.shared import CAPABILITY, LAYOUT, PERIOD_SECONDS, SHARED_FROM, Placed, Sharing, shares
from mer_worker.wire import Frame

DEFAULT_BYTES = 1 << 30
"""Of each of a worker's two files, as large as the largest body. Only what is used has pages."""

OFFER: Mapping[str, Any] = {"capabilities": (CAPABILITY,), "memory": {"layout": LAYOUT}}
"""What the hello says to a worker that has inherited the files."""

SLICE_BYTES = 8 << 20
"""Copied at a time; between two slices, a millisecond or two, the event loop does what else waits."""

_PAUSE_SECONDS = 0.02
"""Between two steps of giving pages back."""


class WorkerMemory:
    """The two files of one worker, from before its start to the end of its session."""

    def __init__(self, size: int = DEFAULT_BYTES) -> None:
        """Make and map them; each has room for `size` bytes.

        Raises:
            OSError, ValueError, AttributeError: this system has no such files, or no room for them.
        """
        size = max(size + -size % GRAIN, LEAST_BYTES)
        size += -(-size // GRAIN)  # the table
        size = min(size + -size % GRAIN, MOST_BYTES)
        with contextlib.ExitStack() as undo:
            self._descriptors = [_file(size, undo) for _ in range(2)]
            descriptor = os.dup(self._descriptors[0])
            undo.callback(os.close, descriptor)
            own = OwnFile(descriptor, size)
            theirs = TheirFile(self._descriptors[1], size)
            undo.pop_all()
        self._sharing = Sharing(theirs, own)
        self.settle = theirs.settle
        self.theirs = theirs
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the worker inherits: the driver's file and the worker's."""
        return tuple(self._descriptors)

    def started(self) -> None:
        """Close what only the worker needs."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    async def place(self, encoded: Encoded) -> Placed:
        """Copy the large segments into the driver's file; one for which there is no room goes with the frame."""
        own = self._sharing.own
        placed = Placed(own)
        self.settle()
        for segment in encoded.segments:
            size = len(segment)
            start = own.take(size) if size >= SHARED_FROM else None
            placed.starts.append(start or 0)
            if start is None:
                continue
            if own.lacks_pages(start, size):
                try:
                    await asyncio.to_thread(own.fill, start, size)
                except OSError:
                    own.returned.append(start)
                    placed.starts[-1] = 0
                    continue
            view = memoryview(segment)
            for at in range(0, size, SLICE_BYTES):
                if at:
                    await asyncio.sleep(0)
                if self._closed:  # the worker was lost meanwhile: nobody takes this
                    placed.starts.clear()
                    return placed
                own.write(start + at, view[at : at + SLICE_BYTES] if size > SLICE_BYTES else segment)
        self._watch()
        return placed

    def put(self, segment: Any, size: int) -> int | None:
        """Copy a buffer into the driver's file at once, for a message that will be sent; None where `place` has to do it.

        Raises:
            IndexError, TypeError, ValueError, BufferError: it is not contiguous, or of another size.
        """
        return self._sharing.put(segment, size)

    def take(self, received: Frame) -> None:
        """Take over the segments of a frame. Raises: WireError."""
        self._sharing.claim(received)
        self._watch()

    @property
    def used(self) -> tuple[int, int]:
        """Bytes that wait for the worker or are kept by it, and segments of the worker that somebody here looks at."""
        self.settle()
        return self._sharing.own.used, self._sharing.theirs.held

    def close(self) -> None:
        """Let the files go; results that somebody still looks at stay."""
        self._closed = True
        self.started()
        if self._timer is not None:
            self._timer.cancel()
        self._sharing.close()

    def _watch(self) -> None:
        """See that what is let go is given back, and that pages go, also when no other call comes."""
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(PERIOD_SECONDS, self._tidy)

    def _tidy(self) -> None:
        self._timer = None
        self.settle()
        self._sharing.own.age()
        self._shrink()

    def _shrink(self) -> None:
        loop = asyncio.get_running_loop()
        if self._sharing.own.shrink():
            self._timer = loop.call_later(_PAUSE_SECONDS, self._shrink)
        else:
            self._timer = loop.call_later(PERIOD_SECONDS, self._tidy)


def memory_of(size: int) -> tuple[WorkerMemory | None, str]:
    """Return memory for a worker; or None, and why there is none."""
    if not size:
        return None, "it is turned off"
    try:
        return WorkerMemory(size), ""
    except (OSError, ValueError, AttributeError, OverflowError) as error:
        return None, f"this machine cannot: {error}"


def refused(hello: Mapping[str, Any]) -> str:
    """Return why the worker of this hello does not share memory; "" if it does."""
    if shares(hello):
        return ""
    memory = hello.get("memory")
    why = memory.get("refused") if isinstance(memory, dict) else None
    return f"the worker cannot: {why[:200]}" if isinstance(why, str) else "the worker does not offer it"


def _file(size: int, undo: contextlib.ExitStack) -> int:
    """Make a file without a name, of a size that nobody can change: reading past a shortened one is SIGBUS."""
    descriptor = os.memfd_create("mer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    undo.callback(os.close, descriptor)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor
