"""Inputs as a caller gives them, made into what the version's specs ask for, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mer.core.errors import InputInvalid
from mer.core.specs import TensorSpec, VersionSpec, check_fit
from mer_worker.dtypes import BYTES, JSON, NUMERIC
from mer_worker.encoded import Encoded
from mer_worker.tensors import Buffer, TensorError, encode


def encode_inputs(spec: VersionSpec, given: Mapping[str, Any], *, partial: bool = False) -> Encoded:
    """Return the inputs ready for the wire, checked against the specs; `partial`: those that are missing come elsewhere.

    Where a spec asks for numbers, plain Python numbers and (nested) lists of them are converted to its dtype. An array
    is never converted: one of another dtype is refused, as silent rounding would be worse.

    Raises:
        InputInvalid: with every fault in one message.
    """
    specs = {tensor.name: tensor for tensor in spec.inputs}
    if not isinstance(given, Mapping):
        raise InputInvalid(f"inputs by name are meant, a dict, not {type(given).__name__}")
    try:
        if not specs:
            return encode(given)  # whatever has a form fits
        encoded = encode({name: _as_specified(specs.get(name), value) for name, value in given.items()})
    except TensorError as error:
        raise InputInvalid(str(error)) from error
    wanted = [tensor for tensor in spec.inputs if tensor.name in given] if partial else spec.inputs
    if partial and spec.inputs and not wanted:
        if unknown := sorted(set(given) - set(specs)):
            raise InputInvalid(f"input {unknown[0]!r} is not one of this model's: {', '.join(sorted(specs))}")
        return encoded
    check_fit(wanted, {d.name: (d.dtype, d.shape) for d in encoded.descriptors})
    return encoded


def _as_specified(spec: TensorSpec | None, value: Any) -> Any:
    if spec is None:
        return value
    if spec.dtype == JSON and not isinstance(value, Buffer):
        return _json(spec, value)
    if spec.dtype == BYTES and isinstance(value, str):
        return _utf8(spec, value)
    if spec.dtype in NUMERIC and isinstance(value, bool | int | float | complex | list | tuple):
        return _numbers(spec, value)
    return value


def _json(spec: TensorSpec, value: Any) -> Buffer:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputInvalid(f"input {spec.name!r} is no JSON: {error}") from error
    except RecursionError as error:
        raise InputInvalid(f"input {spec.name!r} is nested too deep") from error
    return Buffer(memoryview(_utf8(spec, text)), JSON, ())


def _utf8(spec: TensorSpec, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # an argument that was no UTF-8 arrives as such a string
        raise InputInvalid(f"input {spec.name!r} is not valid Unicode: a lone surrogate at {error.start}") from error


def _numbers(spec: TensorSpec, value: Any) -> Any:
    import numpy as np

    if spec.dtype == "bfloat16":
        raise InputInvalid(f"input {spec.name!r} is bfloat16: give it as an array")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputInvalid(f"input {spec.name!r}: its rows are of different lengths") from error
    if array.dtype.kind not in "biufc" and array.size:
        raise InputInvalid(f"input {spec.name!r} holds something that is no number, it must be {spec.dtype}")
    wanted = np.dtype(spec.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # told below, in words
        converted = array.real.astype(wanted) if wanted.kind != "c" else array.astype(wanted)
    # 3.7 for an int8, 1e300 for a float32, 1j for either: numpy would cut, and the model would answer for something else
    exact = wanted.kind in "biu" or (array.dtype.kind == "c" and wanted.kind != "c")
    held = np.array_equal(converted, array) if exact else np.array_equal(np.isfinite(converted), np.isfinite(array))
    if not held:
        raise InputInvalid(f"input {spec.name!r} has values that {spec.dtype} cannot hold")
    return converted
