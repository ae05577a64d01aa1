"""The registry of a destination made that of a source: added, replaced, taken away; then compared, thing by thing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from mer.core.errors import AlreadyExists, ConcurrentChange, DatabaseNotEmpty, NotFound, ServerNotFound
from mer.core.records import (
    LOCAL,
    MAX_PAGE,
    AliasMove,
    Model,
    ModelId,
    Placement,
    Retirement,
    Server,
    ServerId,
    Version,
    Weights,
    WeightsVersion,
)
from mer.dal.base import Store
from mer.dal.paging import every
from mer.moving.nouns import Noun, described, nouns_of
from mer.moving.source import Source

N = TypeVar("N", Server, Model, Weights)


class Named(Protocol[N]):
    """A repository of things with names."""

    async def add(self, record: N, /) -> None: ...
    async def get(self, name: str) -> N: ...
    async def replace(self, record: N, /) -> None: ...


async def put_registry(source: Source, destination: Store) -> int:
    """Make the destination's registry the source's, and return how many things that has.

    Idempotent, and no transaction: one over a large registry would be held for long, and a copy that was cut goes on
    by the same way.

    Raises:
        DatabaseNotEmpty: another thing has the name of one.
    """
    count = 0
    placed: set[tuple[ModelId, ServerId]] = set()
    async for noun in _adjusted(source, destination):
        count += 1
        if isinstance(noun, Placement):
            placed.add((noun.model, noun.server))
        await _put(noun, destination)
    async for model in every(partial(destination.models.page, limit=MAX_PAGE, retired=True)):
        for placement, _ in await destination.placements.of_model(model.id):
            if (placement.model, placement.server) not in placed:
                await destination.placements.remove(placement.model, placement.server)
    return count


async def difference(source: Source, destination: Store) -> str | None:
    """Compare the two registries, and return the first thing that is not the same in both; None where there is none."""
    there = nouns_of(destination)
    async for noun in _adjusted(source, destination):
        if noun != (found := await anext(there, None)):
            return described(noun) if found is None else f"{described(noun)}, where there is {described(found)}"
    left = await anext(there, None)
    return None if left is None else described(left)


async def _adjusted(source: Source, destination: Store) -> AsyncIterator[Noun]:
    """Give the source's registry, in which the server `local` has the id that it has in the destination already.

    Whoever opens a database makes that one, under any id, and nothing but placements refers to it.
    """
    try:
        own = (await destination.servers.get(LOCAL)).id
    except ServerNotFound:
        own = None
    theirs: ServerId | None = None
    async for noun in source.nouns():
        if own is None:
            yield noun
        elif isinstance(noun, Server) and noun.name == LOCAL:
            theirs = noun.id
            yield msgspec.structs.replace(noun, id=own)
        elif isinstance(noun, Placement) and noun.server == theirs:
            yield msgspec.structs.replace(noun, server=own)
        else:
            yield noun


async def _put(noun: Noun, destination: Store) -> None:
    # what can never be changed and is there already is compared afterwards, with everything
    match noun:
        case Server():
            await _put_named(noun, destination.servers)
        case Weights():
            await _put_named(noun, destination.weights)
        case Model():
            await _put_named(noun, destination.models)
        case WeightsVersion():
            with suppress(ConcurrentChange):
                await destination.weights.add_version(noun)
        case Version():
            with suppress(ConcurrentChange):
                await destination.models.add_version(noun)
        case Retirement():
            await destination.models.retire_version(noun)
        case AliasMove():
            with suppress(ConcurrentChange):
                await destination.models.move_alias(noun)
        case Placement():
            await destination.placements.put(noun)


async def _put_named(record: N, repository: Named[N]) -> None:
    try:
        await repository.add(record)
        return
    except AlreadyExists:
        pass
    try:
        there = await repository.get(record.name)
    except NotFound:
        await repository.replace(record)  # its id is there, under the name that it had before
        return
    if there.id != record.id:
        raise DatabaseNotEmpty(f"another thing is registered there as the {described(record)}")
    if there != record:
        await repository.replace(record)
