"""The access log in memory: the same chain that the databases keep."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence

from mer.core.chain import EMPTY, Head, Verifier, derived, digest
from mer.core.errors import MerError, NotAllowed, RecordNotFound
from mer.core.records import (
    PAGE,
    AccessFilter,
    AccessRecord,
    Digest,
    InvocationId,
    LeaseId,
    OpenInvocation,
    Page,
    RecordKind,
)
from mer.dal.feeding import feed_scanned
from mer.dal.memory.tables import THE_CHAIN, LogLock, Tables
from mer.dal.paging import bounded, number_after, page_of
from mer.dal.times import record_text, record_time

SCANNED_AT_ONCE = 1000
"""Records that `scan` gives at once."""

STARTED_WITH = ("invocation", "lease", "model", "server")
"""What the open invocations need to be found again."""


class MemoryAccessLog:
    """The chain of access records."""

    def __init__(self, tables: Tables, *, lock: Callable[[], LogLock]) -> None:
        self._tables = tables
        self._lock = lock

    async def chain(self) -> str:
        name = self._tables.chain.get(THE_CHAIN)
        assert name is not None, "a store is made with one"
        return name

    async def adopt_chain(self, chain: str) -> None:
        lock = self._lock()
        await lock.acquire()
        try:
            if chain == await self.chain():
                return
            if len(self._tables.records):
                raise NotAllowed("the access log has records: its chain keeps its name")
            self._tables.chain.put(THE_CHAIN, chain)
        finally:
            lock.release()

    async def append(self, bodies: Sequence[str]) -> tuple[Head, ...]:
        lock = self._lock()
        await lock.acquire()
        try:
            places: list[Head] = []
            refused: MerError | None = None
            for body in bodies:
                try:
                    places.append(self._append(body))
                except MerError as error:
                    refused = refused or error
            if refused:
                raise refused
            return tuple(places)
        finally:
            lock.release()

    async def head(self) -> Head:
        last = self._tables.records.get(len(self._tables.records))
        return Head(seq=last.seq, digest=last.digest) if last else EMPTY

    async def get(self, seq: int) -> AccessRecord:
        found = self._tables.records.get(seq)
        if found is None:
            raise RecordNotFound(f"the access log has no record {seq}")
        return found

    async def of_invocation(self, invocation: InvocationId) -> tuple[AccessRecord, ...]:
        return tuple(record for record in self._oldest_first() if record.columns["invocation"] == invocation)

    async def page(self, where: AccessFilter, *, after: str | None = None, limit: int = PAGE) -> Page[AccessRecord]:
        last = number_after(after)
        found = [
            record
            for record in reversed(self._oldest_first())
            if (last is None or record.seq < last) and _matches(record, where)
        ]
        return page_of(found[: bounded(limit) + 1], limit=limit, key=lambda record: str(record.seq))

    async def scan(self, *, after: int = 0, until: int | None = None) -> AsyncGenerator[list[AccessRecord], None]:
        wanted = [
            record for record in self._oldest_first() if record.seq > after and (until is None or record.seq <= until)
        ]
        for start in range(0, len(wanted), SCANNED_AT_ONCE):
            yield wanted[start : start + SCANNED_AT_ONCE]

    async def feed(
        self, verifier: Verifier, *, until: int | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        await feed_scanned(self.scan(after=verifier.head.seq, until=until), verifier, progress)

    async def unfinished(self, lease: LeaseId | None = None) -> tuple[OpenInvocation, ...]:
        found = (each for each in self._tables.unfinished.values() if lease is None or each.lease == lease)
        return tuple(sorted(found, key=lambda each: each.started_seq))

    async def unfinished_by_server(self, model: str) -> dict[str, int]:
        return dict(Counter(each.server for each in self._tables.unfinished.values() if each.model == model))

    def _oldest_first(self) -> list[AccessRecord]:
        return sorted(self._tables.records.values(), key=lambda record: record.seq)

    def _append(self, body: str) -> Head:
        columns = _columns(body)
        invocation, kind = columns["invocation"], str(columns["kind"])
        if isinstance(invocation, str):
            there = self._tables.kinds.get((InvocationId(invocation), kind))
            if there is not None:
                record = self._tables.records.get(there)
                assert record is not None
                return Head(seq=record.seq, digest=record.digest, other=record.body != body)
        seq = len(self._tables.records) + 1
        before = self._tables.records.get(seq - 1)
        previous = before.digest if before else EMPTY.digest
        record = AccessRecord(
            seq=seq,
            previous=Digest(previous),
            digest=Digest(digest(previous, body, seq)),
            body=body,
            columns=columns,
        )
        self._tables.records.put(seq, record)
        if isinstance(invocation, str):
            self._tables.kinds.put((InvocationId(invocation), kind), seq)
            self._note(InvocationId(invocation), kind, record)
        return Head(seq=seq, digest=record.digest)

    def _note(self, invocation: InvocationId, kind: str, record: AccessRecord) -> None:
        if kind == RecordKind.STARTED:
            self._tables.unfinished.put(
                invocation,
                OpenInvocation(
                    invocation=invocation,
                    lease=LeaseId(str(record.columns["lease"])),
                    started_seq=record.seq,
                    model=str(record.columns["model"]),
                    server=str(record.columns["server"]),
                ),
            )
        elif kind == RecordKind.FINISHED and self._tables.unfinished.get(invocation) is not None:
            self._tables.unfinished.remove(invocation)


def _columns(body: str) -> dict[str, str | int | None]:
    """Return the columns of a body, or refuse it as a database's types would."""
    try:
        columns = derived(json.loads(body))
        kind = RecordKind(str(columns["kind"]))
        if record_text(record_time(str(columns["at"]))) != columns["at"]:
            raise ValueError(f"the time {columns['at']} is not written as records write it")
        if kind is RecordKind.STARTED and not all(isinstance(columns[name], str) for name in STARTED_WITH):
            raise ValueError(f"a run starts with {', '.join(STARTED_WITH)}")
    except (ValueError, AttributeError) as error:
        raise MerError(f"the database refuses a record: {error}") from error
    return columns


def _matches(record: AccessRecord, where: AccessFilter) -> bool:
    columns = record.columns
    for name in ("kind", "model", "server", "actor", "outcome", "invocation"):
        wanted = getattr(where, name)
        if wanted is not None and columns[name] != wanted:
            return False
    at = record_time(str(columns["at"]))
    return not ((where.since is not None and at < where.since) or (where.until is not None and at >= where.until))
