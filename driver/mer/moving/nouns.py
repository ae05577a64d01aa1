"""Everything that a registry holds, one thing after another, in an order in which it can be stored anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import TypeAlias

from mer.core.records import (
    MAX_PAGE,
    AliasMove,
    Model,
    ModelId,
    Placement,
    Retirement,
    Server,
    Version,
    Weights,
    WeightsId,
    WeightsVersion,
)
from mer.dal.base import Repositories
from mer.dal.paging import every

Noun: TypeAlias = Server | Weights | WeightsVersion | Model | Version | Retirement | AliasMove | Placement
"""One thing of a registry. Leases are none: they are claims of living processes on the database that they are in."""

NAMES: dict[str, type[Noun]] = {
    "server": Server,
    "weights": Weights,
    "weights_version": WeightsVersion,
    "model": Model,
    "version": Version,
    "retirement": Retirement,
    "alias_move": AliasMove,
    "placement": Placement,
}


def name_of(noun: Noun) -> str:
    """Return which kind of thing it is, as a backup writes it."""
    return next(name for name, kind in NAMES.items() if kind is type(noun))


def described(noun: Noun) -> str:
    """Return which one it is, for people."""
    what = name_of(noun).replace("_", " ")
    match noun:
        case Server() | Weights() | Model():
            return f"{what} {noun.name!r}"
        case WeightsVersion():
            return f"{what} {noun.number} of {noun.weights}"
        case Version() | Retirement():
            return f"{what} {noun.number} of {noun.model}"
        case AliasMove():
            return f"move {noun.move} of the alias {noun.alias!r} of {noun.model}"
        case Placement():
            return f"{what} of {noun.model} on {noun.server}"


async def nouns_of(store: Repositories) -> AsyncIterator[Noun]:
    """Give everything that is registered, retired or not: what another refers to comes before it.

    The order is the same in every database that holds the same.
    """
    async for server in every(partial(store.servers.page, limit=MAX_PAGE, retired=True)):
        yield server
    async for weights in every(partial(store.weights.page, limit=MAX_PAGE, retired=True)):
        yield weights
        async for of_weights in every(partial(store.weights.versions, WeightsId(weights.id), limit=MAX_PAGE)):
            yield of_weights
    async for model in every(partial(store.models.page, limit=MAX_PAGE, retired=True)):
        yield model
        async for version in every(partial(store.models.versions, ModelId(model.id), limit=MAX_PAGE)):
            yield version
        for retirement in await store.models.retirements(model.id):
            yield retirement
        async for move in every(partial(store.models.alias_history, model.id, limit=MAX_PAGE)):
            yield move
        for placement, _ in await store.placements.of_model(model.id):
            yield placement
