"""A driver that is killed at each step of an invocation: what it left open becomes `lost`, and nothing goes on running."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import mer
from mer.core.records import AccessFilter, RecordKind
from tests.support.documents import ROOT
from tests.support.installation import MER, Installation, workers_of
from tests.support.running import folder_with, python_spec

KILLS_ITS_DRIVER = {
    "while loading": """
        import os, signal, time

        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    """,
    "while it runs": """
        import os, signal, subprocess, time

        def load():
            def handle(tensors):
                subprocess.Popen(["sleep", "600"], start_new_session=True)
                os.kill(os.getppid(), signal.SIGKILL)
                while True:
                    pass
            return handle
    """,
    "well": """
        def load():
            return lambda tensors: {}
    """,
    "nothing": """
        def load():
            return lambda tensors: {}
    """,
    "slow": """
        import time

        def load():
            def handle(tensors):
                print("running", flush=True)
                time.sleep(5)
                return {}
            return handle
    """,
}


@pytest.fixture(scope="session")
def kills(installed: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    async def register_all() -> None:
        async with mer.open(state_folder=installed.folder, allow_changes=True) as m:
            for name, source in KILLS_ITS_DRIVER.items():
                folder = folder_with(tmp_path_factory.mktemp("kills"), source)
                await m.register_model(name.replace(" ", "-"), folder, spec=python_spec(arrays="buffer"))

    asyncio.run(register_all())
    return installed


def run_until_killed(kills: Installation, step: str, reference: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_driver", step, reference],
        env=kills.variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


async def outcomes_since(kills: Installation, seq: int) -> list[str]:
    """How runs ended, as the next driver finds it: it takes a lease, and looks at those of the dead."""
    async with mer.open(state_folder=kills.folder) as m:
        await m.run("nothing")
        page = await m.log.list(AccessFilter(kind=RecordKind.FINISHED))
        assert (await m.log.verify()).sound
    return [
        f"{record.columns['model']}: {record.columns['outcome']}"
        for record in reversed(page.items)
        if record.seq > seq and record.columns["model"] != "nothing"
    ]


async def head(kills: Installation) -> int:
    async with mer.open(state_folder=kills.folder) as m:
        await m.run("nothing")  # what tests before left open is recorded now
        return (await m.log.checkpoint()).seq


@pytest.mark.parametrize(
    ("step", "reference", "outcomes"),
    [
        ("before started", "well", []),
        ("before the worker", "well", ["well: lost"]),
        ("by the model", "while-loading", ["while-loading: lost"]),
        ("by the model", "while-it-runs", ["while-it-runs: lost"]),
        ("before finished", "well", ["well: lost"]),
        ("before the lease is given back", "well", ["well: succeeded"]),
    ],
)
async def test_what_a_killed_driver_left_open_becomes_lost(
    kills: Installation, step: str, reference: str, outcomes: list[str]
) -> None:
    before = await head(kills)
    run_until_killed(kills, step, reference)
    assert await outcomes_since(kills, before) == outcomes


@pytest.mark.parametrize("reference", ["while-loading", "while-it-runs"])
def test_no_worker_of_a_killed_driver_is_left_running(kills: Installation, reference: str) -> None:
    run_until_killed(kills, "by the model", reference)
    end = time.monotonic() + 15
    while time.monotonic() < end and workers_of(f"{kills.folder}/scratch"):
        time.sleep(0.05)
    assert workers_of(f"{kills.folder}/scratch") == []


@contextmanager
def driver_that_runs(kills: Installation) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [str(MER), "run", "slow"],
        env=kills.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "running" in process.stderr.readline()
        yield process


async def test_a_run_of_another_living_driver_is_left_alone(kills: Installation) -> None:
    before = await head(kills)
    with driver_that_runs(kills) as living:
        run_until_killed(kills, "before finished", "well")
        assert await outcomes_since(kills, before) == ["well: lost"]
        assert living.wait(30) == 0
    assert await outcomes_since(kills, before) == ["well: lost", "slow: succeeded"]


async def test_a_driver_that_is_asked_to_stop_puts_its_run_on_record_as_cancelled(kills: Installation) -> None:
    before = await head(kills)
    with driver_that_runs(kills) as living:
        assert kills.json("driver", "list")["items"][0]["lease"]["pid"] == living.pid
        assert "1 driver ended" in kills.mer("driver", "stop").stdout
        assert living.wait(30) == 130
    assert await outcomes_since(kills, before) == ["slow: cancelled"]
