"""What a far host keeps for this registry, and what of it may go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from mer.content.store import GRACE_SECONDS, ContentStore
from mer.core.actor import Actor
from mer.core.errors import ContentError
from mer.core.records import MAX_PAGE, Digest, Server
from mer.dal.base import Store
from mer.dal.paging import every
from mer.meal.host import Freed, Host
from mer.registry.changes import Changes


class FarContent:
    """Frees what no placement needs on a host that content is pushed to."""

    def __init__(
        self, store: Store, changes: Changes, content: ContentStore, host_of: Callable[[Server], Host]
    ) -> None:
        self._store = store
        self._changes = changes
        self._content = content
        self._host_of = host_of

    async def collect(
        self, actor: Actor, name: str, *, grace_seconds: float | None = None, plan: bool = False
    ) -> Freed:
        """Free on a server what no version that may run there needs, no worker there uses, and is older than a day.

        With `plan` nothing is removed, and no leave to change anything is needed.

        Raises:
            ServerNotFound, ChangesNotAllowed, ServerUnreachable,
            ConfigurationError: nothing is pushed to a server of its kind.
        """
        if not plan:
            await self._changes.require_allowed(actor, "server.gc")
        server = await self._store.servers.get(name)
        packages, blobs = await self._needed(server)
        host = self._host_of(server)
        grace = GRACE_SECONDS if grace_seconds is None else grace_seconds
        return await host.collect(sorted(packages), sorted(blobs), grace_seconds=grace, plan=plan)

    async def _needed(self, server: Server) -> tuple[set[Digest], set[Digest]]:
        """Return the packages and the tensors of all versions that may run there."""
        packages: set[Digest] = set()
        weights: set[Digest] = set()
        async for placement, model in every(partial(self._store.placements.of_server, server.id, limit=MAX_PAGE)):
            retired = {retirement.number for retirement in await self._store.models.retirements(model.id)}
            async for version in every(partial(self._store.models.versions, model.id, limit=MAX_PAGE)):
                if version.number not in retired and placement.version in (None, version.number):
                    packages |= {version.package} if version.package else set()
                    weights |= {version.weights} if version.weights else set()
        return packages, await asyncio.to_thread(self._tensors, weights)

    def _tensors(self, weights: set[Digest]) -> set[Digest]:
        found: set[Digest] = set()
        for identifier in weights:
            try:
                found |= {tensor.digest for tensor in self._content.weights(identifier).tensors}
            except ContentError:  # not here: it cannot be pushed, or loaded, before it is registered again
                continue
        return found
