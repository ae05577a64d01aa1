"""One writer a process: whatever waits while one group is being committed is the next group.

A commit costs the same for one record as for hundreds (it is bound by the disk's flush), so callers share them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from types import TracebackType

from mer.core.chain import Head
from mer.core.errors import DatabaseUnreachable, MerError
from mer.dal.base import AccessLog

logger = logging.getLogger(__name__)

MAX_GROUP = 256
"""Records a commit: at some 2 KiB each half a megabyte, so that one group never holds the chain's lock for long."""

CLOSE_SECONDS = 5.0
"""How long the end of a program waits for a database that does not answer. Who waited for a record knows by then that it is
not durable; a finish is in the journal."""

MAX_WAITING = 10_000
"""Records that may wait; beyond it the database is not keeping up, and a caller is told so at once."""


class GroupWriter:
    """Append bodies to the access log, in groups; each caller waits until its own record is durable."""

    def __init__(self, log: AccessLog) -> None:
        self._log = log
        self._waiting: deque[tuple[str, asyncio.Future[Head]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> GroupWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def append(self, body: str) -> Head:
        """Return the record's place once it is durable. A caller that gives up waiting does not take its record back.

        Raises:
            DatabaseUnreachable: the database is gone, or far behind.
        """
        return await self.enqueue(body)  # nobody but this caller waits for it: cancelled or not, the record stays there

    def enqueue(self, body: str) -> asyncio.Future[Head]:
        """Queue a record, and return what has its place once it is durable, or what `append` raises.

        Raises:
            DatabaseUnreachable: the database is far behind.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise DatabaseUnreachable(f"{MAX_WAITING} records wait to be written: the database does not keep up")
        future: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, future))
        if self._task is None:
            self._task = asyncio.create_task(self._write(), name="access log writer")
        return future

    async def drain(self) -> None:
        """Wait until everything that was given is written or has failed."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def close(self) -> None:
        """Drain it, for CLOSE_SECONDS; what then is still on its way may be there or not."""
        task = self._task
        if task is not None:
            await asyncio.wait({task}, timeout=CLOSE_SECONDS)
            if not task.done():
                logger.warning("records were still on their way to the access log after %g s", CLOSE_SECONDS)
                task.cancel()
                await asyncio.wait({task})

    async def _write(self) -> None:
        group: list[tuple[str, asyncio.Future[Head]]] = []
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_GROUP))]
                await self._write_group(group)
        except asyncio.CancelledError:
            for _, future in [*group, *self._waiting]:
                future.cancel()
            self._waiting.clear()
            raise
        finally:
            self._task = None

    async def _write_group(self, group: list[tuple[str, asyncio.Future[Head]]]) -> None:
        try:
            heads = await self._log.append([body for body, _ in group])
            for (_, future), head in zip(group, heads, strict=True):
                if not future.done():
                    future.set_result(head)
        except Exception as error:  # noqa: BLE001 - whatever it was, each caller that waits for this group must learn it
            if len(group) == 1 or (isinstance(error, MerError) and error.retryable):
                for _, future in group:  # the database is gone or locked: one by one, each would wait as long again
                    _fail(future, error)
                return
            # one body may be at fault: alone, each gets its own answer, and (invocation, kind) makes a repeat harmless
            for single in group:
                await self._write_group([single])


def _fail(future: asyncio.Future[Head], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # its caller may have given up: then nobody else is to be told
