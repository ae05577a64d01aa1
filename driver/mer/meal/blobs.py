"""Blobs by digest over a session: which of them the other side lacks, and one sent (docs/wire.md, `have` and `put`)."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mer.core.errors import ContentError, ContentMissing, DigestMismatch, ProtocolViolation
from mer.meal.session import Session
from mer.meal.stream import Bytes
from mer_worker.intake import MOST_DIGESTS
from mer_worker.manifest import is_digest
from mer_worker.wire import Flag, Kind, dump, frame, pack

CAPABILITY = "blobs"

PIECE = 2 << 20
"""Bytes of one frame: a worker receives it in one huge page, where 1 MiB in small ones costs as much as hashing it does; and
one that waits for the disk holds few of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """Bytes that have a digest, and where they are."""

    digest: str
    source: Path | bytes
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lacking:
    """What the other side has not."""

    missing: tuple[str, ...]
    partial: dict[str, int]
    """Of some of them, how many bytes it has."""


async def lacking(session: Session, digests: Sequence[str], *, deadline: float | None = None) -> Lacking:
    """Ask which of these blobs a worker has not; it keeps the others from gc for as long as it runs.

    Raises:
        ContentError: its cache cannot be used.
        ProtocolViolation, DeadlineExceeded, WorkerLost: as Session.ask.
    """
    missing: list[str] = []
    partial: dict[str, int] = {}
    for at in range(0, len(digests), MOST_DIGESTS):
        asked = digests[at : at + MOST_DIGESTS]
        head = {"digests": list(asked)}
        answer = await session.ask(
            lambda request, head=head: (frame(Kind.HAVE, head, request=request),),  # type: ignore[misc]
            deadline=deadline,
        )
        fields = answer.fields()
        missing += _known(fields.get("missing"), asked)
        partial |= _sizes(fields.get("partial"))
    return Lacking(missing=tuple(missing), partial=partial)


async def put(session: Session, blob: Blob, *, offset: int = 0, sent: Callable[[int], None]) -> None:
    """Send a blob, from `offset` on, and wait until it is verified there. `sent` hears of the bytes as they go.

    Raises:
        ContentMissing: it cannot be read here.
        DigestMismatch: what came there is not what its digest says.
        ContentUnwritable: there is no room for it.
        ProtocolViolation, WorkerLost: as Session.ask.
    """
    file = await asyncio.to_thread(_open, blob, offset)
    try:
        left = blob.size - offset
        piece = await _read(file, blob, left)
        left -= len(piece)
        head = dump({"digest": blob.digest, "size": blob.size, "offset": offset})
        request, call = await session.begin(lambda request: _frame(request, piece, head, more=left > 0))
        try:
            sent(len(piece))
            while left and not call.future.done():  # an error may come before the end
                piece = await _read(file, blob, left)
                left -= len(piece)
                await session.send(*_frame(request, piece, more=left > 0))
                sent(len(piece))
        except BaseException:
            session.abandon(request)
            raise
        await session.outcome(request, call)
    finally:
        file.close()


def _frame(request: int, piece: bytes, head: bytes = b"", *, more: bool) -> tuple[Bytes, ...]:
    flags = Flag.MORE if more else 0
    return pack(Kind.PUT, head, request=request, flags=flags, body_bytes=len(piece)), piece


def _open(blob: Blob, offset: int) -> BinaryIO:
    try:
        file = io.BytesIO(blob.source) if isinstance(blob.source, bytes) else blob.source.open("rb", buffering=0)
        file.seek(offset)
    except OSError as error:
        raise ContentMissing(f"{blob.source!s} cannot be read: {error.strerror}") from error
    return file


async def _read(file: BinaryIO, blob: Blob, left: int) -> bytes:
    try:
        piece = await asyncio.to_thread(file.read, min(PIECE, left))
    except OSError as error:
        raise ContentError(f"{blob.source!s} cannot be read: {error.strerror}") from error
    if left and not piece:
        raise DigestMismatch(f"{blob.source!s} is shorter than {blob.size} bytes")
    return piece


def _known(missing: Any, asked: Sequence[str]) -> list[str]:
    if not isinstance(missing, list) or not set(map(str, missing)) <= set(asked):
        raise ProtocolViolation("the worker lacks what it was not asked about")
    return missing


def _sizes(partial: Any) -> dict[str, int]:
    if not isinstance(partial, dict):
        return {}
    return {digest: size for digest, size in partial.items() if is_digest(digest) and type(size) is int and size > 0}
