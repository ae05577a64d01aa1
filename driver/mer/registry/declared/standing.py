"""What the database holds, as far as a registry file is compared with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from functools import partial

import msgspec

from mer.core.errors import ConfigurationError, ModelNotFound, WeightsNotFound
from mer.core.records import MAX_PAGE, Model, Placement, Server, Version, Weights, WeightsVersion
from mer.dal.base import Repositories
from mer.dal.paging import every

MAX_VERSIONS = 200_000
"""Versions held in memory at once, about 1 kB each; a registry beyond this is no longer looked after by one file."""


class StandingWeights(msgspec.Struct, frozen=True, kw_only=True):
    """Weights with all versions, oldest first."""

    weights: Weights
    versions: tuple[WeightsVersion, ...]


class StandingModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model with all versions, oldest first, and what its aliases and placements are."""

    model: Model
    versions: tuple[Version, ...]
    retired: frozenset[int]
    aliases: dict[str, int]
    placements: dict[str, Placement]
    """By the server's name."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The registry, or a part of it; each noun by name, retired ones too."""

    servers: dict[str, Server] = {}
    weights: dict[str, StandingWeights] = {}
    models: dict[str, StandingModel] = {}


async def read_standing(
    within: Repositories, *, weights: Iterable[str] | None = None, models: Iterable[str] | None = None
) -> Standing:
    """Return all servers, and the weights and models of these names; None means all of them.

    What others change meanwhile may be seen in part: the use-cases decide again when they write.

    Raises:
        ConfigurationError: it holds more versions than MAX_VERSIONS.
    """
    room = _Room()
    return Standing(
        servers={
            server.name: server async for server in every(partial(within.servers.page, limit=MAX_PAGE, retired=True))
        },
        weights={found.name: await _weights(within, found, room) async for found in _named_weights(within, weights)},
        models={found.name: await _model(within, found, room) async for found in _named_models(within, models)},
    )


class _Room:
    def __init__(self) -> None:
        self.taken = 0

    def take(self) -> None:
        self.taken += 1
        if self.taken > MAX_VERSIONS:
            raise ConfigurationError(f"the registry holds more than {MAX_VERSIONS} versions: too many for one file")


async def _named_weights(within: Repositories, names: Iterable[str] | None) -> AsyncIterator[Weights]:
    if names is None:
        async for weights in every(partial(within.weights.page, limit=MAX_PAGE, retired=True)):
            yield weights
        return
    for name in names:
        try:
            yield await within.weights.get(name)
        except WeightsNotFound:
            continue


async def _named_models(within: Repositories, names: Iterable[str] | None) -> AsyncIterator[Model]:
    if names is None:
        async for model in every(partial(within.models.page, limit=MAX_PAGE, retired=True)):
            yield model
        return
    for name in names:
        try:
            yield await within.models.get(name)
        except ModelNotFound:
            continue


async def _weights(within: Repositories, weights: Weights, room: _Room) -> StandingWeights:
    versions = []
    async for version in every(partial(within.weights.versions, weights.id, limit=MAX_PAGE)):
        room.take()
        versions.append(version)
    return StandingWeights(weights=weights, versions=tuple(reversed(versions)))


async def _model(within: Repositories, model: Model, room: _Room) -> StandingModel:
    versions = []
    async for version in every(partial(within.models.versions, model.id, limit=MAX_PAGE)):
        room.take()
        versions.append(version)
    return StandingModel(
        model=model,
        versions=tuple(reversed(versions)),
        retired=frozenset(retirement.number for retirement in await within.models.retirements(model.id)),
        aliases={
            move.alias: move.version for move in await within.models.aliases(model.id) if move.version is not None
        },
        placements={server.name: placement for placement, server in await within.placements.of_model(model.id)},
    )
