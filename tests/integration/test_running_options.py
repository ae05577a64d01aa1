"""How a version is run, as it is typed, kept and shown."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.running import folder_with, running
from tests.support.typing_in import Terminal, environ_of

HANDLER = """
    import os, time
    def load():
        def handle(inputs):
            time.sleep(inputs["x"])
            return {"pid": os.getpid()}
        return handle
"""

EVERY = (
    "--run-limit 30 --load-limit 60 --memory-limit 1.5G --cpu-limit 2.5 --open-files-limit 64 --processes-limit 0"
    " --log-limit 64KiB --calls-limit 1000 --concurrency 4 --min-workers 1 --max-workers 2"
)


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    async with running(tmp_path) as mer:
        yield Terminal(mer, environ_of(tmp_path))


def registering(folder: Path, options: str) -> str:
    package = folder_with(folder / "model", HANDLER)
    return f"-a model register model {package} --entry handler:load --arrays buffer {options}"


async def test_every_option_is_kept_and_shown(terminal: Terminal, tmp_path: Path) -> None:
    typed = await terminal.type(registering(tmp_path, EVERY))
    assert typed.code == 0, typed.err
    shown = (await terminal.type("model show model:1")).out
    for text in (
        (
            "wall 30 s, load 60 s, memory 1610612736 bytes, cpu 2.5 s, open files 64, processes 0,"
            " log 65536 bytes, calls 1000"
        ),
        "1 to 2",
        "arrays buffer",
    ):
        assert text in " ".join(shown.split())
    spec = json.loads((await terminal.type("--json model show model:1")).out)["versions"]["items"][0]["spec"]
    assert spec["concurrency"] == 4
    assert spec["workers"] == {"min": 1, "max": 2}
    assert spec["limits"]["processes"] == 0


async def test_a_batch_is_kept_and_shown(terminal: Terminal, tmp_path: Path) -> None:
    typed = await terminal.type(registering(tmp_path, "--batch 16 --batch-delay 2.5"))
    assert typed.code == 0, typed.err
    assert "up to 16, waits 2.5 ms for more" in (await terminal.type("model show model:1")).out


async def test_what_is_as_usual_is_not_shown(terminal: Terminal, tmp_path: Path) -> None:
    await terminal.type(registering(tmp_path, ""))
    shown = (await terminal.type("model show model:1")).out
    assert not any(word in shown for word in ("limits", "concurrency", "batch", "workers"))


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        ("--memory-limit 5x", 2, "a number of bytes is meant"),
        ("--memory-limit 0", 2, "--memory-limit is 0: an integer from 33554432"),
        ("--memory-limit 31M", 2, "--memory-limit is 32505856: an integer from 33554432"),
        ("--open-files-limit 15", 2, "--open-files-limit is 15: an integer from 16"),
        ("--concurrency 0", 2, "concurrency"),
        ("--concurrency 100000", 2, "1024"),
        ("--batch 100000", 2, "512"),
        ("--batch-delay 1e9", 2, "60000"),
        ("--max-workers 100000", 2, "1024"),
        ("--batch-delay 3", 2, "--batch"),
        ("--batch 4 --concurrency 2", 2, "--batch and --concurrency: a worker that takes batches has one at a time"),
        ("--min-workers 3 --max-workers 2", 2, "--min-workers is 3: from 0 to --max-workers, 2, is meant"),
        ("--calls-limit 0", 2, "calls-limit"),
    ],
)
async def test_what_cannot_be_is_refused(terminal: Terminal, tmp_path: Path, options: str, code: int, why: str) -> None:
    typed = await terminal.type(registering(tmp_path, options))
    assert (typed.code, why in typed.err) == (code, True), typed.err


@pytest.mark.parametrize(
    ("options", "why"),
    [("--concurrency 2", "one request at a time"), ("--start-token A --stop-token A", "two of them are the same")],
)
async def test_a_program_of_the_host_is_held_to_the_same(terminal: Terminal, options: str, why: str) -> None:
    typed = await terminal.type(f"-a model register program {options} -- /bin/cat")
    assert (typed.code, why in typed.err) == (2, True), typed.err
    assert "mer." not in typed.err


async def test_the_least_that_a_worker_may_have_is_enough_for_it(terminal: Terminal, tmp_path: Path) -> None:
    await terminal.type(registering(tmp_path, "--memory-limit 32M --open-files-limit 16"))
    for _ in range(2):
        typed = await terminal.type("run model --input x=0")
        assert typed.code == 0, typed.err


async def test_the_version_that_a_bare_name_means_is_shown(terminal: Terminal, tmp_path: Path) -> None:
    for options in ("--calls-limit 111", "--calls-limit 222"):
        await terminal.type(registering(tmp_path, options))
    assert "calls 111" in (await terminal.type("model show model")).out
    await terminal.type("-a model alias model default 2")
    assert "calls 222" in (await terminal.type("model show model")).out
    assert "calls 111" in (await terminal.type("model show model:1")).out
    await terminal.type("-a model alias model default --remove")
    assert "calls 222" in (await terminal.type("model show model")).out  # the newest


async def test_input_parts_that_nobody_asks_for_are_told(terminal: Terminal, tmp_path: Path) -> None:
    await terminal.type(registering(tmp_path, ""))
    parts = tmp_path / "parts.jsonl"
    parts.write_text('{"x": 1}\n')
    typed = await terminal.type(f"run model --input x=0 --input-parts {parts}")
    assert typed.code == 0, typed.err
    assert "asked for no further inputs" in typed.err


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="there is torch")
async def test_a_worker_without_torch_says_how_to_get_it(terminal: Terminal, tmp_path: Path) -> None:
    await terminal.type(registering(tmp_path, "--arrays torch"))
    typed = await terminal.type("run model --input x=0")
    assert typed.code == 78
    assert "-m pip install torch" in typed.err


async def test_a_run_beyond_a_limit_says_which_and_how_to_raise_it(terminal: Terminal, tmp_path: Path) -> None:
    await terminal.type(registering(tmp_path, "--run-limit 0.3"))
    typed = await terminal.type("run model --input x=60")
    assert typed.code == 124
    assert "longer than its limit of 0.3 s" in typed.err
    assert "--run-limit" in typed.err
    typed = await terminal.type("--json run model --input x=60")
    assert json.loads(typed.err.splitlines()[-1])["error"]["code"] == "limit:wall"


async def test_a_ping_tells_what_the_model_is_busy_with(terminal: Terminal, tmp_path: Path) -> None:
    await terminal.type(registering(tmp_path, ""))
    typed = await terminal.type("model ping model")
    assert (typed.code, "idle" in typed.out) == (0, True), typed.out
