"""Inputs sealed where a worker has several requests at once: each is a request like others, beside others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import Busy, DeadlineExceeded, HandleUnknown, MerError, ModelFailed, RunTooLong
from mer.core.specs import Batch, Limits
from mer.meal import seals
from mer.meal.library import load_unpacked
from mer.meal.loaded import LoadedModel, WorkerModel
from mer_worker.serving.seals import MOST_SEALED
from mer_worker.tensors import encode
from tests.support.workers import eventually, handler_folder, local_host, session_with, until

SOURCE = """
    import asyncio, gc, threading, time

    held = 0
    dropped_in = None

    class Staged:
        def __init__(self, name):
            global held
            self.name = name
            held += 1

        def __del__(self):
            global held, dropped_in
            held -= 1
            dropped_in = threading.current_thread() is threading.main_thread()

    class Threads:
        def seal(self, inputs):
            print("staging", inputs["x"], flush=True)
            end = time.monotonic() + inputs.get("seconds", 0)
            staged = Staged(inputs["x"])
            while time.monotonic() < end:
                time.sleep(0.001)
            if inputs["x"] == "bad":
                raise ValueError("cannot be staged")
            return staged

        def __call__(self, inputs):
            if isinstance(inputs, Staged):
                return {"staged": inputs.name}
            time.sleep(inputs.get("seconds", 0))
            return {"held": held, "in main": dropped_in}

    class Tasks(Threads):
        async def seal(self, inputs):
            print("staging", inputs["x"], flush=True)
            staged = Staged(inputs["x"])
            await asyncio.sleep(inputs.get("seconds", 0))
            if inputs["x"] == "bad":
                raise ValueError("cannot be staged")
            return staged

        async def __call__(self, inputs):
            if not isinstance(inputs, Staged):
                await asyncio.sleep(inputs.pop("seconds", 0))
            return super().__call__(inputs)

    class Plain(Tasks):
        seal = Threads.seal

    class Batches(Threads):
        def __call__(self, batch):
            return [super(Batches, self).__call__(inputs) for inputs in batch]

    def load(kind):
        gc.disable()  # what was let go of is gone at once: it may lie on a GPU
        return globals()[kind]()
"""

SPECS: dict[str, dict[str, Any]] = {
    "Threads": {"concurrency": 4},
    "Tasks": {"concurrency": 4},
    "Plain": {"concurrency": 4},
    "Batches": {"batch": Batch()},
}
PATIENT = 10


def loading(folder: Path, kind: str, **given: Any) -> Any:
    handler_folder(folder / "model", SOURCE)
    return load_unpacked(
        folder / "model",
        entry="handler:load",
        arrays="buffer",
        options={"kind": kind},
        host=local_host(folder),
        **SPECS[kind],
        **given,
    )


@pytest.fixture(params=["Threads", "Tasks"])
async def model(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[WorkerModel]:
    async with await loading(tmp_path, request.param) as loaded:
        yield loaded


async def held(model: LoadedModel) -> Any:
    return (await model.infer({}))["held"]


async def none_held(model: LoadedModel) -> None:
    """See that the worker lets go of everything: it may have answered before it does."""

    async def none() -> bool:
        return not await held(model)

    await eventually(none)


async def test_inputs_are_staged_while_others_are_run_and_staged(model):
    async with asyncio.timeout(PATIENT):
        slow = [asyncio.create_task(model.seal({"x": number, "seconds": 30})) for number in range(3)]
        handle = await model.seal({"x": "quick"})
        assert (await model.infer(handle)) == {"staged": "quick"}
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
    await none_held(model)
    assert model.session.lost is None


async def test_no_more_are_kept_than_may_be_however_many_come_at_once(model):
    given = await asyncio.gather(
        *(model.seal({"x": number, "seconds": 0.01}) for number in range(MOST_SEALED + 8)), return_exceptions=True
    )
    handles = [one for one in given if isinstance(one, seals.Handle)]
    busy = [one for one in given if isinstance(one, Busy)]
    assert (len(handles), len(busy)) == (MOST_SEALED, 8)
    await asyncio.gather(*(model.release(handle) for handle in handles))
    assert await held(model) == 0
    with pytest.raises(ModelFailed):
        await model.seal({"x": "bad"})
    handles = await asyncio.gather(*(model.seal({"x": number}) for number in range(MOST_SEALED)))  # its place is free
    assert len(set(map(str, handles))) == MOST_SEALED


async def test_what_is_printed_while_inputs_are_staged_is_the_seals(model):
    said: dict[str, list[bytes]] = {"one": [], "two": []}
    await asyncio.gather(
        *(
            model.seal({"x": name, "seconds": 0.05}, on_log=lambda *line, lines=lines: lines.append(line[2]))
            for name, lines in said.items()
        )
    )
    assert said == {"one": [b"staging one\n"], "two": [b"staging two\n"]}


async def test_a_run_by_handle_that_is_cancelled_before_its_turn_lets_go_of_what_was_sealed(model):
    handle = await model.seal({"x": "a"})
    assert await held(model) == 1
    blocking = [asyncio.create_task(model.infer({"seconds": 0.5})) for _ in range(4)]
    await asyncio.sleep(0.1)
    with pytest.raises(DeadlineExceeded):
        await model.infer(handle, timeout=0.05)
    await asyncio.gather(*blocking)
    await none_held(model)
    with pytest.raises(HandleUnknown):
        await model.infer(handle)


async def test_tasks_let_go_of_what_was_staged_in_the_thread_of_their_loop(tmp_path):
    async with await loading(tmp_path, "Tasks") as model:
        await model.release(await model.seal({"x": "a"}))
        assert await model.infer({}) == {"held": 0, "in main": True}


@pytest.mark.parametrize("kind", SPECS)
async def test_staging_ends_at_its_deadline_and_the_worker_goes_on(tmp_path, kind):
    async with await loading(tmp_path, kind) as model:
        await held(model)  # numpy and the like are there
        session = model.session
        with pytest.raises(DeadlineExceeded):
            await model.seal({"x": "a", "seconds": 60}, timeout=0.2)
        await none_held(model)
        assert model.session is session


@pytest.mark.parametrize("kind", SPECS)
async def test_staging_is_held_to_the_wall_time(tmp_path, kind):
    spec: dict[str, Any] = {**SPECS[kind], "options": {"kind": kind}, "limits": Limits(wall_seconds=0.3)}
    async with session_with(tmp_path, SOURCE, **spec) as session:
        with pytest.raises(RunTooLong) as caught:
            await seals.seal(session, encode({"x": "a", "seconds": 60}))
        assert caught.value.code == "limit:wall"

        async def none_held() -> bool:
            return not (await session.infer(encode({}))).outputs["held"]

        await eventually(none_held)


@pytest.mark.parametrize("kind", SPECS)
async def test_a_worker_that_stages_is_seen_to_be_busy(tmp_path, kind):
    async with session_with(tmp_path, SOURCE, **SPECS[kind], options={"kind": kind}) as session:
        assert not (await session.pulse()).running
        sealing = asyncio.create_task(seals.seal(session, encode({"x": "a", "seconds": 60})))

        async def busy() -> bool:
            return bool((await session.pulse()).running)

        await eventually(busy)
        sealing.cancel()
        await asyncio.gather(sealing, return_exceptions=True)
        await until(lambda: session.busy == 0)


@pytest.mark.parametrize("in_process", [False, True])
async def test_a_seal_that_is_awaited_needs_a_handler_that_is(tmp_path, in_process):
    source = """
        class Model:
            async def seal(self, inputs):
                return inputs

            def __call__(self, inputs):
                return inputs

        def load():
            return Model()
    """
    folder = handler_folder(tmp_path / "model", source)
    with pytest.raises(MerError, match="needs a handler that is"):
        await load_unpacked(folder, entry="handler:load", in_process=in_process)


async def test_in_this_process_a_seal_may_be_awaited_too(tmp_path):
    folder = handler_folder(tmp_path / "model", SOURCE)
    async with await load_unpacked(
        folder, entry="handler:load", arrays="buffer", in_process=True, options={"kind": "Tasks"}
    ) as model:
        assert await model.infer(await model.seal({"x": "a"})) == {"staged": "a"}
