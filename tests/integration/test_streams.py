"""Answers that come in parts, and inputs that do, through a real worker."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import DeadlineExceeded, InputInvalid, ModelFailed, WorkerLost
from mer.core.running import Batch
from mer.meal.library import load_unpacked
from mer.meal.loaded import LoadedModel, WorkerModel
from mer.meal.streams import PartStream, inference
from mer_worker.conversation import MOST_SET_ASIDE
from mer_worker.credit import WINDOW_BYTES, WINDOW_PARTS, credit_frame
from mer_worker.tensors import Buffer, encode
from mer_worker.wire import Flag, Frame, Kind
from tests.support.parts import all_of, input_parts_wait_for_a_slow_handler, numbers
from tests.support.peers import PEERS, bare
from tests.support.workers import handler_folder, session_with, until

DOES = """
    import os, time
    from mer_worker.tensors import Buffer

    made = 0

    def load():
        return lambda inputs, context: globals()[inputs.pop("do")](context=context, **inputs)

    def count(context, to, then=None):
        global made
        try:
            for number in range(to):
                made = number + 1
                yield {"number": number}
            return then
        finally:
            print("closed", flush=True)

    def large(context, parts, size):
        global made
        for made in range(1, parts + 1):
            yield {"x": Buffer(bytes(size), "uint8", (size,))}

    def how_many(context):
        return {"made": made}

    def plain(context):
        return {"one": 1}

    def nothing(context):
        return {}

    def slow(context):
        try:
            yield {"first": True}
            time.sleep(60)
        finally:
            print("closed", flush=True)

    def stubborn(context):
        while True:
            try:
                yield {"still": True}
            except BaseException:
                pass

    def raising(context, at):
        yield from ({"number": number} for number in range(at))
        raise ValueError("no more")

    def wrong(context):
        yield {"number": 0}
        yield 1

    def wrong_end(context):
        yield {"number": 0}
        return 1

    def dying(context):
        yield {"number": 0}
        os._exit(3)

    def squares(context):
        total = 0
        for part in context.parts():
            total += part["x"]
            yield {"square": part["x"] ** 2}
        return {"total": total}

    def sums(context):
        return {"total": sum(part["x"] for part in context.parts())}

    def some(context, of):
        for part, _ in zip(context.parts(), range(of)):
            yield part

    def weigh(context, pause):
        for part in context.parts():
            time.sleep(pause)
            yield {"bytes": len(part["x"].data)}

    def catching(context):
        try:
            for part in context.parts():
                pass
        except BaseException as error:
            yield {"caught": type(error).__name__}

    async def asynchronous(context):
        yield {"first": True}

    def iterator(context, to):
        return iter([{"number": number} for number in range(to)])
"""


@pytest.fixture(params=["control", "in-band"])
async def model(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[WorkerModel]:
    folder = handler_folder(tmp_path / "model", DOES)
    host = next(peer for peer in PEERS if peer.name == request.param).host(tmp_path)
    async with await load_unpacked(folder, entry="handler:load", arrays="buffer", host=host) as loaded:
        assert isinstance(loaded, WorkerModel)
        yield loaded


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[LoadedModel]:
    folder = handler_folder(tmp_path / "model", DOES)
    async with await load_unpacked(folder, entry="handler:load", arrays="buffer", in_process=True) as loaded:
        yield loaded


class TestParts:
    @pytest.mark.parametrize("count", [0, 1, WINDOW_PARTS, WINDOW_PARTS + 1, 3000])
    async def test_come_in_order_and_end(self, model, count):
        assert await all_of(model, {"do": "count", "to": count}) == numbers(count)

    async def test_what_a_generator_returns_is_the_last_part(self, model):
        assert await all_of(model, {"do": "count", "to": 2, "then": {"all": 2}}) == numbers(2, all=2)

    async def test_of_a_handler_that_does_not_yield_are_one(self, model):
        assert await all_of(model, {"do": "plain"}) == [{"one": 1}]

    async def test_of_a_handler_that_has_no_outputs_are_none(self, model):
        assert await all_of(model, {"do": "nothing"}) == []

    async def test_may_come_from_any_iterator(self, model):
        assert await all_of(model, {"do": "iterator", "to": 3}) == numbers(3)

    async def test_come_as_they_are_made(self, model):
        stream = model.stream({"do": "slow"})
        assert await anext(stream) == {"first": True}
        await stream.aclose()

    async def test_before_an_error_are_read_before_it(self, model):
        stream = model.stream({"do": "raising", "at": 3})
        assert [await anext(stream) for _ in range(3)] == numbers(3)
        with pytest.raises(ModelFailed, match="no more") as caught:
            await anext(stream)
        assert "raise ValueError" in (caught.value.traceback or "")
        assert await all_of(model, {"do": "plain"}) == [{"one": 1}]

    @pytest.mark.parametrize("does", ["wrong", "wrong_end"])
    async def test_are_dicts(self, model, does):
        stream = model.stream({"do": does})
        assert await anext(stream) == {"number": 0}
        with pytest.raises(ModelFailed, match="dict of outputs, not int"):
            await anext(stream)

    async def test_of_an_async_generator_are_refused(self, model):
        with pytest.raises(ModelFailed, match="async generator is itself `async def`"):
            await all_of(model, {"do": "asynchronous"})

    async def test_end_with_their_worker(self, model):
        stream = model.stream({"do": "dying"})
        assert await anext(stream) == {"number": 0}
        with pytest.raises(WorkerLost, match="status 3"):
            await anext(stream)
        assert await all_of(model, {"do": "plain"}) == [{"one": 1}]  # by another one

    async def test_end_with_their_deadline(self, model):
        stream = model.stream({"do": "slow"}, timeout=1)
        assert await anext(stream) == {"first": True}
        with pytest.raises(DeadlineExceeded):
            await anext(stream)

    async def test_a_call_of_such_a_handler_says_what_to_do(self, model):
        with pytest.raises(InputInvalid, match="answers in parts") as caught:
            await model.infer({"do": "count", "to": 3})
        assert "stream" in (caught.value.hint or "")

    async def test_two_streams_and_a_call_are_served_one_after_the_other(self, model):
        first, second = model.stream({"do": "count", "to": 600}), model.stream({"do": "count", "to": 600})
        assert await anext(first) == {"number": 0}
        other = asyncio.create_task(anext(second))
        call = asyncio.create_task(model.infer({"do": "plain"}))
        await asyncio.sleep(0.1)  # both have been sent: the first one's credit comes behind them
        assert [part async for part in first] == numbers(600)[1:]
        assert await other == {"number": 0}
        assert [part async for part in second] == numbers(600)[1:]
        assert await call == {"one": 1}


class TestSlowReaders:
    async def test_stop_the_model(self, model):
        stream = model.stream({"do": "count", "to": 10_000})
        await anext(stream)
        await asyncio.sleep(0.3)
        await stream.aclose()
        made = (await model.infer({"do": "how_many"}))["made"]
        assert 1 < made <= WINDOW_PARTS + 1

    async def test_hold_no_more_than_the_window_in_memory(self, model):
        size = 8 << 20
        before = resident()
        stream = model.stream({"do": "large", "parts": 100, "size": size})
        await anext(stream)
        await asyncio.sleep(0.5)
        grown = resident() - before
        await stream.aclose()
        made = (await model.infer({"do": "how_many"}))["made"]
        assert 2 * size < made * size <= WINDOW_BYTES + 3 * size
        assert grown < WINDOW_BYTES + 4 * size

    async def test_get_all_of_large_parts_in_the_end(self, model):
        count = 0
        async for part in model.stream({"do": "large", "parts": 20, "size": 8 << 20}):
            count += len(part["x"].data) == 8 << 20
        assert count == 20


class TestEndingEarly:
    async def test_closes_the_generator(self, model):
        said: list[bytes] = []
        stream = model.stream({"do": "count", "to": 10**9}, on_log=lambda _s, _l, text: said.append(text))
        await anext(stream)
        await stream.aclose()
        await until(lambda: b"".join(said) == b"closed\n")
        assert model.session.busy == 0
        assert await model.infer({"do": "plain"}) == {"one": 1}

    async def test_interrupts_the_handler(self, model):
        said: list[bytes] = []
        stream = model.stream({"do": "slow"}, on_log=lambda _s, _l, text: said.append(text))
        await anext(stream)
        began = time.monotonic()
        pid = model.session.hello["pid"]
        await stream.aclose()
        assert time.monotonic() - began < 5
        await until(lambda: b"".join(said) == b"closed\n")
        assert await model.infer({"do": "plain"}) == {"one": 1}
        assert model.session.hello["pid"] == pid

    async def test_by_a_cancelled_reader_is_the_same(self, model):
        said: list[bytes] = []

        async def read() -> None:
            async for _ in model.stream({"do": "slow"}, on_log=lambda _s, _l, text: said.append(text)):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: b"".join(said) == b"closed\n")

    async def test_by_letting_go_of_it_is_the_same(self, model):
        said: list[bytes] = []
        async for _ in model.stream({"do": "slow"}, on_log=lambda _s, _l, text: said.append(text)):
            break
        gc.collect()
        await until(lambda: b"".join(said) == b"closed\n")
        await until(lambda: model.session.busy == 0)

    async def test_ends_the_worker_of_a_generator_that_does_not_end(self, model):
        stream = model.stream({"do": "stubborn"})
        await anext(stream)
        await stream.aclose()
        await until(lambda: model.session.busy == 0)
        assert await model.infer({"do": "plain"}) == {"one": 1}


class TestInputParts:
    @pytest.mark.parametrize("count", [0, 1, WINDOW_PARTS, WINDOW_PARTS + 1, 2000])
    async def test_reach_the_handler_in_order(self, model, count):
        parts = await all_of(model, {"do": "squares"}, parts=({"x": x} for x in range(count)))
        assert parts == [{"square": x * x} for x in range(count)] + [{"total": sum(range(count))}]

    async def test_may_come_from_an_async_iterable(self, model):
        async def given() -> AsyncIterator[dict[str, Any]]:
            for x in range(3):
                await asyncio.sleep(0.01)
                yield {"x": x}

        assert (await all_of(model, {"do": "squares"}, parts=given()))[-1] == {"total": 3}

    async def test_are_answered_one_by_one(self, model):
        ask: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def given() -> AsyncIterator[dict[str, Any]]:
            while True:
                yield await ask.get()

        stream = model.stream({"do": "squares"}, parts=given())
        for x in range(3):
            ask.put_nowait({"x": x})
            assert await anext(stream) == {"square": x * x}
        await stream.aclose()

    async def test_may_be_for_a_handler_that_does_not_yield(self, model):
        assert await all_of(model, {"do": "sums"}, parts=[{"x": 1}, {"x": 2}]) == [{"total": 3}]

    async def test_that_nobody_wants_are_not_asked_for(self, model):
        taken = 0

        def given() -> Iterator[dict[str, Any]]:
            nonlocal taken
            while True:
                taken += 1
                yield {"x": taken}

        assert await all_of(model, {"do": "plain"}, parts=given()) == [{"one": 1}]
        assert taken <= 1
        assert await all_of(model, {"do": "some", "of": 2}, parts=given()) == [{"x": 2}, {"x": 3}]
        assert taken <= 2 * WINDOW_PARTS + 2
        assert await all_of(model, {"do": "plain"}) == [{"one": 1}]

    async def test_wait_for_a_slow_handler(self, model):
        await input_parts_wait_for_a_slow_handler(model)

    async def test_that_cannot_be_sent_end_the_request(self, model):
        with pytest.raises(InputInvalid, match="input part"):
            await all_of(model, {"do": "squares"}, parts=[{"x": 1}, {"x": object()}])
        assert await model.infer({"do": "plain"}) == {"one": 1}

    async def test_whose_iterable_raises_raise_that(self, model):
        def given() -> Iterator[dict[str, Any]]:
            yield {"x": 1}
            raise LookupError("gone")

        with pytest.raises(LookupError, match="gone"):
            await all_of(model, {"do": "squares"}, parts=given())

    async def test_are_none_for_a_call_that_has_none(self, model):
        assert await model.infer({"do": "sums"}) == {"total": 0}

    async def test_that_a_handler_waits_for_can_be_cancelled(self, model):
        forever: asyncio.Event = asyncio.Event()

        async def given() -> AsyncIterator[dict[str, Any]]:
            yield {"x": 2}
            await forever.wait()

        stream = model.stream({"do": "squares"}, parts=given())
        assert await anext(stream) == {"square": 4}
        pid = model.session.hello["pid"]
        await stream.aclose()
        assert await model.infer({"do": "plain"}) == {"one": 1}
        assert model.session.hello["pid"] == pid


class TestOthersMeanwhile:
    async def test_what_waits_behind_a_stream_is_bounded(self, tmp_path):
        peer = PEERS[0]
        async with bare(peer, tmp_path) as worker:
            raw = bytearray(
                b"".join(bytes(piece) for piece in encode({"do": Buffer(b'{"parts":2}', "json", ())}).message(3, 2))
            )
            raw[1] |= Flag.STREAM
            worker.say(bytes(raw))
            plain = encode({"x": "text"})
            worker.say(*(b"".join(bytes(p) for p in plain.message(3, 3 + n)) for n in range(MOST_SET_ASIDE + 1)))
            refused = await worker.next()
            assert isinstance(refused, Frame)
            assert (refused.request, refused.fields()["code"]) == (3 + MOST_SET_ASIDE, "queue-full")
            worker.say(credit_frame(2, 8, 1 << 20))
            kinds = [(await worker.next()).kind for _ in range(3)]
            assert kinds == [Kind.PART, Kind.PART, Kind.RESULT]
            for n in range(MOST_SET_ASIDE):
                answered = await worker.next()
                assert (answered.kind, answered.request) == (Kind.RESULT, 3 + n)

    async def test_a_model_that_is_closed_ends_at_once(self, tmp_path):
        folder = handler_folder(tmp_path / "model", DOES)
        host = PEERS[0].host(tmp_path)
        model = await load_unpacked(folder, entry="handler:load", arrays="buffer", host=host)
        stream = model.stream({"do": "count", "to": 10**9})
        await anext(stream)
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await model.aclose()
        assert time.monotonic() - began < 3
        with pytest.raises(WorkerLost):
            async for _ in stream:
                pass


class TestInThisProcess:
    async def test_parts_are_the_same(self, here):
        assert await all_of(here, {"do": "count", "to": 2, "then": {"all": 2}}) == numbers(2, all=2)
        assert await all_of(here, {"do": "plain"}) == [{"one": 1}]
        assert (await all_of(here, {"do": "squares"}, parts=[{"x": 2}])) == [{"square": 4}, {"total": 2}]

    async def test_errors_are_the_same(self, here):
        with pytest.raises(ModelFailed, match="no more"):
            await all_of(here, {"do": "raising", "at": 1})
        with pytest.raises(InputInvalid, match="answers in parts"):
            await here.infer({"do": "count", "to": 1})

    async def test_an_early_end_closes_the_generator(self, here, capsys):
        stream = here.stream({"do": "count", "to": 9})
        await anext(stream)
        await stream.aclose()
        assert capsys.readouterr().out == "closed\n"


def resident() -> int:
    """Bytes of this process's memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError


class TestBatches:
    """A handler of batches has no generator for each of its requests."""

    async def test_are_answered_as_a_whole_and_take_nothing_in_parts(self, tmp_path):
        source = "def load():\n    return lambda given: given\n"
        async with session_with(tmp_path, source, batch=Batch(max_size=2)) as session:
            encoded = encode({"x": "a"})

            async def parts() -> AsyncIterator[Any]:
                yield encoded

            async def read(**given: Any) -> list[dict[str, Any]]:
                stream = await PartStream.open(session, await inference(session, encoded), **given)
                try:
                    return [reply.outputs async for reply in stream]
                finally:
                    await stream.aclose()

            assert await read() == [{"x": "a"}]
            with pytest.raises(InputInvalid, match="takes batches"):
                await read(parts=parts())
            assert await read() == [{"x": "a"}]
