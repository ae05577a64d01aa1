"""One request of another MER: its frames in, a run of this one, and the frames of its answer."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from mer.api import Mer
from mer.core.errors import InputInvalid, MerError
from mer.faces.serve_ssh.failures import failure_of
from mer.faces.serve_ssh.pipes import Output
from mer_worker.credit import Credit, Window, weight, weight_of
from mer_worker.dtypes import JSON
from mer_worker.encoded import Encoded
from mer_worker.failures import Failure, error_frame
from mer_worker.layout import open_frame
from mer_worker.tensors import Buffer, encode, values_of
from mer_worker.wire import (
    MAX_LOG_FRAME_BYTES,
    U32,
    Flag,
    Frame,
    Kind,
    WireError,
    frame,
)

CANCELLED = Failure("cancelled", "cancelled", "the request was cancelled")


class Serving:
    """A request that runs."""

    def __init__(self, mer: Mer, reference: str, received: Frame, output: Output, *, most_body: int) -> None:
        self._mer = mer
        self._reference = reference
        self._received = received
        self._output = output
        self._most_body = most_body
        self._credit = Credit()
        self._window = Window()
        self._came: collections.deque[Frame] = collections.deque()
        self._moved = asyncio.Event()
        """A part or a credit has come."""
        self._begun = False
        self._stopped = False
        self._answered = False
        self.task: asyncio.Task[None] | None = None
        self.began = asyncio.get_running_loop().time()
        self.size = len(received.body)
        """Bytes of its inputs."""

    def take(self, received: Frame) -> None:
        """Take a part of the inputs, or credit for parts of the answer. Raises: WireError: more than was granted."""
        if received.kind == Kind.CREDIT:
            self._credit.add(received)
        elif self._received.flags & Flag.MORE:
            self._window.came(weight(received))
            self._came.append(received)
        self._moved.set()

    def cancel(self) -> None:
        """Stop it: it answers that it was cancelled, unless it has an answer already."""
        if self._answered or self.task is None:
            return
        self._stopped = True
        self.task.cancel()
        if not self._begun:  # a task that is cancelled before its first step never takes it
            self._output.say(error_frame(CANCELLED, self._received.request))

    async def run(self) -> None:
        """Run it, and answer."""
        self._begun, request = True, self._received.request
        try:
            number, outputs = await self._outcome()
            try:
                answer = encode(outputs).message(Kind.RESULT, request, number=number, most=self._most_body)
            except WireError as error:
                raise Failure("output", "output-invalid", f"the model's output: {error}") from error
        except asyncio.CancelledError:
            if not self._stopped:
                raise
            answer = (error_frame(CANCELLED, request),)
        except Failure as failure:
            answer = (error_frame(failure, request),)
        except MerError as error:
            answer = (error_frame(failure_of(error), request, number=error.run_us),)
        self._answered = True
        await self._output.room()
        self._output.say(*answer)

    async def _outcome(self) -> tuple[int, Mapping[str, Any]]:
        """Return the microseconds that the model ran, and the outputs that were not sent in parts."""
        received, mer, reference = self._received, self._mer, self._reference
        try:
            inputs = _values(received)
        except WireError as error:
            raise Failure("input", "input-invalid", str(error)) from error
        timeout = received.number / 1e3 or None
        if not received.flags & (Flag.STREAM | Flag.MORE):
            result = await mer.run(reference, inputs, timeout=timeout, on_log=self._log)
            return _number(result.timings.run_us), result.outputs
        parts = None
        if received.flags & Flag.MORE:
            parts = self._parts()
            self._output.say(self._window.open(received.request))
        stream = mer.stream(reference, inputs, parts=parts, timeout=timeout, on_log=self._log)
        async with contextlib.aclosing(stream):
            async for outputs in stream:
                if not stream.whole:
                    await self._send_part(outputs)
        ended = stream.result
        assert ended is not None
        return _number(ended.timings.run_us), ended.outputs if stream.whole else {}

    async def _send_part(self, outputs: Mapping[str, Any]) -> None:
        if not self._received.flags & Flag.STREAM:
            raise Failure("input", "answers-in-parts", "the model answers in parts, which was not asked for")
        try:
            encoded = encode(outputs)
            message = encoded.message(Kind.PART, self._received.request, most=self._most_body)
        except WireError as error:
            raise Failure("output", "output-invalid", f"a part of the answer: {error}") from error
        while not self._credit.open:
            self._moved.clear()
            await self._moved.wait()
        await self._output.room()
        self._output.say(*message)
        self._credit.spend(weight_of(encoded, message[0]))

    async def _parts(self) -> AsyncIterator[dict[str, Any]]:
        """Give the inputs that come in parts, and grant as many again as the model has taken."""
        while True:
            while not self._came:
                self._moved.clear()
                await self._moved.wait()
            received = self._came.popleft()
            granted = self._window.taken(received.request, weight(received))
            if granted is not None:
                self._output.say(granted)
            last = not received.flags & Flag.MORE
            try:
                values = _values(received)
            except WireError as error:
                raise InputInvalid(f"an input part: {error}") from error
            if values or not last:
                yield values
            if last:
                return

    def _log(self, stream: str, level: str, text: bytes) -> None:
        """Pass on what the model prints; the worker behind has bounded it."""
        head = {"stream": stream, **({"level": level} if level else {})}
        for at in range(0, len(text), MAX_LOG_FRAME_BYTES):
            piece = text[at : at + MAX_LOG_FRAME_BYTES]
            self._output.murmur(frame(Kind.LOG, head, request=self._received.request, body=piece))


def _values(received: Frame) -> dict[str, Any]:
    """Return the tensors of a frame as `Mer.run` takes them, their bytes as they came: JSON is not read here.

    Raises:
        WireError: they are not as docs/wire.md has them.
    """
    layout, _, segments = open_frame(received)
    values = values_of(layout, segments, "buffer")
    for descriptor, [segment, *_] in ((d, s) for d, s in Encoded(layout, list(segments)).named() if d.dtype == JSON):
        values[descriptor.name] = Buffer(memoryview(segment), JSON, ())
    return values


def _number(microseconds: int) -> int:
    return min(max(microseconds, 0), U32)
