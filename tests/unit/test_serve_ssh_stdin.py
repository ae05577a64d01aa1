"""A guest's stdin: what is read as inputs, and what is refused before memory is taken for it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from mer.core.errors import InputInvalid
from mer.faces.serve_ssh.npz import MAX_ARRAYS, read_arrays, write_arrays
from mer.faces.serve_ssh.stdin import read_stdin
from tests.support.hostile import abuses


async def test_json_and_npz_are_told_apart() -> None:
    out = io.BytesIO()
    np.savez_compressed(out, x=np.arange(3), names=np.array(["a", "é"]))
    arrays = await read_stdin(io.BytesIO(out.getvalue()))
    assert (arrays["x"].tolist(), arrays["names"].tolist()) == ([0, 1, 2], ["a", "é"])
    assert await read_stdin(io.BytesIO(b' {"x": [1.5]}\n')) == {"x": [1.5]}
    assert await read_stdin(io.BytesIO(b" \n")) == {}
    assert await read_stdin(None) == {}


@pytest.mark.parametrize("what", list(abuses(Path("/x"))))
async def test_what_is_no_input_is_refused(what: str, tmp_path: Path) -> None:
    with pytest.raises(InputInvalid):
        await read_stdin(io.BytesIO(abuses(tmp_path / "canary")[what]))
    assert not (tmp_path / "canary").exists()


def test_as_many_arrays_are_read_as_may_be() -> None:
    out = io.BytesIO()
    np.savez(out, **{f"a{number}": np.zeros(1) for number in range(MAX_ARRAYS)})
    assert len(read_arrays(out.getvalue())) == MAX_ARRAYS


def test_outputs_of_every_kind_have_a_form() -> None:
    values = {
        "numbers": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "text": "é",
        "texts": ["a", "bc"],
        "bytes": b"\x00\xff",
        "facts": {"a": [1, None]},
        "several": [np.arange(2), np.zeros((2, 2), dtype=np.int8)],
        "scalar": np.float32(0.5),
    }
    with np.load(io.BytesIO(write_arrays(values)), allow_pickle=False) as read:
        assert set(read) == {"numbers", "text", "texts", "bytes", "facts", "several.0", "several.1", "scalar"}
        assert read["numbers"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert (str(read["text"]), read["texts"].tolist()) == ("é", ["a", "bc"])
        assert read["bytes"].tobytes() == b"\x00\xff"
        assert json.loads(str(read["facts"])) == {"a": [1, None]}
        assert read["several.1"].shape == (2, 2)
    assert set(read_arrays(write_arrays(values))) == set(read.files)
