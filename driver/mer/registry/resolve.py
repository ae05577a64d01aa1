"""From a reference as it was typed to one version on one server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec

from mer.core.errors import ModelNotFound, PlacementNotFound, Retired
from mer.core.records import LOCAL, Model, Placement, Server, Version
from mer.core.references import Reference, parse_reference
from mer.dal.base import Store
from mer.registry.models import meant, require_in_use

REMEMBERED_SECONDS = 1.0
"""How long what a reference means is remembered: a burst of calls asks the database once, a moved alias is soon seen."""

MAX_REMEMBERED = 1000
"""References; a program that makes them up must not fill the memory."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One server on which an invocation may run, and the version that would run there."""

    server: Server
    version: Version
    placement: Placement | None


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """What a reference means: a model, and where it may run."""

    reference: Reference
    model: Model
    version: Version
    """What the reference itself means; a pinned placement may have another."""
    candidates: tuple[Candidate, ...]
    """By the server's name; never empty."""
    until: float
    """How long it may be taken for what the reference means, by the resolver's clock, while its `epoch` is the same."""
    epoch: int


class Resolver:
    """Resolves references, and remembers for a moment what they meant."""

    def __init__(self, store: Store, *, monotonic: Callable[[], float], only: Collection[str] | None = None) -> None:
        """Resolve references to any model, or to those named in `only`: any other is unknown, registered or not."""
        self._store = store
        self._only = only
        self._monotonic = monotonic
        self._remembered: dict[tuple[str, str | None], Resolved] = {}
        self.epoch = 0
        """Rises with each change that this driver makes to the registry."""

    async def resolve(self, text: str, *, on: str | None = None) -> Resolved:
        """Return what `text` means, on the server `on` or wherever the model is placed.

        Raises:
            UsageError, ModelNotFound, VersionNotFound, AliasNotFound, ServerNotFound, PlacementNotFound, Retired
        """
        now, epoch = self._monotonic(), self.epoch
        remembered = self._remembered.get((text, on))
        if remembered is not None and now < remembered.until and remembered.epoch == epoch:
            return remembered
        resolved = await self._resolve(text, on, until=now + REMEMBERED_SECONDS, epoch=epoch)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[text, on] = resolved
        return resolved

    def forget(self) -> None:
        """Ask the database again next time: this driver has just changed the registry.

        What is being asked at this moment may be from before the change: it is answered, and not remembered.
        """
        self.epoch += 1

    async def _resolve(self, text: str, on: str | None, *, until: float, epoch: int) -> Resolved:
        reference = parse_reference(text)
        models = self._store.models
        model = await models.get(reference.name)  # also of one that is not lent: a quicker answer would tell it apart
        if self._only is not None and model.name not in self._only:
            raise unknown_model(reference.name)
        if model.retired_at is not None:
            raise Retired(f"the model {model.name} was retired on {model.retired_at:%Y-%m-%d}")
        version = await meant(self._store, model, reference)
        candidates = await self._candidates(model, version, reference, on)
        return Resolved(
            reference=reference, model=model, version=version, candidates=candidates, until=until, epoch=epoch
        )

    async def _candidates(
        self, model: Model, version: Version, reference: Reference, on: str | None
    ) -> tuple[Candidate, ...]:
        placements = await self._store.placements.of_model(model.id)
        if on is None and not placements:
            on = LOCAL
        if on is None:
            living = [pair for pair in placements if pair[1].retired_at is None]
            if not living:  # local was not asked for: the operator may think that the model runs elsewhere
                raise Retired(f"every server that {model.name} is placed on was retired", hint=_place(reference, LOCAL))
            fitting = [pair for pair in living if _fits(pair[0], reference, version)]
            if not fitting:
                raise PlacementNotFound(
                    f"every placement of {model.name} is pinned to another version than {reference}",
                    hint=f"mer -a model place {model.name}:{version.number} SERVER",
                )
            return await self._in_use(model, version, fitting)
        server = await self._store.servers.get(on)
        if server.retired_at is not None:
            raise Retired(f"the server {on} was retired on {server.retired_at:%Y-%m-%d}")
        for placement, placed_on in placements:
            if placed_on.id == server.id and _fits(placement, reference, version):
                return (await self._candidate(model, version, placement, placed_on),)
        if server.name == LOCAL and not placements:
            return (Candidate(server=server, version=version, placement=None),)
        raise PlacementNotFound(f"{reference} has no placement on {on}", hint=_place(reference, on))

    async def _in_use(
        self, model: Model, version: Version, placements: Sequence[tuple[Placement, Server]]
    ) -> tuple[Candidate, ...]:
        """Leave out placements that are pinned to a retired version, unless all are: the others can serve."""
        candidates: list[Candidate] = []
        retired: Retired | None = None
        for pair in placements:
            try:
                candidates.append(await self._candidate(model, version, *pair))
            except Retired as error:
                retired = error
        if retired and not candidates:
            raise retired
        return tuple(candidates)

    async def _candidate(self, model: Model, version: Version, placement: Placement, server: Server) -> Candidate:
        if placement.version is not None and placement.version != version.number:
            version = await require_in_use(self._store, model, placement.version)
        return Candidate(server=server, version=version, placement=placement)


def unknown_model(name: str) -> ModelNotFound:
    """Return the error for a model that somebody may not know of: in the words of a store that has none of that name."""
    return ModelNotFound(f"no model {name!r} is registered")


def _fits(placement: Placement, reference: Reference, version: Version) -> bool:
    """A bare name follows the pin; a version or an alias that was asked for is not answered by another version."""
    bare = reference.version is None and reference.alias is None
    return placement.version is None or bare or placement.version == version.number


def _place(reference: Reference, server: str) -> str:
    return f"mer -a model place {reference.name} {server}"
