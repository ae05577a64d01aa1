"""Several requests at once as tasks of one event loop, in the main thread: for handlers that are coroutine functions.

Another thread reads, since the loop is the model's. A request is stopped as asyncio stops tasks; where the handler does
not come to an `await`, the second cancel interrupts the very step that runs.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time

from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Cancelled
from mer_worker.serving.answering import answer, failure_of, inputs_of, too_many
from mer_worker.serving.flights import Flight, Flights, current
from mer_worker.serving.flows import IN_PARTS, NO_PARTS, TaskFlow
from mer_worker.serving.seals import Seals
from mer_worker.serving.voices import Voices
from mer_worker.wire import Kind, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, Optional, Union

    from mer_worker.conversation import Conversation
    from mer_worker.interrupts import Interrupts
    from mer_worker.runners.python import PythonRunner
    from mer_worker.serving.flows import NoParts
    from mer_worker.wire import Frame

_CLOSE_SECONDS = 1.0
"""What tasks get to end after they were cancelled, when the conversation is over."""

_TURN_SECONDS = 0.001
"""How long a generator that never waits may go on before the other requests have a turn: little beside a reader's delay,
and much beside what the turn costs."""


class Tasks:
    """Up to `most` requests at a time; as many again may wait, and then reading stops (but see Flights.room)."""

    kinds: frozenset[int] = frozenset({Kind.SEAL, Kind.RELEASE, Kind.PART, Kind.CREDIT})

    def __init__(self, runner: PythonRunner, conversation: Conversation, most: int) -> None:
        self._runner = runner
        self._conversation = conversation
        self._channel = conversation.channel
        self._loop = _event_loop()  # before the semaphore, which Python 3.9 ties to the loop that is set
        self._slots = asyncio.Semaphore(most)
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self._seals = Seals()
        """Touched in the loop alone, whose thread the model knows."""
        self._flights = Flights(
            lambda request: self._channel.send(error_frame(conversation.stopped(request), request)), self._parts_of
        )
        self._voices = Voices(conversation.channel, conversation.interrupts, conversation.limits.log_bytes)
        self._voices.install()
        conversation.logs.several = self._voices
        conversation.interrupts.several = self._flights
        conversation.pulse.several = self._flights.running

    def drive(self, converse: Callable[[], None]) -> None:
        """Run the loop in the calling, main thread until `converse` has returned, which runs in another.

        Raises:
            BaseException: what `converse` has raised.
        """
        ended: list[BaseException] = []

        def read() -> None:
            try:
                converse()
            except BaseException as error:  # noqa: BLE001 - raised again in the main thread
                ended.append(error)
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)

        threading.Thread(target=read, name="mer-reader", daemon=True).start()
        self._loop.run_forever()
        if ended:
            raise ended[0]

    def infer(self, received: Frame) -> None:
        """Hand a request to the loop. Called by the reading thread."""
        if not self._flights.room(2 * self._most):
            self._loop.call_soon_threadsafe(self._seals.spare, received)
            self._channel.send(too_many(received.request))
            return
        flight = self._flights.add(received)
        if flight is not None:
            self._loop.call_soon_threadsafe(self._begin, flight)
        else:
            self._loop.call_soon_threadsafe(self._seals.spare, received)

    def take(self, received: Frame) -> None:
        """Seal inputs as any request, release them, or let a request have its part, or its credit.

        Called by the reading thread.
        """
        if received.kind == Kind.SEAL:
            self.infer(received)
        elif received.kind == Kind.RELEASE:
            self._loop.call_soon_threadsafe(self._release, received)
        else:
            self._flights.take(received)

    def close(self) -> None:
        """Cancel what still runs, and give it a moment."""
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS))
        self._loop.close()

    def _parts_of(self, flight: Flight, flags: int) -> Union[TaskFlow, NoParts]:
        if not flags & IN_PARTS:
            return NO_PARTS
        flight.flow = flow = TaskFlow(self._conversation, flight, flags, self._runner.arrays, self._loop)
        return flow

    # --- in the loop

    def _release(self, received: Frame) -> None:
        self._channel.send(self._seals.release(received))

    def _begin(self, flight: Flight) -> None:
        task = self._loop.create_task(self._serve(flight))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, flight: Flight) -> None:
        """Run the handler and answer."""
        try:
            async with self._slots:
                if not self._flights.begin(flight):  # it was cancelled, and answered, while it waited
                    self._seals.spare(flight.frame)
                    return
                message = await self._outcome(flight)
            self._flights.end(flight)  # a cancel from here on is too late
            self._channel.send(*message)
        finally:
            self._flights.end(flight)

    async def _outcome(self, flight: Flight) -> tuple[Any, ...]:
        """Return the answer's frame, in pieces."""
        conversation, runner, request = self._conversation, self._runner, flight.request
        try:
            inputs = inputs_of(flight, runner.arrays, self._seals)
        except (WireError, MemoryError, Failure) as error:
            return (error_frame(conversation.unreadable(error), request),)
        task = asyncio.current_task()
        self._voices.begin(request)
        current.set(flight)
        try:
            self._flights.arm(flight, lambda flight: self._stop(flight, task))
            outputs = await self._outputs(flight, inputs)
            return answer(conversation, flight, outputs, self._seals)
        except asyncio.CancelledError:
            return (failure_of(conversation, Cancelled(), flight, self._seals),)
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            return (failure_of(conversation, error, flight, self._seals),)
        finally:
            self._voices.end(request)

    async def _outputs(self, flight: Flight, inputs: Any) -> Any:
        """Return the handler's outputs: all of them, or none after the parts that were sent. Or what was staged."""
        runner, flow = self._runner, flight.flow
        if flight.handle:
            return await self._steps(flight, self._staged(inputs))
        outputs = runner.call(inputs, flight.context)
        if not _is_parts(outputs):
            outputs = await self._steps(flight, outputs)
        if isinstance(flow, TaskFlow) and flow.streams and _is_parts(outputs):
            await self._send_all(flight, flow, outputs)
            return {}
        return runner.checked(outputs)

    async def _staged(self, inputs: Any) -> Any:
        staged = self._runner.seal(inputs)
        return await staged if asyncio.iscoroutine(staged) else staged

    async def _send_all(self, flight: Flight, flow: TaskFlow, parts: Any) -> None:
        """Send what an async generator yields. Raises: as the handler, and as `flow.send`."""
        turn = time.monotonic()
        try:
            while True:
                await flow.wait_for_credit()  # first: a reader that is slow stops his generator itself
                if time.monotonic() - turn > _TURN_SECONDS:
                    await asyncio.sleep(0)
                    turn = time.monotonic()
                try:
                    part = await self._steps(flight, parts.__anext__())
                except StopAsyncIteration:
                    return
                flow.send(self._runner.checked(part))
        except GeneratorExit:  # the loop is closed: nothing can be awaited any more
            raise
        except BaseException:
            await self._close(flight, parts)
            raise

    async def _close(self, flight: Flight, parts: Any) -> None:
        """End a generator early: its `finally` runs. What it raises then is printed, since the outcome stands.

        Further cancels reach it there, and in the end its worker's does.
        """
        ending = getattr(parts, "aclose", None)
        if ending is None:
            return
        try:
            await self._steps(flight, ending())
        except (asyncio.CancelledError, Cancelled):
            pass
        except BaseException:  # noqa: BLE001 - the author's code may raise anything
            import traceback

            traceback.print_exc()

    def _steps(self, flight: Flight, awaitable: Any) -> _Steps:
        return _Steps(awaitable, self._conversation.interrupts, flight)

    def _stop(self, flight: Flight, task: Optional[asyncio.Task[Any]]) -> None:
        """Called by whoever cancels, in his thread."""
        if flight.cancelled == 1 and task is not None:
            self._loop.call_soon_threadsafe(task.cancel)
        else:
            self._conversation.interrupts.interrupt(flight.request)
            self._loop.call_soon_threadsafe(self._stop_again, flight, task)

    def _stop_again(self, flight: Flight, task: Optional[asyncio.Task[Any]]) -> None:
        """Cancel a task once more, which caught the first cancel or cleans up for long, if no step of it was interrupted."""
        if not flight.interrupted and task is not None:
            task.cancel()


def _event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop, and set it; on Python 3.9 the one to which locks that the author made while loading are tied."""
    if sys.version_info < (3, 10):
        try:
            there = asyncio.get_event_loop()
        except RuntimeError:  # he has run one of his own, and ended it
            there = None
        if there is not None and not there.is_closed():
            return there
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _is_parts(outputs: Any) -> bool:
    return hasattr(type(outputs), "__anext__")


class _Steps:
    """Awaits a coroutine, and says of each of its steps that it may be interrupted."""

    __slots__ = ("_coroutine", "_flight", "_interrupts", "_request")

    def __init__(self, awaitable: Any, interrupts: Interrupts, flight: Flight) -> None:
        if not hasattr(awaitable, "send"):
            if not hasattr(type(awaitable), "__await__"):
                raise Failure("output", "output-invalid", f"the handler gave {type(awaitable).__name__}: no coroutine")
            awaitable = awaitable.__await__()
        self._coroutine = awaitable
        self._interrupts = interrupts
        self._flight = flight
        self._request = flight.request

    def __await__(self) -> Generator[Any, Any, Any]:
        return self

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        interrupts = self._interrupts
        try:
            interrupts.enter(self._request)
            try:
                return self._coroutine.send(value)
            finally:
                interrupts.end()
        except Cancelled:
            interrupts.end()  # it may have come on the way there
            self._flight.interrupted = True
            raise

    def throw(self, *error: Any) -> Any:
        interrupts = self._interrupts
        try:
            interrupts.enter(self._request)
            try:
                return self._coroutine.throw(*error)
            finally:
                interrupts.end()
        except Cancelled:
            interrupts.end()
            self._flight.interrupted = True
            raise
        finally:
            del error  # its traceback has this frame: a circle, which would keep what the handler held

    def close(self) -> None:
        self._coroutine.close()
