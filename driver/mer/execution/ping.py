"""Pings: each step on the way to a worker's answer, tried one after the other, with how long it took."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec

from mer.core.errors import MerError
from mer.dal.base import Store
from mer.execution.workplaces import Workplaces
from mer.meal.hosts import Hosts
from mer.meal.pool import Pool
from mer.registry.resolve import Resolver


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step: whether it succeeded, how long it took, and what was found or what failed."""

    name: str
    ok: bool
    microseconds: int
    detail: str = ""
    exit_code: int = 0
    """Of the error that it failed with."""


class Ping:
    """Tries servers and models, short of asking a model something."""

    def __init__(
        self,
        *,
        store: Store,
        resolver: Resolver,
        workplaces: Workplaces,
        pool: Pool,
        hosts: Hosts,
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._workplaces = workplaces
        self._pool = pool
        self._hosts = hosts
        self._monotonic = monotonic

    async def server(self, name: str) -> list[Step]:
        """Try a server (see `Mer.ping_server`)."""
        server = await self._store.servers.get(name)
        steps: list[Step] = []
        async with self._step("host", steps) as found:
            probe = await self._hosts.of(server).probe()
            found.append(f"{probe.address}: {probe.python}, Python {probe.version}")
        return steps

    async def model(self, reference: str, *, on: str | None = None) -> list[Step]:
        """Try a model (see `Mer.ping_model`)."""
        steps: list[Step] = []
        resolved = await self._resolver.resolve(reference, on=on)
        for candidate in resolved.candidates:
            where = f"{resolved.model.name}:{candidate.version.number} on {candidate.server.name}"
            async with self._step("content", steps) as found:
                workplace = await self._workplaces.prepare(candidate)
                found.append(where)
            if not steps[-1].ok:
                continue
            async with self._step("worker", steps) as found, contextlib.AsyncExitStack() as stack:
                # one that is there is only looked at: it may be busy with what is to be found out
                session = self._pool.warm(workplace.host, workplace.plan)
                if session is None:
                    worker = self._pool.worker(workplace.host, workplace.plan, owner="ping")
                    session = await stack.enter_async_context(worker)
                found.append(f"loaded; {await session.pulse()}")
                if session.without_memory:
                    found.append(f"no shared memory for large tensors: {session.without_memory}")
        return steps

    @contextlib.asynccontextmanager
    async def _step(self, name: str, steps: list[Step]) -> AsyncIterator[list[str]]:
        began, found = self._monotonic(), list[str]()
        ok, code = True, 0
        try:
            yield found
        except MerError as error:
            ok, code = False, error.exit_code
            found.append(error.message)
        took = round((self._monotonic() - began) * 1e6)
        steps.append(Step(name=name, ok=ok, microseconds=took, detail="; ".join(found), exit_code=code))
