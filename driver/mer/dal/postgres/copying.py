"""Reads the rows of a COPY as they come, many at a time.

psycopg's own takes a turn of the loop a few rows, which is a third of a verification's time. Here whatever has come is
taken at once, and while the caller works on it the server fills the socket again: the loop waits only where that is empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from mer.dal.postgres.answering import Answers
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
            answers = Answers(line, seconds=seconds + GRACE_SECONDS, shown=shown)
            await answers.result(ExecStatus.COPY_OUT)
            first = True
            async for rows in _rows(line, answers):
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
            await answers.result(ExecStatus.COMMAND_OK)
            await answers.end()
            ended = True
    finally:
        if not ended:
            await connection.close()


async def _rows(line: PGconn, answers: Answers) -> AsyncGenerator[list[bytes], None]:
    """Give what has come, at least one row at a time, until the COPY has ended."""
    get, ended, looks = line.get_copy_data, False, 0
    while not ended:
        rows = list[bytes]()
        append = rows.append
        while not ended and len(rows) < MAX_ROWS:
            before = len(rows)
            size, row = get(1)
            while size > 0:  # what libpq has read, which is no more than its buffer holds
                append(bytes(row))
                size, row = get(1)
            looks = looks + 1 if len(rows) == before else 0
            if size < 0:
                ended = True
            elif looks < LOOKS:
                line.consume_input()
            elif rows:
                break
            else:
                await answers.something()
        if rows:
            yield rows
