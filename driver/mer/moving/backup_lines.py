"""The lines of a backup: what it is, the registry, the access log as it is exported, and how much that was.

Uncompressed a backup is UTF-8 text, a JSON document a line:

    {"backup":{"format":1,"version":…,"schema":…,"chain":…,"head":{"seq":…,"digest":…},"at":…,"database":…}}
    {"server":{…}} {"weights":{…}} … one thing of the registry a line (moving.nouns.NAMES)
    {"digest":…,"previous":…,"record":…,"seq":1} … the lines of `mer log export`
    {"end":{"registered":…,"records":…,"sha256":…}} the sha256 of every byte before this line
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec

from mer.audit.export import ExportedRecord, exported_record
from mer.core.chain import Head
from mer.core.errors import BackupInvalid
from mer.moving.nouns import NAMES, Noun, name_of

FORMAT = 1

MAX_LINE = 64 * 2**20
"""Bytes of a line, and so of memory. No thing in a registry comes near it; a line of a file that is no backup may."""

MAX_HEADING = 64 * 2**10
"""Bytes of the first line, which is read before anything is known of the file: as Python's objects, short brackets of a
line as long as others may be would take 25 times its length."""


CHAIN = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z"
"""A chain's name. The log of a backup may be empty, and then no record shows that its name is none, which it keeps for ever."""


class Heading(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: what this is a backup of."""

    format: int
    version: str
    """Of the program that wrote it."""
    schema: int
    chain: Annotated[str, msgspec.Meta(pattern=CHAIN)]
    head: Head
    """The access log ends here; the registry is as it was then."""
    at: dt.datetime
    database: str


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The last line: without it, a backup is not whole."""

    registered: int
    records: int
    sha256: str


_encoder = msgspec.json.Encoder()
_NOUNS = {name: msgspec.json.Decoder(kind) for name, kind in NAMES.items()}
_LINE = msgspec.json.Decoder(dict[str, msgspec.Raw])


def line_of(value: Heading | End | Noun) -> bytes:
    """Return the line of a heading, of an end or of something registered, with its newline."""
    match value:
        case Heading():
            name = "backup"
        case End():
            name = "end"
        case _:
            name = name_of(value)
    return _encoder.encode({name: value}) + b"\n"


def read_heading(line: bytes) -> Heading:
    """Read the first line.

    Raises:
        BackupInvalid: this is no backup, or one of a format that this program does not know.
    """
    if len(line) > MAX_HEADING:
        raise BackupInvalid(f"this is no backup: its first line is longer than {MAX_HEADING} bytes")
    try:
        found = _LINE.decode(line)
        told = msgspec.json.decode(found["backup"], type=dict[str, Any])
    except (msgspec.MsgspecError, KeyError, RecursionError) as error:
        raise BackupInvalid("this is no backup: its first line does not say what it holds") from error
    if told.get("format") != FORMAT:
        raise BackupInvalid(
            f"it has the format {str(told.get('format'))[:20]}, and this program knows {FORMAT}",
            hint="The program that wrote it, or a newer one, can read it.",
        )
    try:
        return msgspec.json.decode(found["backup"], type=Heading)
    except msgspec.ValidationError as error:
        raise BackupInvalid(f"its first line cannot be used: {error}") from error


def read_line(line: bytes) -> Noun | ExportedRecord | End:
    """Read any other line.

    Raises:
        BackupInvalid: it is none of a backup.
    """
    if line.startswith(b'{"digest":'):
        record = exported_record(line)
        if record is None:
            raise BackupInvalid("it is no record of an access log")
        return record
    try:
        ((name, raw),) = _LINE.decode(line).items()
        if name == "end":
            return msgspec.json.decode(raw, type=End)
        noun: Noun = _NOUNS[name].decode(raw)
    except (msgspec.MsgspecError, ValueError, KeyError, RecursionError) as error:
        raise BackupInvalid(f"it is no line of a backup: {str(error)[:200]}") from error
    return noun
