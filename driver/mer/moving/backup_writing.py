"""A backup is written: as of one moment, its log verified on the way."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from mer import __version__
from mer.audit.export import MAX_LINE as MAX_RECORD
from mer.audit.export import export_line
from mer.core.chain import Link, Verifier
from mer.core.errors import BackupInvalid, ConcurrentChange, LogNotVerified
from mer.core.records import RecordKind
from mer.dal.base import SCHEMA
from mer.moving.backup_lines import FORMAT, End, Heading, line_of
from mer.moving.backup_output import Output, new_file, stream
from mer.moving.log import Progress
from mer.moving.nouns import Noun, described
from mer.moving.source import Source
from mer.moving.transfer import TRIES

COMPRESSION = 6
"""gzip's own default: half the size of 1 at a third of its speed, and still faster than records are read."""

GZIP = 16
"""Added to the bits of zlib's window it asks for the form of gzip."""

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
    with new_file(file, force=force) as output:
        return await _write(source, output, clock=clock, progress=progress)


async def stream_backup(
    source: Source,
    write: Callable[[bytes], None],
    *,
    clock: Callable[[], dt.datetime],
    progress: Progress | None = None,
) -> tuple[Heading, End]:
    """Give a backup to `write`, which is called in threads, a piece at a time; one that fails has no end.

    Raises:
        LogNotVerified, ContentUnwritable, ConcurrentChange: as `write_backup`; and what `write` raises.
    """
    with stream(write) as output:
        return await _write(source, output, clock=clock, progress=progress)


async def _write(
    source: Source, output: Output, *, clock: Callable[[], dt.datetime], progress: Progress | None
) -> tuple[Heading, End]:
    for _ in range(TRIES):
        await asyncio.to_thread(output.begin_anew)
        heading = Heading(
            format=FORMAT,
            version=__version__,
            schema=SCHEMA,
            chain=await source.chain(),
            head=await source.head(),
            at=clock(),
            database=source.name,
        )
        lines = _Lines(output)
        await lines.add(line_of(heading))
        registered = 0
        async for noun in source.nouns():
            await lines.add(_line_of(noun))
            registered += 1
        if not await _changed_since(source, heading.head.seq):
            break
    else:
        raise ConcurrentChange(f"the registry of {source.name} was changed {TRIES} times while it was read")
    await asyncio.to_thread(output.keep)
    records = await _write_log(source, heading, lines, progress)
    end = End(registered=registered, records=records, sha256=lines.sha256)
    await lines.add(line_of(end))
    await lines.close()
    return heading, end


def _line_of(noun: Noun) -> bytes:
    try:
        return line_of(noun)
    except BackupInvalid as error:
        raise BackupInvalid(f"{described(noun)} makes no line of a backup: {error.message}") from error


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
    lines = list(map(export_line, records))
    for record, line in zip(records, lines, strict=True):
        if len(line) > MAX_RECORD // 4 and len(line.encode()) > MAX_RECORD:
            raise BackupInvalid(
                f"record {record.seq} would be longer than {MAX_RECORD} bytes: it could not be read again"
            )
    return "".join(lines).encode()


async def _changed_since(source: Source, seq: int) -> bool:
    """Tell whether the registry was changed meanwhile: each change is on record in its own transaction."""
    async for records in source.records(after=seq, until=(await source.head()).seq):
        if any(record.columns.get("kind") == RecordKind.CHANGE for record in records):
            return True
    return False


class _Lines:
    """Lines on their way into the file; what is slow about it, compressing, is done in a thread."""

    def __init__(self, output: Output) -> None:
        self._output = output
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
        self._hash.update(lines)
        self._waiting.append(lines)
        self._size += len(lines)
        if self._size >= WRITTEN_AT_ONCE:
            await self._flush()

    async def close(self) -> None:
        """Write what waits, and gzip's own end."""
        await self._flush()
        await asyncio.to_thread(lambda: self._output.write(self._packer.flush()))

    async def _flush(self) -> None:
        waiting, self._waiting, self._size = b"".join(self._waiting), [], 0
        await asyncio.to_thread(lambda: self._output.write(self._packer.compress(waiting)))
