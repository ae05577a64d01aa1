"""Takes the steps of a plan, each through the use-case that an operator would call for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeAlias, assert_never

from mer.content.store import ContentStore
from mer.core.actor import Actor
from mer.core.errors import AliasNotFound, AlreadyExists, DigestMismatch, PlacementNotFound
from mer.core.records import Digest
from mer.registry.declared.steps import (
    CreateServer,
    CreateVersion,
    CreateWeights,
    Describe,
    MoveAlias,
    Noun,
    Place,
    Retire,
    Step,
    Unplace,
)
from mer.registry.models import ModelRegistry
from mer.registry.placements import PlacementRegistry
from mer.registry.servers import ServerRegistry
from mer.registry.weights import WeightsRegistry

Claim: TypeAlias = Callable[[Digest | None, Digest | None], Awaitable[None]]
"""Says that this database needs a package and weights, so that nobody else's gc takes them away."""


class Applying:
    """Takes steps for an actor."""

    def __init__(
        self,
        actor: Actor,
        *,
        servers: ServerRegistry,
        models: ModelRegistry,
        weights: WeightsRegistry,
        placements: PlacementRegistry,
        content: ContentStore,
        claim: Claim,
    ) -> None:
        self._actor = actor
        self._servers = servers
        self._models = models
        self._weights = weights
        self._placements = placements
        self._content = content
        self._claim = claim

    async def take(self, step: Step) -> None:
        """Take one step; where it was taken meanwhile by somebody else, nothing more comes of it.

        Raises:
            ChangesNotAllowed, NotFound, UsageError, Busy, ContentError
        """
        match step:
            case CreateServer():
                await self._create_server(step)
            case Describe():
                await self._describe(step)
            case CreateWeights():
                await self._create_weights(step)
            case CreateVersion():
                await self._create_version(step)
            case MoveAlias():
                await self._move_alias(step)
            case Place():
                await self._placements.place(
                    self._actor, step.reference, step.server, device=step.device, path=step.path
                )
            case Unplace():
                with contextlib.suppress(PlacementNotFound):
                    await self._placements.remove(self._actor, step.model, step.server)
            case Retire():
                await self._retire(step)
            case _:
                assert_never(step)

    async def _create_server(self, step: CreateServer) -> None:
        try:
            await self._servers.register(
                self._actor,
                step.name,
                kind=step.kind,
                parameters=step.parameters,
                description=step.description,
                labels=step.labels,
            )
        except AlreadyExists:
            found = await self._servers.show(step.name)
            if (found.kind, found.parameters, found.retired_at) != (step.kind, step.parameters, None):
                raise

    async def _move_alias(self, step: MoveAlias) -> None:
        with contextlib.suppress(AliasNotFound) if step.version is None else contextlib.nullcontext():
            await self._models.alias(self._actor, step.model, step.alias, step.version)

    async def _describe(self, step: Describe) -> None:
        match step.noun:
            case Noun.SERVER:
                await self._servers.edit(
                    self._actor,
                    step.name,
                    description=step.description,
                    labels=step.labels,
                    parameters=step.parameters,
                )
            case Noun.WEIGHTS:
                await self._weights.edit(self._actor, step.name, description=step.description, labels=step.labels)
            case Noun.MODEL:
                await self._models.edit(self._actor, step.name, description=step.description, labels=step.labels)
            case Noun.VERSION:
                raise AssertionError("a version never changes")
            case _:
                assert_never(step.noun)

    async def _create_weights(self, step: CreateWeights) -> None:
        content = step.content
        if content.file is not None:
            added = await asyncio.to_thread(self._content.add_weights, content.file)
            _check_same(content.digest, added.id, str(content.file))
        await self._claim(None, content.digest)
        await self._weights.register(
            self._actor,
            step.name,
            digest=content.digest,
            tensors=content.tensors,
            size=content.size,
            number=step.number,
            description=step.description,
            labels=step.labels,
        )

    async def _create_version(self, step: CreateVersion) -> None:
        content = step.content
        if content.folder is not None and content.package is not None:
            added = await asyncio.to_thread(self._content.add_package, content.folder, content.given)
            _check_same(content.package, added.id, str(content.folder))
        await self._claim(step.parts.package, step.parts.weights)
        await self._models.register(
            self._actor,
            step.name,
            step.parts,
            number=step.number,
            description=step.description,
            labels=step.labels,
        )

    async def _retire(self, step: Retire) -> None:
        match step.noun:
            case Noun.SERVER:
                await self._servers.retire(self._actor, step.name)
            case Noun.WEIGHTS:
                await self._weights.retire(self._actor, step.name)
            case Noun.MODEL | Noun.VERSION:
                await self._models.retire(self._actor, step.name)
            case _:
                assert_never(step.noun)


def _check_same(planned: Digest, added: Digest, what: str) -> None:
    if planned != added:
        raise DigestMismatch(f"{what} changed while it was being registered", hint="apply the file again")
