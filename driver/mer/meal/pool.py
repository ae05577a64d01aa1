"""Warm workers, shared by calls of the same version: whose turn it is to have one.

A worker has as many slots as its version runs requests at once. Where all slots are taken and callers wait, further
workers are started, up to the version's `max`; idle ones end after a while, down to its `min` (mer.meal.crew). What a host
could be asked to do is bounded: workers altogether, workers a version, callers that wait. A version whose workers die is
set aside for a bounded time (mer.meal.histories).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, MutableMapping

from mer.core.errors import Busy, HandleUnknown, MerError, WorkerLost
from mer.meal.calls import LogCallback
from mer.meal.crew import Crew
from mer.meal.histories import Histories
from mer.meal.host import Host
from mer.meal.plan import WeightFile, WorkerPlan
from mer.meal.pooled import Key, PooledWorker, Room, Waiter, key_of, slots_of
from mer.meal.session import Session

__all__ = ["Pool", "WeightFile", "WorkerPlan"]

MOST_WAITING = 256
"""Callers in the queue; the next one is told "busy" at once."""

SET_ASIDE_SECONDS = 30.0
"""How long a version whose workers died while loading is not tried again."""


class Pool:
    """The workers of one driver process, and the callers who wait for them."""

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
        self._most_waiting = most_waiting
        self._clock = clock
        self.waiting: list[Waiter] = []
        """The queue."""
        self._histories = Histories(set_aside_seconds=set_aside_seconds, clock=clock)
        self._crew = Crew(
            idle_seconds=idle_seconds,
            max_workers=max_workers,
            workers_per_key=workers_per_key,
            histories=self._histories,
            clock=clock,
            freed=self._next,
            wanted=self._wanted,
            unreachable=self._unreachable,
        )

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
        key = key_of(host, plan, owner)
        worker = await self._turn(Waiter(key, host, plan, asyncio.get_running_loop().create_future(), session))
        queued = self._clock()
        if timings is not None:
            timings["queue_us"] = int(1e6 * (queued - began))  # who gives up a start sees by it that it was his turn
        while worker.session is None:
            try:
                await self._crew.started(worker, on_log)
            except BaseException as error:
                self.give_back(worker)
                if not isinstance(error, MerError) or not self._crew.others(worker):
                    raise
                waiter = Waiter(key, host, plan, asyncio.get_running_loop().create_future())
                worker = await self._turn(waiter, first=True)
                queued = self._clock()
        session = worker.session
        try:
            worker.listen(on_log)
            if timings is not None:
                timings["queue_us"] = int(1e6 * (queued - began))
                timings["start_us"] = int(1e6 * (self._clock() - queued))
            yield session
        finally:
            self.give_back(worker, on_log)

    def take_warm(self, key: Key, on_log: LogCallback | None = None) -> PooledWorker | None:
        """Give a slot of a warm worker (pooled.key_of) if one is free and nobody waits, else None; `give_back` it.

        What `worker` does, without what waiting needs, which costs a small call more than the call itself.

        Raises:
            MerError: as `worker`.
        """
        if self.waiting:
            return None
        worker = self._crew.last.get(key)
        if worker is None or not worker.unused:
            worker = self._crew.free(key)
            if worker is None:
                self._check(key)
                return None
        worker.take()
        worker.listeners.append(on_log)
        return worker

    def give_back(self, worker: PooledWorker, on_log: LogCallback | None = None, *, settled: bool = False) -> None:
        """Take back what `take_warm` gave; `settled`: the caller's request has its answer."""
        if settled and worker.taken == 1 and not self.waiting and self._crew.rest_at_once(worker):
            worker.listeners.clear()
            return
        worker.ignore(on_log)
        self._crew.give_back(worker)

    def hold(self, session: Session) -> None:
        """Keep a worker from ending for want of callers: something is sealed there. `let_go` as often as this."""
        for worker in self._crew.workers:
            if worker.session is session:
                worker.held += 1

    def let_go(self, session: Session) -> None:
        """Let a worker end again: what was sealed there was run or released."""
        self._crew.let_go(session)

    def leave(self, host: Host) -> None:
        """Give no worker of a host to further callers: its server is reached in another way from now on."""
        self._crew.leave(host)

    def require_room(self) -> None:
        """Raise Busy where as many wait for a worker as may: asked before a call is put on record as started."""
        waiting = len(self.waiting)
        if waiting >= self._most_waiting:
            raise Busy(
                f"{waiting} calls wait for a worker, and no more than {self._most_waiting} may;"
                f" {self.workers} of {self._crew.max_workers} workers are there",
                hint="Try again later; MER_MAX_WORKERS and a version's --max-workers allow more workers.",
            )

    def warm(self, host: Host, plan: WorkerPlan, *, owner: str | None = None) -> Session | None:
        """Return the conversation with a worker of this version that is loaded, to look at; it stays who it is taken by."""
        key = key_of(host, plan, owner)
        loaded = (worker for worker in self._crew.workers if worker.key == key and worker.counts and worker.session)
        return next((worker.session for worker in loaded), None)

    @property
    def workers(self) -> int:
        """How many there are, those that start or end included."""
        return len(self._crew.workers)

    async def close(self) -> None:
        """End every worker. Callers that wait or run get WorkerLost."""
        self._crew.closed = True  # before anybody who waits is told, and comes again
        for waiter in self.waiting:
            if not waiter.turn.done():
                waiter.turn.set_exception(WorkerLost("the pool was closed"))
        self.waiting.clear()
        await self._crew.close()

    # --- whose turn it is

    async def _turn(self, waiter: Waiter, *, first: bool = False) -> PooledWorker:
        """Return a worker of this key, or room for one to be started, in the order in which callers came.

        `first`: he has waited before, and comes before all others.
        """
        self._check(waiter.key)
        if not self.waiting and waiter.session is None:
            free = self._crew.free(waiter.key)
            if free is not None:  # the shortest way of all: warm, and nobody before him
                free.take()
                return free
        if not first:
            self.require_room()
        self.waiting.insert(0 if first else len(self.waiting), waiter)
        self._next()
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter in self.waiting:
                self.waiting.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self._crew.give_back(waiter.turn.result())  # it was his turn just now
            raise

    def _wanted(self, key: Key) -> bool:
        """Whether somebody waits for a worker of this key."""
        return any(waiter.key == key and not waiter.turn.done() for waiter in self.waiting)

    def _check(self, key: Key) -> None:
        if self._crew.closed:
            raise WorkerLost("the pool was closed")
        if not self._crew.serves(key):  # one that is well serves on, though another could not be started beside it
            self._histories.check(key)

    def _next(self) -> None:
        """Give every waiting caller what is free for him, the first come first."""
        if not self.waiting:
            return
        crew = self._crew
        rooms: dict[Host | None, Room] = {}
        coming: dict[Key, int] = {}
        wanted: dict[Key, int] = {}
        for worker in crew.workers:
            if worker.session is None:  # its further slots are for who waits, once it is loaded
                coming[worker.key] = coming.get(worker.key, 0) + worker.free
        for waiter in list(self.waiting):
            if waiter.turn.done():  # he has given up, and not heard so himself yet
                continue
            try:
                self._check(waiter.key)
            except MerError as error:  # its workers died while he waited
                self.waiting.remove(waiter)
                waiter.turn.set_exception(error)
                continue
            if waiter.session is not None:
                self._next_of(waiter, waiter.session)
                continue
            found = crew.free(waiter.key)
            if found is None and coming.get(waiter.key, 0) > 0:
                coming[waiter.key] -= 1
                continue
            if found is None:
                found = crew.new(waiter.key, waiter.host, waiter.plan)
                if found is not None:
                    coming[waiter.key] = coming.get(waiter.key, 0) + found.slots - 1
            if found is not None:
                self._give(waiter, found)
            elif crew.may_start(waiter.key, waiter.plan, beside=wanted.get(waiter.key, 0)):
                wanted[waiter.key] = wanted.get(waiter.key, 0) + 1
                coming[waiter.key] = coming.get(waiter.key, 0) + slots_of(waiter.plan) - 1
                self._await_room(waiter, rooms)

    def _await_room(self, waiter: Waiter, rooms: dict[Host | None, Room]) -> None:
        """Let a caller have the room of a worker that ends, or see that one does: on his host, where that is full."""
        crew = self._crew
        place = crew.narrow(waiter.host)
        room = rooms.get(place)
        if room is None:
            room = rooms[place] = Room.among(crew.within(place))
        room.ending -= 1  # the room of a worker that ends is his
        if room.ending < 0 and not crew.make_room(place) and not crew.serves(waiter.key):
            room.leaving -= 1  # so is that of one that is to end after its callers
            if room.leaving < 0:
                crew.retire(place)

    def _unreachable(self, host: Host, error: MerError) -> None:
        """Tell those who wait for a host that lets nobody in: each of them would try, one after the other."""
        for waiter in list(self.waiting):
            unserved = waiter.session is None and not self._crew.serves_now(waiter.key)
            if waiter.host is host and unserved and not waiter.turn.done():
                self.waiting.remove(waiter)
                waiter.turn.set_exception(error.again())

    def _next_of(self, waiter: Waiter, session: Session) -> None:
        """Give a caller the very worker that he needs, once it is free."""
        workers = self._crew.workers
        found = next((worker for worker in workers if worker.session is session and not worker.closing), None)
        if found is None or session.lost is not None:
            why = "it was not used any more" if session.lost is None else session.lost.message
            self.waiting.remove(waiter)
            waiter.turn.set_exception(HandleUnknown(f"the worker that had the sealed inputs has ended: {why}"))
        elif found.taken < found.slots:  # also one that is worn: what was sealed is nowhere else
            self._give(waiter, found)

    def _give(self, waiter: Waiter, worker: PooledWorker) -> None:
        worker.take()
        self.waiting.remove(waiter)
        waiter.turn.set_result(worker)
