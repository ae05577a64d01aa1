"""Digests of inputs and outputs for the record: computed in a thread while the model runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from mer.audit.bodies import TensorDigest
from mer.core.records import Digest
from mer_worker.dtypes import NESTED
from mer_worker.layout import Descriptor


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
