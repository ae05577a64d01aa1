"""Runs in parts and runs by handle, with their records: what is started ends on record, however it ends."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.api import Mer
from mer.core.errors import DeadlineExceeded, HandleUnknown, InputInvalid, ModelFailed, UsageError, WorkerLost
from mer.core.specs import TensorSpec
from tests.support.running import register, running
from tests.support.workers import until

MODEL = """
    import os, time
    import numpy as np

    class Model:
        def seal(self, inputs):
            return ("staged", inputs["x"])

        def __call__(self, inputs, context):
            if isinstance(inputs, tuple):
                return {"staged": inputs[1]}
            return globals()[inputs["do"]](inputs, context)

    def count(inputs, context):
        for number in range(3):
            yield {"y": np.full(2, number, "float32")}

    def ending(inputs, context):
        yield {"y": np.zeros(1, "float32")}
        return {"all": True}

    def plain(inputs, context):
        return {"y": np.ones(2, "float32")}

    def forever(inputs, context):
        while True:
            yield {"y": 1}

    def failing(inputs, context):
        yield {"y": 1}
        raise ValueError("no more")

    def dying(inputs, context):
        yield {"y": 1}
        os._exit(3)

    def sums(inputs, context):
        for part in context.parts():
            yield {"total": float(part["v"].sum())}

    def load():
        return Model()
"""


@pytest.fixture
async def mer(tmp_path: Path) -> AsyncIterator[Mer]:
    async with running(tmp_path) as m:
        await register(m, tmp_path, MODEL)
        yield m


async def records(m: Mer) -> list[dict[str, Any]]:
    """The bodies of the log's invocations, oldest first."""
    page = await m.log.list(limit=1000)
    bodies = [json.loads(record.body) for record in reversed(page.items)]
    return [body for body in bodies if "invocation" in body]


async def ended(m: Mer) -> None:
    """Wait until an invocation has both of its records."""
    end = asyncio.get_running_loop().time() + 20
    while len(await records(m)) < 2:
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.02)


async def finish(m: Mer) -> dict[str, Any]:
    """The newest record, which ends the invocation of the one before it."""
    found = await records(m)
    assert found[-1]["kind"] == "finished"
    assert [body["kind"] for body in found if body["invocation"] == found[-1]["invocation"]] == ["started", "finished"]
    return found[-1]


def rolled(name: str, arrays: list[Any]) -> str:
    """The digest of parts, as docs/access-log.md has it."""
    digest = hashlib.sha256()
    for array in arrays:
        described = {"dtype": str(array.dtype), "name": name, "shape": list(array.shape)}
        digest.update(json.dumps(described, separators=(",", ":")).encode())
        digest.update(array.nbytes.to_bytes(8, "little"))
        digest.update(array.tobytes())
    return digest.hexdigest()


class TestStream:
    async def test_is_on_record_before_the_first_part_and_ends_with_the_last(self, mer):
        stream = mer.stream("model", {"do": "count"})
        first = await anext(stream)
        assert first["y"].tolist() == [0, 0]
        assert [body["kind"] for body in await records(mer)] == ["started"]
        rest = [part["y"].tolist() async for part in stream]
        assert rest == [[1, 1], [2, 2]]
        body = await finish(mer)
        assert (body["outcome"], body["parts"]) == ("succeeded", 3)
        arrays = [np.full(2, number, "float32") for number in range(3)]
        told = {"name": "y", "dtype": "float32", "shape": [2], "bytes": 24, "parts": 3, "sha256": rolled("y", arrays)}
        assert body["outputs"] == [told]
        assert (stream.result.parts, stream.result.outputs, stream.whole) == (3, {}, False)

    async def test_gives_what_the_generator_returned_as_its_last_part(self, mer):
        parts = [part async for part in mer.stream("model", {"do": "ending"})]
        assert parts[1] == {"all": True}
        body = await finish(mer)
        assert body["parts"] == 2
        assert [(output["name"], output["parts"]) for output in body["outputs"]] == [("y", 1), ("all", 1)]

    async def test_of_a_model_that_answers_at_once_is_one_part_with_the_record_of_a_run(self, mer):
        stream = mer.stream("model", {"do": "plain"})
        parts = [part["y"].tolist() async for part in stream]
        assert parts == [[1, 1]]
        assert stream.whole
        streamed = await finish(mer)
        await mer.run("model", {"do": "plain"})
        run = await finish(mer)
        assert streamed["outputs"] == run["outputs"]
        assert "parts" not in streamed

    async def test_that_its_reader_leaves_is_cancelled(self, mer):
        stream = mer.stream("model", {"do": "forever"})
        for _ in range(5):
            await anext(stream)
        await stream.aclose()
        body = await finish(mer)
        assert (body["outcome"], body["parts"], body["reason"]["code"]) == ("cancelled", 5, "interrupted")

    async def test_that_its_reader_forgets_is_cancelled(self, mer):
        async for _ in mer.stream("model", {"do": "forever"}):
            break
        await ended(mer)
        assert (await finish(mer))["outcome"] == "cancelled"

    async def test_that_nobody_reads_on_is_ended_with_the_program(self, tmp_path):
        async with running(tmp_path) as m:
            await register(m, tmp_path, MODEL)
            stream = m.stream("model", {"do": "forever"})
            await anext(stream)
            store = m
        with pytest.raises(WorkerLost):  # what came before is no whole answer
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert (await finish(store))["outcome"] in ("cancelled", "lost")

    async def test_that_fails_says_why(self, mer):
        stream = mer.stream("model", {"do": "failing"})
        await anext(stream)
        with pytest.raises(ModelFailed, match="no more"):
            await anext(stream)
        body = await finish(mer)
        assert (body["outcome"], body["parts"]) == ("failed", 1)

    async def test_that_loses_its_worker_says_so(self, mer):
        stream = mer.stream("model", {"do": "dying"})
        await anext(stream)
        with pytest.raises(WorkerLost):
            await anext(stream)
        assert (await finish(mer))["outcome"] == "lost"

    async def test_that_is_never_read_never_starts(self, mer):
        mer.stream("model", {"do": "count"})
        assert await records(mer) == []

    async def test_a_run_of_such_a_model_says_what_to_do(self, mer):
        with pytest.raises(InputInvalid, match="answers in parts") as caught:
            await mer.run("model", {"do": "count"})
        assert "stream" in (caught.value.hint or "")
        assert (await finish(mer))["outcome"] == "failed"


class TestInputParts:
    async def test_are_made_into_what_the_specs_ask_for_and_are_on_record(self, tmp_path):
        specs = (TensorSpec(name="do", dtype="string", shape=()), TensorSpec(name="v", dtype="float32", shape=("*",)))
        async with running(tmp_path) as m:
            await register(m, tmp_path, MODEL, inputs=specs)
            parts = [part async for part in m.stream("model", {"do": "sums"}, parts=[{"v": [1, 2]}, {"v": [3]}])]
            assert parts == [{"total": 3.0}, {"total": 3.0}]
            body = await finish(m)
            arrays = [np.array([1, 2], "float32"), np.array([3], "float32")]
            assert [given["name"] for given in body["inputs"]] == ["do", "v"]
            assert (body["inputs"][1]["parts"], body["inputs"][1]["sha256"]) == (2, rolled("v", arrays))

    async def test_that_do_not_fit_end_the_run(self, tmp_path):
        specs = (TensorSpec(name="do", dtype="string", shape=()), TensorSpec(name="v", dtype="float32", shape=("*",)))
        async with running(tmp_path) as m:
            await register(m, tmp_path, MODEL, inputs=specs)
            with pytest.raises(InputInvalid, match="'w' is not one"):
                [part async for part in m.stream("model", {"do": "sums"}, parts=[{"v": [1]}, {"w": 1}])]
            assert (await finish(m))["outcome"] == "failed"


class TestSeal:
    async def test_is_started_by_the_seal_and_finished_by_the_run(self, mer):
        sealed = await mer.seal("model", {"x": np.ones(2, "float32")})
        assert [body["kind"] for body in await records(mer)] == ["started"]
        await mer.run("model", {"do": "plain"})  # the worker is not held up
        result = await mer.run(sealed)
        assert result.outputs["staged"].tolist() == [1, 1]
        assert result.invocation == sealed.invocation
        body = await finish(mer)
        assert (body["invocation"], body["outcome"]) == (sealed.invocation, "succeeded")
        assert [given["name"] for given in body["inputs"]] == ["x"]
        with pytest.raises(HandleUnknown):
            await mer.run(sealed)

    async def test_may_be_run_as_a_stream(self, mer):
        sealed = await mer.seal("model", {"x": 5})
        assert [part async for part in mer.stream(sealed)] == [{"staged": 5}]
        assert (await finish(mer))["outcome"] == "succeeded"
        with pytest.raises(HandleUnknown):
            await anext(mer.stream(sealed))

    async def test_that_is_released_is_cancelled(self, mer):
        sealed = await mer.seal("model", {"x": 5})
        assert await mer.release(sealed)
        body = await finish(mer)
        assert (body["outcome"], body["reason"]["message"]) == ("cancelled", "released before it was run")
        with pytest.raises(HandleUnknown):
            await mer.release(sealed)

    async def test_that_waits_for_too_long_has_timed_out(self, mer):
        sealed = await mer.seal("model", {"x": 5}, keep=0.1)
        await ended(mer)
        assert (await finish(mer))["outcome"] == "timed_out"
        with pytest.raises(HandleUnknown):
            await mer.run(sealed)

    async def test_whose_worker_died_is_lost(self, mer):
        sealed = await mer.seal("model", {"x": 5})
        stream = mer.stream("model", {"do": "dying"})
        await anext(stream)
        with pytest.raises(WorkerLost):
            await anext(stream)
        with pytest.raises(HandleUnknown, match="has ended"):
            await mer.run(sealed)
        body = await finish(mer)
        assert (body["invocation"], body["outcome"]) == (sealed.invocation, "lost")

    async def test_that_nobody_ran_ends_with_the_program(self, tmp_path):
        async with running(tmp_path) as m:
            await register(m, tmp_path, MODEL)
            sealed = await m.seal("model", {"x": 5})
        body = await finish(m)
        assert (body["invocation"], body["outcome"]) == (sealed.invocation, "cancelled")

    async def test_keeps_its_worker_from_ending_for_want_of_callers(self, tmp_path):
        async with running(tmp_path, idle_seconds=0.1) as m:
            await register(m, tmp_path, MODEL)
            sealed = await m.seal("model", {"x": 5})
            await asyncio.sleep(0.5)
            assert (await m.run(sealed)).outputs == {"staged": 5}
            await until(lambda: m._executor._pool.workers == 0)

    async def test_of_a_time_that_is_none_is_refused(self, mer):
        with pytest.raises(UsageError, match="seconds"):
            await mer.seal("model", {"x": 5}, keep=-1)
        assert await records(mer) == []


async def test_a_stream_that_its_reader_is_too_slow_for_has_timed_out(mer):
    warm = mer.stream("model", {"do": "forever"})
    await anext(warm)  # the time is for the stream, not for a worker's start
    await warm.aclose()
    stream = mer.stream("model", {"do": "forever"}, timeout=2)
    await anext(stream)
    await asyncio.sleep(2.5)
    with pytest.raises(DeadlineExceeded):
        async for _ in stream:
            pass
    body = await finish(mer)
    assert (body["outcome"], body["parts"] > 1) == ("timed_out", True)
