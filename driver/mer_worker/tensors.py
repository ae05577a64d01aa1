"""Values and bytes: what callers and handlers hold, to segments of a body and back (docs/wire.md, "Tensors").

Numpy is imported only when somebody asks for arrays; a value of it is recognised without that, since who holds one has
imported it already. Segments are views of the caller's own memory wherever its bytes are already in the wire's form.
"""

from __future__ import annotations

import struct
import sys

from mer_worker.dtypes import BYTES, JSON, NESTED, NUMERIC, NUMPY_NAMES, STRING
from mer_worker.encoded import Encoded
from mer_worker.layout import Descriptor, Layout, elements, layout_of, segments_of
from mer_worker.torch_views import is_tensor, to_wire, view
from mer_worker.wire import MAX_JSON_BYTES, MAX_TEXTS, Frame, WireError, dump, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Union

    Bytes = Union[bytes, bytearray, memoryview]

LITTLE = sys.byteorder == "little"


class TensorError(WireError):
    """A value has no form on the wire, or bytes are not the tensor that they are said to be."""


class Buffer:
    """A tensor without numpy: its bytes, little-endian and in C order, with their dtype and shape."""

    __slots__ = ("data", "dtype", "shape")

    def __init__(self, data: Bytes, dtype: str, shape: Sequence[int]) -> None:
        self.data = data if type(data) is memoryview else memoryview(data)
        """Flat, contiguous, one byte an item."""
        self.dtype = dtype
        self.shape = shape if type(shape) is tuple else tuple(shape)

    def __repr__(self) -> str:
        return f"Buffer({self.dtype}{list(self.shape)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Buffer):
            return NotImplemented
        return (self.dtype, self.shape, bytes(self.data)) == (other.dtype, other.shape, bytes(other.data))

    __hash__ = None  # type: ignore[assignment]


class Strings:
    """A string tensor that a plain `str` or `list` cannot tell: of no elements, or of more than one dimension."""

    __slots__ = ("shape", "values")

    def __init__(self, values: Sequence[str], shape: Sequence[int]) -> None:
        self.values = list(values)
        """Flat, in C order."""
        self.shape = tuple(shape)

    def __repr__(self) -> str:
        return f"Strings({self.values!r}, {self.shape!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Strings):
            return NotImplemented
        return (self.values, self.shape) == (other.values, other.shape)

    __hash__ = None  # type: ignore[assignment]


def encode(values: Mapping[str, Any]) -> Encoded:
    """Return `values` in the wire's form.

    Taken are arrays and scalars of numpy (any strides, any byte order; unicode and object arrays of `str`), tensors of
    torch (any strides; without their gradients; from another device by a copy), Buffer, Strings, `str` and lists of
    them, bytes, lists of arrays (nested), and whatever else is JSON.

    Raises:
        TensorError: a value has no form on the wire.
        WireError: a name or a length is beyond its cap.
    """
    descriptors: list[tuple[str, str, tuple[int, ...], tuple[Descriptor, ...]]] = []
    segments: list[Bytes] = []
    try:
        named = values.items()
    except AttributeError as error:
        raise TensorError(f"values by name are meant, a dict, not {type(values).__name__}") from error
    for name, value in named:
        kind = type(value)
        if kind is Buffer:
            dtype, shape, segment = _encode_buffer(name, value)
        elif (
            (kind is list or kind is tuple)
            and value
            and all(type(v) is Buffer or _is_numpy(v) or is_tensor(v) for v in value)
        ):
            inner = []
            for item in value:
                dtype, shape, segment = _encode_one(name, item)
                inner.append(Descriptor("", dtype, shape))
                segments.append(segment)
            descriptors.append((name, NESTED, (len(inner),), tuple(inner)))
            continue
        else:
            dtype, shape, segment = _encode_one(name, value)
        descriptors.append((name, dtype, shape, ()))
        segments.append(segment)
    try:
        return Encoded(layout_of(tuple(descriptors)), segments)
    except WireError as error:
        raise TensorError(str(error)) from error


def decode(
    descriptors: Sequence[Descriptor], body: Bytes, arrays: str = "numpy", *, writable: bool = True
) -> dict[str, Any]:
    """Return the values of a body, by name.

    `arrays` says what numeric tensors become: `numpy` arrays, tensors of `torch`, or `buffer`, which needs neither. A
    bfloat16 is a Buffer for numpy too, unless `ml_dtypes` is installed. String tensors of no dimension become `str`, of
    one a list; of more, object arrays or Strings.

    Raises:
        WireError: the body is not what the descriptors say.
    """
    layout = layout_of(tuple(descriptors))
    body = memoryview(body)
    return values_of(layout, segments_of(layout, Frame(0, 0, len(layout.leaves), body=body)), arrays, writable=writable)


def values_of(layout: Layout, segments: Sequence[memoryview], arrays: str, *, writable: bool = True) -> dict[str, Any]:
    """Return the values of these segments, by name; the numeric ones are views of them.

    Raises:
        WireError: a segment is not what its descriptor says.
    """
    one = _buffer if arrays == "buffer" else view if arrays == "torch" else _array
    if layout.single:  # the shortest way
        descriptor = layout.descriptors[0]
        return {descriptor[0]: one(descriptor, segments[0] if writable else segments[0].toreadonly())}
    values: dict[str, Any] = {}
    at = 0
    for descriptor in layout.descriptors:
        if descriptor.dtype == NESTED:
            end = at + len(descriptor.inner)
            values[descriptor.name] = [
                _decode_one(inner, segment, one, writable) for inner, segment in zip(descriptor.inner, segments[at:end])
            ]
            at = end
        elif descriptor.dtype in NUMERIC:
            segment = segments[at] if writable else segments[at].toreadonly()
            values[descriptor.name] = one(descriptor, segment)
            at += 1
        else:
            values[descriptor.name] = _decode_one(descriptor, segments[at], one, writable)
            at += 1
    return values


# --- to bytes


def _encode_buffer(name: str, value: Buffer) -> tuple[str, tuple[int, ...], Bytes]:
    size = NUMERIC.get(value.dtype)
    data = value.data
    is_json = value.dtype == JSON and not value.shape  # a text meant as JSON: plain, it would be sent as a string
    if size is None and not is_json:
        raise TensorError(f"{name!r}: a Buffer has a dtype of numbers, or is JSON, not {value.dtype!r}")
    if data.ndim != 1 or data.itemsize != 1 or not data.c_contiguous:
        if not data.c_contiguous or not data.nbytes:
            data = memoryview(data.tobytes())
        data = data.cast("B")
    if size is None:
        _read_json(name, data)
        return JSON, (), data
    if len(data) != size * elements(value.shape):
        raise TensorError(f"{name!r}: {len(data)} bytes for {value.dtype} of shape {list(value.shape)}")
    return value.dtype, value.shape, data


def _is_numpy(value: object) -> bool:
    """Tell an array or a scalar of numpy; `numpy.str_` and `numpy.bytes_` are `str` and `bytes` to us."""
    numpy = sys.modules.get("numpy")
    return (
        numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)) and not isinstance(value, (str, bytes))
    )


def _encode_one(name: str, value: Any) -> tuple[str, tuple[int, ...], Bytes]:
    if isinstance(value, str):
        return STRING, (), _pack_strings(name, [value])
    if _is_numpy(value):
        return _encode_array(name, value)
    if isinstance(value, Buffer):
        return _encode_buffer(name, value)
    if isinstance(value, Strings):
        if len(value.values) != elements(value.shape):
            raise TensorError(f"{name!r}: {len(value.values)} strings for the shape {list(value.shape)}")
        return STRING, value.shape, _pack_strings(name, value.values)
    if isinstance(value, (bytes, bytearray)):
        return BYTES, (), value
    if isinstance(value, memoryview):
        return BYTES, (), value.cast("B") if value.c_contiguous and value.nbytes else value.tobytes()
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
        return STRING, (len(value),), _pack_strings(name, value)
    if is_tensor(value):
        return to_wire(name, value)
    if value is None or isinstance(value, (dict, list, tuple, bool, int, float)):
        try:
            text = dump(value)
        except WireError as error:
            raise TensorError(f"{name!r}: {error}") from error
        _check_json(name, text)
        return JSON, (), text
    raise TensorError(f"{name!r}: a {type(value).__module__}.{type(value).__qualname__} cannot be sent")


def _check_json(name: str, text: Bytes) -> None:
    if len(text) > MAX_JSON_BYTES:
        raise TensorError(f"{name!r}: {len(text)} bytes of JSON: the cap is {MAX_JSON_BYTES}")


def _check_texts(name: str, count: int) -> None:
    if count > MAX_TEXTS:
        raise TensorError(f"{name!r}: {count} texts: the cap is {MAX_TEXTS}")


def _read_json(name: str, text: Bytes) -> Any:
    _check_json(name, text)
    try:
        return parse(text)
    except WireError as error:
        raise TensorError(f"{name!r}: {error}") from error


def _pack_strings(name: str, values: Sequence[Any]) -> bytes:
    """Return n lengths and the texts, UTF-8."""
    _check_texts(name, len(values))
    try:
        texts = [value.encode() for value in values]
    except UnicodeEncodeError as error:
        raise TensorError(f"{name!r} is no Unicode text: {error.reason} at {error.start}") from error
    except AttributeError as error:
        raise TensorError(f"{name!r}: not every element is a text") from error
    return struct.pack("<%dI" % len(texts), *map(len, texts)) + b"".join(texts)


_NUMPY_DTYPES = {name: code for code, name in NUMPY_NAMES.items()}


def _encode_array(name: str, value: Any) -> tuple[str, tuple[int, ...], Bytes]:
    dtype = NUMPY_NAMES.get(value.dtype.str)
    if dtype is not None and value.flags.c_contiguous and type(value) is sys.modules["numpy"].ndarray:
        shape = value.shape
        return dtype, shape, memoryview(value).cast("B") if value.size else b""
    return _encode_any_array(name, value)


def _encode_any_array(name: str, value: Any) -> tuple[str, tuple[int, ...], Bytes]:
    """Encode what needs a copy first: scalars, other byte orders and strides, texts, subclasses."""
    numpy = sys.modules["numpy"]
    if numpy.ma.isMaskedArray(value):
        raise TensorError(f"{name!r}: a masked array cannot be sent; fill it first")
    array = numpy.asarray(value)
    shape = array.shape
    if array.dtype.kind in "UOT":
        return STRING, shape, _pack_strings(name, array.ravel().tolist())
    if array.dtype.name == "bfloat16":
        bits = numpy.asarray(array, order="C").view(numpy.uint16) if shape else array.reshape(1).view(numpy.uint16)
        return "bfloat16", shape, memoryview(bits).cast("B") if bits.size else b""
    little = array.dtype.newbyteorder("<")
    dtype = NUMPY_NAMES.get(little.str)
    if dtype is None:
        hint = ": send a view of it as int64, or texts" if array.dtype.kind in "Mm" else ""
        raise TensorError(f"{name!r}: arrays of {array.dtype} cannot be sent{hint}")
    array = numpy.asarray(array, dtype=little, order="C")
    return dtype, shape, memoryview(array.reshape(-1).view(numpy.uint8)).cast("B") if array.size else b""


# --- from bytes


def _decode_one(descriptor: Descriptor, segment: memoryview, one: Any, writable: bool) -> Any:
    dtype = descriptor.dtype
    if dtype in NUMERIC:
        return one(descriptor, segment if writable else segment.toreadonly())
    if dtype == BYTES:
        return bytes(segment)
    if dtype == JSON:
        return _read_json(descriptor.name, segment)
    values = _unpack_strings(descriptor, segment)
    shape = descriptor.shape
    if not shape:
        return values[0]
    if len(shape) == 1 and values:
        return values
    if one is _buffer:
        return Strings(values, shape)
    import numpy

    array = numpy.empty(len(values), dtype=object)  # not `<U`: that drops trailing NULs, and pads to the longest
    array[:] = values
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise _no_array(descriptor, error) from error


def _unpack_strings(descriptor: Descriptor, segment: memoryview) -> list[str]:
    count = elements(descriptor.shape)
    _check_texts(descriptor.name, count)
    start = 4 * count
    if start > len(segment):
        raise WireError(f"{descriptor.name!r}: {len(segment)} bytes for {count} strings")
    lengths = struct.unpack_from("<%dI" % count, segment)
    if start + sum(lengths) != len(segment):
        raise WireError(f"{descriptor.name!r}: strings of {sum(lengths)} bytes in a segment for {len(segment) - start}")
    text = bytes(segment[start:])
    values = []
    end = 0
    try:
        for length in lengths:
            values.append(text[end : end + length].decode())
            end += length
    except UnicodeDecodeError as error:
        raise WireError(f"{descriptor.name!r}: no UTF-8: {error.reason}") from error
    return values


def _buffer(descriptor: Descriptor, segment: memoryview) -> Buffer:
    return Buffer(segment, descriptor.dtype, descriptor.shape)


def _array(descriptor: Descriptor, segment: memoryview) -> Any:
    """Return an array over the segment's own memory."""
    import numpy

    code: Any = _NUMPY_DTYPES.get(descriptor.dtype)
    if code is None:
        try:
            import ml_dtypes  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            return _buffer(descriptor, segment)
        code = ml_dtypes.bfloat16
    try:
        return numpy.ndarray(descriptor.shape, code, segment)
    except ValueError as error:
        raise _no_array(descriptor, error) from error


def _no_array(descriptor: Descriptor, error: ValueError) -> TensorError:
    """One of no elements may have lengths whose product no array can address."""
    return TensorError(f"{descriptor.name!r}: no array has the shape {list(descriptor.shape)}: {error}")
