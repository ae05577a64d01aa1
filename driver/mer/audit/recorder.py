"""Appends records: the one way in which anything of this driver reaches the access log."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping

from mer.audit.bodies import Bodies
from mer.audit.writer import GroupWriter
from mer.core.actor import Actor
from mer.core.canonical import Json
from mer.core.chain import Head
from mer.core.errors import MerError
from mer.dal.base import AccessLog, Repositories


class Recorder:
    """Makes bodies of the store's own chain and appends them, grouped."""

    def __init__(self, log: AccessLog, *, clock: Callable[[], dt.datetime]) -> None:
        self._log = log
        self._clock = clock
        self._writer = GroupWriter(log)
        self.known_bodies: Bodies | None = None
        """What `bodies` returns, once it was asked for."""

    def now(self) -> dt.datetime:
        """Return the time that the next record would bear."""
        return self._clock()

    async def bodies(self) -> Bodies:
        """Return the maker of bodies; the chain's name is asked for once."""
        if self.known_bodies is None:
            self.known_bodies = Bodies(chain=await self._log.chain())
        return self.known_bodies

    async def append(self, body: str) -> Head:
        """Append one body; durable when it returns."""
        return await self._writer.append(body)

    def enqueue(self, body: str) -> asyncio.Future[Head]:
        """Append one body; durable when the future has its place. Raises: as GroupWriter.enqueue."""
        return self._writer.enqueue(body)

    async def append_change(
        self, within: Repositories, *, actor: Actor, action: str, detail: Mapping[str, Json]
    ) -> None:
        """Append a change's record in the change's own transaction; the last thing that the block does."""
        bodies = await self.bodies()
        await within.access_log.append([bodies.changed(at=self.now(), actor=actor, action=action, detail=detail)])

    async def append_refused_change(self, *, actor: Actor, action: str, error: MerError) -> None:
        """Record that a change was asked for and not allowed."""
        bodies = await self.bodies()
        # not in a group: it has no invocation, so that a group which is repeated for one bad record would append it twice
        await self._log.append([bodies.change_refused(at=self.now(), actor=actor, action=action, error=error)])

    async def drain(self) -> None:
        """Wait for what is still being written."""
        await self._writer.drain()

    async def close(self) -> None:
        """Wait for it at the end of the program: not for long where the database does not answer."""
        await self._writer.close()
