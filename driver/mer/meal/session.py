"""The driver's end of one conversation with one worker, over any stream: load, infer, cancel, ping, logs, the end.

Requests multiplex by number. Whatever happens to the worker, every call that waits on it ends at once with an error that
says what; nothing here waits without a bound of its own or a deadline of the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mer.core.errors import (
    DeadlineExceeded,
    InputInvalid,
    MerError,
    ProtocolMismatch,
    ProtocolViolation,
    WorkerLost,
)
from mer.meal.calls import Call, Calls, LogCallback
from mer.meal.failing import error_of
from mer.meal.host import Stream
from mer_worker.layout import Descriptor, open_frame
from mer_worker.tensors import Encoded, values_of
from mer_worker.wire import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_LOG_FRAME_BYTES,
    MAX_REQUEST_LOG_BYTES,
    OLDEST_VERSION,
    PREAMBLE,
    VERSION,
    Decoder,
    Frame,
    Kind,
    VersionMismatch,
    WireError,
    agree,
    frame,
    most_body,
    pack,
)

CANCEL_GRACE = 1.0
"""Seconds that a handler gets to let itself be interrupted before its worker is killed."""

CLOSE_GRACE = 2.0
"""Seconds that a worker gets at each step of its end (shutdown, SIGTERM)."""

HELLO_SECONDS = 30.0
"""What a worker gets to say hello: a cold interpreter on a slow disk, not a model's load."""

_TAIL_BYTES = 2048
"""The end of the worker's own log that an error about its loss quotes."""

_U32 = (1 << 32) - 1


@dataclass(slots=True)
class Reply:
    """What an inference gave."""

    outputs: dict[str, Any]
    descriptors: tuple[Descriptor, ...]
    segments: list[memoryview]
    """The outputs' bytes as they came, for digests."""
    meta: Mapping[str, Any]
    run_us: int
    """Microseconds in the handler, by the worker's clock."""


class Session:
    """One conversation. Made by `Session.start`, ended by `close`."""

    def __init__(self, stream: Stream, *, arrays: str = "numpy", on_log: LogCallback | None = None) -> None:
        self.arrays = arrays
        """What replies hold: `numpy` arrays or `buffer`s."""
        self.on_log = on_log
        """Takes what is tied to no request."""
        self.hello: Mapping[str, Any] = {}
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._decoder = Decoder()
        self._calls = Calls(self._loop, self._overdue)
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._lost: MerError | None = None
        self._most_body = MAX_BODY_BYTES
        self._full = False
        self._pings: dict[int, asyncio.Future[Frame]] = {}
        self._last_ping = 0
        self._log_left = MAX_REQUEST_LOG_BYTES
        self._log_dropped = 0
        self._tail = b""
        self._killing: asyncio.Task[None] | None = None
        self._on_end: Callable[[], None] | None = None
        self.get_buffer = self._decoder.buffer

    @classmethod
    async def start(
        cls, stream: Stream, *, arrays: str = "numpy", on_log: LogCallback | None = None, seconds: float = HELLO_SECONDS
    ) -> Session:
        """Greet a worker that was just started, and wait for its hello.

        Raises:
            ProtocolMismatch: it speaks other versions.
            ProtocolViolation: it speaks something else.
            WorkerLost: it ended, or said nothing for `seconds`.
        """
        session = cls(stream, arrays=arrays, on_log=on_log)
        try:
            stream.start(session)
            if stream.control is not None:
                stream.control.start(_Control(session))
            stream.write(PREAMBLE, frame(Kind.HELLO, _HELLO))
            try:
                async with asyncio.timeout(seconds):
                    await asyncio.shield(session._greeted)
            except TimeoutError:
                raise WorkerLost(f"the worker said nothing for {seconds:g} s{session._quoted()}") from None
        except BaseException as error:
            told = isinstance(error, ProtocolMismatch)  # and gets a moment to read it
            await asyncio.shield(session.close(grace=CANCEL_GRACE / 2 if told else 0.0))
            raise
        return session

    # --- what callers do

    async def load(
        self, fields: Mapping[str, Any], *, deadline: float | None, on_log: LogCallback | None = None
    ) -> int:
        """Load a model, and return the microseconds that it took there.

        Raises:
            ModelFailed: the author's code raised.
            PackageInvalid: the package has no such entry point, or is damaged.
            InputInvalid: the fields have no form on the wire, or are beyond a head's cap.
            DeadlineExceeded: it was not loaded by `deadline` (loop time).
            WorkerLost: the worker ended.
        """
        answer = await self._ask(Kind.LOAD, frame, fields, deadline=deadline, on_log=on_log)
        return answer.number

    async def infer(
        self,
        encoded: Encoded,
        *,
        meta: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        on_log: LogCallback | None = None,
    ) -> Reply:
        """Run the model once. Cancelling the task cancels the request; a late outcome goes nowhere.

        `deadline` is loop time.

        Raises:
            ModelFailed: the handler raised, or gave what cannot be sent; its traceback is in the error.
            InputInvalid: the inputs or the meta are beyond a cap, or the runner refused them.
            DeadlineExceeded: there was no outcome by `deadline`.
            WorkerLost: the worker ended.
            Interrupted: somebody cancelled the request.
            ProtocolViolation: the worker's answer is no answer.
        """
        if self._full:
            await self._room(deadline)
        if self._lost is not None:
            raise self._lost_again()
        number = 0 if deadline is None else self._milliseconds(deadline)
        request, call = self._calls.add(deadline, on_log)
        try:
            message = encoded.message(Kind.INFER, request, number=number, meta=meta, most=self._most_body)
        except WireError as error:
            self._calls.take(request)
            raise InputInvalid(str(error)) from error
        if self._log_dropped:
            self._say_dropped()
        self._log_left = MAX_REQUEST_LOG_BYTES
        self._full = not self._stream.write(*message)
        try:
            answer = await call.future
        except asyncio.CancelledError:
            self._abandon(request)
            raise
        if answer.kind != Kind.RESULT:
            raise self._failure(answer, call)
        try:
            layout, meta, segments = open_frame(answer)
            outputs = values_of(layout, segments, self.arrays)
        except WireError as error:
            raise self._violated(error) from error
        return Reply(outputs, layout.descriptors, segments, meta, answer.number)

    async def ping(self, *, seconds: float = 5.0) -> float:
        """Ask whether the worker answers, and return the seconds that it took.

        With a control channel it answers while the model computes. While C code holds Python's lock nothing does: a
        missed ping alone is not a dead worker.

        Raises:
            DeadlineExceeded: no answer within `seconds`.
            WorkerLost: the worker ended.
        """
        if self._lost is not None:
            raise self._lost_again()
        self._last_ping += 1
        number = self._last_ping
        future = self._pings[number] = self._loop.create_future()
        began = self._loop.time()
        (self._stream.control or self._stream).write(pack(Kind.PING, request=number))
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            raise DeadlineExceeded(f"the worker did not answer a ping within {seconds:g} s") from None
        finally:
            self._pings.pop(number, None)
        return self._loop.time() - began

    def cancel(self, request: int) -> None:
        """Ask the worker to stop a request; the call ends with its outcome."""
        (self._stream.control or self._stream).write(pack(Kind.CANCEL, request=request))

    @property
    def lost(self) -> MerError | None:
        """Why the worker can be used no more; None while it can."""
        return self._lost

    @property
    def busy(self) -> int:
        """How many requests are in flight, abandoned ones too."""
        return len(self._calls)

    async def settled(self) -> None:
        """Wait until no request is in flight; abandoned ones end by themselves or with the worker."""
        await self._calls.idle()

    def when_lost(self, tell: Callable[[], None]) -> None:
        """Call `tell` once the worker has ended."""
        self._on_end = tell

    async def close(self, *, grace: float = CLOSE_GRACE) -> int | None:
        """End the worker: shutdown, EOF, SIGTERM, SIGKILL. Returns its exit status; calls that wait get WorkerLost."""
        if self._lost is None:
            self._lose(WorkerLost("the worker was shut down"))
            if not self._full:
                self._stream.write(pack(Kind.SHUTDOWN))
        status = await self._stream.close(grace)
        if self._killing is not None:
            await self._killing
        return status

    # --- what the stream does (host.Receiver)

    def buffer_updated(self, count: int) -> None:
        """Take the frames that these bytes complete."""
        greeting = not self._greeted.done()  # asked first: the hello may come in one piece with what stands before it
        try:
            for received in self._decoder.received(count):
                self._take(received)
        except WireError as error:
            self._violated(error)
        if greeting and (noise := self._decoder.noise()):
            self.log(noise)

    def log(self, text: bytes) -> None:
        """Pass on the worker's own log, up to a bound for each request."""
        self._tail = (self._tail + text)[-_TAIL_BYTES:]
        if len(text) > self._log_left:
            self._log_dropped += len(text) - self._log_left
            text = text[: self._log_left]
        self._log_left -= len(text)
        if text:
            self._tell(self.on_log, "stderr", "", text)

    def ended(self, reason: str) -> None:
        """Fail whatever waits."""
        if self._log_dropped:
            self._say_dropped()
        self._lose(WorkerLost(f"the worker {reason}{self._quoted()}"))
        if self._on_end is not None:
            self._on_end()

    # --- frames

    def _take(self, received: Frame) -> None:
        kind = received.kind
        if kind == Kind.RESULT or (kind == Kind.ERROR and received.request):
            call = self._calls.take(received.request)
            if call is not None and not call.future.done():
                call.future.set_result(received)
        elif kind == Kind.LOG:
            self._take_log(received)
        elif kind == Kind.PONG:
            self.take_pong(received)
        elif kind == Kind.HELLO:
            self._take_hello(received)
        elif kind == Kind.ERROR:
            fields = received.fields()
            error = ProtocolMismatch if fields.get("code") == "version" else ProtocolViolation
            self._end_with(error(f"the worker gave up: {_text(fields, 'message')}"))
        else:
            raise WireError(f"a frame of kind {kind}, which a worker does not send")

    def _take_hello(self, received: Frame) -> None:
        self.hello = received.fields()
        try:
            agree(self.hello)
        except VersionMismatch as error:
            self._stream.write(frame(Kind.ERROR, {"kind": "protocol", "code": "version", "message": str(error)}))
            self._end_with(ProtocolMismatch(f"{error} (Python {_text(self.hello, 'python')} there)"))
            return
        self._most_body = most_body(self.hello)
        if not self._greeted.done():
            self._greeted.set_result(None)

    def take_pong(self, received: Frame) -> None:
        """Answer the ping that it is for."""
        future = self._pings.get(received.request)
        if future is not None and not future.done():
            future.set_result(received)

    def _take_log(self, received: Frame) -> None:
        if len(received.body) > MAX_LOG_FRAME_BYTES:
            raise WireError(f"a log frame of {len(received.body)} bytes: the cap is {MAX_LOG_FRAME_BYTES}")
        call = self._calls.get(received.request)
        fields = received.fields()
        tell = self.on_log if call is None or call.on_log is None else call.on_log
        self._tell(tell, _text(fields, "stream"), _text(fields, "level"), bytes(received.body))

    def _tell(self, listener: LogCallback | None, stream: str, level: str, text: bytes) -> None:
        """Pass a log on, by the loop: a listener that raises here would take the frames after it along."""
        if listener is not None:
            self._loop.call_soon(listener, stream, level, text)

    def _say_dropped(self) -> None:
        self._tell(self.on_log, "stderr", "", f"… {self._log_dropped} bytes dropped\n".encode())
        self._log_dropped = 0

    def _failure(self, answer: Frame, call: Call) -> MerError:
        """Return the error that an error frame stands for."""
        try:
            fields = answer.fields()
        except WireError as error:
            return self._violated(error)
        kind, code, message = (_text(fields, name) for name in ("kind", "code", "message"))
        traceback = _text(fields, "traceback") or None
        if call.late:
            return DeadlineExceeded("the deadline passed before the model answered; it was stopped")
        failure = error_of(kind=kind, code=code, message=message, traceback=traceback)
        return WorkerLost(f"{message}{self._quoted()}") if isinstance(failure, WorkerLost) else failure

    # --- deadlines, cancelling, the end

    async def _ask(
        self,
        kind: int,
        form: Callable[..., bytes],
        fields: Mapping[str, Any],
        *,
        deadline: float | None,
        on_log: LogCallback | None,
    ) -> Frame:
        """Send a frame without tensors and return the answer."""
        if self._lost is not None:
            raise self._lost_again()
        request, call = self._calls.add(deadline, on_log)
        try:
            message = form(kind, fields, request=request)
        except WireError as error:
            self._calls.take(request)
            raise InputInvalid(str(error)) from error
        self._stream.write(message)
        try:
            answer = await call.future
        except asyncio.CancelledError:
            self._abandon(request)
            raise
        if answer.kind != Kind.RESULT:
            raise self._failure(answer, call)
        return answer

    async def _room(self, deadline: float | None) -> None:
        """Wait until the stream takes more."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._stream.drain()
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while requests before this one were being sent") from None
        self._full = False

    def _milliseconds(self, deadline: float) -> int:
        return min(max(1, int(1e3 * (deadline - self._loop.time()))), _U32)

    def _abandon(self, request: int) -> None:
        """Its caller has gone: cancel it, and see that the worker ends if it does not stop."""
        call = self._calls.get(request)
        if call is None or self._lost is not None:
            return
        call.abandoned = True
        if not call.late:
            self.cancel(request)
            self._calls.postpone(call, self._loop.time() + CANCEL_GRACE)

    def _overdue(self, request: int, call: Call) -> None:
        """A deadline has passed, or the grace after it."""
        if not (call.late or call.abandoned):
            call.late = True
            self.cancel(request)
            self._calls.postpone(call, self._loop.time() + CANCEL_GRACE)
            return
        self._calls.take(request)
        if not call.future.done():
            call.future.set_exception(
                DeadlineExceeded(
                    "the deadline passed; the model did not let itself be stopped, so its worker was ended"
                )
            )
        self._end_with(WorkerLost("the worker was ended, since a request did not let itself be stopped"))

    def _violated(self, error: WireError) -> ProtocolViolation:
        violation = ProtocolViolation(f"the worker did not speak the protocol: {error}")
        self._end_with(violation)
        return violation

    def _end_with(self, why: MerError) -> None:
        """Give up on this worker."""
        self._lose(why)
        if self._killing is None:
            self._killing = self._loop.create_task(self._end())

    async def _end(self) -> None:
        await self._stream.close(CANCEL_GRACE / 2)

    def _lose(self, why: MerError) -> None:
        if self._lost is not None:
            return
        self._lost = why
        if not self._greeted.done():
            self._greeted.set_exception(why)
            self._greeted.exception()  # somebody may wait for it, or nobody
        for call in self._calls.take_all():
            if not call.future.done():
                call.future.set_exception(
                    DeadlineExceeded("the deadline passed; the worker ended meanwhile")
                    if call.late
                    else self._lost_again()
                )
        for future in self._pings.values():
            if not future.done():
                future.set_exception(self._lost_again())

    def _lost_again(self) -> MerError:
        """Return the reason as an exception of its own: one that several calls raise would collect their tracebacks."""
        assert self._lost is not None
        return type(self._lost)(self._lost.message, hint=self._lost.hint)

    def _quoted(self) -> str:
        """Return the end of the worker's own log, where it helps to understand its end."""
        tail = self._tail.decode("utf-8", "replace").strip()
        return f"; its log ends:\n{tail}" if tail else ""


class _Control:
    """Takes what comes on the control channel."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._decoder = Decoder(preamble=False)
        self.get_buffer = self._decoder.buffer

    def buffer_updated(self, count: int) -> None:
        try:
            for received in self._decoder.received(count):
                if received.kind == Kind.PONG:
                    self._session.take_pong(received)
        except WireError as error:
            self._session._violated(error)

    def log(self, text: bytes) -> None:
        """It has none."""

    def ended(self, reason: str) -> None:
        """The data stream tells."""


_HELLO = {
    "protocol": {"min": OLDEST_VERSION, "max": VERSION},
    "capabilities": ["control"],
    "limits": {"head": MAX_HEAD_BYTES, "body": MAX_BODY_BYTES},
}


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    # JSON can spell half a surrogate pair, which no terminal and no record takes
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
