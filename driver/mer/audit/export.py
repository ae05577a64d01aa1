"""The exported log: one line a record, canonical JSON itself, verified offline with nothing but sha256.

A line is `{"digest":"…","previous":"…","record":BODY,"seq":N}`: the text that was hashed is the line without its digest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, ClassVar

from mer.core.chain import Link
from mer.core.errors import LogNotVerified

MAX_LINE = 4 * 2**20
"""Bytes of a line. The largest record holds 512 described tensors and stays far below one MiB."""

_LINE = re.compile(
    r'\{"digest":"([0-9a-f]{64})","previous":"([0-9a-f]{64})","record":(\{.*\}),"seq":([1-9][0-9]{0,15})\}\n?'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedRecord:
    """One line of an exported log."""

    seq: int
    previous: str
    digest: str
    body: str
    columns: ClassVar[Mapping[str, str | int | None]] = {}
    """A file has none."""


def export_line(link: Link) -> str:
    """Return the record's line, with its newline."""
    return f'{{"digest":"{link.digest}","previous":"{link.previous}","record":{link.body},"seq":{link.seq}}}\n'


def read_export(lines: IO[bytes]) -> Iterator[ExportedRecord]:
    """Read an exported log line by line.

    Raises:
        LogNotVerified: a line is not one of an export.
    """
    number = 0
    while line := lines.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise LogNotVerified(f"line {number} is longer than {MAX_LINE} bytes")
        record = exported_record(line)
        if record is None:
            raise LogNotVerified(f"line {number} is no record of an exported log")
        yield record


def exported_record(line: bytes) -> ExportedRecord | None:
    """Read one line, with or without its newline; None where it is none of an export."""
    try:
        found = _LINE.fullmatch(line.decode())
    except UnicodeDecodeError:
        return None
    return ExportedRecord(digest=found[1], previous=found[2], body=found[3], seq=int(found[4])) if found else None
