"""A registry over a store, for tests that need no worker."""

import datetime as dt
import time
from dataclasses import dataclass

from mer.audit.log import AuditLog
from mer.audit.recorder import Recorder
from mer.core.actor import Actor, Via
from mer.core.records import Digest
from mer.core.specs import Command, VersionSpec
from mer.dal.base import Store
from mer.registry.changes import Changes
from mer.registry.models import ModelRegistry, Parts
from mer.registry.placements import PlacementRegistry
from mer.registry.resolve import Resolver
from mer.registry.servers import ServerRegistry
from mer.registry.weights import WeightsRegistry

ADA = Actor(user="ada", uid=1000, via=Via.LIBRARY, host="lab", pid=4711)


def parts(tag: str = "a", *, weights: str | None = None) -> Parts:
    """Parts of a version that differ by their tag."""
    return Parts(
        spec=VersionSpec(runner="python", options={"tag": tag}),
        package=Digest(tag * 64),
        weights=Digest(weights * 64) if weights else None,
    )


COMMAND = Parts(spec=VersionSpec(runner="command", command=Command(argv=("/bin/cat",))))


@dataclass
class Registry:
    """All use-cases over one store."""

    store: Store
    servers: ServerRegistry
    models: ModelRegistry
    weights: WeightsRegistry
    placements: PlacementRegistry
    resolver: Resolver
    log: AuditLog

    async def actions(self) -> list[str | int | None]:
        """What the log says was done, oldest first."""
        records = [record async for some in self.store.access_log.scan() for record in some]
        return [record.columns["action"] for record in records]


def registry(store: Store, *, allowed: bool = True) -> Registry:
    """Put the use-cases together as the composition root does."""

    def clock() -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    recorder = Recorder(store.access_log, clock=clock)
    resolver = Resolver(store, monotonic=time.monotonic)
    changes = Changes(store, recorder, allowed=allowed, changed=resolver.forget)
    return Registry(
        store=store,
        servers=ServerRegistry(store, changes, clock=clock),
        models=ModelRegistry(store, changes, clock=clock),
        weights=WeightsRegistry(store, changes, clock=clock),
        placements=PlacementRegistry(store, changes, clock=clock),
        resolver=resolver,
        log=AuditLog(store),
    )
