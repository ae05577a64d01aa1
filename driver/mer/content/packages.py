"""Packages of the store: the tree of an unzipped Carton, as a MANIFEST over blobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mer.content.shelf import Shelf
from mer.core.manifest import parse_manifest
from mer.core.records import Digest
from mer.core.specs import VersionSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A package in the store: its id, what it says of itself, its files by path, and their bytes together."""

    id: Digest
    spec: VersionSpec
    files: Mapping[str, Digest]
    size: int


def load(identifier: Digest, *, blobs: Shelf, manifests: Shelf) -> Package:
    """Return a package of the store.

    Raises:
        ContentMissing, DigestMismatch.
    """
    from mer.core import carton  # tomllib, 4 ms: a run has its spec from the registry and asks for the tree alone

    files = listed(identifier, manifests)
    size = sum(blobs.find(digest).stat().st_size for digest in files.values())
    return Package(id=identifier, spec=carton.read(blobs.read(files[carton.CARTON_TOML])), files=files, size=size)


def listed(identifier: Digest, manifests: Shelf) -> dict[str, Digest]:
    """Return which files a package of the store has.

    Raises:
        ContentMissing, DigestMismatch.
    """
    return parse_manifest(manifests.read(identifier))
