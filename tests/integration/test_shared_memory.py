"""Large tensors between a driver and its worker: views of shared memory, given back when they die, whoever dies first."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import numpy
import pytest

from mer.core.errors import ModelFailed, WorkerLost
from mer.core.running import Batch
from mer.meal import memory as driver_memory
from mer.meal.library import load_unpacked
from mer.meal.session import Session
from mer_worker.outputs import Outputs
from mer_worker.shared import SHARED_FROM
from mer_worker.tensors import Buffer, encode
from tests.support.workers import ECHO, alive, handler_folder, local_host, open_descriptors, session_with, until

KEEPS = """
    import numpy
    def load():
        kept = []
        def handler(inputs, context):
            if "keep" in inputs:
                kept.append(inputs["x"])
            if "forget" in inputs:
                kept.clear()
            return {"n": numpy.array([float(k.sum()) for k in kept])}
        return handler
"""

MAKES = """
    import numpy
    def load():
        kept = []
        def handler(inputs, context):
            do = inputs["do"]
            out = context.empty((int(inputs["n"]),), "float32")
            out[:] = 1
            if do == "keep":
                kept.append(out)
            if do == "change":
                kept[0][:] = 9
            if do == "twice":
                return {"x": out, "y": out}
            if do == "part":
                return {"x": out[16:]}
            if do == "drop":
                return {"x": numpy.zeros(4, "float32")}
            return {"x": out}
        return handler
"""


def large(number: int = 0, size: int = 1 << 18) -> numpy.ndarray:
    return numpy.random.default_rng(number).random(size, dtype="float32")


def memory_of(session: Session) -> driver_memory.WorkerMemory:
    assert session.without_memory == ""
    memory = session._memory
    assert memory is not None
    return memory


async def echo(session: Session, **inputs: object) -> dict[str, object]:
    return (await session.infer(encode(inputs))).outputs


@pytest.fixture
async def session(tmp_path):
    async with session_with(tmp_path, arrays="numpy") as session:
        yield session


async def test_a_large_tensor_comes_back_as_a_view_that_is_the_callers(session):
    x = large()
    out = (await echo(session, x=x))["x"]
    assert (out == x).all()
    assert out.flags.writeable
    out[:] = 0
    assert (await echo(session, x=x))["x"][0] == x[0]
    assert memory_of(session).used[1] == 1


async def test_a_result_that_is_dropped_is_given_back(session):
    out = (await echo(session, x=large()))["x"]
    part = out[5:7]
    del out
    assert memory_of(session).used[1] == 1
    del part
    assert memory_of(session).used == (0, 0)


@pytest.mark.parametrize("size", [0, 1, SHARED_FROM - 1, SHARED_FROM, SHARED_FROM + 1, 3 * SHARED_FROM + 7])
async def test_every_size_around_the_threshold_is_right(session, size):
    x = numpy.random.default_rng(size).integers(0, 255, size, dtype="uint8")
    out = (await echo(session, x=x))["x"]
    assert (out == x).all()
    assert memory_of(session).used[1] == (size >= SHARED_FROM)


async def test_small_and_large_go_in_one_message(session):
    given = {
        "small": numpy.arange(5),
        "none": numpy.zeros((0, 3), "int8"),
        "large": large(),
        "text": "ä",
        "texts": ["x" * SHARED_FROM, "", "y"],
        "raw": b"z" * (SHARED_FROM + 1),
        "nested": [large(1), numpy.arange(3)],
        "json": {"a": [1]},
    }
    out = await echo(session, **given)
    assert list(out) == list(given)
    for name in ("small", "none", "large"):
        assert (out[name] == given[name]).all()
    assert (out["text"], out["texts"], out["json"]) == ("ä", given["texts"], {"a": [1]})
    assert out["raw"] == given["raw"]
    assert all((one == other).all() for one, other in zip(out["nested"], given["nested"], strict=True))


async def test_many_results_kept_and_dropped_in_any_order_stay_what_they_are(session):
    kept: dict[int, numpy.ndarray] = {}
    random = numpy.random.default_rng(7)
    for number in range(120):
        kept[number] = (await echo(session, x=large(number, 1 << 15)))["x"]
        if len(kept) > 12:
            del kept[sorted(kept)[random.integers(len(kept))]]
    for number, out in kept.items():
        assert (out == large(number, 1 << 15)).all()
    del out
    kept.clear()
    assert memory_of(session).used == (0, 0)


async def test_the_shortest_way_is_right_too(tmp_path):
    """A tensor like one before it: without a head, written by one function and read by one."""
    folder = handler_folder(tmp_path / "model", ECHO)
    async with await load_unpacked(folder, entry="handler:load", host=local_host(tmp_path)) as model:
        kept = []
        for number in range(12):
            kept.append((await model.infer({"x": large(number, 1 << 15)}))["x"])
            transposed = large(number, 1 << 15).reshape(128, -1).T
            assert ((await model.infer({"x": transposed}))["x"] == transposed).all()
            fields = large(number, 1 << 16)[::2]
            assert ((await model.infer({"x": fields}))["x"] == fields).all()
        assert all((out == large(number, 1 << 15)).all() for number, out in enumerate(kept))
        kept[0][:] = 1  # the caller's own
        del kept
        session = model.session  # type: ignore[attr-defined]
        assert memory_of(session).used == (0, 0)


async def test_many_in_flight_do_not_meet(session):
    outs = await asyncio.gather(*(echo(session, x=large(number, 1 << 16)) for number in range(20)))
    assert all((out["x"] == large(number, 1 << 16)).all() for number, out in enumerate(outs))


async def test_an_input_is_a_read_only_view_for_the_handler(tmp_path):
    source = """
        def load():
            def handler(inputs):
                inputs["x"][0] = 1
                return {}
            return handler
    """
    async with session_with(tmp_path, source, arrays="numpy") as session:
        with pytest.raises(ModelFailed, match="read-only"):
            await echo(session, x=large())
        await until(lambda: memory_of(session).used == (0, 0))


async def test_an_input_that_the_handler_keeps_is_not_written_over(tmp_path):
    async with session_with(tmp_path, KEEPS, arrays="numpy") as session:
        sums = []
        for number in range(6):
            x = large(number)
            sums.append(float(x.sum()))
            out = await echo(session, x=x, keep="")
            assert out["n"].tolist() == sums
        assert memory_of(session).used[0] == 6 << 20
        await echo(session, x=large(), forget="")
        assert memory_of(session).used[0] == 0


class TestOutputsMadeInPlace:
    @pytest.fixture
    async def session(self, tmp_path):
        async with session_with(tmp_path, MAKES, arrays="numpy") as session:
            yield session

    @pytest.mark.parametrize("size", [1, 1 << 18])
    @pytest.mark.parametrize("do", ["plain", "keep", "twice", "part", "drop"])
    async def test_it_comes_whole_and_nothing_is_left(self, session, do, size):
        for _ in range(3):
            out = await echo(session, do=do, n=size)
            assert all((array == (0 if do == "drop" else 1)).all() for array in out.values())
            del out
        assert memory_of(session).used == (0, 0)

    async def test_one_that_the_handler_keeps_is_not_the_callers(self, session):
        out = (await echo(session, do="keep", n=1 << 18))["x"]
        await echo(session, do="change", n=1 << 18)
        assert (out == 1).all()

    async def test_many_do_not_fill_the_memory(self, session):
        held = []
        for number in range(60):
            held = [*held[-3:], (await echo(session, do="plain", n=1 << 20))["x"]]
            held[-1][0] = number
        assert [out[0] for out in held] == [56, 57, 58, 59]


@pytest.mark.parametrize("arrays", ["numpy", "buffer"])
def test_without_a_worker_an_output_is_plain_memory(arrays):
    out = Outputs(arrays).empty((3, 2), "float32")
    assert type(out) is (Buffer if arrays == "buffer" else numpy.ndarray)
    assert out.shape == (3, 2)
    with pytest.raises(ValueError, match="dtype of numbers"):
        Outputs(arrays).empty((3,), "string")
    with pytest.raises(ValueError, match="dtype of numbers"):
        Outputs(arrays).empty((3,), dict)


@pytest.mark.parametrize("dtype", ["float32", numpy.float32, numpy.dtype(">f4")])
def test_a_dtype_may_be_told_as_numpy_does(dtype):
    assert Outputs("numpy").empty((2,), dtype).dtype == numpy.float32


async def test_with_buffers_it_is_the_same(tmp_path):
    async with session_with(tmp_path, ECHO, arrays="buffer") as session:
        raw = os.urandom(1 << 20)
        out = (await echo(session, x=Buffer(raw, "uint8", (1 << 20,))))["x"]
        data = out.data[100:200]
        del out
        assert memory_of(session).used[1] == 1
        assert bytes(data) == raw[100:200]
        del data
        assert memory_of(session).used == (0, 0)


class TestWithout:
    async def test_turned_off_everything_goes_through_the_pipe(self, tmp_path):
        async with session_with(tmp_path, arrays="numpy", host=local_host(tmp_path, memory_bytes=0)) as session:
            assert session.without_memory == "it is turned off"
            for number in range(4):  # the first ones are how the shortest way is learned
                assert ((await session.infer_values({"x": large(number)}))["x"] == large(number)).all()

    async def test_a_worker_that_cannot_map_it_says_so(self, tmp_path):
        """A limited address space, as `ulimit -v` makes one."""
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nulimit -v {2 << 20}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        host = local_host(tmp_path, python=python, memory_bytes=4 << 30)
        async with session_with(tmp_path, arrays="numpy", host=host) as session:
            assert "the worker cannot" in session.without_memory
            assert ((await echo(session, x=large()))["x"] == large()).all()

    async def test_a_driver_that_cannot_map_it_goes_on(self, tmp_path, monkeypatch):
        def refuse(*_: object) -> int:
            raise OSError("no such call")

        monkeypatch.setattr(os, "memfd_create", refuse)
        async with session_with(tmp_path, arrays="numpy") as session:
            assert session.without_memory == "this machine cannot: no such call"
            assert ((await echo(session, x=large()))["x"] == large()).all()

    async def test_where_it_is_full_a_tensor_goes_with_its_frame(self, tmp_path):
        host = local_host(tmp_path, memory_bytes=2 << 20)
        async with session_with(tmp_path, arrays="numpy", host=host) as session:
            held = [(await echo(session, x=large(number)))["x"] for number in range(5)]
            assert memory_of(session).used[1] == 2
            assert all((out == large(number)).all() for number, out in enumerate(held))
            huge = large(9, 1 << 20)  # larger than the memory altogether
            assert ((await echo(session, x=huge))["x"] == huge).all()


class TestEnds:
    async def test_results_outlive_their_worker(self, tmp_path):
        async with session_with(tmp_path, arrays="numpy") as session:
            out = (await echo(session, x=large()))["x"]
            os.kill(session.hello["pid"], signal.SIGKILL)
            with pytest.raises(WorkerLost):
                await echo(session, x=large())
        gc.collect()
        assert (out == large()).all()

    async def test_results_of_the_shortest_way_outlive_their_worker(self, tmp_path):
        """Numpy's arrays hold the mapping, and do not keep it from being closed."""
        folder = handler_folder(tmp_path / "model", ECHO)
        async with await load_unpacked(folder, entry="handler:load", host=local_host(tmp_path)) as model:
            kept = [(await model.infer({"x": large(number)}))["x"] for number in range(5)]
        gc.collect()
        assert all((out == large(number)).all() for number, out in enumerate(kept))
        before = mappings()
        del kept
        assert mappings() < before

    async def test_a_worker_that_is_lost_while_it_computes_leaves_nothing(self, tmp_path):
        await in_a_session(tmp_path / "first", ECHO)
        gc.collect()
        before, mapped = open_descriptors(), mappings()
        source = "import os\ndef load():\n    return lambda inputs: os.kill(os.getpid(), 9)\n"
        for number in range(3):
            await in_a_session(tmp_path / str(number), source)
        gc.collect()
        assert open_descriptors() <= before
        assert mappings() <= mapped

    async def test_a_call_that_is_given_up_leaves_nothing(self, tmp_path):
        source = "import time\ndef load():\n    return lambda inputs: time.sleep(0.2) or inputs\n"
        async with session_with(tmp_path, source, arrays="numpy") as session:
            await echo(session, x=large())  # numpy is imported there
            for _ in range(3):
                task = asyncio.create_task(echo(session, x=large()))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await session.settled()
            await echo(session, x=large())
            await until(lambda: memory_of(session).used == (0, 0))

    async def test_a_driver_that_is_killed_takes_the_memory_along(self, tmp_path):
        driver = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs
            [sys.executable, "-c", textwrap.dedent(DRIVER), str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert driver.stdout is not None
        worker, *inodes = map(int, driver.stdout.readline().split())
        assert inodes
        assert set(inodes) <= memory_files(driver.pid)
        assert memory_files(worker)
        driver.kill()
        driver.wait()
        driver.stdout.close()
        await until(lambda: not alive(worker))
        everywhere = set().union(*(memory_files(int(pid)) for pid in os.listdir("/proc") if pid.isdigit()))
        assert not everywhere & set(inodes)  # a file without a name is gone with its last descriptor and mapping

    async def test_a_child_that_the_handler_forks_gives_nothing_back(self, tmp_path):
        source = """
            import os
            def load():
                def handler(inputs):
                    child = os.fork()
                    if not child:
                        inputs.clear()
                        os._exit(0)
                    os.waitpid(child, 0)
                    return {"x": inputs["x"]}
                return handler
        """
        async with session_with(tmp_path, source, arrays="numpy") as session:
            for number in range(3):
                assert ((await echo(session, x=large(number)))["x"] == large(number)).all()


async def test_a_limit_of_open_files_is_kept_in_mind(tmp_path):
    """A session takes a few descriptors and gives all of them back, also those of its mappings."""
    await in_a_session(tmp_path / "first", ECHO)
    gc.collect()
    before = open_descriptors()
    for number in range(3):
        await in_a_session(tmp_path / str(number), ECHO)
    gc.collect()
    assert open_descriptors() <= before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > before


async def in_a_session(folder: Path, source: str) -> None:
    async with session_with(folder, source, arrays="numpy") as session:
        try:
            await echo(session, x=large())
        except WorkerLost:
            pass


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:mer")


def memory_files(pid: int) -> set[int]:
    """Inodes of the files without a name that a process has open or mapped."""
    found: set[int] = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            if os.readlink(path).startswith("/memfd:mer"):
                found.add(os.stat(path).st_ino)
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if "/memfd:mer" in line:
                found.add(int(line.split()[4]))
    except OSError:  # it ends just now
        pass
    return found


DRIVER = """
    import asyncio, os, sys
    from pathlib import Path
    import numpy
    from mer_worker.tensors import encode
    from tests.integration.test_shared_memory import memory_files
    from tests.support.workers import session_with

    async def main():
        async with session_with(Path(sys.argv[1]), arrays="numpy") as session:
            out = await session.infer(encode({"x": numpy.zeros(1 << 20)}))
            print(session.hello["pid"], *memory_files(os.getpid()), flush=True)
            await asyncio.sleep(600)

    asyncio.run(main())
"""


async def test_parts_and_sealed_inputs_travel_so_too(tmp_path):
    source = """
        def load():
            def handler(inputs, context):
                for part in context.parts():
                    yield {"x": part["x"]}
                yield {"x": inputs["x"]}
            return handler
    """
    folder = handler_folder(tmp_path / "model", source)
    async with await load_unpacked(folder, entry="handler:load", host=local_host(tmp_path)) as model:
        handle = await model.seal({"x": large()})
        session = model.session  # type: ignore[attr-defined]
        assert memory_of(session).used[0] == 1 << 20
        parts = [part["x"] async for part in model.stream(handle)]
        assert (parts[0] == large()).all()
        given = [{"x": large(number)} for number in range(4)]
        parts = [part["x"] async for part in model.stream({"x": large(9)}, parts=given)]
        assert memory_of(session).used[1] == 5
        assert all((part == large(number)).all() for number, part in zip((0, 1, 2, 3, 9), parts, strict=True))
        del parts
        await until(lambda: memory_of(session).used == (0, 0))


COPIES_INTO_PLACE = """
    def load():
        def handler(inputs, context):
            y = context.empty(inputs["x"].shape, "float32")
            y[:] = inputs["x"]
            return {"x": y}
        return handler
"""


@pytest.mark.parametrize(
    ("source", "given"),
    [(COPIES_INTO_PLACE, {"concurrency": 4}), (ECHO, {"batch": Batch(max_size=4)})],
    ids=["threads", "batches"],
)
async def test_who_serves_several_at_once_shares_it_too(tmp_path, source, given):
    async with session_with(tmp_path, source, arrays="numpy", **given) as session:
        for turn in range(6):
            numbers = range(8 * turn, 8 * turn + 8)
            outs = await asyncio.gather(*(session.infer_values({"x": large(n, 1 << 16)}) for n in numbers))
            assert all((out["x"] == large(n, 1 << 16)).all() for n, out in zip(numbers, outs, strict=True))
        assert memory_of(session).used[1] == 8
        del outs
        await until(lambda: memory_of(session).used == (0, 0))


async def test_a_memory_that_was_closed_looks_after_nothing_any_more():
    memory = driver_memory.WorkerMemory(1 << 20)
    memory.close()
    gone = weakref.ref(memory)
    placed = await memory.place(encode({"x": Buffer(bytes(SHARED_FROM), "uint8", (SHARED_FROM,))}))
    assert not any(placed.starts)
    del memory, placed
    gc.collect()
    assert gone() is None  # no timer of the loop holds it
