"""What is known of inputs without a look at them: only what a look has found, and nothing that could have changed since."""

from typing import Any

import numpy as np
import pytest

from mer.core.specs import TensorSpec, VersionSpec
from mer.execution.forms import MOST_FORMS, InputForms
from mer.execution.inputs import encode_inputs
from mer_worker.tensors import Buffer

SPEC = VersionSpec(runner="python", inputs=(TensorSpec(name="x", dtype="float32", shape=("n",)),))


def forms_of(*given: dict[str, Any], spec: VersionSpec = SPEC) -> InputForms:
    forms = InputForms(spec)
    for inputs in given:
        forms.learn(inputs, encode_inputs(spec, inputs))
    return forms


def buffer(count: int = 256, *, dtype: str = "float32") -> Buffer:
    return Buffer(bytes(4 * count), dtype, (count,))


@pytest.mark.parametrize("make", [buffer, lambda: np.zeros(256, "float32")], ids=["buffer", "array"])
def test_inputs_like_those_that_fitted_fit(make: Any) -> None:
    assert not forms_of().fit({"x": make()})
    assert forms_of({"x": make()}).fit({"x": make()})


@pytest.mark.parametrize(
    "inputs",
    [
        {"y": buffer()},
        {"x": buffer(), "y": buffer()},
        {},
        {"x": buffer(257)},
        {"x": buffer(dtype="int32")},
        {"x": np.zeros(256, "float32")},
        {"x": [0.0] * 256},
        {"x": "text"},
        {"x": None},
        {"x": Buffer(bytes(8), "float32", (256,))},  # it says more than it has
    ],
    ids=str,
)
def test_inputs_of_another_form_are_looked_at(inputs: dict[str, Any]) -> None:
    assert not forms_of({"x": buffer()}).fit(inputs)


@pytest.mark.parametrize("dtype", [">f4", "float64", "int8"])
def test_an_array_of_another_element_is_looked_at(dtype: str) -> None:
    assert not forms_of({"x": np.zeros(256, "float32")}).fit({"x": np.zeros(256, dtype)})


@pytest.mark.parametrize("value", [[1.0] * 64, ["a", "b"], "text", {"a": 1}, [buffer()]], ids=str)
def test_what_is_made_into_something_else_or_is_no_tensor_of_numbers_is_looked_at_each_time(value: Any) -> None:
    spec = SPEC if value == [1.0] * 64 else VersionSpec(runner="python")
    assert not forms_of({"x": value}, spec=spec).fit({"x": value})


def test_forms_are_bounded() -> None:
    inputs: list[dict[str, Any]] = [{"x": buffer(32 + count)} for count in range(MOST_FORMS + 1)]
    forms = forms_of(*inputs)
    assert forms.fit(inputs[-1])
    assert sum(map(forms.fit, inputs)) <= MOST_FORMS
