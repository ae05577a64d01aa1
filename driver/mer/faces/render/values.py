"""Values that models take and give, told in words and as JSON."""

from __future__ import annotations

import base64
import math
from typing import Any

from mer_worker.dtypes import BYTES, JSON, NESTED, STRING

MOST_SHORTENED = 1000
"""Numbers written with the digits of their own precision (0.1 for a float32, not 0.10000000149011612), which takes a while."""


class Described:
    """One value: its dtype and shape, its plain Python form, and its array where it has one."""

    __slots__ = ("_plain", "dtype", "shape")

    def __init__(self, dtype: str, shape: tuple[int, ...], plain: Any) -> None:
        self.dtype = dtype
        self.shape = shape
        self._plain = plain

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"

    @property
    def numeric(self) -> bool:
        """Whether it is an array of numbers."""
        return self.dtype not in (STRING, BYTES, JSON, NESTED)

    def array(self) -> Any:
        """Return it as an array of numpy, or None where it is no array of numbers."""
        return self._plain if self.numeric else None

    def items(self) -> list[Described]:
        """Return what it is nested of."""
        return list(self._plain)

    def plain(self) -> Any:
        """Return it as numbers, texts and lists of them."""
        if self.numeric:
            return self._plain.tolist()
        return [item.plain() for item in self._plain] if self.dtype == NESTED else self._plain

    def document(self) -> dict[str, Any]:
        """Return it for JSON: numbers that JSON lacks are the texts NaN, Infinity and -Infinity, a complex is a pair."""
        if self.dtype == BYTES:
            return {"dtype": BYTES, "base64": base64.b64encode(self._plain).decode(), "value": None}
        if self.dtype == NESTED:
            return {"dtype": NESTED, "value": [item.document() for item in self._plain]}
        value = self._numbers() if self.numeric else self._plain
        return {"dtype": self.dtype, "shape": list(self.shape), "value": value}

    def _numbers(self) -> Any:
        array = self._plain
        if array.dtype.kind == "f" and array.itemsize < 8 and array.size <= MOST_SHORTENED:
            array = array.astype(str).astype(float)
        return _for_json(array.tolist()) if array.dtype.kind in "fc" else array.tolist()


def described(value: Any) -> Described:
    """Return what `value`, as `Mer.run` takes and gives it, is."""
    if isinstance(value, str):
        return Described(STRING, (), value)
    if isinstance(value, bytes | bytearray | memoryview):
        return Described(BYTES, (), bytes(value))
    kind = type(value)
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "dtype"):
        return _described_array(value)
    if kind.__module__ == "mer_worker.tensors":
        return _described_buffer(value) if hasattr(value, "data") else _described_strings(value.values, value.shape)
    if isinstance(value, list | tuple) and value:
        if all(isinstance(item, str) for item in value):
            return _described_strings(list(value), (len(value),))
        if all(hasattr(item, "dtype") and hasattr(item, "shape") for item in value):
            return Described(NESTED, (len(value),), [described(item) for item in value])
    return Described(JSON, (), value)


def _described_array(array: Any) -> Described:
    import numpy

    array = numpy.asarray(array)
    if array.dtype.kind in "OUT":
        return _described_strings([str(item) for item in array.ravel().tolist()], array.shape)
    return Described(array.dtype.name, array.shape, array)


def _described_buffer(buffer: Any) -> Described:
    import numpy

    if buffer.dtype == "bfloat16":  # the upper half of a float32: nothing is lost
        bits = numpy.frombuffer(buffer.data, "<u2").astype(numpy.uint32) << 16
        return Described("bfloat16", buffer.shape, bits.view(numpy.float32).reshape(buffer.shape))
    dtype = numpy.dtype(buffer.dtype).newbyteorder("<")
    return Described(buffer.dtype, buffer.shape, numpy.frombuffer(buffer.data, dtype).reshape(buffer.shape))


def _described_strings(values: list[str], shape: tuple[int, ...]) -> Described:
    nested: Any = values
    for length in reversed(shape[1:]):
        nested = [nested[at : at + length] for at in range(0, len(nested), length)] if length else []
    return Described(STRING, tuple(shape), nested if shape else values[0])


def _for_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_for_json(item) for item in value]
    if isinstance(value, complex):
        return [_for_json(value.real), _for_json(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
