"""Invocations on record: started before the model sees its inputs, finished however it ends, or refused."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Protocol

import msgspec

from mer.audit.bodies import Subject, TensorDigest, Timings
from mer.audit.recorder import Recorder
from mer.core.actor import Actor
from mer.core.errors import MerError
from mer.core.records import InvocationId, LeaseId, Outcome
from mer.core.trace import span
from mer.execution.digests import Rolling, hashing
from mer.execution.finishes import Finishes
from mer.execution.leases import LeaseKeeper
from mer.execution.printed import Printed
from mer.execution.workplaces import Workplace
from mer.meal.answers import Reply
from mer.meal.calls import LogCallback
from mer.registry.resolve import Candidate
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


class Audit(Protocol):
    """Who is told of invocations: of each that starts, and of its end."""

    async def refused(self, invocation: InvocationId, subject: Subject, actor: Actor, error: MerError) -> None:
        """Take that an invocation was refused before it started."""

    async def start(self, prepared: Prepared, actor: Actor, on_log: LogCallback | None) -> Started:
        """Take that an invocation starts; whoever says that sees that its end is told."""

    async def end(
        self,
        started: Started,
        *,
        outcome: Outcome,
        error: MerError | None = None,
        reply: Reply | None = None,
        streamed: Streamed | None = None,
    ) -> bool:
        """Take how it ended, even if the caller is cancelled (again) meanwhile; return whether it is on record by now."""

    async def close(self) -> None:
        """Wait until the end of all that was started was taken; nothing runs any more by then."""


class Records:
    """Puts invocations into the access log, durably: what everybody gets."""

    def __init__(self, *, recorder: Recorder, leases: LeaseKeeper, finishes: Finishes, record_model_log: bool) -> None:
        self._recorder = recorder
        self._leases = leases
        self._finishes = finishes
        self._record_model_log = record_model_log
        self._open: dict[InvocationId, asyncio.Future[None]] = {}
        """What was started and has not ended yet."""

    async def refused(self, invocation: InvocationId, subject: Subject, actor: Actor, error: MerError) -> None:
        bodies = await self._recorder.bodies()
        body = bodies.refused(at=self._recorder.now(), actor=actor, invocation=invocation, subject=subject, error=error)
        await self._recorder.append(body)

    async def start(self, prepared: Prepared, actor: Actor, on_log: LogCallback | None) -> Started:
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

    async def end(
        self,
        started: Started,
        *,
        outcome: Outcome,
        error: MerError | None = None,
        reply: Reply | None = None,
        streamed: Streamed | None = None,
    ) -> bool:
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

    async def close(self) -> None:
        if self._open:
            await asyncio.wait(self._open.values(), timeout=CLOSE_SECONDS)


def _parts(streamed: Streamed | None, *, whole: bool) -> int | None:
    """Return what the record says of how many parts there were: nothing of an answer, or an error, that came at once."""
    return None if streamed is None or (whole and not streamed.outputs.parts) else streamed.outputs.parts
