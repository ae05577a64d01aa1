"""Starting a worker: host, stream, session, load; and starting it again when it dies on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from mer.core.errors import ConfigurationError, DeadlineExceeded, MerError, ModelFailed, WorkerLost
from mer.core.trace import span
from mer.meal.batching import BatchingSession
from mer.meal.calls import LogCallback
from mer.meal.host import Host
from mer.meal.modules import hint_at_cut_short, hint_for
from mer.meal.plan import WorkerPlan
from mer.meal.session import HELLO_SECONDS, Session

MOST_STARTS = 3
"""A worker that dies this often while loading is reported: the next try would die as well."""

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
"""Seconds before a worker is started again; doubled each time."""


def delay(failures: int) -> float:
    """Return the seconds to wait before the start that follows so many failures in a row."""
    return 0.0 if failures < 1 else min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, 30))


class LoadTime:
    """What is left of the time in which a version is to be loaded; bringing its content to the host does not count."""

    def __init__(self, deadline: float) -> None:
        """End at `deadline`, in loop time."""
        self.deadline = deadline

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Let the time of the block not count."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            self.deadline += loop.time() - began


async def start_once(
    host: Host, plan: WorkerPlan, *, deadline: float, arrays: str = "numpy", on_log: LogCallback | None = None
) -> Session:
    """Start a worker and load the plan's version by `deadline` (loop time), plus what bringing its content there takes.

    Raises: as `_start_once`.
    """
    return await _start_once(host, plan, LoadTime(deadline), arrays, on_log)


async def _start_once(
    host: Host, plan: WorkerPlan, patience: LoadTime, arrays: str, on_log: LogCallback | None
) -> Session:
    """Start a worker and load the plan's version.

    Raises:
        ServerUnreachable: the host cannot start it.
        ConfigurationError: its worker does not hold the version's limits.
        ModelFailed, PackageInvalid, DeadlineExceeded, ProtocolError, WorkerLost: as Session.start and Session.load.
        ContentError: as Host.stage.
        Busy: another driver has the device.
    """
    launch = await host.prepare()
    with host.waiting("worker"):
        try:
            stream = await host.open(launch)
        except BaseException:
            await asyncio.shield(host.kill(launch))
            raise
        left = max(0.0, patience.deadline - asyncio.get_running_loop().time())
        kind = Session if plan.spec.batch is None else BatchingSession
        session = await kind.start(stream, arrays=arrays, on_log=on_log, seconds=min(HELLO_SECONDS, left))
    if isinstance(session, BatchingSession) and plan.spec.batch is not None:
        session.batch = plan.spec.batch
    session.ladder.in_order = plan.spec.concurrency == 1
    try:
        _require_limits(session, plan)
        with patience.stopped(), host.waiting("content"):
            fields = await host.stage(session, plan, deadline=patience.deadline)
        with span("load"), host.waiting("load"):
            await session.load(fields, deadline=patience.deadline, on_log=on_log)
    except ModelFailed as error:
        error.hint = error.hint or hint_for(error, host=host, session=session)
        await asyncio.shield(session.close(grace=0.0))
        raise
    except BaseException:
        await asyncio.shield(session.close(grace=0.0))
        raise
    return session


def _require_limits(session: Session, plan: WorkerPlan) -> None:
    """See that the worker holds what the version limits; the wall time is held by the driver too.

    Raises:
        ConfigurationError
    """
    assert session.peer is not None
    given = sorted(set(plan.fields().get("limits", {})) - {"wall_ms"})
    if given and "limits" not in session.peer.capabilities:
        raise ConfigurationError(
            f"the worker of {plan.key} does not hold a version's limits: {', '.join(given)}",
            hint="Register a version without them, or run it by a worker that states the capability `limits`.",
        )


async def start(host: Host, plan: WorkerPlan, *, arrays: str = "numpy", on_log: LogCallback | None = None) -> Session:
    """Start a worker within the plan's load_seconds, again after a while if it dies on the way.

    Raises:
        WorkerLost: it died MOST_STARTS times.
        DeadlineExceeded: it was not loaded by then.
        MerError: whatever else keeps it from loading; that is not tried again.
    """
    loop = asyncio.get_running_loop()
    patience = LoadTime(loop.time() + plan.load_seconds)
    last: MerError | None = None
    for failures in range(MOST_STARTS):
        await asyncio.sleep(delay(failures))
        try:
            return await _start_once(host, plan, patience, arrays, on_log)
        except WorkerLost as error:
            last = error
        if loop.time() >= patience.deadline:
            raise DeadlineExceeded(
                f"the worker of {plan.key} was not loaded within {plan.load_seconds:g} s: {last.message}"
            ) from last
    assert last is not None
    raise WorkerLost(
        f"the worker of {plan.key} died {MOST_STARTS} times while loading; the last time {last.message}",
        hint=last.hint or hint_at_cut_short(last, host=host),
    ) from last
