"""Messages whose large segments lie in shared memory: how they are told, and how they are found (docs/wire.md)."""

from __future__ import annotations

import struct

from mer_worker.layout import with_meta
from mer_worker.wire import ALIGNMENT, MAX_BODY_BYTES, Flag, FrameTooLarge, WireError, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Optional, Union

    from mer_worker.encoded import Encoded, Naming
    from mer_worker.memory import OwnFile, TheirFile
    from mer_worker.wire import Frame

    Bytes = Union[bytes, bytearray, memoryview]

CAPABILITY = "shared-memory"
LAYOUT = 1
"""The version of how a file is laid out (mer_worker.memory); the hello of a worker names the one that it knows."""

SHARED_FROM = 32 << 10
"""Bytes of a segment from which on it travels this way (docs/decisions/24-shared-memory.md has the measurements)."""

PERIOD_SECONDS = 5.0
"""Between two looks at what can be given back."""

ENTRY = struct.Struct("<QQ")
"""Offset within the sender's file, and length. Offset 0: the segment is in the frame's own body."""

_PADDING = bytes(ALIGNMENT)


def shares(hello: Mapping[str, Any]) -> bool:
    """Whether the sender of this hello shares memory, laid out as it is known here."""
    named, memory = hello.get("capabilities"), hello.get("memory")
    return (
        isinstance(named, list) and CAPABILITY in named and isinstance(memory, dict) and memory.get("layout") == LAYOUT
    )


def goes_shared(encoded: Encoded) -> bool:
    """Whether a message has a segment that is worth a place in shared memory."""
    if 0 < encoded.layout.total < SHARED_FROM:
        return False  # nearly all, by one comparison
    return any(len(segment) >= SHARED_FROM for segment in encoded.segments)


class Placed:
    """Where each segment of a message lies; 0: it goes with the frame. What no message takes is free again."""

    __slots__ = ("_own", "starts")

    def __init__(self, own: OwnFile) -> None:
        self.starts: list[int] = []
        self._own = own

    def message(
        self,
        encoded: Encoded,
        kind: int,
        request: int,
        *,
        number: int = 0,
        meta: Mapping[str, Any] | None = None,
        most: int = MAX_BODY_BYTES,
        flags: int = 0,
        templates: Naming | None = None,
    ) -> tuple[Bytes, ...]:
        """Return a whole frame in pieces, as Encoded.message does; the segments are the receiver's from now on.

        Raises:
            WireError: the head, the body or the meta is beyond its cap.
        """
        segments, starts = encoded.segments, self.starts
        total = sum(map(len, segments))
        if total > most:
            raise FrameTooLarge(f"{total} bytes of tensors: the other side takes {most}")
        table = b"".join(ENTRY.pack(start, len(segment)) for start, segment in zip(starts, segments))
        pieces: list[Bytes] = [table]
        end = len(table)
        for start, segment in zip(starts, segments):
            if start or not len(segment):
                continue
            if end % ALIGNMENT:
                pieces.append(_PADDING[: -end % ALIGNMENT])
                end += -end % ALIGNMENT
            pieces.append(segment)
            end += len(segment)
        template, head = 0, with_meta(encoded.layout, meta)
        if templates is not None and not meta:
            template, head = templates.named(encoded.layout)  # the last that may fail: what is given a number is sent
        header = pack(
            kind,
            head,
            template=template,
            request=request,
            flags=flags | Flag.SHARED,
            segments=len(segments),
            number=number,
            body_bytes=end,
        )
        self._own.sent([start for start in starts if start])
        self.starts = []
        return (header, *pieces)

    def __del__(self) -> None:
        self._own.returned.extend(start for start in self.starts if start)


class Sharing:
    """Both files, as one end of a conversation uses them: its own and the other side's."""

    __slots__ = ("own", "theirs")

    def __init__(self, theirs: TheirFile, own: OwnFile) -> None:
        self.theirs = theirs
        self.own = own

    def place(self, encoded: Encoded) -> Placed:
        """Put the large segments into shared memory; one for which there is no room goes with the frame.

        One that the handler has made there stays where it is, if only `encoded` holds it. What `encoded` has as segments
        afterwards are views of those places: the arrays that were encoded are let go, and may be inputs.
        """
        own, segments = self.own, encoded.segments
        placed = Placed(own)
        for at in range(len(segments)):  # nothing here may hold a segment itself, as enumerate would
            size = len(segments[at])
            start: Optional[int] = None
            if size >= SHARED_FROM:
                lent = own.lent_at(segments[at])
                start = own.put(segments[at]) if lent is None else self._lent(segments, at, lent)
                if start is not None:
                    segments[at] = own.at(start, size)
            placed.starts.append(start or 0)
        return placed

    def _lent(self, segments: list[Bytes], at: int, lent: int) -> Optional[int]:
        """Return where a segment that lies in a lent place is sent from: there, if nobody looks at it any more."""
        own, size = self.own, len(segments[at])
        watch = own.hold(lent)
        if watch is None:  # it goes out in another thread's message too
            return own.put(segments[at])
        segments[at] = segment = own.at(lent, size)  # what was encoded is let go
        if watch() is None:
            return lent
        start = own.put(segment)
        if start is None:
            segments[at] = bytes(segment)
        own.let(lent, watch)
        return start

    def put(self, segment: Any, size: int) -> Optional[int]:
        """Copy a buffer into a place that has its pages, for a message that will be sent; None where that takes longer.

        Raises:
            IndexError, TypeError, ValueError, BufferError: it is not contiguous, or of another size.
        """
        if self.theirs.dead:
            self.theirs.settle()
        return self.own.put_at_once(segment, size)

    def claim(self, received: Frame) -> None:
        """Take over the segments of a received frame: they are given back when the last view of each is gone.

        Raises:
            WireError: the body is no table of segments that can lie there.
        """
        body, count = memoryview(received.body), received.segments
        end = ENTRY.size * count
        if end > len(body):
            raise WireError("the body ends within its table")
        segments: list[memoryview] = []
        total = 0
        for start, size in ENTRY.iter_unpack(body[:end]):
            total += size
            if total > MAX_BODY_BYTES:
                raise FrameTooLarge(f"{total} bytes of tensors: the cap is {MAX_BODY_BYTES}")
            if start:
                segments.append(self.theirs.claim(start, size))
                continue
            if size:
                end += -end % ALIGNMENT
            segments.append(body[end : end + size])
            end += size
        if end != len(body):
            raise WireError(f"a body of {len(body)} bytes for segments that end at {end}")
        received.body, received.shared = b"", segments

    def settle(self) -> None:
        """Give back what nobody looks at any more."""
        self.theirs.settle()

    def tidy(self) -> None:
        """End a period: give back what is not looked at, and the pages that were not used."""
        self.theirs.settle()
        self.own.age()
        while self.own.shrink():
            pass

    def close(self) -> None:
        """Let both files go; what is still looked at stays until it is not."""
        self.theirs.close()
        self.own.close()
