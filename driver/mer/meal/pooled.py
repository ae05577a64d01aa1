"""What a pool knows of one worker, and of one caller who waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from mer.meal.calls import LogCallback
from mer.meal.host import Host
from mer.meal.plan import WorkerPlan
from mer.meal.session import Session

BATCHES_AHEAD = 2
"""Slots of a batching worker, in batches: one is under way while the next one gathers."""

Key = tuple[str, str, str | None]
"""Host, plan, and the owner where the worker has a state."""


def key_of(host: Host, plan: WorkerPlan, owner: str | None = None) -> Key:
    """Return which workers serve a plan; `owner` is whose state a stateful one keeps."""
    return host.name, plan.key, owner if plan.spec.stateful else None


def slots_of(plan: WorkerPlan) -> int:
    """Return how many callers one worker of the plan may have at a time."""
    spec = plan.spec
    return spec.concurrency if spec.batch is None else BATCHES_AHEAD * spec.batch.max_size


@dataclass(slots=True, eq=False)
class PooledWorker:
    """One worker, from before its start to its end."""

    key: Key
    host: Host
    plan: WorkerPlan
    slots: int
    session: Session | None = None
    """None while it starts."""
    starting: asyncio.Task[Session] | None = None
    taken: int = 0
    """Slots in use."""
    held: int = 0
    """Sealed inputs that wait there for their run: it does not end for want of callers meanwhile."""
    calls: int = 0
    """Callers it has had."""
    idle_since: float = 0.0
    worn: bool = False
    """It gets no further caller, and ends after the last one: it was lost, given up, or has had its number of calls."""
    closing: bool = False
    listeners: list[LogCallback | None] = field(default_factory=list)
    """Those of its callers; the newest gets what is tied to no request."""

    @property
    def idle(self) -> bool:
        """Whether it is there and nobody has it."""
        return not self.taken and not self.held and not self.closing

    @property
    def counts(self) -> bool:
        """Whether it is, or will be, of use to further callers."""
        return not (self.closing or self.worn or (self.session is not None and self.session.lost is not None))

    @property
    def unused(self) -> bool:
        """Whether it is loaded, nobody has it, and it takes callers: then it has a `free` slot."""
        return (
            not self.taken and not self.worn and not self.closing and self.session is not None and not self.session.lost
        )

    @property
    def free(self) -> int:
        """How many more callers it takes, now or once it is loaded."""
        if not self.counts:
            return 0
        most = self.plan.spec.limits.calls
        left = self.slots if most is None else min(self.slots, self.taken + most - self.calls)
        return left - self.taken

    def take(self) -> None:
        """Give a slot away."""
        self.taken += 1
        self.calls += 1
        most = self.plan.spec.limits.calls
        if most is not None and self.calls >= most:
            self.worn = True

    def listen(self, listener: LogCallback | None) -> None:
        """Let a caller hear what is tied to no request."""
        self.listeners.append(listener)

    def ignore(self, listener: LogCallback | None) -> None:
        """Let him hear no more; he who came before him does."""
        if listener in self.listeners:
            self.listeners.remove(listener)

    def hear(self, stream: str, level: str, text: bytes) -> None:
        """Pass on what is tied to no request (mer.meal.calls.LogCallback)."""
        listener = self.listeners[-1] if self.listeners else None
        if listener is not None:
            listener(stream, level, text)


@dataclass(slots=True, eq=False)
class Waiter:
    """A caller in the queue."""

    key: Key
    host: Host
    plan: WorkerPlan
    turn: asyncio.Future[PooledWorker] = field(repr=False)
    session: Session | None = None
    """Whose worker it has to be; None: any of the key."""


@dataclass(slots=True)
class Room:
    """What becomes free by itself, of a host or of all; each who waits claims some of it."""

    ending: int
    """Workers that end."""
    leaving: int
    """Workers that will, after their callers."""

    @classmethod
    def among(cls, workers: list[PooledWorker]) -> Room:
        """Count them."""
        return cls(
            ending=sum(worker.closing for worker in workers),
            leaving=sum(worker.worn and not worker.closing for worker in workers),
        )
