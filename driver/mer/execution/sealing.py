"""Invocations in two steps: inputs are sealed, which shows them to the model and is on record as started, and run by handle.

A handle is bound to its worker. Whatever becomes of it ends its invocation on record: its run, its release, the end of its
time, or this driver's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from mer.core.actor import Actor
from mer.core.errors import DeadlineExceeded, HandleUnknown, Interrupted, MerError
from mer.core.records import InvocationId, Outcome
from mer.core.timeouts import check_timeout
from mer.core.trace import Lane, Trace, lane_of, resumed, span
from mer.execution import tracing
from mer.execution.audit import Started
from mer.execution.executor import Executor, outcome_of, spent, told
from mer.execution.results import Result
from mer.execution.streaming import Progress, RunStream, Streaming, ended, result_of
from mer.execution.walls import within
from mer.meal.answers import Reply
from mer.meal.calls import LogCallback
from mer.meal.pool import Pool
from mer.meal.seals import Handle, by_handle, check_keep, seal
from mer.meal.session import Session

RELEASE_SECONDS = 2.0
"""What a worker gets to say that it has forgotten inputs, before their end goes on record: the model may compute for hours."""

T = TypeVar("T")


class Sealed:
    """Inputs that a model has been shown, and that wait for their run: `Mer.run` or `Mer.stream` takes this, once."""

    def __init__(self, started: Started, session: Session, handle: Handle, trail: Trail | None) -> None:
        self.invocation: InvocationId = started.prepared.invocation
        self.model = started.prepared.subject.model or ""
        self.version = started.prepared.candidate.version.number
        self.server = started.prepared.candidate.server.name
        self.started = started
        self.session = session
        self.handle = handle
        self.trail = trail
        """What it leaves in traces."""

    def __repr__(self) -> str:
        return f"<sealed inputs of {self.model}:{self.version} on {self.server}, {self.invocation}>"

    def traced(self, trace: Trace | None) -> None:
        """Have the rest of it in this trace, too."""
        if trace is None:
            return
        if self.trail is not None:
            self.trail.lane.join(trace)
            return
        self.trail = Trail(Lane([trace], self.started.prepared.subject.reference))
        self.started.printed.listener = tracing.marking(self.trail.lane, self.started.printed.listener)

    @contextlib.contextmanager
    def ending(self) -> Iterator[Lane | None]:
        """Give the line on which its invocation ends in the block."""
        lane = None if self.trail is None else self.trail.lane
        try:
            with resumed(lane):
                yield lane
        finally:
            self.draw()

    def draw(self) -> None:
        """Draw the whole, now that it has ended."""
        if self.trail is not None:
            self.trail.end(self.started.prepared.subject.reference)


class Trail:
    """The line of an invocation in two steps."""

    def __init__(self, lane: Lane) -> None:
        """Begin now."""
        self.lane = lane
        self._asked = lane.now()

    def end(self, reference: str) -> None:
        """Draw the whole."""
        self.lane.add("invocation", self._asked, self.lane.now(), reference=reference)


class Sealing:
    """Seals, runs by handle, releases."""

    def __init__(self, executor: Executor, streaming: Streaming, pool: Pool, trace: Trace | None = None) -> None:
        self._executor = executor
        self._streaming = streaming
        self._pool = pool
        self._trace = trace
        self._waiting: dict[InvocationId, tuple[asyncio.TimerHandle, Sealed]] = {}
        """What was sealed and neither run nor released, and what ends it when its time is over."""
        self._ending: set[asyncio.Task[Any]] = set()

    async def seal(
        self,
        reference: str,
        inputs: Mapping[str, Any],
        *,
        actor: Actor,
        on: str | None = None,
        keep: float | None = None,
        timeout: float | None = None,
        on_log: LogCallback | None = None,
        trace: Trace | None = None,
    ) -> Sealed:
        """Show a model its inputs (see `Mer.seal`)."""
        lane = lane_of(reference, trace, self._trace)
        if lane is None:
            return await self._seal(reference, inputs, actor, on, keep, timeout, on_log, None)
        trail, on_log = Trail(lane), tracing.marking(lane, on_log)
        try:
            with resumed(lane), lane.span("sealing"):
                return await self._seal(reference, inputs, actor, on, keep, timeout, on_log, trail)
        except BaseException:
            trail.end(reference)
            raise

    async def _seal(
        self,
        reference: str,
        inputs: Mapping[str, Any],
        actor: Actor,
        on: str | None,
        keep: float | None,
        timeout: float | None,
        on_log: LogCallback | None,
        trail: Trail | None,
    ) -> Sealed:
        began, timeout, seconds = time.monotonic(), check_timeout(timeout), check_keep(keep)
        executor = self._executor
        with span("prepare"):
            prepared = await executor.prepare(reference, inputs, actor=actor, on=on)
        deadline = executor.deadline(timeout, began)
        started = await executor.audit.start(prepared, actor, on_log)
        printed, encoded = started.printed, prepared.encoded
        try:
            async with executor.workers.worker(prepared, deadline, started.timings, printed) as session:
                ask = functools.partial(seal, session, encoded, keep=seconds, deadline=deadline, on_log=printed)
                if trail is None:
                    handle = await ask()
                else:
                    given = tracing.size_of(encoded)
                    handle = await tracing.call(
                        session, trail.lane, lambda meta: ask(meta=meta), given=given, doing="seal"
                    )
                self._pool.hold(session)
        except BaseException as error:  # every end of a started invocation goes on record
            await executor.audit.end(started, outcome=outcome_of(error), error=told(error))
            raise
        sealed = Sealed(started, session, handle, trail)
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, sealed, seconds)
        self._waiting[sealed.invocation] = timer, sealed
        return sealed

    async def run(self, sealed: Sealed, *, timeout: float | None = None, trace: Trace | None = None) -> Result:
        """Run sealed inputs (see `Mer.run`)."""
        began, timeout = time.monotonic(), check_timeout(timeout)
        executor, started = self._executor, self._take(sealed)
        deadline = executor.deadline(timeout, began)
        sealed.traced(trace)
        with sealed.ending() as lane:
            try:
                reply = await self._perform(sealed, deadline, lane)
            except BaseException as error:  # every end of a started invocation goes on record
                await executor.audit.end(started, outcome=ended(error), error=told(error))
                raise
            finally:
                self._pool.let_go(sealed.session)
            recorded = await executor.audit.end(started, outcome=Outcome.SUCCEEDED, reply=reply)
        return result_of(started, reply, None, recorded=recorded)

    async def _perform(self, sealed: Sealed, deadline: float | None, lane: Lane | None) -> Reply:
        """Run it with the worker that has its inputs."""
        started, spec = sealed.started, sealed.started.prepared.candidate.version.spec
        timings, printed = started.timings, started.printed
        async with self._executor.workers.worker(
            started.prepared, deadline, timings, printed, session=sealed.session
        ) as session:
            sent = time.monotonic()
            try:
                with within(spec, deadline, now=sent) as due:

                    async def ask(meta: Mapping[str, Any] | None) -> Reply:
                        message = by_handle(session, sealed.handle, meta=meta, deadline=due)
                        return session.reply(await session.ask(message, deadline=due, on_log=printed))

                    reply = await (ask(None) if lane is None else tracing.call(session, lane, ask, given=0))
            except MerError as error:
                spent(timings, error.run_us, time.monotonic() - sent)
                raise
            took = round((time.monotonic() - sent) * 1e6)
            timings.run_us, timings.transfer_us = reply.run_us, max(0, took - reply.run_us)
        return reply

    def stream(self, sealed: Sealed, *, timeout: float | None = None, trace: Trace | None = None) -> RunStream:
        """Run sealed inputs, and give the answer in parts (see `Mer.stream`)."""
        progress = Progress()
        return RunStream(self._running(sealed, progress, check_timeout(timeout), trace), progress)

    async def release(self, sealed: Sealed) -> bool:
        """Let go of sealed inputs; return whether the end of their invocation is in the log.

        Raises:
            HandleUnknown: they were run or released before, or their time is over.
        """
        # a task's: its end is on record though its caller goes
        return await asyncio.shield(self._letting_go(sealed, Interrupted("released before it was run")))

    async def close(self) -> None:
        """End on record what still waits. The workers have ended by then."""
        for _, sealed in list(self._waiting.values()):
            error = Interrupted("its driver ended before it was run")
            with sealed.ending():
                await self._executor.audit.end(self._take(sealed), outcome=Outcome.CANCELLED, error=error)
        while self._ending:
            await asyncio.wait(self._ending)

    async def _running(
        self, sealed: Sealed, progress: Progress, timeout: float | None, trace: Trace | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        started = self._take(sealed)
        deadline = self._executor.deadline(timeout, time.monotonic())
        sealed.traced(trace)
        lane = None if sealed.trail is None else sealed.trail.lane
        running = self._streaming.watched(
            self._streaming.running(started, progress, deadline, handle=sealed.handle, lane=lane)
        )
        try:
            async for part in running:
                yield part
        finally:
            try:
                await running.aclose()
            finally:
                self._pool.let_go(sealed.session)
                sealed.draw()

    def _take(self, sealed: Sealed) -> Started:
        found = self._waiting.pop(sealed.invocation, None)
        if found is None:
            raise HandleUnknown("the sealed inputs were run or released before, or kept for too long")
        found[0].cancel()
        return sealed.started

    def _expire(self, sealed: Sealed, seconds: float) -> None:
        self._letting_go(sealed, DeadlineExceeded(f"the sealed inputs were not run within {seconds:g} s"))

    def _letting_go(self, sealed: Sealed, error: MerError) -> asyncio.Task[bool]:
        return self._spawn(self._let_go(sealed, self._take(sealed), error), "ending a seal")

    async def _let_go(self, sealed: Sealed, started: Started, error: MerError) -> bool:
        lost = sealed.session.lost is not None
        with sealed.ending():
            await asyncio.wait((self._spawn(self._forget(sealed), "releasing a seal"),), timeout=RELEASE_SECONDS)
            outcome = Outcome.LOST if lost else outcome_of(error)
            return await self._executor.audit.end(started, outcome=outcome, error=error)

    async def _forget(self, sealed: Sealed) -> None:
        """Have the worker forget what it has: once the model lets it, where it does one thing after the other."""
        try:
            if not sealed.handle.gone:
                await sealed.handle.release()
        except MerError:  # the worker has forgotten it by itself, or ended meanwhile
            pass
        finally:
            self._pool.let_go(sealed.session)

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task
