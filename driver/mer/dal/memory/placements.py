"""Placements in memory."""

from __future__ import annotations

from mer.core.errors import ModelNotFound, PlacementNotFound, ServerNotFound, VersionNotFound
from mer.core.records import PAGE, Model, ModelId, Page, Placement, Server, ServerId
from mer.dal.memory.tables import Tables
from mer.dal.paging import bounded, page_of


class MemoryPlacements:
    """Which model runs where."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def put(self, placement: Placement) -> None:
        if self._tables.models.get(placement.model) is None:
            raise ModelNotFound(f"no model has the id {placement.model}")
        if self._tables.servers.get(placement.server) is None:
            raise ServerNotFound(f"no server has the id {placement.server}")
        if placement.version is not None and self._tables.versions.get((placement.model, placement.version)) is None:
            raise VersionNotFound(f"the model has no version {placement.version}")
        self._tables.placements.put((placement.model, placement.server), placement)

    async def remove(self, model: ModelId, server: ServerId) -> None:
        if self._tables.placements.get((model, server)) is None:
            raise PlacementNotFound()
        self._tables.placements.remove((model, server))

    async def of_model(self, model: ModelId) -> tuple[tuple[Placement, Server], ...]:
        found = [
            (placement, server)
            for placement in self._tables.placements.values()
            if placement.model == model and (server := self._tables.servers.get(placement.server)) is not None
        ]
        return tuple(sorted(found, key=lambda pair: pair[1].name))

    async def of_server(
        self, server: ServerId, *, after: str | None = None, limit: int = PAGE
    ) -> Page[tuple[Placement, Model]]:
        found = [
            (placement, model)
            for placement in self._tables.placements.values()
            if placement.server == server
            and (model := self._tables.models.get(placement.model)) is not None
            and (after is None or model.name > after)
        ]
        found.sort(key=lambda pair: pair[1].name)
        return page_of(found[: bounded(limit) + 1], limit=limit, key=lambda pair: pair[1].name)
