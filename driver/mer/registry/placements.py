"""Placements: that a model runs on a server, with a pinned version, a device or a path if need be."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping

from mer.core.actor import Actor
from mer.core.canonical import Json
from mer.core.errors import PlacementNotFound, Retired, UsageError
from mer.core.records import Placement
from mer.core.references import parse_reference
from mer.dal.base import Repositories, Store
from mer.registry.changes import Changes
from mer.registry.describing import check_text
from mer.registry.models import require_in_use

MAX_LENGTH = 4096
"""Characters of a device or a path: what Linux takes as a path."""


class PlacementRegistry:
    """Place models on servers, and take them away."""

    def __init__(self, store: Store, changes: Changes, *, clock: Callable[[], dt.datetime]) -> None:
        self._store = store
        self._changes = changes
        self._clock = clock

    async def place(
        self, actor: Actor, reference: str, server: str, *, device: str | None = None, path: str | None = None
    ) -> Placement:
        """Place a model (`name`) or pin a version of it (`name:3`) on a server, in place of its placement there.

        Raises:
            ModelNotFound, VersionNotFound, ServerNotFound, Retired, ChangesNotAllowed,
            UsageError: an alias was given: it would be pinned to what it means now, which nobody would expect.
        """
        wanted = parse_reference(reference)
        if wanted.alias:
            raise UsageError(f"{reference} names an alias: place a model (NAME) or a version (NAME:VERSION)")
        for what, text in (("the device", device), ("the path", path)):
            if text is not None and len(check_text(text, what)) > MAX_LENGTH:
                raise UsageError(f"{what} has {len(text)} characters, at most {MAX_LENGTH} are kept")

        async def change(within: Repositories) -> tuple[Placement, Mapping[str, Json]]:
            model = await within.models.get(wanted.name)
            if wanted.version is not None:
                await require_in_use(within, model, wanted.version)
            place = await within.servers.get(server)
            for what, retired_at in (
                (f"the model {model.name}", model.retired_at),
                (f"the server {server}", place.retired_at),
            ):
                if retired_at is not None:
                    raise Retired(f"{what} was retired on {retired_at:%Y-%m-%d}")
            placement = Placement(
                model=model.id,
                server=place.id,
                version=wanted.version,
                device=device,
                path=path,
                created_at=self._clock(),
            )
            await within.placements.put(placement)
            detail: dict[str, Json] = {"model": model.name, "version": wanted.version, "server": server}
            return placement, detail | {key: value for key, value in (("device", device), ("path", path)) if value}

        return await self._changes.apply(actor, "model.place", change)

    async def remove(self, actor: Actor, model: str, server: str) -> None:
        """Take a model's placement on a server away.

        Raises:
            ModelNotFound, ServerNotFound, PlacementNotFound, ChangesNotAllowed
        """

        async def change(within: Repositories) -> tuple[None, Mapping[str, Json]]:
            found = await within.models.get(model)
            place = await within.servers.get(server)
            try:
                await within.placements.remove(found.id, place.id)
            except PlacementNotFound as error:  # a store knows both by their ids
                raise PlacementNotFound(f"{model} has no placement on {server}") from error
            return None, {"model": model, "server": server}

        await self._changes.apply(actor, "model.unplace", change)
