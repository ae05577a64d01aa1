"""A worker for an invocation: of the pool, on the server that was chosen, or on another one where that cannot give one.

That a server cannot be reached, or has no room for a worker, shows before anything of the input has gone there, so another may
take its place. It has to run the very version that stands on record as started.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec

from mer.audit.bodies import Subject, Timings
from mer.core.errors import (
    NOT_LET_IN,
    Busy,
    ConfigurationError,
    ContentUnwritable,
    DeadlineExceeded,
    MerError,
    PackageInvalid,
    WeightsInvalid,
    WorkerLost,
)
from mer.core.identifiers import uuid7
from mer.core.records import ServerKind
from mer.core.trace import CURRENT
from mer.execution.choice import Choice
from mer.execution.forms import InputForms
from mer.execution.prepared import Prepared
from mer.execution.routes import Route
from mer.execution.workplaces import Workplaces
from mer.meal.calls import LogCallback
from mer.meal.pool import Pool
from mer.meal.pooled import key_of
from mer.meal.session import Session
from mer.registry.resolve import Candidate, Resolved

THE_SERVERS = (*NOT_LET_IN, Busy, ContentUnwritable, ConfigurationError)
"""Errors that are a server's own, so that another one may do: its record or the ssh_config, too, say how that one is reached."""

THE_MODELS = (PackageInvalid, WeightsInvalid)
"""Kinds of ConfigurationError, and yet the same on every server."""


class Workers:
    """Those that one executor's invocations get."""

    def __init__(self, *, pool: Pool, workplaces: Workplaces, choice: Choice, monotonic: Callable[[], float]) -> None:
        self._pool = pool
        self._workplaces = workplaces
        self._choice = choice
        self._monotonic = monotonic
        self._owner = uuid7()  # a stateful worker belongs to this executor: one REPL, one one-shot

    async def route(
        self, resolved: Resolved, subject: Subject, candidate: Candidate, *, before: Route | None = None
    ) -> Route:
        """Return the way to a worker for this candidate; `before` is one that the same reference had.

        Raises:
            ContentError, ConfigurationError: as Workplaces.prepare.
        """
        workplace, spec = await self._workplaces.prepare(candidate), candidate.version.spec
        same = before is not None and before.forms.spec == spec
        return Route(
            resolved=resolved,
            subject=subject,
            candidate=candidate,
            workplace=workplace,
            worker=key_of(workplace.host, workplace.plan, self._owner),
            forms=before.forms if before is not None and same else InputForms(spec),
            model=resolved.model.name,
            version=candidate.version.number,
            server=candidate.server.name,
            until=resolved.until,
            epoch=resolved.epoch,
            far=candidate.server.kind is not ServerKind.LOCAL,
            plain=spec.limits.wall_seconds is None and spec.batch is None,
        )

    @contextlib.asynccontextmanager
    async def worker(
        self,
        prepared: Prepared,
        deadline: float | None,
        timings: Timings,
        on_log: LogCallback | None,
        *,
        session: Session | None = None,
    ) -> AsyncIterator[Session]:
        """Give a worker of the pool, that of `session` if it is said; where it is, `prepared` then says.

        Raises:
            DeadlineExceeded: none was ready in time.
            MerError: as Pool.worker, of the last server that was tried.
        """
        async with contextlib.AsyncExitStack() as stack:
            lane = CURRENT.get()
            asked, before = 0 if lane is None else lane.now(), timings.queue_us
            while (given := await self._entered(stack, prepared, deadline, timings, on_log, session)) is None:
                pass
            if lane is not None:
                queued = asked + timings.queue_us - before  # what was sealed has waited for a worker before
                lane.add("queue", asked, queued)
                # what it started with stands within it, whatever held us up since
                lane.add("worker", queued, lane.now())
            yield given

    async def again(self, prepared: Prepared, error: WorkerLost) -> None:
        """Have an invocation whose worker was lost run once more: on another server, if there is one."""
        if not await self._elsewhere(prepared, error):
            prepared.fail(error, prepared.route)

    async def _entered(
        self,
        stack: contextlib.AsyncExitStack,
        prepared: Prepared,
        deadline: float | None,
        timings: Timings,
        on_log: LogCallback | None,
        session: Session | None,
    ) -> Session | None:
        """Take a worker where the invocation is to run; None: it cannot be had there, and another server is next."""
        workplace, server = prepared.workplace, prepared.candidate.server
        took: dict[str, int] = {}
        worker = self._pool.worker(
            workplace.host, workplace.plan, owner=self._owner, on_log=on_log, timings=took, session=session
        )
        began = self._monotonic()
        try:
            async with asyncio.timeout_at(deadline) as patience:
                given = await stack.enter_async_context(worker)
        except TimeoutError as error:
            if not patience.expired():
                raise
            if took and not workplace.host.reached:  # it was being started, and there was no way there yet
                self._choice.failed(server)
            raise DeadlineExceeded("the deadline passed before a worker was ready") from error
        except THE_SERVERS as error:
            if isinstance(error, THE_MODELS) or (isinstance(error, Busy) and not took):
                raise  # of the second kind: it is this driver's own queue that is full, which is no server's fault
            timings.start_us += round((self._monotonic() - began) * 1e6)
            self._choice.failed(server)
            if not await self._elsewhere(prepared, error):
                raise
            return None
        timings.queue_us += took.get("queue_us", 0)  # what was sealed has had a worker before
        timings.start_us += took.get("start_us", 0)
        self._choice.served(server)
        prepared.given = True
        return given

    async def _elsewhere(self, prepared: Prepared, error: MerError) -> bool:
        """Send an invocation on to a server that has not failed it, and that runs the same version; False: there is none."""
        route = prepared.route
        failed = {route.server, *(attempt.server for attempt in prepared.failed)}
        others = [
            candidate
            for candidate in route.resolved.candidates
            if candidate.version.number == route.version and candidate.server.name not in failed
        ]
        if not others:
            return False
        candidate = await self._choice.among(route.model, others, patient=False)
        self._choice.taken(candidate.server)
        server = candidate.server
        subject = msgspec.structs.replace(route.subject, server=server.name, address=server.parameters.get("address"))
        prepared.fail(error, await self.route(route.resolved, subject, candidate, before=route))
        return True
