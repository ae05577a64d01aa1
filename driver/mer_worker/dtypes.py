"""The element types that the wire knows (docs/wire.md, "Tensors"): one table, so that no side has a name of its own."""

from __future__ import annotations

NUMERIC = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}
"""Bytes of one element, of the types whose elements are all of one size."""

NUMPY_NAMES = {
    "|b1": "bool",
    "|i1": "int8",
    "<i2": "int16",
    "<i4": "int32",
    "<i8": "int64",
    "|u1": "uint8",
    "<u2": "uint16",
    "<u4": "uint32",
    "<u8": "uint64",
    "<f2": "float16",
    "<f4": "float32",
    "<f8": "float64",
    "<c8": "complex64",
    "<c16": "complex128",
}
"""By the codes that numpy and .npy files write for them, little-endian; bfloat16 has none."""

STRING = "string"
BYTES = "bytes"
JSON = "json"
NESTED = "nested"

DTYPES = frozenset({*NUMERIC, STRING, BYTES, JSON, NESTED})
