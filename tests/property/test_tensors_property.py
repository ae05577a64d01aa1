"""Arrays of every dtype, shape, order and byte order cross the wire unchanged, in both directions and in both forms."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mer_worker.tensors import Buffer, Strings, decode, encode
from tests.support.arrays import SHAPES, arrays, bits


def body_of(encoded: Any) -> bytearray:
    total, pieces = encoded.body()
    body = bytearray(b"".join(bytes(piece) for piece in pieces))
    assert len(body) == total
    return body


@given(st.dictionaries(st.text(min_size=1, max_size=5).filter(lambda t: t.isprintable()), arrays(), max_size=4))
def test_arrays_come_back_with_their_bits(values):
    encoded = encode(values)
    back = decode(encoded.descriptors, body_of(encoded))
    assert list(back) == list(values)
    for name, value in values.items():
        assert back[name].shape == np.shape(value)
        assert back[name].dtype == np.asarray(value).dtype.newbyteorder("=")
        assert bits(back[name]) == bits(value)


@given(arrays())
def test_a_buffer_has_the_same_bytes_and_gives_the_same_array(value):
    encoded = encode({"x": value})
    buffer = decode(encoded.descriptors, body_of(encoded), "buffer")["x"]
    assert isinstance(buffer, Buffer)
    assert bytes(buffer.data) == bits(value)
    again = encode({"x": buffer})
    assert again.descriptors == encoded.descriptors
    assert bits(decode(again.descriptors, body_of(again))["x"]) == bits(value)


@given(st.lists(arrays(), min_size=1, max_size=4))
def test_ragged_lists_come_back_in_order(values):
    encoded = encode({"n": values, "after": 1})
    back = decode(encoded.descriptors, body_of(encoded))
    assert back["after"] == 1
    assert [bits(one) for one in back["n"]] == [bits(one) for one in values]


@given(SHAPES.flatmap(lambda s: hnp.arrays(object, s, elements=st.text(max_size=5), fill=st.nothing())))
def test_strings_of_any_shape_come_back(value):
    encoded = encode({"s": value})
    back = decode(encoded.descriptors, body_of(encoded))["s"]
    shape = np.shape(back) if not isinstance(back, str) else ()
    assert shape == value.shape
    assert np.asarray(back, dtype=object).tolist() == value.tolist()
    plain = decode(encoded.descriptors, body_of(encoded), "buffer")["s"]
    assert encode({"s": plain}).descriptors == encoded.descriptors
    flat = plain.values if isinstance(plain, Strings) else [plain] if isinstance(plain, str) else plain
    assert flat == value.ravel().tolist()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
"""Without lone surrogates, which are refused: they have no UTF-8."""


@given(hnp.arrays(np.dtype("<U6"), SHAPES, elements=TEXT))
def test_unicode_arrays_come_back(value):
    encoded = encode({"s": value})
    back = decode(encoded.descriptors, body_of(encoded))["s"]
    assert np.asarray(back, dtype=object).tolist() == value.tolist()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=10,
).filter(lambda v: not isinstance(v, str) and not (isinstance(v, list) and v and all(isinstance(i, str) for i in v)))


@given(JSON, st.binary(max_size=100))
def test_json_and_bytes_come_back(value, raw):
    encoded = encode({"j": value, "b": raw})
    assert decode(encoded.descriptors, body_of(encoded), "buffer") == {"j": value, "b": raw}
