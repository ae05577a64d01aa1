"""How a repository runs a query: at once, as a transaction of its own, or as a step of a unit of work (unit.py)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias, TypeVar

from mer.core.errors import MerError
from mer.dal.surreal.answers import Conflicted, Refused, failure
from mer.dal.surreal.connection import Connection
from mer.dal.surreal.engines import forgets
from mer.dal.surreal.queries import Query

T = TypeVar("T")

CONFLICT_SECONDS = 10.0
"""How long a change is tried again that meets others' at the same moment: as long as one waits for a lock."""

CONFLICT_PAUSE_SECONDS = (0.002, 0.1)
"""Before the second try and at most; doubled each time and drawn from all of it, so that nobody always comes second."""

TURN = "UPDATE registry_turn:1 SET number += 1 RETURN NONE;"
"""Said by every change of a registry that other processes may change at the same moment: migration 00 says why."""

Otherwise: TypeAlias = Mapping[str, MerError]
"""Which error each reason to refuse a query means."""


class Executor(Protocol):
    """What a repository needs of a database."""

    @property
    def concurrent(self) -> bool:
        """Whether several questions may be under way at once."""

    @property
    def shared(self) -> bool:
        """Whether other processes may change the database at the same moment."""

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

    @property
    def shared(self) -> bool:
        return self._connection.shared

    async def ask(self, query: Query, /, **parameters: Any) -> Any:
        if not query.changes:
            return await self.ask_unguarded(query, **parameters)
        async with self._connection.changing():
            return await until_alone(lambda: self.ask_unguarded(query, **parameters), self._connection)

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
        turn = f"{TURN}\n" if query.in_turn and self._connection.shared else ""
        script = query.text if query.single and not turn else f"{{\n{turn}{query.text}\n}};"
        statements = await self._connection.run(script, parameters, repeatable=query.repeatable)
        failed = failure(statements)
        if failed:
            raise failed.error()
        return statements[-1]["result"]


async def until_alone(attempt: Callable[[], Awaitable[T]], connection: Connection) -> T:
    """Make a change, again and again while other processes change the same at the same moment.

    Raises:
        ConcurrentChange: that went on for too long.
        ConfigurationError: the server keeps its data in memory, and would lose some of them.
    """
    if not connection.shared:
        return await attempt()
    until = time.monotonic() + CONFLICT_SECONDS
    pause, longest = CONFLICT_PAUSE_SECONDS
    while True:
        try:
            return await attempt()
        except Conflicted as conflicted:
            if conflicted.in_memory:
                raise forgets(connection.name) from conflicted
            if time.monotonic() + pause >= until:
                raise
        await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - spreads retries
        pause = min(2 * pause, longest)
