"""Several requests at once, each in a thread: for handlers that declare themselves thread-safe (`concurrency`).

The main thread reads and hands on; threads run the handler and answer. A request is stopped by an exception that is
raised in its thread at the next instruction of Python; code in C goes on until it returns, and may look at
`context.cancelled`. So a handler that does not stop ends the whole worker, once the others had their time: the driver
does that (mer.meal.ladder).
"""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue

from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Cancelled
from mer_worker.serving.answering import answer, failure_of, inputs_of, too_many
from mer_worker.serving.flights import Flight, Flights, current
from mer_worker.serving.flows import IN_PARTS, ThreadFlow
from mer_worker.serving.seals import Seals
from mer_worker.serving.streams import is_parts, send_all
from mer_worker.serving.voices import Voices
from mer_worker.wire import Kind, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Union

    from mer_worker.conversation import Conversation
    from mer_worker.runners import Runner
    from mer_worker.wire import Frame

_CLOSE_SECONDS = 1.0
"""What requests that run get when the conversation is over: nobody waits for their answers any more."""


class Threads:
    """Up to `most` requests at a time; as many again may wait for a thread, and then reading stops (but see Flights.room)."""

    kinds: frozenset[int] = frozenset({Kind.SEAL, Kind.RELEASE, Kind.PART, Kind.CREDIT})

    def __init__(self, runner: Runner, conversation: Conversation, most: int) -> None:
        self._runner = runner
        self._conversation = conversation
        self._channel = conversation.channel
        self._most = most
        self._waiting: SimpleQueue[Optional[Flight]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._seals = Seals()
        self._flights = Flights(
            lambda request: self._channel.send(error_frame(conversation.stopped(request), request)), self._parts_of
        )
        self._voices = Voices(conversation.channel, conversation.interrupts, conversation.limits.log_bytes)
        self._voices.install()
        conversation.logs.several = self._voices
        conversation.interrupts.several = self._flights
        conversation.pulse.several = self._flights.running
        conversation.pulse.thread_of = self._flights.thread_of

    def infer(self, received: Frame) -> None:
        """Hand a request to a thread."""
        if not self._flights.room(2 * self._most):
            self._seals.spare(received)
            self._channel.send(too_many(received.request))
            return
        flight = self._flights.add(received)
        if flight is None:
            self._seals.spare(received)
            return
        if len(self._threads) < min(self._most, len(self._flights)):
            thread = threading.Thread(target=self._run, name=f"mer-request-{len(self._threads) + 1}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # as many as this machine, or the version's memory, has room for
                if not self._threads:
                    raise
            else:
                self._threads.append(thread)
        self._waiting.put(flight)

    def take(self, received: Frame) -> None:
        """Seal inputs as any request, release them, or let a request have its part, or its credit."""
        if received.kind == Kind.SEAL:
            self.infer(received)
        elif received.kind == Kind.RELEASE:
            self._channel.send(self._seals.release(received))
        else:
            self._flights.take(received)

    def close(self) -> None:
        """Let the threads end; one that does not is left to the process's end."""
        end = time.monotonic() + _CLOSE_SECONDS
        self._flights.abandon()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _parts_of(self, flight: Flight, flags: int) -> Union[ThreadFlow, tuple[()]]:
        if not flags & IN_PARTS:
            return ()
        flight.flow = flow = ThreadFlow(self._conversation, flight, flags, self._runner.arrays)
        return flow

    # --- in a thread of its own

    def _run(self) -> None:
        while True:
            flight = self._waiting.get()
            if flight is None:
                return
            answered = False
            try:
                if self._flights.begin(flight):
                    answered = self._serve(flight)
                else:
                    answered = True
                    self._seals.spare(flight.frame)
            except OSError:  # the driver is gone; the listening thread ends this process
                return
            except BaseException as error:  # noqa: BLE001 - an interrupt may come on the way out of the handler
                self._end(flight)
                if not answered:
                    self._channel.send(failure_of(self._conversation, error, flight, self._seals))
            finally:
                self._flights.end(flight)

    def _serve(self, flight: Flight) -> bool:
        """Run the handler and answer; True once that is done."""
        conversation, request = self._conversation, flight.request
        try:
            inputs = inputs_of(flight, self._runner.arrays, self._seals)
        except (WireError, MemoryError, Failure) as error:
            self._channel.send(error_frame(conversation.unreadable(error), request))
            return True
        message: tuple[Any, ...] = ()
        outputs = None
        try:
            try:
                self._begin(flight)
                outputs = self._outputs(flight, inputs)
            finally:
                self._end(flight)
            del inputs
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            self._end(flight)
            message = (failure_of(conversation, error, flight, self._seals),)
        with conversation.naming:
            message = message or self._answer(flight, outputs)
            self._flights.end(flight)  # a cancel from here on is too late
            self._channel.send(*message)
        return True

    def _answer(self, flight: Flight, outputs: Any) -> tuple[Any, ...]:
        try:
            return answer(self._conversation, flight, outputs, self._seals)
        except BaseException as error:  # noqa: BLE001 - what the author has given may raise anything
            return (failure_of(self._conversation, error, flight, self._seals),)

    def _outputs(self, flight: Flight, inputs: Any) -> Any:
        """Return the handler's outputs: all of them, or those that come last, after the parts. Or what was staged."""
        runner, flow = self._runner, flight.flow
        if flight.handle:
            return runner.seal(inputs)
        if not isinstance(flow, ThreadFlow) or not flow.streams:
            return runner.infer(inputs, flight.context)
        outputs = runner.begin(inputs, flight.context)
        return send_all(flow, runner, outputs) if is_parts(outputs) else outputs

    def _begin(self, flight: Flight) -> None:
        self._voices.begin(flight.request)
        current.set(flight)
        flight.thread = threading.get_ident()
        self._flights.arm(flight, _interrupt)
        with flight.lock:
            flight.open = True
            wanted, flight.told = flight.told < flight.cancelled, flight.cancelled
        if wanted:  # since it was armed
            raise Cancelled

    def _end(self, flight: Flight) -> None:
        """End the stretch in which it may be interrupted; may be called again, where the end itself was interrupted."""
        with flight.lock:
            flight.open = False
            if flight.interrupted:
                _send(flight.thread, None)  # one that is still on its way would hit the next request
            flight.interrupted = False
            flight.told = flight.cancelled
        self._voices.end(flight.request)
        current.set(None)


def _interrupt(flight: Flight) -> None:
    with flight.lock:
        if flight.open and flight.told < flight.cancelled:
            flight.told = flight.cancelled
            flight.interrupted = True
            _send(flight.thread, Cancelled)
    if flight.flow is not None:
        flight.flow.wake()


def _send(thread: int, kind: Optional[type[BaseException]]) -> None:
    """Raise an exception in another thread, or take back one that has not arrived there."""
    try:
        import ctypes  # 2 MB: for a worker that has to stop a thread only
    except ImportError:  # an interpreter without libffi: the handler may look at its context
        return
    argument = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), argument)
