"""An invocation end to end, with real workers: its result, and what is on record of it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.api import Mer
from mer.core.errors import InputInvalid, ModelNotFound, PlacementNotFound, UsageError
from mer.core.records import AccessFilter, Outcome
from mer.core.specs import Command, TensorSpec, VersionSpec
from mer_worker.tensors import Buffer
from tests.support.running import X, log_kinds, register, running

DOUBLE = """
    def load():
        return lambda tensors: {"y": tensors["x"] * 2}
"""

ECHO = """
    def load():
        return lambda tensors: tensors
"""


async def bodies(m: Mer) -> list[dict[str, Any]]:
    page = await m.log.list(limit=1000)
    return [json.loads(record.body) for record in reversed(page.items)]


async def test_a_model_answers_and_both_ends_are_on_record(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, DOUBLE, inputs=(X,))
        result = await m.run("model", {"x": np.arange(3, dtype=np.float32)})
        assert result.outputs["y"].tolist() == [0, 2, 4]
        _, started, finished = await bodies(m)
    assert (started["kind"], finished["kind"], finished["outcome"]) == ("started", "finished", "succeeded")
    assert started["invocation"] == finished["invocation"] == result.invocation
    assert [(t["name"], t["dtype"], t["shape"], t["bytes"]) for t in finished["inputs"]] == [("x", "float32", [3], 12)]
    assert set(finished["timings"]) == {"queue_us", "start_us", "transfer_us", "run_us"}


async def test_digests_on_record_are_those_of_the_bytes(tmp_path: Path) -> None:
    import hashlib

    async with running(tmp_path) as m:
        await register(m, tmp_path, DOUBLE)
        given = np.arange(3, dtype="<f4")
        await m.run("model", {"x": given})
        finished = (await bodies(m))[-1]
    assert finished["inputs"][0]["sha256"] == hashlib.sha256(given.tobytes()).hexdigest()
    assert finished["outputs"][0]["sha256"] == hashlib.sha256((given * 2).tobytes()).hexdigest()


async def test_started_is_durable_before_the_model_sees_its_input(tmp_path: Path) -> None:
    """The handler itself reads the log's file that a store of the test writes on each append."""
    from mer.dal.memory import MemoryStore

    seen = tmp_path / "seen"
    store = MemoryStore()
    append = store.access_log.append

    async def told(records: list[str]) -> Any:
        heads = await append(records)
        with seen.open("a") as file:
            file.writelines(json.loads(record)["kind"] + "\n" for record in records)
        return heads

    store.access_log.append = told  # type: ignore[method-assign, assignment] - watches the real one
    source = f"""
        def load():
            return lambda tensors: {{"seen": open({str(seen)!r}).read().split()}}
    """
    async with running(tmp_path, store) as m:
        await register(m, tmp_path, source)
        result = await m.run("model", {"x": "anything"})
    assert result.outputs["seen"] == ["started"]


async def test_all_kinds_of_values_come_back(tmp_path: Path) -> None:
    values = {"text": "grüße", "texts": ["a", "", "ü"], "raw": b"\x00\xff", "document": {"a": [1, None, True]}}
    async with running(tmp_path) as m:
        await register(m, tmp_path, ECHO)
        result = await m.run("model", values)
    assert {**result.outputs, "texts": list(result.outputs["texts"])} == values


async def test_a_buffer_model_never_imports_numpy(tmp_path: Path) -> None:
    source = """
        import sys

        def load():
            return lambda tensors: {"y": tensors["x"], "numpy": "numpy" in sys.modules}
    """
    async with running(tmp_path) as m:
        await register(m, tmp_path, source, arrays="buffer")
        result = await m.run("model", {"x": np.arange(2, dtype=np.int16)})
    assert result.outputs["numpy"] is False
    assert result.outputs["y"] == Buffer(np.arange(2, dtype="<i2").tobytes(), "int16", (2,))


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, "input 'x' is missing"),
        ({"x": np.zeros(3)}, "is float64, not float32"),
        ({"x": np.zeros((3, 1), np.float32)}, "has shape [3, 1]"),
        ({"x": ["a"]}, "holds something that is no number"),
        ({"x": [[1], [1, 2]]}, "rows are of different lengths"),
        ({"x": [1.0], "y": 1}, "'y' is not one of this model's"),
    ],
)
async def test_inputs_that_do_not_fit_are_refused_before_anything_starts(
    tmp_path: Path, inputs: dict[str, Any], told: str
) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, DOUBLE, inputs=(X,))
        with pytest.raises(InputInvalid, match="x") as caught:
            await m.run("model", inputs)
        assert told in caught.value.message
        assert await log_kinds(m) == ["change", "refused"]


async def test_plain_numbers_become_what_the_spec_asks_for(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, DOUBLE, inputs=(X,))
        assert (await m.run("model", {"x": [1, 2.5]})).outputs["y"].dtype == np.float32


async def test_numbers_that_the_spec_cannot_hold_are_refused_not_cut(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, ECHO, inputs=(TensorSpec(name="x", dtype="uint8", shape=()),))
        assert (await m.run("model", {"x": 255})).outputs["x"] == 255
        for beyond in (256, -1, 1.5):
            with pytest.raises(InputInvalid):
                await m.run("model", {"x": beyond})


@pytest.mark.parametrize(
    ("reference", "on", "error"),
    [("nosuch", None, ModelNotFound), ("mo del", None, UsageError), ("model", "gpu1", PlacementNotFound)],
)
async def test_a_refusal_is_on_record_with_the_reference_as_it_was_typed(
    tmp_path: Path, reference: str, on: str | None, error: type[Exception]
) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, ECHO)
        await m.servers.register(m.actor, "gpu1", parameters={"address": "gpu1"})
        with pytest.raises(error):
            await m.run(reference, {}, on=on)
        refused = (await bodies(m))[-1]
    assert (refused["kind"], refused["reference"], refused["outcome"]) == ("refused", reference, "refused")


async def test_a_cancelled_call_is_on_record_as_cancelled(tmp_path: Path) -> None:
    source = """
        import time

        def load():
            def handle(tensors):
                print("running", flush=True)
                time.sleep(60)
            return handle
    """
    async with running(tmp_path) as m:
        await register(m, tmp_path, source)
        running_now = asyncio.Event()
        task = asyncio.create_task(m.run("model", {}, on_log=lambda *_: running_now.set()))
        await asyncio.wait_for(running_now.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        page = await m.log.list(AccessFilter(outcome=Outcome.CANCELLED))
        assert len(page.items) == 1


async def test_callers_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    async with running(tmp_path, max_workers=2) as m:
        await register(m, tmp_path, DOUBLE, inputs=(X,))
        results = await asyncio.gather(*(m.run("model", {"x": [n]}) for n in range(20)))
        assert [float(r.outputs["y"][0]) for r in results] == [2.0 * n for n in range(20)]
        assert (await m.log.verify()).sound
        assert (await log_kinds(m)).count("finished") == 20


async def test_a_command_keeps_its_state_between_requests(tmp_path: Path) -> None:
    script = """
        echo '@!#READY#!@'; n=0
        while read -r line; do
            case $line in
                *EXIT*) exit;;
                *START*) read -r text; read -r stop; n=$((n+1)); echo "$n $text";;
            esac
        done
    """
    spec = VersionSpec(runner="command", command=Command(argv=("/bin/sh", "-c", script)))
    async with running(tmp_path) as m:
        await m.register_model("chat", spec=spec)
        first = await m.run("chat", {"text": "hello"})
        second = await m.run("chat", {"text": "again"})
    assert [list(r.outputs.values()) for r in (first, second)] == [["1 hello"], ["2 again"]]


async def test_a_relative_program_without_a_package_is_refused(tmp_path: Path) -> None:
    from mer.core.errors import ConfigurationError

    async with running(tmp_path) as m:
        with pytest.raises(ConfigurationError, match="absolute"):
            await m.register_model("chat", spec=VersionSpec(runner="command", command=Command(argv=("chat",))))


async def test_a_new_version_is_run_once_its_alias_is_moved(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path / "1", ECHO)
        await register(m, tmp_path / "2", DOUBLE)
        x = np.ones(1)
        assert "x" in (await m.run("model", {"x": x})).outputs
        await m.models.alias(m.actor, "model", "default", 2)
        assert "y" in (await m.run("model", {"x": x})).outputs
        assert "x" in (await m.run("model:1", {"x": x})).outputs


async def test_weights_are_swapped_apart_from_code(tmp_path: Path) -> None:
    source = """
        def load(weights):
            return lambda tensors: {"sum": weights["w"].sum(), "writable": bool(weights["w"].flags.writeable)}
    """
    async with running(tmp_path) as m:
        for value in (1, 2):
            np.savez(tmp_path / f"{value}.npz", w=np.full(4, value, np.float32))
            await m.register_weights("net", tmp_path / f"{value}.npz")
        package = tmp_path / "package"
        package.mkdir()
        (package / "handler.py").write_text(__import__("textwrap").dedent(source))
        from tests.support.running import python_spec

        await m.register_model("model", package, spec=python_spec(), weights="net:1")
        swapped = await m.use_weights("model", "net:2")
        first, second = await m.run("model", {}), await m.run(f"model:{swapped.version.number}", {})
    assert (float(first.outputs["sum"]), float(second.outputs["sum"])) == (4.0, 8.0)
    assert first.outputs["writable"] is False


async def test_pings_tell_each_step(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, ECHO)
        assert [(step.name, step.ok) for step in await m.ping_model("model")] == [("content", True), ("worker", True)]
        assert all(step.ok for step in await m.ping_server("local"))


async def test_a_ping_of_a_model_says_when_large_tensors_share_no_memory(tmp_path: Path) -> None:
    async with running(tmp_path, shared_memory=0) as m:
        await register(m, tmp_path, ECHO)
        assert "no shared memory for large tensors: it is turned off" in (await m.ping_model("model"))[-1].detail


async def test_a_ping_of_a_model_that_does_not_load_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, "def load(:\n")
        steps = await m.ping_model("model")
    assert [(step.name, step.ok, step.exit_code) for step in steps] == [("content", True, 0), ("worker", False, 1)]


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), 0, -1, "5", True])
async def test_a_timeout_that_is_none_is_refused_and_jams_nothing(tmp_path: Path, timeout: Any) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, ECHO)
        await m.run("model", {"x": "a"}, timeout=20)
        with pytest.raises(UsageError, match="finite number of seconds above 0"):
            await m.run("model", {"x": "a"}, timeout=timeout)
        assert (await m.run("model", {"x": "a"}, timeout=20)).outputs == {"x": "a"}
