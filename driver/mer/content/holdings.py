"""All that a content store consists of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mer.content import packages, weights
from mer.content.shelf import Shelf
from mer.content.trees import Trees
from mer.core.errors import DigestMismatch, PackageInvalid, WeightsInvalid
from mer.core.records import Digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdings:
    """The shelves of a store, its trees, and the folder in which files are written."""

    blobs: Shelf
    manifests: Shelf
    lists: Shelf
    trees: Trees
    incoming: Path

    def references(self, shelf: Shelf, identifier: Digest) -> Collection[Digest]:
        """Return the blobs that a package or weights needs. Raises: ContentMissing, DigestMismatch."""
        try:
            if shelf is self.manifests:
                return packages.listed(identifier, shelf).values()
            return [entry.digest for entry in weights.listed(identifier, shelf)]
        except (PackageInvalid, WeightsInvalid) as error:
            raise DigestMismatch(f"{shelf.path(identifier)} is no list of {shelf.folder.name}") from error
