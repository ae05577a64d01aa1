"""One invocation whose answer comes in parts, with its records: the second one with its last part, or when its reader went."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Self

from mer.core.actor import Actor
from mer.core.errors import HandleUnknown, WorkerLost
from mer.core.records import Outcome
from mer.core.specs import VersionSpec
from mer.core.timeouts import check_timeout
from mer.core.trace import Lane, Trace, lane_of, resumed, span
from mer.execution import tracing
from mer.execution.audit import Started, Streamed
from mer.execution.digests import Rolling
from mer.execution.executor import Executor, hint_at_retry, outcome_of, spent, told
from mer.execution.inputs import encode_inputs
from mer.execution.results import Result
from mer.execution.walls import within
from mer.meal.answers import Reply
from mer.meal.calls import LogCallback
from mer.meal.seals import Handle, by_handle
from mer.meal.session import Session
from mer.meal.streams import InputParts, PartStream, each, inference
from mer_worker.encoded import Encoded


class RunStream:
    """What `Mer.stream` gives: parts of the answer, one after the other, and in the end a result.

    Whoever does not read it to its end says `aclose`, or lets go of it: the run is then cancelled, and on record as such.
    """

    def __init__(self, parts: AsyncGenerator[dict[str, Any], None], progress: Progress) -> None:
        self._parts = parts
        self._progress = progress
        self._over = False

    @property
    def result(self) -> Result | None:
        """How the run ended, once its end is on record: before the last part is given, if the model gave one as its end."""
        return self._progress.result

    @property
    def whole(self) -> bool:
        """Whether the model answered at once: `result` then has all of its outputs, which are the only part."""
        return self._progress.result is not None and self._progress.result.parts is None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        """Return the next part. Raises: as Mer.run; WorkerLost where the driver was closed in the middle of the answer."""
        try:
            return await anext(self._parts)
        except StopAsyncIteration:
            if self._over or self._progress.result is not None:
                raise
            self._over = True
            raise WorkerLost("the driver was closed before the answer had ended") from None
        except BaseException:
            self._over = True
            raise

    async def aclose(self) -> None:
        """End the run if it goes on."""
        self._over = True
        await self._parts.aclose()


class Progress:
    """What a stream's reader sees of how far it is."""

    result: Result | None = None


class Streaming:
    """Runs invocations whose answers come in parts."""

    def __init__(self, executor: Executor, trace: Trace | None = None) -> None:
        self._executor = executor
        self._trace = trace
        self._under_way: weakref.WeakSet[AsyncGenerator[dict[str, Any], None]] = weakref.WeakSet()
        """Streams that may be somewhere in their middle."""

    async def close(self) -> None:
        """End what nobody goes on reading. The workers have ended by then."""
        for running in list(self._under_way):
            with contextlib.suppress(RuntimeError):  # somebody reads it just now, and is told by the end of its worker
                await running.aclose()

    def watched(self, running: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[dict[str, Any], None]:
        """Have a stream ended by `close`."""
        self._under_way.add(running)
        return running

    def stream(
        self,
        reference: str,
        inputs: Mapping[str, Any],
        *,
        actor: Actor,
        parts: InputParts | None = None,
        on: str | None = None,
        timeout: float | None = None,
        on_log: LogCallback | None = None,
        trace: Trace | None = None,
    ) -> RunStream:
        """Run one invocation (see `Mer.stream`), from the first time that a part is asked for."""
        progress = Progress()
        lane = lane_of(reference, trace, self._trace)
        listener = on_log if lane is None else tracing.marking(lane, on_log)
        return RunStream(
            self._whole(
                reference, inputs, progress, lane, actor=actor, parts=parts, on=on, timeout=timeout, on_log=listener
            ),
            progress,
        )

    async def _whole(
        self,
        reference: str,
        inputs: Mapping[str, Any],
        progress: Progress,
        lane: Lane | None,
        *,
        actor: Actor,
        parts: InputParts | None,
        on: str | None,
        timeout: float | None,
        on_log: LogCallback | None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        began, timeout = time.monotonic(), check_timeout(timeout)
        asked = 0 if lane is None else lane.now()
        with resumed(lane):
            with span("prepare"):
                prepared = await self._executor.prepare(
                    reference, inputs, actor=actor, on=on, partial=parts is not None
                )
            deadline = self._executor.deadline(timeout, began)
            started = await self._executor.audit.start(prepared, actor, on_log)
        running = self.watched(self.running(started, progress, deadline, parts=parts, lane=lane))
        try:
            async for part in running:
                yield part
        finally:
            await running.aclose()
            if lane is not None:
                lane.add("invocation", asked, lane.now(), reference=reference)

    async def running(
        self,
        started: Started,
        progress: Progress,
        deadline: float | None,
        *,
        parts: InputParts | None = None,
        handle: Handle | None = None,
        lane: Lane | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Give the parts of an invocation that is on record as started, with its inputs or those that were sealed."""
        executor, prepared = self._executor, started.prepared
        streamed = Streamed(inputs=Rolling(), outputs=Rolling())
        further = None if parts is None else _encoded(prepared.candidate.version.spec, parts, streamed.inputs)
        last: Reply | None = None
        try:
            session = None if handle is None else _session(handle)
            async with contextlib.AsyncExitStack() as stack:
                with resumed(lane):
                    worker = executor.workers.worker(
                        prepared, deadline, started.timings, started.printed, session=session
                    )
                    given = await stack.enter_async_context(worker)
                spec, sent = prepared.candidate.version.spec, time.monotonic()
                asked = 0 if lane is None else lane.now()
                due = stack.enter_context(within(spec, deadline, now=sent))
                meta = None if lane is None else tracing.asking(given)
                there = 0 if handle is not None or lane is None else tracing.size_of(prepared.encoded)
                stream = await self._open(given, started, due, further, handle, meta)
                try:
                    async for reply in stream:
                        last = reply if stream.whole else None
                        if lane is not None and last is None:
                            lane.mark("part", run_us=reply.run_us, bytes=sum(map(len, reply.segments)))
                        if last is None or streamed.outputs.parts:
                            await streamed.outputs.add(reply.descriptors, reply.segments)
                        if last is None:
                            yield reply.outputs
                except BaseException as error:
                    if lane is not None:
                        await tracing.show_failure(given, lane, error, given=there, sent=asked, came=lane.now())
                    raise
                finally:
                    await stream.aclose()
                    spent(started.timings, stream.run_us, time.monotonic() - sent)
                if lane is not None and stream.end is not None:
                    await tracing.show(given, lane, stream.end, given=there, sent=asked, came=lane.now())
        except BaseException as error:  # every end goes on record: a reader who goes too
            # what was given in parts, or sealed, is gone; what answered in parts was read
            if prepared.given and parts is None and handle is None and not streamed.outputs.parts:
                hint_at_retry(error)
            with resumed(lane):
                await executor.audit.end(started, outcome=ended(error), error=told(error), streamed=streamed)
            raise
        whole = None if streamed.outputs.parts else stream.end  # none at all: it answered at once, with nothing
        with resumed(lane):
            recorded = await executor.audit.end(started, outcome=Outcome.SUCCEEDED, reply=whole, streamed=streamed)
        progress.result = result_of(started, last, None if whole else streamed.outputs.parts, recorded=recorded)
        if last is not None:
            yield last.outputs

    async def _open(
        self,
        session: Session,
        started: Started,
        deadline: float | None,
        parts: AsyncIterator[Encoded] | None,
        handle: Handle | None,
        meta: Mapping[str, Any] | None,
    ) -> PartStream:
        if handle is None:
            message = await inference(session, started.prepared.encoded, meta=meta, deadline=deadline)
        else:
            message = by_handle(session, handle, meta=meta, deadline=deadline)
        return await PartStream.open(session, message, parts=parts, deadline=deadline, on_log=started.printed)


async def _encoded(spec: VersionSpec, parts: InputParts, rolling: Rolling) -> AsyncIterator[Encoded]:
    """Give input parts as the version's specs ask for them, each checked by itself. Raises: InputInvalid."""
    async for part in each(parts):
        encoded = encode_inputs(spec, part, partial=True)
        await rolling.add(encoded.descriptors, [memoryview(segment) for segment in encoded.segments])
        yield encoded


def ended(error: BaseException) -> Outcome:
    """Return how a run by handle, or a stream, ended: where nothing was sealed any more, the worker that had it has ended."""
    return Outcome.LOST if isinstance(error, HandleUnknown) else outcome_of(error)


def _session(handle: Handle) -> Session | None:
    return handle.holder if isinstance(handle.holder, Session) else None


def result_of(started: Started, last: Reply | None, parts: int | None, *, recorded: bool) -> Result:
    """Return what an invocation gave that ended well."""
    prepared = started.prepared
    return Result(
        outputs={} if last is None else last.outputs,
        invocation=prepared.invocation,
        model=prepared.subject.model or "",
        version=prepared.candidate.version.number,
        server=prepared.candidate.server.name,
        timings=started.timings,
        failed_attempts=prepared.failed,
        recorded=recorded,
        parts=parts,
    )
