"""A backup is written: under its name only when it is whole, on the disk, and readable by nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import os
import secrets
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mer import __version__
from mer.audit.export import export_line
from mer.core.chain import Link, Verifier
from mer.core.errors import AlreadyExists, ConcurrentChange, ContentUnwritable, LogNotVerified, MerError
from mer.core.records import RecordKind
from mer.dal.base import SCHEMA
from mer.moving.backup_lines import FORMAT, MAX_LINE, End, Heading, line_of
from mer.moving.log import Progress
from mer.moving.source import Source
from mer.moving.transfer import TRIES

COMPRESSION = 6
"""gzip's own default: half the size of 1 at a third of its speed, and still faster than records are read."""

GZIP = 16
"""Added to the bits of zlib's window it asks for the form of gzip."""

MAX_STEM = 40
"""Characters of the file's name in its temporary one: four bytes each at most, and 255 are what a name may have."""

WRITTEN_AT_ONCE = 2**20
"""Bytes that are collected before they are compressed in a thread."""


async def write_backup(
    source: Source,
    file: Path,
    *,
    clock: Callable[[], dt.datetime],
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Heading, End]:
    """Write a database into a file, as it was at one moment, while others go on using it.

    Raises:
        AlreadyExists: there is such a file, and `force` was not said.
        LogNotVerified: the log does not hold. ContentUnwritable: the file cannot be written, or is a device or a folder.
        ConcurrentChange: the registry is changed all the time.
    """
    with _new(file, force=force) as raw:
        for _ in range(TRIES):
            await asyncio.to_thread(_begin_anew, raw)
            heading = Heading(
                format=FORMAT,
                version=__version__,
                schema=SCHEMA,
                chain=await source.chain(),
                head=await source.head(),
                at=clock(),
                database=source.name,
            )
            lines = _Lines(raw)
            await lines.add(line_of(heading))
            registered = 0
            async for noun in source.nouns():
                await lines.add(line_of(noun))
                registered += 1
            if not await _changed_since(source, heading.head.seq):
                break
        else:
            raise ConcurrentChange(f"the registry of {source.name} was changed {TRIES} times while it was read")
        records = await _write_log(source, heading, lines, progress)
        end = End(registered=registered, records=records, sha256=lines.sha256)
        await lines.add(line_of(end))
        await lines.close()
    return heading, end


async def _write_log(source: Source, heading: Heading, lines: _Lines, progress: Progress | None) -> int:
    verifier, end = Verifier(chain=heading.chain, most_faults=1), heading.head
    if end.seq:
        async for records in source.records(after=0, until=end.seq):
            verifier.feed(records)
            if verifier.faults:
                break
            await lines.add(_exported(records))
            if progress:
                progress("written", verifier.records, end.seq)
    if verifier.faults:
        fault = verifier.faults[0]
        raise LogNotVerified(
            f"the log of {source.name} does not verify: record {fault.seq}: {fault.what}", hint="mer log verify"
        )
    if verifier.head != end:
        raise LogNotVerified(
            f"the log of {source.name} ends at record {verifier.head.seq}, though its head is {end.seq}"
        )
    return verifier.records


def _exported(records: Sequence[Link]) -> bytes:
    return "".join(map(export_line, records)).encode()


async def _changed_since(source: Source, seq: int) -> bool:
    """Tell whether the registry was changed meanwhile: each change is on record in its own transaction."""
    async for records in source.records(after=seq, until=(await source.head()).seq):
        if any(record.columns.get("kind") == RecordKind.CHANGE for record in records):
            return True
    return False


class _Lines:
    """Lines on their way into the file; what is slow about it, compressing, is done in a thread."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        # not a GzipFile: one that is given up would write its end into the file when it is collected
        self._packer = zlib.compressobj(COMPRESSION, zlib.DEFLATED, zlib.MAX_WBITS | GZIP)
        self._hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._size = 0

    @property
    def sha256(self) -> str:
        """Of every line so far."""
        return self._hash.hexdigest()

    async def add(self, lines: bytes) -> None:
        """Add whole lines."""
        if len(lines) > MAX_LINE and lines.count(b"\n") == 1:
            raise MerError(f"a line of {len(lines)} bytes would make a backup that nobody can read")
        self._hash.update(lines)
        self._waiting.append(lines)
        self._size += len(lines)
        if self._size >= WRITTEN_AT_ONCE:
            await self._flush()

    async def close(self) -> None:
        """Write what waits, and gzip's own end."""
        await self._flush()
        await asyncio.to_thread(lambda: self._raw.write(self._packer.flush()))

    async def _flush(self) -> None:
        waiting, self._waiting, self._size = b"".join(self._waiting), [], 0
        await asyncio.to_thread(lambda: self._raw.write(self._packer.compress(waiting)))


def _begin_anew(raw: BinaryIO) -> None:
    raw.seek(0)
    raw.truncate()


@contextlib.contextmanager
def _new(file: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes its name when the block ends well."""
    there = AlreadyExists(f"{file} is there already", hint="--force replaces it")
    temporary = file.with_name(f".{file.name[:MAX_STEM]}.{secrets.token_hex(4)}.part")
    try:
        if os.path.lexists(file):
            if not force:
                raise there
            if not file.is_file():  # a device or a pipe would be gone, and this be a file in its place
                raise ContentUnwritable(f"{file} is no file, and is left alone")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as raw:
                yield raw
                raw.flush()
                os.fsync(raw.fileno())
            if force:
                temporary.replace(file)
            else:
                _take_name(temporary, file)
        except FileExistsError as error:
            raise there from error
        finally:
            temporary.unlink(missing_ok=True)
        _sync(file.parent)
    except OSError as error:
        raise ContentUnwritable(f"{file} cannot be written: {error.strerror or error}") from error


def _take_name(temporary: Path, file: Path) -> None:
    """Give the file its name, which must still be free. Raises: FileExistsError."""
    try:
        file.hardlink_to(temporary)  # who made such a file meanwhile keeps it, where rename would replace it
    except FileExistsError:
        raise
    except OSError:  # a file system without links: between these two calls is all that is left to chance
        if os.path.lexists(file):
            raise FileExistsError(file) from None
        temporary.replace(file)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
