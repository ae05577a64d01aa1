"""Descriptors and layouts: what a head says about the tensors of its body (docs/wire.md, "Tensors").

Heads repeat: a model is called with the same names, dtypes and shapes again and again. So what follows from a head is
worked out once, on either side, and found again by the descriptors or by the head's own bytes.
"""

from __future__ import annotations

import operator
import struct

from mer_worker.dtypes import BYTES, DTYPES, JSON, NESTED, NUMERIC, STRING
from mer_worker.wire import (
    ALIGNMENT,
    MAX_BODY_BYTES,
    MAX_META_BYTES,
    MAX_NAME_BYTES,
    MAX_RANK,
    MAX_SEGMENTS,
    BodyDropped,
    Flag,
    Frame,
    WireError,
    dump,
    parse_object,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NamedTuple

    class Descriptor(NamedTuple):
        """One tensor's name, dtype, shape and, where it is nested, inner tensors."""

        name: str
        dtype: str
        shape: tuple[int, ...]
        inner: tuple[Descriptor, ...] = ()

else:
    from collections import namedtuple

    Descriptor = namedtuple("Descriptor", "name dtype shape inner", defaults=((),))

_KEPT = 256
"""Layouts kept at a time: more than one model's signatures, few enough to be no leak."""
_LARGEST_KEPT_HEAD = 4096
"""Bytes; the head of a few dozen tensors. What belongs to larger ones is worked out anew each time."""


class Layout:
    """All that follows from descriptors alone: the head's text, the segments' sizes, and where each begins."""

    __slots__ = ("descriptors", "head", "leaves", "offsets", "prefix", "single", "sizes", "table", "total")

    def __init__(self, descriptors: Sequence[Any]) -> None:
        self.descriptors = tuple(Descriptor(*descriptor) for descriptor in descriptors)
        for descriptor in self.descriptors:
            check_name(descriptor.name)
        self.leaves: tuple[Descriptor, ...] = tuple(
            leaf for outer in self.descriptors for leaf in (outer.inner if outer.dtype == NESTED else (outer,))
        )
        if len(self.leaves) > MAX_SEGMENTS:
            raise WireError(f"{len(self.leaves)} tensors: the cap is {MAX_SEGMENTS}")
        self.sizes: tuple[int, ...] | None = None
        """Bytes of each segment; None where a string, bytes or JSON among them has a length of its own."""
        self.offsets: tuple[int, ...] = ()
        self.total = 0
        self.table = b""
        self.head = dump({"tensors": [_as_json(descriptor) for descriptor in self.descriptors]})
        if all(leaf.dtype in NUMERIC for leaf in self.leaves):
            self.sizes = tuple(NUMERIC[leaf.dtype] * elements(leaf.shape) for leaf in self.leaves)
            self.offsets, self.total = place(self.sizes)
            self.table = table(self.sizes)
        self.single = (
            self.sizes is not None
            and len(self.descriptors) == 1
            and self.leaves == self.descriptors  # not a list of one tensor
            and self.total > ALIGNMENT
        )
        """Whether it is one tensor of numbers, the commonest of all."""
        self.prefix = self.head + self.table
        """What follows a frame's header, up to the first segment."""


def elements(shape: Sequence[int]) -> int:
    """Return how many elements a tensor of this shape has."""
    count = 1
    for length in shape:
        count *= length
    return count


def place(sizes: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Return where in the body segments of these sizes begin, and the body's length.

    Raises:
        WireError: together they are beyond the body's cap.
    """
    offsets = []
    end = 8 * len(sizes)  # the table comes first
    for size in sizes:
        start = end + -end % ALIGNMENT
        offsets.append(start)
        end = start + size
    if end > MAX_BODY_BYTES:
        raise WireError(f"{end} bytes of tensors: the cap is {MAX_BODY_BYTES}")
    return tuple(offsets), end


def table(sizes: Sequence[int]) -> bytes:
    """Return the table that opens a body, and zeros up to the first segment."""
    packed = struct.pack("<%dQ" % len(sizes), *sizes)
    return packed + bytes(-len(packed) % ALIGNMENT)


_by_descriptors: dict[tuple[Any, ...], Layout] = {}
_by_head: dict[bytes, Layout] = {}


def layout_of(descriptors: tuple[Any, ...]) -> Layout:
    """Return the layout of these descriptors (or plain tuples of the same parts), worked out once."""
    found = _by_descriptors.get(descriptors)
    if found is None:
        found = Layout(descriptors)
        if len(found.head) <= _LARGEST_KEPT_HEAD:
            if len(_by_descriptors) >= _KEPT:
                _by_descriptors.clear()
            _by_descriptors[descriptors] = found
    return found


def with_meta(layout: Layout, meta: Mapping[str, Any] | None) -> bytes:
    """Return the head of a request or a result.

    Raises:
        WireError: `meta` is no JSON, or beyond its cap.
    """
    return layout.head[:-1] + b',"meta":' + meta_text(meta) + b"}" if meta else layout.head


def meta_text(meta: Mapping[str, Any]) -> bytes:
    """Return a meta as a head has it.

    Raises:
        WireError: it is no JSON, or beyond its cap.
    """
    text = dump(meta)
    if len(text) > MAX_META_BYTES:
        raise WireError(f"a meta of {len(text)} bytes: the cap is {MAX_META_BYTES}")
    return text


NO_META: Mapping[str, Any] = {}


def read_head(frame: Frame) -> tuple[Layout, Mapping[str, Any]]:
    """Return what a request's or result's head says: its tensors and its meta.

    Raises:
        WireError: it is not as docs/wire.md has it.
    """
    known = _by_head.get(frame.head)
    if known is not None:
        return known, NO_META
    fields = parse_object(frame.head)
    layout, meta = read_fields(fields)
    if not meta and len(frame.head) <= _LARGEST_KEPT_HEAD:
        if len(_by_head) >= _KEPT:
            _by_head.clear()
        _by_head[frame.head] = layout
    return layout, meta


def read_fields(fields: Mapping[str, Any]) -> tuple[Layout, Mapping[str, Any]]:
    """Return what the fields of a head, or of one request of a batch, say: its tensors and its meta.

    Raises:
        WireError: they are not as docs/wire.md has them.
    """
    tensors = fields.get("tensors", [])
    if not isinstance(tensors, list):
        raise WireError("the tensors of a head are a list")
    if len(tensors) > MAX_SEGMENTS:
        raise WireError(f"{len(tensors)} tensors: the cap is {MAX_SEGMENTS}")
    layout = Layout([_from_json(item) for item in tensors])
    names = {descriptor.name for descriptor in layout.descriptors}
    if len(names) != len(layout.descriptors):
        raise WireError("a tensor's name stands twice")
    meta = fields.get("meta", NO_META)
    if not isinstance(meta, dict):
        raise WireError("a meta is a JSON object")
    if meta and len(dump(meta)) > MAX_META_BYTES:
        raise WireError(f"a meta beyond {MAX_META_BYTES} bytes")
    return layout, meta


def open_frame(frame: Frame) -> tuple[Layout, Mapping[str, Any], list[memoryview]]:
    """Return what a request or a result holds: its layout, its meta, its segments.

    Raises:
        WireError: it is not as docs/wire.md has it.
        BodyDropped: there was no memory for its body.
    """
    if frame.dropped:
        raise BodyDropped(f"there is no memory for {frame.dropped} bytes of tensors")
    layout = _by_head.get(frame.head)
    if layout is None:
        layout, meta = read_head(frame)
        return layout, meta, segments_of(layout, frame)
    if layout.single and frame.segments == 1 and len(frame.body) == layout.total:  # the shortest way
        body = frame.body
        if body[:ALIGNMENT] == layout.table:
            return layout, NO_META, [body[ALIGNMENT:]]  # type: ignore[list-item]  # what a Decoder gives is a memoryview
    return layout, NO_META, segments_of(layout, frame)


def segments_of(layout: Layout, frame: Frame) -> list[memoryview]:
    """Return the segments of a frame's body, each a view.

    Raises:
        WireError: the table and the descriptors disagree, or the body ends too early.
    """
    body, count = frame.body, len(layout.leaves)
    if frame.segments != count:
        raise WireError(f"{frame.segments} segments for {count} tensors")
    if frame.shared is not None:
        segments, frame.shared = frame.shared, None  # nothing else holds them now: what its user drops is free
        check_sizes(layout, tuple(map(len, segments)))
        return segments
    if frame.flags & Flag.SHARED:
        raise WireError("segments in shared memory, which this conversation has not")
    if type(body) is not memoryview:
        body = memoryview(body)
    if 8 * count > len(body):
        raise WireError("the body ends within its table")
    sizes: tuple[int, ...] = struct.unpack_from("<%dQ" % count, body)
    check_sizes(layout, sizes)
    offsets, total = (layout.offsets, layout.total) if layout.sizes is not None else place(sizes)
    if total != len(body):
        raise WireError(f"a body of {len(body)} bytes for segments that end at {total}")
    return [body[offset : offset + size] for offset, size in zip(offsets, sizes)]


def check_sizes(layout: Layout, sizes: tuple[int, ...]) -> None:
    """Raise WireError where segments of these sizes are not the tensors of the layout."""
    if layout.sizes is not None:
        if sizes != layout.sizes:
            raise WireError(f"segments of {list(sizes)[:8]} bytes for tensors of {list(layout.sizes)[:8]}")
        return
    for leaf, size in zip(layout.leaves, sizes):
        if leaf.dtype in NUMERIC and size != NUMERIC[leaf.dtype] * elements(leaf.shape):
            raise WireError(f"{size} bytes for {leaf.dtype} of shape {list(leaf.shape)}")


def _as_json(descriptor: Descriptor) -> dict[str, Any]:
    name, dtype, shape, inner = descriptor
    if dtype == NESTED:
        parts = [{"dtype": one.dtype, "shape": _lengths(name, one.shape)} for one in inner]
        return {"name": name, "dtype": dtype, "inner": parts}
    return {"name": name, "dtype": dtype, "shape": _lengths(name, shape)}


def _lengths(name: str, shape: Sequence[Any]) -> list[int]:
    """Return the shape as JSON takes it: a caller's may be made of numpy's integers."""
    try:
        lengths = [operator.index(length) for length in shape]
    except TypeError as error:
        raise WireError(f"{name!r}: a shape is made of integers: {error}") from error
    if len(lengths) > MAX_RANK:
        raise WireError(f"{name!r} has {len(lengths)} dimensions: the cap is {MAX_RANK}")
    if any(not 0 <= length < 1 << 63 for length in lengths):
        raise WireError(f"{name!r} has the impossible shape {lengths}")
    return lengths


def _from_json(item: object, *, nested: bool = False) -> Descriptor:
    if not isinstance(item, dict):
        raise WireError("a descriptor is an object")
    name = "" if nested else item.get("name")
    if not nested:
        check_name(name)
    assert isinstance(name, str)
    dtype = item.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"{name!r} has the unknown dtype {str(dtype)[:40]!r}")
    if dtype == NESTED:
        inner = item.get("inner")
        if nested:
            raise WireError(f"{name!r}: nested tensors do not nest")
        if not isinstance(inner, list) or len(inner) > MAX_SEGMENTS:
            raise WireError(f"{name!r}: a nested tensor has a list of at most {MAX_SEGMENTS} inner ones")
        return Descriptor(name, NESTED, (len(inner),), tuple(_from_json(one, nested=True) for one in inner))
    shape = item.get("shape")
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise WireError(f"{name!r} has no shape of at most {MAX_RANK} dimensions")
    if any(type(length) is not int or not 0 <= length < 1 << 63 for length in shape):
        raise WireError(f"{name!r} has the impossible shape {str(shape)[:80]}")
    if dtype in (BYTES, JSON) and shape:
        raise WireError(f"{name!r}: {dtype} has the shape []")
    if dtype == STRING and elements(shape) * 4 > MAX_BODY_BYTES:
        raise WireError(f"{name!r}: {elements(shape)} strings")
    return Descriptor(name, dtype, tuple(shape))


def check_name(name: object) -> None:
    """Raise WireError for a tensor's name that is no text, empty, or longer than its cap."""
    if not isinstance(name, str) or not name:
        raise WireError(f"a tensor's name is a text, not {name!r}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise WireError(f"the name {name[:40]!r} is no Unicode text") from error
    if length > MAX_NAME_BYTES:
        raise WireError(f"a name of {length} bytes: the cap is {MAX_NAME_BYTES}")
