"""What the store asks of a connection, whichever way it leads to the engine: inside this process, or over the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

Statements = Sequence[Mapping[str, Any]]
"""The result of each statement of a script, failed ones included."""


class Engine(Protocol):
    """What is used of the client library's connection."""

    async def connect(self) -> None: ...
    async def use(self, namespace: str, database: str) -> None: ...
    async def query_raw(self, query: str, vars: dict[str, Any]) -> dict[str, Any]: ...  # noqa: A002 - the library's name
    async def version(self) -> str: ...
    async def close(self) -> None: ...


class Connection(Protocol):
    """The one connection of a process to a database, shared by everything in it."""

    @property
    def name(self) -> str:
        """The database for people, without secrets."""

    @property
    def shared(self) -> bool:
        """Whether other processes may change the database at the same moment."""

    @property
    def opened(self) -> int:
        """How often it was opened: what was remembered of the database is stale after another process had it."""

    def in_use(self) -> AbstractAsyncContextManager[None]:
        """Keep the engine open within the block.

        Raises:
            DatabaseLocked, DatabaseUnreachable, AuthenticationFailed, NotMigrated, FolderUnsafe.
        """

    def changing(self) -> AbstractAsyncContextManager[None]:
        """Let nobody else in this process change anything within the block.

        Raises:
            ConcurrentChange: somebody else held it for longer than a process waits for another's lock.
        """

    async def run(self, script: str, parameters: Mapping[str, Any], *, repeatable: bool = False) -> Statements:
        """Run a script and return the result of each statement, failed ones included.

        `repeatable`: it may run twice, as one that changes nothing may, where the answer to the first run is lost.

        Raises:
            as `in_use`; DatabaseUnreachable: the engine failed, or took longer than a statement may;
            InputInvalid: a parameter has no form in the database.
        """

    async def version(self) -> str:
        """Return the engine's own. Raises: as `in_use`."""

    async def close(self) -> None:
        """Close it once what is under way has ended; closing twice is no fault."""
