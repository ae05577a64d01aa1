"""Templates: heads named by a number, and the shortest way from values to a frame and back (docs/wire.md, section 6).

A small call is as slow as the code that it touches: driver and worker push each other's out of the processor's caches. So
the commonest message of all, one tensor of numbers or one list of texts under a head that was sent before, has a form: all
of its frame that does not change from call to call, found by one look-up. The driver (mer.meal.shortcut) and the worker
(mer_worker.serving.serial) make and open such frames each in one function of their own. Whatever is not quite that goes
the general way (mer_worker.tensors, mer_worker.layout), which also tells what is wrong with it.
"""

from __future__ import annotations

import struct
import sys

from mer_worker.dtypes import NUMPY_NAMES, STRING
from mer_worker.layout import read_head
from mer_worker.shared import SHARED_FROM
from mer_worker.tensors import Buffer
from mer_worker.wire import ALIGNMENT, HEADER_BYTES, MAX_BODY_BYTES, Flag, Frame, Kind, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Optional

    from mer_worker.encoded import Encoded
    from mer_worker.layout import Layout
    from mer_worker.memory import TheirFile

    Put = Callable[[Any, int], Optional[int]]
    """Copies a buffer of so many bytes into shared memory, for a message that is sent, and returns where; None: it cannot."""

MOST_TEMPLATES = 256
"""Numbers of one direction, from 1."""
MOST_TEMPLATE_HEAD = 4096
"""Bytes of a head that may be remembered: 256 of them are 1 MiB."""
MOST_SHORT = 16 << 10
"""Bytes of a body that are joined with their header: copying more costs more than a second piece to write. Well below a
pipe's capacity, so that a frame comes in one read."""

OPENING = struct.Struct("<8sQII72s")
"""A whole header and the table of one segment: the frame's start, request, head length (0), number, and the rest."""
NUMBERS = struct.Struct("<QII")
"""Request, head length and number, 8 bytes from a frame's start."""
REST = 24
"""Where a frame of a form goes on after these as the form says: body length, table, zeros."""
FIRST = HEADER_BYTES + ALIGNMENT
"""Where its segment begins."""
PART = bytes((Kind.PART,))
"""In place of the first byte of a result's frame: a part of an answer has the forms of a result."""
UNUSUAL = (LookupError, TypeError, ValueError, AttributeError, BufferError, RuntimeError, struct.error)
"""What making a frame by a form raises for values that have none (RuntimeError: a nested tensor of torch has no shape)."""

_START = struct.Struct("<BBHI")  # kind, flags, segments, template: 8 bytes
_TEXTS = struct.Struct("<8sQIIQQ56x")  # as OPENING, with body length and segment length to be filled in
_SHARED = struct.Struct("<8sQIIQQQ")  # the same, and where its one segment lies in shared memory, and its length
_SHARED_BYTES = _SHARED.size
_ENTRY_BYTES = 16
_SIZES = struct.Struct("<QQ")  # a body's length, and its one segment's


def _start(kind: int, number: int, flags: int = 0) -> bytes:
    """Return the 8 bytes with which a frame begins that has one segment."""
    return _START.pack(kind, flags, 1, number)


class Outgoing:
    """The sender's side of one direction. What it makes has to be sent, in the order in which it was made."""

    __slots__ = (
        "_by_head",
        "_heads",
        "_keys",
        "_kind",
        "_most",
        "_most_shared",
        "_next",
        "_numbers",
        "_put",
        "_texts",
        "forms",
    )

    def __init__(
        self, kind: int, most_body: int = MAX_BODY_BYTES, *, put: Optional[Put] = None, most_shared: int = 0
    ) -> None:
        """Have forms for frames of `kind`, for a receiver that takes `most_body` bytes of body.

        `put` takes segments of at most `most_shared` bytes into shared memory.
        """
        self.forms: dict[tuple[Any, ...], tuple[bytes, Optional[bytes], int]] = {}
        """By a value's class, name, dtype and shape: the frame's start, its rest, and its length.

        For what goes into shared memory the rest is None, and the length its segment's; `shared` makes the frame.
        """
        self._put = put
        self._most_shared = 0 if put is None else min(most_body, most_shared)
        self._kind = kind
        self._most = min(most_body, MOST_SHORT)
        self._numbers: dict[bytes, int] = {}
        self._by_head: dict[bytes, tuple[bytes, bytes, int]] = {}
        self._heads: list[bytes] = [b""] * (MOST_TEMPLATES + 1)
        self._keys: list[list[tuple[Any, ...]]] = [[] for _ in range(MOST_TEMPLATES + 1)]
        self._next = 1
        self._texts: dict[tuple[Any, ...], tuple[bytes, struct.Struct]] = {}

    def named(self, layout: Layout) -> tuple[int, bytes]:
        """Return a layout's number, 0 for none, and what to send as its head: nothing, where the number says it."""
        head = layout.head
        number = self._numbers.get(head)
        if number is not None:
            return number, b""
        if len(head) > MOST_TEMPLATE_HEAD:
            return 0, head
        number = self._next
        self._next = number % MOST_TEMPLATES + 1  # the oldest goes: a number that lasts is rare where heads are many
        if self._heads[number]:
            del self._numbers[self._heads[number]]
            self._by_head.pop(self._heads[number], None)
            for key in self._keys[number]:
                self.forms.pop(key, None)
                self._texts.pop(key, None)
            self._keys[number].clear()
        self._heads[number] = head
        self._numbers[head] = number
        if layout.single and layout.total <= self._most:
            rest = struct.pack("<Q", layout.total) + layout.table
            self._by_head[head] = _start(self._kind, number), rest, HEADER_BYTES + layout.total
        return number, head

    def learn(self, values: Mapping[str, Any], layout: Layout) -> None:
        """Have a form for values like these from now on, if they are simple and their layout has a number."""
        number = self._numbers.get(layout.head)
        if number is None or len(layout.descriptors) != 1 or len(values) != 1:
            return
        ((name, value),) = values.items()
        descriptor, kind = layout.descriptors[0], type(value)
        key: Optional[tuple[Any, ...]] = None
        if descriptor.dtype == STRING and kind is list and len(descriptor.shape) == 1 and value:
            key = (name, len(value))
            self._texts[key] = _start(self._kind, number), struct.Struct("<%dI" % len(value))
        elif layout.single and layout.total <= self._most and (kind is Buffer or is_plain_array(value)):
            key = (kind, name, value.dtype, value.shape)
            self.forms[key] = self._by_head[layout.head]
        elif (
            layout.single
            and layout.sizes is not None
            and SHARED_FROM <= layout.sizes[0] <= self._most_shared
            and (kind is Buffer or is_plain_array(value))
        ):
            key = (kind, name, value.dtype, value.shape)
            self.forms[key] = _start(self._kind, number, Flag.SHARED), None, layout.sizes[0]
        if key is not None and key not in self._keys[number]:
            self._keys[number].append(key)

    def encoded(self, request: int, number: int, encoded: Encoded) -> Optional[bytes]:
        """Return a whole frame with values that were encoded already, or None: the general way does it."""
        form = self._by_head.get(encoded.layout.head)
        if form is None:
            return None
        start, rest, whole = form
        made = OPENING.pack(start, request, 0, number, rest) + encoded.segments[0]
        return made if len(made) == whole else None

    def frame(self, request: int, number: int, values: Mapping[str, Any]) -> Optional[bytes]:
        """Return a whole frame with these values, or None: the general way does it, or says why not."""
        try:
            ((name, value),) = values.items()
            kind = type(value)
            if kind is list:
                return self.texts(request, number, name, value)
            start, rest, whole = self.forms[kind, name, value.dtype, value.shape]
            if rest is None:
                return self.shared(request, number, value, start, whole)
            made = OPENING.pack(start, request, 0, number, rest) + (value.data if kind is Buffer else value.tobytes())
        except UNUSUAL:
            return None
        return made if len(made) == whole else None

    def shared(self, request: int, number: int, value: Any, start: bytes, size: int) -> Optional[bytes]:
        """Return a whole frame whose segment lies in shared memory; None: there is no room, or it has another size."""
        assert self._put is not None
        at = self._put(value.data if type(value) is Buffer else value, size)
        return _SHARED.pack(start, request, 0, number, _ENTRY_BYTES, at, size) if at else None

    def texts(self, request: int, number: int, name: str, values: list[Any]) -> Optional[bytes]:
        """Return a whole frame with a list of texts; None: it is too long for this way.

        Raises:
            UNUSUAL: there is no form for it.
        """
        start, lengths = self._texts[name, len(values)]
        text = "".join(values)  # also sees that they are texts
        if text.isascii():
            segment = lengths.pack(*map(len, values)) + text.encode()
        else:
            texts = [one.encode() for one in values]
            segment = lengths.pack(*map(len, texts)) + b"".join(texts)
        size = len(segment)
        if size > self._most - ALIGNMENT:
            return None
        return _TEXTS.pack(start, request, 0, number, ALIGNMENT + size, size) + segment


class Incoming:
    """The receiver's side of one direction."""

    __slots__ = ("_arrays", "_heads", "_kind", "_shared", "_texts", "_writable", "forms", "memory")

    def __init__(self, kind: int, arrays: str, *, writable: bool) -> None:
        """Have forms for frames of `kind`, whose numbers become what `arrays` says, in memory of their own if `writable`."""
        self.forms: dict[bytes, tuple[int, bytes, str, Any, tuple[int, ...], Any, Layout]] = {}
        """By a frame's first 8 bytes: its length and rest, then name, dtype, shape, numpy's ndarray or None, layout."""
        self.memory: Optional[TheirFile] = None
        """Where segments in shared memory lie."""
        self._shared: dict[bytes, tuple[str, Any, tuple[int, ...], int, Any, Layout]] = {}
        self._kind = kind
        self._arrays = arrays
        self._writable = writable
        self._heads: dict[int, bytes] = {}
        self._texts: dict[bytes, tuple[str, int, struct.Struct, Layout]] = {}

    def head(self, number: int, head: bytes) -> bytes:
        """Return the head that a frame with this template has, and remember it if the frame brought it.

        Raises:
            WireError: the number was never given, or cannot be.
        """
        if not head:
            known = self._heads.get(number)
            if known is None:
                raise WireError(f"the template {number} was never given")
            return known
        if number > MOST_TEMPLATES or len(head) > MOST_TEMPLATE_HEAD:
            raise WireError(
                f"a template {number} of {len(head)} bytes: there are {MOST_TEMPLATES} of {MOST_TEMPLATE_HEAD}"
            )
        self._heads[number] = head
        self._learn(number, head)
        return head

    def use(self, arrays: str) -> None:
        """Make what `arrays` says of numbers from now on."""
        self._arrays = arrays
        for number, head in list(self._heads.items()):  # another thread may decode
            self._learn(number, head)

    def opened(self, frame: bytes) -> Optional[tuple[int, int, dict[str, Any], Layout]]:
        """Return request, number, values and layout of a frame that is whole and has a form, else None."""
        form = self.forms.get(frame[:8])
        if form is None:
            return self.rarer(frame)
        whole, rest, name, dtype, shape, array, layout = form
        if len(frame) != whole or not frame.startswith(rest, REST):
            return None
        request, head, number = NUMBERS.unpack_from(frame, 8)
        if head:
            return None
        memory = bytearray(frame) if self._writable else frame
        if array is None:
            return request, number, {name: Buffer(memoryview(memory)[FIRST:], dtype, shape)}, layout
        return request, number, {name: array(shape, dtype, memory, FIRST)}, layout

    def rarer(self, frame: bytes) -> Optional[tuple[int, int, dict[str, Any], Layout]]:
        """Do as `opened` for what is not in `forms`: a list of texts, or a tensor in shared memory."""
        start = frame[:8]
        texts = self._texts.get(start)
        if texts is not None:
            return _open_texts(frame, *texts)
        shared = self._shared.get(start)
        return None if shared is None else self._open_shared(frame, *shared)

    def _open_shared(
        self, frame: bytes, name: str, dtype: Any, shape: tuple[int, ...], size: int, array: Any, layout: Layout
    ) -> Optional[tuple[int, int, dict[str, Any], Layout]]:
        memory = self.memory
        if len(frame) != _SHARED_BYTES or memory is None:
            return None
        _, request, head, number, body, start, length = _SHARED.unpack(frame)
        if head or body != _ENTRY_BYTES or length != size or not start:
            return None
        try:
            if array is not None:
                value = memory.array(array, shape, dtype, start, size)
                if not self._writable:
                    value.flags.writeable = False
            else:
                view = memory.claim(start, size)
                value = Buffer(view if self._writable else view.toreadonly(), dtype, shape)
        except WireError:  # told by the general way
            return None
        return request, number, {name: value}, layout

    def _learn(self, number: int, head: bytes) -> None:
        """Have a form for this template, if it is simple."""
        start = _start(self._kind, number)
        shared = _start(self._kind, number, Flag.SHARED)
        self.forms.pop(start, None)
        self._texts.pop(start, None)
        self._shared.pop(shared, None)
        try:
            layout, meta = read_head(Frame(self._kind, head=head))
        except WireError:  # told when the frame itself is opened
            return
        if len(layout.descriptors) != 1 or meta:
            return
        name, dtype, shape, _ = layout.descriptors[0]
        if dtype == STRING and len(shape) == 1 and 0 < shape[0] <= MOST_SHORT // 4:
            self._texts[start] = name, shape[0], struct.Struct("<%dI" % shape[0]), layout
        elif layout.single and layout.total <= MOST_SHORT:
            rest = struct.pack("<Q", layout.total) + layout.table
            array = self._array(dtype)
            if array is not None:
                self.forms[start] = HEADER_BYTES + layout.total, rest, name, array[0], shape, array[1], layout
        elif layout.single and layout.sizes is not None and layout.sizes[0] >= SHARED_FROM:
            array = self._array(dtype)
            if array is not None:
                self._shared[shared] = name, array[0], shape, layout.sizes[0], array[1], layout

    def _array(self, dtype: str) -> Optional[tuple[Any, Any]]:
        """Return a tensor's dtype and what makes it (None: a Buffer); None where numpy has no such dtype."""
        if self._arrays == "buffer":
            return dtype, None
        if self._arrays != "numpy" or dtype not in _NUMPY_CODES:
            return None
        import numpy

        return numpy.dtype(_NUMPY_CODES[dtype]), numpy.ndarray


_NUMPY_CODES = {name: code for code, name in NUMPY_NAMES.items()}


def is_plain_array(value: object) -> bool:
    """Whether it is an array of numpy's own class, whose elements are as on the wire."""
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and type(value) is numpy.ndarray and value.dtype.str in NUMPY_NAMES  # type: ignore[attr-defined]


def _open_texts(
    frame: bytes, name: str, count: int, lengths: struct.Struct, layout: Layout
) -> Optional[tuple[int, int, dict[str, Any], Layout]]:
    first = FIRST + 4 * count
    if len(frame) < first:
        return None
    request, head, number = NUMBERS.unpack_from(frame, 8)
    body, size = _SIZES.unpack_from(frame, REST)
    ends = lengths.unpack_from(frame, FIRST)
    whole = first + sum(ends)
    if head or len(frame) != whole or body != whole - HEADER_BYTES or size != whole - FIRST:
        return None
    text = frame[first:]
    values, at = [], 0
    try:
        if text.isascii():
            plain = text.decode("ascii")
            for length in ends:
                values.append(plain[at : at + length])
                at += length
        else:
            for length in ends:
                values.append(text[at : at + length].decode())
                at += length
    except UnicodeDecodeError:
        return None
    return request, number, {name: values}, layout
