"""What an auditor does: list, show, verify, checkpoint, export."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from mer.audit.export import export_line, read_export
from mer.core.chain import EMPTY, Checkpoint, Fault, Head, Verifier
from mer.core.errors import RecordNotFound, UsageError
from mer.core.records import PAGE, AccessFilter, AccessRecord, InvocationId, Page
from mer.dal.base import Store

LINES_AT_ONCE = 1000
"""Of an exported file between two reports of progress."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What verifying a log found."""

    chain: str
    records: int
    head: Head
    faults: tuple[Fault, ...]
    first: int = 1
    """The first record that was looked at: what stood before it in an exported part is not proven."""

    @property
    def sound(self) -> bool:
        """Whether everything holds."""
        return not self.faults


class AuditLog:
    """The access log as an auditor sees it. Nothing here writes to it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(
        self, where: AccessFilter | None = None, *, after: str | None = None, limit: int = PAGE
    ) -> Page[AccessRecord]:
        """Return a page of records, newest first."""
        return await self._store.access_log.page(where or AccessFilter(), after=after, limit=limit)

    async def show(self, which: str) -> tuple[AccessRecord, ...]:
        """Return the record of that seq, or all records of that invocation, oldest first.

        Raises:
            RecordNotFound
        """
        if which.isascii() and which.isdecimal() and len(which) < 18:
            return (await self._store.access_log.get(int(which)),)
        unknown = RecordNotFound(f"no record has the number or the invocation {which[:60]!r}")
        try:
            invocation = InvocationId(str(uuid.UUID(which)))
        except ValueError:
            raise unknown from None
        records = await self._store.access_log.of_invocation(invocation)
        if not records:
            raise unknown
        return records

    async def checkpoint(self) -> Checkpoint:
        """Return the head, to be kept elsewhere."""
        log = self._store.access_log
        chain, head = await log.chain(), await log.head()
        return Checkpoint(chain=chain, seq=head.seq, digest=head.digest)

    @property
    def divisible(self) -> bool:
        """Whether several processes can verify it: one database is open for one process alone."""
        return self._store.elsewhere is not None

    async def verify(
        self, *, since: Checkpoint | None = None, progress: Callable[[int], None] | None = None, jobs: int = 1
    ) -> Verification:
        """Recompute the whole chain; with `since`, also that it still goes through that checkpoint.

        `progress` is called now and then with the number of records done. `jobs` processes share a long log where the
        database is `divisible`; elsewhere this one does it all. What is found is the same.
        """
        log, elsewhere = self._store.access_log, self._store.elsewhere
        chain = await log.chain()
        verifier = Verifier(chain=chain, checkpoint=since)
        if jobs > 1 and elsewhere is not None:
            from mer.audit.jobs import verify_in_jobs

            await verify_in_jobs(
                log, verifier, elsewhere=elsewhere, jobs=jobs, chain=chain, checkpoint=since, progress=progress
            )
        else:
            await log.feed(verifier, progress=progress)
        faults = tuple(verifier.finish())
        return Verification(chain=chain, records=verifier.records, head=verifier.head, faults=faults)

    async def export(self, *, after: int = 0) -> AsyncIterator[str]:
        """Give the lines of an export, some at a time, from the record behind `after` on."""
        async for records in self._store.access_log.scan(after=after):
            yield "".join(map(export_line, records))


def verify_export(
    path: Path, *, since: Checkpoint | None = None, progress: Callable[[int], None] | None = None
) -> Verification:
    """Verify an exported file without any database.

    A file that begins later than record 1 is verified from its first record on; `Verification.first` says so.

    Raises:
        LogNotVerified: it is no export. UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as lines:
            records = read_export(lines)
            first = next(records, None)
            if first is None:
                chain = since.chain if since else ""
                verifier = Verifier(chain=chain, checkpoint=since)
                return _verification(verifier, chain, 1)
            chain = _chain_of(first.body)
            before = EMPTY if first.seq == 1 else Head(seq=first.seq - 1, digest=first.previous)
            verifier = Verifier(chain=chain, after=before, checkpoint=since)
            rest = itertools.chain([first], records)
            while some := list(itertools.islice(rest, LINES_AT_ONCE)):
                verifier.feed(some)
                if progress:
                    progress(verifier.records)
            return _verification(verifier, chain, first.seq)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error


def _verification(verifier: Verifier, chain: str, first: int) -> Verification:
    faults = tuple(verifier.finish())
    return Verification(chain=chain, records=verifier.records, head=verifier.head, faults=faults, first=first)


def _chain_of(body: str) -> str:
    try:
        return str(json.loads(body).get("chain"))
    except (ValueError, AttributeError, RecursionError):
        return "unknown"  # the verifier then names the record whose body is no JSON object
