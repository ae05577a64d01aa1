"""Digests of inputs and outputs for the record: computed in a thread while the model runs."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Iterable, Sequence

from mer.audit.bodies import MAX_TENSORS, TensorDigest
from mer.core.canonical import Json, canonical
from mer.core.records import Digest
from mer_worker.dtypes import NESTED
from mer_worker.layout import Descriptor

THREAD_FROM = 256 << 10
"""Bytes of a part from which on it is hashed in a thread: less takes less than handing it over does."""


def digests(
    descriptors: Iterable[Descriptor], segments: Sequence[bytes | bytearray | memoryview]
) -> list[TensorDigest]:
    """Describe each tensor with the sha256 of its bytes as they stand on the wire.

    A nested tensor's digest is over its inner ones' bytes, one after the other.
    """
    rest = iter(segments)
    described = []
    for descriptor in descriptors:
        own = [next(rest) for _ in range(len(descriptor.inner) if descriptor.dtype == NESTED else 1)]
        hashed = hashlib.sha256()
        for segment in own:
            hashed.update(segment)
        described.append(
            TensorDigest(
                name=descriptor.name,
                dtype=descriptor.dtype,
                shape=descriptor.shape,
                bytes=sum(memoryview(segment).nbytes for segment in own),
                sha256=Digest(hashed.hexdigest()),
            )
        )
    return described


def hashing(
    descriptors: Sequence[Descriptor], segments: Sequence[bytes | bytearray | memoryview]
) -> list[TensorDigest] | asyncio.Task[list[TensorDigest]]:
    """Return `digests`, or what computes them in a thread meanwhile where they are large."""
    if sum(map(len, segments)) < THREAD_FROM:
        return digests(descriptors, segments)
    return asyncio.create_task(asyncio.to_thread(digests, descriptors, segments), name="digests")


class Rolling:
    """The digests of what comes in parts: one for each name, over all of its parts in order (docs/access-log.md)."""

    def __init__(self) -> None:
        self.parts = 0
        """How many have come."""
        self._names: dict[str, _Rolled] = {}

    async def add(self, descriptors: Sequence[Descriptor], segments: Sequence[bytes | bytearray | memoryview]) -> None:
        """Take a part; a large one is hashed in a thread."""
        if sum(map(len, segments)) < THREAD_FROM:
            self._add(descriptors, segments)
        else:
            await asyncio.to_thread(self._add, descriptors, segments)
        self.parts += 1

    def described(self) -> list[TensorDigest]:
        """Return what the record says of them."""
        return [
            TensorDigest(
                name=name,
                dtype=rolled.first.dtype,
                shape=rolled.first.shape,
                bytes=rolled.bytes,
                sha256=Digest(rolled.hash.hexdigest()),
                parts=rolled.parts,
            )
            for name, rolled in self._names.items()
        ]

    def _add(self, descriptors: Sequence[Descriptor], segments: Sequence[bytes | bytearray | memoryview]) -> None:
        rest = iter(segments)
        for descriptor in descriptors:
            own = [next(rest) for _ in range(len(descriptor.inner) if descriptor.dtype == NESTED else 1)]
            rolled = self._names.get(descriptor.name)
            if rolled is None:
                if len(self._names) > MAX_TENSORS:
                    continue  # the record tells no more than that there are too many
                rolled = self._names[descriptor.name] = _Rolled(descriptor)
            rolled.parts += 1
            rolled.hash.update(_head(descriptor))
            for segment in own:
                rolled.hash.update(len(segment).to_bytes(8, "little"))
                rolled.hash.update(segment)
                rolled.bytes += len(segment)


class _Rolled:
    """One name's parts so far."""

    def __init__(self, first: Descriptor) -> None:
        self.first = first
        self.parts = 0
        self.bytes = 0
        self.hash = hashlib.sha256()


@functools.lru_cache(maxsize=256)
def _head(descriptor: Descriptor) -> bytes:
    """Return the descriptor as it is hashed before its segments: canonical JSON."""
    described: dict[str, Json] = {"name": descriptor.name, "dtype": descriptor.dtype, "shape": list(descriptor.shape)}
    if descriptor.dtype == NESTED:
        described["inner"] = [{"dtype": inner.dtype, "shape": list(inner.shape)} for inner in descriptor.inner]
        del described["shape"]
    return canonical(described).encode()
