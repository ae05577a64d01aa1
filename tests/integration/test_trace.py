"""Traces: the steps of an invocation in the driver and in its worker, in Chrome's trace-event form."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mer.core import trace as traces
from mer.core.errors import ContentUnwritable, ModelFailed
from mer.core.specs import Batch
from mer.core.trace import Lane, Trace
from tests.support.running import log_kinds, register, running
from tests.support.typing_in import Terminal, environ_of

SLEEPS = """
    import time

    def load(seconds=0.0):
        time.sleep(0.05)
        def handle(inputs):
            print("in the model")
            time.sleep(0.1)
            if "fail" in inputs:
                raise ValueError("no")
            return {"x": inputs.get("x", 0)}
        return handle
"""


def events(document: bytes) -> list[dict[str, Any]]:
    """Return the events of a trace, each checked against the form, and nested as the form wants it."""
    told = json.loads(document)
    assert set(told) <= {"traceEvents", "displayTimeUnit", "otherData"}
    assert told["displayTimeUnit"] in ("ms", "ns")
    lines: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in told["traceEvents"]:
        assert isinstance(event["name"], str)
        assert all(isinstance(event[key], int) and event[key] >= 0 for key in ("ts", "pid", "tid"))
        match event["ph"]:
            case "X":
                assert isinstance(event["dur"], int)
                assert event["dur"] >= 0
                lines.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
            case "i":
                assert event["s"] in ("t", "p", "g")
            case "M":
                assert event["name"] in ("process_name", "thread_name")
                assert isinstance(event["args"]["name"], str)
            case other:
                raise AssertionError(other)
    for spans in lines.values():
        for begin, end in spans:
            for other_begin, other_end in spans:  # on one line spans are apart, or one within the other
                assert not (begin < other_begin < end < other_end), (begin, end, other_begin, other_end)
    found: list[dict[str, Any]] = told["traceEvents"]
    return found


def one(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [event] = [event for event in found if event["name"] == name]
    return event


def within(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
    return bool(outer["ts"] <= inner["ts"] and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"])


async def test_the_steps_of_an_invocation_stand_in_both_processes(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, SLEEPS)
        trace = Trace()
        await m.run("model", {"x": 1}, trace=trace)
        found = events(trace.document())
        whole = one(found, "invocation")
        for name in ("prepare", "record started", "queue", "worker", "load", "call", "record finished"):
            assert within(one(found, name), whole), name
        call, run = one(found, "call"), one(found, "run")
        assert within(run, call)
        assert 90_000 < run["dur"] < 60_000_000
        assert run["pid"] != os.getpid() == call["pid"]
        assert within(one(found, "load"), one(found, "worker"))
        assert one(found, "load")["dur"] > 40_000
        said = one(found, "log")
        assert said["args"]["text"] == "in the model\n"
        names = {event["args"]["name"] for event in found if event["ph"] == "M"}
        assert names == {"mer", "worker", "model"}


@pytest.mark.parametrize(
    "spec",
    [{"concurrency": 2}, {"batch": Batch(max_size=2)}, {"asynchronous": True}],
    ids=["threads", "batches", "tasks"],
)
@pytest.mark.parametrize("fails", [False, True], ids=["well", "failing"])
async def test_workers_that_have_several_requests_at_once_tell_their_steps(
    tmp_path: Path, spec: dict[str, Any], fails: bool
) -> None:
    source = {
        "concurrency": SLEEPS,
        "batch": """
            import time
            def load():
                def handle(batch):
                    time.sleep(0.1)
                    return [ValueError("no") if "fail" in inputs else {"x": 1} for inputs in batch]
                return handle
        """,
        "asynchronous": """
            import asyncio
            def load():
                async def handle(inputs):
                    await asyncio.sleep(0.1)
                    if "fail" in inputs:
                        raise ValueError("no")
                    return {"x": 1}
                return handle
        """,
    }[next(iter(spec))]
    async with running(tmp_path) as m:
        await register(m, tmp_path, source, **{key: value for key, value in spec.items() if key != "asynchronous"})
        trace = Trace()
        with pytest.raises(ModelFailed) if fails else contextlib.nullcontext():
            await m.run("model", {"fail": 1} if fails else {}, trace=trace)
    found = events(trace.document())
    call, run = one(found, "call"), one(found, "run")
    assert within(run, call)
    assert run["pid"] != os.getpid()
    assert 90_000 < run["dur"] < 60_000_000
    assert one(found, "request on its way")["dur"] < call["dur"] - 90_000  # not guessed to be in the middle


async def test_the_parts_of_a_stream_are_marked_as_they_come(tmp_path: Path) -> None:
    source = """
        import time
        def load():
            def handle(inputs):
                for number in range(3):
                    time.sleep(0.05)
                    yield {"number": number}
                if "fail" in inputs:
                    raise ValueError("no")
            return handle
    """
    async with running(tmp_path) as m:
        await register(m, tmp_path, source)
        for inputs, ending in (({}, contextlib.nullcontext()), ({"fail": 1}, pytest.raises(ModelFailed))):
            trace = Trace()
            with ending:
                async for _ in m.stream("model", inputs, trace=trace):
                    pass
            found = events(trace.document())
            parts, run, call = (
                [event for event in found if event["name"] == "part"],
                one(found, "run"),
                one(found, "call"),
            )
            assert len(parts) == 3
            assert [part["args"]["run_us"] > 40_000 * at for at, part in enumerate(parts, 1)] == [True] * 3
            assert within(run, call)
            assert run["dur"] > 140_000
            assert run["pid"] != os.getpid()


SEALS = """
    import asyncio, time

    class Model:
        def seal(self, inputs):
            print("staged")
            time.sleep(0.05)
            if "fail" in inputs:
                raise ValueError("no")
            return inputs

        def __call__(self, inputs):
            print("run")
            time.sleep(0.05)
            return inputs

    class Tasks(Model):
        async def __call__(self, inputs):
            return super().__call__(inputs)

    class Parts(Model):
        def __call__(self, inputs):
            yield super().__call__(inputs)

    class Batches(Model):
        def __call__(self, batch):
            return [super(Batches, self).__call__(inputs) for inputs in batch]

    def load(kind="Model"):
        return globals()[kind]()
"""


@pytest.mark.parametrize(
    ("kind", "spec"),
    [("Model", {}), ("Model", {"concurrency": 2}), ("Tasks", {}), ("Batches", {"batch": Batch(max_size=2)})],
    ids=["one at a time", "threads", "tasks", "batches"],
)
async def test_a_seal_and_its_run_stand_on_one_line(tmp_path: Path, kind: str, spec: dict[str, Any]) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, SEALS, options={"kind": kind}, **spec)
        trace = Trace()
        result = await m.run(await m.seal("model", {"x": 1}, trace=trace), trace=trace)
        assert result.outputs == {"x": 1}
    found = events(trace.document())
    whole, sealing, staging, run = (one(found, name) for name in ("invocation", "sealing", "seal", "run"))
    for name in ("prepare", "record started", "load"):
        assert within(one(found, name), sealing), name
    calls = [event for event in found if event["name"] == "call"]
    assert [within(inner, outer) for inner, outer in zip((staging, run), calls, strict=True)] == [True, True]
    assert within(calls[0], sealing)
    assert within(calls[1], whole)
    assert within(one(found, "record finished"), whole)
    assert staging["pid"] == run["pid"] != os.getpid()
    assert min(staging["dur"], run["dur"]) > 45_000
    assert len({event["tid"] for event in found if event["ph"] != "M"}) == 1
    assert [event["args"]["text"] for event in found if event["name"] == "log"] == ["staged\n", "run\n"]
    assert len([event for event in found if event["name"] == "queue"]) == 2


async def test_however_a_seal_ends_its_line_does(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    async with running(tmp_path, trace=file) as m:
        await register(m, tmp_path, SEALS)
        await register(m, tmp_path, SEALS, options={"kind": "Parts"}, name="parts")
        with pytest.raises(ModelFailed):
            await m.seal("model", {"fail": 1})
        assert [part async for part in m.stream(await m.seal("parts", {"x": 1}))] == [{"x": 1}]
        await m.release(await m.seal("model", {"x": 2}))
        await m.seal("model", {"x": 3})
        late = Trace()
        await m.run(await m.seal("model", {"x": 4}), trace=late)
    found = events(file.read_bytes())
    assert sum(event["name"] == "invocation" for event in found) == 5
    assert sum(event["name"] == "seal" for event in found) == 5
    assert sum(event["name"] == "run" for event in found) == 2
    assert sum(event["name"] == "part" for event in found) == 1
    alone = events(late.document())
    assert [event["name"] for event in alone if event["name"] in ("seal", "run", "invocation")] == ["run", "invocation"]


async def test_the_run_alone_of_what_was_sealed_may_be_traced(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, SEALS)
        sealed, trace = await m.seal("model", {"x": 1}), Trace()
        await m.run(sealed, trace=trace)
    found = events(trace.document())
    assert within(one(found, "run"), one(found, "invocation"))
    assert one(found, "log")["args"]["text"] == "run\n"


async def test_a_failure_s_time_in_the_model_is_not_counted_as_transfer(tmp_path: Path) -> None:
    source = """
        import time
        def load():
            def handle(inputs):
                if "stream" in inputs:
                    yield {"x": 1}
                time.sleep(0.3)
                raise ValueError("no")
            return handle
    """
    async with running(tmp_path) as m:
        await register(m, tmp_path, SLEEPS.replace("0.1)", "0.3)"))
        await register(m, tmp_path, source, name="parts")
        with pytest.raises(ModelFailed):
            await m.run("model", {"fail": 1})
        with pytest.raises(ModelFailed):
            async for _ in m.stream("parts", {"stream": 1}):
                pass
        async for _ in (stopped := m.stream("parts", {"stream": 1})):
            await asyncio.sleep(0.2)
            break
        await stopped.aclose()
        page = await m.log.list(limit=3 * 2)
        finished = [json.loads(record.body) for record in page.items if record.columns["kind"] == "finished"]
    for record, least in zip(finished, (150_000, 280_000, 280_000), strict=True):
        took = record["timings"]
        assert took["run_us"] > least, record
        assert took["transfer_us"] < took["run_us"], record


async def test_a_failure_is_seen_and_calls_at_once_have_lines_of_their_own(tmp_path: Path) -> None:
    async with running(tmp_path, max_workers=2) as m:
        await register(m, tmp_path, SLEEPS)
        trace = Trace()
        with pytest.raises(ModelFailed):
            await m.run("model", {"fail": 1}, trace=trace)
        await m.run("model", trace=trace)
        found = events(trace.document())
        first, second = (event for event in found if event["name"] == "invocation")
        assert first["args"]["error"] == "ModelFailed"
        ran = [event for event in found if event["name"] == "run"]
        assert len(ran) == 2
        assert all(event["dur"] > 90_000 for event in ran)
        assert "error" not in second["args"]
        assert first["tid"] != second["tid"]


async def test_without_a_trace_nothing_is_asked_of_the_worker(tmp_path: Path) -> None:
    source = "def load():\n    return lambda inputs, context: {'meta': dict(context.meta)}\n"
    async with running(tmp_path) as m:
        await register(m, tmp_path, source)
        assert (await m.run("model")).outputs == {"meta": {}}
        assert (await m.run("model", trace=Trace())).outputs == {"meta": {traces.META: True}}


async def test_a_whole_session_is_traced_by_a_setting(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    async with running(tmp_path, trace=file) as m:
        await register(m, tmp_path, SLEEPS)
        for _ in range(2):
            await m.run("model")
    found = events(file.read_bytes())
    assert sum(event["name"] == "invocation" for event in found) == 2
    assert sum(event["name"] == "load" for event in found) == 1


async def test_a_run_that_has_a_trace_of_its_own_stands_in_the_session_s_too(tmp_path: Path) -> None:
    file, own = tmp_path / "trace.json", Trace()
    async with running(tmp_path, trace=file) as m:
        await register(m, tmp_path, SLEEPS)
        await m.run("model")
        await m.run("model", trace=own)
        async for _ in m.stream("model", trace=own):
            pass
    for found, runs in ((events(file.read_bytes()), 3), (events(own.document()), 2)):
        assert sum(event["name"] == "invocation" for event in found) == runs
        assert sum(event["name"] == "run" for event in found) == runs
        assert len({event["tid"] for event in found if event["ph"] != "M"}) == runs


async def test_a_trace_that_could_not_be_written_is_told_before_the_run(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, SLEEPS)
        before = await log_kinds(m)
        typed = await Terminal(m, environ_of(tmp_path)).type(f"run model --trace {tmp_path}/missing/trace.json")
        assert (typed.code, await log_kinds(m)) == (74, before)
        assert "missing/trace.json cannot be written" in typed.err
    with pytest.raises(ContentUnwritable, match="cannot be written"):
        async with running(tmp_path, trace=tmp_path):
            pass


def test_a_trace_is_bounded_and_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_EVENTS", 5)
    trace = Trace()
    lane = Lane([trace], "x")
    for _ in range(3):
        lane.mark("tick")
    assert "otherData" not in json.loads(trace.document())
    lane.mark("tick")
    told = json.loads(trace.document())
    assert (len(told["traceEvents"]), told["otherData"]) == (5, {"dropped events": 1})


async def test_a_run_writes_its_trace_to_a_file_when_it_fails_too(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, SLEEPS)
        terminal = Terminal(m, environ_of(tmp_path))
        for line, code in ((f"run model --trace {tmp_path}/good.json", 0), ("run model -i fail=1 --trace bad.json", 1)):
            typed = await terminal.type(line.replace("bad.json", f"{tmp_path}/bad.json"))
            assert typed.code == code, typed.err
    assert one(events((tmp_path / "good.json").read_bytes()), "run")
    assert one(events((tmp_path / "bad.json").read_bytes()), "call")["args"]["error"] == "ModelFailed"
