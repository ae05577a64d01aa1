"""What a guest is shown of the models that he may run: what they take and give, and by which digests they are known.

An allow-list of fields, as the grammar is one of words: paths, programs, servers and labels are the owner's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mer.api import Mer
from mer.core.actor import Guest
from mer.core.errors import AliasNotFound, NotFound, Retired, VersionNotFound
from mer.core.records import Digest, Model
from mer.core.references import Reference
from mer.core.specs import TensorSpec
from mer.execution.ping import Step
from mer.registry.models import ModelView
from mer.registry.resolve import unknown_model

MOST_VERSIONS = 50
"""Shown of a model, the newest first; any other is shown when it is asked for by its number."""


class ShownVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version, as a guest sees it."""

    number: int
    aliases: tuple[str, ...]
    summary: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    package: Digest | None
    weights: Digest | None


class ShownModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model, as a guest sees it; without its versions in a list of models."""

    name: str
    description: str
    versions: tuple[ShownVersion, ...] = ()


async def list_models(mer: Mer, guest: Guest, *, limit: int, after: str | None) -> tuple[list[ShownModel], str | None]:
    """Return the models that a guest may run, by name, and from where to go on."""
    if guest.models is None:
        page = await mer.models.list(after=after, limit=limit)
        return [_model(model) for model in page.items], page.next
    named = sorted(name for name in guest.models if after is None or name > after)
    found: list[ShownModel] = []
    for name in named:
        try:
            view = await mer.models.show(name, limit=1)
        except NotFound:
            continue  # lent before it is registered
        if view.model.retired_at is not None:
            continue
        if len(found) == limit:
            return found, found[-1].name
        found.append(_model(view.model))
    return found, None


async def show_model(mer: Mer, guest: Guest, reference: Reference) -> ShownModel:
    """Return a model with its newest versions, or with the one that is asked for.

    Raises:
        ModelNotFound: there is none, or the guest may not run it. VersionNotFound, AliasNotFound, Retired.
    """
    if not guest.may(reference.name):
        raise unknown_model(reference.name)
    view = await mer.models.show(reference.name, limit=MOST_VERSIONS)
    if view.model.retired_at is not None:
        raise Retired(f"the model {reference.name} was retired")
    number = reference.version
    if reference.alias is not None:
        number = next((move.version for move in view.aliases if move.alias == reference.alias), None)
        if number is None:
            raise AliasNotFound(f"{reference.name} has no alias {reference.alias}")
    if number is not None:
        view = await mer.models.show(reference.name, after=str(number + 1), limit=1)
    retired = {retirement.number for retirement in view.retirements}
    shown = [version for version in view.versions.items if version.number not in retired]
    if number is not None and [version.number for version in shown] != [number]:
        raise VersionNotFound(f"{reference.name} has no version {number}")
    versions = tuple(
        ShownVersion(
            number=version.number,
            aliases=_aliases(view, version.number),
            summary=version.spec.short_description,
            inputs=version.spec.inputs,
            outputs=version.spec.outputs,
            package=version.package,
            weights=version.weights,
        )
        for version in shown
    )
    return msgspec.structs.replace(_model(view.model), versions=versions)


def steps_of(steps: Sequence[Step]) -> list[Step]:
    """Return the steps of a ping without what they have found: servers, paths and processes of the owner's."""
    return [msgspec.structs.replace(step, detail="", hint=None, server="") for step in steps]


def text_of(model: ShownModel) -> str:
    """Return a model for people and pipes, a line a fact."""
    lines = [model.name, *model.description.splitlines()[:1]]
    for version in model.versions:
        named = "".join(f" @{alias}" for alias in version.aliases)
        lines.append(f"version {version.number}{named}")
        for what, told in _facts(version).items():
            lines.append(f"  {what:<8}  {told}")
    return "".join(line + "\n" for line in lines)


def _facts(version: ShownVersion) -> dict[str, Any]:
    told = {
        "summary": version.summary,
        "inputs": "; ".join(map(str, version.inputs)) or "not told",
        "outputs": "; ".join(map(str, version.outputs)) or "not told",
        "package": version.package,
        "weights": version.weights,
    }
    return {what: value for what, value in told.items() if value is not None}


def _model(model: Model) -> ShownModel:
    return ShownModel(name=model.name, description=model.description)


def _aliases(view: ModelView, number: int) -> tuple[str, ...]:
    return tuple(move.alias for move in view.aliases if move.version == number)
