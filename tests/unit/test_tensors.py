"""What has no form on the wire is refused with its name; what has one comes back as it was."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mer_worker import tensors
from mer_worker.encoded import Encoded
from mer_worker.layout import Descriptor
from mer_worker.tensors import Buffer, Strings, TensorError, decode, encode
from mer_worker.wire import WireError


def across(values: dict[str, object], arrays: str = "numpy") -> dict[str, object]:
    encoded = encode(values)
    return decode(encoded.descriptors, body_of(encoded), arrays)


def test_values_without_names_are_refused() -> None:
    with pytest.raises(TensorError, match="a dict, not list"):
        encode([1])  # type: ignore[arg-type]


def body_of(encoded: Encoded) -> bytearray:
    total, pieces = encoded.body()
    body = bytearray(b"".join(bytes(piece) for piece in pieces))
    assert len(body) == total
    return body


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        {"a": object()},
        [np.zeros(1), 1],
        float("nan"),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.array([b"bytes"]),
        np.array([1, "a"], dtype=object),
        np.zeros(2, dtype=[("a", "i4")]),
        np.zeros(1, dtype=np.longdouble),
        np.ma.masked_array([1.0, 2.0], mask=[0, 1]),
        "\ud800",
        Buffer(b"abc", "float32", (1,)),
        Buffer(b"", "string", (0,)),
        Strings(["a"], (2,)),
        Buffer(b"", "uint8", (0, 2**63)),
        Buffer(b"", "uint8", (0, -1)),
        Buffer(b"1", "uint8", (1,) * 33),
        Strings(["a"], (1,) * 33),
        Buffer(b"no json", "json", ()),
        Buffer(b"NaN", "json", ()),
        Buffer(b"", "json", ()),
    ],
)
def test_a_value_without_a_form_is_refused_by_name(value):
    with pytest.raises(TensorError, match="'odd'"):
        encode({"odd": value})


def test_an_array_of_more_dimensions_than_the_cap_is_refused_by_name():
    deep = np.zeros((1,) * 32)
    assert across({"x": deep})["x"].shape == deep.shape
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":  # older ones have no more themselves
        with pytest.raises(TensorError, match="'odd'"):
            encode({"odd": np.zeros((1,) * 33)})


@pytest.mark.parametrize("shape", [(0, 2**62), (2**62, 2**62, 0)])
@pytest.mark.parametrize("dtype", ["float32", "string"])
def test_a_shape_that_no_array_can_have_is_refused(shape, dtype):
    descriptor = Descriptor("x", dtype, shape)
    with pytest.raises(WireError, match="'x'"):
        decode([descriptor], bytes(64))


def test_a_json_text_may_lie_in_memory_of_any_form():
    words = memoryview(b'{"a":12}').cast("I")
    assert across({"j": Buffer(words, "json", ())}) == {"j": {"a": 12}}


def test_json_at_the_cap_is_taken_and_one_byte_more_is_refused(monkeypatch):
    monkeypatch.setattr(tensors, "MAX_JSON_BYTES", 10)
    assert across({"j": ["123456"]}) == {"j": ["123456"]}
    fits, past = json_body(b'["123456"]'), json_body(b'["1234567"]')
    assert decode(*fits) == {"j": ["123456"]}
    with pytest.raises(WireError, match=r"'j'.*11 bytes of JSON: the cap is 10"):
        decode(*past)
    for value in ({"a": "12345"}, Buffer(b'["1234567"]', "json", ())):
        with pytest.raises(TensorError, match=r"'j'.*the cap is 10"):
            encode({"j": value})


def json_body(text: bytes) -> tuple[list[Descriptor], bytes]:
    return [Descriptor("j", "json", ())], len(text).to_bytes(8, "little") + bytes(56) + text


def test_texts_at_the_cap_are_taken_and_one_more_is_refused(monkeypatch):
    four = encode({"s": ["a"] * 4})
    monkeypatch.setattr(tensors, "MAX_TEXTS", 3)
    assert across({"s": ["a"] * 3}) == {"s": ["a"] * 3}
    with pytest.raises(WireError, match=r"'s'.*4 texts: the cap is 3"):
        decode(four.descriptors, body_of(four))
    with pytest.raises(TensorError, match=r"'s'.*4 texts: the cap is 3"):
        encode({"s": ["a"] * 4})


@pytest.mark.parametrize("name", ["", 1, None])
def test_a_name_is_a_text(name):
    with pytest.raises(TensorError, match="name"):
        encode({name: 1})


@pytest.mark.parametrize(
    "value", ["", "text", "\x00", "é" * 1000, b"", b"\x00\xff", {"a": [1, None]}, [], 1, 1.5, True, None, [1, "a"]]
)
@pytest.mark.parametrize("arrays", ["numpy", "buffer"])
def test_texts_bytes_and_json_come_back_as_they_were(value, arrays):
    (back,) = across({"v": value}, arrays).values()
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_strings_of_no_elements_keep_their_shape(shape):
    array = np.empty(shape, dtype=object)
    assert across({"s": array})["s"].shape == shape
    back = across({"s": array}, "buffer")["s"]
    assert back == Strings([], shape)
    assert across({"s": back}, "buffer")["s"] == back


def test_a_trailing_nul_in_a_text_is_kept():
    back = across({"s": np.array([["a\x00", "b"]], dtype=object)})["s"]
    assert back.tolist() == [["a\x00", "b"]]


def test_numpy_texts_and_bytes_are_texts_and_bytes():
    assert across({"a": np.str_("x"), "b": np.bytes_(b"y")}) == {"a": "x", "b": b"y"}


def test_a_contiguous_array_is_not_copied():
    array = np.arange(10.0)
    (segment,) = encode({"a": array}).segments
    assert np.shares_memory(np.frombuffer(segment), array)


def test_a_decoded_array_is_a_view_of_the_body():
    encoded = encode({"a": np.arange(4, dtype=np.int16)})
    body = body_of(encoded)
    back = decode(encoded.descriptors, body)["a"]
    back[0] = 7
    assert decode(encoded.descriptors, body)["a"][0] == 7


def test_a_body_decoded_read_only_cannot_be_written():
    encoded = encode({"a": np.arange(4), "n": [np.zeros(2)]})
    back = decode(encoded.descriptors, body_of(encoded), writable=False)
    assert not back["a"].flags.writeable
    assert not back["n"][0].flags.writeable


def test_bfloat16_without_its_package_is_a_buffer_both_ways():
    buffer = Buffer(b"\x80\x3f\x00\x40", "bfloat16", (2,))
    assert across({"b": buffer})["b"] == buffer


def test_strings_that_disagree_with_their_lengths_are_refused():
    encoded = encode({"s": ["ab", "c"]})
    body = body_of(encoded)
    body[64] = 3
    with pytest.raises(WireError, match="strings of"):
        decode(encoded.descriptors, body)


def test_text_that_is_no_utf8_is_refused():
    encoded = encode({"s": "ab"})
    body = body_of(encoded)
    body[-1] = 0xFF
    with pytest.raises(WireError, match="UTF-8"):
        decode(encoded.descriptors, body)


def test_the_cache_of_layouts_is_bounded():
    from mer_worker import layout

    for length in range(600):
        encoded = encode({"x": np.zeros(length)})
        across({"x": np.zeros(length)})
        assert encoded.layout.total
    assert len(layout._by_descriptors) <= layout._KEPT
    large = {f"{'n' * 240}{number}": 1 for number in range(100)}
    assert encode(large).layout not in layout._by_descriptors.values()


def test_buffers_need_no_numpy():
    program = (
        "import sys\nfrom mer_worker.tensors import *\n"
        "e = encode({'x': Buffer(bytes(8), 'float32', (2,)), 's': ['a'], 'j': {}})\n"
        "decode(e.descriptors, b''.join(e.body()[1]), 'buffer')\n"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_table_of_dtypes_is_whole():
    assert set(tensors._NUMPY_DTYPES) == set(tensors.NUMERIC) - {"bfloat16"}
