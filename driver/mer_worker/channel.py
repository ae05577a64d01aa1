"""Whole frames on to a blocking descriptor, from any thread."""

from __future__ import annotations

import os
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Union

    Bytes = Union[bytes, bytearray, memoryview]

_MOST_PIECES = 1024
"""What one writev takes (IOV_MAX on Linux and macOS)."""


class Channel:
    """The sending end: frames of several threads never mix."""

    def __init__(self, sink: int) -> None:
        self._sink = sink
        self._lock = threading.Lock()

    def renew(self) -> None:
        """In a forked child: forget a thread that was writing, and is not there any more."""
        self._lock = threading.Lock()

    def send(self, *pieces: Bytes) -> None:
        """Write one frame, or several, given in pieces.

        Raises:
            OSError: nobody reads any more.
        """
        with self._lock:
            done = os.writev(self._sink, pieces if len(pieces) <= _MOST_PIECES else pieces[:_MOST_PIECES])
            for piece in pieces:
                done -= len(piece)
            if done:
                self._rest(pieces, done + sum(map(len, pieces)))

    def send_frame(self, frame: bytes) -> None:
        """As `send`, for one small frame in one piece."""
        with self._lock:
            done = os.write(self._sink, frame)
            if done != len(frame):
                self._rest((frame,), done)

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
