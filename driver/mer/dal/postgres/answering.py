"""Waits on the loop for what a server answers to a statement that libpq has sent.

psycopg's own way takes a task a statement, so that it can be cut off: a tenth of a millisecond, which a group of records
shares and a single one does not.
"""

from __future__ import annotations

import asyncio

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from mer.core.errors import DatabaseUnreachable


class Answers:
    """The answers on a connection that nobody else uses; whoever is cut off, or has waited too long, must close it."""

    def __init__(self, line: PGconn, *, seconds: float, shown: str) -> None:
        """Wait at most `seconds` for the server to say something; `shown` is the database for people."""
        self._line = line
        self._seconds = seconds
        self._shown = shown

    async def result(self, status: int) -> PGresult:
        """Return the next result.

        Raises:
            psycopg.Error: it has another status than that, or the connection broke.
            DatabaseUnreachable: it did not come in time.
        """
        result = await self._next()
        if result is None:
            raise psycopg.OperationalError("the server sent no result")
        if result.status != status:
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
            raise psycopg.OperationalError(f"the server answered with {ExecStatus(result.status).name}")
        return result

    async def end(self) -> None:
        """Wait until the statement is done: a commit among that is durable only now. Raises: as `result` does."""
        while (result := await self._next()) is not None:
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)

    async def something(self, *, sending: bool = False) -> None:
        """Wait until the server has said something, and take it; while `sending`, until it takes more, too.

        Raises:
            As `result` does.
        """
        loop = asyncio.get_running_loop()
        come: asyncio.Future[None] = loop.create_future()
        descriptor = self._line.socket
        # not asyncio.timeout, which costs more than all the rest of this
        deadline = loop.call_later(self._seconds, _too_late, come)
        loop.add_reader(descriptor, _come, come)
        if sending:
            loop.add_writer(descriptor, _come, come)
        try:
            await come
        except TimeoutError as error:
            raise DatabaseUnreachable(f"{self._shown} did not answer within {self._seconds:g} s") from error
        finally:
            deadline.cancel()
            loop.remove_reader(descriptor)
            if sending:
                loop.remove_writer(descriptor)
        self._line.consume_input()

    async def _next(self) -> PGresult | None:
        while self._line.flush():  # https://www.postgresql.org/docs/18/libpq-async.html: PQflush
            await self.something(sending=True)
        while self._line.is_busy():
            await self.something()
        return self._line.get_result()


def _come(come: asyncio.Future[None]) -> None:
    if not come.done():
        come.set_result(None)


def _too_late(come: asyncio.Future[None]) -> None:
    if not come.done():
        come.set_exception(TimeoutError())
