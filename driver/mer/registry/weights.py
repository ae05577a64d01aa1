"""Weights: named, versioned lists of tensors, swappable apart from code."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mer.core.actor import Actor
from mer.core.canonical import Json
from mer.core.errors import AlreadyExists, Busy, ConcurrentChange, Retired, UsageError, VersionNotFound, WeightsNotFound
from mer.core.identifiers import uuid7
from mer.core.records import PAGE, Digest, Page, Weights, WeightsId, WeightsVersion
from mer.core.references import check_name, parse_reference
from mer.dal.base import Repositories, Store
from mer.registry.changes import Changes
from mer.registry.describing import changed_labels, check_description, check_labels


class WeightsView(msgspec.Struct, frozen=True, kw_only=True):
    """Weights with a page of their versions."""

    weights: Weights
    versions: Page[WeightsVersion]


class WeightsRegistered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a registration."""

    weights: Weights
    version: WeightsVersion
    created: bool
    """False: the newest version is just this one already."""


class WeightsRegistry:
    """List, show, register and retire weights."""

    def __init__(self, store: Store, changes: Changes, *, clock: Callable[[], dt.datetime]) -> None:
        self._store = store
        self._changes = changes
        self._clock = clock

    async def list(self, *, after: str | None = None, limit: int = PAGE, retired: bool = False) -> Page[Weights]:
        """Return a page of weights by name."""
        return await self._store.weights.page(after=after, limit=limit, retired=retired)

    async def show(self, name: str, *, after: str | None = None, limit: int = PAGE) -> WeightsView:
        """Return weights with a page of their versions, newest first.

        Raises:
            WeightsNotFound
        """
        weights = await self._store.weights.get(name)
        return WeightsView(
            weights=weights, versions=await self._store.weights.versions(weights.id, after=after, limit=limit)
        )

    async def resolve(self, reference: str) -> WeightsVersion:
        """Return the version that `name` (the newest) or `name:3` means.

        Raises:
            WeightsNotFound, VersionNotFound, Retired, UsageError: an alias was given.
        """
        wanted = parse_reference(reference)
        if wanted.alias:
            raise UsageError(f"{reference}: weights have no aliases, write NAME or NAME:VERSION")
        weights = await self._store.weights.get(wanted.name)
        if weights.retired_at is not None:
            raise Retired(f"the weights {weights.name} were retired on {weights.retired_at:%Y-%m-%d}")
        number = wanted.version or await self._store.weights.latest_version(weights.id)
        try:
            return await self._store.weights.version(weights.id, number)
        except VersionNotFound as error:  # a store knows them by their id
            raise VersionNotFound(f"the weights {weights.name} have no version {number}") from error

    async def register(
        self,
        actor: Actor,
        name: str,
        *,
        digest: Digest,
        tensors: int,
        size: int,
        number: int | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> WeightsRegistered:
        """Register a version: a list of tensors that the content store holds already.

        With `number` it becomes that version or none: the same as the version before it makes one of its own, too.

        Raises:
            Retired, ChangesNotAllowed
            Busy: another version has that number, or it is not the next.
        """
        name = check_name(name)

        async def add(within: Repositories) -> tuple[WeightsRegistered, Mapping[str, Json] | None]:
            # here too: somebody may have registered it between the first look and this attempt
            if same := await self._same_already(within, name, digest, number):
                return same, None
            weights = await self._weights(within, name, description, labels)
            next_number = await within.weights.latest_version(weights.id) + 1
            if number not in (None, next_number):
                raise Busy(f"{name}:{number} cannot be registered: the next version is {next_number}")
            version = WeightsVersion(
                weights=weights.id,
                number=next_number,
                digest=digest,
                tensors=tensors,
                size=size,
                created_at=self._clock(),
            )
            await within.weights.add_version(version)
            detail: dict[str, Json] = {"weights_name": name, "weights_version": version.number, "weights": digest}
            return WeightsRegistered(weights=weights, version=version, created=True), detail

        await self._changes.require_allowed(actor, "weights.register")
        if same := await self._same_already(self._store, name, digest, number):
            return same
        return await self._changes.apply(actor, "weights.register", add)

    async def edit(
        self, actor: Actor, name: str, *, description: str | None = None, labels: Mapping[str, str | None] | None = None
    ) -> Weights:
        """Change what is given; a label of None is taken away, those not named stay.

        Raises:
            WeightsNotFound, ChangesNotAllowed
        """

        async def change(within: Repositories) -> tuple[Weights, Mapping[str, Json]]:
            weights = await within.weights.get(name)
            changed: dict[str, Any] = {}
            if description is not None:
                changed["description"] = check_description(description)
            if labels is not None:
                changed["labels"] = changed_labels(weights.labels, labels)
            weights = msgspec.structs.replace(weights, **changed)
            await within.weights.replace(weights)
            return weights, {"weights_name": weights.name, "changed": changed}

        return await self._changes.apply(actor, "weights.edit", change)

    async def retire(self, actor: Actor, name: str) -> Weights:
        """Take weights out of use. Versions of models that have them keep them.

        Raises:
            WeightsNotFound, ChangesNotAllowed
        """

        async def change(within: Repositories) -> tuple[Weights, Mapping[str, Json]]:
            weights = await within.weights.get(name)
            weights = msgspec.structs.replace(weights, retired_at=weights.retired_at or self._clock())
            await within.weights.replace(weights)
            return weights, {"weights_name": name}

        return await self._changes.apply(actor, "weights.retire", change)

    async def _weights(
        self, within: Repositories, name: str, description: str | None, labels: Mapping[str, str] | None
    ) -> Weights:
        try:
            weights = await within.weights.get(name)
        except WeightsNotFound:
            weights = Weights(
                id=WeightsId(uuid7()),
                name=name,
                description=check_description(description or ""),
                labels=check_labels(labels or {}),
                created_at=self._clock(),
            )
            try:
                await within.weights.add(weights)
            except AlreadyExists as error:  # it was not there a moment ago: the next attempt finds it
                raise ConcurrentChange(f"somebody else made the weights {name}") from error
            return weights
        if weights.retired_at is not None:
            raise Retired(f"the weights {name} were retired on {weights.retired_at:%Y-%m-%d}; their name stays taken")
        return weights

    async def _same_already(
        self, within: Repositories, name: str, digest: Digest, number: int | None
    ) -> WeightsRegistered | None:
        try:
            weights = await within.weights.get(name)
        except WeightsNotFound:
            return None
        latest = await within.weights.latest_version(weights.id)
        if latest == 0 or weights.retired_at is not None or number not in (None, latest):
            return None
        version = await within.weights.version(weights.id, latest)
        return WeightsRegistered(weights=weights, version=version, created=False) if version.digest == digest else None
