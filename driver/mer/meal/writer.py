"""The writing end of a pipe: what goes at once goes without a detour, and the rest waits for its reader."""

from __future__ import annotations

import asyncio
import collections
import os
from collections.abc import Callable
from os import write

from mer.meal.drained import Drained
from mer.meal.stream import Bytes

HIGH_WATER = 1 << 20
"""Bytes kept by a stream beyond which the next writer waits. One message may be larger: it is views of the caller's memory."""

_MOST_PIECES = 1024
"""What one writev takes (IOV_MAX on Linux and macOS)."""


class Writer:
    """The writing end of a descriptor: what cannot go at once waits here."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, descriptor: int, broken: Callable[[], None] | None = None
    ) -> None:
        """Write to `descriptor`; `broken` learns that nobody reads it any more."""
        self._loop = loop
        self._descriptor = descriptor
        self._broken = broken
        self._waiting: collections.deque[memoryview] = collections.deque()
        self._kept = 0
        self._drained = Drained(loop)
        self.closed = False

    def watch(self) -> None:
        """Learn of it at once, and not by the next write, that nobody reads a pipe any more."""
        self._loop.add_reader(self._descriptor, self._break)  # an end that is written to is readable only when it broke

    def write(self, *pieces: Bytes) -> bool:
        """Write what goes at once and keep the rest; return whether more may come."""
        if self.closed:
            return True
        if self._waiting:
            self._keep(pieces, 0)
            return self._kept < HIGH_WATER
        try:
            wanted = sum(map(len, pieces))
            done = os.writev(self._descriptor, pieces[:_MOST_PIECES])
        except BlockingIOError:
            done = 0
        except OSError:
            self._break()
            return True
        if done == wanted:
            return True
        self._keep(pieces, done)
        self._loop.add_writer(self._descriptor, self._writable)
        return self._kept < HIGH_WATER

    def write_frame(self, frame: bytes) -> bool:
        """As `write`, for one small piece: a call of a model counts each step on the way."""
        if self._waiting:
            return self.write(frame)
        try:
            done = write(self._descriptor, frame)
        except OSError:  # the pipe is full, or broken: `write` sees which
            return self.write(frame)
        if done != len(frame):
            self._keep((frame,), done)
            self._loop.add_writer(self._descriptor, self._writable)
        return True

    async def drain(self, most: int = HIGH_WATER - 1) -> None:
        """Wait until no more than `most` bytes are kept."""
        while self._kept > most and not self.closed:
            await self._drained.wait()

    def close(self) -> None:
        """Close the descriptor; the other side sees the end."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1  # the number may soon be another's
        self._waiting.clear()
        self._kept = 0
        self._drained.wake()

    def _break(self) -> None:
        """Nobody reads any more."""
        self.close()
        if self._broken is not None:
            self._broken()

    def _keep(self, pieces: tuple[Bytes, ...], done: int) -> None:
        for piece in pieces:
            size = len(piece)
            if done >= size:
                done -= size
                continue
            rest = memoryview(piece)[done:]
            done = 0
            self._waiting.append(rest)
            self._kept += len(rest)

    def _writable(self) -> None:
        waiting = self._waiting
        try:
            done = os.writev(self._descriptor, [waiting[i] for i in range(min(len(waiting), _MOST_PIECES))])
        except BlockingIOError:
            return
        except OSError:
            self._break()
            return
        self._kept -= done
        while waiting and done >= len(waiting[0]):
            done -= len(waiting.popleft())
        if done:
            waiting[0] = waiting[0][done:]
        if not waiting:
            self._loop.remove_writer(self._descriptor)
        if self._kept < HIGH_WATER:
            self._drained.wake()
