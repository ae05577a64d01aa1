"""The access log in SurrealDB: one chain, whatever is appended by whom."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import msgspec

from mer.core.chain import EMPTY, Head, Verifier
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
)
from mer.dal.feeding import feed_scanned
from mer.dal.paging import bounded, number_after, page_of
from mer.dal.surreal import appending
from mer.dal.surreal.entries import Entry, entry
from mer.dal.surreal.executor import Executor
from mer.dal.surreal.queries import Query, load
from mer.dal.surreal.rows import from_row
from mer.dal.times import record_text

SCANNED_AT_ONCE = 2000
"""Records that `scan` holds at once: 2 MB of bodies; more at once is no faster."""

MAX_WINDOW = 4096
"""Records that one statement of a filtered page looks at, so that none outlasts its deadline however long the log is."""

FIRST_ID = -(2**63)
LAST_ID = 2**63 - 1
"""The ids that a row can have. `scan` begins below 1, so that what was put there by hand is seen."""


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A row as the queries give it: JSON, in which an absent column is absent or null."""

    seq: int
    previous: str
    digest: str
    body: str
    kind: str | int | None = None
    at: str | int | None = None
    invocation: str | int | None = None
    lease: str | int | None = None
    actor: str | int | None = None
    model: str | int | None = None
    version: str | int | None = None
    server: str | int | None = None
    outcome: str | int | None = None
    action: str | int | None = None


class _Listed(_Stored, frozen=True, kw_only=True, array_like=True):
    """The same as a list, in this order: the engine makes 53,000 lists of a row where it makes 38,000 objects."""


_DECODER: msgspec.json.Decoder[list[_Stored]] = msgspec.json.Decoder(list[_Stored])
_LISTED: msgspec.json.Decoder[list[_Listed]] = msgspec.json.Decoder(list[_Listed])


class SurrealAccessLog:
    """The chain of access records; `write` appends entries, in a group or in a unit of work."""

    def __init__(self, run: Executor, *, write: appending.Write) -> None:
        self._run = run
        self._write = write
        self._queries = load("access_log")

    async def chain(self) -> str:
        return str(await self._run.ask(self._queries["chain"]))

    async def adopt_chain(self, chain: str) -> None:
        begun = NotAllowed("the access log has records: its chain keeps its name")
        query = self._queries["request_chain" if self._run.shared else "adopt_chain"]
        await self._run.tell(query, {"begun": begun}, chain=chain)

    async def append(self, bodies: Sequence[str]) -> tuple[Head, ...]:
        entries: list[Entry] = []
        refused: MerError | None = None
        for body in bodies:
            try:
                entries.append(entry(body))
            except MerError as error:
                refused = refused or error
        places = await self._write(entries) if entries else ()
        if refused:
            raise refused
        return places

    async def head(self) -> Head:
        return await appending.head_of(self._run)

    async def get(self, seq: int) -> AccessRecord:
        found = await self._records(self._queries["get"], seq=seq)
        if not found:
            raise RecordNotFound(f"the access log has no record {seq}")
        return found[0]

    async def of_invocation(self, invocation: InvocationId) -> tuple[AccessRecord, ...]:
        found = await self._records(self._queries["of_invocation"], invocation=invocation)
        return tuple(sorted(found, key=lambda record: record.seq))

    async def page(self, where: AccessFilter, *, after: str | None = None, limit: int = PAGE) -> Page[AccessRecord]:
        before = number_after(after)
        wanted = bounded(limit) + 1
        if where.invocation is not None:
            found = await self._of_invocation(where, before)
        elif where.model is not None:
            newer = FIRST_ID if before is None else -before
            filters = _filters(where)
            found = await self._records(
                self._queries["of_model"], model=where.model, after=newer, limit=wanted, **filters
            )
        else:
            found = await self._walk(where, before, wanted)
        return page_of(found[:wanted], limit=limit, key=lambda record: str(record.seq))

    async def scan(self, *, after: int = 0, until: int | None = None) -> AsyncGenerator[list[AccessRecord], None]:
        last = LAST_ID if until is None else until
        reading = self._read(after + 1 if after else FIRST_ID, last)
        try:
            while True:
                found = await reading
                more = len(found) == SCANNED_AT_ONCE and found[-1].seq < last
                if more and self._run.concurrent:
                    # the engine works in threads of its own while the caller checks what he has
                    reading = self._read(found[-1].seq + 1, last)
                if found:
                    yield found
                if not more:
                    return
                if not self._run.concurrent:
                    reading = self._read(found[-1].seq + 1, last)
        finally:
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.exception()  # a caller who leaves early has no use for it

    async def feed(
        self, verifier: Verifier, *, until: int | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        await feed_scanned(self.scan(after=verifier.head.seq, until=until), verifier, progress)

    async def unfinished(self, lease: LeaseId | None = None) -> tuple[OpenInvocation, ...]:
        return tuple(sorted(await self._open(lease), key=lambda each: each.started_seq))

    async def unfinished_by_server(self, model: str) -> dict[str, int]:
        return dict(Counter(each.server for each in await self._open(None) if each.model == model))

    async def _open(self, lease: LeaseId | None) -> list[OpenInvocation]:
        found = await self._run.ask(self._queries["unfinished"], lease=lease)
        rows = [
            {"invocation": invocation, "lease": row["lease"], **each}
            for row in found["leases"]
            for invocation, each in row["open"].items()
        ]
        rows += [
            {"invocation": invocation, **each}
            for invocation, each in found["open"].items()
            if lease is None or each["lease"] == lease
        ]
        return [from_row(OpenInvocation, row) for row in rows]

    def _read(self, first: int, last: int) -> asyncio.Task[list[AccessRecord]]:
        query = self._queries["between"]
        return asyncio.create_task(self._listed(query, first=first, last=last, limit=SCANNED_AT_ONCE))

    async def _walk(self, where: AccessFilter, before: int | None, wanted: int) -> list[AccessRecord]:
        """Look downwards from the newest record, in windows that double while little fits."""
        last = (await self.head()).seq if before is None else before - 1
        filters = _filters(where)
        found: list[AccessRecord] = []
        window = wanted
        while last > EMPTY.seq and len(found) < wanted:
            first = max(EMPTY.seq + 1, last - window + 1)
            found += reversed(await self._records(self._queries["matching"], first=first, last=last, **filters))
            last = first - 1
            window = min(2 * window, MAX_WINDOW)
        return found

    async def _of_invocation(self, where: AccessFilter, before: int | None) -> list[AccessRecord]:
        """An invocation has a handful of records: they are filtered here."""
        assert where.invocation is not None
        since, until = _text(where.since), _text(where.until)
        wanted = {name: getattr(where, name) for name in ("kind", "model", "server", "actor", "outcome")}
        return [
            record
            for record in reversed(await self.of_invocation(where.invocation))
            if (before is None or record.seq < before)
            and all(value is None or record.columns[name] == value for name, value in wanted.items())
            and (since is None or str(record.columns["at"]) >= since)
            and (until is None or str(record.columns["at"]) < until)
        ]

    async def _records(self, query: Query, **parameters: Any) -> list[AccessRecord]:
        return [_record(row) for row in _DECODER.decode(await self._run.ask(query, **parameters))]

    async def _listed(self, query: Query, **parameters: Any) -> list[AccessRecord]:
        return [_record(row) for row in _LISTED.decode(await self._run.ask(query, **parameters))]


def _record(row: _Stored) -> AccessRecord:
    return AccessRecord(
        seq=row.seq,
        previous=Digest(row.previous),
        digest=Digest(row.digest),
        body=row.body,
        columns={
            "kind": row.kind,
            "at": row.at,
            "invocation": row.invocation,
            "lease": row.lease,
            "actor": row.actor,
            "model": row.model,
            "version": row.version,
            "server": row.server,
            "outcome": row.outcome,
            "action": row.action,
        },
    )


def _filters(where: AccessFilter) -> dict[str, str | None]:
    return {
        "kind": where.kind and str(where.kind),
        "server": where.server,
        "actor": where.actor,
        "outcome": where.outcome and str(where.outcome),
        "since": _text(where.since),
        "until": _text(where.until),
    }


def _text(time: dt.datetime | None) -> str | None:
    return None if time is None else record_text(time)
