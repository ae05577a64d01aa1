"""The library's way to a handler: a folder, a call, the handler's own errors; in a worker and in this process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from mer.core.errors import InputInvalid, MerError, ModelFailed, PackageInvalid, UsageError
from mer.meal.library import LoadedModel, load_unpacked
from mer.meal.loaded import WorkerModel
from tests.support.workers import handler_folder, local_host, until

ROOT = Path(__file__).parents[2]

SOURCE = """
    import os, sys

    class Model:
        def __init__(self, factor=2):
            self.factor = factor
        def __call__(self, inputs):
            if "fail" in inputs:
                raise LookupError(inputs["fail"])
            if "exit" in inputs:
                sys.exit(inputs["exit"])
            return {"y": inputs["x"] * self.factor, "pid": os.getpid()}
"""


@pytest.fixture(params=[False, True], ids=["in a worker", "in this process"])
def in_process(request) -> bool:
    return request.param


async def load(tmp_path: Path, *, in_process: bool = False, source: str = SOURCE, **given) -> LoadedModel:
    folder = handler_folder(tmp_path / "handler", source)
    given = {"entry": "handler:Model", "host": local_host(tmp_path), **given}
    return await load_unpacked(folder, in_process=in_process, **given)


async def test_a_handler_in_a_folder_is_called(tmp_path, in_process):
    async with await load(tmp_path, in_process=in_process, options={"factor": 3}) as model:
        outputs = await model.infer({"x": np.arange(3)})
        assert outputs["y"].tolist() == [0, 3, 6]
        assert (outputs["pid"] == os.getpid()) is in_process


async def test_its_error_is_whole(tmp_path, in_process):
    async with await load(tmp_path, in_process=in_process) as model:
        with pytest.raises(ModelFailed, match="LookupError: where") as caught:
            await model.infer({"fail": "where"})
        assert 'raise LookupError(inputs["fail"])' in caught.value.traceback
        assert "mer_worker" not in caught.value.traceback
        with pytest.raises(ModelFailed, match=r"sys\.exit"):
            await model.infer({"exit": 3})
        assert (await model.infer({"x": np.array(2)}))["y"] == 4


async def test_an_input_without_a_form_is_refused_here(tmp_path, in_process):
    async with await load(tmp_path, in_process=in_process) as model:
        with pytest.raises(InputInvalid, match="'x'"):
            await model.infer({"x": object()})


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"entry": "handler"}, UsageError),
        ({"entry": "handler:absent"}, PackageInvalid),
        ({"entry": "absent:Model"}, PackageInvalid),
        ({"entry": None}, PackageInvalid),
        ({"runner": "cobol"}, UsageError),
        ({"arrays": "cudf"}, UsageError),
        ({"options": {"fact": 1}}, PackageInvalid),
        ({"source": "def f(:"}, ModelFailed),
    ],
)
async def test_what_cannot_be_loaded_says_why(tmp_path, in_process, given, error):
    with pytest.raises(MerError) as caught:
        await load(tmp_path, in_process=in_process, **given)
    assert type(caught.value) is error


async def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        await load_unpacked(tmp_path / "absent", entry="a:b")


async def test_a_relative_folder_is_the_callers(tmp_path, monkeypatch):
    handler_folder(tmp_path / "handler", SOURCE)
    monkeypatch.chdir(tmp_path)
    async with await load_unpacked("handler", entry="handler:Model", host=local_host(tmp_path)) as model:
        assert (await model.infer({"x": np.array(1)}))["y"] == 2


async def test_a_carton_says_itself_how_it_is_run(tmp_path):
    async with await load_unpacked(ROOT / "examples" / "echo" / "package", host=local_host(tmp_path)) as model:
        assert await model.infer({"t": "text"}) == {"t": "text"}


async def test_a_lost_worker_is_replaced_by_the_next_call(tmp_path):
    async with await load(tmp_path) as model:
        assert isinstance(model, WorkerModel)
        first = (await model.infer({"x": np.array(1)}))["pid"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: model.session.lost is not None)
        assert (await model.infer({"x": np.array(1)}))["pid"] != first


async def test_in_this_process_a_breakpoint_stops_here(tmp_path, monkeypatch):
    stopped = []
    monkeypatch.setattr(sys, "breakpointhook", lambda: stopped.append(sys._getframe(1).f_locals["inputs"]))
    source = "def load():\n    def handle(inputs):\n        breakpoint()\n        return inputs\n    return handle\n"
    async with await load(tmp_path, in_process=True, source=source, entry="handler:load") as model:
        await model.infer({"x": 1})
    assert stopped == [{"x": 1}]


async def test_in_this_process_two_handlers_of_one_name_do_not_meet(tmp_path):
    for number in (1, 2):
        source = f"def load():\n    return lambda inputs: {{'n': {number}}}\n"
        async with await load(tmp_path / str(number), in_process=True, source=source, entry="handler:load") as model:
            assert await model.infer({}) == {"n": number}
    assert "handler" not in sys.modules
    assert not any(str(tmp_path) in path for path in sys.path)


async def test_buffers_import_no_numpy_in_the_worker(tmp_path):
    source = "import sys\ndef load():\n    return lambda inputs: {'numpy': 'numpy' in sys.modules}\n"
    async with await load(tmp_path, source=source, entry="handler:load", arrays="buffer") as model:
        assert await model.infer({"x": np.zeros(3)}) == {"numpy": False}


async def test_a_worker_that_ends_while_the_loop_is_being_closed_leaves_no_folder(tmp_path):
    model = await load(tmp_path)
    await asyncio.get_running_loop().shutdown_default_executor()  # as asyncio.run does at its end
    await model.aclose()
    assert not list((tmp_path / "scratch").iterdir())
