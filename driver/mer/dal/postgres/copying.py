"""Reads the rows of a COPY as they come, on the loop and without a thread.

psycopg's own takes a turn of the loop for each part that comes. Here whatever has come is taken at once, and while the
caller works on a row the server fills the socket again: the loop waits only where that is empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from mer.dal.postgres.answering import Answers
from mer.dal.postgres.errors import translated
from mer.dal.postgres.session import GRACE_SECONDS, Connection

SIGNATURE = b"PGCOPY\n\xff\r\n\0"

HEADER_BYTES = len(SIGNATURE) + 8
"""The signature, flags and the length of an extension, of which there is none: it stands before the first row."""

TRAILER = b"\xff\xff"

LOOKS = 3
"""How often to look for more before waiting: a TLS record may be read already, in parts of which the socket knows nothing."""


async def copied(connection: Connection, query: str, *, seconds: float, shown: str) -> AsyncGenerator[memoryview, None]:
    """Run a `COPY … TO STDOUT (FORMAT binary)` and give its rows, each of its number of fields and the fields.

    The server must say something every `seconds` and a grace. A caller who leaves early, or who is cancelled, costs the
    connection: it is closed. After each row others get their turn.

    Raises:
        DatabaseUnreachable: no answer came in time, or the connection broke.
        What errors.translate says.
    """
    ended = False
    try:
        with translated(shown):
            line = connection.pgconn
            line.send_query(query.encode())
            answers = Answers(line, seconds=seconds + GRACE_SECONDS, shown=shown)
            await answers.result(ExecStatus.COPY_OUT)
            first = True
            while (row := await _row(line, answers)) is not None:
                if first:
                    first, row = False, row[HEADER_BYTES:]
                if row and row != TRAILER:  # a server may send the header by itself
                    yield row
                    await asyncio.sleep(0)
            await answers.result(ExecStatus.COMMAND_OK)
            await answers.end()
            ended = True
    finally:
        if not ended:
            await connection.close()


async def _row(line: PGconn, answers: Answers) -> memoryview | None:
    """Return what the server sends next as one, None when the COPY has ended."""
    looks = 0
    while True:
        size, row = line.get_copy_data(1)
        if size > 0:
            return memoryview(row)  # not copied: a row may be long
        if size < 0:
            return None
        if looks < LOOKS:
            looks += 1
            line.consume_input()
        else:
            await answers.something()
