"""One request after the other, in the main thread.

Many libraries want to be called there, and a hand-over between threads would cost a small call a third of its time.
"""

from __future__ import annotations

from time import monotonic

from mer_worker.context import Context
from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Cancelled
from mer_worker.layout import NO_META, open_frame
from mer_worker.serving.turn import Turn
from mer_worker.shared import goes_shared
from mer_worker.templates import FIRST, NUMBERS, OPENING, REST, UNUSUAL
from mer_worker.tensors import Buffer, encode, values_of
from mer_worker.tracing import asked
from mer_worker.wire import U32, Flag, Kind, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sized
    from typing import Any

    from mer_worker.conversation import Conversation
    from mer_worker.runners import Runner
    from mer_worker.serving.seals import MainThreadSeals
    from mer_worker.serving.streams import Streams
    from mer_worker.source import Source
    from mer_worker.wire import Frame

_SEGMENT = slice(FIRST, None)

_OUT_OF_THE_ORDINARY = Flag.MORE | Flag.STREAM | Flag.HANDLE


class Serial:
    """Answers each request before it looks at the next one."""

    kinds = frozenset({Kind.SEAL, Kind.RELEASE, Kind.PART, Kind.CREDIT})

    def __init__(self, runner: Runner, conversation: Conversation) -> None:
        self._runner = runner
        self._conversation = conversation
        self._channel = conversation.channel
        self._turn = Turn(conversation)
        self._context = Context()
        self._streams: Streams | None = None  # imported when asked for, as the seals: most workers never are
        self._seals: MainThreadSeals | None = None
        conversation.shortcut = self._serve
        memory = conversation.memory
        self._dead: Sized = () if memory is None else memory.theirs.dead
        """Inputs in shared memory that nobody looks at any more."""

    def _serve(self, source: Source) -> None:
        """Answer requests of the commonest forms (mer_worker.templates), until something else has come.

        A small tensor is served here from the read to the write, since what counts for it is how little code a request
        touches: all of it does what `_answer` does.
        """
        conversation, runner, context, dead = self._conversation, self._runner, self._context, self._dead
        interrupts, logs, pulse = conversation.interrupts, conversation.logs, conversation.pulse
        take, incoming, outgoing = source.take, conversation.incoming, conversation.outgoing
        plain, channel, forms = runner.plain, self._channel, incoming.forms
        pack, unpack, new = OPENING.pack, NUMBERS.unpack_from, Buffer.__new__
        inputs: Any
        message: Any
        outputs: Any
        value: Any
        while True:
            data = take()
            form = forms.get(data[:8])
            if form is None or outgoing is None:
                found = incoming.rarer(data)
                if found is None:
                    break
                request = found[0]
                if outgoing is None or data[1]:  # in shared memory: nobody may hold them but the handler
                    given = [found[2]]
                    del found
                    self._answer(request, given.pop(), NO_META)
                    continue
                inputs = found[2]
                del found
            else:
                whole, rest, name, dtype, shape, array, _ = form
                if len(data) != whole or not data.startswith(rest, REST):
                    break
                request, head, _ = unpack(data, 8)
                if head:
                    break
                if array is None:
                    value = new(Buffer)
                    value.data, value.dtype, value.shape = memoryview(data)[_SEGMENT], dtype, shape
                else:
                    value = array(shape, dtype, data, FIRST)
                inputs = {name: value}
                del value
            frame = message = None
            try:
                logs.request = request
                pulse.since = began = monotonic()
                interrupts.newest = interrupts.running = pulse.request = request
                try:
                    if interrupts.beforehand:
                        interrupts.begin(request)
                    interrupts.open = True
                    if interrupts.wanted is not None:
                        interrupts.look()
                    if plain is not None:
                        outputs = plain(inputs)
                        if type(outputs) is not dict:
                            outputs = runner.checked(outputs)
                    else:
                        context.request, context.meta = request, NO_META
                        outputs = runner.infer(inputs, context)
                finally:
                    interrupts.open = False
                    number = int(1e6 * (monotonic() - began))
                    interrupts.running = pulse.request = 0
                    if logs.used:
                        logs.end()
                    logs.request = 0
                try:
                    ((name, value),) = outputs.items()
                    kind = type(value)
                    if kind is list:
                        frame = outgoing.texts(request, number, name, value)
                    else:
                        start, tail, whole = outgoing.forms[kind, name, value.dtype, value.shape]
                        if tail is None:
                            frame = outgoing.shared(request, number, value, start, whole)
                        else:
                            frame = pack(start, request, 0, number, tail) + (
                                value.data if kind is Buffer else value.tobytes()
                            )
                            if len(frame) != whole:
                                frame = None
                except UNUSUAL:
                    pass
                if frame is None:
                    held, inputs, outputs, value = [outputs], None, None, None
                    message = self._message(request, min(number, U32), held)
            except Cancelled:
                self._turn.stop()  # it may have come on the way there
                number = int(1e6 * (monotonic() - pulse.since))
                message = (error_frame(conversation.stopped(request), request, number=number),)
            except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
                number = int(1e6 * (monotonic() - pulse.since))
                message = (error_frame(conversation.failed(error), request, number=number),)
            inputs = outputs = value = None  # what the handler gave may be large
            if dead and conversation.memory is not None:
                conversation.memory.settle()
            if frame is not None:
                channel.send_frame(frame)
            else:
                channel.send(*message)
                message = None
            if runner.ended:
                conversation.ending.now()
        source.feed(data)

    def infer(self, received: Frame) -> None:
        """Run the handler, and send what it gave."""
        if received.flags & _OUT_OF_THE_ORDINARY:
            self._special(received)
            return
        try:
            layout, meta, segments = open_frame(received)
            inputs = [values_of(layout, segments, self._runner.arrays, writable=False)]
        except (WireError, MemoryError) as error:
            self._channel.send(error_frame(self._conversation.unreadable(error), received.request))
            return
        del segments
        received.body = b""  # only the inputs hold it now: what the handler drops is free
        self._answer(received.request, inputs.pop(), meta)  # nobody holds them but the handler

    def _answer(self, request: int, inputs: dict[str, Any], meta: Mapping[str, Any]) -> None:
        runner, turn, channel, conversation = self._runner, self._turn, self._channel, self._conversation
        context = self._context
        context.request, context.meta = request, meta
        spans = asked(meta) if meta else None
        try:
            turn.start(request)
            try:
                outputs = runner.infer(inputs, context)
            finally:
                turn.stop()
                del inputs
            outgoing = conversation.outgoing
            if spans is not None:
                spans.step("run")
            short = (
                outgoing.frame(request, turn.microseconds(), outputs)
                if outgoing is not None and spans is None
                else None
            )
            if short is None:
                encoded = encode(outputs)
                if goes_shared(encoded):
                    if outgoing is not None:
                        outgoing.learn(outputs, encoded.layout)  # once its head has a number
                    outputs = {}  # what nobody else holds may go as it is
                told = None
                if spans is not None:
                    spans.step("write")
                    told = spans.meta()
                message = conversation.message(
                    encoded, Kind.RESULT, request, number=turn.microseconds(), meta=told, templates=outgoing
                )
        except Cancelled:
            turn.stop()  # it may have come on the way there
            told = None if spans is None else spans.ended("run")
            channel.send(error_frame(conversation.stopped(request), request, number=turn.microseconds(), meta=told))
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            told = None if spans is None else spans.ended("run")
            channel.send(error_frame(conversation.failed(error), request, number=turn.microseconds(), meta=told))
        else:
            if short is not None:
                outputs = {}  # they may be inputs
            if self._dead and conversation.memory is not None:
                conversation.memory.settle()  # before the answer: the next request finds their place free
            if short is not None:
                channel.send(short)
            else:
                channel.send(*message)
                if outgoing is not None and spans is None:
                    outgoing.learn(outputs, encoded.layout)
        if runner.ended:
            conversation.ending.now()

    def _message(self, request: int, number: int, held: list[Mapping[str, Any]]) -> tuple[Any, ...]:
        """Return a result by the general way, and have a form for the next one like it. Raises: WireError.

        `held` alone holds the outputs, so that what lies in shared memory may go as it is.
        """
        conversation, outputs = self._conversation, held.pop()
        encoded, outgoing = encode(outputs), conversation.outgoing
        if goes_shared(encoded):
            if outgoing is not None:
                outgoing.learn(outputs, encoded.layout)  # once its head has a number
            outputs = {}
        message = conversation.message(encoded, Kind.RESULT, request, number=number, templates=outgoing)
        if outgoing is not None:
            outgoing.learn(outputs, encoded.layout)
        return message

    def take(self, received: Frame) -> None:
        """Seal inputs, or release them. A part or credit that comes here is of a request that is over."""
        if received.kind in (Kind.SEAL, Kind.RELEASE):
            self._sealed().take(received)

    def _special(self, received: Frame) -> None:
        """Answer a request that is answered, or asked, in parts, or by the handle of what was sealed."""
        request, flags = received.request, received.flags
        try:
            if flags & Flag.HANDLE:
                inputs, meta = self._sealed().opened(received)
            else:
                layout, meta, segments = open_frame(received)
                inputs = values_of(layout, segments, self._runner.arrays, writable=False)
                del segments
        except (WireError, MemoryError, Failure) as error:
            self._channel.send(error_frame(self._conversation.unreadable(error), request))
            return
        received.body = b""  # only the inputs hold it now
        if self._streams is None:
            from mer_worker.serving.streams import Streams

            self._streams = Streams(self._runner, self._conversation, self._turn)
        self._streams.answer(request, flags, inputs, meta)

    def _sealed(self) -> MainThreadSeals:
        if self._seals is None:
            from mer_worker.serving.seals import MainThreadSeals

            self._seals = MainThreadSeals(self._runner, self._conversation, self._turn)
        return self._seals

    def close(self) -> None:
        """Nothing runs any more."""
