"""A claim on a database that something is brought to: two copies at once would part its log, and nothing joins it again.

A claim is a lease, as a driver's is: everybody sees it, and that of a process which was killed is known to be a dead one's.
Each of two that meet sees the other's, since both claim before they look; then both give way.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import AsyncIterator, Callable

from mer.core.actor import Actor
from mer.core.errors import MerError
from mer.core.records import Lease, LeaseId
from mer.dal.base import Store
from mer.execution.leases import CLOSE_SECONDS, RENEW_SECONDS, new_lease
from mer.execution.process import this_process

logger = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def claimed(store: Store, *, actor: Actor, clock: Callable[[], dt.datetime]) -> AsyncIterator[LeaseId]:
    """Hold a lease on that database, and give its id: it is not one of others."""
    lease = new_lease(this_process(), actor=actor, at=clock())
    await store.leases.acquire(lease)
    beating = asyncio.create_task(_beat(store, lease), name="claim heartbeat")
    try:
        yield lease.id
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await _release(store, lease)


async def _beat(store: Store, lease: Lease) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            if not await store.leases.renew(lease.id):  # freed by somebody who could not see this process
                await store.leases.acquire(lease)
        except MerError as error:
            logger.warning("the claim on %s could not be renewed: %s", store.name, error)


async def _release(store: Store, lease: Lease) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await store.leases.release(lease.id)
    except (MerError, TimeoutError) as error:  # the next driver finds it, and that its process has ended
        logger.warning("the claim on %s could not be given back: %s", store.name, error or "no answer")
