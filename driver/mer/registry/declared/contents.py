"""The content that a registry file names: its ids are told without anything being brought in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import TypeVar

import msgspec

from mer.content.measuring import measure_package, measure_weights
from mer.content.store import ContentStore
from mer.core.carton.document import Fault
from mer.core.errors import ConfigurationError, ContentError, UsageError
from mer.core.records import Digest
from mer.core.specs import VersionSpec
from mer.registry.declared.lines import Path
from mer.registry.declared.records import Declaration, DeclaredVersion, DeclaredWeightsVersion
from mer.registry.declared.standing import Standing

T = TypeVar("T")


class VersionContent(msgspec.Struct, frozen=True, kw_only=True):
    """What a version would be registered with; `folder` has still to be brought in."""

    spec: VersionSpec
    package: Digest | None = None
    folder: FilePath | None = None
    given: VersionSpec | None = None
    """Of a folder without a carton.toml."""


class WeightsContent(msgspec.Struct, frozen=True, kw_only=True):
    """What a version of weights would be registered with; `file` has still to be brought in."""

    digest: Digest
    tensors: int
    size: int
    file: FilePath | None = None


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The content of each version by its path in the file; those with a fault are missing."""

    versions: dict[Path, VersionContent] = {}
    weights: dict[Path, WeightsContent] = {}


async def find_contents(
    declaration: Declaration, standing: Standing, content: ContentStore, *, folder: FilePath
) -> tuple[Contents, list[Fault]]:
    """Return the content of every version, and what is wrong with it. Relative paths begin at `folder`.

    What the database names already needs no content here: it may lie on another machine.
    """
    faults: list[Fault] = []
    specs = {
        version.package: version.spec
        for model in standing.models.values()
        for version in model.versions
        if version.package
    }
    lists = {version.digest: version for found in standing.weights.values() for version in found.versions}
    contents = Contents()
    for model in declaration.models.values():
        for version in model.versions:
            found = await _found(_version, version, content, folder, specs, faults=faults)
            if found is not None:
                contents.versions[version.path] = found
    for weights in declaration.weights.values():
        for weights_version in weights.versions:
            known = lists.get(weights_version.digest) if weights_version.digest else None
            if known is not None:
                contents.weights[weights_version.path] = WeightsContent(
                    digest=known.digest, tensors=known.tensors, size=known.size
                )
                continue
            measured = await _found(_weights, weights_version, content, folder, faults=faults)
            if measured is not None:
                contents.weights[weights_version.path] = measured
    return contents, faults


async def _found(
    find: Callable[..., T | None],
    version: DeclaredVersion | DeclaredWeightsVersion,
    *given: object,
    faults: list[Fault],
) -> T | None:
    try:
        return await asyncio.to_thread(find, version, *given)  # it reads everything that the file names
    except (ConfigurationError, ContentError, UsageError) as error:
        key = _key(version)
        faults.append(Fault((*version.path, key), f"cannot be used: {error.message}"))
        return None


def _key(version: DeclaredVersion | DeclaredWeightsVersion) -> str:
    if version.digest is not None:
        return "digest"
    return "package" if isinstance(version, DeclaredVersion) else "file"


def _version(
    version: DeclaredVersion, content: ContentStore, folder: FilePath, specs: dict[Digest, VersionSpec]
) -> VersionContent | None:
    if version.digest is not None:
        spec = specs.get(version.digest) or content.package(version.digest).spec
        return VersionContent(spec=spec, package=version.digest)
    if version.package is not None:
        there = folder / version.package
        measured = measure_package(there, version.spec)
        return VersionContent(spec=measured.spec, package=measured.id, folder=there, given=version.spec)
    return VersionContent(spec=version.spec) if version.spec else None


def _weights(version: DeclaredWeightsVersion, content: ContentStore, folder: FilePath) -> WeightsContent | None:
    if version.digest is not None:
        found = content.weights(version.digest)
        return WeightsContent(digest=found.id, tensors=len(found.tensors), size=found.size)
    if version.file is not None:
        there = folder / version.file
        measured = measure_weights(there)
        return WeightsContent(digest=measured.id, tensors=measured.tensors, size=measured.size, file=there)
    return None
