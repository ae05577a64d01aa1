"""`Mer`: what the REPL, a one-shot and a Python program all call. Made by the composition root, or by `mer.open()`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer.audit.log import AuditLog
from mer.content.store import ContentStore
from mer.core.actor import Actor
from mer.core.carton import spec_faults
from mer.core.carton.document import MOST_FAULTS
from mer.core.errors import ConfigurationError, MerError, PackageInvalid, UsageError
from mer.core.lent import RUNNER as LENT
from mer.core.records import MAX_PAGE, Digest
from mer.core.references import check_name, parse_reference
from mer.core.specs import Command, VersionSpec
from mer.core.trace import Trace
from mer.dal.base import Store
from mer.dal.paging import every
from mer.execution.addresses import Addresses
from mer.execution.drivers import Drivers
from mer.execution.executor import Executor
from mer.execution.far_content import FarContent
from mer.execution.ping import Ping, Step
from mer.execution.results import Result
from mer.execution.sealing import Sealed, Sealing
from mer.execution.streaming import RunStream, Streaming
from mer.meal.calls import LogCallback
from mer.meal.secrets import Secrets
from mer.meal.streams import InputParts
from mer.registry.changes import Changes
from mer.registry.models import ModelRegistry, Parts, Registered, meant
from mer.registry.placements import PlacementRegistry
from mer.registry.servers import ServerRegistry
from mer.registry.weights import WeightsRegistered, WeightsRegistry

if TYPE_CHECKING:
    from mer.content.checking import Collected, ContentReport
    from mer.registry.declared.registry import DeclaredRegistry


class Mer:
    """One open database, one content store, and the workers of this process; given by `async with mer.open() as m:`.

    `servers`, `models`, `weights` and `placements` are the registry, `log` is the access log. What changes something
    takes the actor who asked; `actor` is the one this Mer was opened for. `addresses` tells how servers are reached, and
    whose keys are trusted; `secrets.ask` is set by whoever can ask for a passphrase. `far_content` frees what
    servers were pushed.
    """

    def __init__(
        self,
        *,
        actor: Actor,
        store: Store,
        content: ContentStore,
        changes: Changes,
        servers: ServerRegistry,
        models: ModelRegistry,
        weights: WeightsRegistry,
        placements: PlacementRegistry,
        log: AuditLog,
        executor: Executor,
        streaming: Streaming,
        sealing: Sealing,
        ping: Ping,
        drivers: Drivers,
        addresses: Addresses,
        secrets: Secrets,
        far_content: FarContent,
    ) -> None:
        self.actor = actor
        self.servers = servers
        self.models = models
        self.weights = weights
        self.placements = placements
        self.log = log
        self.drivers = drivers
        self.addresses = addresses
        self.secrets = secrets
        self.far_content = far_content
        self.content = content
        self._store = store
        self._changes = changes
        self._executor = executor
        self._streaming = streaming
        self._sealing = sealing
        self._ping = ping

    @property
    def database(self) -> str:
        """Which database this is, for people, without secrets."""
        return self._store.name

    @property
    def declared(self) -> DeclaredRegistry:
        """The registry as a file: planned, applied, exported. Imported here: a run has no use for it."""
        from mer.registry.declared.registry import DeclaredRegistry

        return DeclaredRegistry(
            store=self._store,
            changes=self._changes,
            content=self.content,
            servers=self.servers,
            models=self.models,
            weights=self.weights,
            placements=self.placements,
            claim=self._claim,
        )

    def run(
        self,
        reference: str | Sealed,
        inputs: Mapping[str, Any] | None = None,
        *,
        on: str | None = None,
        timeout: float | None = None,
        actor: Actor | None = None,
        on_log: LogCallback | None = None,
        trace: Trace | None = None,
        retry: bool = False,
    ) -> Coroutine[Any, Any, Result]:
        """Run one invocation of `name`, `name:3` or `name@alias`, with its records in the access log.

        `inputs` are numpy arrays, numbers and lists of them, str, bytes, JSON values or `mer_worker.tensors.Buffer`, by
        name. `timeout` is in seconds, for all of it. `on_log` is called with what the model prints. `trace`
        gets what took how long (mer.core.trace). Of several servers, another one runs it where the first cannot be reached
        (Result.failed_attempts). With `retry` it is run once more where its worker is lost in the middle: the model allows that.

        Raises:
            NotFound, InputInvalid, Busy, ContentError: nothing was started; the refusal is on record.
            ModelFailed, WorkerLost, DeadlineExceeded, ProtocolError: it was started; its end is on record.
            ServerUnreachable, NotAllowed: no worker could be started on any of its servers; that is on record.
            DatabaseUnreachable: nothing was started, and nothing could be recorded.
            UsageError: the timeout is not a finite number above 0; or `retry` of what was sealed, which one worker has.
            HandleUnknown: what was sealed was run or released before, or kept for too long, or its worker has ended.
        """
        # no coroutine of its own: each one more on the way costs a small call a twentieth
        if isinstance(reference, Sealed):
            if retry:
                raise UsageError("sealed inputs are with one worker, and cannot be run again")
            return self._sealing.run(reference, timeout=timeout, trace=trace)
        return self._executor.run(reference, inputs or {}, actor or self.actor, on, timeout, on_log, trace, retry)

    def stream(
        self,
        reference: str | Sealed,
        inputs: Mapping[str, Any] | None = None,
        *,
        parts: InputParts | None = None,
        on: str | None = None,
        timeout: float | None = None,
        actor: Actor | None = None,
        on_log: LogCallback | None = None,
        trace: Trace | None = None,
    ) -> RunStream:
        """Run one invocation, and give the answer in parts, each as soon as it is there; it starts when the first is asked for.

        A model that answers at once gives one part. It stops while nobody reads. Whoever ends early, by `aclose()` or by
        letting go of the stream, cancels: the second record says so. `parts` are further inputs, an iterable of dicts of
        either kind, which the model takes while it runs. Otherwise as `run`.

        Raises: as `run`, when a part is asked for; and whatever the iterable of parts raises.
        """
        if isinstance(reference, Sealed):
            return self._sealing.stream(reference, timeout=timeout, trace=trace)
        actor = actor or self.actor
        return self._streaming.stream(
            reference, inputs or {}, actor=actor, parts=parts, on=on, timeout=timeout, on_log=on_log, trace=trace
        )

    async def seal(
        self,
        reference: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        on: str | None = None,
        keep: float | None = None,
        timeout: float | None = None,
        actor: Actor | None = None,
        on_log: LogCallback | None = None,
        trace: Trace | None = None,
    ) -> Sealed:
        """Show a model its inputs ahead of the run: `run` or `stream` takes what this returns, once, `release` lets it go.

        The invocation is on record as started from here on; it ends with its run, its release, or after `keep` seconds
        (mer.meal.seals). `timeout` is for the sealing alone; `on_log` hears the run too, and `trace` gets it. One that is
        given to the run alone gets no more than that.

        Raises: as `run`.
        """
        actor = actor or self.actor
        return await self._sealing.seal(
            reference, inputs or {}, actor=actor, on=on, keep=keep, timeout=timeout, on_log=on_log, trace=trace
        )

    async def release(self, sealed: Sealed) -> bool:
        """Let go of sealed inputs; their invocation ends as cancelled. Returns whether that is in the log (Result.recorded).

        Raises:
            HandleUnknown: they were run or released before, or kept for too long.
        """
        return await self._sealing.release(sealed)

    async def refuse(self, reference: str, error: MerError, *, actor: Actor | None = None) -> None:
        """Put on record that a run was refused before it was asked for here: by a face, for what it got to see.

        `reference` is what was asked for, as it was typed.
        """
        await self._executor.refuse(reference, error, actor=actor or self.actor)

    async def spec_of(self, reference: str, *, on: str | None = None) -> VersionSpec:
        """Return the spec of the version that `run` would run.

        Raises:
            NotFound
        """
        return await self._executor.spec_of(reference, on=on)

    async def register_model(
        self,
        name: str,
        package: Path | None = None,
        *,
        spec: VersionSpec | None = None,
        weights: str | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        actor: Actor | None = None,
    ) -> Registered:
        """Register a version from a folder (`package`), or from a command that the host already has (`spec.command`).

        One of the runner `lent` has neither: its options are the digests by which a lender knows it (mer.core.lent).
        A folder with a carton.toml is taken as it is and must come without `spec`; any other becomes a package with
        the `spec` given. `weights` is `name` or `name:3` of registered weights.

        Raises:
            PackageInvalid, ContentError, WeightsNotFound, Retired, ChangesNotAllowed
        """
        actor = actor or self.actor
        await self._changes.require_allowed(actor, "model.register")
        check_name(name)  # before a large folder is brought in for nothing
        digest = (await self.weights.resolve(weights)).digest if weights else None
        if package is not None:
            added = await asyncio.to_thread(self.content.add_package, package, spec)
            parts = Parts(spec=added.spec, package=added.id, weights=digest)
        elif spec is None or (spec.command is None and spec.runner != LENT):
            raise UsageError(
                "a version is made from a folder, from a command with its argv, or from a lender's digests"
            )
        else:
            if faults := spec_faults(spec):
                raise PackageInvalid("; ".join(faults[:MOST_FAULTS]))
            if spec.command is not None:
                _require_absolute(spec.command)
            parts = Parts(spec=spec, weights=digest)
        await self._claim(parts.package, parts.weights)
        return await self.models.register(actor, name, parts, description=description, labels=labels)

    async def register_weights(
        self,
        name: str,
        file: Path,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        actor: Actor | None = None,
    ) -> WeightsRegistered:
        """Register a version of weights from a `.safetensors`, `.npz` or `.npy` file, or a folder of them.

        Raises:
            WeightsInvalid, ContentError, Retired, ChangesNotAllowed
        """
        actor = actor or self.actor
        await self._changes.require_allowed(actor, "weights.register")
        check_name(name)
        added = await asyncio.to_thread(self.content.add_weights, file)
        await self._claim(added.id)
        return await self.weights.register(
            actor,
            name,
            digest=added.id,
            tensors=len(added.tensors),
            size=added.size,
            description=description,
            labels=labels,
        )

    async def use_weights(self, reference: str, weights: str, *, actor: Actor | None = None) -> Registered:
        """Register a version with the package of `reference` and other weights. No alias moves by itself.

        Raises:
            NotFound, ChangesNotAllowed
        """
        actor = actor or self.actor
        await self._changes.require_allowed(actor, "model.register")
        wanted = parse_reference(reference)
        digest = (await self.weights.resolve(weights)).digest
        model = await self._store.models.get(wanted.name)
        version = await meant(self._store, model, wanted)
        parts = Parts(spec=version.spec, package=version.package, weights=digest)
        return await self.models.register(actor, wanted.name, parts)

    async def ping_server(self, name: str, *, told: Callable[[Step], None] | None = None) -> list[Step]:
        """Try each step on the way to a server's worker, and tell how long it took; `told` hears of each as it ends.

        Raises:
            ServerNotFound
        """
        return await self._ping.server(name, told=told)

    async def ping_servers(self, *, told: Callable[[str, Step], None] | None = None) -> dict[str, list[Step]]:
        """As `ping_server`, for all servers that are not retired, several at a time."""
        return await self._ping.servers(told=told)

    async def ping_model(self, reference: str, *, on: str | None = None) -> list[Step]:
        """Try each step on the way to a model's answer, short of asking it something.

        Raises:
            NotFound
        """
        return await self._ping.model(reference, on=on)

    async def verify_content(self) -> ContentReport:
        """Read everything in the content store again, and tell what is missing or wrong."""
        return await asyncio.to_thread(self.content.verify)

    async def collect_garbage(self, *, actor: Actor | None = None) -> Collected:
        """Free content that no registered version needs, neither here nor in another database beside this one.

        Raises:
            ChangesNotAllowed
        """
        await self._changes.require_allowed(actor or self.actor, "store.gc")
        keep, chain = await self._needed(), await self._store.access_log.chain()
        # databases side by side share the store: this one's needs are claimed, and the others' claims are kept
        await asyncio.to_thread(self.content.claims.add, chain, keep)
        others = await asyncio.to_thread(self.content.claims.of_others, chain)
        return await asyncio.to_thread(self.content.gc, keep | others)

    async def _claim(self, *ids: Digest | None) -> None:
        chain = await self._store.access_log.chain()
        await asyncio.to_thread(self.content.claims.add, chain, [identifier for identifier in ids if identifier])

    async def _needed(self) -> set[Digest]:
        needed: set[Digest] = set()
        models, weights = self._store.models, self._store.weights
        async for model in every(partial(models.page, limit=MAX_PAGE, retired=True)):
            async for version in every(partial(models.versions, model.id, limit=MAX_PAGE)):
                needed |= {digest for digest in (version.package, version.weights) if digest}
        async for named in every(partial(weights.page, limit=MAX_PAGE, retired=True)):
            async for listed in every(partial(weights.versions, named.id, limit=MAX_PAGE)):
                needed.add(listed.digest)
        return needed


def _require_absolute(command: Command) -> None:
    for what, path in (("program", command.argv[0]), ("directory", command.directory)):
        if path is not None and not path.startswith("/"):
            raise ConfigurationError(f"the {what} {path!r} of a command without a package must be an absolute path")
