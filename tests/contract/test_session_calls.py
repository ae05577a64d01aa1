"""What a driver's session relies on in any worker, whatever its language and however it hears pings and cancels."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import (
    DeadlineExceeded,
    InputInvalid,
    Interrupted,
    ModelFailed,
    PackageInvalid,
    WorkerLost,
)
from mer.meal.session import Session
from mer_worker.dtypes import NUMERIC
from mer_worker.tensors import Buffer, Strings, encode
from mer_worker.wire import MAX_ERROR_TEXT, MAX_REQUEST_LOG_BYTES
from tests.support.peers import Peer, session
from tests.support.workers import alive, soon, until


class Log(list[tuple[str, str, str]]):
    """Collects (stream, level, text)."""

    def __call__(self, stream: str, level: str, text: bytes) -> None:
        self.append((stream, level, text.decode()))

    def text(self, stream: str) -> str:
        return "".join(text for name, _, text in self if name == stream)


def doing(given: dict[str, Any]) -> Any:
    """Return inputs that tell the handler what to do."""
    return encode({"do": Buffer(json.dumps(given).encode(), "json", ())})


async def do(asked: Session, *, deadline: float | None = None, on_log: Any = None, **given: Any) -> dict[str, Any]:
    return (await asked.infer(doing(given), deadline=deadline, on_log=on_log)).outputs


VALUES: dict[str, Any] = {
    **{
        f"{dtype} of shape {list(shape)}": Buffer(
            bytes(range(1, 1 + count)) * size if dtype != "bool" else bytes(i % 2 for i in range(count)), dtype, shape
        )
        for dtype, size in NUMERIC.items()
        for shape, count in (((), 1), ((2, 3), 6), ((0, 4), 0))
    },
    "text": "häßlich \U0001f600 \ufeff\0",
    "no text": "",
    "texts": ["one", "", "drei ☃"],
    "texts of two dimensions": Strings(["a", "b", "c", "d"], (2, 2)),
    "no texts": Strings([], (0,)),
    "bytes": bytes(range(256)),
    "no bytes": b"",
    "null": None,
    "object": {"a": [1, 2.5, True, None, "x"], "ö": {}},
    "empty list": [],
    "nested": [Buffer(b"abc", "uint8", (3,)), Buffer(b"", "float32", (0,)), Buffer(bytes(8), "int64", ())],
    "nested of one": [Buffer(b"abc", "uint8", (3,))],
}


class TestInference:
    async def test_values_of_every_kind_come_back_as_they_were(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            assert (await asked.infer(encode(VALUES))).outputs == VALUES
            for name, value in VALUES.items():
                assert (await asked.infer(encode({name: value}))).outputs == {name: value}

    async def test_no_inputs_and_no_outputs_are_a_call_too(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            assert (await asked.infer(encode({}))).outputs == {}

    async def test_names_may_be_whatever_a_text_can_be(self, peer: Peer, tmp_path: Path) -> None:
        values = {name: Buffer(b"\1", "uint8", ()) for name in ("__proto__", "constructor", "a b", "é" * 128, "0", "-")}
        async with session(peer, tmp_path) as asked:
            assert (await asked.infer(encode(values))).outputs == values

    async def test_a_large_tensor_crosses_whole_both_ways(self, peer: Peer, tmp_path: Path) -> None:
        large = os.urandom(5 << 20)
        async with session(peer, tmp_path) as asked:
            outputs = (await asked.infer(encode({"x": Buffer(large, "uint8", (len(large),)), "b": large}))).outputs
            assert bytes(outputs["x"].data) == large
            assert outputs["b"] == large

    async def test_calls_at_once_each_get_their_own_answer(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            replies = await asyncio.gather(*(asked.infer(encode({"x": str(i)})) for i in range(100)))
            assert [reply.outputs for reply in replies] == [{"x": str(i)} for i in range(100)]

    async def test_the_run_time_is_told_and_the_meta_arrives(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            reply = await asked.infer(doing({"sleep": 0.2}))
            assert 150_000 < reply.run_us < 20_000_000
            meta = {"headers": {"x": "ä"}, "status": 200}
            assert (await asked.infer(doing({"meta": 1}), meta=meta)).outputs == {"meta": meta}


class TestFailures:
    async def test_what_the_handler_raises_comes_with_its_traceback_and_the_worker_goes_on(
        self, peer: Peer, tmp_path: Path
    ) -> None:
        async with session(peer, tmp_path) as asked:
            with pytest.raises(ModelFailed, match="no such luck") as caught:
                await do(asked, fail="no such luck")
            assert caught.value.traceback is not None
            assert "inner" in caught.value.traceback
            assert "worker" not in caught.value.traceback.replace(str(tmp_path), "")
            assert await do(asked) == {}

    async def test_how_long_the_model_ran_before_it_failed_or_was_stopped_is_told(
        self, peer: Peer, tmp_path: Path
    ) -> None:
        async with session(peer, tmp_path) as asked:
            with pytest.raises(ModelFailed) as failed:
                await do(asked, sleep=0.2, fail="no")
            assert 150_000 < failed.value.run_us < 20_000_000
            with pytest.raises(DeadlineExceeded) as late:
                await do(asked, sleep=30, deadline=soon(0.2))
            assert 100_000 < late.value.run_us < 20_000_000

    async def test_a_long_message_is_cut_at_its_cap(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            with pytest.raises(ModelFailed, match="characters left out") as caught:
                await do(asked, fail="ö" * 200_000)
            assert len(caught.value.message) < 1.1 * MAX_ERROR_TEXT

    @pytest.mark.parametrize("wrong", ["nothing", "list", "unsendable", "nan"])
    async def test_an_output_without_a_form_is_a_failure_of_the_model(
        self, peer: Peer, tmp_path: Path, wrong: str
    ) -> None:
        async with session(peer, tmp_path) as asked:
            with pytest.raises(ModelFailed):
                await do(asked, wrong=wrong)
            assert await do(asked) == {}

    async def test_a_killed_worker_is_lost_to_every_call(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            calls = [asyncio.ensure_future(do(asked, sleep=60)) for _ in range(3)]
            await asyncio.sleep(0.1)
            os.kill(asked.hello["pid"], signal.SIGKILL)
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, WorkerLost) for result in results), results


class TestLoading:
    async def test_what_loading_raises_comes_with_its_traceback(self, peer: Peer, tmp_path: Path) -> None:
        with pytest.raises(ModelFailed, match="not today") as caught:
            async with session(peer, tmp_path, fail="not today"):
                pass
        assert caught.value.traceback is not None
        assert "inner" in caught.value.traceback

    @pytest.mark.parametrize("source", ["x = 1", "", "syntax error ("])
    async def test_a_module_without_a_handler_cannot_be_loaded(self, peer: Peer, tmp_path: Path, source: str) -> None:
        with pytest.raises((PackageInvalid, ModelFailed)):
            async with session(peer, tmp_path, source=source or "\n"):
                pass


class TestLogs:
    async def test_prints_belong_to_the_request_that_caused_them_and_come_before_its_result(
        self, peer: Peer, tmp_path: Path
    ) -> None:
        async with session(peer, tmp_path) as asked:
            one, two = Log(), Log()
            await asyncio.gather(
                do(asked, on_log=one, print="from one", complain="oh"), do(asked, on_log=two, print="from two")
            )
            await asyncio.sleep(0)
            assert (one.text("stdout"), one.text("stderr")) == ("from one\n", "oh\n")
            assert (two.text("stdout"), two.text("stderr")) == ("from two\n", "")

    async def test_prints_while_loading_are_the_loads_own(self, peer: Peer, tmp_path: Path) -> None:
        log = Log()
        async with session(peer, tmp_path, say="loading", on_log=log):
            await asyncio.sleep(0)
            assert "loading\n" in log.text("stdout")

    async def test_a_flood_is_cut_and_says_how_much_it_lost(self, peer: Peer, tmp_path: Path) -> None:
        log = Log()
        async with session(peer, tmp_path) as asked:
            await do(asked, on_log=log, flood=3000)
            await asyncio.sleep(0)
            assert len(log.text("stdout")) == MAX_REQUEST_LOG_BYTES
            assert f"{3000 * 1024 - MAX_REQUEST_LOG_BYTES} bytes dropped" in log.text("stderr")
            after = Log()
            await do(asked, on_log=after, print="again")
            await asyncio.sleep(0)
            assert after.text("stdout") == "again\n"


class TestStopping:
    async def test_a_cancelled_call_ends_at_once_and_the_worker_goes_on(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            began = time.monotonic()
            call = asyncio.ensure_future(do(asked, sleep=60))
            await asyncio.sleep(0.2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await do(asked) == {}
            assert asked.lost is None
            assert time.monotonic() - began < 30

    async def test_a_cancel_by_somebody_else_ends_the_call_with_its_outcome(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            call = asyncio.ensure_future(do(asked, sleep=60))
            await asyncio.sleep(0.2)
            asked.cancel(2)  # 1 was the load
            with pytest.raises(Interrupted):
                await call
            assert await do(asked) == {}

    async def test_a_request_that_waits_is_cancelled_before_it_begins(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            log = Log()
            first = asyncio.ensure_future(do(asked, sleep=0.7))
            second = asyncio.ensure_future(do(asked, on_log=log, print="I ran"))
            await asyncio.sleep(0.2)
            asked.cancel(3)
            with pytest.raises(Interrupted):
                await second
            assert await first == {}
            assert log == []

    async def test_a_cancel_that_comes_too_late_is_nothing(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            assert await do(asked) == {}
            asked.cancel(2)
            asked.cancel(1)
            assert await do(asked) == {}

    async def test_a_deadline_stops_the_call_and_not_the_worker(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            with pytest.raises(DeadlineExceeded):
                await do(asked, deadline=soon(0.3), sleep=60)
            assert await do(asked, deadline=soon(20)) == {}
            assert asked.lost is None


class TestTheEnd:
    async def test_a_ping_is_answered_idle_and_busy(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            assert await asked.ping(seconds=20) < 20
            call = asyncio.ensure_future(do(asked, sleep=1))
            await asyncio.sleep(0.2)
            await asked.ping(seconds=20)
            assert not call.done()
            assert await call == {}

    async def test_a_worker_that_is_shut_down_goes_by_itself(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            pid = asked.hello["pid"]
            assert await asked.close(grace=20) == 0
            assert not alive(pid)

    async def test_a_worker_whose_input_ends_while_it_computes_goes(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            call = asyncio.ensure_future(do(asked, sleep=1))
            await asyncio.sleep(0.2)
            pid = asked.hello["pid"]
            closing = asyncio.ensure_future(asked._stream.close(20))
            await until(lambda: not alive(pid))
            assert await closing in (0, 1, -signal.SIGKILL)  # the last where it ends its whole process group
            [outcome] = await asyncio.gather(call, return_exceptions=True)
            assert outcome == {} or isinstance(outcome, WorkerLost)

    async def test_an_input_beyond_a_cap_is_refused_before_it_is_sent(self, peer: Peer, tmp_path: Path) -> None:
        async with session(peer, tmp_path) as asked:
            with pytest.raises(InputInvalid, match="meta"):
                await asked.infer(encode({}), meta={"x": "y" * 17_000})
            assert await do(asked) == {}


async def test_a_worker_that_traces_tells_its_steps_by_its_clock(peer: Peer, tmp_path: Path) -> None:
    async with session(peer, tmp_path) as asked:
        if "trace" not in asked.hello["capabilities"]:
            pytest.skip("this worker does not trace")
        reply = await asked.infer(doing({"sleep": 0.1}), meta={"mer.trace": True})
        steps = {name: (begin, end) for name, begin, end in reply.meta["mer.trace"]}
        began, ended = steps["run"]
        assert 90_000 < ended - began < 20_000_000
        ahead = await asked.clock(seconds=20)
        assert ahead is not None
        assert began <= ended <= time.monotonic_ns() // 1000 + ahead + 1_000_000


async def test_the_steps_of_a_failure_are_told_too(peer: Peer, tmp_path: Path) -> None:
    async with session(peer, tmp_path) as asked:
        if "trace" not in asked.hello["capabilities"]:
            pytest.skip("this worker does not trace")
        with pytest.raises(ModelFailed) as failed:
            await asked.infer(doing({"sleep": 0.2, "fail": "no"}), meta={"mer.trace": True})
        [[name, began, ended]] = failed.value.meta["mer.trace"]
        assert name == "run"
        assert 150_000 < ended - began < 20_000_000
