"""Leases: a living driver's claim on its invocations, and what becomes of a dead one's.

A driver takes a lease before its first invocation, renews it, and gives it back. Whoever takes one looks first at those
of others: the open invocations of a driver that is dead are recorded as `lost`. Nothing is silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Callable

from mer.audit.bodies import Subject
from mer.audit.recorder import Recorder
from mer.core.actor import Actor
from mer.core.errors import MerError, WorkerLost
from mer.core.identifiers import uuid7
from mer.core.records import Lease, LeaseId, OpenInvocation, Outcome
from mer.dal.base import Store
from mer.execution.drivers import identity_of
from mer.execution.process import ProcessIdentity, is_dead, this_process

RENEW_SECONDS = 15.0
"""Between two heartbeats: three may fail before others may think this driver dead."""

DEAD_AFTER_SECONDS = 60.0
"""Without a heartbeat, where the process itself cannot be seen."""

logger = logging.getLogger(__name__)


class LeaseKeeper:
    """Holds this process's lease from the first invocation until it is closed."""

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        *,
        actor: Actor,
        monotonic: Callable[[], float],
        identity: Callable[[], ProcessIdentity] = this_process,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._actor = actor
        self._monotonic = monotonic
        self._identity = identity
        self._lock = asyncio.Lock()
        self._lease: LeaseId | None = None
        self._renewed = 0.0
        self._left = False
        self._beating: asyncio.Task[None] | None = None

    async def lease(self) -> LeaseId:
        """Return this process's lease; take it, and free those of the dead, the first time."""
        if self._lease is not None:
            return self._lease
        async with self._lock:
            if self._lease is None:
                self._lease = await self._take()
                await self.sweep()
                self._beating = asyncio.create_task(self._beat(), name="lease heartbeat")
        return self._lease

    def in_doubt(self, lease: LeaseId) -> bool:
        """Tell whether others may have thought this driver dead, so that a finish under `lease` may come late."""
        return lease != self._lease or self._monotonic() - self._renewed > DEAD_AFTER_SECONDS

    def leave(self) -> None:
        """Do not give the lease back: something under it may be open, and whoever finds it dead will put that on record."""
        self._left = True

    async def sweep(self) -> list[OpenInvocation]:
        """Free the leases of dead drivers; record their open invocations as lost, and return them."""
        here = self._identity()
        lost: list[OpenInvocation] = []
        leases = [lease for lease in await self._store.leases.all() if lease.id != self._lease]
        if not leases:
            return lost
        now = await self._store.leases.now()
        for lease in leases:
            if _is_dead(lease, here=here, now=now):
                for invocation in await self._store.access_log.unfinished(lease.id):
                    await self._record_lost(lease, invocation)
                    lost.append(invocation)
                await self._store.leases.release(lease.id)
        return lost

    async def close(self) -> None:
        """Give the lease back. If the database is gone, its heartbeat will have told the others by then."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self._lease is not None and not self._left:
            with contextlib.suppress(MerError):
                await self._store.leases.release(self._lease)
        self._lease = None

    async def _take(self) -> LeaseId:
        here, now = self._identity(), self._recorder.now()
        lease = Lease(
            id=LeaseId(uuid7()),
            host=here.host,
            boot_id=here.boot_id,
            pid_namespace=here.pid_namespace,
            pid=here.pid,
            process_started=here.process_started,
            actor=self._actor.user,
            acquired_at=now,
            last_seen=now,
        )
        self._renewed = self._monotonic()
        await self._store.leases.acquire(lease)
        return lease.id

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                assert self._lease is not None
                before = self._monotonic()
                if await self._store.leases.renew(self._lease):
                    self._renewed = before
                else:
                    # freed by somebody who could not see this process: what runs may end up late, what comes needs a new one
                    self._lease = await self._take()
                await self.sweep()
            except MerError as error:
                logger.warning("the lease could not be renewed: %s", error)

    async def _record_lost(self, lease: Lease, invocation: OpenInvocation) -> None:
        bodies = await self._recorder.bodies()
        await self._recorder.append(
            bodies.finished(
                at=self._recorder.now(),
                actor=self._actor,
                lease=lease.id,
                invocation=invocation.invocation,
                subject=Subject(reference=invocation.model, model=invocation.model, server=invocation.server),
                outcome=Outcome.LOST,
                error=WorkerLost(f"its driver ended without a word: pid {lease.pid} of {lease.actor} on {lease.host}"),
            )
        )


def _is_dead(lease: Lease, *, here: ProcessIdentity, now: dt.datetime) -> bool:
    seen = is_dead(identity_of(lease), here=here)
    if seen is not None:
        return seen
    return (now - lease.last_seen).total_seconds() > DEAD_AFTER_SECONDS
