"""The list of tensors: its canonical text, its id, and what cannot be one."""

import pytest

from mer.core.errors import WeightsInvalid
from mer.core.records import Digest
from mer.core.weights import MAX_NAME, TensorEntry, format_weights, parse_weights, tensor_fault

A = Digest("a" * 64)


def entry(name: str, dtype: str = "float32", shape: tuple[int, ...] = (2,)) -> TensorEntry:
    return TensorEntry(name=name, dtype=dtype, shape=shape, digest=A)


def line(name: str = "a", dtype: str = "int8", shape: str = "[]", digest: str = A) -> str:
    return f'{{"dtype":"{dtype}","name":"{name}","sha256":"{digest}","shape":{shape}}}\n'


def test_tensors_are_listed_by_name_bytewise_one_line_each():
    text = format_weights([entry("b"), entry("a10", "int8", ()), entry("a2", shape=(3, 4))])
    assert text == line("a10") + line("a2", "float32", "[3,4]") + line("b", "float32", "[2]")


def test_a_list_reads_back():
    entries = (entry("a"), entry("é", "bfloat16", (0, 3)))
    assert parse_weights(format_weights(reversed(entries))) == entries


def test_the_size_is_that_of_the_elements():
    assert entry("a", "complex128", (2, 3)).size == 96
    assert entry("a", "float32", ()).size == 4
    assert entry("a", "float32", (0, 3)).size == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        line().rstrip("\n"),
        line() + line(),
        line("b") + line("a"),
        line().replace(",", ", "),
        line().replace("\n", "\r\n"),
        line(shape="[1.0]"),
        line(shape="[-1]"),
        line(shape="[true]"),
        line(shape="1"),
        line(dtype="string"),
        line(dtype="float8"),
        line(name=""),
        line(name="\\u0000"),
        line(name="x" * (MAX_NAME + 1)),
        line(digest="abc"),
        line(digest=A.upper()),
        line().replace('"shape"', '"form"'),
        line().replace("}", ',"z":1}'),
        "[]\n",
        "1\n",
        "[" * 100_000 + "\n",
    ],
)
def test_a_text_that_is_not_canonical_is_refused(text: str):
    with pytest.raises(WeightsInvalid):
        parse_weights(text)


def test_a_name_may_be_as_long_as_the_bound():
    assert tensor_fault("x" * MAX_NAME, "int8", ()) is None
    assert tensor_fault("x" * (MAX_NAME + 1), "int8", ())


def test_weights_without_a_tensor_are_none():
    with pytest.raises(WeightsInvalid, match="no tensor"):
        format_weights([])


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(WeightsInvalid, match="twice"):
        format_weights([entry("a"), entry("a", "int8")])


def test_a_tensor_larger_than_any_machine_is_refused():
    assert tensor_fault("a", "int8", [2**30, 2**30])
