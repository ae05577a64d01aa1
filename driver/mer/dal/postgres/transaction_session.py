"""The statements of one transaction, all on its connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any

from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from mer.core.errors import DatabaseUnreachable, MerError
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.copying import copied
from mer.dal.postgres.errors import Meanings
from mer.dal.postgres.session import Connection, RowFactory, hang_up, run


class TransactionSession:
    """A transaction that is under way.

    Its beginning and its end are statements with a deadline like any other: psycopg's own have none.
    """

    def __init__(self, connection: Connection, settings: ConnectionSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._refused: MerError | None = None

    @property
    def in_transaction(self) -> bool:
        return True

    async def ask(
        self,
        query: str,
        parameters: Mapping[str, object] | None = None,
        *,
        meanings: Meanings | None = None,
        repeatable: bool = False,  # noqa: ARG002 - what came before in the transaction is lost with its connection
        prepare: bool | None = None,
        rows: RowFactory = dict_row,
    ) -> list[Any]:
        self._still_accepted()
        try:
            return await run(
                self._connection,
                query,
                parameters,
                seconds=self._settings.statement_seconds,
                shown=self._settings.shown,
                meanings=meanings,
                prepare=prepare,
                rows=rows,
            )
        except MerError as error:
            self._refused = error
            raise

    async def copy(self, query: str) -> AsyncGenerator[memoryview, None]:
        self._still_accepted()
        seconds, shown = self._settings.statement_seconds, self._settings.shown
        try:
            async with aclosing(copied(self._connection, query, seconds=seconds, shown=shown)) as rows:
                async for row in rows:
                    yield row
        except MerError as error:
            self._refused = error
            raise

    async def begin(self) -> None:
        """Begin it. Raises: DatabaseUnreachable."""
        await self.ask("BEGIN ISOLATION LEVEL READ COMMITTED")  # the append function takes no other

    async def commit(self) -> None:
        """Commit it.

        Raises:
            What a statement of it was refused with, though its caller passed over that. DatabaseUnreachable; also
                where a caller gave a statement up and went on.
        """
        self._still_accepted()
        await self.ask("COMMIT")

    async def end(self) -> None:
        """Take back what was not committed; a connection on which that is not possible is cut."""
        try:
            if self._connection.info.transaction_status is not TransactionStatus.IDLE and not self._connection.closed:
                with suppress(MerError):  # the caller has an error already
                    await run(
                        self._connection,
                        "ROLLBACK",
                        None,
                        seconds=self._settings.statement_seconds,
                        shown=self._settings.shown,
                    )
        finally:
            if self._connection.info.transaction_status is not TransactionStatus.IDLE:
                hang_up(self._connection)

    def _still_accepted(self) -> None:
        # PostgreSQL answers a COMMIT of such a transaction with a rollback, and calls it no error
        if self._connection.info.transaction_status is TransactionStatus.INERROR:
            raise self._refused or DatabaseUnreachable(
                f"{self._settings.shown}: a statement of this transaction was given up, so that nothing of it can happen"
            )
