"""Arrays in numpy's own forms, .npy and .npz, as an operator's files and pipes hold them.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. Nothing is unpickled. What comes from
somebody who is not trusted is read by mer.faces.serve_ssh.npz.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, BinaryIO

from mer.core.errors import InputInvalid
from mer.core.npy import MAGIC

_ZIPS = (b"PK\x03\x04", b"PK\x05\x06")
"""How a zip begins: with a file, or, where there is none, with its end."""


class Form(StrEnum):
    """The two forms, each as the end of its files' names."""

    ONE = ".npy"
    SEVERAL = ".npz"


def form_of(content: bytes) -> Form | None:
    """Return which of the two it is, by its first bytes; None: neither."""
    if content.startswith(MAGIC):
        return Form.ONE
    return Form.SEVERAL if content.startswith(_ZIPS) else None


def holds_arrays(archive: BinaryIO) -> bool:
    """Tell whether a zip is numpy's, and not a document that is one too."""
    import zipfile  # few runs have one

    try:
        with zipfile.ZipFile(archive) as found:
            names = found.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return bool(names) and all(name.endswith(Form.ONE) for name in names)


def read_array(file: BinaryIO, name: str, *, most: int) -> Any:
    """Return the one array of a .npy or .npz file of at most `most` bytes.

    Raises:
        InputInvalid: it holds none, several, or more than that.
    """
    import numpy

    with _told(f"{name} is no array in numpy's format"):
        _bound(_length(file), name, most)
        found = numpy.load(file, allow_pickle=False)
    if isinstance(found, numpy.ndarray):
        return found
    arrays = _unpacked(found, name, most)
    if len(arrays) != 1:
        raise InputInvalid(
            f"{name} holds several arrays ({', '.join(arrays)}): --inputs takes all of them"
            if arrays
            else f"{name} holds no array"
        )
    return next(iter(arrays.values()))


def read_arrays(file: BinaryIO, name: str, *, most: int) -> dict[str, Any]:
    """Return the arrays of a .npz file by name, of at most `most` bytes together, unpacked.

    Raises:
        InputInvalid: it is none, or holds more than that.
    """
    import numpy

    with _told(f"{name} holds no arrays in numpy's .npz format"):
        _bound(_length(file), name, most)
        found = numpy.load(file, allow_pickle=False)
    if isinstance(found, numpy.ndarray):
        raise InputInvalid(f"{name} holds no arrays in numpy's .npz format, but a bare one: --input takes it")
    return _unpacked(found, name, most)


def _unpacked(archive: Any, name: str, most: int) -> dict[str, Any]:
    with _told(f"{name} holds no arrays in numpy's .npz format"), archive:
        _bound(sum(member.file_size for member in archive.zip.infolist()), name, most, "unpacks to")
        return {member: archive[member] for member in archive.files}


def _bound(size: int, name: str, most: int, verb: str = "has") -> None:
    if size > most:
        raise InputInvalid(f"{name} {verb} more than {most} bytes")


def _length(file: BinaryIO) -> int:
    length = file.seek(0, 2)
    file.seek(0)
    return length


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Say what the file is not, whatever a damaged one makes numpy's reader raise."""
    import zipfile
    import zlib

    try:
        yield
    except (
        OSError,
        ValueError,
        EOFError,
        MemoryError,
        SyntaxError,  # a damaged header
        NotImplementedError,  # a zip that is packed in another way
        RuntimeError,  # one that is encrypted
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputInvalid(f"{what}: {str(error).partition(chr(10))[0] or type(error).__name__}") from error
