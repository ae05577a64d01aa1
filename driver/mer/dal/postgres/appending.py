"""Appends one record: what a lone caller waits for, twice a run, and so made of as little as it can be."""

from __future__ import annotations

import psycopg
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn

from mer.core.chain import Head
from mer.dal.postgres.answering import Answers
from mer.dal.postgres.errors import translated
from mer.dal.postgres.session import GRACE_SECONDS, Connection

_NAME = b"mer_append_one"

_BINARY = 1
"""A text that goes as binary is the very bytes: as text it would end, unnoticed, at a NUL."""


class Appender:
    """Appends by one prepared statement, on whichever connection is there."""

    def __init__(self, query: str, *, seconds: float, shown: str) -> None:
        """Append by `query`, which takes a body and gives what a Head has; wait at most `seconds` and a grace."""
        self._query = query.encode()
        self._seconds = seconds + GRACE_SECONDS
        self._shown = shown
        self._prepared_on: PGconn | None = None

    async def append(self, connection: Connection, body: str) -> Head:
        """Append a body, durable when this returns, and return its place.

        A caller who is cancelled costs the connection: it is closed, and the record may be there or not.

        Raises:
            DatabaseUnreachable: no answer came in time, or the connection broke.
            What errors.translate says.
        """
        line = connection.pgconn
        answers = Answers(line, seconds=self._seconds, shown=self._shown)
        at_rest = False
        try:
            with translated(self._shown):
                try:
                    if self._prepared_on is not line:
                        line.send_prepare(_NAME, self._query)
                        await answers.result(ExecStatus.COMMAND_OK)
                        await answers.end()
                        self._prepared_on = line
                    line.send_query_prepared(_NAME, [body.encode()], [_BINARY])
                    result = await answers.result(ExecStatus.TUPLES_OK)
                    await answers.end()
                except psycopg.Error:
                    if line.status == ConnStatus.OK:  # it was refused: the connection is as good as before
                        await answers.end()
                        at_rest = True
                    raise
                at_rest = True
        finally:
            if not at_rest:
                await connection.close()
        seq, digest, other = (result.get_value(0, column) for column in range(3))
        assert seq is not None
        assert digest is not None
        return Head(seq=int(seq), digest=digest.decode(), other=other == b"t")
