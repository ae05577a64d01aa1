"""Shows a verifier the records that a store scans: how those feed one that have no faster way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from mer.core.chain import Verifier
from mer.core.records import AccessRecord


class Scanned(Protocol):
    """What `scan` gives: it can be closed before its end."""

    def __aiter__(self) -> AsyncIterator[Sequence[AccessRecord]]: ...

    async def aclose(self) -> None: ...


async def feed_scanned(scanned: Scanned, verifier: Verifier, progress: Callable[[int], None] | None) -> None:
    """Feed everything that comes, and tell how far it is after each part."""
    async with aclosing(scanned) as parts:
        async for records in parts:
            verifier.feed(records)
            if progress:
                progress(verifier.records)
