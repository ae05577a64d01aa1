"""Whole frames on to a blocking descriptor, from any thread."""

from __future__ import annotations

import os
import threading
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Union

    Bytes = Union[bytes, bytearray, memoryview]

_MOST_PIECES = 1024
"""What one writev takes (IOV_MAX on Linux and macOS)."""


class Channel:
    """The sending end: frames of several threads never mix, nor does one that begins within another.

    That happens: a signal's handler of the model's, or a destructor that the garbage collector calls, may print while its
    thread writes. Where such a handler raises, or memory ends, in the middle of a frame, nobody can say how much of it was
    written: then nothing more goes out, and the driver, which would wait for the rest for ever, sees the end.
    """

    def __init__(self, sink: int) -> None:
        self._sink = sink
        self.renew()

    def renew(self) -> None:
        """In a forked child: forget a thread that was writing, and is not there any more."""
        self._lock = threading.RLock()
        self._writing = False
        self._within: deque[bytes] = deque()
        """Frames that the thread that writes has been given meanwhile: prints, which are bounded for each request."""

    def send(self, *pieces: Bytes) -> None:
        """Write one frame, or several, given in pieces.

        Raises:
            OSError: nobody reads any more.
        """
        with self._lock:
            if self._writing:
                self._within.append(b"".join(pieces))
                return
            self._writing = True
            try:
                done = os.writev(self._sink, pieces if len(pieces) <= _MOST_PIECES else pieces[:_MOST_PIECES])
                for piece in pieces:
                    done -= len(piece)
                if done:
                    self._rest(pieces, done + sum(map(len, pieces)))
            except BaseException as error:
                self._cut(error)
                raise
            finally:
                self._writing = False
            if self._within:
                self._follow()

    def send_frame(self, frame: bytes) -> None:
        """As `send`, for one small frame in one piece."""
        with self._lock:
            if self._writing:
                self._within.append(frame)
                return
            self._writing = True
            try:
                done = os.write(self._sink, frame)
                if done != len(frame):
                    self._rest((frame,), done)
            except BaseException as error:
                self._cut(error)
                raise
            finally:
                self._writing = False
            if self._within:
                self._follow()

    def _follow(self) -> None:
        """Send what came within the frame before. The lock is held, and others may come within these."""
        while self._within:
            waiting = [self._within.popleft() for _ in range(len(self._within))]
            self._writing = True
            try:
                self._rest(waiting, 0)
            except BaseException as error:
                self._cut(error)
                raise
            finally:
                self._writing = False

    def _cut(self, error: BaseException) -> None:
        """Send nothing more: a frame was cut off. The driver sees the end, and why in the log."""
        if isinstance(error, (BrokenPipeError, ConnectionResetError)):  # nobody reads any more
            return
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._sink, inheritable=False)
        os.close(nothing)
        os.write(2, f"a frame was cut off by {type(error).__name__}: {error}\n".encode("utf-8", "replace"))

    def _rest(self, pieces: Sequence[Bytes], done: int) -> None:
        """Write what a partial write has left."""
        waiting = [memoryview(piece) for piece in pieces if len(piece)]
        at = 0
        while True:
            while at < len(waiting) and done >= len(waiting[at]):
                done -= len(waiting[at])
                at += 1
            if at == len(waiting):
                return
            waiting[at] = waiting[at][done:]
            done = os.writev(self._sink, waiting[at : at + _MOST_PIECES])
