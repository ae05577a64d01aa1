"""Torch's tensors and the wire: a view of a segment's memory one way, a view of the tensor's own memory the other.

Torch is imported for a version that says `arrays = "torch"`, and takes a second or two. A tensor is recognised without that:
who holds one has imported it already.
"""

from __future__ import annotations

import sys

from mer_worker.dtypes import NUMERIC
from mer_worker.wire import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mer_worker.layout import Descriptor

_names: dict[Any, str] = {}
"""The wire's names by torch's dtypes, filled once torch is there."""


def is_tensor(value: object) -> bool:
    """Tell a tensor of torch."""
    kind = getattr(sys.modules.get("torch"), "Tensor", None)  # absent while another thread imports it
    return kind is not None and isinstance(value, kind)


def view(descriptor: Descriptor, segment: memoryview) -> Any:
    """Return a tensor over the segment's own memory.

    Torch knows no read-only tensors: one that is written to changes the request's copy of the input, and nothing else.

    Raises:
        ImportError: there is no torch.
        WireError: no tensor has this shape.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    dtype, shape = getattr(torch, descriptor.dtype), descriptor.shape
    try:
        if not len(segment):
            return torch.empty(shape, dtype=dtype)
        if segment.readonly:
            return _quietly(torch, segment, dtype).reshape(shape)
        return torch.frombuffer(segment, dtype=dtype).reshape(shape)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise WireError(f"{descriptor.name!r}: no tensor has the shape {list(shape)}: {_first(error)}") from error


def to_wire(name: str, tensor: Any) -> tuple[str, tuple[int, ...], Any]:
    """Return dtype, shape and bytes of a tensor: its own memory, if it is contiguous and on the CPU, else a copy.

    Raises:
        WireError: it has no form on the wire.
    """
    torch: Any = sys.modules["torch"]
    if not _names:
        _names.update({getattr(torch, known): known for known in NUMERIC if hasattr(torch, known)})
    dtype = _names.get(tensor.dtype)
    if dtype is None or tensor.layout is not torch.strided or tensor.is_nested:
        layout = str(tensor.layout).replace("torch.", "") if not tensor.is_nested else "nested"
        raise WireError(f"{name!r}: a {layout} tensor of {tensor.dtype} cannot be sent")
    if tensor.device.type == "meta":
        raise WireError(f"{name!r}: a tensor on the device 'meta' has no values")
    try:
        plain = tensor.detach()  # a result has no way back: nobody can ask it for gradients
        if tensor.device.type != "cpu":
            plain = plain.cpu()
        plain = plain.resolve_conj().resolve_neg().contiguous()
        shape = tuple(plain.shape)
        if not plain.numel():
            return dtype, shape, b""
        return dtype, shape, memoryview(plain.reshape(-1).view(torch.uint8).numpy()).cast("B")
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise WireError(f"{name!r}: this tensor cannot be sent: {_first(error)}") from error


def _quietly(torch: Any, segment: memoryview, dtype: Any) -> Any:
    """Return the view without torch's warning that it could be written to."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(segment, dtype=dtype)


def _first(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]
