"""Several requests in one frame: how a driver packs them and a worker takes them apart (docs/wire.md, "batch")."""

from __future__ import annotations

import struct

from mer_worker.layout import NO_META, Layout, check_sizes, place, read_fields, table, with_meta
from mer_worker.tensors import Encoded
from mer_worker.wire import ALIGNMENT, MAX_SEGMENTS, Kind, WireError, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Optional, Union

    from mer_worker.wire import Frame

    Bytes = Union[bytes, bytearray, memoryview]

MAX_BATCH = 1024
"""Requests in one frame."""


class Item:
    """One request of a batch, to be sent."""

    __slots__ = ("encoded", "meta", "number", "request")

    def __init__(
        self, request: int, encoded: Encoded, number: int = 0, meta: Optional[Mapping[str, Any]] = None
    ) -> None:
        self.request = request
        self.encoded = encoded
        self.number = number
        """Its deadline in milliseconds from now; 0 for none."""
        self.meta = meta

    def head(self) -> bytes:
        """Return its part of the frame's head. Raises: WireError."""
        rest = with_meta(self.encoded.layout, self.meta)[1:]
        return b'{"request":%d,"deadline":%d,' % (self.request, self.number) + rest


class Received:
    """One request of a batch as it came: its inputs' layout and segments, or what is wrong with it."""

    __slots__ = ("fault", "layout", "meta", "request", "segments")

    def __init__(self, request: int) -> None:
        self.request = request
        self.fault: Optional[WireError] = None
        self.layout: Optional[Layout] = None
        self.meta: Mapping[str, Any] = NO_META
        self.segments: Sequence[memoryview] = ()


def message(items: Sequence[Item]) -> tuple[Bytes, ...]:
    """Return the frame of these requests, in pieces.

    Raises:
        WireError: together they are beyond a cap.
    """
    segments: list[Bytes] = []
    for item in items:
        segments += item.encoded.segments
    if len(segments) > MAX_SEGMENTS or len(items) > MAX_BATCH:
        raise WireError(
            f"{len(items)} requests with {len(segments)} tensors: the caps are {MAX_BATCH} and {MAX_SEGMENTS}"
        )
    head = b'{"requests":[' + b",".join([item.head() for item in items]) + b"]}"
    sizes = list(map(len, segments))
    offsets, total = place(sizes)
    first = table(sizes)
    pieces: list[Bytes] = [
        pack(Kind.BATCH, head, request=items[0].request, segments=len(segments), body_bytes=total) + first
    ]
    end = len(first)
    for offset, size, segment in zip(offsets, sizes, segments):
        if offset > end:
            pieces.append(_PADDING[: offset - end])
        if size:
            pieces.append(segment)
        end = offset + size
    return tuple(pieces)


_PADDING = bytes(ALIGNMENT)


def requests_of(frame: Frame) -> list[Received]:
    """Return the requests of a frame; one whose tensors are not as they must be carries its fault.

    Raises:
        WireError: it cannot be told which request is which, so none of them can be answered.
    """
    listed = frame.fields().get("requests")
    if type(listed) is not list or not 0 < len(listed) <= MAX_BATCH:
        raise WireError(f"a batch has a list of 1 to {MAX_BATCH} requests")
    segments = _segments(frame)
    found: list[Received] = []
    seen: set[int] = set()
    at = 0
    for fields in listed:
        request = fields.get("request") if type(fields) is dict else None
        if type(request) is not int or not 0 < request < 1 << 64 or request in seen:
            raise WireError("each request of a batch has a number of its own")
        seen.add(request)
        received = Received(request)
        found.append(received)
        leaves = _count(fields.get("tensors", []))  # known also of a bad one, or the next one's would be taken
        received.segments = segments[at : at + leaves]
        at += leaves
        try:
            received.layout, received.meta = _read(fields)
            check_sizes(received.layout, tuple(map(len, received.segments)))
        except WireError as error:
            received.fault = error
    if at != len(segments):
        raise WireError(f"{len(segments)} segments for {at} tensors")
    return found


_layouts: dict[tuple[Any, ...], Layout] = {}
"""By what the descriptors say, where that is one tensor of numbers, the commonest of all."""


def _read(fields: Mapping[str, Any]) -> tuple[Layout, Mapping[str, Any]]:
    """Return a request's layout and meta. Raises: WireError."""
    tensors = fields.get("tensors")
    if "meta" in fields or type(tensors) is not list or len(tensors) != 1 or type(tensors[0]) is not dict:
        return read_fields(fields)
    only = tensors[0]
    try:
        # repr: 1, 1.0 and true are equal, and only one of them is a length
        key = (only["name"], only["dtype"], repr(only["shape"]), len(only))
        known = _layouts.get(key)
    except (KeyError, TypeError):
        return read_fields(fields)
    if known is None:
        known, _meta = read_fields(fields)
        if len(_layouts) >= _KEPT:
            _layouts.clear()
        if len(key[2]) <= _LONGEST_KEPT:
            _layouts[key] = known
    return known, NO_META


_KEPT = 64
_LONGEST_KEPT = 256
"""How many signatures are kept, and how long the text of a shape may be: more than one model's."""


def _segments(frame: Frame) -> Sequence[memoryview]:
    """Return all segments of the frame. Raises: WireError."""
    if frame.shared is not None:
        return frame.shared
    body, count = frame.body, frame.segments
    if type(body) is not memoryview:
        body = memoryview(body)
    if 8 * count > len(body):
        raise WireError("the body ends within its table")
    sizes: tuple[int, ...] = struct.unpack_from("<%dQ" % count, body)
    offsets, total = place(sizes)
    if total != len(body):
        raise WireError(f"a body of {len(body)} bytes for segments that end at {total}")
    return [body[offset : offset + size] for offset, size in zip(offsets, sizes)]


def _count(tensors: Any) -> int:
    """Return how many segments a list of descriptors has. Raises: WireError."""
    if type(tensors) is not list:
        raise WireError("the tensors of a request are a list")
    count = 0
    for item in tensors:
        inner = item.get("inner") if type(item) is dict and item.get("dtype") == "nested" else None
        count += len(inner) if type(inner) is list else 1
    return count
