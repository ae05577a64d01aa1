"""Models in memory, with their versions and aliases."""

from __future__ import annotations

from mer.core.errors import AliasNotFound, ConcurrentChange, ModelNotFound, VersionNotFound
from mer.core.records import PAGE, AliasMove, Model, ModelId, Page, Retirement, Version
from mer.dal.memory.names import NamedRows
from mer.dal.memory.tables import Tables
from mer.dal.paging import bounded, move_after, move_key, number_after, page_of


class MemoryModels(NamedRows[Model]):
    """Models with their versions and aliases."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables.models, tables.model_names, noun="model", missing=ModelNotFound)
        self._tables = tables

    async def add_version(self, version: Version) -> None:
        if self._tables.models.get(version.model) is None:
            raise ModelNotFound(f"no model has the id {version.model}")
        if self._tables.versions.get((version.model, version.number)) is not None:
            raise ConcurrentChange(f"version {version.number} was registered by somebody else meanwhile")
        self._tables.versions.put((version.model, version.number), version)

    async def version(self, model: ModelId, number: int) -> Version:
        found = self._tables.versions.get((model, number))
        if found is None:
            raise VersionNotFound(f"the model has no version {number}")
        return found

    async def latest_version(self, model: ModelId) -> int:
        return max((version.number for version in self._tables.versions.values() if version.model == model), default=0)

    async def versions(self, model: ModelId, *, after: str | None = None, limit: int = PAGE) -> Page[Version]:
        last = number_after(after)
        found = sorted(
            (
                version
                for version in self._tables.versions.values()
                if version.model == model and (last is None or version.number < last)
            ),
            key=lambda version: -version.number,
        )
        return page_of(found[: bounded(limit) + 1], limit=limit, key=lambda version: str(version.number))

    async def retire_version(self, retirement: Retirement) -> None:
        key = (retirement.model, retirement.number)
        await self.version(*key)
        if self._tables.retirements.get(key) is None:
            self._tables.retirements.put(key, retirement)

    async def retirements(self, model: ModelId) -> tuple[Retirement, ...]:
        found = (retirement for retirement in self._tables.retirements.values() if retirement.model == model)
        return tuple(sorted(found, key=lambda retirement: retirement.number))

    async def move_alias(self, move: AliasMove) -> None:
        if self._tables.models.get(move.model) is None:
            raise ModelNotFound(f"no model has the id {move.model}")
        if move.version is not None:
            await self.version(move.model, move.version)
        key = (move.model, move.alias, move.move)
        if self._tables.moves.get(key) is not None:
            raise ConcurrentChange(f"the alias {move.alias!r} was moved by somebody else meanwhile")
        self._tables.moves.put(key, move)

    async def alias(self, model: ModelId, alias: str) -> AliasMove:
        newest = self._newest(model).get(alias)
        if newest is None or newest.version is None:
            raise AliasNotFound(f"the model has no alias {alias!r}")
        return newest

    async def last_move(self, model: ModelId, alias: str) -> int:
        newest = self._newest(model).get(alias)
        return 0 if newest is None else newest.move

    async def aliases(self, model: ModelId) -> tuple[AliasMove, ...]:
        newest = self._newest(model)
        return tuple(newest[alias] for alias in sorted(newest) if newest[alias].version is not None)

    async def alias_history(self, model: ModelId, *, after: str | None = None, limit: int = PAGE) -> Page[AliasMove]:
        last = move_after(after)
        found = sorted(
            (move for move in self._moves(model) if last is None or (move.at, move.alias, move.move) < last),
            key=lambda move: (move.at, move.alias, move.move),
            reverse=True,
        )
        return page_of(found[: bounded(limit) + 1], limit=limit, key=move_key)

    def _moves(self, model: ModelId) -> list[AliasMove]:
        return [move for move in self._tables.moves.values() if move.model == model]

    def _newest(self, model: ModelId) -> dict[str, AliasMove]:
        return {move.alias: move for move in sorted(self._moves(model), key=lambda move: move.move)}
