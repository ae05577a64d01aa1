"""The header of a .npy file: what one array is. Its bytes follow.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0. Version 2.0 is for headers
beyond 64 KiB and 3.0 for names of fields beyond Latin-1: no plain array needs them.
"""

from __future__ import annotations

from mer.core.errors import WeightsInvalid
from mer.core.weights import tensor_fault
from mer_worker.dtypes import NUMPY_NAMES

MAGIC = b"\x93NUMPY"

PREFIX = 10
"""Bytes before the header: magic, version, and the header's length in 2 bytes, so that it has 65535 at most."""


def header_length(prefix: bytes, where: str) -> int:
    """Return the header's length in bytes from the file's first PREFIX.

    Raises:
        WeightsInvalid: this is no such file.
    """
    if not prefix.startswith(MAGIC) or prefix[6:8] != b"\x01\x00":
        raise WeightsInvalid(f"{where} is no .npy file of version 1.0")
    return int.from_bytes(prefix[8:10], "little")


def parse_header(header: bytes, where: str) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape.

    Raises:
        WeightsInvalid: the header cannot be read, or the array is of Python objects, strings, records, big-endian or in
            Fortran's order.
    """
    import ast  # 6 ms, and weights come as safetensors as a rule

    try:
        row = ast.literal_eval(header.decode("latin-1").strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:  # TypeError: {[]: 1}
        raise WeightsInvalid(f"{where}: the header cannot be read") from error
    match row:
        case {"descr": str(code), "fortran_order": bool(fortran), "shape": tuple(shape)} if code in NUMPY_NAMES:
            dtype = NUMPY_NAMES[code]
        case {"descr": code}:
            raise WeightsInvalid(
                f"{where} has elements of the type {code!r}: little-endian numbers are meant",
                hint="numpy: array.astype('<f4')",
            )
        case _:
            raise WeightsInvalid(f"{where}: the header has no descr, fortran_order and shape")
    fault = tensor_fault(where, dtype, shape)
    if fault:
        raise WeightsInvalid(fault)
    if fortran and sum(length > 1 for length in shape) > 1:
        raise WeightsInvalid(f"{where} is in Fortran's order", hint="numpy: numpy.ascontiguousarray(array)")
    return dtype, shape
