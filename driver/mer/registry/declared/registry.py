"""The use-cases of registry files: plan, apply, export."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from mer.content.store import ContentStore
from mer.core.actor import Actor
from mer.core.errors import RegistryFileInvalid
from mer.dal.base import Store
from mer.registry.changes import Changes
from mer.registry.declared.applying import Applying, Claim
from mer.registry.declared.contents import find_contents
from mer.registry.declared.faults import refuse
from mer.registry.declared.planning import make_plan
from mer.registry.declared.reading import MAX_BYTES, read_declaration
from mer.registry.declared.records import Declaration
from mer.registry.declared.standing import Standing, read_standing
from mer.registry.declared.steps import Plan, Step
from mer.registry.declared.writing import write_declaration
from mer.registry.models import ModelRegistry
from mer.registry.placements import PlacementRegistry
from mer.registry.servers import ServerRegistry
from mer.registry.weights import WeightsRegistry


class DeclaredRegistry:
    """Makes the registry what a file says, and writes such files."""

    def __init__(
        self,
        *,
        store: Store,
        changes: Changes,
        content: ContentStore,
        servers: ServerRegistry,
        models: ModelRegistry,
        weights: WeightsRegistry,
        placements: PlacementRegistry,
        claim: Claim,
    ) -> None:
        self._store = store
        self._changes = changes
        self._content = content
        self._servers = servers
        self._models = models
        self._weights = weights
        self._placements = placements
        self._claim = claim

    async def plan(self, file: Path, *, prune: bool = False) -> Plan:
        """Return what `apply` would do. Everything that the file names is read; nothing is written.

        With `prune` what the file no longer names is taken away: see docs/registry-file.md.

        Raises:
            RegistryFileInvalid: with line and reason for every fault.
        """
        text = await asyncio.to_thread(_read, file)
        declaration, lines, faults = read_declaration(text, name=str(file))
        standing = await self._standing(declaration, whole=prune)
        contents, missing = await find_contents(declaration, standing, self._content, folder=file.parent)
        faults += missing
        faulty = frozenset(fault.path[:2] for fault in faults)
        plan, refused = make_plan(declaration, standing, contents, prune=prune, faulty=faulty)
        refuse(str(file), [*faults, *refused], lines)
        return plan

    async def apply(self, actor: Actor, plan: Plan, *, on_step: Callable[[Step], None] = lambda _step: None) -> None:
        """Take the steps of a plan, each with its record; `on_step` is told each when it is done.

        A step that fails ends it; those before it stay, and the next plan goes on from there.

        Raises:
            ChangesNotAllowed: recorded.
            Busy, UsageError, NotFound: somebody changed the same things since the plan was made.
            ContentError: a folder or a file changed since, or cannot be brought in.
        """
        if not plan.steps:
            return
        await self._changes.require_allowed(actor, "registry.apply")
        applying = Applying(
            actor,
            servers=self._servers,
            models=self._models,
            weights=self._weights,
            placements=self._placements,
            content=self._content,
            claim=self._claim,
        )
        for step in plan.steps:
            await applying.take(step)
            on_step(step)

    async def export(self) -> str:
        """Return the whole registry as a registry file; content stands by digest.

        Raises:
            ConfigurationError: it is too large for one file.
        """
        return write_declaration(await read_standing(self._store))

    async def _standing(self, declaration: Declaration, *, whole: bool) -> Standing:
        if whole:
            return await read_standing(self._store)
        models = declaration.models.values()
        referred = {version.weights.name for model in models for version in model.versions if version.weights}
        return await read_standing(
            self._store, weights=sorted(referred | set(declaration.weights)), models=list(declaration.models)
        )


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise RegistryFileInvalid(f"{file} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise RegistryFileInvalid(f"{file} has more than {MAX_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RegistryFileInvalid(f"{file}: line {line} is not UTF-8") from error
