"""Warm workers: kept for a while after a call, shared by calls of the same version, replaced when they are lost.

A caller has a worker for himself while he uses it. What a host could be asked to do is bounded: workers altogether,
workers a version, callers that wait. A version whose workers die is set aside for a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping
from dataclasses import dataclass, field

from mer.core.errors import Busy, MerError, WorkerLost
from mer.meal.calls import LogCallback
from mer.meal.host import Host
from mer.meal.plan import WeightFile, WorkerPlan
from mer.meal.session import Session
from mer.meal.starting import delay, start

__all__ = ["Pool", "WeightFile", "WorkerPlan"]

MOST_WAITING = 256
"""Callers in the queue; the next one is told "busy" at once."""

SET_ASIDE_SECONDS = 30.0
"""How long a version whose workers died while loading is not tried again."""

Key = tuple[str, str, str | None]
"""Host, plan, and the owner where the worker has a state."""


@dataclass(slots=True, eq=False)
class _Worker:
    key: Key
    session: Session | None = None
    """None while it starts."""
    starting: asyncio.Task[Session] | None = None
    used: bool = True
    idle_since: float = 0.0
    closing: bool = False


@dataclass(slots=True)
class _History:
    """What is remembered of a key that failed."""

    crashes: int = 0
    not_before: float = 0.0
    refused: MerError | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    key: Key
    turn: asyncio.Future[_Worker] = field(repr=False)


class Pool:
    """The workers of one driver process."""

    def __init__(
        self,
        *,
        idle_seconds: float = 300.0,
        max_workers: int = 8,
        workers_per_key: int = 1,
        most_waiting: int = MOST_WAITING,
        set_aside_seconds: float = SET_ASIDE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep an idle worker for `idle_seconds`, and no more than `max_workers`, `workers_per_key` of one version."""
        self._idle_seconds = idle_seconds
        self._max_workers = max_workers
        self._per_key = workers_per_key
        self._most_waiting = most_waiting
        self._set_aside = set_aside_seconds
        self._clock = clock
        self._workers: list[_Worker] = []
        self._waiting: list[_Waiter] = []
        self._histories: dict[Key, _History] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @contextlib.asynccontextmanager
    async def worker(
        self,
        host: Host,
        plan: WorkerPlan,
        *,
        owner: str | None = None,
        on_log: LogCallback | None = None,
        timings: MutableMapping[str, int] | None = None,
    ) -> AsyncIterator[Session]:
        """Give a worker with this version loaded, warm or started now, for the caller alone.

        `owner` is whose state a stateful worker keeps. `timings` gets `queue_us` and `start_us`.

        Raises:
            Busy: too many wait already.
            MerError: the worker could not be started (mer.meal.starting), now or a moment ago.
        """
        began = self._clock()
        key: Key = (host.name, plan.key, owner if plan.spec.stateful else None)
        worker = await self._turn(key)
        queued = self._clock()
        try:
            session = worker.session
            if session is None:
                session = await self._started(host, plan, worker, on_log)
            session.on_log = on_log
            if timings is not None:
                timings["queue_us"] = int(1e6 * (queued - began))
                timings["start_us"] = int(1e6 * (self._clock() - queued))
            yield session
        finally:
            self._give_back(worker)

    def require_room(self) -> None:
        """Raise Busy where as many wait for a worker as may: asked before a call is put on record as started."""
        if len(self._waiting) >= self._most_waiting:
            raise Busy(f"{len(self._waiting)} calls wait for a worker already")

    @property
    def workers(self) -> int:
        """How many there are, those that start or end included."""
        return len(self._workers)

    async def close(self) -> None:
        """End every worker. Callers that wait or run get WorkerLost."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for waiter in self._waiting:
            if not waiter.turn.done():
                waiter.turn.set_exception(WorkerLost("the pool was closed"))
        self._waiting.clear()
        for worker in list(self._workers):
            self._end(worker)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- whose turn it is

    async def _turn(self, key: Key) -> _Worker:
        """Return a worker of this key, or room for one to be started, in the order in which callers came."""
        self._check(key)
        self.require_room()
        waiter = _Waiter(key, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._next()
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self._give_back(waiter.turn.result())  # it was his turn just now
            raise

    def _next(self) -> None:
        """Give every waiting caller what is free for him, the first come first."""
        ending = sum(worker.closing for worker in self._workers)
        for waiter in list(self._waiting):
            if waiter.turn.done():  # he has given up, and not heard so himself yet
                continue
            try:
                self._check(waiter.key)
                worker = self._free(waiter.key)
            except MerError as error:  # its workers died while he waited
                self._waiting.remove(waiter)
                waiter.turn.set_exception(error)
                continue
            if worker is not None:
                worker.used = True
                self._waiting.remove(waiter)
                waiter.turn.set_result(worker)
            elif self._may_start(waiter.key):
                ending -= 1  # the room of a worker that ends is his
                if ending < 0:
                    self._make_room()

    def _check(self, key: Key) -> None:
        if self._closed:
            raise WorkerLost("the pool was closed")
        history = self._histories.get(key)
        if history is not None and history.refused is not None:
            left = history.not_before - self._clock()
            if left > 0:
                raise type(history.refused)(f"{history.refused.message} (not tried again for {left:.0f} s)")
            del self._histories[key]

    def _free(self, key: Key) -> _Worker | None:
        """Return a warm worker, or a new one where there is room, or None."""
        warm = [worker for worker in self._workers if worker.key == key and not worker.used and not worker.closing]
        if warm:
            return max(warm, key=lambda worker: worker.idle_since)  # its memory is warm too
        if len(self._workers) >= self._max_workers or not self._may_start(key):
            return None
        worker = _Worker(key)
        self._workers.append(worker)
        return worker

    def _may_start(self, key: Key) -> bool:
        """Whether this key may have one worker more, once there is room."""
        return sum(worker.key == key and not worker.closing for worker in self._workers) < self._per_key

    def _make_room(self) -> None:
        """End the worker that has been idle longest."""
        idle = [worker for worker in self._workers if not worker.used and not worker.closing]
        if idle:
            self._end(min(idle, key=lambda worker: worker.idle_since))

    async def _started(self, host: Host, plan: WorkerPlan, worker: _Worker, on_log: LogCallback | None) -> Session:
        """Return the worker's session once it is loaded: a task does it, so that `close` can end it on the way."""
        worker.starting = task = asyncio.get_running_loop().create_task(self._start(host, plan, worker, on_log))
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if worker.closing and caller is not None and not caller.cancelling():
                raise WorkerLost("the pool was closed") from None
            raise

    async def _start(self, host: Host, plan: WorkerPlan, worker: _Worker, on_log: LogCallback | None) -> Session:
        history = self._histories.get(worker.key)
        if history is not None:
            await asyncio.sleep(max(0.0, history.not_before - self._clock()))
        try:
            session = await start(host, plan, arrays=plan.answers, on_log=on_log)
        except WorkerLost as error:
            self._remember(worker.key, refused=error)
            raise
        worker.session = session
        session.when_lost(lambda: self._crashed(worker))
        return session

    def _crashed(self, worker: _Worker) -> None:
        """A worker ended that nobody had ended: the next start waits a little longer each time."""
        if not worker.closing:
            self._remember(worker.key)
            if not worker.used:
                self._end(worker)

    def _remember(self, key: Key, refused: MerError | None = None) -> None:
        history = self._histories.setdefault(key, _History())
        history.crashes += 1
        history.refused = refused
        history.not_before = self._clock() + (self._set_aside if refused else delay(history.crashes - 1))

    def _give_back(self, worker: _Worker) -> None:
        session = worker.session
        if session is not None:
            session.on_log = None
        if self._closed or session is None or session.lost is not None:
            self._end(worker)
        elif session.busy:  # a cancelled request is still being stopped
            self._spawn(self._settle(worker, session))
        else:
            history = self._histories.get(worker.key)
            if history is not None and history.refused is None and self._clock() > history.not_before + self._set_aside:
                del self._histories[worker.key]
            self._rest(worker)

    async def _settle(self, worker: _Worker, session: Session) -> None:
        await session.settled()
        if self._closed or session.lost is not None:
            self._end(worker)
        else:
            self._rest(worker)

    def _rest(self, worker: _Worker) -> None:
        worker.used = False
        worker.idle_since = self._clock()
        self._next()
        if not worker.used and self._timer is None:
            self._set_timer()

    # --- the end of a worker

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        idle = [worker.idle_since for worker in self._workers if not worker.used and not worker.closing]
        self._timer = None
        if idle and not self._closed:
            self._timer = loop.call_later(max(0.0, min(idle) + self._idle_seconds - self._clock()), self._end_idle)

    def _end_idle(self) -> None:
        until = self._clock() - self._idle_seconds
        for worker in list(self._workers):
            if not worker.used and not worker.closing and worker.idle_since <= until:
                self._end(worker)
        self._set_timer()

    def _end(self, worker: _Worker) -> None:
        if not worker.closing:
            worker.closing = True
            self._spawn(self._close(worker))

    async def _close(self, worker: _Worker) -> None:
        try:
            if worker.starting is not None and not worker.starting.done():
                worker.starting.cancel()
                await asyncio.wait((worker.starting,))
            if worker.session is not None:
                await worker.session.close()
        finally:
            self._workers.remove(worker)
            self._next()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
