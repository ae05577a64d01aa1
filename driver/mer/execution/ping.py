"""Pings: each step on the way to a worker's answer, tried one after the other, with how long it took."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeAlias

import msgspec

from mer.core.errors import MerError
from mer.core.progress import waiting
from mer.core.records import MAX_PAGE, Server, ServerKind
from mer.dal.base import Store
from mer.dal.paging import every
from mer.execution.workplaces import Workplaces
from mer.meal.findings import Finding
from mer.meal.host import Host
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
    hint: str | None = None
    """What to do about it."""
    server: str = ""
    """Which one was tried."""


Told: TypeAlias = Callable[[Step], None]
"""Is called with each step as soon as it has ended."""

SERVERS_AT_ONCE = 8
"""Looked at side by side: as many as may be at a handshake (mer.meal.ssh.connection)."""


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

    async def server(self, name: str, *, told: Told | None = None) -> list[Step]:
        """Try a server (see `Mer.ping_server`)."""
        server = await self._store.servers.get(name)
        return await self._examined(self._hosts.of(server), told)

    async def servers(self, *, told: Callable[[str, Step], None] | None = None) -> dict[str, list[Step]]:
        """Try all servers, side by side (see `Mer.ping_servers`)."""
        listed = [server async for server in every(partial(self._store.servers.page, limit=MAX_PAGE, retired=False))]
        at_once = asyncio.Semaphore(SERVERS_AT_ONCE)

        async def tried(server: Server) -> list[Step]:
            async with at_once:
                return await self._examined(
                    self._hosts.of(server), None if told is None else lambda step: told(server.name, step)
                )

        async with asyncio.TaskGroup() as group:
            trying = {server.name: group.create_task(tried(server)) for server in listed}
        return {name: task.result() for name, task in trying.items()}

    async def _examined(self, host: Host, told: Told | None) -> list[Step]:
        steps: list[Step] = []

        def found(finding: Finding) -> None:
            error = finding.error
            step = Step(
                name=finding.step,
                ok=error is None,
                microseconds=finding.microseconds,
                detail=finding.detail if error is None else error.message,
                exit_code=0 if error is None else error.exit_code,
                hint=None if error is None else error.hint,
                server=host.name,
            )
            steps.append(step)
            if told is not None:
                told(step)

        try:
            await host.examine(found)
        finally:
            waiting(host.name, "")
        return steps

    async def model(self, reference: str, *, on: str | None = None) -> list[Step]:
        """Try a model (see `Mer.ping_model`)."""
        steps: list[Step] = []
        resolved = await self._resolver.resolve(reference, on=on)
        for candidate in resolved.candidates:
            if candidate.server.kind is not ServerKind.LOCAL:
                steps += await self._examined(self._hosts.of(candidate.server), None)
                if not steps[-1].ok:
                    continue
            where = f"{resolved.model.name}:{candidate.version.number} on {candidate.server.name}"
            server = candidate.server.name
            async with self._step("content", server, steps) as found:
                workplace = await self._workplaces.prepare(candidate)
                found.append(where)
            if not steps[-1].ok:
                continue
            async with self._step("worker", server, steps) as found, contextlib.AsyncExitStack() as stack:
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
    async def _step(self, name: str, server: str, steps: list[Step]) -> AsyncIterator[list[str]]:
        began, found = self._monotonic(), list[str]()
        ok, code, hint = True, 0, None
        try:
            yield found
        except MerError as error:
            ok, code, hint = False, error.exit_code, error.hint
            found.append(error.message)
        took = round((self._monotonic() - began) * 1e6)
        detail = "; ".join(found)
        steps.append(Step(name=name, ok=ok, microseconds=took, detail=detail, exit_code=code, hint=hint, server=server))
