"""The engine inside this process, spoken to without the client library around it.

`surrealdb_embedded` takes and gives the CBOR of SurrealDB's remote procedure calls. The library wraps that in validation,
a message with an id of its own, and its codec: as much Python again as an append of eight records needs by itself, and
a second to import.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mer.dal.surreal import cbor

if TYPE_CHECKING:
    from surrealdb_embedded import AsyncEmbeddedDB


class EngineFailed(Exception):
    """What the engine said; its own errors are RuntimeErrors."""


class InProcess:
    """One engine, open until it is closed."""

    def __init__(self, engine: AsyncEmbeddedDB) -> None:
        self._engine = engine

    @classmethod
    async def open(cls, url: str, *, namespace: str, database: str) -> InProcess:
        """Open the engine of a URL, on one of its databases.

        Raises:
            EngineFailed: another process holds the folder, or it cannot be read.
        """
        from surrealdb_embedded import AsyncEmbeddedDB

        try:
            engine = AsyncEmbeddedDB(url)
            await engine.connect()
        except RuntimeError as error:
            raise EngineFailed(str(error)) from error
        opened = cls(engine)
        try:
            await opened._tell("use", [namespace, database])
        except BaseException:
            await opened.close()
            raise
        return opened

    def send(self, script: str, parameters: Mapping[str, Any]) -> asyncio.Future[bytes]:
        """Hand a script to the engine, at once; `read` makes sense of what the future brings, or of its RuntimeError.

        Raises:
            ValueError, TypeError: a parameter has no form in the database.
            EngineFailed: it is closed.
        """
        try:
            return self._call("query", [script, dict(parameters)])
        except RuntimeError as error:
            raise EngineFailed(str(error)) from error

    async def version(self) -> str:
        """Return the engine's own. Raises: EngineFailed."""
        return str(await self._tell("version", []))

    async def close(self) -> None:
        """Close it. Raises: EngineFailed: it could not finish something."""
        try:
            await self._engine.close()
        except RuntimeError as error:
            raise EngineFailed(str(error)) from error

    async def _tell(self, method: str, parameters: list[Any]) -> Any:
        try:
            answer = read(await self._call(method, parameters))
        except RuntimeError as error:
            raise EngineFailed(str(error)) from error
        if "result" not in answer:
            raise EngineFailed(f"{method}: {answer.get('error')}")
        return answer["result"]

    def _call(self, method: str, parameters: list[Any]) -> asyncio.Future[bytes]:
        # the id is for a wire with several answers under way; here each has its own future
        return asyncio.ensure_future(
            self._engine.execute(cbor.encode({"id": "", "method": method, "params": parameters}))
        )


def read(answer: bytes) -> dict[str, Any]:
    """Return an answer: a `result`, or an `error`."""
    decoded: dict[str, Any] = cbor.decode(answer)
    return decoded
