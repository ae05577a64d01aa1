"""The driver's end of one conversation with one worker, over any stream: load, infer, cancel, ping, logs, the end.

Requests multiplex by number. Whatever happens to the worker, every call that waits on it ends at once with an error that
says what; nothing here waits without a bound of its own or a deadline of the caller's.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any

from mer.core.errors import (
    DeadlineExceeded,
    InputInvalid,
    MerError,
    ProtocolMismatch,
    WorkerLost,
)
from mer.meal.answers import Answers, Reply
from mer.meal.calls import Call, Calls, LogCallback, Taker
from mer.meal.ending import CANCEL_GRACE, Ending
from mer.meal.ends import loss
from mer.meal.frames import ControlFrames, Frames
from mer.meal.memory import OFFER, SLICE_BYTES, WorkerMemory, refused
from mer.meal.peer import Peer, hello, text
from mer.meal.pings import Pings
from mer.meal.pulse import Pulse
from mer.meal.shortcut import Shortcut
from mer.meal.stream import Bytes, Stream, pour
from mer.meal.worker_log import WorkerLog
from mer_worker.decoder import Decoder
from mer_worker.encoded import Encoded
from mer_worker.layout import NO_META
from mer_worker.loading import load_frame
from mer_worker.shared import goes_shared
from mer_worker.templates import Incoming, Outgoing
from mer_worker.tensors import encode
from mer_worker.wire import (
    PREAMBLE,
    Frame,
    Kind,
    VersionMismatch,
    WireError,
    flagged,
    frame,
    pack,
)

CLOSE_GRACE = 2.0
"""Seconds that a worker gets at each step of its end (shutdown, SIGTERM)."""

HELLO_SECONDS = 30.0
"""What a worker gets to say hello: a cold interpreter on a slow disk, not a model's load."""

Form = Callable[[int], tuple[Bytes, ...]]
"""Makes a request's frame, in pieces, once its number is known. Raises WireError."""


class Session:
    """One conversation. Made by `Session.start`, ended by `close`."""

    def __init__(self, stream: Stream, *, arrays: str = "numpy", on_log: LogCallback | None = None) -> None:
        self.arrays = arrays
        """What replies hold: `numpy` arrays, `buffer`s, or tensors of `torch`."""
        self.peer: Peer | None = None
        """What the worker said of itself; None until its hello has come."""
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._incoming = Incoming(Kind.RESULT, arrays, writable=True)
        self._outgoing: Outgoing | None = None
        self._decoder = Decoder(templates=self._incoming)
        self._calls = Calls(self._loop, self._overdue)
        self._pings = Pings(self._loop)
        self._ending = Ending(
            self._loop, stream, self._calls, self._pings, cancel=self.cancel, refuse=lambda: self.shortcut.close()
        )
        self.ladder = self._ending.ladder
        """What is done about a request that does not stop."""
        self._log = WorkerLog(self._loop, self._calls, on_log, self._block)
        self._memory: WorkerMemory | None = None
        self.without_memory = stream.without_memory
        """Why large tensors go through the stream, for people; "" where they go through shared memory."""
        self._frames = Frames(self._decoder, self._calls, self._pings, self._log, self._ending, greet=self._take_hello)
        answers = Answers(arrays, self._ending, self._log)
        self.result, self.reply, self.answered = answers.result, answers.reply, answers.answered
        """Read a call's answer: its result frame, what that holds, and what a call by the shortest way gave."""
        self.when_lost = self._ending.when_lost
        """Has a function called once the worker gets no more requests, and once it has ended."""
        self.get_buffer, self.buffer_updated = self._decoder.buffer, self._frames.buffer_updated
        self._use(
            Shortcut(
                self._loop,
                self._calls,
                self._incoming,
                stream.write_frame,
                self._frames.received,
                self._frames.fill,
            )
        )

    def _use(self, shortcut: Shortcut) -> None:
        """Have this take small requests, before `infer` does, and their answers."""
        self.shortcut = self._frames.shortcut = shortcut
        self.read_from = shortcut.read_from

    def received(self, data: bytes) -> None:
        """Take what has come (stream.BytesReceiver); the middle of a large body is copied to where it stays."""
        if self.shortcut.whole:
            self.shortcut.received(data)
        else:
            pour(self, data)

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
                stream.control.start(ControlFrames(session._pings, session._ending))
            stream.write(PREAMBLE, hello(**OFFER) if stream.memory is not None else hello())
            try:
                async with asyncio.timeout(seconds):
                    await asyncio.shield(session._ending.greeted)
            except TimeoutError:
                raise WorkerLost(f"the worker said nothing for {seconds:g} s{session._log.quoted()}") from None
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
            InputInvalid: the fields have no form on the wire, or are beyond a cap.
            DeadlineExceeded: it was not loaded by `deadline` (loop time).
            WorkerLost: the worker ended.
        """
        assert self.peer is not None  # `start` has waited for its hello
        most = self.peer.most_body
        answer = await self.ask(
            lambda request: (load_frame(fields, request, most_body=most),), deadline=deadline, on_log=on_log
        )
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
        call = None if meta else self.shortcut.send(NO_META, deadline, on_log, encoded)
        if call is not None:
            try:
                answer = await call.future
            except asyncio.CancelledError:
                self.abandon(call.request)
                raise
            return self.answered(answer, call)
        form = await self.form(encoded, Kind.INFER, deadline=deadline, meta=meta, templates=self._outgoing)
        return self.reply(await self.ask(form, deadline=deadline, on_log=on_log))

    async def form(
        self,
        encoded: Encoded,
        kind: int,
        *,
        deadline: float | None = None,
        meta: Mapping[str, Any] | None = None,
        templates: Outgoing | None = None,
    ) -> Form:
        """Return what makes the frame of tensors; the large ones are put into shared memory now, where there is some."""
        assert self.peer is not None  # `start` has waited for its hello
        number, most = self._calls.milliseconds(deadline), self.peer.most_body
        make = encoded.message
        if self._memory is not None and goes_shared(encoded):
            make = functools.partial((await self._memory.place(encoded)).message, encoded)
        return lambda request: make(kind, request, number=number, meta=meta, most=most, templates=templates)

    async def infer_values(
        self,
        inputs: Mapping[str, Any],
        *,
        meta: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        on_log: LogCallback | None = None,
    ) -> dict[str, Any]:
        """Run the model once, by the general way, and take the shortest with inputs like these from then on.

        Raises: as `infer`.
        """
        try:
            encoded = encode(inputs)
        except WireError as error:
            raise InputInvalid(str(error)) from error
        reply = await self.infer(encoded, meta=meta, deadline=deadline, on_log=on_log)
        self.learn(inputs, encoded)
        return reply.outputs

    def learn(self, inputs: Mapping[str, Any], encoded: Encoded) -> None:
        """Have the shortest way take inputs like these, which went the general way, from now on."""
        if self._outgoing is not None:
            self._outgoing.learn(inputs, encoded.layout)

    async def ask(
        self,
        form: Form,
        *,
        deadline: float | None = None,
        on_log: LogCallback | None = None,
        taker: Taker | None = None,
    ) -> Frame:
        """Send a request and return its result frame. Raises: as `begin` and `outcome`."""
        request, call = await self.begin(form, deadline=deadline, on_log=on_log, taker=taker)
        return await self.outcome(request, call)

    async def begin(
        self,
        form: Form,
        *,
        deadline: float | None = None,
        on_log: LogCallback | None = None,
        taker: Taker | None = None,
    ) -> tuple[int, Call]:
        """Send a request, and return its number and its call, whose end `outcome` waits for.

        `taker` gets what comes for it before its end: parts and credits. Who gives up before the end says `abandon`.

        Raises:
            InputInvalid: what `form` makes is beyond a cap.
            DeadlineExceeded: the deadline passed before it could be sent.
            WorkerLost: the worker ended.
        """
        if self.shortcut.blocked:
            await self._room(deadline)
        if self.lost is not None:
            raise self._ending.again()
        request, call = self._calls.add(deadline, on_log, taker)
        try:
            message = form(request)
        except WireError as error:
            self._calls.take(request)
            raise InputInvalid(str(error)) from error
        except BaseException:
            self._calls.take(request)
            raise
        self._write(*message)
        return request, call

    async def outcome(self, request: int, call: Call) -> Frame:
        """Wait for a request's result frame; cancelling the task cancels the request.

        Raises:
            MerError: what its error frame stands for.
        """
        try:
            answer = await call.future
        except asyncio.CancelledError:
            self.abandon(request)
            raise
        return self.result(answer, call)

    async def send(self, *pieces: Bytes, deadline: float | None = None) -> None:
        """Send a further frame of a request. Raises: as `begin`."""
        if self.shortcut.blocked:
            await self._room(deadline)
        self._ending.check()
        self._write(*pieces)

    def tell(self, message: bytes) -> None:
        """Send a further frame of a request that is small, and one of few, whatever waits to be sent."""
        if self._ending.reason is None and not self._stream.write(message):
            self.shortcut.blocked = True

    async def send_part(self, request: int, form: Form, flags: int = 0) -> Bytes:
        """Send a part of a request's inputs, and return its frame's beginning.

        It is made once it can be written: segments in shared memory are the worker's from then on. And it is written when
        this returns: its maker may put the next part into the same memory.

        Raises:
            WireError: what `form` makes is beyond a cap.
            WorkerLost: the worker ended.
        """
        if self.shortcut.blocked:
            await self._room(None)
        self._ending.check()
        message = flagged(form(request), flags)
        self._write(*message)
        await self._stream.flush()
        return message[0]

    async def ping(self, *, seconds: float = 5.0) -> float:
        """Ask whether the worker answers, and return the seconds that it took.

        With a control channel it answers while the model computes. While C code holds Python's lock nothing does: a
        missed ping alone is not a dead worker.

        Raises:
            DeadlineExceeded: no answer within `seconds`.
            WorkerLost: the worker ended.
        """
        self._ending.check()
        return await self._pings.ask((self._stream.control or self._stream).write, seconds=seconds)

    async def pulse(self, *, seconds: float = 5.0) -> Pulse:
        """Ask which requests the worker is at, and since when. Raises: as `ping`."""
        self._ending.check()
        return await self._pings.pulse((self._stream.control or self._stream).write, seconds=seconds)

    async def clock(self, *, seconds: float) -> int | None:
        """Return how far the worker's clock is ahead of this one's monotonic, microseconds; None: it does not tell.

        Raises: as `ping`.
        """
        self._ending.check()
        return await self._pings.clock((self._stream.control or self._stream).write, seconds=seconds)

    def cancel(self, request: int) -> None:
        """Ask the worker to stop a request; the call ends with its outcome."""
        (self._stream.control or self._stream).write(pack(Kind.CANCEL, request=request))

    def abandon(self, request: int) -> None:
        """Its caller has gone: cancel it, and see that the worker ends if it does not stop."""
        call = self._calls.get(request)
        if call is None or self._ending.reason is not None:
            return
        self.ladder.stop(call)

    @property
    def hello(self) -> Mapping[str, Any]:
        """The head of the worker's hello; empty until it has come."""
        return {} if self.peer is None else self.peer.hello

    @property
    def on_log(self) -> LogCallback | None:
        """Takes what is tied to no request."""
        return self._log.listener

    @on_log.setter
    def on_log(self, listener: LogCallback | None) -> None:
        self._log.listener = listener

    @property
    def lost(self) -> MerError | None:
        """Why the worker gets no more requests; None while it does."""
        return self._ending.lost

    @property
    def busy(self) -> int:
        """How many requests are in flight, abandoned ones too."""
        return len(self._calls)

    async def settled(self) -> None:
        """Wait until no request is in flight; abandoned ones end by themselves or with the worker."""
        await self._calls.idle()

    async def close(self, *, grace: float = CLOSE_GRACE) -> int | None:
        """End the worker: shutdown, EOF, SIGTERM, SIGKILL. Returns its exit status; calls that wait get WorkerLost."""
        if self._ending.reason is None:
            running = list(self._calls.waiting)
            self._ending.lose(WorkerLost("the worker was shut down"))
            for request in running:  # a handler that computes hears of no shutdown, and would take all of its grace
                self.cancel(request)
            if not self.shortcut.blocked:
                self._stream.write(pack(Kind.SHUTDOWN))
        return await self._ending.close(grace)

    # --- what the stream does (stream.Receiver)

    def log(self, text: bytes) -> None:
        """Pass on the worker's own log, up to a bound for each request."""
        self._log.add(text)

    def ended(self, reason: str) -> None:
        """Fail whatever waits."""
        self._log.renew()
        self._ending.ended(loss(reason, self._log.quoted()))

    # --- the hello

    def _take_hello(self, received: Frame) -> None:
        fields = received.fields()
        self._frames.greeted()
        try:
            self.peer = Peer(fields)
        except VersionMismatch as error:
            self._stream.write(frame(Kind.ERROR, {"kind": "protocol", "code": "version", "message": str(error)}))
            self._ending.give_up(ProtocolMismatch(f"{error} (Python {text(fields, 'python')} there)"))
            return
        if self._stream.memory is not None:
            self._share(self._stream.memory, fields)
        if "templates" in self.peer.capabilities:
            put = None if self._memory is None else self._memory.put
            self._outgoing = Outgoing(Kind.INFER, self.peer.most_body, put=put, most_shared=SLICE_BYTES)
            self.shortcut.open(self._outgoing)
        if not self._ending.greeted.done():
            self._ending.greeted.set_result(None)

    def _share(self, memory: WorkerMemory, hello: Mapping[str, Any]) -> None:
        """Use shared memory, if the worker does."""
        self.without_memory = refused(hello)
        if self.without_memory:
            memory.close()
        else:
            self._memory = memory
            self._decoder.claim = memory.take
            self._incoming.memory = memory.theirs

    # --- the way out

    async def _room(self, deadline: float | None) -> None:
        """Wait until the stream takes more, and say what is to be said before the next request."""
        self._log.renew()
        try:
            async with asyncio.timeout_at(deadline):
                await self._stream.drain()
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while requests before this one were being sent") from None
        self.shortcut.blocked = False

    def _block(self) -> None:
        self.shortcut.blocked = True

    def _write(self, *pieces: Bytes) -> None:
        self.shortcut.blocked = not self._stream.write(*pieces)

    def _overdue(self, request: int, call: Call) -> None:
        self._ending.overdue(request, call)
