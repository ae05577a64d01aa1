"""The lines of a backup: what it is, the registry, the access log as it is exported, and how much that was.

Uncompressed a backup is UTF-8 text, a JSON document a line:

    {"backup":{"format":1,"version":…,"schema":…,"chain":…,"head":{"seq":…,"digest":…},"at":…,"database":…}}
    {"server":{…}} {"weights":{…}} … one thing of the registry a line (moving.nouns.NAMES)
    {"digest":…,"previous":…,"record":…,"seq":1} … the lines of `mer log export`
    {"end":{"registered":…,"records":…,"sha256":…}} the sha256 of every byte before this line
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from typing import Annotated, Any

import msgspec

from mer.audit.export import MAX_LINE as MAX_RECORD
from mer.audit.export import ExportedRecord, exported_record
from mer.core.chain import Head
from mer.core.errors import BackupInvalid, UsageError
from mer.core.records import AliasMove, Model, Server, Weights
from mer.core.references import check_name
from mer.moving.nouns import NAMES, Noun, name_of

FORMAT = 1

MAX_LINE = 16 * 2**20
"""Bytes of a line. A spec and a description, which are the largest, have a tenth of it; a line of a file that is no backup
may have anything."""

MAX_VALUES = 250_000
"""Values in a line of the registry: as Python's objects, short ones take 25 times the bytes that they are written with. Every
character of the largest spec would have to begin another value to come near."""

MAX_DEPTH = 64
"""Of values in each other: as deep as a registry file may be."""

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


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_OPENING, _CLOSING = b"[{", b"]}"
_NO_BRACKETS = bytes(set(range(256)) - {*_OPENING, *_CLOSING})

_encoder = msgspec.json.Encoder()
_NOUNS = {name: msgspec.json.Decoder(kind) for name, kind in NAMES.items()}
_LINE = msgspec.json.Decoder(dict[str, msgspec.Raw])


def line_of(value: Heading | End | Noun) -> bytes:
    """Return the line of a heading, of an end or of something registered, with its newline.

    Raises:
        BackupInvalid: it would be one that is not read again.
    """
    match value:
        case Heading():
            name = "backup"
        case End():
            name = "end"
        case _:
            name = name_of(value)
    line = _encoder.encode({name: value}) + b"\n"
    _check_weight(line)
    return line


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
        BackupInvalid: it is none of a backup, or names something as no registry does.
    """
    if line.startswith(b'{"digest":'):
        record = exported_record(line) if len(line) <= MAX_RECORD else None
        if record is None:
            raise BackupInvalid("it is no record of an access log")
        return record
    _check_weight(line)
    try:
        ((name, raw),) = _LINE.decode(line).items()
        if name == "end":
            return msgspec.json.decode(raw, type=End)
        noun: Noun = _NOUNS[name].decode(raw)
    except (msgspec.MsgspecError, ValueError, KeyError, RecursionError) as error:
        raise BackupInvalid(f"it is no line of a backup: {str(error)[:200]}") from error
    _check_names(noun)
    return noun


def _check_weight(line: bytes) -> None:
    """Hold a line to what it may cost once it is read, before it is. Raises: BackupInvalid."""
    if len(line) > MAX_LINE:
        raise BackupInvalid(f"it is longer than {MAX_LINE} bytes")
    bare = _STRING.sub(b"", line)
    if bare.count(b",") + sum(bare.count(bracket) for bracket in (b"[", b"{")) > MAX_VALUES:
        raise BackupInvalid(f"it has more than {MAX_VALUES} values")
    steps = (1 if bracket in _OPENING else -1 for bracket in bare.translate(None, _NO_BRACKETS))
    if max(itertools.accumulate(steps), default=0) > MAX_DEPTH:
        raise BackupInvalid(f"its values are more than {MAX_DEPTH} deep in each other")


def _check_names(noun: Noun) -> None:
    """Hold something that is registered to the rule for names: a reference could not name it. Raises: BackupInvalid."""
    match noun:
        case Server() | Model() | Weights():
            name, what = noun.name, "name"
        case AliasMove():
            name, what = noun.alias, "alias"
        case _:
            return
    try:
        composed = check_name(name, what=what)
    except UsageError as error:
        raise BackupInvalid(error.message) from error
    if composed != name:  # two of them would look the same, and only one could be named
        raise BackupInvalid(f"the {what} {name!r} is not in Unicode's composed form")
