"""Arrays as callers and handlers hold them: every dtype, any strides, any byte order."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DTYPES = st.sampled_from(["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def plain_arrays(draw: st.DrawFn, orders: str = "<>") -> Any:
    """Draw a contiguous array of any dtype and shape."""
    dtype = np.dtype(draw(DTYPES)).newbyteorder(draw(st.sampled_from(orders)))
    shape = draw(SHAPES)
    raw = draw(st.binary(min_size=16, max_size=64))
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    array = np.frombuffer((raw * (size // len(raw) + 1))[:size], dtype=dtype).reshape(shape)
    if dtype.kind == "b":
        array = np.frombuffer(bytes(b & 1 for b in array.tobytes()), dtype=bool).reshape(shape)
    return array


TURNS = ["as it is", "fortran", "negative", "stepped", "transposed", "scalar"]


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Draw an array as a caller may hold one: strided, turned, foreign byte order, or none of these."""
    array = draw(plain_arrays())
    match draw(st.sampled_from(TURNS)):
        case "fortran":
            return np.asfortranarray(array)
        case "negative" if array.ndim:
            return array[::-1]
        case "stepped" if array.ndim:
            return np.repeat(array, 2, axis=-1)[..., ::2]
        case "transposed":
            return array.T
        case "scalar" if array.ndim == 0:
            return array[()]
    return array


def bits(array: Any) -> bytes:
    """NaNs and all: the little-endian C-order bytes."""
    array = np.asarray(array)
    return array.astype(array.dtype.newbyteorder("<"), order="C").tobytes()
