"""The access log, verbatim: the same bodies in the same order give the same seq and the same digest, or it stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from mer.core.chain import EMPTY, Checkpoint, Head, Link, Verifier
from mer.core.errors import DatabaseNotEmpty, LogNotVerified
from mer.core.records import LOCAL, RecordKind
from mer.dal.base import Store
from mer.moving.nouns import described, nouns_of
from mer.moving.source import Source, head_at

RECORDS_AT_ONCE = 250
"""Appended in one transaction: a commit is paid for by some dozens, and a SurrealDB server's time for a group grows with the
square of its size (1,400 records/s with 250, 550 with 1,000)."""

Progress = Callable[[str, int, int], None]
"""Called now and then with what is done (`copied`, `verified`), how many records of it, and of how many."""


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass over the log brought."""

    records: int
    changes: int
    """How many of them say that the registry was changed."""


async def check_prefix(source: Source, destination: Store) -> bool:
    """Make sure that the destination's log is the beginning of the source's, or the other way round: then return True.

    Nothing is changed.

    Raises:
        DatabaseNotEmpty: it holds something else.
    """
    log, chain = destination.access_log, await source.chain()
    at = await log.head()
    if await log.chain() != chain:
        if at.seq:
            raise DatabaseNotEmpty(f"{destination.name} holds the log of chain {await log.chain()}, not {chain}")
        await _check_bare(source, destination)
    end = await source.head()
    there: Head
    wanted: Head | None
    if at.seq > end.seq:
        there, wanted = await _head_of(destination, end.seq), end
    else:
        there, wanted = at, await head_at(source, at.seq)
    if there != wanted:
        raise DatabaseNotEmpty(
            f"the logs of {source.name} and {destination.name} have parted at or before record {there.seq}",
            hint="Both were written to after they had been one; neither can go on as the other.",
        )
    return at.seq > end.seq


async def move_records(source: Source, destination: Store, *, progress: Progress | None = None) -> Moved:
    """Append what the destination does not have yet, up to the source's head as it is now.

    The caller has checked the prefix, and given the destination the name of the source's chain.

    Raises:
        LogNotVerified: a record of the source does not hold; those before it were moved, it was not.
        DatabaseNotEmpty: somebody else appends to the destination.
    """
    at, end = await destination.access_log.head(), await source.head()
    verifier = Verifier(chain=await source.chain(), after=at, most_faults=1)
    changes = 0
    if at.seq >= end.seq:
        return Moved(records=0, changes=0)
    async for records in source.records(after=at.seq, until=end.seq):
        verifier.feed(records)
        if verifier.faults:
            raise _not_verified(source, verifier)
        await _append(destination, records)
        changes += sum(record.columns.get("kind") == RecordKind.CHANGE for record in records)
        if progress:
            progress("copied", verifier.head.seq, end.seq)
    if verifier.head != end:
        raise LogNotVerified(
            f"the log of {source.name} ends at record {verifier.head.seq}, though its head is {end.seq}: its tail was cut"
        )
    return Moved(records=verifier.records, changes=changes)


async def through(source: Source) -> Checkpoint:
    """Return the source's head as a checkpoint that a log which has it all passes through."""
    head = await source.head()
    return Checkpoint(chain=await source.chain(), seq=head.seq, digest=head.digest)


async def _append(destination: Store, records: Sequence[Link]) -> None:
    for start in range(0, len(records), RECORDS_AT_ONCE):
        group = records[start : start + RECORDS_AT_ONCE]
        places = await destination.access_log.append([record.body for record in group])
        for record, place in zip(group, places, strict=True):
            if place != Head(seq=record.seq, digest=record.digest):
                raise DatabaseNotEmpty(
                    f"record {record.seq} came to stand as {place.seq} in {destination.name}: somebody else writes to it",
                    hint="Give an empty database that nobody uses yet.",
                )


async def _check_bare(source: Source, destination: Store) -> None:
    """Make sure that a database without a log has no registry either, but for the server that opening it makes."""
    async for noun in nouns_of(destination):
        if getattr(noun, "name", None) != LOCAL:
            raise DatabaseNotEmpty(f"{destination.name} holds something else than {source.name}: {described(noun)}")


async def _head_of(store: Store, seq: int) -> Head:
    if seq == EMPTY.seq:
        return EMPTY
    record = await store.access_log.get(seq)
    return Head(seq=record.seq, digest=record.digest)


def _not_verified(source: Source, verifier: Verifier) -> LogNotVerified:
    fault = verifier.faults[0]
    return LogNotVerified(
        f"the log of {source.name} does not verify: record {fault.seq}: {fault.what}",
        hint="Nothing from there on was moved. `mer log verify` names every record that does not hold.",
    )
