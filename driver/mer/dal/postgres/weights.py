"""Weights in PostgreSQL, with their versions."""

from __future__ import annotations

import msgspec

from mer.core.errors import ConcurrentChange, VersionNotFound, WeightsNotFound
from mer.core.records import PAGE, Page, Weights, WeightsId, WeightsVersion
from mer.dal.paging import bounded, number_after, page_of
from mer.dal.postgres.names import NamedRows
from mer.dal.postgres.session import Session


class PostgresWeights(NamedRows[Weights]):
    """Weights and their versions."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, Weights, noun="weights", missing=WeightsNotFound, file="weights")

    async def add_version(self, version: WeightsVersion) -> None:
        meanings = {
            "weights_version_pkey": ConcurrentChange(
                f"version {version.number} was registered by somebody else meanwhile"
            ),
            "version_of_weights": WeightsNotFound(f"no weights have the id {version.weights}"),
        }
        await self._session.ask(self._queries["add_version"], msgspec.structs.asdict(version), meanings=meanings)

    async def version(self, weights: WeightsId, number: int) -> WeightsVersion:
        parameters = {"weights": weights, "number": number}
        rows = await self._session.ask(self._queries["version"], parameters, repeatable=True)
        if not rows:
            raise VersionNotFound(f"the weights have no version {number}")
        return msgspec.convert(rows[0], WeightsVersion)

    async def latest_version(self, weights: WeightsId) -> int:
        rows = await self._session.ask(self._queries["latest_version"], {"weights": weights}, repeatable=True)
        return int(rows[0]["number"])

    async def versions(
        self, weights: WeightsId, *, after: str | None = None, limit: int = PAGE
    ) -> Page[WeightsVersion]:
        parameters = {"weights": weights, "after": number_after(after), "limit": bounded(limit) + 1}
        rows = await self._session.ask(self._queries["versions"], parameters, repeatable=True)
        found = [msgspec.convert(row, WeightsVersion) for row in rows]
        return page_of(found, limit=limit, key=lambda version: str(version.number))
