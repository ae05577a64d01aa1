"""Values of every type through a real worker: what callers give arrives as it is, and so does what handlers return."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mer.core.errors import ModelFailed
from mer_worker.tensors import Buffer, TensorError, encode
from tests.support.arrays import SHAPES, TURNS, arrays, bits, plain_arrays
from tests.support.blocking import Blocking, blocking

HANDLER = """
    import numpy as np

    def turned(array, how):
        if how == "fortran" and array.ndim:
            return np.asfortranarray(array)
        if how == "negative" and array.ndim:
            return array[::-1]
        if how == "stepped" and array.ndim:
            return np.repeat(array, 2, axis=-1)[..., ::2]
        if how == "transposed":
            return array.T
        if how == "scalar" and array.ndim == 0:
            return array[()]
        if how == "foreign":
            return array.astype(array.dtype.newbyteorder(">"))
        if how == "subclass":
            return array.view(np.recarray) if array.ndim else array
        return array

    class Odd:
        dates = staticmethod(lambda: np.array(["2026-11-21"], "M8[D]"))
        differences = staticmethod(lambda: np.array([1], "m8[s]"))
        records = staticmethod(lambda: np.zeros(2, [("a", "f4")]))
        long = staticmethod(lambda: np.zeros(2, np.longdouble))
        masked = staticmethod(lambda: np.ma.masked_array([1, 2], [True, False]))
        objects = staticmethod(lambda: np.array(["a", None], object))
        raw = staticmethod(lambda: np.array([b"ab"]))
        surrogate = staticmethod(lambda: "\\ud800")

    def load():
        def handle(inputs):
            how = inputs.pop("how", None)
            if how in vars(Odd):
                return {"x": getattr(Odd, how)()}
            if how is not None:
                return {name: turned(value, how) for name, value in inputs.items()}
            return inputs
        return handle
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocking]:
    with blocking(tmp_path_factory.mktemp("numpy"), HANDLER, arrays="numpy") as made:
        yield made


@settings(max_examples=150, deadline=None)
@given(values=st.dictionaries(st.text(min_size=1, max_size=5).filter(str.isprintable), arrays(), max_size=4))
def test_arrays_come_back_from_a_worker_with_their_bits(worker: Blocking, values: dict[str, Any]) -> None:
    if "how" in values:
        return
    back = worker(values)
    assert list(back) == list(values)
    for name, value in values.items():
        assert (back[name].shape, back[name].dtype) == (np.shape(value), np.asarray(value).dtype.newbyteorder("="))
        assert bits(back[name]) == bits(value)


@settings(max_examples=150, deadline=None)
@given(array=plain_arrays("<"), how=st.sampled_from([*TURNS, "foreign", "subclass"]))
def test_what_a_handler_returns_may_lie_in_its_memory_as_it_likes(worker: Blocking, array: Any, how: str) -> None:
    back = worker({"x": array, "how": how})["x"]
    match how:
        case "negative" if array.ndim:
            wanted = array[::-1]
        case "transposed":
            wanted = array.T
        case _:
            wanted = array
    assert (back.shape, back.dtype, bits(back)) == (wanted.shape, wanted.dtype, bits(wanted))


@settings(max_examples=100, deadline=None)
@given(ragged=st.lists(arrays(), min_size=1, max_size=4), raw=st.binary(max_size=50))
def test_ragged_lists_and_bytes_come_back(worker: Blocking, ragged: list[Any], raw: bytes) -> None:
    back = worker({"ragged": ragged, "raw": raw})
    assert back["raw"] == raw
    assert [bits(one) for one in back["ragged"]] == [bits(one) for one in ragged]


@settings(max_examples=100, deadline=None)
@given(texts=SHAPES.flatmap(lambda s: hnp.arrays(object, s, elements=st.text(max_size=5), fill=st.nothing())))
def test_strings_of_any_shape_come_back(worker: Blocking, texts: Any) -> None:
    back = worker({"s": texts})["s"]
    assert np.shape(back) == texts.shape
    assert np.asarray(back, dtype=object).tolist() == texts.tolist()


@settings(max_examples=50, deadline=None)
@given(bits16=st.lists(st.integers(0, 2**16 - 1), max_size=6))
def test_bfloat16_keeps_its_bits(worker: Blocking, bits16: list[int]) -> None:
    raw = np.array(bits16, "<u2").tobytes()
    assert worker({"x": Buffer(raw, "bfloat16", (len(bits16),))})["x"] == Buffer(raw, "bfloat16", (len(bits16),))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("dates", "datetime64"),
        ("differences", "timedelta64.*int64"),
        ("records", "cannot be sent"),
        ("long", "longdouble|float128"),
        ("masked", "masked"),
        ("objects", "not every element is a text"),
        ("raw", "cannot be sent"),
        ("surrogate", "no Unicode text"),
    ],
)
def test_a_handlers_value_without_a_form_says_which_and_why(worker: Blocking, how: str, why: str) -> None:
    with pytest.raises(ModelFailed, match=f"(?s)'x'.*({why})"):
        worker({"how": how})


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.array(["2026-11-21"], "M8[D]"), "datetime64.*int64"),
        (np.zeros(2, [("a", "f4")]), "cannot be sent"),
        (np.zeros(1, np.longdouble), "cannot be sent"),
        (np.ma.masked_array([1, 2], [True, False]), "fill it"),
        (np.array([b"ab"]), "cannot be sent"),
        (np.array(["a", 1], object), "not every element is a text"),
        ([np.zeros(1), "text"], "no JSON form"),
        ({"a": np.float32(1)}, "no JSON form"),
        (1j, "complex cannot be sent"),
        ({1, 2}, "set cannot be sent"),
    ],
)
def test_a_callers_value_without_a_form_says_which_and_why(value: Any, why: str) -> None:
    with pytest.raises(TensorError, match=f"(?s)'x'.*{why}"):
        encode({"x": value})
