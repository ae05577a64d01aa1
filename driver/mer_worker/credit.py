"""Flow control of parts: what a receiver still takes, as its sender and as it itself counts it (docs/wire.md, section 7).

Pure: both ends of both directions use it. A receiver grants as many parts, and as many bytes of their bodies, as it lets
wait for its reader; what its reader has taken it grants again, by halves, so that credit costs one frame in many.
"""

from __future__ import annotations

from mer_worker.wire import HEADER_BYTES, Flag, Kind, WireError, dump, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from mer_worker.encoded import Encoded
    from mer_worker.wire import Bytes, Frame

WINDOW_PARTS = 256
"""Parts that may wait for a reader: enough that neither side waits for the other's credit, few enough to be little."""

WINDOW_BYTES = 32 << 20
"""Bytes of bodies that may wait for a reader, and one part more: 256 parts of 64 MiB would fill the memory."""

MOST_CREDIT = 1 << 62
"""Parts or bytes that add up to more are no credit but an error."""


def weight(received: Frame) -> int:
    """Return the bytes that a received part counts: its body's, or those of its segments where they lie elsewhere."""
    shared = getattr(received, "shared", None)
    return len(received.body) + received.dropped if shared is None else sum(map(len, shared))


def size_of(received: Frame) -> int:
    """Return the bytes that a received frame keeps from others, here and in shared memory."""
    return len(received.head) + weight(received)


def weight_of(encoded: Encoded, opening: Bytes) -> int:
    """Return the bytes that a part to be sent counts, whose frame begins with `opening`."""
    if opening[1] & Flag.SHARED:
        return sum(map(len, encoded.segments))
    return int.from_bytes(opening[24:32], "little")


def weight_of_frame(frame: bytes) -> int:
    """Return the bytes that a part counts whose whole frame was made by a form (mer_worker.templates)."""
    # a shared one ends with the length of its only segment
    return int.from_bytes(frame[-8:], "little") if frame[1] & Flag.SHARED else len(frame) - HEADER_BYTES


class Credit:
    """What the other side still takes."""

    __slots__ = ("bytes", "parts")

    def __init__(self) -> None:
        self.parts = 0
        self.bytes = 0
        """May fall below zero: the last part that goes on a credit may be larger than what is left of it."""

    @property
    def open(self) -> bool:
        """Whether a part may be sent now."""
        return self.parts > 0 and self.bytes > 0

    def add(self, received: Frame) -> None:
        """Take a credit frame.

        Raises:
            WireError: its head is no credit's, or it adds up to more than anybody takes.
        """
        more = received.fields().get("bytes")
        if type(more) is not int or more < 0:
            raise WireError("a credit says how many bytes")
        if self.parts + received.number > MOST_CREDIT or self.bytes + more > MOST_CREDIT:
            raise WireError("more credit than anybody takes")
        self.parts += received.number
        self.bytes += more

    def spend(self, size: int) -> None:
        """Send a part of that many bytes."""
        self.parts -= 1
        self.bytes -= size


class Window:
    """What this side takes ahead of its reader."""

    __slots__ = ("_bytes", "_left_bytes", "_left_parts", "_most_bytes", "_most_parts", "_parts")

    def __init__(self, parts: int = WINDOW_PARTS, size: int = WINDOW_BYTES) -> None:
        self._most_parts = parts
        self._most_bytes = size
        self._left_parts = 0
        self._left_bytes = 0
        self._parts = 0
        self._bytes = 0

    def open(self, request: int) -> bytes:
        """Return the frame that grants all of it, at the beginning."""
        self._left_parts, self._left_bytes = self._most_parts, self._most_bytes
        return credit_frame(request, self._most_parts, self._most_bytes)

    def came(self, size: int) -> None:
        """Count a part that has come.

        Raises:
            WireError: it was sent without credit.
        """
        if self._left_parts < 1 or self._left_bytes < 1:
            raise WireError("a part without credit")
        self._left_parts -= 1
        self._left_bytes -= size

    def taken(self, request: int, size: int) -> Optional[bytes]:
        """Count a part that the reader has taken, and return the frame that grants as much again, once it is worth one."""
        self._parts += 1
        self._bytes += size
        if 2 * self._parts < self._most_parts and 2 * self._bytes < self._most_bytes:
            return None
        parts, size = self._parts, self._bytes
        self._parts = self._bytes = 0
        self._left_parts += parts
        self._left_bytes += size
        return credit_frame(request, parts, size)


def credit_frame(request: int, parts: int, size: int) -> bytes:
    """Return the frame that says so."""
    return pack(Kind.CREDIT, dump({"bytes": size}), request=request, number=parts)
