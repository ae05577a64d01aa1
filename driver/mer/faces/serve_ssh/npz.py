"""Arrays in numpy's .npz form, from and for somebody who is not trusted: every length is known before memory is taken for it.

Format: a zip of .npy files (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html). Python's zipfile reads
whatever directory it is told of, and numpy makes an array as large as its header says: both are looked at first.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from mer.core.errors import InputInvalid, UsageError
from mer.faces.render.values import Described, described
from mer_worker.dtypes import BYTES, JSON, NESTED, STRING
from mer_worker.wire import MAX_BODY_BYTES

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
"""How a zip begins: with a file, or, where there is none, with its end."""

MAX_ARRAYS = 256
"""Inputs of one call."""

MAX_DIRECTORY_BYTES = 256 << 10
"""Of the zip's list of files, which is read whole: 1 KiB for each is several times what a name takes."""

MAX_ARRAY_BYTES = MAX_BODY_BYTES
"""Of all arrays together, unpacked: what one message to a worker may hold."""

_END = struct.Struct("<4s4H2IH")
"""The end of a zip: signature, two disks, entries here and in all, size and offset of the directory, length of a comment."""

_ZIP64_LOCATOR = b"PK\x06\x07"
_LOCATOR_BYTES = 20

_KINDS = "biufcU"
"""Of elements: numbers and texts. Not objects, which only unpickling reads, nor records, times and void."""


def read_arrays(content: bytes) -> dict[str, Any]:
    """Return the arrays of an .npz file by name.

    Raises:
        InputInvalid: it is none, or it holds objects, too many arrays, or more bytes than one call may have.
    """
    try:
        _check_directory(content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _check_members(members)
            return {member.filename.removesuffix(".npy"): _read(archive, member) for member in members}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, MemoryError) as error:
        # NotImplementedError: a version of zip that zipfile does not read
        raise InputInvalid(f"stdin is no .npz file: {_first_line(error)}") from error


def write_arrays(values: Mapping[str, Any]) -> bytes:
    """Return outputs as an .npz file: a text and JSON as an array of text, bytes as uint8, a nested one as NAME.0, NAME.1 …

    Raises:
        UsageError: one has no such form.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in _flat(values):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                _write(member, array)
    return out.getvalue()


def _check_directory(content: bytes) -> None:
    """See that the zip's directory is a small one, before zipfile reads what its end says."""
    if len(content) < _END.size:
        raise InputInvalid("stdin is no .npz file: it is cut")
    signature, _, _, _, entries, size, _, comment = _END.unpack_from(content, len(content) - _END.size)
    at = len(content) - _END.size - _LOCATOR_BYTES
    if signature != b"PK\x05\x06" or comment or content[max(0, at) : at + 4] == _ZIP64_LOCATOR:
        raise InputInvalid("stdin is no .npz file: its end is not what numpy writes")
    if entries > MAX_ARRAYS or size > MAX_DIRECTORY_BYTES:
        raise InputInvalid(f"stdin holds more than {MAX_ARRAYS} arrays, or a directory of {size} bytes")


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if len(names) > MAX_ARRAYS or len(set(names)) != len(names) or not all(name.endswith(".npy") for name in names):
        raise InputInvalid(f"stdin is no .npz file of at most {MAX_ARRAYS} arrays, each under a name of its own")
    if any(
        member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        for member in members
    ):
        raise InputInvalid("stdin is no .npz file: it is encrypted, or compressed in a way that numpy does not write")
    total = sum(member.file_size for member in members)
    if total > MAX_ARRAY_BYTES:
        raise InputInvalid(f"stdin unpacks to {total} bytes; a call takes {MAX_ARRAY_BYTES}")


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    import numpy
    from numpy.lib import format as npy

    name = member.filename[:80]
    with archive.open(member) as file:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise InputInvalid(f"{name!r} in stdin is of an .npy version that no plain array needs")
        shape, fortran, dtype = read(file)
        if dtype.hasobject or dtype.kind not in _KINDS or not dtype.itemsize:
            raise InputInvalid(
                f"{name!r} in stdin has elements of {str(dtype)[:80]}: numbers and texts are read, objects are not"
            )
        size = math.prod(shape) * dtype.itemsize
        if size != member.file_size - file.tell() or any(length < 0 for length in shape):
            raise InputInvalid(f"{name!r} in stdin has not the bytes that its header says")
        content = file.read(size)
        file.read(1)  # the end: the checksum is compared there
    if len(content) != size:
        raise InputInvalid(f"{name!r} in stdin is cut")
    array = numpy.frombuffer(content, dtype) if size else numpy.empty(math.prod(shape), dtype)
    if dtype.kind == "U" and not _texts(array):
        raise InputInvalid(f"{name!r} in stdin holds what is no text")
    return array.reshape(shape, order="F" if fortran else "C")


def _texts(array: Any) -> bool:
    """Tell whether each code is one of a character: numpy does not look, and Python refuses others later."""
    codes = array.view(array.dtype.byteorder.replace("|", "=") + "u4")
    return not bool(((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any())


def _flat(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        shown = described(value)
        if shown.dtype == NESTED:
            flat += [(f"{name}.{number}", _array(item)) for number, item in enumerate(shown.items())]
        else:
            flat.append((name, _array(shown)))
    names = [name for name, _ in flat]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two outputs would be {twice!r} in an .npz file: --json writes them")
    return flat


def _array(shown: Described) -> Any:
    import json

    import numpy

    if shown.dtype == BYTES:
        return numpy.frombuffer(shown.plain(), numpy.uint8)
    if shown.dtype == JSON:
        return numpy.array(json.dumps(shown.plain(), ensure_ascii=False))
    if shown.dtype == STRING:
        return numpy.array(shown.plain(), dtype=numpy.str_)
    return numpy.asarray(shown.array())


def _write(file: Any, array: Any) -> None:
    from numpy.lib import format as npy

    npy.write_array(file, array, allow_pickle=False)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
