"""Bringing content to a far host: only what it lacks, in one piece or over several sessions, for as long as it goes on.

sshd lets 2 MiB be on their way on a channel, so at 20 ms of delay one channel carries 100 MiB/s whatever the line could. So
where answers take long, further workers without a model are started on the same connection, and each takes blobs too
(docs/decisions/34-far-content.md).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from mer.core.errors import ContentError, DeadlineExceeded, MerError
from mer.core.progress import report
from mer.meal.blobs import Blob, put
from mer.meal.session import Session

STALL_SECONDS = 60.0
"""Without a byte that goes or an answer that comes, pushing ends: as long as a silent connection takes to be given up."""

SLOW_DISK = 20 << 20
"""Bytes a second that a far host may take to read and hash what it has of a blob that is gone on with, or to sync one that is
whole: it says nothing meanwhile. That the way there still stands the connection's own keepalive sees to."""

LANES = 4
"""Blobs on their way on one session: the sync of one to the far disk does not hold up the next."""

MOST_SESSIONS = 4
"""Of the eight channels that a connection may have."""

SESSION_ROUND_TRIP = 0.005
"""Seconds of round trip for which a further session is worth its start: 2 MiB in that time are 400 MiB/s already."""

SESSION_BYTES = 16 << 20
"""What each session should find to carry: starting one takes a tenth of a second there."""

Opener = Callable[[], Awaitable[Session]]
"""Starts a further worker that loads nothing, for its session."""


class Push:
    """Content on its way to one host."""

    def __init__(self, host: str, blobs: list[Blob], partial: Mapping[str, int]) -> None:
        """Push these blobs; of some of them so many bytes are there."""
        self._host = host
        self._what = f"pushing content to {host}"
        self._waiting = deque(sorted(blobs, key=lambda blob: -blob.size))  # so that no large one is left for the end
        self._partial = partial
        self._total = sum(blob.size for blob in blobs)
        self._done = 0
        self._carrying: set[asyncio.Task[None] | None] = set()
        """Tasks that have a session of their own by now."""
        self._patience: asyncio.Timeout | None = None
        self._until = 0.0
        """Loop time at which it runs out."""

    async def over(self, session: Session, further: Opener) -> None:
        """Push everything.

        Raises:
            DeadlineExceeded: nothing moved for STALL_SECONDS.
            ContentError: something cannot be read here, or kept there.
            WorkerLost, ProtocolViolation, ServerUnreachable: as Session.ask.
        """
        more = await self._sessions(session) - 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(STALL_SECONDS) as self._patience:
                lanes = [loop.create_task(self._lane(session)) for _ in range(LANES)]
                helpers = [loop.create_task(self._help(further)) for _ in range(more)]
                try:
                    await asyncio.gather(*lanes)
                    await asyncio.gather(*(helper for helper in helpers if helper in self._carrying))
                finally:  # a session that does not stand yet is not waited for
                    for task in (*lanes, *helpers):
                        task.cancel()
                    await asyncio.gather(*lanes, *helpers, return_exceptions=True)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self._host} took nothing of what was pushed for {STALL_SECONDS:g} s, "
                f"after {self._done >> 20} of {self._total >> 20} MiB"
            ) from None
        finally:
            report(self._what, 0, 0)

    async def _sessions(self, session: Session) -> int:
        """Return over how many sessions to push."""
        most = min(MOST_SESSIONS, len(self._waiting), self._total // SESSION_BYTES)
        if most < 2:
            return 1
        round_trip = min([await session.ping(seconds=STALL_SECONDS) for _ in range(3)])
        return min(most, 1 + int(round_trip / SESSION_ROUND_TRIP))

    async def _help(self, further: Opener) -> None:
        """Push over a session of its own, if there is still something when it stands, and the host gives one."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                session = await stack.enter_async_context(_opened(further))
            except MerError:  # the first session carries all then
                return
            self._carrying.add(asyncio.current_task())
            await asyncio.gather(*(self._lane(session) for _ in range(LANES)))

    async def _lane(self, session: Session) -> None:
        while self._waiting:
            blob = self._waiting.popleft()
            offset = min(self._partial.get(blob.digest, 0), blob.size)
            self._sent(offset, to_do=offset)
            try:
                await self._put(session, blob, offset)
            except ContentError:
                if not offset or session.lost is not None:
                    raise
                # what was there of it is not what it should be, or is somebody else's by now
                await self._put(session, blob, 0, again=True)
            self._sent(0)

    async def _put(self, session: Session, blob: Blob, offset: int, *, again: bool = False) -> None:
        """Send a blob from `offset` on; `again`, its bytes were counted before."""
        left = blob.size - offset

        def sent(count: int) -> None:
            nonlocal left
            left -= count
            self._sent(0 if again else count, to_do=0 if left else blob.size)

        await put(session, blob, offset=offset, sent=sent)

    def _sent(self, count: int, *, to_do: int = 0) -> None:
        """Take in that so many bytes went, and how many the other side now reads or syncs, without a word."""
        self._done += count
        patient = asyncio.get_running_loop().time() + STALL_SECONDS + to_do / SLOW_DISK
        self._until = max(self._until, patient)
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(self._until)
        report(self._what, self._done, self._total)


@contextlib.asynccontextmanager
async def _opened(further: Opener) -> AsyncIterator[Session]:
    session = await further()
    try:
        yield session
    finally:
        await asyncio.shield(session.close())
