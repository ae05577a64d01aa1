"""The list of tensors that a version of weights is: its text, and its id, which is the sha256 of that text.

One line a tensor, sorted by the name's UTF-8: RFC 8785 JSON with exactly the keys dtype, name, sha256 and shape, then
`\\n`. The digest is of the tensor's raw little-endian C-order bytes. Normative text and test vector: docs/content.md.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mer.core.canonical import MAX_SAFE_INTEGER
from mer.core.errors import WeightsInvalid
from mer.core.manifest import CONTROL, is_digest
from mer.core.records import Digest
from mer_worker.dtypes import NUMERIC

MAX_TENSORS = 100_000
"""Ten times what the largest published models have; each is a file in the store."""

MAX_NAME = 1024
"""Bytes of a tensor's name."""

MAX_RANK = 64
"""Dimensions of a tensor: numpy takes no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """One tensor of a list: its name, its form, and the digest of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: Digest

    @property
    def size(self) -> int:
        """Bytes."""
        return tensor_size(self.dtype, self.shape)


def tensor_size(dtype: str, shape: Iterable[int]) -> int:
    """Return the bytes of a tensor; `dtype` is one of NUMERIC."""
    return math.prod(shape) * NUMERIC[dtype]


def tensor_fault(name: str, dtype: object, shape: object) -> str | None:
    """Return why no tensor of weights can have this name and form; None where one can."""
    if not name or CONTROL.search(name):
        return f"the name {name!r} is empty or has a control character"
    if len(name.encode()) > MAX_NAME:
        return f"the name {name[:40]!r}… is longer than {MAX_NAME} bytes"
    if not isinstance(dtype, str) or dtype not in NUMERIC:
        return f"{name!r} has the unknown dtype {dtype!r}"
    if not isinstance(shape, list | tuple) or len(shape) > MAX_RANK or not all(map(_is_length, shape)):
        return f"{name!r} has the shape {shape!r}: at most {MAX_RANK} lengths of 0 or more are meant"
    if tensor_size(dtype, shape) > MAX_SAFE_INTEGER:
        return f"{name!r} has more bytes than any machine"
    return None


def format_weights(tensors: Iterable[TensorEntry]) -> str:
    """Return the text of the list, whatever order the tensors come in.

    Raises:
        WeightsInvalid: no tensor at all, two of one name, or a name, dtype or shape that is not allowed.
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.name.encode("utf-8", "surrogatepass"))
    _check(ordered)
    return "".join(f"{_line(tensor)}\n" for tensor in ordered)


def parse_weights(text: str) -> tuple[TensorEntry, ...]:
    """Return the tensors of a list.

    Raises:
        WeightsInvalid: the text is not the canonical one of any list.
    """
    lines = text.split("\n")
    if len(lines) > MAX_TENSORS + 1:
        raise WeightsInvalid(f"there are more than the {MAX_TENSORS} tensors that weights may have")
    try:
        # in one go: a run reads this, and a model has hundreds of tensors
        tensors = [_entry(row) for row in json.loads(f"[{','.join(lines[:-1])}]")]
        written_again = format_weights(tensors)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsInvalid("the list of tensors cannot be read") from error
    if written_again != text:
        raise WeightsInvalid("the list of tensors is not canonical: out of order, cut, or written in another way")
    return tuple(tensors)


def weights_id(text: str) -> Digest:
    """Return the id of the list that has this text."""
    return Digest(hashlib.sha256(text.encode()).hexdigest())


def _entry(row: dict[str, Any]) -> TensorEntry:
    return TensorEntry(name=row["name"], dtype=row["dtype"], shape=tuple(row["shape"]), digest=Digest(row["sha256"]))


def _line(tensor: TensorEntry) -> str:
    """Write what `canonical` would: the keys stand in order, and only the name needs escapes."""
    name = json.dumps(tensor.name, ensure_ascii=False)
    lengths = ",".join(map(str, tensor.shape))
    return f'{{"dtype":"{tensor.dtype}","name":{name},"sha256":"{tensor.digest}","shape":[{lengths}]}}'


def _check(tensors: list[TensorEntry]) -> None:
    if not tensors:
        raise WeightsInvalid("there is no tensor")
    if len(tensors) > MAX_TENSORS:
        raise WeightsInvalid(f"{len(tensors)} tensors are more than the {MAX_TENSORS} that weights may have")
    before: str | None = None
    for tensor in tensors:
        fault = tensor_fault(tensor.name, tensor.dtype, tensor.shape)
        if fault:
            raise WeightsInvalid(fault)
        if not is_digest(tensor.digest):
            raise WeightsInvalid(f"{tensor.name!r} has no sha256 in lower-case hex")
        if before == tensor.name:
            raise WeightsInvalid(f"{tensor.name!r} stands twice")
        before = tensor.name


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SAFE_INTEGER
