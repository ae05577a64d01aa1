"""One invocation, end to end: resolve, validate, record, ensure a worker, run, record."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

from mer.audit.bodies import Subject, Timings
from mer.core.actor import Actor
from mer.core.errors import (
    Busy,
    DeadlineExceeded,
    Interrupted,
    MerError,
    ModelFailed,
    Unreachable,
    WorkerLost,
)
from mer.core.identifiers import uuid7
from mer.core.records import InvocationId, Outcome
from mer.core.specs import VersionSpec
from mer.core.timeouts import check_timeout
from mer.core.trace import CURRENT, Trace, lane_of, span, traced
from mer.dal.base import Store
from mer.execution import tracing
from mer.execution.audit import Audit, Prepared
from mer.execution.inputs import encode_inputs
from mer.execution.results import Result
from mer.execution.walls import within
from mer.execution.workplaces import Workplace, Workplaces
from mer.meal.answers import Reply
from mer.meal.calls import LogCallback
from mer.meal.pool import Pool
from mer.meal.pooled import BATCHES_AHEAD
from mer.meal.session import Session
from mer.registry.resolve import MAX_REMEMBERED, Candidate, Resolved, Resolver


class Route(NamedTuple):
    """Where a reference leads that has one candidate only."""

    resolved: Resolved
    subject: Subject
    candidate: Candidate
    workplace: Workplace


class Executor:
    """Runs invocations; every one that was started is told to have ended, however it ends."""

    def __init__(
        self,
        *,
        store: Store,
        resolver: Resolver,
        audit: Audit,
        workplaces: Workplaces,
        pool: Pool,
        run_seconds: float | None,
        trace: Trace | None,
        monotonic: Callable[[], float],
    ) -> None:
        self.audit = audit
        """Who is told of invocations."""
        self._store = store
        self._resolver = resolver
        self._workplaces = workplaces
        self._pool = pool
        self._run_seconds = run_seconds
        self._trace = trace
        self._monotonic = monotonic
        self._routes: dict[tuple[str, str | None], Route] = {}
        """By reference and server as they were asked for; each is good for as long as the resolver gives the same answer."""
        self._owner = uuid7()  # a stateful worker belongs to this executor: one REPL, one one-shot

    async def spec_of(self, reference: str, *, on: str | None = None) -> VersionSpec:
        """Return the spec of the version that would run.

        Raises:
            NotFound
        """
        resolved = await self._resolver.resolve(reference, on=on)
        return (await self._choose(resolved)).version.spec

    async def refuse(self, reference: str, error: MerError, *, actor: Actor) -> None:
        """Put on record that an invocation was refused before it came here (see `Mer.refuse`)."""
        await self.audit.refused(InvocationId(uuid7()), Subject(reference=reference), actor, error)

    async def run(
        self,
        reference: str,
        inputs: Mapping[str, Any],
        *,
        actor: Actor,
        on: str | None = None,
        timeout: float | None = None,
        on_log: LogCallback | None = None,
        trace: Trace | None = None,
    ) -> Result:
        """Run one invocation (see `Mer.run`)."""
        lane = lane_of(reference, trace, self._trace) if trace or self._trace else None
        if lane is None:
            return await self._run(reference, inputs, actor=actor, on=on, timeout=timeout, on_log=on_log)
        with traced(lane, reference):
            listener = tracing.marking(lane, on_log)
            return await self._run(reference, inputs, actor=actor, on=on, timeout=timeout, on_log=listener)

    async def _run(
        self,
        reference: str,
        inputs: Mapping[str, Any],
        *,
        actor: Actor,
        on: str | None,
        timeout: float | None,
        on_log: LogCallback | None,
    ) -> Result:
        began, timeout = self._monotonic(), check_timeout(timeout)
        with span("prepare"):
            prepared = await self.prepare(reference, inputs, actor=actor, on=on)
        deadline = self.deadline(timeout, began)
        started = await self.audit.start(prepared, actor, on_log)
        try:
            reply = await self._perform(prepared, deadline, started.timings, started.printed)
        except BaseException as error:  # every end of a started invocation goes on record, Ctrl-C and bugs included
            await self.audit.end(started, outcome=outcome_of(error), error=told(error))
            raise
        recorded = await self.audit.end(started, outcome=Outcome.SUCCEEDED, reply=reply)
        return Result(
            outputs=reply.outputs,
            invocation=prepared.invocation,
            model=prepared.subject.model or "",
            version=prepared.candidate.version.number,
            server=prepared.candidate.server.name,
            timings=started.timings,
            recorded=recorded,
        )

    def deadline(self, timeout: float | None, began: float) -> float | None:
        """Return when a run that began then has to be done, by what its caller and the settings say."""
        seconds = self._run_seconds
        if timeout is not None and (seconds is None or timeout < seconds):
            seconds = timeout
        return None if seconds is None else began + seconds

    async def prepare(
        self, reference: str, inputs: Mapping[str, Any], *, actor: Actor, on: str | None, partial: bool = False
    ) -> Prepared:
        """Find out what is to run where, and that nothing is against it; put it on record as refused otherwise.

        `partial`: some of the inputs come later, in parts.
        """
        invocation = InvocationId(uuid7())
        subject = Subject(reference=reference)
        try:
            resolved = await self._resolver.resolve(reference, on=on)
            route = self._routes.get((reference, on))
            if route is not None and route.resolved is resolved:
                subject, candidate, workplace = route.subject, route.candidate, route.workplace
                encoded = encode_inputs(candidate.version.spec, inputs, partial=partial)
            else:
                candidate = await self._choose(resolved)
                subject = _subject(reference, resolved, candidate)
                encoded = encode_inputs(candidate.version.spec, inputs, partial=partial)
                workplace = await self._workplaces.prepare(candidate)
                if len(resolved.candidates) == 1:  # among several, each call chooses anew
                    self._keep((reference, on), Route(resolved, subject, candidate, workplace))
            self._pool.require_room()
        except Unreachable:
            raise  # the database is gone: a refusal cannot be recorded either
        except MerError as error:
            await self.audit.refused(invocation, subject, actor, error)
            raise
        return Prepared(
            invocation=invocation, subject=subject, candidate=candidate, workplace=workplace, encoded=encoded
        )

    def _keep(self, asked: tuple[str, str | None], route: Route) -> None:
        if len(self._routes) >= MAX_REMEMBERED:
            self._routes.clear()
        self._routes[asked] = route

    async def _choose(self, resolved: Resolved) -> Candidate:
        """Return where to run: the server with the fewest unfinished invocations of the model on record."""
        if len(resolved.candidates) == 1:
            return resolved.candidates[0]
        unfinished = await self._store.access_log.unfinished_by_server(resolved.model.name)
        least = min(unfinished.get(candidate.server.name, 0) for candidate in resolved.candidates)
        idle = [c for c in resolved.candidates if unfinished.get(c.server.name, 0) == least]
        return random.choice(idle)  # noqa: S311 - among equals; a fixed order would send every one-shot to the first

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
        """Give a worker of the pool, that of `session` if it is said.

        Raises:
            DeadlineExceeded: none was ready in time.
            MerError: as Pool.worker.
        """
        async with contextlib.AsyncExitStack() as stack:
            took: dict[str, int] = {}
            worker = self._pool.worker(
                prepared.workplace.host,
                prepared.workplace.plan,
                owner=self._owner,
                on_log=on_log,
                timings=took,
                session=session,
            )
            lane = CURRENT.get()
            asked = 0 if lane is None else lane.now()
            try:
                async with asyncio.timeout_at(deadline) as patience:
                    given = await stack.enter_async_context(worker)
                timings.queue_us += took.get("queue_us", 0)  # what was sealed has had a worker before
                timings.start_us += took.get("start_us", 0)
            except TimeoutError as error:
                if not patience.expired():
                    raise
                raise DeadlineExceeded("the deadline passed before a worker was ready") from error
            if lane is not None:
                queued = asked + timings.queue_us
                lane.add("queue", asked, queued)
                lane.add("worker", queued, queued + timings.start_us)
            yield given

    async def _perform(
        self, prepared: Prepared, deadline: float | None, timings: Timings, on_log: LogCallback | None
    ) -> Reply:
        place, lane = prepared.workplace, CURRENT.get()
        warm = None if lane else self._pool.take_warm(place.host, place.plan, owner=self._owner, on_log=on_log)
        if warm is None:
            async with self.worker(prepared, deadline, timings, on_log) as session:
                return await self._ask(session, prepared, deadline, timings, on_log)
        assert warm.session is not None  # what is warm is loaded
        try:
            return await self._ask(warm.session, prepared, deadline, timings, on_log)
        finally:
            self._pool.give_back(warm, on_log)

    async def _ask(
        self,
        session: Session,
        prepared: Prepared,
        deadline: float | None,
        timings: Timings,
        on_log: LogCallback | None,
    ) -> Reply:
        lane, sent = CURRENT.get(), self._monotonic()
        spec = prepared.candidate.version.spec
        wall_seconds, turns = spec.limits.wall_seconds, 1 if spec.batch is None else BATCHES_AHEAD
        try:
            if lane is None and wall_seconds is None:
                reply = await session.infer(prepared.encoded, deadline=deadline, on_log=on_log)
            else:
                with within(wall_seconds, deadline, now=sent, turns=turns) as due:
                    if lane is None:
                        reply = await session.infer(prepared.encoded, deadline=due, on_log=on_log)
                    else:
                        reply = await tracing.infer(session, lane, prepared.encoded, deadline=due, on_log=on_log)
        except MerError as error:
            spent(timings, error.run_us, self._monotonic() - sent)
            raise
        timings.run_us = reply.run_us
        timings.transfer_us = max(0, round((self._monotonic() - sent) * 1e6) - reply.run_us)
        return reply


def _subject(reference: str, resolved: Resolved, candidate: Candidate) -> Subject:
    return Subject(
        reference=reference,
        model=resolved.model.name,
        version=candidate.version.number,
        package=candidate.version.package,
        weights=candidate.version.weights,
        server=candidate.server.name,
        address=candidate.server.parameters.get("address"),
    )


def spent(timings: Timings, run_us: int, seconds: float) -> None:
    """Note what a call of so many seconds was spent on, if its worker has told how long the model ran."""
    if run_us:  # else all of it may have been the model's
        timings.run_us, timings.transfer_us = run_us, max(0, round(seconds * 1e6) - run_us)


def outcome_of(error: BaseException) -> Outcome:
    """Return the outcome of an invocation that ended by this error."""
    match error:
        case Busy():
            return Outcome.REFUSED
        case ModelFailed():
            return Outcome.FAILED
        case DeadlineExceeded():
            return Outcome.TIMED_OUT
        case WorkerLost():
            return Outcome.LOST
        case asyncio.CancelledError() | KeyboardInterrupt() | GeneratorExit() | Interrupted():
            return Outcome.CANCELLED
        case _:
            return Outcome.FAILED


def told(error: BaseException) -> MerError:
    """Return what the record is to say: a cancelled task has no words of its own."""
    if isinstance(error, MerError):
        return error
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit):
        return Interrupted("cancelled by its caller")
    return MerError(f"{type(error).__name__}: {error}")
