"""Weights in memory, with their versions."""

from __future__ import annotations

from mer.core.errors import ConcurrentChange, VersionNotFound, WeightsNotFound
from mer.core.records import PAGE, Page, Weights, WeightsId, WeightsVersion
from mer.dal.memory.names import NamedRows
from mer.dal.memory.tables import Tables
from mer.dal.paging import bounded, number_after, page_of


class MemoryWeights(NamedRows[Weights]):
    """Weights and their versions."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables.weights, tables.weights_names, noun="weights", missing=WeightsNotFound)
        self._tables = tables

    async def add_version(self, version: WeightsVersion) -> None:
        if self._tables.weights.get(version.weights) is None:
            raise WeightsNotFound(f"no weights have the id {version.weights}")
        if self._tables.weights_versions.get((version.weights, version.number)) is not None:
            raise ConcurrentChange(f"version {version.number} was registered by somebody else meanwhile")
        self._tables.weights_versions.put((version.weights, version.number), version)

    async def version(self, weights: WeightsId, number: int) -> WeightsVersion:
        found = self._tables.weights_versions.get((weights, number))
        if found is None:
            raise VersionNotFound(f"the weights have no version {number}")
        return found

    async def latest_version(self, weights: WeightsId) -> int:
        return max(
            (each.number for each in self._tables.weights_versions.values() if each.weights == weights), default=0
        )

    async def versions(
        self, weights: WeightsId, *, after: str | None = None, limit: int = PAGE
    ) -> Page[WeightsVersion]:
        last = number_after(after)
        found = sorted(
            (
                version
                for version in self._tables.weights_versions.values()
                if version.weights == weights and (last is None or version.number < last)
            ),
            key=lambda version: -version.number,
        )
        return page_of(found[: bounded(limit) + 1], limit=limit, key=lambda version: str(version.number))
