"""Answers and inputs in parts where a worker has several requests at once: in threads, and as tasks of its loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import InputInvalid, ModelFailed
from mer.meal.library import load_unpacked
from mer.meal.loaded import WorkerModel
from mer_worker.credit import WINDOW_BYTES, WINDOW_PARTS
from tests.support.parts import all_of, heard, input_parts_wait_for_a_slow_handler, numbers
from tests.support.peers import PEERS
from tests.support.workers import handler_folder, until

THREADS = """
    import threading, time
    from mer_worker.tensors import Buffer

    made = {}

    def load():
        return lambda inputs, context: globals()[inputs.pop("do")](context=context, **inputs)

    def count(context, name, to, pause=0.0):
        try:
            for number in range(to):
                made[name] = number + 1
                print(name, number, end="")
                if pause:
                    time.sleep(pause)
                print(" end")
                yield {"number": number}
        finally:
            print("closed")

    def large(context, parts, size):
        for made["large"] in range(1, parts + 1):
            yield {"x": Buffer(bytes(size), "uint8", (size,))}

    def how_many(context, name):
        return {"made": made.get(name, 0)}

    def never(context):
        try:
            while True:
                time.sleep(0.01)
            yield {}
        finally:
            print("closed")

    def stubborn(context):
        while True:
            try:
                yield {"still": True}
            except BaseException:
                pass

    def raising(context):
        yield {"number": 0}
        raise ValueError("no more")

    def wrong(context):
        yield {"number": 0}
        yield 1

    def squares(context):
        try:
            for part in context.parts():
                yield {"square": part["x"] ** 2}
        finally:
            print("closed")

    def marking(context, file, to):
        try:
            yield from ({"number": number} for number in range(to))
            for part in context.parts():
                pass
        finally:
            open(file, "w").close()

    def sums(context):
        return {"total": sum(part["x"] for part in context.parts())}

    def weigh(context, pause):
        for part in context.parts():
            time.sleep(pause)
            yield {"bytes": len(part["x"].data)}
"""

TASKS = """
    import asyncio, time
    from mer_worker.tensors import Buffer

    made = {}

    def load():
        async def handle(inputs, context):
            given = globals()[inputs.pop("do")](context=context, **inputs)
            return given if hasattr(given, "__anext__") else await given
        return handle

    async def count(context, name, to, pause=0.0):
        try:
            for number in range(to):
                made[name] = number + 1
                print(name, number, end="")
                if pause:
                    await asyncio.sleep(pause)
                print(" end")
                yield {"number": number}
        finally:
            await asyncio.sleep(0)
            print("closed")

    async def large(context, parts, size):
        for made["large"] in range(1, parts + 1):
            yield {"x": Buffer(bytes(size), "uint8", (size,))}

    async def how_many(context, name):
        return {"made": made.get(name, 0)}

    async def never(context):
        try:
            await asyncio.Event().wait()
            yield {}
        finally:
            print("closed")

    async def busy(context):
        try:
            while True:
                pass
            yield {}
        finally:
            print("closed")

    async def lingering(context):
        try:
            yield {"first": True}
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    async def stubborn(context):
        while True:
            try:
                yield {"still": True}
            except BaseException:
                pass

    async def raising(context):
        yield {"number": 0}
        raise ValueError("no more")

    async def wrong(context):
        yield {"number": 0}
        yield 1

    async def squares(context):
        try:
            async for part in context.parts():
                yield {"square": part["x"] ** 2}
        finally:
            print("closed")

    async def marking(context, file, to):
        try:
            for number in range(to):
                yield {"number": number}
            async for part in context.parts():
                pass
        finally:
            await asyncio.sleep(0)
            open(file, "w").close()

    async def sums(context):
        return {"total": sum([part["x"] async for part in context.parts()])}

    async def weigh(context, pause):
        async for part in context.parts():
            await asyncio.sleep(pause)
            yield {"bytes": len(part["x"].data)}
"""

GENERATOR = """
    def load():
        async def tokens(inputs):
            for number in range(inputs["to"]):
                yield {"number": number}
        return tokens
"""

SOURCES = {"threads": THREADS, "tasks": TASKS}


@pytest.fixture(params=["threads", "tasks"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def model(tmp_path: Path, way: str) -> AsyncIterator[WorkerModel]:
    folder = handler_folder(tmp_path / "model", SOURCES[way])
    peer = "in-band" if way == "tasks" else "control"  # threads read in the main thread, tasks beside it: each with one
    host = next(peer_ for peer_ in PEERS if peer_.name == peer).host(tmp_path)
    async with await load_unpacked(folder, entry="handler:load", arrays="buffer", host=host, concurrency=8) as loaded:
        assert isinstance(loaded, WorkerModel)
        yield loaded


class TestParts:
    @pytest.mark.parametrize("count", [0, 1, WINDOW_PARTS, 1000])
    async def test_come_in_order_and_end(self, model, count):
        assert await all_of(model, {"do": "count", "name": "a", "to": count}) == numbers(count)

    async def test_of_eight_requests_come_to_their_readers_with_their_prints(self, model):
        said: list[list[bytes]] = [[] for _ in range(8)]

        async def read(at: int) -> list[dict[str, Any]]:
            asked = {"do": "count", "name": f"m{at}", "to": 20, "pause": 0.002}
            return await all_of(model, asked, on_log=heard(said[at]))

        assert await asyncio.gather(*(read(at) for at in range(8))) == [numbers(20)] * 8
        for at, texts in enumerate(said):
            lines = [b"m%d %d end\n" % (at, number) for number in range(20)]
            assert b"".join(texts) == b"".join((*lines, b"closed\n"))

    async def test_of_a_handler_that_does_not_yield_are_one(self, model):
        assert await all_of(model, {"do": "how_many", "name": "x"}) == [{"made": 0}]

    async def test_before_an_error_are_read_before_it(self, model):
        stream = model.stream({"do": "raising"})
        assert await anext(stream) == {"number": 0}
        with pytest.raises(ModelFailed, match="no more") as caught:
            await anext(stream)
        assert "raise ValueError" in (caught.value.traceback or "")

    async def test_are_dicts(self, model):
        stream = model.stream({"do": "wrong"})
        assert await anext(stream) == {"number": 0}
        with pytest.raises(ModelFailed, match="dict of outputs, not int"):
            await anext(stream)

    async def test_are_not_given_to_a_call(self, model):
        with pytest.raises(InputInvalid, match="answers in parts"):
            await model.infer({"do": "count", "name": "a", "to": 1})


class TestSlowReaders:
    async def test_stop_their_own_generator_alone(self, model):
        slow = model.stream({"do": "count", "name": "slow", "to": 10_000})
        await anext(slow)
        fast = [{"do": "count", "name": f"m{at}", "to": 3 * WINDOW_PARTS} for at in range(7)]
        assert await asyncio.gather(*(all_of(model, inputs) for inputs in fast)) == [numbers(3 * WINDOW_PARTS)] * 7
        assert 1 < (await model.infer({"do": "how_many", "name": "slow"}))["made"] <= WINDOW_PARTS + 1
        for number in range(1, 2 * WINDOW_PARTS):
            assert await anext(slow) == {"number": number}
        await slow.aclose()

    async def test_hold_no_more_than_the_window(self, model):
        size = 8 << 20
        stream = model.stream({"do": "large", "parts": 100, "size": size})
        await anext(stream)
        await asyncio.sleep(0.5)
        made = (await model.infer({"do": "how_many", "name": "large"}))["made"]
        assert 2 * size < made * size <= WINDOW_BYTES + 3 * size
        await stream.aclose()

    async def test_do_not_keep_credit_behind_requests_that_wait(self, model):
        """Eight streams hold every place, and more requests wait than are read ahead: the credit comes behind them."""
        streams = [model.stream({"do": "count", "name": f"s{at}", "to": 3 * WINDOW_PARTS}) for at in range(8)]
        for stream in streams:
            assert await anext(stream) == {"number": 0}
        waiting = [asyncio.create_task(model.infer({"do": "how_many", "name": "s0"})) for _ in range(30)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(30):  # it would wait for ever
            for stream in streams:
                assert [part async for part in stream] == numbers(3 * WINDOW_PARTS)[1:]
            assert all(answer["made"] for answer in await asyncio.gather(*waiting))


class TestEndingEarly:
    async def test_closes_the_generator_and_no_other(self, model):
        said: list[bytes] = []
        other = model.stream({"do": "count", "name": "other", "to": 600})
        stream = model.stream({"do": "count", "name": "a", "to": 10**9}, on_log=heard(said))
        assert await anext(other) == await anext(stream) == {"number": 0}
        await stream.aclose()
        await until(lambda: b"".join(said).endswith(b"closed\n"))
        assert [part async for part in other] == numbers(600)[1:]

    async def test_while_it_waits_for_its_reader_closes_it(self, model):
        said: list[bytes] = []
        stream = model.stream({"do": "count", "name": "a", "to": 10**9}, on_log=heard(said))
        await anext(stream)
        await asyncio.sleep(0.3)  # it has no credit any more
        pid = model.session.hello["pid"]
        await stream.aclose()
        await until(lambda: b"".join(said).endswith(b"closed\n"))
        assert (await model.infer({"do": "how_many", "name": "a"}))["made"] <= WINDOW_PARTS + 1
        assert model.session.hello["pid"] == pid

    async def test_reaches_a_generator_that_never_yields(self, model):
        said: list[bytes] = []
        reading = asyncio.create_task(all_of(model, {"do": "never"}, on_log=heard(said)))
        await asyncio.sleep(0.2)
        pid = model.session.hello["pid"]
        reading.cancel()
        await asyncio.wait((reading,))
        await until(lambda: b"".join(said) == b"closed\n")
        assert model.session.busy == 0
        await model.infer({"do": "how_many", "name": "a"})
        assert model.session.hello["pid"] == pid

    async def test_ends_the_worker_of_a_generator_that_does_not_end(self, model):
        stream = model.stream({"do": "stubborn"})
        await anext(stream)
        await stream.aclose()
        assert await model.infer({"do": "how_many", "name": "a"}) == {"made": 0}

    async def test_by_the_end_of_the_conversation_closes_all(self, model, tmp_path):
        marks = [tmp_path / "for credit", tmp_path / "for a part"]
        streams = [
            model.stream({"do": "marking", "file": str(marks[0]), "to": 10**9}),
            model.stream({"do": "marking", "file": str(marks[1]), "to": 1}, parts=waits([])),
        ]
        for stream in streams:
            await anext(stream)
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await model.session.close()
        assert time.monotonic() - began < 5
        assert all(mark.exists() for mark in marks)
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize("way", ["tasks"])
class TestTasks:
    async def test_a_generator_that_does_not_await_is_interrupted_by_the_second_cancel(self, model):
        said: list[bytes] = []
        reading = asyncio.create_task(all_of(model, {"do": "busy"}, on_log=heard(said)))
        await asyncio.sleep(0.2)
        pid = model.session.hello["pid"]
        reading.cancel()
        await asyncio.wait((reading,))
        await until(lambda: b"".join(said) == b"closed\n")
        await model.infer({"do": "how_many", "name": "a"})
        assert model.session.hello["pid"] == pid

    async def test_a_finally_that_does_not_end_is_cancelled_by_the_second_cancel(self, model):
        stream = model.stream({"do": "lingering"})
        await anext(stream)
        pid = model.session.hello["pid"]
        await stream.aclose()
        await model.infer({"do": "how_many", "name": "a"})
        assert model.session.hello["pid"] == pid

    async def test_a_generator_that_never_waits_leaves_the_others_their_turns(self, model):
        async def read_for_ever() -> None:
            async for _ in model.stream({"do": "count", "name": "a", "to": 10**9}):
                pass

        reading = asyncio.create_task(read_for_ever())
        await asyncio.sleep(0.2)
        for _ in range(5):
            await asyncio.wait_for(model.infer({"do": "how_many", "name": "a"}), 10)
        reading.cancel()
        await asyncio.wait((reading,))

    async def test_a_cancelled_stream_ends_by_its_first_cancel_however_fast_its_reader_is(self, model):
        stream = model.stream({"do": "count", "name": "a", "to": 10**9})
        for _ in range(2 * WINDOW_PARTS):
            await anext(stream)
        pid = model.session.hello["pid"]
        await stream.aclose()
        assert model.session.busy == 0
        await model.infer({"do": "how_many", "name": "a"})
        assert model.session.hello["pid"] == pid


async def waits(given: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """Give these, and then wait for ever."""
    for part in given:
        yield part
    await asyncio.Event().wait()


class TestInputParts:
    @pytest.mark.parametrize("count", [0, 1, WINDOW_PARTS, 1000])
    async def test_reach_the_handler_in_order(self, model, count):
        parts = await all_of(model, {"do": "squares"}, parts=({"x": x} for x in range(count)))
        assert parts == [{"square": x * x} for x in range(count)]

    async def test_of_eight_requests_reach_theirs(self, model):
        async def read(at: int) -> list[dict[str, Any]]:
            return await all_of(model, {"do": "squares"}, parts=({"x": at} for _ in range(300)))

        answers = await asyncio.gather(*(read(at) for at in range(8)))
        assert answers == [[{"square": at * at}] * 300 for at in range(8)]

    async def test_may_be_for_a_handler_that_does_not_yield(self, model):
        assert await all_of(model, {"do": "sums"}, parts=[{"x": 1}, {"x": 2}]) == [{"total": 3}]
        assert await model.infer({"do": "sums"}) == {"total": 0}

    async def test_wait_for_a_slow_handler(self, model):
        await input_parts_wait_for_a_slow_handler(model)

    async def test_that_one_waits_for_stop_nobody_else_and_can_be_cancelled(self, model):
        said: list[bytes] = []
        stream = model.stream({"do": "squares"}, parts=waits([{"x": 2}]), on_log=heard(said))
        assert await anext(stream) == {"square": 4}
        assert await all_of(model, {"do": "count", "name": "a", "to": 600}) == numbers(600)
        pid = model.session.hello["pid"]
        await stream.aclose()
        await until(lambda: b"".join(said) == b"closed\n")
        await model.infer({"do": "how_many", "name": "a"})
        assert model.session.hello["pid"] == pid


@pytest.mark.parametrize("in_process", [False, True], ids=["worker", "in-process"])
class TestAnAsyncGenerator:
    async def test_is_a_handler(self, tmp_path, in_process):
        folder = handler_folder(tmp_path / "model", GENERATOR)
        async with await load_unpacked(folder, entry="handler:load", in_process=in_process) as model:
            assert await all_of(model, {"to": 3}) == numbers(3)
            with pytest.raises(InputInvalid, match="answers in parts"):
                await model.infer({"to": 3})

    async def test_streams_takes_parts_fails_and_is_closed(self, tmp_path, in_process, capsys):
        folder = handler_folder(tmp_path / "model", TASKS)
        said: list[bytes] = []
        async with await load_unpacked(
            folder, entry="handler:load", arrays="buffer", in_process=in_process, on_log=heard(said)
        ) as model:
            assert await all_of(model, {"do": "squares"}, parts=[{"x": 3}, {"x": 4}]) == [{"square": 9}, {"square": 16}]
            assert await all_of(model, {"do": "sums"}, parts=[{"x": 3}, {"x": 4}]) == [{"total": 7}]
            with pytest.raises(InputInvalid, match="object cannot be sent"):
                await all_of(model, {"do": "squares"}, parts=[{"x": 3}, {"x": object()}])
            with pytest.raises(ModelFailed, match="no more"):
                await all_of(model, {"do": "raising"})
            capsys.readouterr()
            stream = model.stream({"do": "count", "name": "a", "to": 9}, on_log=heard(said))
            assert await anext(stream) == {"number": 0}
            await stream.aclose()
            await until(lambda: b"closed" in b"".join(said) or "closed" in capsys.readouterr().out)
