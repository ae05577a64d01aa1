"""The worker on the oldest Python that it promises, and on a new one: real ones, in a root of their own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mer_worker
from mer.core.errors import DeadlineExceeded, ModelFailed
from mer.meal.host import Launch
from mer.meal.local import LocalHost
from mer.meal.session import Session
from mer_worker.tensors import Buffer, encode
from tests.support.old_pythons import SUITES, root_of
from tests.support.peers import PEERS, PYTHON_HANDLER
from tests.support.workers import soon

CODE, MODELS = "/opt/driver", "/opt/models"


@pytest.fixture(scope="module", params=SUITES)
def root(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Give the folder of a small Debian with the worker's code in it."""
    with root_of(request.param, tmp_path_factory.mktemp("roots")) as folder:
        try:
            shutil.copytree(Path(mer_worker.__file__).parent, folder / CODE[1:] / "mer_worker")
            (folder / MODELS[1:]).mkdir()
            yield folder, SUITES[request.param]
        finally:
            for gone in (folder / CODE[1:], folder / MODELS[1:]):
                shutil.rmtree(gone, ignore_errors=True)


class RootHost(LocalHost):
    """Workers within that root."""

    def __init__(self, root: Path, folder: Path) -> None:
        super().__init__(scratch_folder=folder / "scratch", cache_folder=folder / "cache")
        self._root = root

    async def prepare(self) -> Launch:
        launch = await super().prepare()
        program = "import sys;sys.path.insert(0,sys.argv.pop(1));from mer_worker.__main__ import main;main()"
        argv = ("chroot", str(self._root), "python3", "-I", "-S", "-W", "error", "-c", program, CODE)
        return replace(launch, argv=argv, environment={**launch.environment, "TMPDIR": "/tmp"})


@contextlib.asynccontextmanager
async def session(root: Path, folder: Path, source: str) -> AsyncIterator[Session]:
    """Give a session with a worker there."""
    plan = PEERS[0].plan(folder, source=source)
    shutil.copytree(folder / "model", root / MODELS[1:], dirs_exist_ok=True)
    host = RootHost(root, folder)
    opened = await Session.start(await host.open(await host.prepare()), arrays="buffer")
    try:
        await opened.load(plan.fields() | {"folder": MODELS}, deadline=soon(60))
        yield opened
    finally:
        await opened.close()


@pytest.mark.slow
async def test_a_worker_there_does_what_a_worker_here_does(root: tuple[Path, tuple[int, int]], tmp_path: Path) -> None:
    folder, version = root
    async with session(folder, tmp_path, PYTHON_HANDLER) as asked:
        assert tuple(map(int, asked.hello["python"].split(".")))[:2] == version
        values = {"x": Buffer(bytes(8), "float32", (2,)), "s": ["a", "ö"], "b": b"raw", "j": {"k": [1, None]}}
        for _ in range(3):  # the third one by the shortest way
            assert (await asked.infer(encode(values))).outputs == values
        large = np.arange(1 << 20, dtype="<i4")
        back = (await asked.infer(encode({"x": large}))).outputs["x"]
        assert bytes(back.data) == large.tobytes()
        with pytest.raises(ModelFailed, match="ValueError: no") as caught:
            await asked.infer(encode({"do": Buffer(b'{"fail":"no"}', "json", ())}))
        assert "in inner" in (caught.value.traceback or "")
        with pytest.raises(DeadlineExceeded):
            await asked.infer(encode({"do": Buffer(b'{"sleep":60}', "json", ())}), deadline=soon(0.5))
        await asked.ping(seconds=20)
        assert (await asked.infer(encode({"x": "again"}))).outputs == {"x": "again"}


@pytest.mark.slow
async def test_what_an_async_handler_made_while_loading_is_of_its_loop_there(
    root: tuple[Path, tuple[int, int]], tmp_path: Path
) -> None:
    source = """
        import asyncio
        class Handler:
            def __init__(self):
                self.event = asyncio.Event()
            async def __call__(self, inputs):
                asyncio.get_running_loop().call_later(0.01, self.event.set)
                await self.event.wait()
                return inputs
        def load():
            return Handler()
    """
    async with session(root[0], tmp_path, source) as asked:
        assert (await asked.infer(encode({"x": "a"}))).outputs == {"x": "a"}


@pytest.mark.slow
def test_every_module_of_the_worker_is_imported_there(root: tuple[Path, tuple[int, int]]) -> None:
    folder, _ = root
    names = sorted(
        ".".join(path.relative_to(folder / CODE[1:]).with_suffix("").parts).removesuffix(".__init__")
        for path in (folder / CODE[1:]).rglob("*.py")
    )
    program = f"import sys, importlib; sys.path.append({CODE!r}); [importlib.import_module(n) for n in {names!r}]"
    subprocess.run(["chroot", folder, "python3", "-I", "-W", "error", "-c", program], check=True, timeout=120)
