"""`arrays = "torch"`: a handler gets tensors over the memory in which they came, and may return any."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.core.errors import ModelFailed
from mer.meal.library import load_unpacked
from mer.meal.plan import WeightFile
from mer_worker.dtypes import NUMERIC
from mer_worker.tensors import Buffer, WireError, decode, encode
from tests.support.arrays import bits, plain_arrays
from tests.support.blocking import Blocking, blocking
from tests.support.workers import handler_folder, local_host

torch: Any = pytest.importorskip("torch", reason="there is no torch (pip install torch==2.13.0)")

HANDLER = """
    import torch

    def turned(tensor, how):
        assert isinstance(tensor, torch.Tensor), type(tensor)
        if how == "transposed":
            return tensor.T if tensor.ndim == 2 else tensor
        if how == "stepped" and tensor.ndim:
            return tensor.repeat_interleave(2, dim=-1)[..., ::2]
        if how == "graph" and tensor.is_floating_point():
            return tensor.clone().requires_grad_() * 1
        if how == "parameter" and tensor.is_floating_point():
            return torch.nn.Parameter(tensor)
        if how == "conjugate" and tensor.is_complex():
            return tensor.conj().conj_physical()
        return tensor

    class Odd:
        sparse = staticmethod(lambda: torch.zeros(2).to_sparse())
        meta = staticmethod(lambda: torch.zeros(2, device="meta"))
        float8 = staticmethod(lambda: torch.zeros(2).to(torch.float8_e4m3fn))
        ragged = staticmethod(lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]))

    def load(weights=None):
        def handle(inputs):
            how = inputs.pop("how", None)
            if how in vars(Odd):
                return {"x": getattr(Odd, how)()}
            if how == "weights":
                weights["w"][0] = 7.0  # torch has no read-only tensors: this is the worker's own copy
                return {"sum": weights["w"].sum()}
            if how == "bfloat16":
                return {"x": inputs["x"].to(torch.bfloat16)}
            return {
                name: [turned(one, how) for one in value] if isinstance(value, list) else turned(value, how)
                for name, value in inputs.items()
            }
        return handle
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocking]:
    folder = tmp_path_factory.mktemp("torch")
    (folder / "w").write_bytes(np.ones(4, "<f4").tobytes())
    weights = (WeightFile(name="w", dtype="float32", shape=(4,), path=folder / "w"),)
    with blocking(folder, HANDLER, arrays="torch", weights=weights, load_seconds=120.0) as made:
        made.session.arrays = "numpy"  # as a pool has it
        yield made


TURNS = ["as it is", "transposed", "stepped", "graph", "parameter", "conjugate"]


@settings(max_examples=150, deadline=None)
@given(array=plain_arrays("<"), how=st.sampled_from(TURNS))
def test_tensors_come_back_with_their_bits(worker: Blocking, array: Any, how: str) -> None:
    if how in ("graph", "conjugate"):
        array = np.nan_to_num(array)  # arithmetic may change the bits of a NaN
    back = worker({"x": array, "how": how})["x"]
    wanted = array.T if how == "transposed" and array.ndim == 2 else array
    assert (back.shape, back.dtype, bits(back)) == (wanted.shape, wanted.dtype, bits(wanted))


def test_ragged_lists_come_back(worker: Blocking) -> None:
    back = worker({"x": [np.arange(3.0), np.zeros((0, 2), "u1")]})["x"]
    assert [one.shape for one in back] == [(3,), (0, 2)]


def test_bfloat16_comes_as_it_is(worker: Blocking) -> None:
    assert worker({"x": np.array([1.0, -2.0], "f4"), "how": "bfloat16"})["x"] == Buffer(
        b"\x80\x3f\x00\xc0", "bfloat16", (2,)
    )


def test_weights_may_be_written_to_and_their_file_stays(worker: Blocking) -> None:
    for _ in range(2):
        assert worker({"how": "weights"})["sum"] == 10.0


@pytest.mark.parametrize("odd", ["sparse", "meta", "float8", "ragged"])
def test_a_tensor_without_a_form_says_which_and_why(worker: Blocking, odd: str) -> None:
    with pytest.raises(ModelFailed, match=r"'x': .*(cannot be sent|no values)"):
        worker({"how": odd})


@settings(max_examples=100, deadline=None)
@given(array=plain_arrays("<"))
def test_a_view_is_over_the_same_memory_and_a_tensor_is_sent_from_its_own(array: Any) -> None:
    encoded = encode({"x": array})
    total, pieces = encoded.body()
    body = bytearray(b"".join(bytes(piece) for piece in pieces))
    assert len(body) == total
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = decode(encoded.descriptors, body, "torch")["x"]
        assert decode(encoded.descriptors, bytes(body), "torch")["x"].shape == tensor.shape
    again = encode({"x": tensor})
    assert again.descriptors == encoded.descriptors
    assert bytes(again.segments[0]) == bits(array)
    if array.size and array.dtype.kind != "b":
        body[-1] ^= 1
        assert bytes(again.segments[0])[-1] == body[-1]


@pytest.mark.parametrize("dtype", sorted(NUMERIC))
def test_every_dtype_of_the_wire_is_one_of_torchs(dtype: str) -> None:
    tensor = torch.zeros((2, 3)).to(getattr(torch, dtype))
    encoded = encode({"x": tensor.T, "n": tensor[0, 0]})
    assert [(one.dtype, one.shape) for one in encoded.descriptors] == [(dtype, (3, 2)), (dtype, ())]


def test_a_conjugate_view_is_sent_as_its_values() -> None:
    assert bytes(encode({"x": torch.tensor([1 + 2j]).conj()}).segments[0]) == np.array([1 - 2j], "c8").tobytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_tensor_of_a_gpu_is_copied() -> None:
    assert bytes(encode({"x": torch.arange(3, device="cuda")}).segments[0]) == np.arange(3).tobytes()


def test_an_impossible_shape_is_an_error() -> None:
    with pytest.raises(WireError, match="'x'"):
        decode(encode({"x": Buffer(b"", "int8", (0, 1 << 62, 1 << 62))}).descriptors, bytes(64), "torch")


@pytest.mark.parametrize("in_process", [False, True])
async def test_load_unpacked_gives_torch_to_its_caller_too(tmp_path: Path, in_process: bool) -> None:
    folder = handler_folder(tmp_path / "model", "def load():\n    return lambda inputs: {'y': inputs['x'] + 1}\n")
    host = local_host(tmp_path)
    async with await load_unpacked(
        folder, entry="handler:load", arrays="torch", in_process=in_process, host=host, load_seconds=120
    ) as model:
        outputs = await model.infer({"x": torch.ones(2, requires_grad=True)})
        assert torch.equal(outputs["y"], torch.full((2,), 2.0))
