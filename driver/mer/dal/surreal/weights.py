"""Weights in SurrealDB, with their versions."""

from __future__ import annotations

from mer.core.errors import ConcurrentChange, VersionNotFound, WeightsNotFound
from mer.core.records import PAGE, Page, Weights, WeightsId, WeightsVersion
from mer.core.references import MAX_VERSION
from mer.dal.paging import bounded, number_after, page_of
from mer.dal.surreal.executor import Executor
from mer.dal.surreal.names import NamedRows
from mer.dal.surreal.rows import from_row, to_row


class SurrealWeights(NamedRows[Weights]):
    """Weights and their versions."""

    def __init__(self, run: Executor) -> None:
        super().__init__(run, record=Weights, repository="weights", noun="weights", missing=WeightsNotFound)

    async def add_version(self, version: WeightsVersion) -> None:
        otherwise = {
            "weights": WeightsNotFound(f"no weights have the id {version.weights}"),
            "taken": ConcurrentChange(f"version {version.number} was registered by somebody else meanwhile"),
        }
        await self._run.tell(
            self._queries["add_version"], otherwise, weights=version.weights, number=version.number, row=to_row(version)
        )

    async def version(self, weights: WeightsId, number: int) -> WeightsVersion:
        rows = await self._run.ask(self._queries["version"], weights=weights, number=number)
        if not rows:
            raise VersionNotFound(f"the weights have no version {number}")
        return from_row(WeightsVersion, rows[0])

    async def latest_version(self, weights: WeightsId) -> int:
        rows = await self._run.ask(self._queries["latest_version"], weights=weights)
        return int(rows[0]["number"]) if rows else 0

    async def versions(
        self, weights: WeightsId, *, after: str | None = None, limit: int = PAGE
    ) -> Page[WeightsVersion]:
        before = number_after(after)
        rows = await self._run.ask(
            self._queries["versions"],
            weights=weights,
            before=MAX_VERSION + 1 if before is None else before,
            limit=bounded(limit) + 1,
        )
        found = [from_row(WeightsVersion, row) for row in rows]
        return page_of(found, limit=limit, key=lambda version: str(version.number))
