"""Placements in SurrealDB."""

from __future__ import annotations

from mer.core.errors import ModelNotFound, PlacementNotFound, ServerNotFound, VersionNotFound
from mer.core.records import PAGE, Model, ModelId, Page, Placement, Server, ServerId
from mer.dal.paging import bounded, page_of
from mer.dal.surreal.executor import Executor
from mer.dal.surreal.queries import load
from mer.dal.surreal.rows import from_row, to_row


class SurrealPlacements:
    """Which model runs where."""

    def __init__(self, run: Executor) -> None:
        self._run = run
        self._queries = load("placements")

    async def put(self, placement: Placement) -> None:
        otherwise = {
            "model": ModelNotFound(f"no model has the id {placement.model}"),
            "server": ServerNotFound(f"no server has the id {placement.server}"),
            "version": VersionNotFound(f"the model has no version {placement.version}"),
        }
        await self._run.tell(
            self._queries["put"],
            otherwise,
            model=placement.model,
            server=placement.server,
            version=placement.version,
            row=to_row(placement),
        )

    async def remove(self, model: ModelId, server: ServerId) -> None:
        await self._run.tell(self._queries["remove"], {"missing": PlacementNotFound()}, model=model, server=server)

    async def of_model(self, model: ModelId) -> tuple[tuple[Placement, Server], ...]:
        rows = await self._run.ask(self._queries["of_model"], model=model)
        return tuple((from_row(Placement, row), from_row(Server, row["other"])) for row in rows)

    async def of_server(
        self, server: ServerId, *, after: str | None = None, limit: int = PAGE
    ) -> Page[tuple[Placement, Model]]:
        rows = await self._run.ask(
            self._queries["of_server"], server=server, after=after or "", limit=bounded(limit) + 1
        )
        found = [(from_row(Placement, row), from_row(Model, row["other"])) for row in rows]
        return page_of(found, limit=limit, key=lambda pair: pair[1].name)
