"""Calls over SSH against a bare asyncssh channel (yardsticks/ssh.py), over a private sshd on loopback in the same run.

    python benchmarks/ssh_call.py [--what call echo start delayed] [--rounds 3] [--quick]

`call` is a warm call of 1 KiB against a byte there and back; `echo` is 64 MiB there and back; `start` is from nothing to the
first prediction, on a host never seen and on one that has the worker's code, against connecting and importing numpy there;
`delayed` is an output of 64 MiB through a round trip of 50 ms. The sshd is a real one, run for this, and its host key is trusted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
import asyncssh
import numpy as np
from yardsticks import delay
from yardsticks import ssh as bare

from mer.core.specs import VersionSpec
from mer.meal.loaded import WorkerModel
from mer.meal.plan import WorkerPlan
from mer.meal.ssh.reaching import CIPHERS
from mer.meal.starting import start
from tests.support import sshd

BAR_CALL, BAR_ECHO, BAR_DELAYED = 1.5, 1 / 0.85, 1 / 0.8
BAR_FIRST, BAR_WARM = 4.0, 2.5
DELAY_SECONDS = 0.025
"""Each way."""

HANDLER = """
def load():
    return handle

def handle(inputs, context):
    count = inputs.get("count")
    return {"x": context.empty((int(count),), "uint8")} if count is not None else inputs
"""


def plan(folder: Path) -> WorkerPlan:
    """Return what is loaded: an echo, which also makes outputs of a size that it is told."""
    options: dict[str, Any] = {"entrypoint_package": "handler", "entrypoint_fn": "load"}
    return WorkerPlan(
        key="echo:1", spec=VersionSpec(runner="python", options=options), package=None, model_folder=folder / "model"
    )


def options(server: sshd.Sshd, port: int | None = None) -> dict[str, Any]:
    """Return what the bare connection is made with: as ours is."""
    known = dict(server.options())
    if port is not None:
        Path(known["known_hosts"]).write_text(server.known_hosts_line.replace(str(server.port), str(port)))
    return {
        "port": port or server.port,
        "username": server.user,
        "encryption_algs": list(CIPHERS),
        "compression_algs": None,
        **known,
    }


@contextlib.asynccontextmanager
async def model(server: sshd.Sshd, folder: Path, port: int | None = None) -> AsyncIterator[WorkerModel]:
    given = {} if port is None else {"port": port, "operator": sshd.operator(server, port=port)}
    host = sshd.host(server, **given)
    session = await start(host, plan(folder))
    async with WorkerModel(host, plan(folder), session, None) as loaded:
        yield loaded


async def call(server: sshd.Sshd, folder: Path, rounds: int, calls: int) -> dict[str, Any]:
    ours, theirs = [], []
    inputs = {"x": np.zeros(256, dtype="float32")}
    async with model(server, folder) as loaded, asyncssh.connect(sshd.HOST, **options(server)) as connection:
        for _ in range(rounds):
            theirs.append(await bare.ping(connection, calls))
            times = []
            for _ in range(calls):
                began = time.perf_counter()
                await loaded.infer(inputs)
                times.append(time.perf_counter() - began)
            ours.append(statistics.median(times[calls // 10 :]))
    return compared(ours, theirs, BAR_CALL)


async def echo(server: sshd.Sshd, folder: Path, rounds: int, size: int) -> dict[str, Any]:
    ours, theirs = [], []
    inputs = {"x": np.frombuffer(os.urandom(size), dtype="uint8")}
    async with model(server, folder) as loaded, asyncssh.connect(sshd.HOST, **options(server)) as connection:
        await loaded.infer(inputs)
        for _ in range(rounds):
            theirs.append(await bare.echo(connection, sys.executable, size, 3))
            times = []
            for _ in range(3):
                began = time.perf_counter()
                await loaded.infer(inputs)
                times.append(time.perf_counter() - began)
            ours.append(statistics.median(times))
    return compared(ours, theirs, BAR_ECHO)


async def first(server: sshd.Sshd, folder: Path, rounds: int, cache: Path, *, warm: bool) -> dict[str, Any]:
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(await bare.connected(sys.executable, sshd.HOST, **options(server)))
        if not warm:
            shutil.rmtree(cache / "mer-worker", ignore_errors=True)
        began = time.perf_counter()
        async with model(server, folder) as loaded:
            await loaded.infer({"x": np.zeros(256, dtype="float32")})
            ours.append(time.perf_counter() - began)
    return compared(ours, theirs, BAR_WARM if warm else BAR_FIRST)


async def delayed(server: sshd.Sshd, folder: Path, rounds: int, size: int) -> dict[str, Any]:
    ours, theirs = [], []
    async with delay.proxy(sshd.HOST, server.port, DELAY_SECONDS) as port:
        given = options(server, port)
        async with model(server, folder, port) as loaded, asyncssh.connect(sshd.HOST, **given) as connection:
            await loaded.infer({"count": np.int64(1)})
            for _ in range(rounds):
                theirs.append(await bare.download(connection, size, 1))
                began = time.perf_counter()
                await loaded.infer({"count": np.int64(size)})
                ours.append(time.perf_counter() - began)
    return compared(ours, theirs, BAR_DELAYED)


def compared(ours: list[float], theirs: list[float], bar: float) -> dict[str, Any]:
    """Return the medians in milliseconds, their ratio, and whether the bar holds."""
    mine, bare_one = statistics.median(ours), statistics.median(theirs)
    ratio = mine / bare_one
    return {
        "ours_ms": round(1e3 * mine, 3),
        "bare_ms": round(1e3 * bare_one, 3),
        "ratio": round(ratio, 2),
        "bar": round(bar, 2),
        "held": ratio <= bar,
        "rounds": [round(a / b, 2) for a, b in zip(ours, theirs, strict=True)],
    }


async def measure(what: list[str], rounds: int, quick: bool) -> None:
    size = (4 if quick else 64) << 20
    calls = 200 if quick else 2000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        (folder / "model" / "handler.py").write_text(HANDLER)
        cache = folder / "cache"
        cache.mkdir(mode=0o700)
        with sshd.running(folder / "sshd", environment={"XDG_CACHE_HOME": str(cache)}) as server:
            if "start" in what:
                print("first", json.dumps(await first(server, folder, rounds, cache, warm=False)))
                print("warm", json.dumps(await first(server, folder, rounds, cache, warm=True)))
            if "call" in what:
                print("call", json.dumps(await call(server, folder, rounds, calls)))
            if "echo" in what:
                print("echo", json.dumps(await echo(server, folder, rounds, size)))
            if "delayed" in what:
                print("delayed", json.dumps(await delayed(server, folder, rounds, size)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = ["call", "echo", "start", "delayed"]
    parser.add_argument("--what", nargs="+", choices=steps, default=steps)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="little of everything: to see that it runs")
    given = parser.parse_args()
    asyncio.run(measure(given.what, 1 if given.quick else given.rounds, given.quick))


if __name__ == "__main__":
    main()
