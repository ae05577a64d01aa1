"""The access log in PostgreSQL: the chain is made by a function in the database (docs/decisions/02-append-function.md)."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from mer.core.chain import EMPTY, Head, Verifier
from mer.core.errors import MerError, RecordNotFound, UsageError
from mer.core.identifiers import uuid7
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
from mer.dal.paging import bounded, number_after, page_of
from mer.dal.postgres.blocks import BLOCK, Block, Blocks
from mer.dal.postgres.errors import ConnectionLost
from mer.dal.postgres.queries import queries
from mer.dal.postgres.session import Session

SCANNED_AT_ONCE = 2000
"""Records that `scan` reads at once: smaller is slower, larger is not faster and holds more."""

COPIED_AT_ONCE = 80 * BLOCK
"""Records that `feed` reads in one statement: some hundredths of a second, far from any deadline."""

MIN_SEQ, MAX_SEQ = -(2**63), 2**63 - 1

Append = Callable[[Sequence[str]], Awaitable[tuple[Head, ...]]]
"""Appends a group, all or nothing."""


class PostgresAccessLog:
    """The chain of access records; `alone` says that a group is a transaction of its own, and can be tried in parts."""

    def __init__(self, session: Session, *, append: Append, alone: bool) -> None:
        self._session = session
        self._append = append
        self._alone = alone
        self._queries = queries("access_log")

    async def chain(self) -> str:
        rows = await self._session.ask(self._queries["chain"], repeatable=True)
        return str(rows[0]["id"])

    async def adopt_chain(self, chain: str) -> None:
        await self._session.ask(self._queries["adopt_chain"], {"chain": chain}, repeatable=True)

    async def append(self, bodies: Sequence[str]) -> tuple[Head, ...]:
        if not bodies:
            return ()
        try:
            return await self._append(bodies)
        except UsageError as error:
            if len(bodies) == 1 or not self._alone:
                raise _refused(error) from error
        return await self._append_one_by_one(bodies)

    async def head(self) -> Head:
        rows = await self._session.ask(self._queries["head"], repeatable=True)
        return Head(seq=rows[0]["seq"], digest=rows[0]["digest"]) if rows else EMPTY

    async def get(self, seq: int) -> AccessRecord:
        rows = await self._session.ask(self._queries["get"], {"seq": seq}, repeatable=True, rows=records)
        if not rows:
            raise RecordNotFound(f"the access log has no record {seq}")
        found: AccessRecord = rows[0]
        return found

    async def of_invocation(self, invocation: InvocationId) -> tuple[AccessRecord, ...]:
        query = self._queries["of_invocation"]
        return tuple(await self._session.ask(query, {"invocation": invocation}, repeatable=True, rows=records))

    async def page(self, where: AccessFilter, *, after: str | None = None, limit: int = PAGE) -> Page[AccessRecord]:
        last, most = number_after(after), bounded(limit) + 1
        if where == AccessFilter():
            place = {"after": MAX_SEQ if last is None else last, "limit": most}
            found = await self._session.ask(self._queries["newest_page"], place, repeatable=True, rows=records)
        else:
            # planned for its own filter each time: a plan for all of them would use no index
            parameters = {**msgspec.structs.asdict(where), "after": last, "limit": most}
            by_time = where.since is not None or where.until is not None
            query = self._queries["filtered_page_by_time" if by_time else "filtered_page"]
            found = await self._session.ask(query, parameters, repeatable=True, prepare=False, rows=records)
        return page_of(found, limit=limit, key=lambda record: str(record.seq))

    async def scan(self, *, after: int = 0, until: int | None = None) -> AsyncGenerator[list[AccessRecord], None]:
        # pages by key, not a cursor: no snapshot is held open however long a verification takes
        last = MAX_SEQ if until is None else until
        while after < last:
            found: list[AccessRecord] = []
            for end in _ends(after, last, SCANNED_AT_ONCE):
                parameters = {"after": after, "until": end, "limit": SCANNED_AT_ONCE}
                found = await self._session.ask(self._queries["scan"], parameters, repeatable=True, rows=records)
                if found:
                    break
            if not found:
                return
            yield found
            after = found[-1].seq

    async def feed(
        self, verifier: Verifier, *, until: int | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        last = MAX_SEQ if until is None else until
        blocks = Blocks(chain=verifier.chain, absent=uuid.UUID(uuid7()))
        if verifier.head == EMPTY and not verifier.records:
            # what stands below 1 was put there by hand, and is to be seen
            await self._feed_closely(verifier, after=MIN_SEQ, until=EMPTY.seq)
        failed_at = None
        while (before := verifier.head).seq < last:
            try:
                await self._feed_some(verifier, last, blocks)
            except ConnectionLost:
                # as `scan` asks again: what was fed stays fed, and the next connection goes on behind it
                if self._session.in_transaction or failed_at == verifier.head:
                    raise
                failed_at = verifier.head
                continue
            if verifier.head == before:
                return
            if progress:
                progress(verifier.records)

    async def _feed_some(self, verifier: Verifier, last: int, blocks: Blocks) -> None:
        """Feed the next COPIED_AT_ONCE records. One COPY for all would hold a snapshot for minutes, and outlast its deadline."""
        before = verifier.head
        end = max(before.seq, EMPTY.seq) + COPIED_AT_ONCE
        # a COPY has to be read to its end before anything else is asked: a block in doubt waits, and so do those behind it
        waiting: list[Block] = []
        if end <= MAX_SEQ - COPIED_AT_ONCE:
            async with aclosing(
                self._session.copy(blocks.query(after=end - COPIED_AT_ONCE, until=min(end, last)))
            ) as rows:
                async for row in rows:
                    block = Block.of(row)
                    if waiting or not _take(verifier, blocks, block):
                        waiting.append(block)
        for block in waiting:
            if not _take(verifier, blocks, block):
                await self._feed_closely(verifier, after=verifier.head.seq, until=min(block.after + BLOCK, last))
        if verifier.head == before:  # there is none so near: the log has ended, or has a gap
            await self._feed_closely(verifier, after=before.seq, until=last, parts=1)

    async def _feed_closely(self, verifier: Verifier, *, after: int, until: int, parts: int | None = None) -> None:
        """Feed the records between two places one by one, at most so many `parts` of a scan."""
        async with aclosing(self.scan(after=after, until=until)) as scanned:
            async for records in scanned:
                verifier.feed(records)
                parts = parts and parts - 1
                if parts == 0:
                    return

    async def unfinished(self, lease: LeaseId | None = None) -> tuple[OpenInvocation, ...]:
        rows = await self._session.ask(self._queries["unfinished"], {"lease": lease}, repeatable=True)
        return tuple(msgspec.convert(row, OpenInvocation) for row in rows)

    async def unfinished_by_server(self, model: str) -> dict[str, int]:
        rows = await self._session.ask(self._queries["unfinished_by_server"], {"model": model}, repeatable=True)
        return {row["server"]: row["number"] for row in rows}

    async def _append_one_by_one(self, bodies: Sequence[str]) -> tuple[Head, ...]:
        places: list[Head] = []
        refused: MerError | None = None
        for body in bodies:
            try:
                places += await self._append([body])
            except UsageError as error:
                refused = refused or _refused(error)
        if refused:
            raise refused
        return tuple(places)


def _take(verifier: Verifier, blocks: Blocks, block: Block) -> bool:
    """Take over what a block proves; False where that is nothing, or where the checkpoint's record is to be looked at."""
    head = verifier.head
    if verifier.meets(head.seq + block.records):
        return False
    part = blocks.verified(block, head)
    return part is not None and verifier.take_over(part)


def _ends(after: int, last: int, most: int) -> tuple[int, ...]:
    """Return where to look for the next records: as far as that many go, and to the end only where none is so near.

    With the end alone, a server that has no statistics yet, as after a restore, sorts all the rest for each part.
    """
    near = max(after, EMPTY.seq) + most
    return (near, last) if near < last else (last,)


def repeatable(bodies: Sequence[str]) -> bool:
    """Tell whether appending these again, after an answer that was lost, appends nothing twice.

    The database refuses a second record of an invocation's kind; a change has no invocation, and would stand twice.
    """
    return all('"invocation":' in body and _invocation(body) is not None for body in bodies)


def _invocation(body: str) -> object:
    try:
        return json.loads(body).get("invocation")
    except (ValueError, AttributeError):
        return None


def _refused(error: MerError) -> MerError:
    # bodies are made by mer.audit and cleaned there: one that a database refuses is a bug, not somebody's usage
    return MerError(f"a record was refused: {error.message}")


def records(_: object) -> Callable[[Sequence[Any]], AccessRecord]:
    """Make records of rows in one step: a verification makes a million of them, and a dict between would take a quarter more."""
    return _record


def _record(row: Sequence[Any]) -> AccessRecord:
    seq, previous, digest, body, kind, at, invocation, lease, actor, model, version, server, outcome, action = row
    return AccessRecord(
        seq=seq,
        # none of these can be absent, unless somebody took the table's own rules away: then it does not hold
        previous=previous or Digest(""),
        digest=digest or Digest(""),
        body=body or "",
        # core.chain.COLUMNS, written out: a dict made of pairs takes twice as long
        columns={
            "kind": kind,
            "at": at and _time(at),
            "invocation": invocation,
            "lease": lease,
            "actor": actor,
            "model": model,
            "version": version,
            "server": server,
            "outcome": outcome,
            "action": action,
        },
    )


def _time(text: str) -> str:
    """Return what PostgreSQL shows for a time in UTC, `2026-11-21 01:10:34.1234+00`, as bodies write it.

    Both are text, and nothing between them is: to make a datetime of it and text again would take five times as long.
    """
    if len(text) == 29:  # nearly all have six digits
        return f"{text[:10]}T{text[11:26]}Z"
    whole, _, fraction = text.removesuffix("+00").partition(".")
    return f"{whole[:10]}T{whole[11:]}.{fraction:0<6}Z"
