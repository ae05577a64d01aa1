"""Models in SurrealDB, with their versions and aliases."""

from __future__ import annotations

from mer.core.errors import AliasNotFound, ConcurrentChange, ModelNotFound, VersionNotFound
from mer.core.records import PAGE, AliasMove, Model, ModelId, Page, Retirement, Version
from mer.core.references import MAX_VERSION
from mer.dal.paging import bounded, move_after, move_key, number_after, page_of
from mer.dal.surreal.executor import Executor
from mer.dal.surreal.names import NamedRows
from mer.dal.surreal.rows import from_row, to_row


class SurrealModels(NamedRows[Model]):
    """Models with their versions and aliases."""

    def __init__(self, run: Executor) -> None:
        super().__init__(run, record=Model, repository="models", noun="model", missing=ModelNotFound)

    async def add_version(self, version: Version) -> None:
        otherwise = {
            "model": ModelNotFound(f"no model has the id {version.model}"),
            "taken": ConcurrentChange(f"version {version.number} was registered by somebody else meanwhile"),
        }
        await self._run.tell(
            self._queries["add_version"], otherwise, model=version.model, number=version.number, row=to_row(version)
        )

    async def version(self, model: ModelId, number: int) -> Version:
        rows = await self._run.ask(self._queries["version"], model=model, number=number)
        if not rows:
            raise VersionNotFound(f"the model has no version {number}")
        return from_row(Version, rows[0])

    async def latest_version(self, model: ModelId) -> int:
        rows = await self._run.ask(self._queries["latest_version"], model=model)
        return int(rows[0]["number"]) if rows else 0

    async def versions(self, model: ModelId, *, after: str | None = None, limit: int = PAGE) -> Page[Version]:
        before = number_after(after)
        rows = await self._run.ask(
            self._queries["versions"],
            model=model,
            before=MAX_VERSION + 1 if before is None else before,
            limit=bounded(limit) + 1,
        )
        found = [from_row(Version, row) for row in rows]
        return page_of(found, limit=limit, key=lambda version: str(version.number))

    async def retire_version(self, retirement: Retirement) -> None:
        otherwise = {"version": VersionNotFound(f"the model has no version {retirement.number}")}
        await self._run.tell(
            self._queries["retire_version"],
            otherwise,
            model=retirement.model,
            number=retirement.number,
            at=retirement.at,
        )

    async def retirements(self, model: ModelId) -> tuple[Retirement, ...]:
        rows = await self._run.ask(self._queries["retirements"], model=model)
        return tuple(from_row(Retirement, row) for row in rows)

    async def move_alias(self, move: AliasMove) -> None:
        otherwise = {
            "model": ModelNotFound(f"no model has the id {move.model}"),
            "version": VersionNotFound(f"the model has no version {move.version}"),
            "taken": ConcurrentChange(f"the alias {move.alias!r} was moved by somebody else meanwhile"),
        }
        await self._run.tell(
            self._queries["move_alias"],
            otherwise,
            model=move.model,
            alias=move.alias,
            move=move.move,
            version=move.version,
            row=to_row(move),
        )

    async def alias(self, model: ModelId, alias: str) -> AliasMove:
        newest = await self._newest(model, alias)
        if newest is None or newest.version is None:
            raise AliasNotFound(f"the model has no alias {alias!r}")
        return newest

    async def last_move(self, model: ModelId, alias: str) -> int:
        newest = await self._newest(model, alias)
        return newest.move if newest else 0

    async def aliases(self, model: ModelId) -> tuple[AliasMove, ...]:
        rows = await self._run.ask(self._queries["aliases"], model=model)
        return tuple(from_row(AliasMove, row) for row in rows)

    async def alias_history(self, model: ModelId, *, after: str | None = None, limit: int = PAGE) -> Page[AliasMove]:
        at, alias, move = move_after(after) or (None, None, None)
        rows = await self._run.ask(
            self._queries["alias_history"], model=model, at=at, alias=alias, move=move, limit=bounded(limit) + 1
        )
        return page_of([from_row(AliasMove, row) for row in rows], limit=limit, key=move_key)

    async def _newest(self, model: ModelId, alias: str) -> AliasMove | None:
        rows = await self._run.ask(self._queries["last_move"], model=model, alias=alias)
        return from_row(AliasMove, rows[0]) if rows else None
