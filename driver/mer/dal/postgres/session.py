"""What a repository asks through: one statement at a time, outside or inside a transaction."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import psycopg
from psycopg.rows import TupleRow, dict_row
from psycopg.types.json import Jsonb

from mer.core.errors import DatabaseUnreachable
from mer.dal.postgres.errors import Meanings, translated

Connection: TypeAlias = psycopg.AsyncConnection[TupleRow]

RowFactory: TypeAlias = Callable[[psycopg.AsyncCursor[Any]], Callable[[Sequence[Any]], Any]]
"""Given a cursor that has a result, gives what makes a row of its values."""

T = TypeVar("T")

GRACE_SECONDS = 2.0
"""How much longer than the server's own statement_timeout we wait for its answer before we take it for dead."""

CANCEL_SECONDS = 1.0
"""How long a statement of a caller that was cancelled may take to end; the server answers a cancel in milliseconds."""


_ENDED = getattr(select, "POLLRDHUP", select.POLLIN)
"""The other side has closed. Where the system does not tell, anything unasked for counts as that: it costs a connection."""


class Session(Protocol):
    """Runs statements, one after the other."""

    @property
    def in_transaction(self) -> bool:
        """Whether what is read here may be written back: such rows are locked."""

    async def ask(
        self,
        query: str,
        parameters: Mapping[str, object] | None = None,
        *,
        meanings: Meanings | None = None,
        repeatable: bool = False,
        prepare: bool | None = None,
        rows: RowFactory = dict_row,
    ) -> list[Any]:
        """Run a statement and return its rows, as `rows` makes them: dicts by column, unless it says otherwise.

        `repeatable` says that running it twice does no harm, so that it may be asked again over a new connection;
        `prepare=False` has it planned for its own parameters each time.

        Raises:
            What `meanings` says for the constraint that it violates, else what errors.translate says.
        """

    def copy(self, query: str) -> AsyncGenerator[memoryview, None]:
        """Run a `COPY … TO STDOUT (FORMAT binary)` and give its rows as they come (copying.py).

        It holds a connection until it ends: who leaves early closes it.
        """


def json(value: object) -> Jsonb:
    """Return a value as a parameter for a jsonb column."""
    return Jsonb(value, dumps=_dumps)


def _dumps(value: object) -> bytes:
    return msgspec.json.encode(value)


async def run(
    connection: Connection,
    query: str,
    parameters: Mapping[str, object] | None,
    *,
    seconds: float,
    shown: str,
    meanings: Meanings | None = None,
    prepare: bool | None = None,
    rows: RowFactory = dict_row,
) -> list[Any]:
    """Run one statement on a connection within `seconds` and a grace.

    Raises:
        DatabaseUnreachable: no answer came in time; the connection is closed then.
    """

    async def ask() -> list[Any]:
        cursor = connection.cursor(row_factory=rows)
        await cursor.execute(query, parameters, prepare=prepare)
        return await cursor.fetchall() if cursor.description else []

    with translated(shown, meanings):
        return await within(connection, ask(), seconds=seconds + GRACE_SECONDS, shown=shown)


async def within(connection: Connection, work: Coroutine[Any, Any, T], *, seconds: float, shown: str) -> T:
    """Await work on a connection, at most `seconds`.

    A plain timeout would not do: psycopg answers a cancellation by asking the server to cancel, and waits for that. So
    the connection is cut where the server does not answer.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_seen)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            hang_up(connection)
            await asyncio.wait({task}, timeout=CANCEL_SECONDS)
            raise DatabaseUnreachable(f"{shown} did not answer within {seconds:g} s")
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        raise
    finally:
        if not task.done():  # neither the server nor, after a second cancellation, the caller waits for its end
            hang_up(connection)
            task.cancel()
    return task.result()


def hang_up(connection: Connection) -> None:
    """End a connection by its socket: whatever waits on it fails at once.

    Not by PQfinish: a statement that is under way would go on in memory that is no longer its own.
    """
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def hung_up(connection: Connection) -> bool:
    """Tell whether a connection that nobody uses has been ended, by us or by the server; nothing is sent for it.

    A server that was restarted has said so to the socket long before the next statement would be lost on it.
    """
    if connection.closed:
        return True
    line = select.poll()
    line.register(connection.fileno(), _ENDED)
    return bool(line.poll(0))


def _seen(task: asyncio.Future[T]) -> None:
    if not task.cancelled():
        task.exception()  # who gave up does not want it
