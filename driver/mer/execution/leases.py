"""Leases: a living driver's claim on its invocations, and what becomes of a dead one's.

A driver takes a lease before its first invocation, renews it, and gives it back once all that it covers is on record.
Whoever takes one looks first at those of others: the open invocations of a driver that is dead are recorded as `lost`.
Nothing is silent.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable

from mer.audit.bodies import Subject
from mer.audit.recorder import Recorder
from mer.core.actor import Actor
from mer.core.errors import MerError, WorkerLost
from mer.core.identifiers import uuid7
from mer.core.records import InvocationId, Lease, LeaseId, OpenInvocation, Outcome
from mer.dal.base import Store
from mer.execution.drivers import identity_of
from mer.execution.process import ProcessIdentity, is_dead, this_process

RENEW_SECONDS = 15.0
"""Between two heartbeats: three may fail before others may think this driver dead."""

STALE_AFTER_SECONDS = 2 * RENEW_SECONDS
"""A lease that was not renewed for so long (the machine slept) is renewed before it covers anything more."""

DEAD_AFTER_SECONDS = 60.0
"""Without a heartbeat, where the process itself cannot be seen."""

CLOSE_SECONDS = 5.0
"""How long the end of a program waits for a database that does not answer: others find the lease, and what is open under it."""

logger = logging.getLogger(__name__)


class LeaseKeeper:
    """Holds this process's lease from the first invocation until it is closed."""

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        *,
        actor: Actor,
        identity: Callable[[], ProcessIdentity] = this_process,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._actor = actor
        self._identity = identity
        self._lock = asyncio.Lock()
        self._lease: Lease | None = None
        self._renewed = recorder.now()  # by the wall clock: a monotonic one stands still while the machine sleeps
        self._covered: set[InvocationId] = set()
        self._given_up: set[InvocationId] = set()
        self._beating: asyncio.Task[None] | None = None

    def cover_at_once(self, invocation: InvocationId) -> LeaseId | None:
        """Do as `cover` where nothing has to be asked for; else return None."""
        lease = self._lease
        if lease is None or self._lock.locked() or self._is_stale():
            return None
        self._covered.add(invocation)
        return lease.id

    async def cover(self, invocation: InvocationId) -> LeaseId:
        """Return this process's lease, good for that invocation; take it, and free those of the dead, the first time.

        It is not given back before the invocation is settled: what then is still open, others will find and record.
        """
        async with self._lock:
            lease = self._lease
            if lease is None:
                lease = self._lease = await self._take()
                self._beating = asyncio.create_task(self._beat(), name="lease heartbeat")
                await self._try_sweep()
            elif self._is_stale():
                await self._renew(lease)
        self._covered.add(invocation)
        return lease.id

    def settle(self, invocation: InvocationId) -> None:
        """Say that the invocation's end is on record."""
        self._covered.discard(invocation)

    def give_up(self, invocation: InvocationId) -> None:
        """Say that nobody runs the invocation, though its start may be on record: then it will be recorded as lost."""
        self._given_up.add(invocation)

    async def sweep(self) -> list[OpenInvocation]:
        """Free the leases of dead drivers; record their open invocations as lost, and return them."""
        here = self._identity()
        lost: list[OpenInvocation] = []
        leases = [
            lease for lease in await self._store.leases.all() if self._lease is None or lease.id != self._lease.id
        ]
        if not leases:
            return lost
        now = await self._store.leases.now()
        for lease in leases:
            if _is_dead(lease, here=here, now=now):
                why = f"its driver ended without a word: pid {lease.pid} of {lease.actor} on {lease.host}"
                for invocation in await self._store.access_log.unfinished(lease.id):
                    await self._record_lost(lease, invocation, why)
                    lost.append(invocation)
                await self._store.leases.release(lease.id)
        return lost

    async def close(self) -> None:
        """Give the lease back, unless something under it is still open."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._record_given_up(lease)
                if not self._covered:
                    await self._store.leases.release(lease.id)
        except (MerError, TimeoutError) as error:  # others will find it, and what is open under it
            logger.warning("the lease could not be given back: %s", error or f"no answer within {CLOSE_SECONDS:g} s")

    def _is_stale(self) -> bool:
        return abs((self._recorder.now() - self._renewed).total_seconds()) > STALE_AFTER_SECONDS

    async def _take(self) -> Lease:
        now = self._recorder.now()
        lease = new_lease(self._identity(), actor=self._actor, at=now)
        await self._store.leases.acquire(lease)
        self._renewed = now
        return lease

    async def _renew(self, lease: Lease) -> None:
        now = self._recorder.now()
        if not await self._store.leases.renew(lease.id):
            # freed by somebody who could not see this process. The same one again: what runs refers to it
            await self._store.leases.acquire(lease)
        self._renewed = now

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            lease = self._lease
            assert lease is not None, "the heartbeat begins after the lease was taken, and ends before it is given back"
            try:
                async with self._lock:
                    await self._renew(lease)
                await self._record_given_up(lease)
            except MerError as error:
                logger.warning("the lease could not be renewed: %s", error)
            except Exception:  # the outermost loop of this task: a bug here must not end the heartbeat in silence
                logger.exception("the lease could not be renewed")
            await self._try_sweep()

    async def _try_sweep(self) -> None:
        try:
            await self.sweep()
        except MerError as error:  # another driver, or the next beat, will do it: no reason to refuse a run
            logger.warning("the leases of dead drivers could not be freed: %s", error)

    async def _record_given_up(self, lease: Lease) -> None:
        if not self._given_up:
            return
        await self._recorder.drain()  # a start whose caller has gone may still be on its way
        given_up = frozenset(self._given_up)
        for invocation in await self._store.access_log.unfinished(lease.id):
            if invocation.invocation in given_up:
                await self._record_lost(lease, invocation, "it was given up before its start was confirmed")
        self._given_up -= given_up
        self._covered -= given_up

    async def _record_lost(self, lease: Lease, invocation: OpenInvocation, why: str) -> None:
        bodies = await self._recorder.bodies()
        await self._recorder.append(
            bodies.finished(
                at=self._recorder.now(),
                actor=self._actor,
                lease=lease.id,
                invocation=invocation.invocation,
                subject=Subject(reference=invocation.model, model=invocation.model, server=invocation.server),
                outcome=Outcome.LOST,
                error=WorkerLost(why),
            )
        )


def new_lease(process: ProcessIdentity, *, actor: Actor, at: dt.datetime) -> Lease:
    """Return a lease for that process, which nobody holds yet."""
    return Lease(
        id=LeaseId(uuid7()),
        host=process.host,
        boot_id=process.boot_id,
        pid_namespace=process.pid_namespace,
        pid=process.pid,
        process_started=process.process_started,
        actor=actor.user,
        acquired_at=at,
        last_seen=at,
    )


def _is_dead(lease: Lease, *, here: ProcessIdentity, now: dt.datetime) -> bool:
    seen = is_dead(identity_of(lease), here=here)
    if seen is not None:
        return seen
    return (now - lease.last_seen).total_seconds() > DEAD_AFTER_SECONDS
