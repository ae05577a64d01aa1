"""Pushing content to a far host against asyncssh's SFTP put of as much, over a private sshd on loopback in the same run.

    python benchmarks/ssh_push.py [--megabytes 256] [--tensors 8] [--rounds 3] [--delay MILLISECONDS]

Ours is hashed on the way, synced and verified there before it counts; SFTP's is written. With a delay (each way) a proxy
stands before the sshd, and ours goes over several channels.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
import asyncssh
from yardsticks import delay

from mer.meal.blobs import Blob
from mer.meal.pushing import Push
from mer.meal.session import Session
from mer.meal.ssh.host import SshHost
from mer.meal.ssh.reaching import CIPHERS
from tests.support import sshd

BAR = 1 / 0.8


def options(server: sshd.Sshd, port: int) -> dict[str, Any]:
    """Return what the bare connection is made with: as ours is."""
    known = dict(server.options())
    Path(known["known_hosts"]).write_text(server.known_hosts_line.replace(str(server.port), str(port)))
    return {
        "port": port,
        "username": server.user,
        "encryption_algs": list(CIPHERS),
        "compression_algs": None,
        **known,
    }


def blobs_of(folder: Path, megabytes: int, tensors: int) -> list[Blob]:
    """Write the tensors, and one file with all of them for SFTP."""
    made = []
    with (folder / "whole").open("wb") as whole:
        for number in range(tensors):
            content = os.urandom((megabytes << 20) // tensors)
            path = folder / f"tensor-{number}"
            path.write_bytes(content)
            whole.write(content)
            made.append(Blob(digest=hashlib.sha256(content).hexdigest(), source=path, size=len(content)))
    return made


async def ours(host: SshHost, cache: Path, blobs: list[Blob]) -> float:
    """Return the seconds that a push over an open session takes."""

    async def opened() -> Session:
        return await Session.start(await host.open(await host.prepare()))

    session = await opened()
    shutil.rmtree(cache / "mer-worker" / "blobs", ignore_errors=True)
    began = time.perf_counter()
    await Push("far", blobs, {}).over(session, opened)
    seconds = time.perf_counter() - began
    await session.close()
    return seconds


async def theirs(connection: asyncssh.SSHClientConnection, source: Path, target: Path) -> float:
    """Return the seconds that an SFTP put over an open connection takes."""
    async with connection.start_sftp_client() as sftp:
        target.unlink(missing_ok=True)
        began = time.perf_counter()
        await sftp.put(str(source), str(target))
        return time.perf_counter() - began


async def measure(megabytes: int, tensors: int, rounds: int, milliseconds: float) -> dict[str, Any]:
    """Push by both in turn, and return what each of them took."""
    with tempfile.TemporaryDirectory(prefix="mer-push-") as name:
        folder = Path(name)
        cache = folder / "cache"
        cache.mkdir(mode=0o700)
        blobs = blobs_of(folder, megabytes, tensors)
        with sshd.running(folder / "sshd", environment={"XDG_CACHE_HOME": str(cache)}) as server:
            async with contextlib.AsyncExitStack() as stack:
                port = server.port
                if milliseconds:
                    port = await stack.enter_async_context(delay.proxy(sshd.HOST, server.port, milliseconds / 1e3))
                connection = await stack.enter_async_context(asyncssh.connect(sshd.HOST, **options(server, port)))
                operator = sshd.operator(server, port=port)
                reached = sshd.connection(server, port=port, operator=operator)
                host = SshHost("far", reached, python=sys.executable, shared_cache=True)
                stack.push_async_callback(host.aclose)
                found: dict[str, list[float]] = {"ours": [], "sftp": []}
                for _ in range(rounds):
                    await asyncio.to_thread(
                        os.sync
                    )  # what one of them left to be written is not the other's to wait for
                    found["sftp"].append(await theirs(connection, folder / "whole", folder / "target"))
                    await asyncio.to_thread(os.sync)
                    found["ours"].append(await ours(host, cache, blobs))
    best = {what: min(seconds) for what, seconds in found.items()}
    ratio = statistics.median(found["ours"]) / statistics.median(found["sftp"])
    return {
        "MiB/s": {what: round(megabytes / seconds, 1) for what, seconds in best.items()},
        "seconds": {what: [round(one, 3) for one in seconds] for what, seconds in found.items()},
        "ratio": round(ratio, 3),
        "bar": round(BAR, 3),
        "holds": ratio <= BAR,
        "driver MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def main() -> None:
    """Measure, and write what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--tensors", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.0, metavar="MILLISECONDS")
    given = parser.parse_args()
    found = asyncio.run(measure(given.megabytes, given.tensors, given.rounds, given.delay))
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
