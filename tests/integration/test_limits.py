"""Limits of a version, held by the worker: each is named by the error and by the record, and nothing goes on after it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mer.core.errors import ConfigurationError, LimitExceeded, ModelFailed, RunTooLong, WorkerLost
from mer.core.specs import Command, Limits
from mer.meal.library import load_unpacked
from mer.meal.session import Session
from mer.meal.starting import start_once
from mer_worker.tensors import encode
from tests.support.peers import PEERS
from tests.support.running import register, running
from tests.support.workers import alive, local_host, session_with, soon, until

SOURCE = """
    import os, subprocess, sys, threading, time
    KEPT = []
    def load():
        def handle(inputs):
            do = inputs.get("do", "")
            if do == "sleep":
                time.sleep(60)
            if do == "stubborn":
                while True:
                    try:
                        time.sleep(60)
                    except BaseException:
                        pass
            if do == "spin":
                while True:
                    pass
            if do == "spin in C":
                sum(range(10**12))
            if do == "spin in a child":
                subprocess.run([sys.executable, "-c", "while True: pass"])
            if do == "ask for much":
                bytearray(1 << 40)
            if do == "grow":
                while True:
                    KEPT.append(bytearray(os.urandom(1 << 20)))
            if do == "grow in a child":
                code = "import time; kept = b'x' * (120 << 20); print(1, flush=True); time.sleep(60)"
                child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
                child.stdout.readline()
                time.sleep(60)
            if do == "open":
                while True:
                    KEPT.append(open(os.devnull))
            if do == "close":
                KEPT.clear()
            if do == "start":
                for _ in range(inputs["number"]):
                    KEPT.append(subprocess.Popen(["sleep", "600"]))
                time.sleep(inputs["seconds"])
            if do == "print":
                print("x" * 99)
                print("y" * 99)
            return {"pid": os.getpid(), "children": [child.pid for child in KEPT if hasattr(child, "pid")]}
        return handle
"""


async def ask(session: Session, **inputs: Any) -> dict[str, Any]:
    return (await session.infer(encode(inputs))).outputs


async def refused(session: Session, **inputs: Any) -> LimitExceeded | RunTooLong:
    """Return the error of a request that goes beyond a limit."""
    async with asyncio.timeout(30):
        with pytest.raises((LimitExceeded, RunTooLong)) as caught:
            await ask(session, **inputs)
    error = caught.value
    assert isinstance(error, LimitExceeded | RunTooLong)
    assert error.hint
    return error


async def test_a_run_that_takes_too_long_is_interrupted_and_the_worker_lives(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, limits=Limits(wall_seconds=0.3)) as session:
        error = await refused(session, do="sleep")
        assert (error.code, error.exit_code) == ("limit:wall", 124)
        assert "0.3 s" in error.message
        assert (await ask(session))["pid"]


async def test_a_run_that_does_not_let_itself_be_interrupted_ends_its_worker(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, limits=Limits(wall_seconds=0.3)) as session:
        pid = (await ask(session))["pid"]
        error = await refused(session, do="stubborn")
        assert error.code == "limit:wall"
        assert "did not let itself be stopped" in error.message
        await until(lambda: not alive(pid))


async def test_wall_time_is_held_while_the_driver_is_silent(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, limits=Limits(wall_seconds=0.3)) as session:
        pid = (await ask(session))["pid"]
        call = asyncio.ensure_future(ask(session, do="stubborn"))
        await asyncio.sleep(0.05)
        end = time.monotonic() + 20
        while alive(pid) and time.monotonic() < end:
            time.sleep(0.05)  # noqa: ASYNC251 - the driver's loop stands still, and so is as good as silent
        assert not alive(pid)
        with pytest.raises(RunTooLong):
            await call


@pytest.mark.parametrize("do", ["spin", "spin in a child"])
async def test_cpu_time_beyond_its_limit_is_named(tmp_path: Path, do: str) -> None:
    async with session_with(tmp_path, SOURCE, limits=Limits(cpu_seconds=0.3)) as session:
        assert (await refused(session, do=do)).code == "limit:cpu"
        assert (await ask(session))["pid"]


async def test_cpu_time_in_c_code_that_keeps_the_lock_is_ended_by_the_kernel_and_named(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, limits=Limits(cpu_seconds=0.2)) as session:
        assert (await refused(session, do="spin in C")).code == "limit:cpu"
        assert session.lost is not None


async def test_time_between_requests_does_not_count(tmp_path: Path) -> None:
    limits = Limits(wall_seconds=0.5, cpu_seconds=0.5)
    async with session_with(tmp_path, SOURCE, limits=limits) as session:
        for _ in range(3):
            assert (await ask(session))["pid"]
            await asyncio.sleep(0.3)


async def test_memory_that_is_asked_for_at_once_is_refused_and_the_worker_lives(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, limits=Limits(memory_bytes=256 << 20)) as session:
        error = await refused(session, do="ask for much")
        assert error.code == "limit:memory"
        assert isinstance(error, LimitExceeded)
        assert "bytearray" in (error.traceback or "")
        assert (await ask(session))["pid"]


@pytest.mark.parametrize("do", ["grow", "grow in a child"])
async def test_memory_that_grows_beyond_its_limit_ends_the_worker_with_all_that_it_started(
    tmp_path: Path, do: str
) -> None:
    async with session_with(tmp_path, SOURCE, limits=Limits(memory_bytes=100 << 20)) as session:
        pid = (await ask(session))["pid"]
        error = await refused(session, do=do)
        assert (error.code, error.exit_code) == ("limit:memory", 1)
        await until(lambda: not alive(pid))


async def test_the_limit_of_open_files_is_named_and_the_worker_lives(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, limits=Limits(open_files=48)) as session:
        error = await refused(session, do="open")
        assert error.code == "limit:open-files"
        assert isinstance(error, LimitExceeded)
        assert "open(os.devnull)" in (error.traceback or "")
        assert (await ask(session, do="close"))["pid"]


async def test_as_many_processes_as_the_limit_are_allowed_and_one_more_is_not(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, limits=Limits(processes=3)) as session:
        answer = await ask(session, do="start", number=3, seconds=0.5)
        error = await refused(session, do="start", number=1, seconds=60)
        assert error.code == "limit:processes"
        await until(lambda: not any(map(alive, [answer["pid"], *answer["children"]])))


async def test_prints_beyond_their_limit_are_dropped_and_counted(tmp_path: Path) -> None:
    texts: list[bytes] = []
    async with session_with(tmp_path, SOURCE, limits=Limits(log_bytes=150)) as session:
        await session.infer(encode({"do": "print"}), on_log=lambda _stream, _level, text: texts.append(text))
        await asyncio.sleep(0)
    printed = b"".join(texts)
    assert printed.startswith(b"x" * 99 + b"\n" + b"y" * 50)
    assert b"50 bytes dropped" in printed


async def test_a_limit_is_held_while_the_model_loads(tmp_path: Path) -> None:
    source = "kept = [bytes(1) for _ in range(1)]\nx = bytearray(1 << 40)\ndef load():\n    return dict\n"
    with pytest.raises(LimitExceeded) as caught:
        async with session_with(tmp_path, source, limits=Limits(memory_bytes=256 << 20)):
            pass
    assert caught.value.code == "limit:memory"


@pytest.mark.parametrize(
    ("concurrency", "source"),
    [
        (4, SOURCE),
        (
            1,
            "import asyncio\ndef load():\n    async def handle(inputs):\n        await asyncio.sleep(60)\n    return handle\n",
        ),
    ],
    ids=["threads", "tasks"],
)
async def test_wall_time_is_held_where_several_run_at_once(tmp_path: Path, concurrency: int, source: str) -> None:
    if concurrency > 1:
        source = source.replace("time.sleep(60)", "[time.sleep(0.01) for _ in range(6000)]")
    async with session_with(tmp_path, source, concurrency=concurrency, limits=Limits(wall_seconds=0.3)) as session:
        errors = await asyncio.gather(*(refused(session, do="sleep") for _ in range(2)))
        assert [error.code for error in errors] == ["limit:wall"] * 2
        assert session.lost is None


async def test_a_thread_pays_for_its_own_cpu_time_alone(tmp_path: Path) -> None:
    source = """
        import time
        def load():
            def handle(inputs):
                end = time.monotonic() + 2.0
                while not inputs["idle"] or time.monotonic() < end:
                    if inputs["idle"]:
                        time.sleep(0.01)
                return {}
            return handle
    """
    async with session_with(tmp_path, source, concurrency=2, limits=Limits(cpu_seconds=0.5)) as session:
        both = (ask(session, idle=idle) for idle in (False, True))
        ends = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(ends[0], LimitExceeded)
    assert ends[1] == {}


PROGRAM = """
import sys
print("@!#READY#!@", flush=True)
kept = []
for line in sys.stdin:
    line = line.rstrip("\\n")
    if line == "spin":
        while True:
            pass
    if line == "grow":
        while True:
            kept.append(b"x" * (1 << 20))
    if line == "@!#STOP#!@":
        print("done", flush=True)
"""


@pytest.mark.parametrize(
    ("line", "limits", "code"),
    [
        ("spin", Limits(wall_seconds=0.4), "limit:wall"),
        ("spin", Limits(cpu_seconds=0.4), "limit:cpu"),
        ("grow", Limits(memory_bytes=100 << 20), "limit:memory"),
    ],
)
async def test_a_program_is_held_to_them_as_well(tmp_path: Path, line: str, limits: Limits, code: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = Command(argv=(sys.executable, str(tmp_path / "program.py")))
    host = local_host(tmp_path)
    async with await load_unpacked(tmp_path, "command", command=command, limits=limits, host=host) as model:
        assert await model.infer({"text": "hello"}) == {"output": "done"}
        async with asyncio.timeout(30):
            with pytest.raises((LimitExceeded, RunTooLong)) as caught:
                await model.infer({"text": line})
        assert caught.value.code == code
        assert await model.infer({"text": "hello"}) == {"output": "done"}  # by a new program


async def test_a_worker_that_holds_no_limits_is_given_none(tmp_path: Path) -> None:
    node = next(peer for peer in PEERS if peer.name == "node")
    if shutil.which("node") is None:
        pytest.skip("there is no node here")
    plan = node.plan(tmp_path)
    for limits, refused in ((Limits(wall_seconds=5), False), (Limits(memory_bytes=1 << 30), True)):
        limited = dataclasses.replace(plan, spec=msgspec.structs.replace(plan.spec, limits=limits))
        if refused:
            with pytest.raises(ConfigurationError, match="memory_bytes"):
                await start_once(node.host(tmp_path), limited, deadline=soon(20))
        else:
            await (await start_once(node.host(tmp_path), limited, deadline=soon(20), arrays="buffer")).close()


async def test_without_limits_a_failure_is_the_models_own(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE) as session:
        with pytest.raises(ModelFailed) as caught:
            await ask(session, do="ask for much")
    assert not isinstance(caught.value, LimitExceeded)


async def test_a_worker_that_somebody_kills_is_lost_and_not_over_a_limit(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, limits=Limits(memory_bytes=1 << 30)) as session:
        pid = (await ask(session))["pid"]
        call = asyncio.ensure_future(ask(session, do="sleep"))
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match="SIGKILL"):
            await call


@pytest.mark.parametrize(
    ("do", "limits", "outcome", "code"),
    [
        ("sleep", Limits(wall_seconds=0.3), "timed_out", "limit:wall"),
        ("grow", Limits(memory_bytes=100 << 20), "failed", "limit:memory"),
        ("open", Limits(open_files=48), "failed", "limit:open-files"),
    ],
)
async def test_the_record_names_the_limit(tmp_path: Path, do: str, limits: Limits, outcome: str, code: str) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, SOURCE, limits=limits)
        with pytest.raises((LimitExceeded, RunTooLong)):
            await m.run("model", {"do": do})
        newest = (await m.log.list(limit=1)).items[0]
        assert newest.columns["outcome"] == outcome
        assert f'"code":"{code}"' in newest.body
        assert (await m.run("model", {})).outputs["pid"]  # by a new worker where the old one had to go
