"""Whether inputs fit the specs."""

import pytest

from mer.core.errors import InputInvalid
from mer.core.specs import TensorSpec, check_fit, check_specs

IMAGE = TensorSpec(name="image", dtype="float32", shape=("n", 8, "*"))
MASK = TensorSpec(name="mask", dtype="bool", shape=("n",))


def test_inputs_that_fit_pass() -> None:
    check_fit([IMAGE, MASK], {"image": ("float32", (2, 8, 5)), "mask": ("bool", (2,))})


def test_without_specs_everything_fits() -> None:
    check_fit([], {"anything": ("string", ())})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mask": ("bool", (2,))}, "input 'image' is missing (image: float32 [n, 8, *])"),
        ({"image": ("float64", (2, 8, 5)), "mask": ("bool", (2,))}, "input 'image' is float64, not float32"),
        ({"image": ("float32", (2, 9, 5)), "mask": ("bool", (2,))}, "has 9 along axis 1, not 8"),
        ({"image": ("float32", (2, 8)), "mask": ("bool", (2,))}, "has shape [2, 8], not ['n', 8, '*']"),
        ({"image": ("float32", (2, 8, 5)), "mask": ("bool", (3,))}, "has n = 3, but input 'image', axis 0, has 2"),
        (
            {"image": ("float32", (2, 8, 5)), "mask": ("bool", (2,)), "x": ("bool", ())},
            "input 'x' is not one of this model's",
        ),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, tuple[str, tuple[int, ...]]], told: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        check_fit([IMAGE, MASK], given)
    assert told in caught.value.message


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(InputInvalid) as caught:
        check_fit([IMAGE, MASK], {"image": ("int8", (1, 1, 1))})
    assert caught.value.message.count(";") == 2


def test_a_symbol_for_a_whole_shape_binds_all_of_it() -> None:
    specs = [TensorSpec(name="a", dtype="int8", shape="s"), TensorSpec(name="b", dtype="int8", shape="s")]
    check_fit(specs, {"a": ("int8", (2, 3)), "b": ("int8", (2, 3))})
    with pytest.raises(InputInvalid):
        check_fit(specs, {"a": ("int8", (2, 3)), "b": ("int8", (3, 2))})


def test_bad_specs_are_told() -> None:
    faults = check_specs(
        [TensorSpec(name="a", dtype="float33"), TensorSpec(name="a", dtype="int8", shape=(-1,))], what="input"
    )
    assert faults == [
        "input 'a' has the unknown dtype 'float33'",
        "input 'a' stands twice",
        "input 'a' has a negative length",
    ]
