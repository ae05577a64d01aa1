"""Models in PostgreSQL, with their versions and aliases."""

from __future__ import annotations

import msgspec

from mer.core.errors import AliasNotFound, ConcurrentChange, ModelNotFound, VersionNotFound
from mer.core.records import PAGE, AliasMove, Model, ModelId, Page, Retirement, Version
from mer.dal.paging import bounded, move_after, move_key, number_after, page_of
from mer.dal.postgres.names import NamedRows
from mer.dal.postgres.session import Session, json


class PostgresModels(NamedRows[Model]):
    """Models with their versions and aliases."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, Model, noun="model", missing=ModelNotFound, file="models")

    async def add_version(self, version: Version) -> None:
        meanings = {
            "version_pkey": ConcurrentChange(f"version {version.number} was registered by somebody else meanwhile"),
            "version_of_model": ModelNotFound(f"no model has the id {version.model}"),
        }
        values = msgspec.structs.asdict(version) | {"spec": json(version.spec)}
        await self._session.ask(self._queries["add_version"], values, meanings=meanings)

    async def version(self, model: ModelId, number: int) -> Version:
        parameters = {"model": model, "number": number}
        rows = await self._session.ask(self._queries["version"], parameters, repeatable=True)
        if not rows:
            raise VersionNotFound(f"the model has no version {number}")
        return msgspec.convert(rows[0], Version)

    async def latest_version(self, model: ModelId) -> int:
        rows = await self._session.ask(self._queries["latest_version"], {"model": model}, repeatable=True)
        return int(rows[0]["number"])

    async def versions(self, model: ModelId, *, after: str | None = None, limit: int = PAGE) -> Page[Version]:
        parameters = {"model": model, "after": number_after(after), "limit": bounded(limit) + 1}
        rows = await self._session.ask(self._queries["versions"], parameters, repeatable=True)
        found = [msgspec.convert(row, Version) for row in rows]
        return page_of(found, limit=limit, key=lambda version: str(version.number))

    async def retire_version(self, retirement: Retirement) -> None:
        meanings = {"retirement_of_version": VersionNotFound(f"the model has no version {retirement.number}")}
        await self._session.ask(
            self._queries["retire_version"], msgspec.structs.asdict(retirement), meanings=meanings, repeatable=True
        )

    async def retirements(self, model: ModelId) -> tuple[Retirement, ...]:
        rows = await self._session.ask(self._queries["retirements"], {"model": model}, repeatable=True)
        return tuple(msgspec.convert(row, Retirement) for row in rows)

    async def move_alias(self, move: AliasMove) -> None:
        meanings = {
            "alias_move_pkey": ConcurrentChange(f"the alias {move.alias!r} was moved by somebody else meanwhile"),
            "move_of_model": ModelNotFound(f"no model has the id {move.model}"),
            "move_to_version": VersionNotFound(f"the model has no version {move.version}"),
        }
        await self._session.ask(self._queries["move_alias"], msgspec.structs.asdict(move), meanings=meanings)

    async def alias(self, model: ModelId, alias: str) -> AliasMove:
        newest = await self._newest(model, alias)
        if newest is None or newest.version is None:
            raise AliasNotFound(f"the model has no alias {alias!r}")
        return newest

    async def last_move(self, model: ModelId, alias: str) -> int:
        newest = await self._newest(model, alias)
        return 0 if newest is None else newest.move

    async def aliases(self, model: ModelId) -> tuple[AliasMove, ...]:
        rows = await self._session.ask(self._queries["aliases"], {"model": model}, repeatable=True)
        return tuple(msgspec.convert(row, AliasMove) for row in rows)

    async def alias_history(self, model: ModelId, *, after: str | None = None, limit: int = PAGE) -> Page[AliasMove]:
        at, alias, move = move_after(after) or (None, None, None)
        parameters = {"model": model, "at": at, "alias": alias, "move": move, "limit": bounded(limit) + 1}
        rows = await self._session.ask(self._queries["alias_history"], parameters, repeatable=True)
        return page_of([msgspec.convert(row, AliasMove) for row in rows], limit=limit, key=move_key)

    async def _newest(self, model: ModelId, alias: str) -> AliasMove | None:
        parameters = {"model": model, "alias": alias}
        rows = await self._session.ask(self._queries["last_move"], parameters, repeatable=True)
        return msgspec.convert(rows[0], AliasMove) if rows else None
