"""Values as JSON and as pictures."""

import json

import numpy as np
import pytest

from mer.faces.render.console import Console
from mer.faces.render.pictures import LARGEST, bars, picture
from mer.faces.render.values import described
from mer_worker.tensors import Buffer, Strings, decode, encode
from tests.support.typing_in import Stream


def console(**environ):
    return Console(stdout=Stream(terminal=True), stderr=Stream(), environ={"COLUMNS": "80", **environ})


@pytest.mark.parametrize(
    ("value", "document"),
    [
        (np.float32(0.1), {"dtype": "float32", "shape": [], "value": 0.1}),
        (np.zeros((0, 3), np.int8), {"dtype": "int8", "shape": [0, 3], "value": []}),
        (np.array([[1, 2]], np.int64), {"dtype": "int64", "shape": [1, 2], "value": [[1, 2]]}),
        (np.array([2**63 - 1]), {"dtype": "int64", "shape": [1], "value": [2**63 - 1]}),
        (
            np.array([np.nan, np.inf, -np.inf]),
            {"dtype": "float64", "shape": [3], "value": ["NaN", "Infinity", "-Infinity"]},
        ),
        (np.array([1 + 2j]), {"dtype": "complex128", "shape": [1], "value": [[1.0, 2.0]]}),
        (np.array([True]), {"dtype": "bool", "shape": [1], "value": [True]}),
        ("text", {"dtype": "string", "shape": [], "value": "text"}),
        (["a", "b"], {"dtype": "string", "shape": [2], "value": ["a", "b"]}),
        (
            Strings(["a", "b", "c", "d"], (2, 2)),
            {"dtype": "string", "shape": [2, 2], "value": [["a", "b"], ["c", "d"]]},
        ),
        (np.array([["a"], ["b"]], object), {"dtype": "string", "shape": [2, 1], "value": [["a"], ["b"]]}),
        (b"\x00\xff", {"dtype": "bytes", "base64": "AP8=", "value": None}),
        ({"a": [1, None]}, {"dtype": "json", "shape": [], "value": {"a": [1, None]}}),
        (Buffer(b"\x01\x00\x02\x00", "int16", (2,)), {"dtype": "int16", "shape": [2], "value": [1, 2]}),
        (Buffer(b"\x80\x3f", "bfloat16", (1,)), {"dtype": "bfloat16", "shape": [1], "value": [1.0]}),
    ],
)
def test_every_value_has_a_form_in_json(value, document):
    assert json.loads(json.dumps(described(value).document(), allow_nan=False)) == document


def test_a_nested_value_is_its_arrays_in_json():
    value = [np.array([1]), np.array([2, 3])]
    inner = described(value).document()["value"]
    assert [tensor["value"] for tensor in inner] == [[1], [2, 3]]


@pytest.mark.parametrize("arrays", ["numpy", "buffer"])
def test_what_comes_back_from_a_worker_can_be_described(arrays):
    given = {"x": np.arange(6, dtype=np.float16).reshape(2, 3), "t": "a", "b": b"1", "j": [1], "n": [np.array([1.5])]}
    encoded = encode(given)
    _, pieces = encoded.body()
    for value in decode(encoded.descriptors, b"".join(pieces), arrays).values():
        json.dumps(described(value).document(), allow_nan=False)


def test_a_picture_has_a_half_block_for_each_two_rows():
    drawn = picture(console(NO_COLOR="1"), np.repeat([[0.0] * 20, [1.0] * 20], 10, axis=0))
    assert drawn == "\n" * 5 + ("█" * 20 + "\n") * 5


def test_a_small_picture_is_drawn_twice_as_large():
    drawn = picture(console(NO_COLOR="1"), np.eye(4))
    assert drawn == "██\n  ██\n    ██\n      ██\n"


def test_a_picture_has_greys_where_there_are_colours():
    assert picture(console(), np.eye(4)).startswith("\x1b[38;5;255;48;5;255m▀")


def test_leading_dimensions_of_one_are_no_hindrance():
    assert picture(console(), np.eye(8)[None, None]) == picture(console(), np.eye(8))


@pytest.mark.parametrize(
    "array",
    [
        np.eye(3),
        np.zeros((8, 8)),
        np.full((8, 8), np.nan),
        np.arange(8.0),
        np.zeros((2, 8, 8)),
        np.arange((LARGEST + 1.0) * 8).reshape(-1, 8),
        np.arange(8 * 81.0).reshape(8, 81),
        np.eye(8, dtype=complex),
    ],
    ids=str,
)
def test_what_is_no_picture_is_not_drawn(array):
    assert picture(console(), array) is None


def test_a_picture_with_holes_is_drawn_without_them():
    array = np.eye(8)
    array[0, 0], array[1, 1] = np.nan, np.inf
    assert picture(console(), array)


def test_the_largest_picture_is_drawn():
    assert picture(console(COLUMNS="200"), np.arange(LARGEST * LARGEST * 1.0).reshape(LARGEST, LARGEST))


def test_probabilities_get_a_bar_each():
    drawn = bars(console(NO_COLOR="1"), np.array([0.25, 0.75], np.float32))
    assert drawn == "  0  25.0% ██████████\n  1  75.0% ██████████████████████████████\n"


@pytest.mark.parametrize(
    "array", [np.array([0.5, 0.6]), np.array([-0.5, 1.5]), np.array([1, 0]), np.array([1.0])], ids=str
)
def test_other_numbers_get_none(array):
    assert bars(console(), array) is None
