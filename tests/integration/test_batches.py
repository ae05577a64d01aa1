"""Batches: what waits together goes together, a lone request waits for nobody, one bad item fails alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import DeadlineExceeded, InputInvalid, ModelFailed, PackageInvalid, WorkerLost
from mer.core.specs import Batch, Limits
from mer.execution import walls
from mer.meal.library import load_unpacked
from mer.meal.loaded import LoadedModel, WorkerModel
from mer.meal.session import Session
from mer_worker.tensors import Buffer, encode
from tests.support.running import register, running
from tests.support.workers import handler_folder, local_host, session_with, soon, until

SOURCE = """
    import time
    calls = 0
    def load():
        def handle(batch, context):
            global calls
            calls += 1
            print("a batch of", len(batch), [one.request for one in context] == sorted(one.request for one in context))
            for inputs in batch:
                end = time.monotonic() + inputs.get("seconds", 0)
                while time.monotonic() < end:
                    time.sleep(0.005)
            if any(inputs.get("bad") == "raise" for inputs in batch):
                raise ValueError("all of it")
            if any(inputs.get("bad") == "short" for inputs in batch):
                return []
            if any(inputs.get("bad") == "number" for inputs in batch):
                return 7
            outputs = []
            for inputs in batch:
                bad = inputs.get("bad")
                if bad == "item":
                    outputs.append(KeyError("this one"))
                elif bad == "unsendable":
                    outputs.append({"x": object()})
                elif bad == "no dict":
                    outputs.append(3)
                else:
                    outputs.append({**inputs, "of": len(batch), "calls": calls})
            return outputs
        return handle
"""


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    async with session_with(tmp_path, SOURCE, batch=Batch(max_size=4)) as session:
        yield session


async def ask(session: Session, **inputs: Any) -> dict[str, Any]:
    return (await session.infer(encode(inputs))).outputs


async def test_what_waits_together_goes_together_up_to_the_size(session: Session) -> None:
    answers = await asyncio.gather(*(ask(session, n=n) for n in range(10)))
    assert [answer["n"] for answer in answers] == list(range(10))
    assert [answer["of"] for answer in answers] == [4] * 8 + [2] * 2
    assert answers[-1]["calls"] == 3


async def test_callers_that_come_again_meet_in_the_next_batch(session: Session) -> None:
    async def caller() -> None:
        for _ in range(20):
            await ask(session, n=1)

    await asyncio.gather(*(caller() for _ in range(4)))
    assert (await ask(session, n=1))["calls"] <= 20 + 4


async def test_a_lone_request_pays_no_delay(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, batch=Batch(max_size=4, max_delay_ms=30_000)) as session:
        began = time.monotonic()
        for _ in range(3):
            assert (await ask(session, n=1))["of"] == 1
        assert time.monotonic() - began < 10


async def test_two_wait_for_a_third_as_long_as_the_version_says(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, batch=Batch(max_size=4, max_delay_ms=400)) as session:
        began = time.monotonic()
        first = [asyncio.ensure_future(ask(session, n=n)) for n in range(2)]
        await asyncio.sleep(0.05)
        third = await ask(session, n=2)
        assert third["of"] == 3
        assert time.monotonic() - began >= 0.4
        await asyncio.gather(*first)


async def test_a_full_batch_does_not_wait(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, batch=Batch(max_size=2, max_delay_ms=30_000)) as session:
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*(ask(session, n=n) for n in range(2)))
        assert [answer["of"] for answer in answers] == [2, 2]


@pytest.mark.parametrize(
    ("bad", "why"), [("item", "this one"), ("unsendable", "output"), ("no dict", "dict"), ("raise", "all of it")]
)
async def test_one_bad_item_fails_alone(session: Session, bad: str, why: str) -> None:
    asked = (ask(session, n=n, **({"bad": bad} if n == 1 else {})) for n in range(4))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[1], ModelFailed)
    assert why in answers[1].message
    assert [answers[n]["n"] for n in (0, 2, 3)] == [0, 2, 3]  # type: ignore[index]


@pytest.mark.parametrize(("bad", "why"), [("short", "a list of 4 outputs, not 0"), ("number", "not int")])
async def test_an_answer_that_is_no_list_of_as_many_is_told_to_all(session: Session, bad: str, why: str) -> None:
    asked = (ask(session, n=n, **({"bad": bad} if n == 1 else {})) for n in range(4))
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, ModelFailed)
        assert why in answer.message


async def test_inputs_that_cannot_be_sent_are_their_callers_error_alone(tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model", SOURCE)
    host = local_host(tmp_path)
    async with await load_unpacked(folder, entry="handler:load", host=host, batch=Batch()) as model:
        answers = await asyncio.gather(
            *(model.infer({"n": object() if n == 1 else n}) for n in range(3)), return_exceptions=True
        )
    assert isinstance(answers[1], InputInvalid)
    assert [answers[n]["n"] for n in (0, 2)] == [0, 2]  # type: ignore[index]


async def test_inputs_that_raise_as_they_are_read_are_their_callers_error_alone(tmp_path: Path) -> None:
    class Text(str):
        def encode(self, *_given: str) -> bytes:
            raise RuntimeError("it cannot be read")

    folder = handler_folder(tmp_path / "model", SOURCE)
    opening = load_unpacked(folder, entry="handler:load", host=local_host(tmp_path), batch=Batch())
    async with asyncio.timeout(20), await opening as model:
        bad, good = (asyncio.ensure_future(model.infer({"x": value})) for value in (Text("a"), "b"))
        with pytest.raises(RuntimeError, match="cannot be read"):
            await bad
        assert (await good)["x"] == "b"
        assert (await model.infer({"x": "again"}))["x"] == "again"


async def test_a_deadline_of_one_item_leaves_the_others(session: Session) -> None:
    late = session.infer(encode({"n": 0, "seconds": 1.0}), deadline=soon(0.2))
    answers = await asyncio.gather(late, ask(session, n=1), ask(session, n=2), return_exceptions=True)
    assert isinstance(answers[0], DeadlineExceeded)
    assert [answers[n]["n"] for n in (1, 2)] == [1, 2]
    assert session.lost is None


async def test_when_every_item_is_cancelled_the_handler_is_interrupted(session: Session) -> None:
    calls = [asyncio.ensure_future(ask(session, n=n, seconds=30)) for n in range(3)]
    await until(lambda: session.busy == 3)
    await asyncio.sleep(0.1)
    for call in calls:
        call.cancel()
    async with asyncio.timeout(10):
        await session.settled()
    assert session.lost is None
    assert (await ask(session, n=1))["n"] == 1


async def test_what_waits_and_is_cancelled_is_never_sent(session: Session) -> None:
    first = asyncio.ensure_future(ask(session, n=0, seconds=0.5))
    await asyncio.sleep(0.1)
    waits = [asyncio.ensure_future(ask(session, n=n)) for n in (1, 2)]
    await asyncio.sleep(0)
    waits[0].cancel()
    assert (await first)["n"] == 0
    assert (await waits[1])["of"] == 1


async def test_what_waits_past_its_deadline_is_told_then(session: Session) -> None:
    first = asyncio.ensure_future(ask(session, n=0, seconds=1.0))
    await asyncio.sleep(0.1)
    with pytest.raises(DeadlineExceeded, match="before this one"):
        await session.infer(encode({"n": 1}), deadline=soon(0.1))
    assert not first.done()
    assert (await first)["n"] == 0


async def test_a_worker_that_dies_fails_the_batch_and_what_waits(session: Session) -> None:
    calls = [asyncio.ensure_future(ask(session, n=n, seconds=30)) for n in range(6)]
    await until(lambda: session.busy == 6)
    await asyncio.sleep(0.1)
    await session.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, WorkerLost) for result in results)


@pytest.fixture(params=["buffer", "numpy"])
async def model(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LoadedModel]:
    source = "def load():\n    return lambda batch: [{**inputs} for inputs in batch]\n"
    folder = handler_folder(tmp_path / "model", source)
    host = local_host(tmp_path)
    batch = Batch(max_size=8)
    async with await load_unpacked(
        folder, entry="handler:load", arrays=request.param, host=host, batch=batch
    ) as loaded:
        yield loaded


async def test_values_of_any_form_and_size_come_back_in_their_places(model: LoadedModel) -> None:
    """Small arrays and lists of texts go by the shortest way; the others, and mixtures, by the general one."""
    forms: list[dict[str, Any]] = []
    for n in range(48):
        match n % 6:
            case 0 | 1:
                forms.append({"x": Buffer(bytes([n]) * 64, "uint8", (64,))})
            case 2:
                forms.append({"words": [f"word {n}", "é"]})
            case 3:
                forms.append({"x": Buffer(bytes([n]) * (2 << 20), "uint8", (2 << 20,))})
            case 4:
                forms.append({"a": n, "b": [n, None]})
            case _:
                forms.append({"x": Buffer(bytes([n]) * 64, "uint8", (64,)), "n": n})
    for _ in range(2):  # the second time heads have names
        answers = await asyncio.gather(*(model.infer(inputs) for inputs in forms))
        for inputs, answer in zip(forms, answers, strict=True):
            assert answer.keys() == inputs.keys()
            for name, value in inputs.items():
                got = answer[name]
                same = bytes(got.data) == bytes(value.data) if isinstance(value, Buffer) else got == value
                assert same, name


async def test_a_lost_worker_is_replaced_by_the_next_call(model: LoadedModel) -> None:
    assert isinstance(model, WorkerModel)
    await model.session.close()
    answers = await asyncio.gather(*(model.infer({"n": n}) for n in range(3)))
    assert [answer["n"] for answer in answers] == [0, 1, 2]


async def test_a_coroutine_function_takes_no_batches(tmp_path: Path) -> None:
    source = "def load():\n    async def handle(batch):\n        return batch\n    return handle\n"
    with pytest.raises(PackageInvalid, match="no coroutine function"):
        async with session_with(tmp_path, source, batch=Batch()):
            pass


async def test_an_item_that_runs_by_itself_is_cancelled_by_itself(tmp_path: Path) -> None:
    source = """
        import time
        def load():
            def handle(batch):
                if len(batch) > 1:
                    raise ValueError("one at a time")
                end = time.monotonic() + batch[0]["seconds"]
                while time.monotonic() < end:
                    time.sleep(0.005)
                return [batch[0]]
            return handle
    """
    async with session_with(tmp_path, source, batch=Batch(max_size=3)) as session:
        first, long, last = (asyncio.ensure_future(ask(session, seconds=seconds)) for seconds in (0, 60, 0))
        await asyncio.sleep(0.5)
        long.cancel()
        async with asyncio.timeout(10):
            assert (await first)["seconds"] == (await last)["seconds"] == 0
        assert session.lost is None


async def test_the_batch_before_is_not_counted_to_the_wall_time_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
        import time
        def load():
            def handle(batch):
                time.sleep(1.5)
                return batch
            return handle
    """
    monkeypatch.setattr(walls, "BACKSTOP", 0.5)
    async with running(tmp_path) as m:
        await register(m, tmp_path, source, batch=Batch(max_size=1), limits=Limits(wall_seconds=2.0))
        await m.run("model", {})
        results = await asyncio.gather(*(m.run("model", {"number": number}) for number in range(2)))
        assert [result.outputs["number"] for result in results] == [0, 1]
