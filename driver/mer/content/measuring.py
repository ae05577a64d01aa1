"""Which id content would get, told without bringing it in: a plan reads everything and writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mer.content import weights
from mer.content.packing import pack
from mer.content.shelf import Shelf, Stored
from mer.core.records import Digest
from mer.core.specs import VersionSpec
from mer.core.weights import format_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredPackage:
    """What a folder would be as a package."""

    id: Digest
    spec: VersionSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredWeights:
    """What a file would be as weights; `size` is the bytes of all its tensors."""

    id: Digest
    tensors: int
    size: int


def measure_package(folder: Path, spec: VersionSpec | None) -> MeasuredPackage:
    """Return the id that `ContentStore.add_package` would give.

    Raises:
        PackageInvalid, UsageError, DigestMismatch, ContentMissing: as it would.
    """
    shelf = _Measure()
    package = pack(folder, spec, blobs=shelf, manifests=shelf)
    return MeasuredPackage(id=package.id, spec=package.spec)


def measure_weights(path: Path) -> MeasuredWeights:
    """Return the id that `ContentStore.add_weights` would give.

    Raises:
        WeightsInvalid: as it would.
    """
    entries = weights.take_in_tensors(path, _Measure())
    identifier = hashlib.sha256(format_weights(entries).encode()).hexdigest()
    return MeasuredWeights(id=Digest(identifier), tensors=len(entries), size=sum(entry.size for entry in entries))


class _Measure(Shelf):
    """A shelf that reads what it is given, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"), incoming=Path("/nonexistent"))

    def add(self, chunks: Iterable[bytes | memoryview], *, expected: Digest | None = None) -> Stored:
        assert expected is None, "whoever packs compares digests itself"
        hashed = hashlib.sha256()
        size = 0
        for chunk in chunks:
            hashed.update(chunk)
            size += len(chunk)
        return Stored(digest=Digest(hashed.hexdigest()), size=size, fresh=False)

    def settle(self, digests: Iterable[Digest]) -> None:
        """Nothing was written."""
