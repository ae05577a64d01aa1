"""One invocation, end to end: resolve, validate, record, ensure a worker, run, record."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from mer.audit.bodies import Subject, TensorDigest, Timings
from mer.audit.recorder import Recorder
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
from mer.core.records import InvocationId, LeaseId, Outcome
from mer.core.specs import VersionSpec
from mer.core.timeouts import check_timeout
from mer.core.trace import CURRENT, Trace, span, traced
from mer.dal.base import Store
from mer.execution import tracing
from mer.execution.digests import Rolling, hashing
from mer.execution.finishes import Finishes
from mer.execution.inputs import encode_inputs
from mer.execution.leases import LeaseKeeper
from mer.execution.printed import Printed
from mer.execution.results import Result
from mer.execution.walls import within
from mer.execution.workplaces import Workplace, Workplaces
from mer.meal.calls import LogCallback
from mer.meal.pool import Pool
from mer.meal.session import Reply, Session
from mer.registry.resolve import Candidate, Resolved, Resolver
from mer_worker.tensors import Encoded

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 30.0
"""For the ends of what still ran when this was closed: digests of its outputs, and a database's deadline or two."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """An invocation that nothing stands against: it will start."""

    invocation: InvocationId
    subject: Subject
    candidate: Candidate
    workplace: Workplace
    encoded: Encoded


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """An invocation on record, whose end must get there too."""

    prepared: Prepared
    actor: Actor
    lease: LeaseId
    timings: Timings
    printed: Printed
    inputs: asyncio.Future[list[TensorDigest]]


class Streamed(msgspec.Struct, frozen=True, kw_only=True):
    """What went to and fro in parts."""

    inputs: Rolling
    outputs: Rolling


class Executor:
    """Runs invocations; every one that was started gets its finish on record, however it ends."""

    def __init__(
        self,
        *,
        store: Store,
        resolver: Resolver,
        recorder: Recorder,
        leases: LeaseKeeper,
        finishes: Finishes,
        workplaces: Workplaces,
        pool: Pool,
        run_seconds: float | None,
        record_model_log: bool,
        trace: Trace | None,
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._recorder = recorder
        self._leases = leases
        self._finishes = finishes
        self._workplaces = workplaces
        self._pool = pool
        self._run_seconds = run_seconds
        self._record_model_log = record_model_log
        self._trace = trace
        self._monotonic = monotonic
        self._open: dict[InvocationId, asyncio.Future[None]] = {}
        """What was started and has not ended yet."""
        self._owner = uuid7()  # a stateful worker belongs to this executor: one REPL, one one-shot

    async def spec_of(self, reference: str, *, on: str | None = None) -> VersionSpec:
        """Return the spec of the version that would run.

        Raises:
            NotFound
        """
        resolved = await self._resolver.resolve(reference, on=on)
        return (await self._choose(resolved)).version.spec

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
        trace = trace or self._trace
        if trace is None:
            return await self._run(reference, inputs, actor=actor, on=on, timeout=timeout, on_log=on_log)
        with traced(trace, reference) as lane:
            listener = on_log if lane is None else tracing.marking(lane, on_log)
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
        started = await self.start(prepared, actor, on_log)
        try:
            reply = await self._perform(prepared, deadline, started.timings, started.printed)
        except BaseException as error:  # every end of a started invocation goes on record, Ctrl-C and bugs included
            await self.end(started, outcome=outcome_of(error), error=told(error))
            raise
        recorded = await self.end(started, outcome=Outcome.SUCCEEDED, reply=reply)
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
        timeout = _least(timeout, self._run_seconds)
        return None if timeout is None else began + timeout

    async def close(self) -> None:
        """Wait until the end of all that was started is on record. The pool is closed by then: nothing runs any more."""
        if self._open:
            await asyncio.wait(self._open.values(), timeout=CLOSE_SECONDS)

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
            candidate = await self._choose(resolved)
            subject = Subject(
                reference=reference,
                model=resolved.model.name,
                version=candidate.version.number,
                package=candidate.version.package,
                weights=candidate.version.weights,
                server=candidate.server.name,
                address=candidate.server.parameters.get("address"),
            )
            encoded = encode_inputs(candidate.version.spec, inputs, partial=partial)
            workplace = await self._workplaces.prepare(candidate)
            self._pool.require_room()
        except Unreachable:
            raise  # the database is gone: a refusal cannot be recorded either
        except MerError as error:
            bodies = await self._recorder.bodies()
            body = bodies.refused(
                at=self._recorder.now(), actor=actor, invocation=invocation, subject=subject, error=error
            )
            await self._recorder.append(body)
            raise
        return Prepared(
            invocation=invocation, subject=subject, candidate=candidate, workplace=workplace, encoded=encoded
        )

    async def _choose(self, resolved: Resolved) -> Candidate:
        """Return where to run: the server with the fewest unfinished invocations of the model on record."""
        if len(resolved.candidates) == 1:
            return resolved.candidates[0]
        unfinished = await self._store.access_log.unfinished_by_server(resolved.model.name)
        least = min(unfinished.get(candidate.server.name, 0) for candidate in resolved.candidates)
        idle = [c for c in resolved.candidates if unfinished.get(c.server.name, 0) == least]
        return random.choice(idle)  # noqa: S311 - among equals; a fixed order would send every one-shot to the first

    async def start(self, prepared: Prepared, actor: Actor, on_log: LogCallback | None) -> Started:
        """Put an invocation on record as started; whoever does that sees that it ends."""
        invocation = prepared.invocation
        lease = await self._leases.cover(invocation)
        try:
            bodies = await self._recorder.bodies()
            body = bodies.started(
                at=self._recorder.now(), actor=actor, lease=lease, invocation=invocation, subject=prepared.subject
            )
            with span("record started"):
                await self._recorder.append(body)
        except BaseException:
            self._leases.give_up(invocation)  # whether it became durable nobody knows
            raise
        self._open[invocation] = asyncio.get_running_loop().create_future()
        hashed = hashing(prepared.encoded.descriptors, prepared.encoded.segments)
        printed = Printed(on_log, kept=self._record_model_log)
        return Started(prepared=prepared, actor=actor, lease=lease, timings=Timings(), printed=printed, inputs=hashed)

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
        wall_seconds = prepared.candidate.version.spec.limits.wall_seconds
        if lane is None and wall_seconds is None:
            reply = await session.infer(prepared.encoded, deadline=deadline, on_log=on_log)
        else:
            with within(wall_seconds, deadline, now=sent) as due:
                if lane is None:
                    reply = await session.infer(prepared.encoded, deadline=due, on_log=on_log)
                else:
                    reply = await tracing.infer(session, lane, prepared.encoded, deadline=due, on_log=on_log)
        timings.run_us = reply.run_us
        timings.transfer_us = max(0, round((self._monotonic() - sent) * 1e6) - reply.run_us)
        return reply

    async def end(
        self,
        started: Started,
        *,
        outcome: Outcome,
        error: MerError | None = None,
        reply: Reply | None = None,
        streamed: Streamed | None = None,
    ) -> bool:
        """Put the end on record, and go on with that if the caller is cancelled (again) meanwhile."""
        finishing = asyncio.create_task(
            self._finish(started, outcome=outcome, error=error, reply=reply, streamed=streamed),
            name="recording a finish",
        )
        finishing.add_done_callback(functools.partial(self._ended, started.prepared.invocation))
        return await asyncio.shield(finishing)

    def _ended(self, invocation: InvocationId, finishing: asyncio.Task[bool]) -> None:
        error = None if finishing.cancelled() else finishing.exception()
        if error is not None:  # its caller may have gone, and would be the only one to tell
            logger.error("the end of %s could not be recorded", invocation, exc_info=error)
        elif not finishing.cancelled() and finishing.result():
            self._leases.settle(invocation)  # otherwise it stays open under the lease, until somebody finds it there
        end = self._open.pop(invocation)
        if not end.done():
            end.set_result(None)

    async def _finish(
        self,
        started: Started,
        *,
        outcome: Outcome,
        error: MerError | None,
        reply: Reply | None,
        streamed: Streamed | None,
    ) -> bool:
        """Put the end on record; return False where it is not in the log (see Finishes.record)."""
        prepared = started.prepared
        outputs: list[TensorDigest] = []
        if reply is not None:
            with span("digests of outputs"):
                outputs = await hashing(reply.descriptors, reply.segments)
        inputs = await started.inputs
        if streamed is not None:
            inputs = inputs + streamed.inputs.described()
            outputs = outputs + streamed.outputs.described()
        bodies = await self._recorder.bodies()
        body = bodies.finished(
            at=self._recorder.now(),
            actor=started.actor,
            lease=started.lease,
            invocation=prepared.invocation,
            subject=prepared.subject,
            outcome=outcome,
            error=error,
            timings=started.timings,
            inputs=inputs,
            outputs=outputs,
            parts=_parts(streamed, whole=reply is not None or error is not None),
            log=started.printed.end(),
        )
        with span("record finished"):
            return await self._finishes.record(prepared.invocation, body)


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


def _parts(streamed: Streamed | None, *, whole: bool) -> int | None:
    """Return what the record says of how many parts there were: nothing of an answer, or an error, that came at once."""
    return None if streamed is None or (whole and not streamed.outputs.parts) else streamed.outputs.parts


def told(error: BaseException) -> MerError:
    """Return what the record is to say: a cancelled task has no words of its own."""
    if isinstance(error, MerError):
        return error
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit):
        return Interrupted("cancelled by its caller")
    return MerError(f"{type(error).__name__}: {error}")


def _least(*seconds: float | None) -> float | None:
    return min((s for s in seconds if s is not None), default=None)
