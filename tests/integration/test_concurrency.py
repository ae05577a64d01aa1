"""Several requests at once in one worker, in threads and as tasks: answers, prints, cancels, and what does not stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import DeadlineExceeded, ModelFailed, WorkerLost
from mer.meal import ladder
from mer.meal.library import load_unpacked
from mer.meal.session import Session
from mer_worker.tensors import Buffer, encode
from tests.support.workers import handler_folder, session_with, soon, until

THREADS = """
    import logging, threading, time
    MEET = threading.Barrier(4, timeout=10)
    def load():
        def handle(inputs, context):
            do = inputs.get("do", "")
            if do == "meet":
                MEET.wait()
            if do == "print":
                for number in range(5):
                    print(inputs["word"], number, end=" ")
                    time.sleep(0.005)
                    print("end")
                logging.getLogger("model").warning(inputs["word"])
            if do == "loop":
                while True:
                    time.sleep(0.001)
            if do == "look":
                while not context.cancelled:
                    try:
                        time.sleep(0.001)
                    except BaseException:
                        pass
                return {"saw": True}
            if do == "blocked":
                threading.Event().wait(inputs["seconds"])
            if do == "raise":
                raise ValueError("no")
            if do == "exit":
                raise SystemExit(3)
            return {"thread": threading.current_thread().name, **inputs}
        return handle
"""

TASKS = """
    import asyncio, threading, time
    waiting = None
    def load():
        class Handler:
            async def __call__(self, inputs, context):
                global waiting
                do = inputs.get("do", "")
                if do == "meet":
                    waiting = waiting or asyncio.Event()
                    if inputs["last"]:
                        waiting.set()
                    await asyncio.wait_for(waiting.wait(), 10)
                if do == "print":
                    for number in range(5):
                        print(inputs["word"], number, end=" ")
                        await asyncio.sleep(0.005)
                        print("end")
                    await asyncio.to_thread(print, inputs["word"], "in a thread")
                if do == "loop":
                    await asyncio.sleep(60)
                if do == "busy":
                    while True:
                        pass
                if do == "raise":
                    raise ValueError("no")
                if do == "exit":
                    raise SystemExit(3)
                if do == "list":
                    return [1]
                return {"thread": threading.current_thread().name, **inputs}
        return Handler()
"""

WAYS = pytest.mark.parametrize("source", [THREADS, TASKS], ids=["threads", "tasks"])


async def ask(session: Session, **inputs: Any) -> dict[str, Any]:
    return (await session.infer(encode(inputs))).outputs


def heard(texts: dict[str, bytes], name: str) -> Callable[[str, str, bytes], None]:
    def listen(_stream: str, _level: str, text: bytes) -> None:
        texts[name] = texts.get(name, b"") + text

    return listen


async def test_threads_run_requests_at_the_same_time(tmp_path: Path) -> None:
    async with session_with(tmp_path, THREADS, concurrency=4) as session:
        answers = await asyncio.gather(*(ask(session, do="meet", n=n) for n in range(4)))
        assert [answer["n"] for answer in answers] == [0, 1, 2, 3]
        assert len({answer["thread"] for answer in answers}) == 4
        assert "MainThread" not in {answer["thread"] for answer in answers}


async def test_tasks_run_at_the_same_time_in_the_main_thread(tmp_path: Path) -> None:
    async with session_with(tmp_path, TASKS, concurrency=4) as session:
        answers = await asyncio.gather(*(ask(session, do="meet", n=n, last=n == 3) for n in range(4)))
        assert [answer["n"] for answer in answers] == [0, 1, 2, 3]
        assert {answer["thread"] for answer in answers} == {"MainThread"}


@WAYS
async def test_more_requests_than_slots_are_all_answered(tmp_path: Path, source: str) -> None:
    async with session_with(tmp_path, source, concurrency=2) as session:
        answers = await asyncio.gather(*(ask(session, n=n) for n in range(50)))
        assert [answer["n"] for answer in answers] == list(range(50))


@WAYS
async def test_large_tensors_of_several_requests_come_back_to_their_callers(tmp_path: Path, source: str) -> None:
    async with session_with(tmp_path, source, concurrency=4) as session:

        async def call(number: int) -> None:
            data = bytes([number]) * (2 << 20)
            answer = await ask(session, x=Buffer(data, "uint8", (2 << 20,)))
            assert bytes(answer["x"].data) == data

        for _ in range(3):
            await asyncio.gather(*(call(number) for number in range(6)))


async def test_an_async_handler_without_concurrency_takes_one_at_a_time(tmp_path: Path) -> None:
    async with session_with(tmp_path, TASKS) as session:
        answers = await asyncio.gather(*(ask(session, n=n) for n in range(5)))
        assert [answer["n"] for answer in answers] == list(range(5))


@WAYS
async def test_each_request_has_its_own_prints(tmp_path: Path, source: str) -> None:
    texts: dict[str, bytes] = {}
    words = [f"word{number}" for number in range(4)]
    async with session_with(tmp_path, source, concurrency=4) as session:
        await asyncio.gather(
            *(session.infer(encode({"do": "print", "word": word}), on_log=heard(texts, word)) for word in words)
        )
        await asyncio.sleep(0)
    for word in words:
        lines = b"".join(b"%s %d end\n" % (word.encode(), number) for number in range(5))
        assert texts[word].startswith(lines)
        last = b"model: " + word.encode() if source is THREADS else word.encode() + b" in a thread"
        assert texts[word][len(lines) :] == last + b"\n"


@WAYS
@pytest.mark.parametrize(("do", "why"), [("raise", "ValueError: no"), ("exit", "sys.exit")])
async def test_an_error_is_that_of_its_request(tmp_path: Path, source: str, do: str, why: str) -> None:
    async with session_with(tmp_path, source, concurrency=4) as session:
        results = await asyncio.gather(ask(session, do=do), ask(session, n=1), return_exceptions=True)
        assert isinstance(results[0], ModelFailed)
        assert why in results[0].message
        assert results[1]["n"] == 1  # type: ignore[index]


async def test_an_async_handler_that_gives_no_dict_is_told_so(tmp_path: Path) -> None:
    async with session_with(tmp_path, TASKS) as session:
        with pytest.raises(ModelFailed, match="returns a dict"):
            await ask(session, do="list")


@WAYS
async def test_a_cancel_stops_its_request_alone(tmp_path: Path, source: str) -> None:
    async with session_with(tmp_path, source, concurrency=4) as session:
        calls = [asyncio.ensure_future(ask(session, do="loop")) for _ in range(3)]
        await until(lambda: session.busy == 3)
        await asyncio.sleep(0.05)
        began = time.monotonic()
        calls[1].cancel()
        await until(lambda: session.busy == 2)
        assert time.monotonic() - began < ladder.STEP * ladder.CANCELS
        assert (await ask(session, n=1))["n"] == 1
        for call in calls:
            call.cancel()
        await session.settled()
        assert session.lost is None


@WAYS
async def test_a_request_that_waits_for_a_slot_is_cancelled_at_once(tmp_path: Path, source: str) -> None:
    async with session_with(tmp_path, source, concurrency=2) as session:
        running = [asyncio.ensure_future(ask(session, do="loop")) for _ in range(2)]
        await asyncio.sleep(0.1)
        with pytest.raises(DeadlineExceeded, match="stopped"):
            await session.infer(encode({"do": "loop"}), deadline=soon(0.1))
        await until(lambda: session.busy == 2)
        for call in running:
            call.cancel()
        await session.settled()
        assert session.lost is None


async def test_a_handler_in_a_thread_may_look_whether_it_is_cancelled(tmp_path: Path) -> None:
    async with session_with(tmp_path, THREADS, concurrency=2) as session:
        call = asyncio.ensure_future(ask(session, do="look"))
        await asyncio.sleep(0.1)
        call.cancel()
        await session.settled()
        assert session.lost is None


async def test_an_async_handler_that_does_not_await_is_interrupted_by_the_second_cancel(tmp_path: Path) -> None:
    async with session_with(tmp_path, TASKS, concurrency=2) as session:
        with pytest.raises(DeadlineExceeded, match="it was stopped"):
            await session.infer(encode({"do": "busy"}), deadline=soon(0.1))
        assert session.lost is None
        assert (await ask(session, n=1))["n"] == 1


async def test_a_thread_that_does_not_stop_costs_its_worker_but_not_the_others(tmp_path: Path) -> None:
    async with session_with(tmp_path, THREADS, concurrency=4) as session:
        other = asyncio.ensure_future(ask(session, do="blocked", seconds=2.0, n=1))
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="its worker was ended"):
            await session.infer(encode({"do": "blocked", "seconds": 60}), deadline=soon(0.1))
        assert session.lost is not None  # it gets no further request
        with pytest.raises(WorkerLost, match="did not let itself be stopped"):
            await ask(session, n=2)
        assert (await other)["n"] == 1
        assert time.monotonic() - began < ladder.OTHERS


async def test_others_that_run_for_longer_are_lost_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "OTHERS", 0.2)
    async with session_with(tmp_path, THREADS, concurrency=4) as session:
        other = asyncio.ensure_future(ask(session, do="blocked", seconds=60))
        with pytest.raises(DeadlineExceeded):
            await session.infer(encode({"do": "blocked", "seconds": 60}), deadline=soon(0.1))
        with pytest.raises(WorkerLost, match="did not let itself be stopped"):
            await other


async def test_a_request_behind_another_one_is_no_reason_to_end_the_worker(tmp_path: Path) -> None:
    source = """
        import time
        def load():
            def handle(inputs):
                time.sleep(inputs["seconds"])
                return inputs
            return handle
    """
    async with session_with(tmp_path, source) as session:
        first = asyncio.ensure_future(ask(session, seconds=2.0))
        await asyncio.sleep(0.05)
        with pytest.raises(DeadlineExceeded, match="before this one"):
            await session.infer(encode({"seconds": 0}), deadline=soon(0.1))
        assert await first == {"seconds": 2.0}
        assert await ask(session, seconds=0) == {"seconds": 0}
        assert session.lost is None


@WAYS
async def test_a_pong_tells_of_every_request(tmp_path: Path, source: str) -> None:
    async with session_with(tmp_path, source, concurrency=4) as session:
        calls = [asyncio.ensure_future(ask(session, do="loop")) for _ in range(3)]
        await asyncio.sleep(0.2)
        pulse = await session.pulse()
        assert len(pulse.running) == 3
        assert all(running.seconds > 0.05 for running in pulse.running)
        assert pulse.running[0].seconds >= pulse.running[-1].seconds
        for call in calls:
            call.cancel()
        await session.settled()
        assert (await session.pulse()).running == ()


async def test_an_async_handler_works_in_the_callers_process(tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model", TASKS)
    async with await load_unpacked(folder, entry="handler:load", in_process=True) as model:
        assert (await model.infer({"n": 1}))["n"] == 1
        with pytest.raises(ModelFailed, match="no"):
            await model.infer({"do": "raise"})


@WAYS
async def test_closing_ends_what_runs(tmp_path: Path, source: str) -> None:
    async with session_with(tmp_path, source, concurrency=4) as session:
        calls = [asyncio.ensure_future(ask(session, do="loop")) for _ in range(3)]
        await asyncio.sleep(0.1)
        await session.close()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, WorkerLost) for result in results)
