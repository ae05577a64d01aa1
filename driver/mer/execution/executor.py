"""One invocation, end to end: resolve, validate, record, ensure a worker, run, record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

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
from mer.core.lent import known_by
from mer.core.records import InvocationId, Outcome
from mer.core.specs import VersionSpec
from mer.core.timeouts import check_timeout
from mer.core.trace import CURRENT, Trace, lane_of, span
from mer.execution import tracing
from mer.execution.audit import Audit, Started
from mer.execution.choice import Choice
from mer.execution.inputs import encode_inputs
from mer.execution.prepared import Prepared
from mer.execution.results import Result
from mer.execution.routes import Routes
from mer.execution.walls import within
from mer.execution.workers import Workers
from mer.execution.workplaces import Workplaces
from mer.meal.answers import Reply
from mer.meal.calls import LogCallback
from mer.meal.pool import Pool
from mer.meal.session import Session
from mer.registry.resolve import Candidate, Resolved, Resolver


class Executor:
    """Runs invocations; every one that was started is told to have ended, however it ends."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        choice: Choice,
        audit: Audit,
        workplaces: Workplaces,
        pool: Pool,
        run_seconds: float | None,
        trace: Trace | None,
        monotonic: Callable[[], float],
    ) -> None:
        self.audit = audit
        """Who is told of invocations."""
        self._resolver = resolver
        self.workers = Workers(pool=pool, workplaces=workplaces, choice=choice, monotonic=monotonic)
        """Who gives invocations their workers."""
        self._choice = choice
        self._pool = pool
        self._run_seconds = run_seconds
        self._trace = trace
        self._monotonic = monotonic
        self._routes = Routes()

    async def spec_of(self, reference: str, *, on: str | None = None) -> VersionSpec:
        """Return the spec of the version that would run.

        Raises:
            NotFound
        """
        resolved = await self._resolver.resolve(reference, on=on)
        return (await self._choice.among(resolved.model.name, resolved.candidates)).version.spec

    async def refuse(self, reference: str, error: MerError, *, actor: Actor) -> None:
        """Put on record that an invocation was refused before it came here (see `Mer.refuse`)."""
        await self.audit.refused(InvocationId(uuid7()), Subject(reference=reference), actor, error)

    def run(
        self,
        reference: str,
        inputs: Mapping[str, Any],
        actor: Actor,
        on: str | None,
        timeout: float | None,
        on_log: LogCallback | None,
        trace: Trace | None,
        retry: bool = False,
    ) -> Coroutine[Any, Any, Result]:
        """Run one invocation (see `Mer.run`)."""
        if trace is None and self._trace is None:
            return self._run(reference, inputs, actor, on, timeout, on_log, retry)
        lane = lane_of(reference, trace, self._trace)
        assert lane is not None  # there is a trace
        on_log = tracing.marking(lane, on_log)
        return tracing.along(lane, reference, self._run(reference, inputs, actor, on, timeout, on_log, retry))

    async def _run(
        self,
        reference: str,
        inputs: Mapping[str, Any],
        actor: Actor,
        on: str | None,
        timeout: float | None,
        on_log: LogCallback | None,
        retry: bool,
    ) -> Result:
        """Run one invocation; what is like others before it, in this very coroutine (docs/decisions/what-a-run-adds.md)."""
        began = self._monotonic()
        if timeout is not None:
            check_timeout(timeout)
        lane = CURRENT.get()
        prepared = self._prepared_at_once(reference, inputs, on, began) if lane is None else None
        if prepared is None:
            with span("prepare"):
                prepared = await self.prepare(reference, inputs, actor=actor, on=on)
        deadline, route, audit = self.deadline(timeout, began), prepared.route, self.audit
        if retry:
            _ = prepared.encoded  # now: until there is another attempt, the caller might change them
        started = await audit.start(prepared, actor, on_log)
        timings, printed = started.timings, started.printed
        warm = None
        try:
            warm = self._pool.take_warm(route.worker, printed) if lane is None else None
            if warm is None:
                reply, route = await self._perform(prepared, deadline, timings, printed), prepared.route
            else:
                settled = False
                try:
                    session, sent = warm.session, self._monotonic()
                    assert session is not None  # what is warm is loaded
                    call = None
                    if route.plain:
                        call = session.shortcut.send(prepared.values, deadline, printed, prepared.in_wire_form)
                    if call is None:
                        reply = await self._infer(session, prepared, deadline, printed)
                    else:
                        try:
                            answer = await call.future
                        except asyncio.CancelledError:
                            session.abandon(call.request)
                            raise
                        reply = session.answered(answer, call)
                    timings.run_us = ran = reply.run_us
                    took = int((self._monotonic() - sent) * 1e6)
                    timings.transfer_us = took - ran if took > ran else 0
                    settled = True
                except MerError as error:
                    spent(timings, error.run_us, self._monotonic() - sent)
                    raise
                finally:
                    self._pool.give_back(warm, printed, settled=settled)
        except BaseException as error:  # every end of a started invocation goes on record, Ctrl-C and bugs included
            if not (retry and isinstance(error, WorkerLost) and (warm is not None or prepared.given)):
                if warm is not None or prepared.given:
                    hint_at_retry(error)
                await audit.end(started, outcome=outcome_of(error), error=told(error))
                raise
            reply, route = await self._once_more(started, error, deadline), prepared.route
        recorded = await audit.end(started, outcome=Outcome.SUCCEEDED, reply=reply)
        return Result(
            outputs=reply.outputs,
            invocation=prepared.invocation,
            model=route.model,
            version=route.version,
            server=route.server,
            timings=timings,
            failed_attempts=prepared.failed,
            recorded=recorded,
        )

    def _prepared_at_once(
        self, reference: str, inputs: Mapping[str, Any], on: str | None, now: float
    ) -> Prepared | None:
        """Return an invocation against which nothing stands as it did against none before; None: that is to be found out."""
        route = self._routes.known.get((reference, on))
        if (
            route is None
            or now >= route.until
            or route.epoch != self._resolver.epoch
            or type(inputs) is not dict
            or not route.forms.fit(inputs)
            or self._pool.waiting
        ):
            return None
        return Prepared(InvocationId(uuid7()), route, inputs)

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
            route = self._routes.known.get((reference, on))
            if route is not None and route.resolved is resolved:
                subject = route.subject
                encoded = encode_inputs(route.candidate.version.spec, inputs, partial=partial)
            else:
                candidate = await self._choice.among(resolved.model.name, resolved.candidates)
                self._choice.taken(candidate.server)
                subject = _subject(reference, resolved, candidate)
                encoded = encode_inputs(candidate.version.spec, inputs, partial=partial)
                route = await self.workers.route(resolved, subject, candidate, before=route)
                self._routes.keep((reference, on), route)
            if not partial:
                route.forms.learn(inputs, encoded)
            self._pool.require_room()
        except Unreachable:
            raise  # the database is gone: a refusal cannot be recorded either
        except MerError as error:
            await self.audit.refused(invocation, subject, actor, error)
            raise
        return Prepared(invocation, route, inputs, encoded)

    async def _once_more(self, started: Started, error: WorkerLost, deadline: float | None) -> Reply:
        """Run what was lost in the middle once more: its caller says that the model allows that."""
        try:
            await self.workers.again(started.prepared, error)
            return await self._perform(started.prepared, deadline, started.timings, started.printed)
        except BaseException as last:
            await self.audit.end(started, outcome=outcome_of(last), error=told(last))
            raise

    async def _perform(
        self, prepared: Prepared, deadline: float | None, timings: Timings, on_log: LogCallback | None
    ) -> Reply:
        """Run it with a worker that has to be waited for, or started; or traced."""
        _ = prepared.encoded  # now: while time passes its caller might change it
        async with self.workers.worker(prepared, deadline, timings, on_log) as session:
            sent = self._monotonic()
            try:
                reply = await self._infer(session, prepared, deadline, on_log)
            except MerError as error:
                spent(timings, error.run_us, self._monotonic() - sent)
                raise
            timings.run_us = reply.run_us
            timings.transfer_us = max(0, round((self._monotonic() - sent) * 1e6) - reply.run_us)
            return reply

    async def _infer(
        self, session: Session, prepared: Prepared, deadline: float | None, on_log: LogCallback | None
    ) -> Reply:
        """Run the model by the session's general way, held to the version's wall limit."""
        lane, as_they_are, encoded = CURRENT.get(), prepared.in_wire_form is None, prepared.encoded
        with within(prepared.candidate.version.spec, deadline, now=self._monotonic()) as due:
            if lane is None:
                reply = await session.infer(encoded, deadline=due, on_log=on_log)
            else:
                reply = await tracing.infer(session, lane, encoded, deadline=due, on_log=on_log)
        if as_they_are:
            session.learn(prepared.values, encoded)  # the next one goes the shortest way
        return reply


def _subject(reference: str, resolved: Resolved, candidate: Candidate) -> Subject:
    package, weights = known_by(candidate.version)
    return Subject(
        reference=reference,
        model=resolved.model.name,
        version=candidate.version.number,
        package=package,
        weights=weights,
        server=candidate.server.name,
        address=candidate.server.parameters.get("address"),
    )


def spent(timings: Timings, run_us: int, seconds: float) -> None:
    """Note what a call of so many seconds was spent on, if its worker has told how long the model ran."""
    if run_us:  # else all of it may have been the model's
        timings.run_us, timings.transfer_us = run_us, max(0, round(seconds * 1e6) - run_us)


def hint_at_retry(error: BaseException) -> None:
    """Say how what a lost worker ran is run once more without being asked, if the model allows that."""
    if isinstance(error, WorkerLost):
        error.hint = error.hint or "If the model may run twice: `run --retry` runs it once more by itself."


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
