"""The header of a safetensors file: which tensors it has, and where.

The file is 8 bytes (the header's length, little-endian), the header (JSON), and the tensors' bytes one after the other
without a gap. Format: https://github.com/huggingface/safetensors, which allows nothing else either.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mer.core.errors import WeightsInvalid
from mer.core.weights import tensor_fault, tensor_size

MAX_HEADER = 32 << 20
"""Bytes: room for MAX_TENSORS tensors with long names. The format's own reader takes 100 MB, which is 1 GB once parsed."""

METADATA = "__metadata__"

DTYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One tensor of a file; `begin` counts from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int


def header_length(prefix: bytes, file_size: int, where: str) -> int:
    """Return the header's length in bytes from the file's first 8.

    Raises:
        WeightsInvalid: it is beyond the file or MAX_HEADER.
    """
    length = int.from_bytes(prefix, "little")
    if not 2 <= length <= min(MAX_HEADER, file_size - 8):
        raise WeightsInvalid(f"{where} is no safetensors file: its header would have {length} bytes")
    return length


def parse_header(header: bytes, data_size: int, where: str) -> list[Entry]:
    """Return the tensors in the order of their bytes, which fill all `data_size` bytes after the header.

    Raises:
        WeightsInvalid: the header is not JSON, says something twice, has an unknown dtype, or its offsets overlap, leave
            a gap, leave the file or do not fit the shape.
    """
    try:
        rows = json.loads(header, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise WeightsInvalid(f"{where}: the header cannot be read: {error}") from error
    if not isinstance(rows, dict):
        raise WeightsInvalid(f"{where}: the header is no JSON object")
    rows.pop(METADATA, None)
    entries = sorted((_entry(name, row, where) for name, row in rows.items()), key=lambda e: (e.begin, e.size))
    end = 0
    for entry in entries:
        if entry.begin != end:
            kind = "overlaps the one before it" if entry.begin < end else "leaves a gap before it"
            raise WeightsInvalid(f"{where}: {entry.name!r} {kind}")
        end += entry.size
    if end != data_size:
        raise WeightsInvalid(f"{where}: its tensors have {end} bytes, the file has {data_size} for them")
    return entries


def _entry(name: str, row: Any, where: str) -> Entry:
    match row:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            dtype = DTYPES.get(code)
        case _:
            raise WeightsInvalid(f"{where}: {name!r} has no dtype, shape and data_offsets")
    if dtype is None:
        raise WeightsInvalid(f"{where}: {name!r} has the unknown dtype {code!r}")
    fault = tensor_fault(name, dtype, shape)
    if fault:
        raise WeightsInvalid(f"{where}: {fault}")
    size = tensor_size(dtype, shape)
    if begin < 0 or end - begin != size:
        raise WeightsInvalid(f"{where}: {name!r} has {size} bytes by its shape, {end - begin} by its offsets")
    return Entry(name=name, dtype=dtype, shape=tuple(shape), begin=begin, size=size)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key stands twice")
    return row
