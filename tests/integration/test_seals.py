"""Inputs that are sent ahead and run by handle, through a real worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.core.errors import Busy, HandleUnknown, InputInvalid, ModelFailed, RunTooLong, UsageError
from mer.core.specs import Batch, Limits
from mer.meal import seals
from mer.meal.batching import BatchingSession
from mer.meal.library import load_unpacked
from mer.meal.loaded import LoadedModel, WorkerModel
from mer.meal.stream import Bytes
from mer_worker.serving.seals import MOST_SEALED
from mer_worker.tensors import encode
from mer_worker.wire import MAX_META_BYTES, Flag, Kind, flagged, frame
from tests.support.peers import PEERS
from tests.support.workers import handler_folder, session_with, until

STAGES = """
    import asyncio, os

    held = 0

    class Staged:
        def __init__(self, value):
            global held
            self.value = value
            held += 1

        def __del__(self):
            global held
            held -= 1

    class Model:
        def seal(self, inputs):
            if inputs["x"] == "bad":
                raise ValueError("cannot be staged")
            return Staged(inputs["x"])

        def __call__(self, inputs, context):
            if isinstance(inputs, Staged):
                return self.parts(inputs.value) if inputs.value == "parts" else {
                    "staged": inputs.value, "meta": dict(context.meta)}
            if inputs == {"x": "die"}:
                os._exit(3)
            return {"held": held}

        def parts(self, value):
            yield {"part": 1}
            yield {"part": 2}

    class Tasks(Model):
        async def seal(self, inputs):
            await asyncio.sleep(0)
            return super().seal(inputs)

        async def __call__(self, inputs, context):
            return super().__call__(inputs, context)

        async def parts(self, value):
            yield {"part": 1}
            yield {"part": 2}

    class Batches(Model):
        def __call__(self, batch, context):
            return [super(Batches, self).__call__(inputs, one) for inputs, one in zip(batch, context)]

    def load(kind="Model"):
        return globals()[kind]()
"""

WAYS: dict[str, dict[str, Any]] = {
    "one at a time": {},
    "threads": {"concurrency": 4},
    "tasks": {"concurrency": 4, "options": {"kind": "Tasks"}},
    "batches": {"batch": Batch(), "options": {"kind": "Batches"}},
}
"""How requests are served: what is sealed is the same in each."""

PLAIN = """
    def load():
        return lambda inputs: inputs
"""


@pytest.fixture(
    params=[(way, "control") for way in WAYS] + [("one at a time", "in-band"), ("tasks", "in-band")], ids=", ".join
)
async def model(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[WorkerModel]:
    way, stream = request.param
    host = next(peer for peer in PEERS if peer.name == stream).host(tmp_path)
    folder = handler_folder(tmp_path / "model", STAGES)
    async with await load_unpacked(folder, entry="handler:load", arrays="buffer", host=host, **WAYS[way]) as loaded:
        assert isinstance(loaded, WorkerModel)
        yield loaded


async def held(model: LoadedModel) -> int:
    count = (await model.infer({"x": 0}))["held"]
    assert isinstance(count, int)
    return count


async def test_what_was_staged_is_run_once_and_let_go(model):
    handle = await model.seal({"x": "a"})
    assert await held(model) == 1
    with pytest.raises(InputInvalid, match=r"a meta of .* bytes: the cap is"):
        await model.infer(handle, meta={"k": "x" * MAX_META_BYTES})
    assert await model.infer(handle, meta={"k": 1}) == {"staged": "a", "meta": {"k": 1}}
    assert await held(model) == 0
    assert handle.gone
    with pytest.raises(HandleUnknown):
        await model.infer(handle)


async def test_a_handler_without_seal_gets_the_inputs_as_they_are(tmp_path):
    host = PEERS[0].host(tmp_path)
    folder = handler_folder(tmp_path / "model", PLAIN)
    async with await load_unpacked(folder, entry="handler:load", arrays="buffer", host=host) as model:
        assert await model.infer(await model.seal({"x": "a", "y": 1})) == {"x": "a", "y": 1}


async def test_large_inputs_are_kept_whole(tmp_path):
    host = PEERS[0].host(tmp_path)
    folder = handler_folder(tmp_path / "model", PLAIN)
    async with await load_unpacked(folder, entry="handler:load", host=host) as model:
        given = [np.full(1 << 20, number, "float32") for number in range(4)]
        handles = [await model.seal({"x": array}) for array in given]
        await model.infer({"x": np.zeros(1 << 20, "float32")})
        for array, handle in zip(given, handles, strict=True):
            assert np.array_equal((await model.infer(handle))["x"], array)


async def test_sealed_inputs_may_be_answered_in_parts(model):
    if isinstance(model.session, BatchingSession):
        pytest.skip("batches are answered as a whole")
    handle = await model.seal({"x": "parts"})
    assert [part async for part in model.stream(handle)] == [{"part": 1}, {"part": 2}]


async def test_several_are_kept_and_run_in_any_order(model):
    first, second = await model.seal({"x": "a"}), await model.seal({"x": "b"})
    assert (await model.infer(second))["staged"] == "b"
    assert (await model.infer(first))["staged"] == "a"


async def test_what_is_released_is_let_go(model):
    handle = await model.seal({"x": "a"})
    await model.release(handle)
    assert await held(model) == 0
    with pytest.raises(HandleUnknown):
        await model.release(handle)
    with pytest.raises(HandleUnknown):
        await model.infer(handle)


async def test_what_is_kept_for_too_long_is_let_go(model):
    handle = await model.seal({"x": "a"}, keep=0.1)
    await until(lambda: handle.gone)
    assert await held(model) == 0
    with pytest.raises(HandleUnknown):
        await model.infer(handle)


async def test_an_error_of_staging_is_the_models(model):
    with pytest.raises(ModelFailed, match="cannot be staged") as caught:
        await model.seal({"x": "bad"})
    assert "raise ValueError" in (caught.value.traceback or "")
    assert await held(model) == 0


async def test_one_more_than_may_be_kept_is_busy(model):
    handles = [await model.seal({"x": number}) for number in range(MOST_SEALED)]
    with pytest.raises(Busy, match="sealed already"):
        await model.seal({"x": "more"})
    await model.release(handles.pop())
    await model.seal({"x": "more"})


async def test_a_worker_that_died_has_nothing_sealed(model):
    handle = await model.seal({"x": "a"})
    with pytest.raises(Exception, match="status 3"):
        await model.infer({"x": "die"})
    assert await held(model) == 0  # another worker
    with pytest.raises(HandleUnknown, match="has ended"):
        await model.infer(handle)


async def test_a_handle_of_another_model_is_unknown(model, tmp_path):
    folder = handler_folder(tmp_path / "other", PLAIN)
    async with await load_unpacked(folder, entry="handler:load", in_process=True) as other:
        handle = await other.seal({"x": "a"})
        with pytest.raises(HandleUnknown, match="another model"):
            await model.infer(handle)
        assert await other.infer(handle) == {"x": "a"}


async def test_a_handle_that_the_worker_does_not_know_is_an_error_and_no_crash(model):
    def asked(request: int) -> tuple[Bytes, ...]:
        return flagged((frame(Kind.INFER, {"handle": "sealed-9"}, request=request),), Flag.HANDLE)

    with pytest.raises(HandleUnknown, match="used, released or forgotten"):
        await model.session.ask(asked)
    assert await held(model) == 0


@pytest.mark.parametrize("keep", [0, -1, float("nan"), float("inf"), seals.MOST_SEAL_SECONDS + 1])
async def test_a_time_that_is_none_is_refused(model, keep):
    with pytest.raises(UsageError, match="seconds"):
        await model.seal({"x": "a"}, keep=keep)


async def test_in_this_process_it_is_the_same(tmp_path):
    folder = handler_folder(tmp_path / "model", STAGES)
    async with await load_unpacked(folder, entry="handler:load", arrays="buffer", in_process=True) as model:
        handle = await model.seal({"x": "a"})
        assert await held(model) == 1
        assert (await model.infer(handle))["staged"] == "a"
        short = await model.seal({"x": "b"}, keep=0.05)
        await asyncio.sleep(0.2)
        assert short.gone
        assert await held(model) == 0


STUBBORN = """
    import time

    held = 0

    class Staged:
        def __init__(self):
            global held
            held += 1

        def __del__(self):
            global held
            held -= 1

    class Model:
        def seal(self, inputs):
            staged = Staged()
            try:
                print("staging", flush=True)
                time.sleep(30)
            except KeyboardInterrupt:
                if inputs["x"] == "through":
                    raise
            return staged

        def __call__(self, inputs):
            return {"held": held}

    def load():
        return Model()
"""


async def test_what_was_sealed_though_its_caller_had_gone_is_released(tmp_path):
    started = asyncio.Event()
    folder = handler_folder(tmp_path / "model", STUBBORN)
    async with await load_unpacked(folder, entry="handler:load", arrays="buffer") as model:
        sealing = asyncio.create_task(model.seal({"x": "caught"}, on_log=lambda *_: started.set()))
        await asyncio.wait_for(started.wait(), 10)
        sealing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sealing
        for _ in range(100):
            if not await held(model):
                return
            await asyncio.sleep(0.05)
    pytest.fail("nobody released it")


async def test_what_is_never_sent_uses_no_handle_up(tmp_path):
    async with session_with(tmp_path, PLAIN, arrays="buffer") as session:
        handle = await seals.seal(session, encode({"x": "a"}))
        seals.by_handle(session, handle)  # and its caller was cancelled before he could send it
        assert session.reply(await session.ask(seals.by_handle(session, handle))).outputs == {"x": "a"}
        with pytest.raises(HandleUnknown):
            seals.by_handle(session, handle)


async def test_of_two_who_use_a_handle_at_once_one_gets_it(tmp_path):
    async with session_with(tmp_path, PLAIN, arrays="buffer") as session:
        handle = await seals.seal(session, encode({"x": "a"}))
        one, other = seals.by_handle(session, handle), seals.by_handle(session, handle)
        await session.ask(one)
        with pytest.raises(HandleUnknown):
            await session.ask(other)
        assert session.busy == 0


async def test_staging_is_held_to_the_wall_time(tmp_path):
    async with session_with(tmp_path, STUBBORN, arrays="buffer", limits=Limits(wall_seconds=0.3)) as session:
        with pytest.raises(RunTooLong) as caught:
            await seals.seal(session, encode({"x": "through"}))
        assert caught.value.code == "limit:wall"
