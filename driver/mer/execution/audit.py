"""Invocations on record: started before the model sees its inputs, finished however it ends, or refused."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec

from mer.audit.bodies import Subject, TensorDigest, Timings
from mer.audit.recorder import Recorder
from mer.core.actor import Actor
from mer.core.chain import Head
from mer.core.errors import MerError
from mer.core.records import InvocationId, LeaseId, Outcome
from mer.core.trace import span
from mer.execution.digests import Rolling, hashing
from mer.execution.finishes import Finishes
from mer.execution.leases import LeaseKeeper
from mer.execution.prepared import Prepared
from mer.execution.printed import Printed
from mer.meal.answers import Reply
from mer.meal.calls import LogCallback

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 30.0
"""For the ends of what still ran when this was closed: digests of its outputs, and a database's deadline or two."""


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """An invocation that an audit was told of, whose end must be told too."""

    prepared: Prepared
    timings: Timings
    printed: Printed


class Recorded(Started, frozen=True, kw_only=True):
    """An invocation on record."""

    actor: Actor
    lease: LeaseId
    inputs: list[TensorDigest] | asyncio.Task[list[TensorDigest]]


class Streamed(msgspec.Struct, frozen=True, kw_only=True):
    """What went to and fro in parts."""

    inputs: Rolling
    outputs: Rolling


class Audit(Protocol):
    """Who is told of invocations: of each that starts, and of its end.

    What it is told holds the facts that records are made of, and each is worked out when it is asked for: the inputs' form
    on the wire (Prepared.encoded), the outputs' bytes (Reply.segments). An audit that lets time pass asks for the former
    first: a caller may do with his inputs what he likes meanwhile.
    """

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
        self._open: set[InvocationId] = set()
        """What was started and has not ended yet."""
        self._none_open: asyncio.Future[None] | None = None
        """Somebody waits for that."""
        self._going_on: set[asyncio.Task[bool]] = set()

    async def refused(self, invocation: InvocationId, subject: Subject, actor: Actor, error: MerError) -> None:
        bodies = await self._recorder.bodies()
        body = bodies.refused(at=self._recorder.now(), actor=actor, invocation=invocation, subject=subject, error=error)
        await self._recorder.append(body)

    async def start(self, prepared: Prepared, actor: Actor, on_log: LogCallback | None) -> Started:
        invocation, encoded = prepared.invocation, prepared.encoded
        lease = self._leases.cover_at_once(invocation) or await self._leases.cover(invocation)
        try:
            bodies = self._recorder.known_bodies or await self._recorder.bodies()
            body = bodies.started(
                at=self._recorder.now(), actor=actor, lease=lease, invocation=invocation, subject=prepared.subject
            )
            with span("record started"):
                await self._recorder.enqueue(body)
        except BaseException:
            self._leases.give_up(invocation)  # whether it became durable nobody knows
            raise
        self._open.add(invocation)
        return Recorded(
            prepared=prepared,
            timings=Timings(),
            printed=Printed(on_log, kept=self._record_model_log),
            actor=actor,
            lease=lease,
            inputs=hashing(encoded.descriptors, encoded.segments),
        )

    async def end(
        self,
        started: Started,
        *,
        outcome: Outcome,
        error: MerError | None = None,
        reply: Reply | None = None,
        streamed: Streamed | None = None,
    ) -> bool:
        assert isinstance(started, Recorded)  # `start` made it
        invocation = started.prepared.invocation
        outputs = [] if reply is None else self._outputs(reply)
        if not isinstance(started.inputs, list) or not isinstance(outputs, list):
            finish = self._finish(started, outputs, outcome=outcome, error=error, reply=reply, streamed=streamed)
            return await asyncio.shield(self._go_on(invocation, finish))
        answer: Head | MerError
        try:
            body = self._body(
                started, started.inputs, outputs, outcome=outcome, error=error, reply=reply, streamed=streamed
            )
            with span("record finished"):
                answer = await self._finishes.append(body)
        except asyncio.CancelledError:  # its caller has gone: what was begun for him goes on in a task
            self._go_on(invocation, self._finishes.record(invocation, body))
            raise
        except MerError as why:
            answer = why
        if isinstance(answer, Head) and self._finishes.settled(answer):
            self._ended(invocation, recorded=True)
            return True
        return await asyncio.shield(self._go_on(invocation, self._finishes.record(invocation, body, answer=answer)))

    def _outputs(self, reply: Reply) -> list[TensorDigest] | asyncio.Task[list[TensorDigest]]:
        with span("digests of outputs"):
            return hashing(reply.descriptors, reply.segments)

    def _go_on(self, invocation: InvocationId, finish: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        """Finish in a task, whatever becomes of the caller."""
        finishing = asyncio.create_task(finish, name="recording a finish")
        self._going_on.add(finishing)
        finishing.add_done_callback(functools.partial(self._gone_on, invocation))
        return finishing

    def _gone_on(self, invocation: InvocationId, finishing: asyncio.Task[bool]) -> None:
        self._going_on.discard(finishing)
        error = None if finishing.cancelled() else finishing.exception()
        if error is not None:  # its caller may have gone, and would be the only one to tell
            logger.error("the end of %s could not be recorded", invocation, exc_info=error)
        self._ended(invocation, recorded=not finishing.cancelled() and error is None and finishing.result())

    def _ended(self, invocation: InvocationId, *, recorded: bool) -> None:
        if recorded:
            self._leases.settle(invocation)  # otherwise it stays open under the lease, until somebody finds it there
        self._open.discard(invocation)
        if self._none_open is not None and not self._open:
            self._none_open.set_result(None)
            self._none_open = None

    async def _finish(
        self,
        started: Recorded,
        outputs: list[TensorDigest] | asyncio.Task[list[TensorDigest]],
        *,
        outcome: Outcome,
        error: MerError | None,
        reply: Reply | None,
        streamed: Streamed | None,
    ) -> bool:
        """Put the end on record once its digests are there; return False where it is not in the log (see Finishes.record)."""
        inputs = started.inputs if isinstance(started.inputs, list) else await started.inputs
        if not isinstance(outputs, list):
            with span("digests of outputs"):
                outputs = await outputs
        body = self._body(started, inputs, outputs, outcome=outcome, error=error, reply=reply, streamed=streamed)
        with span("record finished"):
            return await self._finishes.record(started.prepared.invocation, body)

    def _body(
        self,
        started: Recorded,
        inputs: list[TensorDigest],
        outputs: list[TensorDigest],
        *,
        outcome: Outcome,
        error: MerError | None,
        reply: Reply | None,
        streamed: Streamed | None,
    ) -> str:
        if streamed is not None:
            inputs = inputs + streamed.inputs.described()
            outputs = outputs + streamed.outputs.described()
        prepared, bodies = started.prepared, self._recorder.known_bodies
        assert bodies is not None  # its start was of them
        return bodies.finished(
            at=self._recorder.now(),
            actor=started.actor,
            lease=started.lease,
            invocation=prepared.invocation,
            subject=prepared.subject,
            outcome=outcome,
            error=error,
            attempts=prepared.attempts,
            failed_attempts=prepared.failed,
            timings=started.timings,
            inputs=inputs,
            outputs=outputs,
            parts=_parts(streamed, whole=reply is not None or error is not None),
            log=started.printed.end(),
        )

    async def close(self) -> None:
        if self._open:
            self._none_open = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._none_open,), timeout=CLOSE_SECONDS)


def _parts(streamed: Streamed | None, *, whole: bool) -> int | None:
    """Return what the record says of how many parts there were: nothing of an answer, or an error, that came at once."""
    return None if streamed is None or (whole and not streamed.outputs.parts) else streamed.outputs.parts
