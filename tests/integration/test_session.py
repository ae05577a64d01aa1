"""One conversation with a real worker: whatever the handler does, every call ends, says why, and leaves nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.core.errors import (
    ContentMissing,
    DeadlineExceeded,
    InputInvalid,
    Interrupted,
    ModelFailed,
    PackageInvalid,
    WorkerLost,
)
from mer.core.specs import TensorSpec
from mer.meal.pipes import ProcessStream
from mer.meal.plan import WeightFile
from mer.meal.session import Session
from mer_worker.tensors import Buffer, encode
from mer_worker.wire import MAX_REQUEST_LOG_BYTES
from tests.support.workers import ECHO, alive, local_host, open_descriptors, session_with, soon, state, until

DOES = """
    import logging, os, signal, subprocess, sys, threading, time

    def load():
        def handle(inputs):
            for name, value in inputs.items():
                globals()[name](value)
            return {"ok": True}
        return handle

    def sleep(seconds):
        time.sleep(seconds)

    def loop(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    def deaf(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                time.sleep(end - time.monotonic())
            except BaseException:
                pass

    def fail(text):
        inner(text)

    def inner(text):
        raise ValueError(text)

    def leave(status):
        sys.exit(status)

    def die(status):
        os._exit(status)

    def kill(number):
        os.kill(os.getpid(), number)

    def say(text):
        print(text)

    def complain(text):
        print(text, file=sys.stderr)

    def warn(text):
        logging.getLogger("model").warning(text)

    def flood(size):
        line = "x" * 1023
        for _ in range(size >> 10):
            print(line)

    def flood_below(size):
        for _ in range(size >> 10):
            os.write(1, b"y" * 1024)

    def fork(path):
        children = [
            subprocess.Popen(["sleep", "600"]),
            subprocess.Popen(["sleep", "600"], start_new_session=True),
        ]
        pid = os.fork()
        if not pid:
            os.setsid()
            if os.fork():
                os._exit(0)
            with open(path, "w") as file:
                file.write(" ".join(str(child.pid) for child in children) + f" {os.getpid()}")
            time.sleep(600)
            os._exit(0)
        while not os.path.exists(path) or not open(path).read():
            time.sleep(0.01)
"""


async def do(session, deadline=None, on_log=None, **what):
    return (await session.infer(encode(what), deadline=deadline, on_log=on_log)).outputs


class Log(list):
    """Collects (stream, level, text)."""

    def __call__(self, stream: str, level: str, text: bytes) -> None:
        self.append((stream, level, text.decode()))

    def text(self, stream: str) -> str:
        return "".join(text for name, _, text in self if name == stream)


class TestAnswers:
    async def test_outputs_come_with_descriptors_segments_and_the_time_that_it_took(self, tmp_path):
        async with session_with(tmp_path) as session:
            reply = await session.infer(encode({"x": Buffer(bytes(8), "int32", (2,)), "t": "text"}))
            assert reply.outputs == {"x": Buffer(bytes(8), "int32", (2,)), "t": "text"}
            assert [(d.name, d.dtype, d.shape) for d in reply.descriptors] == [
                ("x", "int32", (2,)),
                ("t", "string", ()),
            ]
            assert bytes(reply.segments[0]) == bytes(8)
            assert reply.run_us < 1e6

    async def test_calls_at_once_each_get_their_own_answer(self, tmp_path):
        async with session_with(tmp_path) as session:
            replies = await asyncio.gather(*(session.infer(encode({"x": str(i)})) for i in range(200)))
            assert [reply.outputs for reply in replies] == [{"x": str(i)} for i in range(200)]

    async def test_a_large_array_crosses_whole_both_ways(self, tmp_path):
        array = np.random.default_rng(0).integers(0, 255, 20 << 20, dtype=np.uint8)
        async with session_with(tmp_path, arrays="numpy") as session:
            reply = await session.infer(encode({"x": array}))
            assert np.array_equal(reply.outputs["x"], array)

    async def test_inputs_are_read_only_to_the_handler(self, tmp_path):
        source = "def load():\n    def handle(inputs):\n        inputs['x'][0] = 1\n    return handle\n"
        async with session_with(tmp_path, source, arrays="numpy") as session:
            with pytest.raises(ModelFailed, match="read-only"):
                await session.infer(encode({"x": np.zeros(2)}))

    async def test_an_object_with_infer_with_tensors_is_a_handler(self, tmp_path):
        source = """
            class Model:
                def __init__(self, factor): self.factor = factor
                def infer_with_tensors(self, inputs): return {"y": inputs["x"] * self.factor}
            load = Model
        """
        async with session_with(tmp_path, source, arrays="numpy", options={"model.factor": 3}) as session:
            reply = await session.infer(encode({"x": np.array([1, 2])}))
            assert reply.outputs["y"].tolist() == [3, 6]

    async def test_weights_are_mapped_when_asked_for(self, tmp_path):
        path = tmp_path / "w.bin"
        path.write_bytes(np.arange(6, dtype="<f4").tobytes())
        weights = (
            WeightFile(name="a", dtype="float32", shape=(2, 3), path=path),
            WeightFile(name="gone", dtype="float32", shape=(1,), path=tmp_path / "gone"),
        )
        source = """
            def load(weights):
                def handle(inputs):
                    array = weights[inputs["name"]]
                    return {"sum": array.sum(axis=1), "names": sorted(weights), "writable": bool(array.flags.writeable)}
                return handle
        """
        async with session_with(tmp_path, source, arrays="numpy", weights=weights) as session:
            outputs = (await session.infer(encode({"name": "a"}))).outputs
            assert outputs["sum"].tolist() == [3, 12]
            assert (outputs["names"], outputs["writable"]) == (["a", "gone"], False)
            with pytest.raises(ContentMissing, match="gone"):
                await session.infer(encode({"name": "gone"}))


class TestFailures:
    async def test_a_handler_that_raises_gives_its_own_traceback_and_goes_on(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            with pytest.raises(ModelFailed, match="ValueError: no such luck") as caught:
                await do(session, fail="no such luck")
            assert caught.value.traceback is not None
            assert caught.value.traceback.startswith("Traceback (most recent call last):\n")
            assert "in inner\n    raise ValueError(text)" in caught.value.traceback
            assert "mer_worker" not in caught.value.traceback
            assert await do(session) == {"ok": True}

    async def test_sys_exit_is_a_failure_of_the_model_and_the_worker_goes_on(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            with pytest.raises(ModelFailed, match=r"sys.exit\(3\)"):
                await do(session, leave=3)
            assert await do(session) == {"ok": True}

    @pytest.mark.parametrize("returned", ["None", "[1]", "{'x': object()}", "{1: 2}", "{'x': {'a': float('nan')}}"])
    async def test_an_output_without_a_form_is_a_failure_of_the_model(self, tmp_path, returned):
        async with session_with(tmp_path, f"def load():\n    return lambda inputs: {returned}\n") as session:
            for _ in range(2):
                with pytest.raises(ModelFailed):
                    await session.infer(encode({}))

    async def test_a_worker_that_is_killed_is_lost_to_every_call_at_once(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            calls = [asyncio.ensure_future(do(session, sleep=60)) for _ in range(5)]
            await asyncio.sleep(0.1)
            began = time.monotonic()
            os.kill(session.hello["pid"], signal.SIGKILL)
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - began < 1
            assert all(isinstance(result, WorkerLost) and "SIGKILL" in result.message for result in results)
            with pytest.raises(WorkerLost, match="SIGKILL"):
                await do(session)

    async def test_a_handler_that_kills_its_process_names_the_signal(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            with pytest.raises(WorkerLost, match="SIGSEGV"):
                await do(session, kill=int(signal.SIGSEGV))

    async def test_an_exit_past_python_names_the_status_and_quotes_the_log(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            with pytest.raises(WorkerLost, match=r"(?s)ended with status 9.*yyy"):
                await do(session, flood_below=2048, die=9)

    @pytest.mark.parametrize("watched", ["by descriptor", "by thread"])
    async def test_a_worker_that_somebody_else_reaps_is_lost_all_the_same(self, tmp_path, watched, monkeypatch):
        if watched == "by thread":
            monkeypatch.delattr(os, "pidfd_open")
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
        try:
            async with session_with(tmp_path, DOES) as session:
                with pytest.raises(WorkerLost, match="the worker ended"):
                    async with asyncio.timeout(5):
                        await do(session, kill=int(signal.SIGKILL))
        finally:
            signal.signal(signal.SIGCHLD, before)
        assert not list((tmp_path / "scratch").iterdir())


class TestLoading:
    @pytest.mark.parametrize(
        ("source", "options", "error", "message"),
        [
            ("x = 1", {}, PackageInvalid, "no callable 'load'"),
            ("load = 1", {}, PackageInvalid, "no callable 'load'"),
            (ECHO, {"entrypoint_package": "absent"}, PackageInvalid, "no module 'absent'"),
            (ECHO, {"entrypoint_package": "absent.sub"}, PackageInvalid, "no module 'absent.sub'"),
            ("def load():\n    return 1", {}, PackageInvalid, "returned int"),
            ("def load(:\n    pass", {}, ModelFailed, "SyntaxError"),
            ("import absent_module\ndef load(): pass", {}, ModelFailed, "absent_module"),
            ("def load():\n    raise KeyError('k')", {}, ModelFailed, "KeyError: 'k'"),
            ("raise SystemExit(4)", {}, ModelFailed, "sys.exit"),
            (ECHO, {"unknown_option": 1}, PackageInvalid, "unknown_option"),
        ],
    )
    async def test_a_package_that_cannot_be_loaded_says_why(self, tmp_path, source, options, error, message):
        with pytest.raises(error, match=message):
            async with session_with(tmp_path, source, options=options):
                pass
        assert not list((tmp_path / "scratch").iterdir())

    async def test_options_without_a_form_are_refused_and_the_session_goes_on(self, tmp_path):
        async with session_with(tmp_path) as session:
            with pytest.raises(InputInvalid, match="JSON"):
                await session.load({"options": {"rate": float("nan")}}, deadline=soon(5))
            assert session.busy == 0
            assert (await session.infer(encode({"x": "a"}))).outputs == {"x": "a"}

    async def test_a_syntax_error_comes_with_file_and_line(self, tmp_path):
        with pytest.raises(ModelFailed) as caught:
            async with session_with(tmp_path, "def load(:\n    pass"):
                pass
        assert 'handler.py", line 1' in (caught.value.traceback or "")

    async def test_loading_that_takes_too_long_ends_by_its_deadline(self, tmp_path):
        with pytest.raises(DeadlineExceeded):
            async with session_with(tmp_path, "import time\ntime.sleep(60)", load_seconds=1.0):
                pass

    async def test_the_folder_of_the_model_is_not_written_to(self, tmp_path):
        async with session_with(tmp_path, host=local_host(tmp_path, cache_folder=tmp_path / "cache")):
            assert [path.name for path in (tmp_path / "model").rglob("*")] == ["handler.py"]
        assert list((tmp_path / "cache").rglob("handler*.pyc"))


class TestDeadlines:
    @pytest.mark.parametrize("how", ["sleep", "loop"])
    async def test_a_handler_that_lets_itself_be_interrupted_is_and_the_worker_goes_on(self, tmp_path, how):
        async with session_with(tmp_path, DOES) as session:
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await do(session, deadline=soon(0.2), **{how: 30})
            assert time.monotonic() - began < 1.0
            assert await do(session) == {"ok": True}

    async def test_one_that_does_not_is_ended_and_others_are_told(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            other = asyncio.ensure_future(asyncio.wait_for(do(session, deaf=30), 20))
            with pytest.raises(DeadlineExceeded):
                await do(session, deadline=soon(0.2), deaf=30)
            with pytest.raises(WorkerLost, match="did not let itself be stopped"):
                await other
            await until(lambda: not alive(session.hello["pid"]))

    async def test_a_call_whose_deadline_passes_in_the_queue_never_runs(self, tmp_path):
        log = Log()
        async with session_with(tmp_path, DOES) as session:
            first = asyncio.ensure_future(do(session, sleep=0.5))
            await asyncio.sleep(0)  # it is sent first
            with pytest.raises(DeadlineExceeded):
                await do(session, deadline=soon(0.1), on_log=log, say="I ran")
            assert await first == {"ok": True}
            assert not log

    async def test_deadlines_out_of_order_each_hold(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            began = time.monotonic()
            calls = [do(session, deadline=soon(s), sleep=0.6) for s in (30, 0.2, 0.4)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(r) for r in results] == [dict, DeadlineExceeded, DeadlineExceeded]
            assert time.monotonic() - began < 2


class TestCancelling:
    async def test_cancelling_the_task_stops_the_handler(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            call = asyncio.ensure_future(do(session, sleep=30))
            await asyncio.sleep(0.1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            async with asyncio.timeout(1.0):
                await session.settled()
            assert session.busy == 0
            assert await do(session) == {"ok": True}

    async def test_cancelling_before_the_worker_has_read_the_request_stops_it_too(self, tmp_path):
        log = Log()
        async with session_with(tmp_path, DOES, on_log=log) as session:
            calls = [asyncio.ensure_future(do(session, say=f"number {i}", sleep=0.3)) for i in range(4)]
            await asyncio.sleep(0.1)
            for call in calls[1:]:
                call.cancel()
            assert await calls[0] == {"ok": True}
            async with asyncio.timeout(1.0):
                await session.settled()
            assert "number 1" not in log.text("stdout")
            assert await do(session) == {"ok": True}

    async def test_a_request_may_be_cancelled_by_number(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            call = asyncio.ensure_future(do(session, sleep=30))
            await asyncio.sleep(0.1)
            session.cancel(2)  # 1 was the load
            with pytest.raises(Interrupted):
                await call

    async def test_a_cancel_that_comes_too_late_or_for_nobody_harms_nothing(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            await do(session)
            session.cancel(2)
            session.cancel(0)
            assert await do(session) == {"ok": True}

    async def test_cancels_in_the_middle_of_prints_leave_the_stream_whole(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            for i in range(40):
                call = asyncio.ensure_future(do(session, flood=700 << 10, sleep=30))
                await asyncio.sleep(0.0005 * i)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                await session.settled()
            assert await do(session) == {"ok": True}


class TestPings:
    @pytest.mark.parametrize("how", ["sleep", "loop"])
    async def test_a_ping_is_answered_while_the_model_computes(self, tmp_path, how):
        async with session_with(tmp_path, DOES) as session:
            call = asyncio.ensure_future(do(session, **{how: 1}))
            await asyncio.sleep(0.1)
            assert await session.ping() < 0.5
            assert not call.done()
            await call

    async def test_a_ping_of_a_stopped_worker_ends_by_its_deadline(self, tmp_path):
        async with session_with(tmp_path, DOES) as session:
            os.kill(session.hello["pid"], signal.SIGSTOP)
            await until(lambda: state(session.hello["pid"]) == "T")
            with pytest.raises(DeadlineExceeded):
                await session.ping(seconds=0.2)
            os.kill(session.hello["pid"], signal.SIGCONT)
            assert await session.ping() < 5


class TestLogs:
    async def test_prints_come_tied_to_their_request_before_its_answer(self, tmp_path):
        untied, tied = Log(), Log()
        async with session_with(tmp_path, DOES, on_log=untied) as session:
            await do(session, on_log=tied, say="to stdout", complain="to stderr", warn="careful")
            assert tied.text("stdout") == "to stdout\n"
            assert tied.text("stderr") == "to stderr\n"
            assert untied.text("stdout") == ""

    async def test_logging_comes_with_its_level(self, tmp_path):
        log = Log()
        async with session_with(tmp_path, DOES) as session:
            await do(session, on_log=log, warn="careful")
            assert ("log", "warning", "model: careful\n") in log

    async def test_a_handler_that_prints_without_end_is_bounded_and_says_how_much_was_dropped(self, tmp_path):
        log = Log()
        async with session_with(tmp_path, DOES) as session:
            assert await do(session, on_log=log, flood=200 << 20) == {"ok": True}
        kept = log.text("stdout")
        assert len(kept) == MAX_REQUEST_LOG_BYTES
        assert log[-1] == ("stderr", "", f"… {(200 << 20) - len(kept)} bytes dropped\n")

    async def test_prints_past_python_are_bounded_too_and_block_nothing(self, tmp_path):
        log = Log()
        async with session_with(tmp_path, DOES, on_log=log) as session:
            assert await do(session, flood_below=100 << 20) == {"ok": True}
            await asyncio.sleep(0.1)
        assert MAX_REQUEST_LOG_BYTES <= len(log.text("stderr")) <= 2 * MAX_REQUEST_LOG_BYTES

    async def test_what_was_dropped_past_python_is_said_when_the_next_call_comes(self, tmp_path):
        log = Log()
        async with session_with(tmp_path, DOES, on_log=log) as session:
            await do(session, flood_below=2 << 20)
            await until(lambda: len(log.text("stderr")) >= MAX_REQUEST_LOG_BYTES)
            await asyncio.sleep(0.1)
            await do(session)
            await until(lambda: "bytes dropped" in log.text("stderr"))

    async def test_prints_while_loading_are_not_lost(self, tmp_path):
        log = Log()
        async with session_with(tmp_path, "print('loading')\n" + ECHO, on_log=log):
            pass
        assert "loading\n" in log.text("stdout")


class TestForks:
    async def test_a_fork_that_returns_like_its_parent_answers_and_takes_no_request(self, tmp_path):
        source = """
            import os
            def load():
                def handle(inputs):
                    if inputs.get("fork") and not os.fork():
                        return {"pid": 0}
                    return {"pid": os.getpid()}
                return handle
        """
        async with session_with(tmp_path, source) as session:
            pid = session.hello["pid"]
            for fork in (True, False) * 10:
                async with asyncio.timeout(5):
                    assert await do(session, fork=fork) == {"pid": pid}

    async def test_what_a_fork_prints_is_log_and_spoils_no_frame(self, tmp_path):
        source = """
            import os
            def load():
                def handle(inputs):
                    children = [os.fork()]
                    print("x" * 200_000)
                    if not children[0]:
                        os._exit(0)
                    os.waitpid(children[0], 0)
                    return {"y": "z" * 200_000}
                return handle
        """
        log = Log()
        async with session_with(tmp_path, source, on_log=log) as session:
            for _ in range(10):
                async with asyncio.timeout(5):
                    assert await do(session) == {"y": "z" * 200_000}
            await until(lambda: log.text("stderr") == ("x" * 200_000 + "\n") * 10)
            assert log.text("stdout") == ("x" * 200_000 + "\n") * 10


class TestNothingStays:
    @pytest.mark.parametrize("end", ["close", "kill", "raise"])
    async def test_what_the_handler_forked_ends_with_the_worker(self, tmp_path, end):
        path = tmp_path / "pids"
        async with session_with(tmp_path, DOES) as session:
            await do(session, fork=str(path))
            pids = [int(pid) for pid in path.read_text().split()]
            assert len(pids) == 3
            assert all(map(alive, pids))
            if end == "kill":
                os.kill(session.hello["pid"], signal.SIGKILL)
        assert not any(map(alive, [*pids, session.hello["pid"]]))
        assert not list((tmp_path / "scratch").iterdir())

    async def test_descriptors_are_given_back(self, tmp_path):
        async with session_with(tmp_path):
            pass
        before = open_descriptors()
        for _ in range(3):
            async with session_with(tmp_path):
                pass
        assert open_descriptors() == before


async def test_a_worker_with_an_echo_loaded_stays_small(tmp_path: Path) -> None:
    async with session_with(tmp_path) as session:
        for _ in range(100):
            await session.infer(encode({"x": Buffer(bytes(1024), "uint8", (1024,))}))
        status = (Path("/proc") / str(session.hello["pid"]) / "status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0])
        assert resident <= 20 * 1024


async def test_closing_in_the_middle_of_a_handler_interrupts_it_and_takes_none_of_its_grace(tmp_path: Path) -> None:
    async with session_with(tmp_path, DOES) as session:
        call = asyncio.ensure_future(session.infer(encode({"sleep": 60})))
        await until(lambda: session.busy == 1)
        await asyncio.sleep(0.2)
        began = time.monotonic()
        assert await session.close(grace=30) == 0  # by itself: no signal was needed
        assert time.monotonic() - began < 15
        with pytest.raises(WorkerLost, match="shut down"):
            await call


async def test_a_start_that_fails_halfway_ends_and_leaves_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, loop = local_host(tmp_path), asyncio.get_running_loop()
    add_reader = loop.add_reader
    for fails_at in range(5):
        launch = await host.prepare()
        stream = await host.open(launch)
        assert isinstance(stream, ProcessStream)
        left = fails_at

        def full(*given: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, "no room for another one in epoll")
            add_reader(*given)

        monkeypatch.setattr(loop, "add_reader", full)
        async with asyncio.timeout(20):
            with pytest.raises(OSError, match="no room"):
                await Session.start(stream)
        monkeypatch.undo()
        assert not alive(stream.pid)
        assert not launch.directory.exists()


@pytest.mark.parametrize(
    ("spec", "imported"),
    [
        ({"arrays": "numpy"}, True),
        ({"arrays": "numpy", "inputs": (TensorSpec(name="x", dtype="float32"),)}, True),
        ({"arrays": "numpy", "inputs": (TensorSpec(name="x", dtype="string"),)}, False),
        ({"arrays": "buffer"}, False),
    ],
)
async def test_numpy_is_there_once_a_model_is_loaded_that_may_get_arrays(
    tmp_path: Path, spec: dict[str, Any], imported: bool
) -> None:
    source = "import sys\ndef load():\n    return lambda inputs: {'there': 'numpy' in sys.modules}\n"
    async with session_with(tmp_path, source, **spec) as session:
        assert (await session.infer(encode({}))).outputs == {"there": imported}
