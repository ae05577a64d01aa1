"""How a version is run, as it is typed, kept and shown."""

from __future__ import annotations

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
            "wall seconds 30, load seconds 60, memory bytes 1610612736, cpu seconds 2.5, open files 64, processes 0,"
            " log bytes 65536, calls 1000"
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
        ("--memory-limit 0", 78, "memory_bytes"),
        ("--concurrency 0", 2, "concurrency"),
        ("--concurrency 100000", 2, "1024"),
        ("--batch 100000", 2, "512"),
        ("--batch-delay 1e9", 2, "60000"),
        ("--max-workers 100000", 2, "1024"),
        ("--batch-delay 3", 2, "--batch"),
        ("--batch 4 --concurrency 2", 78, "one at a time"),
        ("--min-workers 3 --max-workers 2", 78, "mer.workers.min"),
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
    assert (typed.code, why in typed.err) == (78, True), typed.err


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
