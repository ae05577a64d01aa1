"""Workers of the test's own: a handler from source, hosts over temporary folders, processes looked for afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from mer.core.specs import VersionSpec
from mer.meal.host import Host
from mer.meal.local import LocalHost
from mer.meal.plan import WeightFile, WorkerPlan
from mer.meal.session import Session
from mer.meal.starting import start_once
from tests.support import compiled

ECHO = "def load():\n    return lambda inputs: inputs\n"


def local_host(folder: Path, **given: Any) -> LocalHost:
    return LocalHost(scratch_folder=folder / "scratch", **{"cache_folder": compiled.cache(), **given})


def handler_folder(folder: Path, source: str) -> Path:
    """Write the source of a module `handler`, whose `load` gives the handler."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "handler.py").write_text(textwrap.dedent(source))
    return folder


def plan_of(
    folder: Path,
    source: str = ECHO,
    *,
    weights: tuple[WeightFile, ...] | None = None,
    load_seconds: float = 30.0,
    **spec: Any,
) -> WorkerPlan:
    options = {"entrypoint_package": "handler", "entrypoint_fn": "load", **spec.pop("options", {})}
    return WorkerPlan(
        key=f"{folder.name}:1",
        spec=VersionSpec(runner="python", options=options, **{"arrays": "buffer", **spec}),
        package=None,
        model_folder=handler_folder(folder, source),
        weights=weights,
        load_seconds=load_seconds,
    )


@contextlib.asynccontextmanager
async def session_with(
    folder: Path, source: str = ECHO, *, host: Host | None = None, **given: Any
) -> AsyncIterator[Session]:
    """Give a session whose worker has loaded the handler."""
    on_log = given.pop("on_log", None)
    plan = plan_of(folder / "model", source, **given)
    loop = asyncio.get_running_loop()
    session = await start_once(
        host or local_host(folder),
        plan,
        deadline=loop.time() + plan.load_seconds,
        arrays=plan.spec.arrays,
        on_log=on_log,
    )
    try:
        yield session
    finally:
        await session.close()


def soon(seconds: float) -> float:
    """Return a deadline: the loop's time after so many seconds."""
    return asyncio.get_running_loop().time() + seconds


def state(pid: int) -> str:
    """Return the process's state as the kernel has it; "X" for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    return state(pid) not in "ZX"


async def until(true: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.01)


async def eventually(ask: Callable[[], Coroutine[Any, Any, bool]], *, seconds: float = 10.0) -> None:
    """Ask until it is so."""
    end = time.monotonic() + seconds
    while not await ask():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.02)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
