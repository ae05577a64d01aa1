"""The headers of safetensors and .npy files: what they say, and what none may say."""

import json
from typing import Any

import pytest

from mer.core import npy, safetensors
from mer.core.errors import WeightsInvalid


def header(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


def tensor(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def test_tensors_come_in_the_order_of_their_bytes():
    entries = safetensors.parse_header(header(b=tensor(3, 5), a=tensor(0, 3), e=tensor(3, 3)), 5, "f")
    assert [(entry.name, entry.begin, entry.size) for entry in entries] == [("a", 0, 3), ("e", 3, 0), ("b", 3, 2)]


def test_metadata_is_no_tensor():
    assert safetensors.parse_header(header(__metadata__={"format": "pt"}, a=tensor(0, 1)), 1, "f")[0].name == "a"


@pytest.mark.parametrize(
    ("text", "size", "why"),
    [
        (b"{", 0, "cannot be read"),
        (b"[" * 100_000, 0, "cannot be read"),
        (b"\xff{}", 0, "cannot be read"),
        (b"[]", 0, "no JSON object"),
        (b'{"a":1}', 0, "no dtype"),
        (b'{"a":{},"a":{}}', 0, "twice"),
        (header(a=tensor(0, 1, "F8_E4M3")), 1, "unknown dtype"),
        (header(a=tensor(0, 1, shape=[-1])), 1, "shape"),
        (header(a=tensor(0, 1, shape=[2])), 1, "by its shape"),
        (header(a=tensor(0, 4, "F32", [2])), 4, "by its shape"),
        (header(a=tensor(0, 2), b=tensor(1, 3)), 3, "overlaps"),
        (header(a=tensor(0, 1), b=tensor(2, 3)), 3, "gap"),
        (header(a=tensor(1, 2)), 2, "gap"),
        (header(a=tensor(0, 3)), 2, "the file has 2"),
        (header(a=tensor(0, 1)), 2, "the file has 2"),
        (header(a=tensor(-1, 0)), 2, "offsets"),
        (header(a=tensor(2, 1)), 2, "shape"),
        (header(a=tensor(0, 2**70)), 2, "shape"),
        (header(a=tensor(0, 2**53, shape=[2**30, 2**23])), 2, "any machine"),
        (header(**{"a\n": tensor(0, 1)}), 1, "control"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(text: bytes, size: int, why: str):
    with pytest.raises(WeightsInvalid, match=why):
        safetensors.parse_header(text, size, "f")


def test_the_header_may_fill_the_file_and_reach_the_bound_but_no_further():
    def length(size: int, file_size: int) -> int:
        return safetensors.header_length(size.to_bytes(8, "little"), file_size, "f")

    assert length(2, 10) == 2
    assert length(safetensors.MAX_HEADER, 2**40) == safetensors.MAX_HEADER
    for size, file_size in ((1, 10), (3, 10), (safetensors.MAX_HEADER + 1, 2**40), (2**64 - 1, 2**40)):
        with pytest.raises(WeightsInvalid):
            length(size, file_size)


def test_a_npy_header_is_read():
    assert npy.parse_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n", "f") == (
        "float32",
        (3, 4),
    )


@pytest.mark.parametrize(
    "text",
    [
        b"{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }",
        b"{'descr': '>f4', 'fortran_order': False, 'shape': (3,), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
        b"{'descr': '<U3', 'fortran_order': False, 'shape': (3,), }",
        b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }",
        b"{'descr': '<f4', 'fortran_order': False}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os').getcwd()}",
        b"(" * 60_000,
        b"{[]: 1}",
        b"",
    ],
)
def test_a_npy_header_of_anything_but_a_plain_array_is_refused(text: bytes):
    with pytest.raises(WeightsInvalid):
        npy.parse_header(text, "f")


@pytest.mark.parametrize("prefix", [b"PK\x03\x04......", b"\x93NUMPY\x02\x00\x76\x00", b"\x93NUMPY\x01\x01\x76\x00"])
def test_a_file_that_is_no_npy_file_is_refused(prefix: bytes):
    with pytest.raises(WeightsInvalid):
        npy.header_length(prefix, "f")


def test_one_axis_is_in_both_orders():
    assert npy.parse_header(b"{'descr': '|b1', 'fortran_order': True, 'shape': (1, 4), }", "f") == ("bool", (1, 4))
