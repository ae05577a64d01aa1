"""Where the main thread gets its frames from: the stream, which it reads itself.

Where pings and cancels come over the same stream another thread reads on while the main thread computes (mer_worker.control). It
stays out of the way of one that does not: to hand each request from thread to thread would cost a small call 40 microseconds.
"""

from __future__ import annotations

import functools
import os
import select
import threading
import time
from collections import deque

from mer_worker.decoder import Decoder
from mer_worker.wire import HEADER, HEADER_BYTES, RECEIVE_BYTES, Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Optional, Union

    from mer_worker.backlog import Backlog
    from mer_worker.cache import Cache
    from mer_worker.wire import Frame

    Source = Union["StreamSource", "SharedSource"]

_LOOK_MILLISECONDS = 250
"""A signal that comes between the last instruction and the waiting itself is noticed after that long."""

_PUSHED = frozenset({Kind.HAVE, Kind.PUT})

_BUSY_SECONDS = 0.0005
"""What the other thread takes for a read, about."""

WAITING = bytes(bytearray(b"waiting"))
"""What `take` gives where a frame waits that was read elsewhere: an object of its own, told by its identity."""


class StreamSource:
    """The main thread reads the stream itself: where pings and cancels have a channel of their own."""

    def __init__(self, descriptor: int, decoder: Decoder) -> None:
        self.descriptor = descriptor
        self._decoder = decoder
        self._waiting: deque[Frame] = deque()
        self._ended = False
        self._poll: Optional[select.poll] = None
        self.take: Callable[[], bytes] = functools.partial(os.read, descriptor, RECEIVE_BYTES)
        """Read what comes, where it begins a frame: `feed` gets what is not understood at once."""

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

    def leave(self) -> None:
        """Say that what `take` gave was understood whole, and `feed` gets none of it."""

    def feed(self, data: bytes) -> None:
        """Take what was read from the stream elsewhere; no bytes are its end. Raises: WireError."""
        self._ended = not data
        self._waiting.extend(self._decoder.feed(data))

    @property
    def clear(self) -> bool:
        """Whether the next bytes begin a frame, and none waits before it."""
        return not self._waiting and not self._ended and self._decoder.between_frames


class SharedSource:
    """The stream, which another thread reads while this one is away: pings and cancels come over it too."""

    def __init__(self, descriptor: int, decoder: Decoder, backlog: Backlog, cache: Optional[Cache] = None) -> None:
        """Read `descriptor`; `cache` takes what is pushed by digest at once, in the order in which it came."""
        self.descriptor = descriptor
        self._cache = cache
        self._greeted = False
        self.reading = False
        """Whether the main thread reads, or waits to: the stream and the decoder are its own then."""
        self.other = threading.Lock()
        """Held by the other thread while it reads; it looks at `reading` once it has it."""
        self.heard = time.monotonic()
        """When the main thread has last read something."""
        self._decoder = decoder
        self._backlog = backlog
        self._ended = False
        self._poll: Optional[select.poll] = None

    def take(self) -> bytes:
        """Read what comes, where it begins a frame; WAITING where it does not, or a frame waits that was read before."""
        self.reading = True
        if self.other.locked():
            with self.other:
                pass
        data = os.read(self.descriptor, RECEIVE_BYTES) if self.clear else WAITING
        # all else is for `feed`, and the other thread must not read on before it got there
        self.reading = data is not WAITING and not _is_request(data)
        return data

    def wait(self) -> None:
        """Wait until there is something to read; may be interrupted, which `next` may not."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.descriptor, select.POLLIN)
        try:
            self.reading = True
            while self.other.locked():
                time.sleep(_BUSY_SECONDS)  # not by taking the lock: an interrupt might come before it is let go
            while not (len(self._backlog) or self._ended or self._poll.poll(_LOOK_MILLISECONDS)):
                pass
        finally:
            self.reading = False

    def next(self) -> Frame | None:
        """Return the next frame; None when the driver is gone. Raises: WireError."""
        while True:
            frame = self._backlog.get()
            if frame is not None:
                return frame
            if self._ended:
                return None
            self.reading = True
            try:
                if self.other.locked():
                    with self.other:
                        pass
                if not len(self._backlog):
                    self._read()
            finally:
                self.reading = False

    def leave(self) -> None:
        """Let the other thread read on while this one computes."""
        self.reading = False

    def feed(self, data: bytes) -> None:
        """Take what `take` has read; no bytes are the end. Raises: WireError."""
        if data is WAITING:
            return
        self.heard = time.monotonic()
        self._ended = not data
        self.reading = True
        try:
            for frame in self._decoder.feed(data):
                self._keep(frame)
        finally:
            self.reading = False

    @property
    def clear(self) -> bool:
        """Whether the next bytes begin a frame, and none waits before it."""
        return not len(self._backlog) and not self._ended and self._decoder.between_frames

    def _read(self) -> None:
        count = os.readv(self.descriptor, (self._decoder.buffer(),))
        self.heard = time.monotonic()
        self._ended = not count
        if count:
            for frame in self._decoder.received(count):
                self._keep(frame)

    def pushes(self, frame: Frame) -> bool:
        """Tell whether a frame that was read just now pushes content, and hand it on if so.

        Whoever reads does that, while nobody else does: two who hand on could change their order, or that of a cancel.
        Before the driver's hello nothing is pushed: the main thread refuses it.
        """
        if frame.kind == Kind.HELLO:
            self._greeted = True
        elif self._cache is not None and self._greeted and frame.kind in _PUSHED:
            self._cache.take(frame)
            return True
        return False

    def _keep(self, frame: Frame) -> None:
        if not self.pushes(frame):
            self._backlog.put(frame)


def _is_request(data: bytes) -> bool:
    """Tell whether this is exactly one frame, a request that stands for itself."""
    if len(data) < HEADER_BYTES:
        return False
    kind, flags, _, _, _, head_bytes, _, body_bytes = HEADER.unpack_from(data)
    return bool(kind == Kind.INFER and not flags and HEADER_BYTES + head_bytes + body_bytes == len(data))
