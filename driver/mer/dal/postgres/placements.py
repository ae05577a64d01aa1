"""Placements in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mer.core.errors import ModelNotFound, PlacementNotFound, ServerNotFound, VersionNotFound
from mer.core.records import PAGE, Model, ModelId, Page, Placement, Server, ServerId
from mer.dal.paging import bounded, page_of
from mer.dal.postgres.queries import queries
from mer.dal.postgres.session import Session


class PostgresPlacements:
    """Which model runs where."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._queries = queries("placements")

    async def put(self, placement: Placement) -> None:
        meanings = {
            "placement_of_model": ModelNotFound(f"no model has the id {placement.model}"),
            "placement_on_server": ServerNotFound(f"no server has the id {placement.server}"),
            "placement_of_version": VersionNotFound(f"the model has no version {placement.version}"),
        }
        await self._session.ask(
            self._queries["put"], msgspec.structs.asdict(placement), meanings=meanings, repeatable=True
        )

    async def remove(self, model: ModelId, server: ServerId) -> None:
        if not await self._session.ask(self._queries["remove"], {"model": model, "server": server}):
            raise PlacementNotFound()

    async def of_model(self, model: ModelId) -> tuple[tuple[Placement, Server], ...]:
        rows = await self._session.ask(self._queries["of_model"], {"model": model}, repeatable=True)
        return tuple((msgspec.convert(row, Placement), msgspec.convert(_joined(row, "server"), Server)) for row in rows)

    async def of_server(
        self, server: ServerId, *, after: str | None = None, limit: int = PAGE
    ) -> Page[tuple[Placement, Model]]:
        parameters = {"server": server, "after": after, "limit": bounded(limit) + 1}
        rows = await self._session.ask(self._queries["of_server"], parameters, repeatable=True)
        found = [(msgspec.convert(row, Placement), msgspec.convert(_joined(row, "model"), Model)) for row in rows]
        return page_of(found, limit=limit, key=lambda pair: pair[1].name)


def _joined(row: Mapping[str, Any], noun: str) -> dict[str, Any]:
    """Return the columns of the noun that was joined; two of its names are the placement's own."""
    return {**row, "id": row[f"{noun}_id"], "created_at": row[f"{noun}_created_at"]}
