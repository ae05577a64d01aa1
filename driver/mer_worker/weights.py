"""Weights as a mapping: each tensor is mapped from its file when it is first asked for, and shared by all who map it."""

from __future__ import annotations

import mmap
from collections.abc import Mapping

from mer_worker.dtypes import NUMERIC
from mer_worker.failures import Failure
from mer_worker.layout import Descriptor, Layout, elements
from mer_worker.tensors import values_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any


class Weights(Mapping):  # type: ignore[type-arg]
    """Read-only arrays by name: numpy's, or Buffers or torch's tensors for a package that says so."""

    def __init__(self, listed: Sequence[Any], arrays: str) -> None:
        self._arrays = arrays
        self._mapped: dict[str, Any] = {}
        self._files: dict[str, tuple[Descriptor, str]] = {}
        try:
            for name, dtype, shape, path in listed:
                if type(path) is not str:
                    raise TypeError("a digest, and this worker has no cache")
                self._files[name] = (Descriptor(name, dtype, tuple(map(int, shape))), path)
        except (TypeError, ValueError) as error:
            raise Failure("protocol", "bad-load", f"weights are lists of name, dtype, shape, path: {error}") from error

    def __getitem__(self, name: str) -> Any:
        if name not in self._mapped:
            self._mapped[name] = self._map(*self._files[name])
        return self._mapped[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _map(self, descriptor: Descriptor, path: str) -> Any:
        size = NUMERIC.get(descriptor.dtype, 0) * elements(descriptor.shape)
        try:
            with open(path, "rb") as file:
                found = file.seek(0, 2)
                if found != size:
                    raise Failure(
                        "load", "weights-damaged", f"weights {descriptor.name!r}: {path} has {found} bytes, not {size}"
                    )
                # torch knows no read-only memory: writing there would end the worker, so its pages are copied when written to
                access = mmap.ACCESS_COPY if self._arrays == "torch" else mmap.ACCESS_READ
                # a mapping of no bytes is an error to mmap
                data = memoryview(mmap.mmap(file.fileno(), size, access=access) if size else b"")
        except OSError as error:
            raise Failure("load", "weights-missing", f"weights {descriptor.name!r}: {error}") from error
        return values_of(Layout([descriptor]), [data], self._arrays)[descriptor.name]
