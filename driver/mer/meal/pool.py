"""Warm workers: kept for a while after a call, shared by calls of the same version, replaced when they are lost.

A worker has as many slots as its version runs requests at once. Where all slots are taken and callers wait, further
workers are started, up to the version's `max`; idle ones end after a while, down to its `min`. What a host could be asked
to do is bounded: workers altogether, workers a version, callers that wait. A version whose workers die is set aside for a
bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping

from mer.core.errors import Busy, HandleUnknown, MerError, WorkerLost
from mer.meal.calls import LogCallback
from mer.meal.host import Host
from mer.meal.plan import WeightFile, WorkerPlan
from mer.meal.pooled import History, Key, PooledWorker, Waiter, slots_of
from mer.meal.session import Session
from mer.meal.starting import delay, start

__all__ = ["Pool", "WeightFile", "WorkerPlan"]

MOST_WAITING = 256
"""Callers in the queue; the next one is told "busy" at once."""

SET_ASIDE_SECONDS = 30.0
"""How long a version whose workers died while loading is not tried again."""


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
        """Keep an idle worker for `idle_seconds`, and no more than `max_workers`.

        `workers_per_key` of one version, or as many as the version says.
        """
        self._idle_seconds = idle_seconds
        self._max_workers = max_workers
        self._per_key = workers_per_key
        self._most_waiting = most_waiting
        self._set_aside = set_aside_seconds
        self._clock = clock
        self._workers: list[PooledWorker] = []
        self._waiting: list[Waiter] = []
        self._histories: dict[Key, History] = {}
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
        session: Session | None = None,
    ) -> AsyncIterator[Session]:
        """Give a worker with this version loaded, warm or started now: a slot of it, which is for the caller alone.

        `owner` is whose state a stateful worker keeps. `timings` gets `queue_us` and `start_us`. With `session` it is the
        worker of that conversation and no other.

        Raises:
            Busy: too many wait already.
            HandleUnknown: the worker of that conversation has ended.
            MerError: the worker could not be started (mer.meal.starting), now or a moment ago.
        """
        began = self._clock()
        key = _key(host, plan, owner)
        worker = await self._turn(Waiter(key, host, plan, asyncio.get_running_loop().create_future(), session))
        queued = self._clock()
        try:
            session = worker.session
            if session is None:
                session = await self._started(worker, on_log)
            worker.listen(on_log)
            if timings is not None:
                timings["queue_us"] = int(1e6 * (queued - began))
                timings["start_us"] = int(1e6 * (self._clock() - queued))
            yield session
        finally:
            worker.ignore(on_log)
            self._give_back(worker)

    def take_warm(
        self, host: Host, plan: WorkerPlan, *, owner: str | None = None, on_log: LogCallback | None = None
    ) -> PooledWorker | None:
        """Give a slot of a warm worker if one is free and nobody waits, else None; `give_back` it.

        What `worker` does, without what waiting needs, which costs a small call more than the call itself.

        Raises:
            MerError: as `worker`.
        """
        if self._waiting:
            return None
        key = _key(host, plan, owner)
        self._check(key)
        worker = self._free(key)
        if worker is not None:
            worker.take()
            worker.listen(on_log)
        return worker

    def give_back(self, worker: PooledWorker, on_log: LogCallback | None = None) -> None:
        """Take back what `take_warm` gave."""
        worker.ignore(on_log)
        self._give_back(worker)

    def hold(self, session: Session) -> None:
        """Keep a worker from ending for want of callers: something is sealed there. `let_go` as often as this."""
        for worker in self._workers:
            if worker.session is session:
                worker.held += 1

    def let_go(self, session: Session) -> None:
        """Let a worker end again: what was sealed there was run or released."""
        for worker in self._workers:
            if worker.session is session:
                worker.held -= 1
                worker.idle_since = self._clock()
                if worker.worn and worker.idle:
                    self._end(worker)
                elif worker.idle and self._timer is None:
                    self._set_timer()
        self._next()

    def require_room(self) -> None:
        """Raise Busy where as many wait for a worker as may: asked before a call is put on record as started."""
        waiting = len(self._waiting)
        if waiting >= self._most_waiting:
            raise Busy(
                f"{waiting} calls wait for a worker, and no more than {self._most_waiting} may;"
                f" {len(self._workers)} of {self._max_workers} workers are there",
                hint="Try again later; MER_MAX_WORKERS and a version's --max-workers allow more workers.",
            )

    def warm(self, host: Host, plan: WorkerPlan, *, owner: str | None = None) -> Session | None:
        """Return the conversation with a worker of this version that is loaded, to look at; it stays who it is taken by."""
        key = _key(host, plan, owner)
        loaded = (worker for worker in self._workers if worker.key == key and worker.counts and worker.session)
        return next((worker.session for worker in loaded), None)

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

    async def _turn(self, waiter: Waiter) -> PooledWorker:
        """Return a worker of this key, or room for one to be started, in the order in which callers came."""
        self._check(waiter.key)
        if not self._waiting and waiter.session is None:
            free = self._free(waiter.key)
            if free is not None:  # the shortest way of all: warm, and nobody before him
                free.take()
                return free
        self.require_room()
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
        if not self._waiting:
            return
        ending = sum(worker.closing for worker in self._workers)
        coming: dict[Key, int] = {}
        for worker in self._workers:
            if worker.session is None:  # its further slots are for who waits, once it is loaded
                coming[worker.key] = coming.get(worker.key, 0) + worker.free
        for waiter in list(self._waiting):
            if waiter.turn.done():  # he has given up, and not heard so himself yet
                continue
            try:
                self._check(waiter.key)
            except MerError as error:  # its workers died while he waited
                self._waiting.remove(waiter)
                waiter.turn.set_exception(error)
                continue
            if waiter.session is not None:
                self._next_of(waiter, waiter.session)
                continue
            found = self._free(waiter.key)
            if found is None and coming.get(waiter.key, 0) > 0:
                coming[waiter.key] -= 1
                continue
            if found is None:
                found = self._new(waiter)
                if found is not None:
                    coming[waiter.key] = coming.get(waiter.key, 0) + found.slots - 1
            if found is not None:
                found.take()
                self._waiting.remove(waiter)
                waiter.turn.set_result(found)
            elif self._may_start(waiter):
                ending -= 1  # the room of a worker that ends is his
                if ending < 0:
                    self._make_room()

    def _next_of(self, waiter: Waiter, session: Session) -> None:
        """Give a caller the very worker that he needs, once it is free."""
        found = next((worker for worker in self._workers if worker.session is session and not worker.closing), None)
        if found is None or session.lost is not None:
            why = "it was not used any more" if session.lost is None else session.lost.message
            self._waiting.remove(waiter)
            waiter.turn.set_exception(HandleUnknown(f"the worker that had the sealed inputs has ended: {why}"))
        elif found.taken < found.slots:  # also one that is worn: what was sealed is nowhere else
            found.take()
            self._waiting.remove(waiter)
            waiter.turn.set_result(found)

    def _check(self, key: Key) -> None:
        if self._closed:
            raise WorkerLost("the pool was closed")
        history = self._histories.get(key)
        if history is not None and history.refused is not None:
            left = history.not_before - self._clock()
            if left > 0:
                raise type(history.refused)(f"{history.refused.message} (not tried again for {left:.0f} s)")
            del self._histories[key]

    def _free(self, key: Key) -> PooledWorker | None:
        """Return a warm worker with a free slot: one that has few callers, and among those the one used last."""
        free = [worker for worker in self._workers if worker.key == key and worker.session and worker.free > 0]
        # the one used last: its memory is warm too
        return min(free, key=lambda worker: (worker.taken, -worker.idle_since), default=None)

    def _new(self, waiter: Waiter) -> PooledWorker | None:
        """Return a worker to be started, where there is room."""
        if len(self._workers) >= self._max_workers or not self._may_start(waiter):
            return None
        worker = PooledWorker(waiter.key, waiter.host, waiter.plan, slots_of(waiter.plan))
        self._workers.append(worker)
        return worker

    def _may_start(self, waiter: Waiter) -> bool:
        """Whether this key may have one worker more, once there is room."""
        most = max(self._per_key, waiter.plan.spec.workers.max)
        return sum(worker.key == waiter.key and worker.counts for worker in self._workers) < most

    def _make_room(self) -> None:
        """End the worker that has been idle longest."""
        idle = [worker for worker in self._workers if worker.idle]
        if idle:
            self._end(min(idle, key=lambda worker: worker.idle_since))

    async def _started(self, worker: PooledWorker, on_log: LogCallback | None) -> Session:
        """Return the worker's session once it is loaded: a task does it, so that `close` can end it on the way."""
        worker.starting = task = asyncio.get_running_loop().create_task(self._start(worker, on_log))
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if worker.closing and caller is not None and not caller.cancelling():
                raise WorkerLost("the pool was closed") from None
            raise

    async def _start(self, worker: PooledWorker, on_log: LogCallback | None) -> Session:
        history = self._histories.get(worker.key)
        if history is not None:
            await asyncio.sleep(max(0.0, history.not_before - self._clock()))
        try:
            session = await start(worker.host, worker.plan, arrays=worker.plan.spec.arrays, on_log=on_log)
        except WorkerLost as error:
            self._remember(worker.key, refused=error)
            raise
        worker.session = session
        session.when_lost(lambda: self._crashed(worker))
        self._fill(worker)
        self._next()  # its other slots
        return session

    def _fill(self, first: PooledWorker) -> None:
        """Start, beside a worker that could be started, those that the version wants to be warm."""
        there = sum(worker.key == first.key and worker.counts for worker in self._workers)
        for _ in range(first.plan.spec.workers.min - there):
            if len(self._workers) >= self._max_workers or self._closed:
                return
            worker = PooledWorker(first.key, first.host, first.plan, first.slots, taken=1)
            self._workers.append(worker)
            self._spawn(self._warm_up(worker))

    async def _warm_up(self, worker: PooledWorker) -> None:
        try:
            await self._started(worker, None)
        except MerError:  # whoever calls next starts one, and is told
            pass
        finally:
            self._give_back(worker)

    def _crashed(self, worker: PooledWorker) -> None:
        """A worker ended that nobody had ended: the next start waits a little longer each time."""
        if not worker.closing:
            self._remember(worker.key)
            worker.worn = True
            if not worker.taken:
                self._end(worker)
            self._next()  # who waits may have another one

    def _remember(self, key: Key, refused: MerError | None = None) -> None:
        history = self._histories.setdefault(key, History())
        history.crashes += 1
        history.refused = refused
        history.not_before = self._clock() + (self._set_aside if refused else delay(history.crashes - 1))

    def _give_back(self, worker: PooledWorker) -> None:
        session = worker.session
        lost = self._closed or session is None or session.lost is not None
        if not lost and session is not None and session.busy and worker.slots == 1:
            self._spawn(self._settle(worker, session))  # a cancelled request is still being stopped
            return
        self._rest(worker, lost=lost)

    async def _settle(self, worker: PooledWorker, session: Session) -> None:
        await session.settled()
        self._rest(worker, lost=self._closed or session.lost is not None)

    def _rest(self, worker: PooledWorker, *, lost: bool) -> None:
        """Take a slot back."""
        worker.taken -= 1
        worker.idle_since = self._clock()
        if lost:
            worker.worn = True
        else:
            self._forgive(worker.key)
        if worker.worn and not worker.taken and (lost or not worker.held):
            self._end(worker)
        self._next()
        if worker.idle and self._timer is None:
            self._set_timer()

    def _forgive(self, key: Key) -> None:
        """Forget the crashes of a key whose workers have been well for a while."""
        history = self._histories.get(key)
        if history is not None and history.refused is None and self._clock() > history.not_before + self._set_aside:
            del self._histories[key]

    # --- the end of a worker

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        idle = [worker.idle_since for worker in self._spare()]
        self._timer = None
        if idle and not self._closed:
            self._timer = loop.call_later(max(0.0, min(idle) + self._idle_seconds - self._clock()), self._end_idle)

    def _end_idle(self) -> None:
        until = self._clock() - self._idle_seconds
        for worker in self._spare():
            if worker.idle_since <= until:
                self._end(worker)
        self._set_timer()

    def _spare(self) -> list[PooledWorker]:
        """Return the idle workers that their versions do not want to be kept, those idle longest first."""
        kept: dict[Key, int] = {}
        spare: list[PooledWorker] = []
        for worker in sorted(self._workers, key=lambda worker: (worker.idle, -worker.idle_since)):
            if not worker.counts:
                continue
            kept[worker.key] = kept.get(worker.key, 0) + 1
            if worker.idle and kept[worker.key] > worker.plan.spec.workers.min:
                spare.append(worker)
        return spare[::-1]

    def _end(self, worker: PooledWorker) -> None:
        if not worker.closing:
            worker.closing = True
            self._spawn(self._close(worker))

    async def _close(self, worker: PooledWorker) -> None:
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


def _key(host: Host, plan: WorkerPlan, owner: str | None) -> Key:
    return host.name, plan.key, owner if plan.spec.stateful else None
