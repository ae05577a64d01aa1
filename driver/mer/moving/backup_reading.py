"""A backup is read: whole and without writing anything first, then as the source of a move."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import itertools
import os
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mer.audit.export import ExportedRecord
from mer.core.chain import Head, Link, Verifier
from mer.core.errors import BackupInvalid, LogNotVerified, UsageError
from mer.dal.base import SCHEMA
from mer.moving.backup_lines import MAX_LINE, End, Heading, read_heading, read_line
from mer.moving.nouns import Noun

LINES_AT_ONCE = 500


class Backup:
    """A backup that was checked; a source of a move as a database is. Its file stays open, so that it stays this one."""

    def __init__(self, file: BinaryIO, path: Path, heading: Heading, end: End) -> None:
        self._file = file
        self._path = path
        self.heading = heading
        self.end = end

    @property
    def name(self) -> str:
        return str(self._path)

    async def chain(self) -> str:
        return self.heading.chain

    async def head(self) -> Head:
        return self.heading.head

    async def records(self, *, after: int, until: int) -> AsyncIterator[Sequence[Link]]:
        lines = (line for line in self._lines() if isinstance(line, ExportedRecord))
        wanted = itertools.takewhile(
            lambda line: line.seq <= until, itertools.dropwhile(lambda line: line.seq <= after, lines)
        )
        while some := await asyncio.to_thread(lambda: list(itertools.islice(wanted, LINES_AT_ONCE))):
            yield some

    async def nouns(self) -> AsyncIterator[Noun]:
        nouns = itertools.takewhile(lambda line: not isinstance(line, ExportedRecord | End), self._lines())
        while some := await asyncio.to_thread(lambda: list(itertools.islice(nouns, LINES_AT_ONCE))):
            for noun in some:
                assert not isinstance(noun, ExportedRecord | End)
                yield noun

    def _lines(self) -> Iterator[Noun | ExportedRecord | End]:
        lines = _texts(self._file)
        next(lines)  # the heading
        return (_read(number, line) for number, line in lines)


@contextmanager
def opened_backup(path: Path, *, progress: Callable[[int, int], None] | None = None) -> Iterator[Backup]:
    """Check a backup from its first byte to its last, and give it open. This blocks: it reads the whole file.

    Raises:
        BackupInvalid: it is none, was cut off or changed, or is of a format or a schema that this program does not know.
        LogNotVerified: it is whole, and the log in it does not hold. UsageError: it cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    with file:
        try:
            heading, end = _checked(file, progress)
        except (BackupInvalid, LogNotVerified, UsageError) as error:
            raise type(error)(f"{path}: {error.message}", hint=error.hint) from error
        yield Backup(file, path, heading, end)


def _checked(file: BinaryIO, progress: Callable[[int, int], None] | None) -> tuple[Heading, End]:
    lines = _texts(file)
    _, first = next(lines, (1, b""))
    heading = read_heading(first)
    if heading.schema != SCHEMA:
        raise BackupInvalid(
            f"it is of the schema {heading.schema:02}, and this program has {SCHEMA:02}",
            hint=f"The program that wrote it is version {heading.version[:40]}: restore it with that, then upgrade.",
        )
    hashed, registered, records = hashlib.sha256(first), 0, 0
    verifier = Verifier(chain=heading.chain, most_faults=1)
    for number, text in lines:
        line = _read(number, text)
        match line:
            case End():
                if next(lines, None) is not None:
                    raise BackupInvalid(f"it goes on after its end, in line {number + 1}")
                _check_end(heading, line, End(registered=registered, records=records, sha256=hashed.hexdigest()))
                _check_log(heading, verifier)
                return heading, line
            case ExportedRecord():
                records += 1
                verifier.feed([line])
                if progress and not records % LINES_AT_ONCE:
                    progress(records, heading.head.seq)
            case _ if records:
                raise BackupInvalid(f"line {number} stands among the records of the access log, and is none")
            case _:
                registered += 1
        hashed.update(text)
    raise BackupInvalid("it has no end: it was cut off")


def _check_end(heading: Heading, told: End, found: End) -> None:
    if told.sha256 != found.sha256:
        raise BackupInvalid("it was changed: what it holds does not have the sha256 that its last line tells")
    if told != found or found.records != heading.head.seq:
        raise BackupInvalid(
            f"it holds {found.records} records and {found.registered} things of a registry, and tells of "
            f"{heading.head.seq} and {told.registered}"
        )


def _check_log(heading: Heading, verifier: Verifier) -> None:
    if verifier.faults:
        fault = verifier.faults[0]
        raise LogNotVerified(f"the log in it does not verify: record {fault.seq}: {fault.what}")
    if verifier.head != heading.head:
        raise LogNotVerified(f"the log in it does not end with the head that it tells, {heading.head.digest}")


def _texts(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Give the lines with their numbers. No more than one is held, whatever the file would unpack to.

    Raises:
        BackupInvalid: it is not compressed, is damaged or cut off, or has a line without end.
    """
    with gzip.GzipFile(fileobj=io.BufferedReader(_FromStart(file)), mode="rb") as packed:
        for number in itertools.count(1):
            try:
                line = packed.readline(MAX_LINE + 1)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                what = "it was cut off" if isinstance(error, EOFError) else "it is no gzip file, or a damaged one"
                raise BackupInvalid(f"{what} (line {number})") from error
            except OSError as error:
                raise UsageError(f"it cannot be read: {error.strerror or error}") from error
            if len(line) > MAX_LINE:
                raise BackupInvalid(f"line {number} is longer than {MAX_LINE} bytes")
            if not line:
                return
            yield number, line


class _FromStart(io.RawIOBase):
    """A file read from its start, at a place of its own: a reader that was given up may still be reading in its thread."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._place = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = os.pread(self._file.fileno(), len(buffer), self._place)
        self._place += len(chunk)
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _read(number: int, line: bytes) -> Noun | ExportedRecord | End:
    try:
        return read_line(line)
    except BackupInvalid as error:
        raise BackupInvalid(f"line {number}: {error.message}") from error
