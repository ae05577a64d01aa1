"""Inputs as callers give them, made into what a spec asks for, or refused: never cut, never rounded in silence."""

import warnings
from typing import Any

import numpy as np
import pytest

from mer.core.errors import InputInvalid
from mer.core.specs import TensorSpec, VersionSpec
from mer.execution.inputs import encode_inputs

LONE_SURROGATE = "\udcff"
"""What a byte of an argument that is no UTF-8 becomes."""


def encoded(dtype: str, value: Any) -> bytes:
    spec = VersionSpec(runner="python", inputs=(TensorSpec(name="x", dtype=dtype),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy's own words would reach the operator's terminal
        [segment] = encode_inputs(spec, {"x": value}).segments
    return bytes(segment)


@pytest.mark.parametrize("given", [[1], "text", 5])
def test_inputs_without_names_are_refused(given: Any) -> None:
    with pytest.raises(InputInvalid, match=f"a dict, not {type(given).__name__}"):
        encode_inputs(VersionSpec(runner="python"), given)


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("dtype", "value", "wanted"),
    [
        ("float32", [1, 0.1], np.array([1, 0.1], "<f4")),
        ("float32", [float("inf"), float("nan")], np.array([np.inf, np.nan], "<f4")),
        ("float16", 65504, np.array(65504, "<f2")),
        ("float32", 1.0 + 0j, np.array(1, "<f4")),
        ("uint64", 2**64 - 1, np.array(2**64 - 1, "<u8")),
        ("bool", [1, 0], np.array([True, False])),
        ("int8", [], np.array([], "i1")),
    ],
)
def test_numbers_become_the_dtype_that_is_asked_for(dtype: str, value: Any, wanted: Any) -> None:
    assert encoded(dtype, value) == wanted.tobytes()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int8", 128),
        ("int64", [0.5]),
        ("int64", [float("nan")]),
        ("uint8", -1),
        ("bool", 2),
        ("float32", [1 + 2j]),
        ("int32", [1 + 2j]),
        ("float16", [65520]),
        ("float32", [1e300]),
    ],
)
def test_numbers_that_the_dtype_cannot_hold_are_refused(dtype: str, value: Any) -> None:
    with pytest.raises(InputInvalid, match="cannot hold"):
        encoded(dtype, value)


@pytest.mark.parametrize(
    ("dtype", "value", "told"),
    [
        ("json", {"a": LONE_SURROGATE}, "not valid Unicode"),
        ("json", deep(), "nested too deep"),
        ("json", {"a": b"raw"}, "is no JSON"),
        ("json", float("nan"), "is no JSON"),
        ("bytes", LONE_SURROGATE, "not valid Unicode"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_words(dtype: str, value: Any, told: str) -> None:
    with pytest.raises(InputInvalid, match=told):
        encoded(dtype, value)
