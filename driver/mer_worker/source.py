"""Where the main thread gets its frames from: the stream itself, or the thread that listens on it (mer_worker.control)."""

from __future__ import annotations

import os
import select
from collections import deque

from mer_worker.wire import RECEIVE_BYTES, Decoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Optional

    from mer_worker.backlog import Backlog
    from mer_worker.wire import Frame

_LOOK_MILLISECONDS = 250
"""A signal that comes between the last instruction and the waiting itself is noticed after that long."""


class StreamSource:
    """The main thread reads the stream itself: where pings and cancels have a channel of their own."""

    def __init__(self, descriptor: int, decoder: Decoder) -> None:
        self.descriptor = descriptor
        self._decoder = decoder
        self._waiting: deque[Frame] = deque()
        self._ended = False
        self._poll: Optional[select.poll] = None

    def wait(self) -> None:
        """Wait until there is something to read; may be interrupted, which `next` may not."""
        if self._waiting or self._ended:
            return
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.descriptor, select.POLLIN)
        while not self._poll.poll(_LOOK_MILLISECONDS):
            pass

    def next(self) -> Frame | None:
        """Return the next frame; None when the driver is gone. Raises: WireError."""
        waiting, decoder = self._waiting, self._decoder
        while not waiting:
            if self._ended:
                return None
            if decoder.in_body:
                count = os.readv(self.descriptor, (decoder.buffer(),))
                self._ended = not count
                waiting.extend(decoder.received(count) if count else ())
            else:
                self.feed(os.read(self.descriptor, RECEIVE_BYTES))
        return waiting.popleft()

    def feed(self, data: bytes) -> None:
        """Take what was read from the stream elsewhere; no bytes are its end. Raises: WireError."""
        self._ended = not data
        self._waiting.extend(self._decoder.feed(data))

    @property
    def clear(self) -> bool:
        """Whether the next bytes begin a frame, and none waits before it."""
        return not self._waiting and not self._ended and self._decoder.between_frames


class QueueSource:
    """Another thread reads, and keeps pings and cancels for itself."""

    clear = False

    def __init__(self, frames: Backlog, ended: Callable[[], bool]) -> None:
        """Take frames from a queue until `ended` says that nothing fills it any more."""
        self._frames = frames
        self._ended = ended

    def wait(self) -> None:
        """Wait for nothing: the thread that reads wakes `next` with whatever comes, a cancel too."""

    def next(self) -> Frame | None:
        """Return the next frame; None when the driver is gone."""
        return None if self._ended() else self._frames.get()
