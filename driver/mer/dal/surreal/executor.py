"""How a repository runs a query: at once, as a transaction of its own, or as a step of a unit of work (unit.py)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

from mer.core.errors import MerError
from mer.dal.surreal.answers import Refused, failure
from mer.dal.surreal.connection import Connection
from mer.dal.surreal.queries import Query

Otherwise: TypeAlias = Mapping[str, MerError]
"""Which error each reason to refuse a query means."""


class Executor(Protocol):
    """What a repository needs of a database."""

    @property
    def concurrent(self) -> bool:
        """Whether several questions may be under way at once."""

    async def ask(self, query: Query, /, **parameters: Any) -> Any:
        """Run a query and return its answer.

        Raises:
            Refused: it threw a reason of its own, or a row of that key is there (`taken`).
            ConcurrentChange, DatabaseUnreachable, DatabaseLocked, InputInvalid.
        """

    async def tell(self, query: Query, otherwise: Otherwise, /, **parameters: Any) -> None:
        """Run a query that has no answer, and raise what `otherwise` has for the reason that it is refused for.

        Raises:
            MerError: as `ask` does; in a long unit of work perhaps only at its next question, or at its end.
        """

    def changing(self) -> AbstractAsyncContextManager[None]:
        """Let nobody else in this process change anything: until the end of the block, or of the unit of work."""


class Direct:
    """Each query is a transaction of its own."""

    concurrent = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def ask(self, query: Query, /, **parameters: Any) -> Any:
        if not query.changes:
            return await self.ask_unguarded(query, **parameters)
        async with self._connection.changing():
            return await self.ask_unguarded(query, **parameters)

    async def tell(self, query: Query, otherwise: Otherwise, /, **parameters: Any) -> None:
        try:
            await self.ask(query, **parameters)
        except Refused as refused:
            if refused.reason not in otherwise:
                raise
            raise otherwise[refused.reason] from refused

    def changing(self) -> AbstractAsyncContextManager[None]:
        return self._connection.changing()

    async def ask_unguarded(self, query: Query, /, **parameters: Any) -> Any:
        """Run a query for a caller who is within `changing()` already."""
        # a block is one statement, and so one transaction, with one result to read instead of one for each line
        script = query.text if query.single else f"{{\n{query.text}\n}};"
        statements = await self._connection.run(script, parameters)
        failed = failure(statements)
        if failed:
            raise failed.error()
        return statements[-1]["result"]
