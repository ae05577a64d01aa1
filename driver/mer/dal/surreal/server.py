"""The one connection of a process to a SurrealDB server.

The client library opens a lost socket again by itself, but as nobody: the new one has not logged in. So what was lost is
thrown away here, and a new connection logs in before anything is sent. A statement whose answer was lost is sent again
only where it may run twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from mer.core.errors import ConcurrentChange, DatabaseUnreachable, InputInvalid, NotAllowed
from mer.dal.surreal.address import ServerAddress
from mer.dal.surreal.answers import results
from mer.dal.surreal.connection import Statements
from mer.dal.surreal.engines import check_version
from mer.dal.surreal.login import Login, ServerEngine, sign_in

CONNECT_SECONDS = 10.0
"""How long one try to connect and log in may take: a server that hangs accepts a connection and says no more."""

RECONNECT_SECONDS = 15.0
"""How long to go on trying a server that was there before: one that restarts is back by then. The first try of a process
is the only one, so that a wrong address is told at once."""

RECONNECT_PAUSE_SECONDS = (0.05, 1.0)
"""Before the second try and at most; doubled each time and spread, so that all who lost a server do not return in step."""

HINTS = {
    "WRONG_VERSION_NUMBER": "That port speaks without TLS: write ws:// (or http://), or give the port that has it.",
    "CERTIFICATE_VERIFY_FAILED": "SSL_CERT_FILE names the file of an authority of your own.",
    "HTTP 4": "Something answers there, and is no SurrealDB.",
    "not known": "Is the name of the host right?",
    "": "Is the server running, and is that its host and port? SurrealDB's own port is 8000.",
}
"""What to look at, by what the client library's message says; it has no types for these. The last one fits everything."""

PING_SECONDS = 10.0
"""Between two pings of an idle socket, and how long to wait for the answer: a peer that is gone says nothing."""


class ServerConnection:
    """A connection that logs in, is made when it is first needed, and made anew when it was lost."""

    shared = True

    def __init__(
        self,
        address: ServerAddress,
        login: Login,
        *,
        statement_seconds: float,
        lock_seconds: float,
        reconnect_seconds: float = RECONNECT_SECONDS,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.address = address
        self.opened = 0
        self._login = login
        self._statement_seconds = statement_seconds
        self._lock_seconds = lock_seconds
        self._reconnect_seconds = reconnect_seconds
        self._jitter = jitter
        self._gate = asyncio.Lock()  # changes of one process need not meet in the database
        self._switch = asyncio.Lock()  # one login at a time
        self._engine: ServerEngine | None = None

    @property
    def name(self) -> str:
        return self.address.name

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        await self._connected()
        yield

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._lock_seconds):
                await self._gate.acquire()
        except TimeoutError as error:
            raise ConcurrentChange(f"another change took longer than {self._lock_seconds:g} s") from error
        try:
            yield
        finally:
            self._gate.release()

    async def run(self, script: str, parameters: Mapping[str, Any], *, repeatable: bool = False) -> Statements:
        engine = await self._connected()
        try:
            answer = await self._query(engine, script, parameters)
        except _Lost as lost:
            if not repeatable:
                raise DatabaseUnreachable(
                    f"{self.name} went away before it answered: {lost}",
                    hint="whether it made the change is not known",
                ) from lost
            answer = await self._again(script, parameters)
        if _refused(answer):
            # not who we were: the session has ended, or the library has opened a new one; nothing has run
            await self._forget(engine)
            answer = await self._again(script, parameters)
            if _refused(answer):
                raise NotAllowed(f"{self.name} does not let {self._login.name!r} do this")
        return results(answer)

    async def version(self) -> str:
        from surrealdb.errors import SurrealError

        engine = await self._connected()
        try:
            async with asyncio.timeout(self._statement_seconds):
                return await engine.version()
        except TimeoutError as error:
            raise DatabaseUnreachable(f"{self.name} did not answer within {self._statement_seconds:g} s") from error
        except SurrealError as error:
            raise DatabaseUnreachable(f"{self.name} does not say which version it is: {error}") from error

    async def close(self) -> None:
        async with self._switch:
            engine, self._engine = self._engine, None
            if engine is not None:
                await _hang_up(engine)

    async def _again(self, script: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return await self._query(await self._connected(), script, parameters)
        except _Lost as lost:
            raise DatabaseUnreachable(f"{self.name} went away twice: {lost}") from lost

    async def _query(self, engine: ServerEngine, script: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        from surrealdb.errors import SurrealError

        try:
            async with asyncio.timeout(self._statement_seconds):
                answer: dict[str, Any] = await engine.query_raw(script, dict(parameters))
        except TimeoutError as error:
            raise DatabaseUnreachable(f"{self.name} did not answer within {self._statement_seconds:g} s") from error
        except SurrealError as error:
            await self._forget(engine)
            raise _Lost(str(error)) from error
        except (ValueError, TypeError) as error:  # beyond 64 bits, a lone surrogate, a type without a form
            raise InputInvalid(f"the database cannot hold this: {error}") from error
        return answer

    async def _connected(self) -> ServerEngine:
        """Return a connection that has logged in.

        Raises:
            DatabaseUnreachable, AuthenticationFailed, NotMigrated, ConfigurationError.
        """
        async with self._switch:
            if self._engine is not None and _alive(self._engine):
                return self._engine
            lost, self._engine = self._engine, None
            if lost is not None:
                await _hang_up(lost)
            until = time.monotonic() + (self._reconnect_seconds if self.opened else 0)
            pause, longest = RECONNECT_PAUSE_SECONDS
            while True:
                try:
                    self._engine = await self._open()
                except DatabaseUnreachable:
                    if time.monotonic() + pause >= until:
                        raise
                    await asyncio.sleep(self._jitter(pause / 2, pause))
                    pause = min(2 * pause, longest)
                else:
                    self.opened += 1
                    return self._engine

    async def _open(self) -> ServerEngine:
        from surrealdb.errors import SurrealError

        engine = _engine(self.address)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await engine.connect()
                await sign_in(engine, self.address, self._login)
                check_version(self.name, await engine.version())
        except BaseException as error:
            await _hang_up(engine)
            if isinstance(error, TimeoutError):
                raise DatabaseUnreachable(
                    f"{self.name} did not answer within {CONNECT_SECONDS:g} s", hint=HINTS[""]
                ) from error
            if isinstance(error, SurrealError):
                raise DatabaseUnreachable(f"{self.name} cannot be reached: {error}", hint=_hint(str(error))) from error
            raise
        return engine

    async def _forget(self, engine: ServerEngine) -> None:
        async with self._switch:
            if self._engine is engine:
                self._engine = None
        await _hang_up(engine)


def _hint(message: str) -> str:
    return next(hint for said, hint in HINTS.items() if said in message)


class _Lost(Exception):
    """The connection went away before the answer came."""


def _engine(address: ServerAddress) -> ServerEngine:
    if address.url.startswith("http"):
        from surrealdb.connections.async_http import AsyncHttpSurrealConnection

        return AsyncHttpSurrealConnection(address.url)
    from surrealdb.connections.async_ws import AsyncWsSurrealConnection

    # not as a stream: a change is whole when its one answer is here
    return AsyncWsSurrealConnection(address.url, streaming=False, ping_interval=PING_SECONDS, ping_timeout=PING_SECONDS)


def _alive(engine: ServerEngine) -> bool:
    """Tell whether a socket still reads; one of HTTP is opened for each request, as far as this can tell."""
    reader = getattr(engine, "recv_task", None)
    return reader is None or not reader.done()


def _refused(answer: Mapping[str, Any]) -> bool:
    """Tell whether the server did not even look at the script, because of who asked."""
    error = answer.get("error")
    return isinstance(error, Mapping) and error.get("kind") == "NotAllowed"


async def _hang_up(engine: ServerEngine) -> None:
    from surrealdb.errors import SurrealError

    with suppress(SurrealError, OSError):  # it is gone already, or soon
        await engine.close()
