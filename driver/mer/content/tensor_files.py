"""Files of tensors, as streams: `.safetensors`, `.npz`, `.npy`, and folders of them.

They are parsed by hand: numpy costs every command 57 ms, and its reader loads a tensor whole. Nothing here unpickles.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mer.content.shelf import CHUNK
from mer.core import npy, safetensors
from mer.core.errors import WeightsInvalid
from mer.core.weights import MAX_TENSORS, tensor_fault, tensor_size

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

SUFFIXES = (".safetensors", ".npz", ".npy")


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorStream:
    """One tensor of a file, and how to read its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[bytes]]


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[list[TensorStream]]:
    """Give the tensors of a file, or of all such files of a folder, while the block runs.

    Raises:
        WeightsInvalid: a file is not what its name says, holds what weights cannot, or a name stands twice.
    """
    with ExitStack() as files:
        try:
            tensors = [tensor for file in _files(path) for tensor in _tensors(file, files)]
        except OSError as error:
            raise WeightsInvalid(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
        seen: set[str] = set()
        for tensor in tensors:
            fault = tensor_fault(tensor.name, tensor.dtype, tensor.shape)
            if fault or tensor.name in seen:
                raise WeightsInvalid(f"{path}: {fault or f'{tensor.name!r} stands twice'}")
            seen.add(tensor.name)
        if not 0 < len(tensors) <= MAX_TENSORS:
            raise WeightsInvalid(f"{path} has {len(tensors)} tensors; from 1 to {MAX_TENSORS} are meant")
        yield tensors


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [place for place in sorted(path.iterdir()) if place.suffix in SUFFIXES]


def _tensors(path: Path, files: ExitStack) -> list[TensorStream]:
    # O_NONBLOCK: opening a pipe must not hold us
    file = files.enter_context(os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0))
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise WeightsInvalid(f"{path} is no file")
    match path.suffix:
        case ".safetensors":
            return _from_safetensors(path, file.fileno(), found.st_size)
        case ".npy":
            return [_from_npy(path.stem, path.name, lambda: _At(file.fileno()))]
        case ".npz":
            return _from_npz(path, file, files)
        case _:
            raise WeightsInvalid(f"{path} is none of {', '.join(SUFFIXES)}", hint="torch: safetensors.torch.save_file")


class _At:
    """A file read by position, so that its tensors can share one descriptor."""

    def __init__(self, descriptor: int, offset: int = 0) -> None:
        self._descriptor = descriptor
        self._offset = offset

    def read(self, size: int, /) -> bytes:
        found = os.pread(self._descriptor, size, self._offset)
        self._offset += len(found)
        return found


def _from_safetensors(path: Path, descriptor: int, size: int) -> list[TensorStream]:
    if size < 8:
        raise WeightsInvalid(f"{path.name} is no safetensors file: it has {size} bytes")
    length = safetensors.header_length(_exactly(_At(descriptor), 8, path.name), size, path.name)
    header = _exactly(_At(descriptor, 8), length, path.name)
    begin = 8 + length

    def stream(entry: safetensors.Entry) -> TensorStream:
        return TensorStream(
            name=entry.name,
            dtype=entry.dtype,
            shape=entry.shape,
            chunks=lambda: _chunks(_At(descriptor, begin + entry.begin), entry.size, path.name),
        )

    return [stream(entry) for entry in safetensors.parse_header(header, size - begin, path.name)]


def _from_npy(name: str, where: str, start: Callable[[], _Reader]) -> TensorStream:
    reader = start()
    length = npy.header_length(_exactly(reader, npy.PREFIX, where), where)
    dtype, shape = npy.parse_header(_exactly(reader, length, where), where)

    def chunks() -> Iterator[bytes]:
        again = start()
        _exactly(again, npy.PREFIX + length, where)
        yield from _chunks(again, tensor_size(dtype, shape), where)
        if again.read(1):
            raise WeightsInvalid(f"{where} has more bytes than its shape")

    return TensorStream(name=name, dtype=dtype, shape=shape, chunks=chunks)


def _from_npz(path: Path, file: FileIO, files: ExitStack) -> list[TensorStream]:
    import zipfile  # 8 ms, and only these files are zips

    try:
        archive = files.enter_context(zipfile.ZipFile(file))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise WeightsInvalid(f"{path.name} is no archive that can be read: {error}") from error

    def stream(member: zipfile.ZipInfo) -> TensorStream:
        where = f"{path.name}: {member.filename!r}"
        # of others zipfile unpacks a block whole, however little is asked for: 700 bytes became 1 GiB of memory
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightsInvalid(f"{where} is packed by another method than numpy's", hint="numpy: savez_compressed")
        return _from_npy(member.filename.removesuffix(".npy"), where, lambda: _Member(archive, member, where))

    return [stream(member) for member in archive.infolist()]


class _Member:
    """A member of an archive, its errors translated."""

    def __init__(self, archive: ZipFile, member: ZipInfo, where: str) -> None:
        self._where = where
        with self._translated():
            self._file = archive.open(member)

    def read(self, size: int, /) -> bytes:
        with self._translated():
            return self._file.read(size)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        from zipfile import BadZipFile
        from zlib import error as deflate_error

        try:
            yield
        # RuntimeError: it is encrypted; NotImplementedError: packed by a method that zipfile does not know
        except (BadZipFile, deflate_error, EOFError, RuntimeError, NotImplementedError) as error:
            raise WeightsInvalid(f"{self._where} cannot be unpacked: {error}") from error


def _chunks(reader: _Reader, size: int, where: str) -> Iterator[bytes]:
    left = size
    while left:
        try:
            chunk = reader.read(min(left, CHUNK))
        except OSError as error:
            raise WeightsInvalid(f"{where} cannot be read: {error.strerror or error}") from error
        if not chunk:
            raise WeightsInvalid(f"{where} ends {left} bytes too early")
        left -= len(chunk)
        yield chunk


def _exactly(reader: _Reader, size: int, where: str) -> bytes:
    return b"".join(_chunks(reader, size, where))
