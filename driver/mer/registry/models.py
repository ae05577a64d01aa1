"""Models and their versions: registered from a package or a command, never changed, named by aliases."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from mer.core.actor import Actor
from mer.core.canonical import Json
from mer.core.errors import (
    AliasNotFound,
    AlreadyExists,
    Busy,
    ConcurrentChange,
    ModelNotFound,
    Retired,
    UsageError,
    VersionNotFound,
)
from mer.core.identifiers import uuid7
from mer.core.records import (
    PAGE,
    AliasMove,
    Digest,
    Model,
    ModelId,
    Page,
    Placement,
    Retirement,
    Server,
    Version,
)
from mer.core.references import DEFAULT_ALIAS, Reference, check_name, parse_reference
from mer.core.specs import Command, VersionSpec
from mer.dal.base import Repositories, Store
from mer.registry.changes import Changes
from mer.registry.describing import changed_labels, check_description, check_labels, check_text

MAX_COMMAND = 32_000
"""Characters of a command's words together: it stands whole in the record of its registration."""


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A model with what an operator wants to see beside it."""

    model: Model
    versions: Page[Version]
    retirements: tuple[Retirement, ...]
    aliases: tuple[AliasMove, ...]
    placements: tuple[tuple[Placement, Server], ...]


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a registration."""

    model: Model
    version: Version
    created: bool
    """False: the newest version is just this one already."""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a version is made of, already in the content store."""

    spec: VersionSpec
    package: Digest | None = None
    weights: Digest | None = None

    def same_as(self, version: Version) -> bool:
        """Tell whether `version` consists of just these."""
        return (self.spec, self.package, self.weights) == (version.spec, version.package, version.weights)


class ModelRegistry:
    """List, show, register, edit, alias and retire models."""

    def __init__(self, store: Store, changes: Changes, *, clock: Callable[[], dt.datetime]) -> None:
        self._store = store
        self._changes = changes
        self._clock = clock

    async def list(self, *, after: str | None = None, limit: int = PAGE, retired: bool = False) -> Page[Model]:
        """Return a page of models by name."""
        return await self._store.models.page(after=after, limit=limit, retired=retired)

    async def show(self, name: str, *, after: str | None = None, limit: int = PAGE) -> ModelView:
        """Return a model with a page of its versions, newest first.

        Raises:
            ModelNotFound
        """
        models = self._store.models
        model = await models.get(name)
        return ModelView(
            model=model,
            versions=await models.versions(model.id, after=after, limit=limit),
            retirements=await models.retirements(model.id),
            aliases=await models.aliases(model.id),
            placements=await self._store.placements.of_model(model.id),
        )

    async def history(self, name: str, *, after: str | None = None, limit: int = PAGE) -> Page[AliasMove]:
        """Return a page of the moves of a model's aliases, newest first.

        Raises:
            ModelNotFound
        """
        model = await self._store.models.get(name)
        return await self._store.models.alias_history(model.id, after=after, limit=limit)

    async def register(
        self,
        actor: Actor,
        name: str,
        parts: Parts,
        *,
        number: int | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Registered:
        """Register a version; the model is made with its first one, which the alias `default` then means.

        With `number` it becomes that version or none: the same as the version before it makes one of its own, too.

        Raises:
            Retired, UsageError, ChangesNotAllowed
            Busy: another version has that number, or it is not the next.
        """
        name = check_name(name)
        if parts.spec.command:
            check_command(parts.spec.command)

        async def add(within: Repositories) -> tuple[Registered, Mapping[str, Json] | None]:
            # here too: somebody may have registered it between the first look and this attempt
            if same := await self._same_already(within, name, parts, number):
                return same, None
            model = await self._model(within, name, description, labels)
            next_number = await within.models.latest_version(model.id) + 1
            if number not in (None, next_number):
                raise Busy(f"{name}:{number} cannot be registered: the next version is {next_number}")
            version = Version(
                model=model.id,
                number=next_number,
                spec=parts.spec,
                package=parts.package,
                weights=parts.weights,
                created_at=self._clock(),
            )
            await within.models.add_version(version)
            if next_number == 1:
                await self._move(within, actor, model, DEFAULT_ALIAS, 1)
            registered = Registered(model=model, version=version, created=True)
            return registered, _version_detail(model, version)

        await self._changes.require_allowed(actor, "model.register")
        if same := await self._same_already(self._store, name, parts, number):
            return same
        return await self._changes.apply(actor, "model.register", add)

    async def edit(
        self, actor: Actor, name: str, *, description: str | None = None, labels: Mapping[str, str | None] | None = None
    ) -> Model:
        """Change what is given; a label of None is taken away, those not named stay.

        Raises:
            ModelNotFound, ChangesNotAllowed
        """

        async def change(within: Repositories) -> tuple[Model, Mapping[str, Json]]:
            model = await within.models.get(name)
            changed: dict[str, Any] = {}
            if description is not None:
                changed["description"] = check_description(description)
            if labels is not None:
                changed["labels"] = changed_labels(model.labels, labels)
            model = msgspec.structs.replace(model, **changed)
            await within.models.replace(model)
            return model, {"model": model.name, "changed": changed}

        return await self._changes.apply(actor, "model.edit", change)

    async def alias(self, actor: Actor, name: str, alias: str, version: int | None) -> AliasMove:
        """Let an alias mean a version; None takes it away. Every move stays in its history.

        Raises:
            ModelNotFound, VersionNotFound, AliasNotFound, Retired, ChangesNotAllowed
        """
        alias = check_name(alias, what="alias")

        async def change(within: Repositories) -> tuple[AliasMove, Mapping[str, Json]]:
            model = await within.models.get(name)
            if version is None:
                await within.models.alias(model.id, alias)
            else:
                await require_in_use(within, model, version)
            move = await self._move(within, actor, model, alias, version)
            return move, {"model": model.name, "alias": alias, "version": version}

        return await self._changes.apply(actor, "model.alias", change)

    async def retire(self, actor: Actor, reference: str) -> None:
        """Take a model (`name`) or one version (`name:3`) out of use. What is retired stays readable, its name taken.

        Raises:
            ModelNotFound, VersionNotFound, ChangesNotAllowed, UsageError: an alias was given.
        """
        wanted = parse_reference(reference)
        if wanted.alias:
            raise UsageError(f"{reference} names an alias: retire a model (NAME) or a version (NAME:VERSION)")

        async def change(within: Repositories) -> tuple[None, Mapping[str, Json]]:
            model = await within.models.get(wanted.name)
            if wanted.version is None:
                model = msgspec.structs.replace(model, retired_at=model.retired_at or self._clock())
                await within.models.replace(model)
                return None, {"model": model.name}
            at = self._clock()
            with _named(model, wanted.version):
                await within.models.retire_version(Retirement(model=model.id, number=wanted.version, at=at))
            return None, {"model": model.name, "version": wanted.version}

        await self._changes.apply(actor, "model.retire", change)

    async def _model(
        self, within: Repositories, name: str, description: str | None, labels: Mapping[str, str] | None
    ) -> Model:
        try:
            model = await within.models.get(name)
        except ModelNotFound:
            model = Model(
                id=ModelId(uuid7()),
                name=name,
                description=check_description(description or ""),
                labels=check_labels(labels or {}),
                created_at=self._clock(),
            )
            try:
                await within.models.add(model)
            except AlreadyExists as error:  # it was not there a moment ago: the next attempt finds it
                raise ConcurrentChange(f"somebody else made the model {name}") from error
            return model
        if model.retired_at is not None:
            raise Retired(f"the model {name} was retired on {model.retired_at:%Y-%m-%d}; its name stays taken")
        return model

    async def _same_already(
        self, within: Repositories, name: str, parts: Parts, number: int | None
    ) -> Registered | None:
        models = within.models
        try:
            model = await models.get(name)
        except ModelNotFound:
            return None
        latest = await models.latest_version(model.id)
        if latest == 0 or model.retired_at is not None or number not in (None, latest):
            return None
        version = await models.version(model.id, latest)
        retired = any(retirement.number == latest for retirement in await models.retirements(model.id))
        return (
            Registered(model=model, version=version, created=False) if parts.same_as(version) and not retired else None
        )

    async def _move(
        self, within: Repositories, actor: Actor, model: Model, alias: str, version: int | None
    ) -> AliasMove:
        move = AliasMove(
            model=model.id,
            alias=alias,
            move=await within.models.last_move(model.id, alias) + 1,
            version=version,
            at=self._clock(),
            actor=actor.user,
        )
        with _named(model, version):
            await within.models.move_alias(move)
        return move


async def meant(within: Repositories, model: Model, reference: Reference) -> Version:
    """Return the version that a reference to the model means, if it may be run.

    Raises:
        AliasNotFound, VersionNotFound, Retired
    """
    number = reference.version
    if number is None:
        alias = reference.alias or DEFAULT_ALIAS
        try:
            number = (await within.models.alias(model.id, alias)).version
        except AliasNotFound as error:  # a store knows the model by its id
            raise AliasNotFound(f"{model.name} has no alias {alias!r}") from error
        assert number is not None, "the store gives an alias that means something, or raises"
    return await require_in_use(within, model, number)


def check_command(command: Command) -> None:
    """Check that a record can hold the command.

    Raises:
        UsageError
    """
    words = (*command.argv, command.directory or "")
    if sum(map(len, words)) > MAX_COMMAND:
        raise UsageError(f"the command has more than {MAX_COMMAND} characters")
    for word in words:
        check_text(word, "the command")


async def require_in_use(within: Repositories, model: Model, number: int) -> Version:
    """Return the version if it may be run.

    Raises:
        VersionNotFound, Retired
    """
    with _named(model, number):
        version = await within.models.version(model.id, number)
    for retirement in await within.models.retirements(model.id):
        if retirement.number == number:
            raise Retired(f"{model.name}:{number} was retired on {retirement.at:%Y-%m-%d}")
    return version


@contextlib.contextmanager
def _named(model: Model, number: int | None) -> Iterator[None]:
    """Name the model whose version is missing: a store knows it by its id. Raises: VersionNotFound."""
    try:
        yield
    except VersionNotFound as error:
        raise VersionNotFound(f"{model.name} has no version {number}") from error


def _version_detail(model: Model, version: Version) -> dict[str, Json]:
    detail: dict[str, Json] = {"model": model.name, "version": version.number, "runner": version.spec.runner}
    if version.package:
        detail["package"] = version.package
    if version.weights:
        detail["weights"] = version.weights
    if version.spec.command:
        detail["argv"] = list(version.spec.command.argv)
    return detail
