"""Frames out of bytes, however these were cut on their way: the receiving half of docs/wire.md.

Pure, as mer_worker.wire is: whoever reads a descriptor reads into `Decoder.buffer()`. Both ends use this very class.
"""

from __future__ import annotations

from mer_worker import bodies
from mer_worker.wire import (
    HEADER,
    HEADER_BYTES,
    MAX_NOISE_BYTES,
    MAX_SEGMENTS,
    PREAMBLE,
    RECEIVE_BYTES,
    Flag,
    Frame,
    FrameTooLarge,
    Limits,
    WireError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol, Union

    Bytes = Union[bytes, bytearray, memoryview]

    class Templates(Protocol):
        """Heads that the other side has named by a number (mer_worker.templates.Incoming)."""

        def head(self, number: int, head: bytes) -> bytes:
            """Return the head that is meant, and remember one that came. Raises: WireError."""


class Decoder:
    """Frames out of bytes, however they were cut on the way.

    The caller reads into `buffer()` and says how many bytes came: a large body is received where it stays.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_end",
        "_filled",
        "_left",
        "_limits",
        "_noise",
        "_noise_bytes",
        "_pending",
        "_seen",
        "_start",
        "_templates",
        "_view",
        "claim",
    )

    def __init__(
        self, limits: Limits | None = None, *, preamble: bool = True, templates: Templates | None = None
    ) -> None:
        """Decode what one side sends; without `templates` heads are left as they came."""
        self._limits = limits or Limits()
        self._templates = templates
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._pending: Frame | None = None
        self._body = memoryview(b"")
        self._filled = 0
        self._left = 0
        """Of a body that is being dropped: bytes that have not come yet."""
        self._seen = not preamble
        self._noise = b""
        self._noise_bytes = 0
        self.claim: Callable[[Frame], None] | None = None
        """Takes over the segments of each frame that has them in shared memory, so that one which is dropped frees them."""

    def buffer(self) -> memoryview:
        """Return where the next bytes go; never empty."""
        if self._pending is not None:
            return self._view[: self._left] if self._left else self._body[self._filled :]
        if self._start == self._end:
            self._start = self._end = 0
            return self._view
        return self._view[self._end :]

    def feed(self, data: Bytes) -> list[Frame]:
        """Return the frames that bytes complete which were read elsewhere. Raises: as `received`."""
        frames: list[Frame] = []
        rest = memoryview(data)
        while rest:
            buffer = self.buffer()
            count = min(len(rest), len(buffer))
            buffer[:count] = rest[:count]
            rest = rest[count:]
            frames += self.received(count)
        return frames

    def received(self, count: int) -> Sequence[Frame]:
        """Return the frames that `count` more bytes in `buffer()` have completed, in order.

        Raises:
            FrameTooLarge: a length is beyond its cap.
            WireError: the bytes are no frames. After any error the stream is of no more use.
        """
        if self._pending is not None:
            if self._left:
                self._left -= count
                if self._left:
                    return ()
            else:
                self._filled += count
                if self._filled < len(self._body):
                    return ()
            whole, self._pending, self._body = self._pending, None, memoryview(b"")
            if whole.flags & Flag.SHARED and self.claim is not None and not whole.dropped:
                self.claim(whole)
            return (whole,)
        if self._seen and not self._end:
            only = self._only(count)
            if only is not None:
                return (only,)
        self._end += count
        if not self._seen and not self._find_preamble():
            return ()
        frames: list[Frame] = []
        while self._next(frames):
            pass
        return frames

    def noise(self) -> bytes:
        """Return, once, what came before the preamble."""
        noise, self._noise = self._noise, b""
        return noise

    @property
    def between_frames(self) -> bool:
        """Whether the stream may end here: no frame is half received."""
        return self._pending is None and self._start == self._end

    @property
    def in_body(self) -> bool:
        """Whether a large body is being received: what comes next should be read into `buffer()`, where it stays."""
        return self._pending is not None

    def _only(self, count: int) -> Frame | None:
        """Return the frame that the buffer holds from end to end, as is usual, by the shortest way."""
        if count < HEADER_BYTES:
            return None
        kind, flags, segments, template, request, head_bytes, number, body_bytes = HEADER.unpack_from(self._buffer)
        start = HEADER_BYTES + head_bytes
        limits = self._limits
        if start + body_bytes != count or head_bytes > limits.head or body_bytes > limits.body:
            return None
        if segments > MAX_SEGMENTS or not kind or flags & Flag.SHARED:
            return None
        view = self._view
        body: Bytes = b""
        if body_bytes:
            try:
                body = bodies.aligned(body_bytes)
            except MemoryError:  # dropped by the general way
                return None
            body[:] = view[start:count]
        head = bytes(view[HEADER_BYTES:start])
        if template and self._templates is not None:
            head = self._templates.head(template, head)
        return Frame(kind, flags, segments, template, request, number, head, body)

    def _next(self, frames: list[Frame]) -> bool:
        """Take one frame from the buffer; False when more bytes are needed."""
        start, have = self._start, self._end - self._start
        if have < HEADER_BYTES:
            self._make_room(HEADER_BYTES)
            return False
        kind, flags, segments, template, request, head_bytes, number, body_bytes = HEADER.unpack_from(
            self._buffer, start
        )
        if head_bytes > self._limits.head:
            raise FrameTooLarge(f"a head of {head_bytes} bytes: the cap is {self._limits.head}")
        if body_bytes > self._limits.body:
            raise FrameTooLarge(f"a body of {body_bytes} bytes: the cap is {self._limits.body}")
        if segments > MAX_SEGMENTS:
            raise FrameTooLarge(f"{segments} segments: the cap is {MAX_SEGMENTS}")
        if not kind:
            raise WireError("a frame of kind 0")
        body_start = start + HEADER_BYTES + head_bytes
        if body_start > self._end:
            self._make_room(HEADER_BYTES + head_bytes)
            return False
        head = bytes(self._view[start + HEADER_BYTES : body_start])
        if template and self._templates is not None:
            head = self._templates.head(template, head)
        whole = Frame(kind, flags, segments, template, request, number, head)
        if not body_bytes:
            self._start = body_start
        elif not self._begin_body(whole, body_bytes, body_start):
            return False
        if flags & Flag.SHARED and self.claim is not None and not whole.dropped:
            self.claim(whole)
        frames.append(whole)
        return self._start < self._end

    def _begin_body(self, whole: Frame, size: int, start: int) -> bool:
        """Give a frame its body as far as it is in the buffer, from `start` on; False when more bytes are needed."""
        there = min(size, self._end - start)
        try:
            whole.body = self._body = bodies.aligned(size)
            self._body[:there] = self._view[start : start + there]
        except MemoryError:
            whole.dropped = size
        self._start = start + there
        if there == size:
            self._body = memoryview(b"")
            return True
        self._pending, self._filled = whole, there
        self._left = size - there if whole.dropped else 0
        self._start = self._end = 0
        return False

    def _find_preamble(self) -> bool:
        """Skip what a login shell printed."""
        got = bytes(self._view[self._start : self._end])
        found = got.find(PREAMBLE)
        # the preamble may be cut anywhere: what could be its beginning stays
        gone = found if found >= 0 else max(0, len(got) - len(PREAMBLE) + 1)
        self._noise += got[:gone]
        self._noise_bytes += gone
        self._start += gone
        if self._noise_bytes > MAX_NOISE_BYTES:
            raise WireError(f"no preamble within {MAX_NOISE_BYTES} bytes: they end {bytes(self._noise[-60:])!r}")
        if found < 0:
            self._make_room(RECEIVE_BYTES)
            return False
        self._start += len(PREAMBLE)
        self._seen = True
        return self._start < self._end

    def _make_room(self, wanted: int) -> None:
        """See that `wanted` bytes from the start fit; a head may be larger than the usual buffer."""
        size = max(wanted, RECEIVE_BYTES)
        if len(self._buffer) != size and self._end - self._start <= size:
            grown = bytearray(size)
            grown[: self._end - self._start] = self._view[self._start : self._end]
            self._buffer, self._view = grown, memoryview(grown)
        elif self._start:
            self._view[: self._end - self._start] = bytes(self._view[self._start : self._end])
        else:
            return
        self._start, self._end = 0, self._end - self._start
