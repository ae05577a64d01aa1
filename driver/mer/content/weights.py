"""Weights: lists of tensors, each tensor a blob of its own, so that two versions share what is the same in both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mer.content.shelf import Shelf
from mer.core.records import Digest
from mer.core.weights import TensorEntry, format_weights, parse_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor of the store; `path` is a file of exactly its raw little-endian C-order bytes, for a worker to map."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: Digest
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsList:
    """The tensors of one version of weights, sorted by name, and their bytes together."""

    id: Digest
    tensors: tuple[StoredTensor, ...]
    size: int


def take_in(path: Path, *, blobs: Shelf, lists: Shelf) -> WeightsList:
    """Bring in the tensors of a file, or of a folder of such files, a chunk at a time.

    Raises:
        WeightsInvalid, ContentUnwritable.
    """
    entries = take_in_tensors(path, blobs)
    blobs.settle(entry.digest for entry in entries)
    # the list comes last: where it stands, everything that it names is on the disk
    text = format_weights(entries)
    identifier = lists.add([text.encode()]).digest
    lists.settle([identifier])
    return load(identifier, blobs=blobs, lists=lists)


def take_in_tensors(path: Path, blobs: Shelf) -> list[TensorEntry]:
    """Bring in each tensor of a file, or of a folder of such files.

    Raises:
        WeightsInvalid, ContentUnwritable.
    """
    from mer.content.tensor_files import open_tensors  # a run maps tensors and parses no file of any author

    with open_tensors(path) as tensors:
        return [
            TensorEntry(
                name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, digest=blobs.add(tensor.chunks()).digest
            )
            for tensor in tensors
        ]


def load(identifier: Digest, *, blobs: Shelf, lists: Shelf) -> WeightsList:
    """Return weights of the store: one `lstat` a tensor.

    Raises:
        ContentMissing, DigestMismatch.
    """
    entries = listed(identifier, lists)
    return WeightsList(
        id=identifier,
        tensors=tuple(
            StoredTensor(
                name=entry.name,
                dtype=entry.dtype,
                shape=entry.shape,
                digest=entry.digest,
                path=blobs.find(entry.digest, size=entry.size),
            )
            for entry in entries
        ),
        size=sum(entry.size for entry in entries),
    )


def listed(identifier: Digest, lists: Shelf) -> tuple[TensorEntry, ...]:
    """Return which tensors some weights of the store have.

    Raises:
        ContentMissing, DigestMismatch.
    """
    return parse_weights(lists.read(identifier))
