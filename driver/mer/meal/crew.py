"""The workers of one pool: started where there is room, replaced when they are lost, ended when nobody needs them.

Whose turn it is, the pool knows (mer.meal.pool); it is told whenever something has become free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator

from mer.core.errors import NOT_LET_IN, MerError, WorkerLost
from mer.meal.calls import LogCallback
from mer.meal.histories import Histories
from mer.meal.host import Host
from mer.meal.plan import WorkerPlan
from mer.meal.pooled import Key, PooledWorker, slots_of
from mer.meal.session import Session
from mer.meal.starting import start


class Crew:
    """The workers that are there, those that start or end included."""

    def __init__(
        self,
        *,
        idle_seconds: float,
        max_workers: int,
        workers_per_key: int,
        histories: Histories,
        clock: Callable[[], float],
        freed: Callable[[], None],
        wanted: Callable[[Key], bool],
        unreachable: Callable[[Host, MerError], None],
    ) -> None:
        """Keep an idle worker for `idle_seconds`; call `freed` when a slot, or room for a worker, has become free.

        `wanted` tells whether somebody waits for a worker of a key; `unreachable` is told of a host that lets nobody in.
        """
        self.max_workers = max_workers
        """How many there may be altogether."""
        self.workers: list[PooledWorker] = []
        self.closed = False
        """Whether no worker is started, and none is given out, any more."""
        self._idle_seconds = idle_seconds
        self._per_key = workers_per_key
        self._histories = histories
        self._clock = clock
        self._freed = freed
        self._wanted = wanted
        self._unreachable = unreachable
        self.last: dict[Key, PooledWorker] = {}
        """A worker of each key that was used of late, until it ends: the next one to be used, if nobody has it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """End every worker."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        for worker in list(self.workers):
            self.end(worker)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- who is there, and who might be

    def free(self, key: Key) -> PooledWorker | None:
        """Return a warm worker with a free slot: one that has few callers, and among those the one used last."""
        free = [worker for worker in self.workers if worker.key == key and worker.session and worker.free > 0]
        # the one used last: its memory is warm too
        return min(free, key=lambda worker: (worker.taken, -worker.idle_since), default=None)

    def new(self, key: Key, host: Host, plan: WorkerPlan) -> PooledWorker | None:
        """Return a worker to be started, where there is room."""
        if self._full(host) or len(self.workers) >= self.max_workers or not self.may_start(key, plan):
            return None
        worker = PooledWorker(key, host, plan, slots_of(plan))
        self.workers.append(worker)
        return worker

    def may_start(self, key: Key, plan: WorkerPlan, *, beside: int = 0) -> bool:
        """Whether this key may have one worker more, once there is room, `beside` so many that are to be started."""
        most = max(self._per_key, plan.spec.workers.max) - beside
        return not self._histories.refuses(key) and sum(self._of(key)) < most

    def serves(self, key: Key) -> bool:
        """Whether there is, or will be, a worker of this key that takes further callers."""
        return any(self._of(key))

    def serves_now(self, key: Key) -> bool:
        """Whether there is a worker of this key that is loaded and takes further callers."""
        return any(worker.key == key and worker.counts and worker.session is not None for worker in self.workers)

    def narrow(self, host: Host) -> Host | None:
        """Return where room is to be made for a worker on this host: there, if it is full; None: anywhere."""
        return host if self._full(host) else None

    def within(self, place: Host | None) -> list[PooledWorker]:
        """Return the workers of a host; None: all."""
        return [worker for worker in self.workers if place is None or worker.host is place]

    def make_room(self, place: Host | None = None) -> bool:
        """End the worker that has been idle longest, of a host or of all; False where none is idle."""
        idle = [worker for worker in self.within(place) if worker.idle]
        if idle:
            self.end(min(idle, key=lambda worker: worker.idle_since))
        return bool(idle)

    def retire(self, place: Host | None = None) -> None:
        """Give one worker no further callers, of those whose callers, or their sealed inputs, might never let it be idle."""
        shared = [worker for worker in self.within(place) if worker.counts and (worker.slots > 1 or worker.held)]
        if shared:
            min(shared, key=lambda worker: (worker.taken, worker.idle_since)).worn = True

    def _full(self, host: Host) -> bool:
        return host.most_workers is not None and len(self.within(host)) >= host.most_workers

    def _of(self, key: Key) -> Iterator[bool]:
        return (worker.key == key and worker.counts for worker in self.workers)

    # --- the beginning of a worker

    async def started(self, worker: PooledWorker, on_log: LogCallback | None) -> Session:
        """Return the worker's session once it is loaded: a task does it, so that `close` can end it on the way.

        A caller who gives up ends it too, unless others wait for what it loads.
        """
        worker.starting = task = asyncio.get_running_loop().create_task(self._start(worker, on_log))
        try:
            session = await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if worker.closing and caller is not None and not caller.cancelling():
                raise WorkerLost("the pool was closed") from None
            if not (worker.closing or self._wanted(worker.key)):
                task.cancel()
            raise
        session.on_log = worker.hear
        return session

    def others(self, worker: PooledWorker) -> bool:
        """Whether other workers, which are loaded, serve the callers of this one."""
        return not self.closed and any(
            other.key == worker.key and other.session is not None and other.counts for other in self.workers
        )

    async def _start(self, worker: PooledWorker, on_log: LogCallback | None) -> Session:
        if wait := self._histories.wait(worker.key):
            await asyncio.sleep(wait)
        try:
            session = await start(worker.host, worker.plan, arrays=worker.plan.spec.arrays, on_log=on_log)
        except MerError as error:
            # beside others that serve, a further one would be short of the same as this one: memory of a GPU, perhaps
            if isinstance(error, WorkerLost) or self.others(worker):
                self._histories.remember(worker.key, refused=error)
            if isinstance(error, NOT_LET_IN):
                self._unreachable(worker.host, error)
            raise
        worker.session = session
        session.when_lost(lambda: self._lost(worker))
        if session.lost is not None:  # it died with its first word
            self._lost(worker)
        self._fill(worker)
        self._freed()  # its other slots
        return session

    def _fill(self, first: PooledWorker) -> None:
        """Start, beside a worker that could be started, those that the version wants to be warm."""
        for _ in range(first.plan.spec.workers.min - sum(self._of(first.key))):
            if self._full(first.host) or len(self.workers) >= self.max_workers or self.closed:
                return
            worker = PooledWorker(first.key, first.host, first.plan, first.slots, taken=1)
            self.workers.append(worker)
            self._spawn(self._warm_up(worker))

    async def _warm_up(self, worker: PooledWorker) -> None:
        try:
            await self.started(worker, None)
        except MerError:  # whoever calls next starts one, and is told
            pass
        finally:
            self.give_back(worker)

    def _lost(self, worker: PooledWorker) -> None:
        """A worker was given up, or has ended by itself: then the next start waits a little longer each time."""
        if not worker.closing:
            assert worker.session is not None
            if worker.session.ladder.given_up is None:
                self._histories.remember(worker.key)
            worker.worn = True
            if not worker.taken:
                self.end(worker)
            self._freed()  # who waits may have another one

    # --- a slot, or what is sealed there, comes back

    def give_back(self, worker: PooledWorker) -> None:
        """Take back a slot, once nothing runs there any more."""
        session, starting = worker.session, worker.starting
        if session is not None and not self.closed and session.lost is None:
            if session.busy and worker.slots == 1:
                self._spawn(self._settle(worker, session))  # a cancelled request is still being stopped
            else:
                self._rest(worker, lost=False)
        elif starting is not None and not (starting.done() or starting.cancelling() or worker.closing):
            self._spawn(self._land(worker, starting))  # others wait for what it loads
        else:
            self._rest(worker, lost=True)

    def rest_at_once(self, worker: PooledWorker) -> bool:
        """Do as `give_back` for the last caller of a worker, whose request is over, where that is all there is to do."""
        if worker.worn or worker.closing or self._timer is None or self._histories.known:
            return False
        worker.taken = 0
        worker.idle_since = self._clock()
        return True

    def let_go(self, session: Session) -> None:
        """Take back what `hold` of a worker was for."""
        for worker in self.workers:
            if worker.session is session:
                worker.held -= 1
                worker.idle_since = self._clock()
                if worker.worn and worker.idle:
                    self.end(worker)
                elif worker.idle and self._timer is None:
                    self._set_timer()
        self._freed()

    async def _land(self, worker: PooledWorker, starting: asyncio.Task[Session]) -> None:
        await asyncio.wait((starting,))
        if not starting.cancelled():
            starting.exception()  # whoever waits starts another one, and is told
        if worker.session is not None:
            worker.session.on_log = worker.hear  # he who has gone hears no more
        self.give_back(worker)

    async def _settle(self, worker: PooledWorker, session: Session) -> None:
        await session.settled()
        self._rest(worker, lost=self.closed or session.lost is not None)

    def _rest(self, worker: PooledWorker, *, lost: bool) -> None:
        worker.taken -= 1
        worker.idle_since = self._clock()
        if lost:
            worker.worn = True
        else:
            self.last[worker.key] = worker
            self._histories.forgive(worker.key)
        if worker.worn and not worker.taken and (lost or not worker.held):
            self.end(worker)
        self._freed()
        if self._timer is None and worker.idle:
            self._set_timer()

    # --- the end of a worker

    def end(self, worker: PooledWorker) -> None:
        """End a worker; its callers get WorkerLost."""
        if not worker.closing:
            worker.closing = True
            if self.last.get(worker.key) is worker:
                del self.last[worker.key]
            self._spawn(self._close(worker))

    def leave(self, host: Host) -> None:
        """Give no worker of a host to further callers: those end that nobody has, the others after their last one."""
        for worker in self.within(host):
            worker.worn = True
            if worker.idle:
                self.end(worker)

    async def _close(self, worker: PooledWorker) -> None:
        try:
            if worker.starting is not None and not worker.starting.done():
                if not worker.starting.cancelling():  # a second one would break off how the first one cleans up
                    worker.starting.cancel()
                await asyncio.wait((worker.starting,))
            if worker.session is not None:
                await worker.session.close()
        finally:
            self.workers.remove(worker)
            self._freed()

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        idle = [worker.idle_since for worker in self._spare()]
        self._timer = None
        if idle and not self.closed:
            self._timer = loop.call_later(max(0.0, min(idle) + self._idle_seconds - self._clock()), self._end_idle)

    def _end_idle(self) -> None:
        until = self._clock() - self._idle_seconds
        for worker in self._spare():
            if worker.idle_since <= until:
                self.end(worker)
        self._set_timer()

    def _spare(self) -> list[PooledWorker]:
        """Return the idle workers that their versions do not want to be kept, those idle longest first."""
        kept: dict[Key, int] = {}
        spare: list[PooledWorker] = []
        for worker in sorted(self.workers, key=lambda worker: (worker.idle, -worker.idle_since)):
            if not worker.counts:
                continue
            kept[worker.key] = kept.get(worker.key, 0) + 1
            if worker.idle and kept[worker.key] > worker.plan.spec.workers.min:
                spare.append(worker)
        return spare[::-1]

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
