"""The engine inside this process: opened when it is needed, closed when it was idle for a while.

An embedded database has one process at a time. So that several can take turns, the folder is held only while there is
work: each piece of work is `in_use()`, and `idle_seconds` after the last one the engine is closed. A process that finds
the folder held waits, for a bounded time, with jitter.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from mer.core.errors import ConcurrentChange, DatabaseLocked, DatabaseUnreachable, InputInvalid
from mer.dal.surreal import lock
from mer.dal.surreal.address import DATABASE, NAMESPACE, EmbeddedAddress
from mer.dal.surreal.answers import results
from mer.dal.surreal.connection import Statements
from mer.dal.surreal.inprocess import EngineFailed, InProcess, read
from mer.folders import own_folder

LOCK_POLL_SECONDS = (0.01, 0.05)
"""How long to wait between two tries for a folder that is held: a random time, so that waiters do not try in step."""

EXIT_PAUSE_SECONDS = 0.05
"""From closing the engine to the end of the process: its threads end a little later than it says, and a process that
ends at the same moment is aborted by them (12 of 100 without the pause, none with it)."""

PRIVATE_FILE = 0o600


class EmbeddedConnection:
    """The engine of one folder, or of this process's memory."""

    shared = False

    def __init__(
        self,
        address: EmbeddedAddress,
        *,
        statement_seconds: float,
        lock_seconds: float,
        idle_seconds: float,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.address = address
        self.lock_seconds = lock_seconds
        self.gate = asyncio.Lock()
        """Held around every change: the engine detects that two changes write the same row, not that one reads what
        the other writes. Nobody but this process has the folder, so one change at a time is enough."""
        self.opened = 0
        """How often the engine was opened: what was remembered of the database is stale after another process had it."""
        self._statement_seconds = statement_seconds
        self._idle_seconds = idle_seconds
        self._jitter = jitter
        self._engine: InProcess | None = None
        self._users = 0
        self._switch = asyncio.Lock()  # opening and closing, one at a time
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Future[Any]] = set()
        self._abandoned: set[asyncio.Future[Any]] = set()
        """Statements that the engine still works on though their callers gave up."""
        self._closed_at = float("-inf")

    @property
    def name(self) -> str:
        return self.address.name

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        self._users += 1
        self._cancel_timer()
        try:
            if self._engine is None:
                async with self._switch:
                    if self._engine is None:
                        self._engine = await self._open()
                        self.opened += 1
            yield
        finally:
            self._users -= 1
            if not self._users and self._engine is not None and self.address.folder:
                self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._idle)

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.lock_seconds):
                await self.gate.acquire()
        except TimeoutError as error:
            raise ConcurrentChange(f"another change took longer than {self.lock_seconds:g} s") from error
        try:
            yield
        finally:
            self._release()

    async def run(self, script: str, parameters: Mapping[str, Any], *, repeatable: bool = False) -> Statements:  # noqa: ARG002 - a server's
        """Run a script. (No answer of this engine is ever lost, so `repeatable` says nothing here.)"""
        async with self.in_use():
            assert self._engine is not None
            try:
                answering = self._engine.send(script, parameters)
            except (ValueError, TypeError) as error:  # beyond 64 bits, a lone surrogate, a type without a form
                raise InputInvalid(f"the database cannot hold this: {error}") from error
            except EngineFailed as error:
                raise DatabaseUnreachable(f"{self.address.name}: {error}") from error
            # a caller who gives up does not cut a commit off in the middle; it counts as use until the engine has answered
            self._tasks.add(answering)
            answering.add_done_callback(self._answered)
            self._users += 1
            try:
                async with asyncio.timeout(self._statement_seconds):
                    return results(read(await asyncio.shield(answering)))
            except TimeoutError as error:
                raise DatabaseUnreachable(
                    f"{self.address.name} did not answer within {self._statement_seconds:g} s"
                ) from error
            except RuntimeError as error:  # the engine's own
                raise DatabaseUnreachable(f"{self.address.name}: {error}") from error
            finally:
                if not answering.done():
                    self._abandoned.add(answering)
                    answering.add_done_callback(self._abandoned.discard)

    async def version(self) -> str:
        async with self.in_use():
            assert self._engine is not None
            try:
                return await self._engine.version()
            except EngineFailed as error:
                raise DatabaseUnreachable(f"{self.address.name}: {error}") from error

    async def close(self) -> None:
        """Close the engine once what is under way has ended, and wait until the process may end."""
        self._cancel_timer()
        while self._tasks:
            await asyncio.wait(self._tasks)
        async with self._switch:
            await self._shut()
        rest = self._closed_at + EXIT_PAUSE_SECONDS - time.monotonic()
        if rest > 0:
            await asyncio.sleep(rest)

    def _release(self) -> None:
        """Open the gate, once the engine has ended what its last holder abandoned: that may yet change something."""
        if self._abandoned:
            next(iter(self._abandoned)).add_done_callback(lambda task: self._release())  # noqa: ARG005
        else:
            self.gate.release()

    def _answered(self, answering: asyncio.Future[Any]) -> None:
        self._tasks.discard(answering)
        self._users -= 1
        if not answering.cancelled():
            answering.exception()  # the caller has it, unless he gave up
        if not self._users and self.address.folder:
            self._cancel_timer()
            self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._idle)

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _idle(self) -> None:
        self._timer = None
        task = asyncio.create_task(self._close_idle())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close_idle(self) -> None:
        async with self._switch:
            if not self._users:
                await self._shut()

    async def _shut(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        # the engine says here what it could not finish; every acknowledged commit is on disk already
        with suppress(EngineFailed):
            await engine.close()
        self._closed_at = time.monotonic()
        if self.address.folder:
            await asyncio.to_thread(_tighten, self.address.folder)

    async def _open(self) -> InProcess:
        folder = self.address.folder
        noted = None
        if folder:
            await asyncio.to_thread(own_folder, folder)
            noted = lock.noted_pid(folder)
        until = time.monotonic() + self.lock_seconds
        while True:
            try:
                opening = InProcess.open(self.address.url, namespace=NAMESPACE, database=DATABASE)
                engine = await self._whole(asyncio.create_task(opening))
            except EngineFailed as error:
                if folder is None or lock.LOCKED not in str(error):
                    raise DatabaseUnreachable(f"{self.address.name} cannot be opened: {error}") from error
                if time.monotonic() >= until:
                    raise DatabaseLocked(
                        f"{self.address.name} is held by {lock.holder(folder, noted)}",
                        hint="one process at a time uses an embedded SurrealDB; try again when that one is done",
                    ) from error
                await asyncio.sleep(self._jitter(*LOCK_POLL_SECONDS))
            else:
                if folder:
                    await asyncio.to_thread(_tighten, folder)
                return engine

    async def _whole(self, opening: asyncio.Task[InProcess]) -> InProcess:
        """Await an engine. One that is cut off while it opens would keep the folder locked as long as this process lives:
        where the caller gives up, it is opened all the same, and closed.
        """
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            task = asyncio.create_task(_discard(opening))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            raise


async def _discard(opening: asyncio.Task[InProcess]) -> None:
    with suppress(EngineFailed):  # it did not open, or had nothing to lose
        await (await opening).close()


def _tighten(folder: Path) -> None:
    """Take from others what the engine's files give them: a folder that is moved or opened later gives nothing away."""
    for path in folder.rglob("*"):
        try:
            path.chmod(0o700 if path.is_dir() else PRIVATE_FILE)
        except FileNotFoundError:  # the engine removes its old files as it likes
            continue
