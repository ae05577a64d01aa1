"""Invocations that were open where a log came from: nobody will finish them where it went to, so they are recorded as lost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from mer.audit.bodies import Bodies, Subject
from mer.core.actor import Actor
from mer.core.errors import WorkerLost
from mer.core.records import Outcome
from mer.dal.base import Store
from mer.moving.log import RECORDS_AT_ONCE


async def record_lost(store: Store, *, actor: Actor, clock: Callable[[], dt.datetime], why: str) -> int:
    """Record every open invocation without a lease as lost, and return how many there were.

    A driver holds its lease from before an invocation's first record to after its last: where there is none, there is
    no driver. (A lease of a driver that is dead by now is found by the next one that starts.)
    """
    log = store.access_log
    left = await log.unfinished()
    held = {lease.id for lease in await store.leases.all()}
    orphans = [each for each in left if each.lease not in held]
    bodies = Bodies(chain=await log.chain())
    ends = [
        bodies.finished(
            at=clock(),
            actor=actor,
            lease=each.lease,
            invocation=each.invocation,
            subject=Subject(reference=each.model, model=each.model, server=each.server),
            outcome=Outcome.LOST,
            error=WorkerLost(why),
        )
        for each in orphans
    ]
    for start in range(0, len(ends), RECORDS_AT_ONCE):
        await log.append(ends[start : start + RECORDS_AT_ONCE])
    return len(ends)
