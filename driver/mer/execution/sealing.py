"""Invocations in two steps: inputs are sealed, which shows them to the model and is on record as started, and run by handle.

A handle is bound to its worker. Whatever becomes of it ends its invocation on record: its run, its release, the end of its
time, or this driver's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from mer.core.actor import Actor
from mer.core.errors import DeadlineExceeded, HandleUnknown, Interrupted, MerError
from mer.core.records import InvocationId, Outcome
from mer.core.timeouts import check_timeout
from mer.execution.audit import Started
from mer.execution.executor import Executor, outcome_of, spent, told
from mer.execution.results import Result
from mer.execution.streaming import Progress, RunStream, Streaming, ended, result_of
from mer.execution.walls import within
from mer.meal.calls import LogCallback
from mer.meal.pool import Pool
from mer.meal.seals import Handle, by_handle, check_keep, seal
from mer.meal.session import Session


class Sealed:
    """Inputs that a model has been shown, and that wait for their run: `Mer.run` or `Mer.stream` takes this, once."""

    def __init__(self, started: Started, session: Session, handle: Handle) -> None:
        self.invocation: InvocationId = started.prepared.invocation
        self.model = started.prepared.subject.model or ""
        self.version = started.prepared.candidate.version.number
        self.server = started.prepared.candidate.server.name
        self.started = started
        self.session = session
        self.handle = handle

    def __repr__(self) -> str:
        return f"<sealed inputs of {self.model}:{self.version} on {self.server}, {self.invocation}>"


class Sealing:
    """Seals, runs by handle, releases."""

    def __init__(self, executor: Executor, streaming: Streaming, pool: Pool) -> None:
        self._executor = executor
        self._streaming = streaming
        self._pool = pool
        self._waiting: dict[InvocationId, tuple[asyncio.TimerHandle, Sealed]] = {}
        """What was sealed and neither run nor released, and what ends it when its time is over."""
        self._ending: set[asyncio.Task[None]] = set()

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
    ) -> Sealed:
        """Show a model its inputs (see `Mer.seal`)."""
        began, timeout, seconds = time.monotonic(), check_timeout(timeout), check_keep(keep)
        executor = self._executor
        prepared = await executor.prepare(reference, inputs, actor=actor, on=on)
        deadline = executor.deadline(timeout, began)
        started = await executor.audit.start(prepared, actor, on_log)
        try:
            async with executor.workers.worker(prepared, deadline, started.timings, started.printed) as session:
                handle = await seal(session, prepared.encoded, keep=seconds, deadline=deadline, on_log=started.printed)
                self._pool.hold(session)
        except BaseException as error:  # every end of a started invocation goes on record
            await executor.audit.end(started, outcome=outcome_of(error), error=told(error))
            raise
        sealed = Sealed(started, session, handle)
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, sealed, seconds)
        self._waiting[sealed.invocation] = timer, sealed
        return sealed

    async def run(self, sealed: Sealed, *, timeout: float | None = None) -> Result:
        """Run sealed inputs (see `Mer.run`)."""
        began, timeout = time.monotonic(), check_timeout(timeout)
        executor, started = self._executor, self._take(sealed)
        deadline = executor.deadline(timeout, began)
        try:
            async with executor.workers.worker(
                started.prepared, deadline, started.timings, started.printed, session=sealed.session
            ) as session:
                sent = time.monotonic()
                try:
                    with within(_wall(started), deadline, now=sent) as due:
                        message = by_handle(session, sealed.handle, deadline=due)
                        reply = session.reply(await session.ask(message, deadline=due, on_log=started.printed))
                except MerError as error:
                    spent(started.timings, error.run_us, time.monotonic() - sent)
                    raise
                took = round((time.monotonic() - sent) * 1e6)
                started.timings.run_us, started.timings.transfer_us = reply.run_us, max(0, took - reply.run_us)
        except BaseException as error:  # every end of a started invocation goes on record
            await executor.audit.end(started, outcome=ended(error), error=told(error))
            raise
        finally:
            self._pool.let_go(sealed.session)
        recorded = await executor.audit.end(started, outcome=Outcome.SUCCEEDED, reply=reply)
        return result_of(started, reply, None, recorded=recorded)

    def stream(self, sealed: Sealed, *, timeout: float | None = None) -> RunStream:
        """Run sealed inputs, and give the answer in parts (see `Mer.stream`)."""
        progress = Progress()
        return RunStream(self._running(sealed, progress, check_timeout(timeout)), progress)

    async def release(self, sealed: Sealed) -> bool:
        """Let go of sealed inputs; return whether the end of their invocation is in the log.

        Raises:
            HandleUnknown: they were run or released before, or their time is over.
        """
        return await self._let_go(sealed, self._take(sealed), Interrupted("released before it was run"))

    async def close(self) -> None:
        """End on record what still waits. The workers have ended by then."""
        for _, sealed in list(self._waiting.values()):
            error = Interrupted("its driver ended before it was run")
            await self._executor.audit.end(self._take(sealed), outcome=Outcome.CANCELLED, error=error)
        if self._ending:
            await asyncio.wait(self._ending)

    async def _running(
        self, sealed: Sealed, progress: Progress, timeout: float | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        started = self._take(sealed)
        deadline = self._executor.deadline(timeout, time.monotonic())
        running = self._streaming.watched(self._streaming.running(started, progress, deadline, handle=sealed.handle))
        try:
            async for part in running:
                yield part
        finally:
            try:
                await running.aclose()
            finally:
                self._pool.let_go(sealed.session)

    def _take(self, sealed: Sealed) -> Started:
        found = self._waiting.pop(sealed.invocation, None)
        if found is None:
            raise HandleUnknown("the sealed inputs were run or released before, or kept for too long")
        found[0].cancel()
        return sealed.started

    def _expire(self, sealed: Sealed, seconds: float) -> None:
        error = DeadlineExceeded(f"the sealed inputs were not run within {seconds:g} s")
        task = asyncio.get_running_loop().create_task(
            self._expired(sealed, self._take(sealed), error), name="ending a seal"
        )
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _expired(self, sealed: Sealed, started: Started, error: MerError) -> None:
        await self._let_go(sealed, started, error)

    async def _let_go(self, sealed: Sealed, started: Started, error: MerError) -> bool:
        lost = sealed.session.lost is not None
        try:
            if not sealed.handle.gone:
                await sealed.handle.release()
        except MerError:  # the worker has forgotten it by itself, or ended meanwhile
            pass
        finally:
            self._pool.let_go(sealed.session)
        outcome = Outcome.LOST if lost else outcome_of(error)
        return await self._executor.audit.end(started, outcome=outcome, error=error)


def _wall(started: Started) -> float | None:
    return started.prepared.candidate.version.spec.limits.wall_seconds
