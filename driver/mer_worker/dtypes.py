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

STRING = "string"
BYTES = "bytes"
JSON = "json"
NESTED = "nested"

DTYPES = frozenset({*NUMERIC, STRING, BYTES, JSON, NESTED})
