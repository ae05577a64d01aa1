"""A far host whose interpreter is the oldest that is promised, and a new one: through a real sshd, from bootstrap to blobs.

Not part of the plain run, since it fetches 20 MB of each Debian: `run_tests.sh --interpreters`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.api import Mer
from mer.core.errors import DeadlineExceeded, ModelFailed
from mer.core.records import ServerKind
from tests.support import sshd
from tests.support.old_pythons import SUITES, root_of
from tests.support.registry import ADA
from tests.support.running import folder_with, python_spec, running

HANDLER = """
    import sys, time

    def load(weights):
        kernel = weights["kernel"]

        def handle(inputs, context):
            do = inputs.get("do", {})
            time.sleep(do.get("sleep", 0))
            if "fail" in do:
                raise ValueError(do["fail"])
            if "parts" in do:
                return ({"number": number} for number in range(do["parts"]))
            if "double" in do:
                return ({"x": part["x"] * 2} for part in context.parts())
            if "version" in do:
                return {"version": list(sys.version_info[:2]), "bytes": len(bytes(kernel.data))}
            return {name: value for name, value in inputs.items()}

        return handle
"""

KERNEL = np.arange(1 << 20, dtype=np.float32)


@pytest.fixture(scope="module", params=SUITES)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    with root_of(request.param, tmp_path_factory.mktemp("roots")) as folder:
        yield request.param, folder


@contextlib.asynccontextmanager
async def far_mer(root: Path, folder: Path) -> AsyncIterator[Mer]:
    """Give a Mer with a server `far` whose python is the root's."""
    if not sshd.available():
        pytest.skip("no sshd here (on Debian: apt-get install openssh-server)")
    python = folder / "python of another time"
    python.write_text(f'#!/bin/sh\nexec chroot "{root}" /usr/bin/python3 "$@"\n')
    python.chmod(stat.S_IRWXU)
    environment = {"HOME": "/srv/far home"}
    with sshd.running(folder / "sshd", environment=environment) as server:
        operator = sshd.operator(server)
        async with running(folder, ssh_config=str(operator.config)) as m:
            parameters = {"address": sshd.HOST, "port": server.port, "user": server.user, "python": str(python)}
            await m.servers.register(ADA, "far", kind=ServerKind.SSH, parameters=parameters)
            yield m


async def registered(m: Mer, folder: Path, source: str = HANDLER) -> None:
    np.savez(folder / "kernel.npz", kernel=KERNEL)
    await m.register_weights("kernel", folder / "kernel.npz")
    package = folder_with(folder / "package", source)
    await m.register_model("model", package, spec=python_spec(arrays="buffer"), weights="kernel")
    await m.placements.place(ADA, "model", "far")


async def doing(m: Mer, do: dict[str, Any], **given: Any) -> Any:
    return (await m.run("model", {"do": do}, on="far", **given)).outputs


async def test_a_model_of_weights_lives_there_as_it_would_here(root: tuple[str, Path], tmp_path: Path) -> None:
    suite, folder = root
    async with far_mer(folder, tmp_path) as m:
        steps = await m.ping_server("far")
        assert all(step.ok for step in steps), steps
        await registered(m, tmp_path)
        # bootstrapped, content pushed by digest, loaded
        assert await doing(m, {"version": 1}) == {"version": list(SUITES[suite]), "bytes": KERNEL.nbytes}
        large = np.arange(1 << 20, dtype="<i4")
        back = (await m.run("model", {"x": large, "s": ["a", "ö"], "b": b"raw"}, on="far")).outputs
        assert bytes(back["x"].data) == large.tobytes()
        assert (back["s"], back["b"]) == (["a", "ö"], b"raw")
        with pytest.raises(ModelFailed, match="ValueError: no"):
            await doing(m, {"fail": "no"})
        # streams, both ways
        assert [part["number"] async for part in m.stream("model", {"do": {"parts": 100}}, on="far")] == list(
            range(100)
        )
        given = [{"x": text} for text in ("a", "b")]
        doubled = [part["x"] async for part in m.stream("model", {"do": {"double": 1}}, parts=given, on="far")]
        assert doubled == ["aa", "bb"]
        # a deadline and a cancel stop the handler, and the worker stays
        with pytest.raises(DeadlineExceeded):
            await doing(m, {"sleep": 60}, timeout=0.5)
        asleep = asyncio.ensure_future(doing(m, {"sleep": 60}))
        await asyncio.sleep(0.5)
        asleep.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asleep
        assert (await doing(m, {"version": 1}))["version"] == list(SUITES[suite])
        # freed again
        await m.placements.remove(ADA, "model", "far")
        assert (await m.far_content.collect(ADA, "far", grace_seconds=0, plan=True)).parts == 0
    blobs = folder / "srv" / "far home" / ".cache" / "mer-worker" / "blobs"
    assert max(blob.stat().st_size for blob in blobs.rglob("*") if blob.is_file()) == KERNEL.nbytes


async def test_numpy_that_is_not_there_is_named_with_the_interpreter(root: tuple[str, Path], tmp_path: Path) -> None:
    async with far_mer(root[1], tmp_path) as m:
        await registered(m, tmp_path, "import numpy.linalg\n\ndef load(weights):\n    return dict\n")
        with pytest.raises(ModelFailed, match="No module named 'numpy'") as caught:
            await m.run("model", {"x": "text"})
        assert "far runs it by /usr/bin/python3: install what provides numpy" in (caught.value.hint or "")
        record = json.loads((await m.log.list(limit=1)).items[0].body)
        assert (record["server"], record["outcome"]) == ("far", "failed")
