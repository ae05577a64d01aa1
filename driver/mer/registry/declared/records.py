"""What a registry file says, read: servers, weights and models with their versions, aliases and placements."""

from __future__ import annotations

from typing import Any

import msgspec

from mer.core.records import Digest, ServerKind
from mer.core.references import Reference
from mer.core.specs import VersionSpec
from mer.registry.declared.lines import Path


class DeclaredServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server; `parameters` are all that it has."""

    path: Path
    name: str
    kind: ServerKind
    parameters: dict[str, Any]
    description: str | None = None
    """None: nothing is said, what stands there stays."""
    labels: dict[str, str] | None = None
    """None: nothing is said. Otherwise all that it has."""
    retired: bool = False


class DeclaredWeightsVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of weights: a file of tensors, or the digest of what the content store has."""

    path: Path
    number: int | None = None
    """None: the newest one with this content, or else the next."""
    file: str | None = None
    digest: Digest | None = None


class DeclaredWeights(msgspec.Struct, frozen=True, kw_only=True):
    """Weights with versions, in order."""

    path: Path
    name: str
    description: str | None = None
    labels: dict[str, str] | None = None
    retired: bool = False
    versions: tuple[DeclaredWeightsVersion, ...] = ()


class DeclaredVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model: a folder, the digest of a package in the content store, or a command."""

    path: Path
    number: int | None = None
    """None: the newest one that consists of the same, or else the next."""
    package: str | None = None
    digest: Digest | None = None
    spec: VersionSpec | None = None
    """Of a command, or of a folder without a carton.toml."""
    weights: Reference | None = None
    weights_digest: Digest | None = None
    aliases: tuple[str, ...] = ()
    retired: bool = False


class DeclaredPlacement(msgspec.Struct, frozen=True, kw_only=True):
    """A model's placement on a server."""

    path: Path
    server: str
    version: int | None = None
    device: str | None = None
    path_there: str | None = None


class DeclaredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model with versions, in order."""

    path: Path
    name: str
    description: str | None = None
    labels: dict[str, str] | None = None
    retired: bool = False
    without_default: bool = False
    """Whether the bare name is to mean nothing."""
    versions: tuple[DeclaredVersion, ...] = ()
    placements: tuple[DeclaredPlacement, ...] = ()


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """A whole registry file; each noun by name."""

    servers: dict[str, DeclaredServer] = {}
    weights: dict[str, DeclaredWeights] = {}
    models: dict[str, DeclaredModel] = {}
