"""Traces: the steps of an invocation in the driver and in its worker, in Chrome's trace-event form."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mer.core import trace as traces
from mer.core.errors import ModelFailed
from mer.core.trace import Trace
from tests.support.running import register, running
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


def test_a_trace_is_bounded_and_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_EVENTS", 5)
    trace = Trace()
    lane = trace.lane("x")
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
