"""Reads the rows of a COPY as they come, many at a time.

psycopg's own takes a turn of the loop a few rows, which is a third of a verification's time. Here whatever has come is
taken at once, and while the caller works on it the server fills the socket again: the loop waits only where that is empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from mer.core.errors import DatabaseUnreachable
from mer.dal.postgres.errors import translated
from mer.dal.postgres.session import GRACE_SECONDS, Connection

MAX_ROWS = 256
"""Rows given at once, and what libpq's buffer holds beside: a millisecond's work, after which others get their turn."""

SIGNATURE = b"PGCOPY\n\xff\r\n\0"

HEADER_BYTES = len(SIGNATURE) + 8
"""The signature, flags and the length of an extension, of which there is none: it stands before the first row."""

TRAILER = b"\xff\xff"

LOOKS = 3
"""How often to look for more before waiting: a TLS record may be read already, in parts of which the socket knows nothing."""


async def copied(
    connection: Connection, query: str, *, seconds: float, shown: str
) -> AsyncGenerator[list[bytes], None]:
    """Run a `COPY … TO STDOUT (FORMAT binary)` and give its rows, each of its number of fields and the fields.

    The server must say something every `seconds` and a grace. A caller who leaves early, or who is cancelled, costs the
    connection: it is closed.

    Raises:
        DatabaseUnreachable: no answer came in time, or the connection broke.
        What errors.translate says.
    """
    ended = False
    try:
        with translated(shown):
            line = connection.pgconn
            line.send_query(query.encode())
            wait = _Waiting(line, seconds=seconds + GRACE_SECONDS, shown=shown)
            await wait.for_result(ExecStatus.COPY_OUT)
            first = True
            while rows := await wait.for_rows():
                if first:
                    first = False
                    rows[0] = rows[0][HEADER_BYTES:]
                    if not rows[0]:  # a server may send the header by itself
                        del rows[0]
                if rows and rows[-1] == TRAILER:
                    del rows[-1]
                if rows:
                    yield rows
                    await asyncio.sleep(0)
            await wait.for_result(ExecStatus.COMMAND_OK)
            while line.get_result() is not None:
                pass
            ended = True
    finally:
        if not ended:
            await connection.close()


class _Waiting:
    """Waits for what the server sends on a connection that nobody else uses."""

    def __init__(self, line: PGconn, *, seconds: float, shown: str) -> None:
        self._line = line
        self._seconds = seconds
        self._shown = shown
        self._ended = False

    async def for_result(self, status: int) -> None:
        """Wait for the next result. Raises: psycopg.Error (it is another than that)."""
        while self._line.flush() or self._line.is_busy():
            await self._something()
        result = self._line.get_result()
        if result is None or result.status != status:
            told = result.error_message.decode(errors="replace") if result else "it sent no result"
            state = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) if result else None) or b"XX000"
            raise _error(state.decode(), told)

    async def for_rows(self) -> list[bytes]:
        """Return what has come, at least one row; none where the COPY has ended."""
        get, rows, looks = self._line.get_copy_data, list[bytes](), 0
        append = rows.append
        while not self._ended and len(rows) < MAX_ROWS:
            before = len(rows)
            size, row = get(1)
            while size > 0:  # what libpq has read, which is no more than its buffer holds
                append(bytes(row))
                size, row = get(1)
            looks = looks + 1 if len(rows) == before else 0
            if size < 0:
                self._ended = True
            elif looks < LOOKS:
                self._line.consume_input()
            elif rows:
                break
            else:
                await self._something()
        return rows

    async def _something(self) -> None:
        loop = asyncio.get_running_loop()
        come: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            if not come.done():
                come.set_result(None)

        loop.add_reader(self._line.socket, tell)
        try:
            async with asyncio.timeout(self._seconds):
                await come
        except TimeoutError as error:
            raise DatabaseUnreachable(f"{self._shown} did not answer within {self._seconds:g} s") from error
        finally:
            loop.remove_reader(self._line.socket)
        self._line.consume_input()


def _error(state: str, told: str) -> psycopg.Error:
    try:
        return psycopg.errors.lookup(state)(told)
    except KeyError:  # of an extension, or of a newer server
        return psycopg.OperationalError(told)
