"""A whole move: log, registry, and what came to either meanwhile. Cut at any point, it goes on from there when run again.

The log is what everything is measured by. What the destination has of it must be the source's beginning; and since each
change to a registry is on record in the same transaction, a registry was read as one piece exactly if the log shows no
change from before the reading to after it. So no transaction is held open on any database, however long it takes.
"""

from __future__ import annotations

import msgspec

from mer.core.chain import Checkpoint
from mer.core.errors import ConcurrentChange, DatabaseNotEmpty, NotAllowed
from mer.dal.base import Store
from mer.moving.log import Progress, check_prefix, move_records, through
from mer.moving.registry import difference, put_registry
from mer.moving.source import Source

TRIES = 10
"""To read a registry between two changes: each takes a fraction of a second, and people do not change one faster."""


class Transferred(msgspec.Struct, frozen=True, kw_only=True):
    """What a transfer did."""

    records: int
    """Appended by this one: fewer than the log has where an earlier one was cut."""
    registered: int
    """Things in the registry."""
    checkpoint: Checkpoint
    """The source's head: the destination's log passes through it."""
    gone_on: bool
    """Whether the destination had it all already, and has been written to since: then nothing was changed."""


async def transfer(source: Source, destination: Store, *, progress: Progress | None = None) -> Transferred:
    """Bring the source's log and registry to a destination that is empty, or that has the beginning of them.

    The destination is marked as being filled before anything comes to it, and stays so: the mark is the caller's to take
    away, once nothing is missing.

    Raises:
        DatabaseNotEmpty: the destination holds something else.
        LogNotVerified: a record of the source does not hold.
        ConcurrentChange: the source's registry is changed all the time.
    """
    if await _begin(source, destination):
        return Transferred(records=0, registered=0, checkpoint=await through(source), gone_on=True)
    moved = (await move_records(source, destination, progress=progress)).records
    for _ in range(TRIES):
        registered = await put_registry(source, destination)
        differs = await difference(source, destination)
        meanwhile = await move_records(source, destination, progress=progress)
        moved += meanwhile.records
        if meanwhile.changes:
            continue
        if differs:
            raise DatabaseNotEmpty(f"{destination.name} does not hold what {source.name} holds: {differs}")
        head = await destination.access_log.head()
        checkpoint = Checkpoint(chain=await source.chain(), seq=head.seq, digest=head.digest)
        return Transferred(records=moved, registered=registered, checkpoint=checkpoint, gone_on=False)
    raise ConcurrentChange(f"the registry of {source.name} was changed {TRIES} times while it was read")


async def _begin(source: Source, destination: Store) -> bool:
    """Have the destination for ourselves, under the source's chain; True where it has more than the source, and needs nothing.

    Raises:
        DatabaseNotEmpty: it holds something else; then it is not marked, unless it was before.
    """
    gone_on, marked = await check_prefix(source, destination), await destination.filling() is not None
    if gone_on and not marked:
        return True
    await destination.begin_filling(source.name)
    try:
        # from here on nobody else writes there; until here somebody may have
        gone_on = await check_prefix(source, destination)
        await destination.access_log.adopt_chain(await source.chain())
    except (DatabaseNotEmpty, NotAllowed):
        if not marked:
            await destination.end_filling()
        raise
    return gone_on
